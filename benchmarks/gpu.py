"""Train what a recipe says, and prove that devices agree, where only Keras, a backend, numpy and OpenCV are installed.

    python -m benchmarks.gpu recipe cifar10-article > recipe.json    # where params can be checked: a preset or a file

The other machine needs src/, benchmarks/, recipe.json and data/prepared; data/augmented and data/features where the
recipe uses them, and for transfer the file of weights. There, from the directory of these:

    export PYTHONPATH=src KERAS_BACKEND=jax
    python -m benchmarks.gpu train recipe.json --device gpu --save   # seconds, time of steps, test accuracy
    python -m benchmarks.gpu losses recipe.json --device gpu > gpu.json
    python -m benchmarks.gpu losses recipe.json --device cpu > cpu.json    # here or there, with any backend
    python -m benchmarks.gpu compare cpu.json gpu.json --save        # do the two learn the same? exit status 1: no

Without a command, and with a GPU: all of it, for ./params.yaml and ./data. Without a GPU that is skipped.

`losses` trains in whole float32 (no TF32) from weights that numpy draws, without dropout, one batch after the other:
what is left to differ is rounding. How far rounding alone carries losses apart depends on the network, the learning
rate and the number of steps, so it is measured: a second training starts from weights that are each moved to a
neighbouring float32, and `compare` allows, step by step, TOLERANCE times what that has changed so far.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.record import arguments, report, run
from darkroom.data.arrays.features import Features
from darkroom.data.arrays.selection import Selection
from darkroom.errors import DataError, ParamsError
from darkroom.files.writing import sha256_of
from darkroom.networks.backbones.table import NO_WEIGHTS, Weights
from darkroom.training import recipe
from darkroom.training.data import Data, vectors
from darkroom.training.opened import Opened, open_data

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if TYPE_CHECKING:
    import keras

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 20.0  # TensorFlow and JAX on a CPU stay below 5; a mistake of 1e-5 in step 1 is 80
FLOAT32_STEP = float(np.finfo(np.float32).eps)
VALIDATED = 64  # images whose loss is compared after every step
CURVES = ("train_loss", "val_loss")


def make_recipe(preset: str, *, candidate: str, changes: Sequence[str] = ()) -> dict[str, Any]:
    """Return {name, settings}: the checked section train.<candidate> of a preset or params file, with changes.

    Args:
        preset: a name of presets/, or the path of a params file.
        candidate: a section of train.
        changes: "key=value" with a dotted key of the section and a value in JSON: "debug.max_steps=4".

    Raises:
        ParamsError: there is no such file, section or key, or a value is out of range.
    """
    from pydantic import ValidationError

    from darkroom.cli import presets
    from darkroom.project.params import read_params
    from darkroom.project.problems import explain
    from darkroom.training import overrides
    from darkroom.training.params import TrainParams

    is_file = preset.endswith(".yaml")
    path = Path(preset) if is_file else ROOT / "presets" / f"{preset}.yaml"
    sections = (read_params(path) if is_file else presets.read(preset, root=ROOT))["train"]
    if candidate not in sections:
        raise ParamsError(f"{path}: train has no section {candidate!r}; sections of train: {', '.join(sections)}")
    try:
        values = {key: json.loads(value) for key, _, value in (change.partition("=") for change in changes)}
        section = overrides.apply(sections[candidate], values)
        settings = TrainParams.model_validate(section).model_dump()
    except ValidationError as error:
        raise ParamsError(f"{path}: {explain(f'train.{candidate}', TrainParams, error)}") from None
    except json.JSONDecodeError:
        raise ParamsError(
            f"--set {' '.join(changes)}: expected KEY=JSON, such as epochs=4 or output='\"sigmoid\"'"
        ) from None
    except ParamsError as error:
        raise ParamsError(f"{path}: {error}") from None
    return {"name": f"{path.stem}-{candidate}", "settings": settings}


def data_of(settings: recipe.Recipe, folder: Path) -> Opened:
    """Return what the directory has of prepared, augmented and, for transfer, features; checked against the recipe.

    Raises:
        DataError: a part is damaged, or does not belong to the others.
        ParamsError: the recipe cannot be trained on these data.
    """
    augmented, features = folder / "augmented", folder / "features"
    if not (has_copies := augmented.is_dir()):
        print(f"gpu: there is no {augmented}: training on the originals alone", file=sys.stderr)
    opened = open_data(
        folder / "prepared", augmented if has_copies else None, features if recipe.transfer_mode(settings) else None
    )
    recipe.check(settings, opened.data, image_shape=opened.image_shape, features=opened.features)
    return opened


def weights_of(features: Features, file: Path | None) -> Weights:
    """Return the weights of the backbone that the features come from; a machine without a network must have their file.

    Raises:
        ParamsError: a file is needed and none is named.
        DataError: it is another file.
    """
    origin, sha256 = features.weights_origin, features.weights_sha256
    if origin is None or sha256 is None:
        return NO_WEIGHTS
    if file is None:
        raise ParamsError(
            f"the features come from a file of weights of {features.backbone}; name it with --weights (sha256 "
            f"{sha256}; `embed` keeps what it fetches in .darkroom/weights or ~/.keras/models)"
        )
    if (found := sha256_of(file)) != sha256:
        raise DataError(f"{file} has the wrong checksum: sha256 {found}, expected {sha256}")
    return Weights(origin, file, sha256)


class Clock:
    """Takes the time of first steps, in which a network is compiled, and tells epochs on stderr."""

    def __init__(self) -> None:
        self.first_steps: list[float] = []
        self._since = time.perf_counter()

    def on_step(self, step: int, _steps: int) -> None:
        if step == 1:
            self.first_steps.append(time.perf_counter() - self._since)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        accuracy, speed = logs["val_accuracy"], logs["images_per_second"]
        print(f"epoch {epoch}: val accuracy {accuracy:.4f}, {speed:.0f} images/s", file=sys.stderr, flush=True)
        self._since = time.perf_counter()


def step_times(
    history: Sequence[Mapping[str, Any]], first_steps: Sequence[float], *, batch_size: int
) -> dict[str, dict[str, float | None]]:
    """Return by phase the seconds until its first step had ended (building and compiling included), and later steps'.

    A device computes behind Python's back, so the time of a step is that of a whole epoch, at whose end Python waits
    for the device, by its steps. The first epoch of a phase compiles and does not count; one epoch has no median.

    Args:
        history: rows of checkpoints.Progress.
        first_steps: seconds until the end of the first step of an epoch, of the last len(history) epochs.
        batch_size: images per step.
    """
    found: dict[str, dict[str, float | None]] = {}
    starts = list(first_steps)[-len(history) :]
    for phase in dict.fromkeys(row["phase"] for row in history):
        rows = [(row, start) for row, start in zip(history, starts, strict=True) if row["phase"] == phase]
        steps = [1000 * batch_size / row["images_per_second"] for row, _ in rows[1:]]
        median = statistics.median(steps) if steps else None
        found[phase] = {
            "first_step_seconds": round(rows[0][1], 2),
            "step_ms_median": round(median, 3) if median else None,
            "images_per_second": round(1000 * batch_size / median) if median else None,
        }
    return found


def train(name: str, settings: recipe.Recipe, *, folder: Path, device: str, weights: Path | None) -> dict[str, Any]:
    """Train on the data of a directory; return times and the test accuracy of the deployed model."""
    started = time.perf_counter()
    opened = data_of(settings, folder)
    features, image_shape = opened.features, opened.image_shape
    pretrained = weights_of(features, weights) if features else NO_WEIGHTS
    from darkroom.networks import inference
    from darkroom.networks.runtime import distribution
    from darkroom.networks.runtime.device import policy, prepare
    from darkroom.training.candidate import Reports, train_candidate

    described, dtype_policy = prepare(device), policy(settings["precision"])
    clock = Clock()
    ready = time.perf_counter()
    trained = train_candidate(
        settings,
        data=opened.data,
        image_shape=image_shape,
        features=features,
        extractor_of=recipe.extractor_of(features, image_shape=image_shape, weights=pretrained),
        policy=dtype_policy,
        reports=Reports(
            on_step=clock.on_step, on_epoch_end=clock.on_epoch_end, say=lambda line: print(line, file=sys.stderr)
        ),
    )
    ended = time.perf_counter()
    test = opened.prepared.rows("test")
    pictures, labels = Selection([(opened.prepared.images, test)]), opened.prepared.labels[test]
    test_accuracy = inference.accuracy(trained.model, pictures, labels, batch_size=1000) if len(test) else None
    return {
        "recipe": name,
        "dataset": opened.prepared.manifest["dataset"],
        "device": described,
        "n_devices": distribution.n_devices(),
        "policy": dtype_policy,
        "batch_size": trained.batch_size,
        "n_train": recipe.n_training(settings, opened.data, opened.features),
        "n_test": len(test),
        "n_parameters": trained.model.count_params(),
        "epochs": len(trained.progress.history),
        "test_accuracy": test_accuracy,
        "val_accuracy": trained.val_accuracy,
        "phases": step_times(trained.progress.history, clock.first_steps, batch_size=trained.batch_size),
        "import_seconds": round(ready - started, 1),
        "train_seconds": round(trained.progress.train_seconds, 2),
        "train_wall_seconds": round(ended - ready, 2),
        "wall_seconds": round(time.perf_counter() - started, 2),
        "history": trained.progress.history,
    }


def without_chance(settings: recipe.Recipe, *, steps: int) -> dict[str, Any]:
    """Return the recipe with one batch per epoch, as many epochs as steps, and nothing that a backend draws itself.

    Of schedules, a plateau goes too: rounding could decide when it begins.
    """
    sizes = {key: 0.0 if key.endswith("dropout") else value for key, value in settings["architecture"].items()}
    constant, schedule = {"name": "constant", "warmup": 0.0}, settings["schedule"]
    return {
        **settings,
        "architecture": sizes,
        "schedule": constant if schedule["name"] == "plateau" else schedule,
        "epochs": steps,
        "early_stopping": None,
        "debug": {"overfit_one_batch": False, "max_steps": 1},
    }


def draw_weights(like: Sequence[np.ndarray], *, seed: int) -> list[np.ndarray]:
    """Return kernels that are the same on every backend (He normal); what has one axis stays as it was built."""
    rng = np.random.default_rng(seed)
    return [
        rng.normal(0, math.sqrt(2 / math.prod(values.shape[:-1])), values.shape).astype(np.float32)
        if values.ndim > 1
        else values
        for values in like
    ]


def moved(weights: Sequence[np.ndarray], *, seed: int) -> list[np.ndarray]:
    """Return the kernels with every value moved to the next float32 above or below it."""
    rng = np.random.default_rng([seed, 1])
    return [
        np.nextafter(values, rng.choice(np.array([-np.inf, np.inf], np.float32), values.shape))
        if values.ndim > 1
        else values
        for values in weights
    ]


def losses(name: str, settings: recipe.Recipe, *, folder: Path, device: str, steps: int) -> dict[str, Any]:
    """Return the losses of so many steps, and those from the moved weights; see the head of this file.

    Of a candidate for transfer, the head alone is trained, on the features.
    """
    opened = data_of(settings, folder)
    from darkroom.networks.runtime.device import prepare
    from darkroom.training.candidate import first_batch_size

    described = prepare(device)
    compute_in_whole_float32()
    plain, data, n_classes = without_chance(settings, steps=steps), opened.data, len(opened.data.classes)
    if opened.features is not None:
        data = vectors(opened.features, data)
    first = np.arange(min(VALIDATED, len(data.val_labels)))
    data = Data(data.images, data.labels, data.val_images[first], data.val_labels[first], data.classes)
    batch_size = settings["batch_size"]
    if batch_size == "auto":
        batch_size = first_batch_size(len(data.labels))

    def build() -> "keras.Model":
        if opened.features is None:
            return recipe.build_network(plain, image_shape=opened.image_shape, n_classes=n_classes, policy="float32")
        return recipe.build_head(plain, n_features=opened.features.n_features, n_classes=n_classes, policy="float32")

    weights = draw_weights(build().get_weights(), seed=settings["seed"])
    curves = [
        _curves(build(), start, plain, data, batch_size=batch_size)
        for start in (weights, moved(weights, seed=settings["seed"]))
    ]
    return {
        "recipe": name,
        "settings": plain,
        "data": opened.prepared.manifest["digest"],
        "n_train": len(data.labels),
        "batch_size": batch_size,
        "device": described,
        "versions": {package: version(package) for package in packages()},
        "curves": curves[0],
        "curves_of_moved_weights": curves[1],
    }


def compute_in_whole_float32() -> None:
    """Keep GPUs from computing float32 products in TF32, which has 10 of its 23 bits; by the backends' own switches."""
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)
    elif backend == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")


def _curves(
    network: "keras.Model",
    weights: list[np.ndarray],
    settings: recipe.Recipe,
    data: Data,
    *,
    batch_size: int,
) -> dict[str, list[float]]:
    from darkroom.training import fit

    network.set_weights(weights)
    schedule = recipe.build_schedule(
        settings, peak=settings["learning_rate"], epochs=settings["epochs"], steps_per_epoch=1
    )
    phase = fit.Phase(
        settings["epochs"],
        recipe.build_optimizer(settings, learning_rate=schedule, policy="float32"),
        label_smoothing=settings["label_smoothing"],
        variation=recipe.variation_of(settings, data),
        schedule=schedule,
    )
    progress = fit.fit(
        network,
        phase,
        train=lambda epoch: recipe.epoch_batches(settings, data, batch_size=batch_size, epoch=epoch),
        validation=recipe.validation_batches(settings, data, batch_size=batch_size),
    )
    return {name: [float(row[name]) for row in progress.history] for name in CURVES}


def compare(ours: Mapping[str, Any], theirs: Mapping[str, Any], *, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """Return whether the losses of two devices differ by rounding alone, and by how much they differ.

    Args:
        ours, theirs: what losses() returned.
        tolerance: how many times the effect of moved weights a difference may be: the greatest effect up to the step,
            on the device where it is smaller, and at least one unit in the last place of float32.

    Raises:
        DataError: they are of different recipes, data or batches.
    """
    for key in ("settings", "data", "n_train", "batch_size"):
        if ours[key] != theirs[key]:
            raise DataError(f"these losses cannot be compared: {key} differs; make both from the same recipe and data")
    curves = {}
    for name in CURVES:
        one, other = (np.array(side["curves"][name]) for side in (ours, theirs))
        difference = np.abs(one - other) / np.abs(other)
        effect = np.minimum(*(_effect(side, name) for side in (ours, theirs)))
        rounding = np.maximum(np.maximum.accumulate(effect), FLOAT32_STEP)
        ratio = difference / rounding
        curves[name] = {
            "greatest_relative_difference": float(difference.max()),
            "at_step": int(difference.argmax()) + 1,
            "greatest_ratio_to_rounding": round(float(ratio.max()), 2),
            "ratio_at_step": int(ratio.argmax()) + 1,
            "greatest_relative_difference_until_step": _until(np.maximum.accumulate(difference)),
            "effect_of_moved_weights_until_step": _until(rounding),
        }
    worst = float(np.max([curve["greatest_ratio_to_rounding"] for curve in curves.values()]))
    return {
        "recipe": ours["recipe"],
        "devices": [{key: side[key] for key in ("device", "versions")} for side in (ours, theirs)],
        "steps": len(ours["curves"][CURVES[0]]),
        "batch_size": ours["batch_size"],
        "pass": bool(worst <= tolerance),  # a loss that is not a number fails
        "greatest_ratio_to_rounding": worst,
        "tolerance": tolerance,
        **curves,
    }


def _effect(side: Mapping[str, Any], name: str) -> np.ndarray:
    """Return by how much moving the weights has changed the losses, relative, by step."""
    values, of_moved = np.array(side["curves"][name]), np.array(side["curves_of_moved_weights"][name])
    return np.asarray(np.abs(values - of_moved) / np.abs(values))


def _until(greatest: np.ndarray) -> dict[int, float]:
    """Return what was greatest until some of the steps: 1, 2, 5, 10, 20, 50 and so on, and the last."""
    shown = [digit * 10**power for power in range(6) for digit in (1, 2, 5)]
    steps = [step for step in shown if step < len(greatest)] + [len(greatest)]
    return {step: float(f"{greatest[step - 1]:.2g}") for step in steps}


def measure_here(*, save: bool) -> None:
    """Train ./params.yaml on ./data and compare CPU and GPU; say so where there is no GPU, or nothing is prepared."""
    from darkroom.networks.runtime.device import gpus, prepare

    prepare("auto")
    if not gpus():
        print("gpu: skipped; there is no GPU here (the commands work without one: --help)", file=sys.stderr)
        return
    if not Path("data/prepared").is_dir():
        print("gpu: skipped; there is no data/prepared, run `dvc repro augment`", file=sys.stderr)
        return
    from darkroom.project.params import load_candidates

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.json"
        file.write_text(json.dumps(make_recipe("params.yaml", candidate=load_candidates()[0])))
        results = [
            _in_a_process(command, str(file), "--device", device)
            for command, device in (("losses", "cpu"), ("losses", "gpu"), ("train", "gpu"))
        ]
    result = {"parity": compare(*results[:2]), "training": results[2]}
    report("gpu", result, packages=packages(), save=save)


def _in_a_process(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))


def packages() -> list[str]:
    """Return the distributions that a training is made with; the backends are named as theirs."""
    import keras

    return ["keras", keras.backend.backend(), "numpy"]


def read_json(path: Path, *, command: str) -> dict[str, Any]:
    """Return what a command of this file, `recipe` or `losses`, printed into a file."""
    try:
        found = dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} is not what `{command}` prints: {error}; make it again") from None
    if "settings" not in found or ("curves" in found) != (command == "losses"):
        raise DataError(f"{path} is not what `{command}` prints: it has {', '.join(found) or 'nothing'}; make it again")
    return found


def main() -> int:
    options = _options()
    if options.command is None:
        measure_here(save=options.save)
    elif options.command == "recipe":
        made = make_recipe(options.preset, candidate=options.candidate, changes=options.set)
        print(json.dumps(made, indent=2))
    elif options.command == "compare":
        result = compare(
            *(read_json(file, command="losses") for file in (options.ours, options.theirs)), tolerance=options.tolerance
        )
        file = f"gpu-parity-{result['recipe']}"
        report("gpu", result, packages=["numpy"], save=options.save, file=file)
        return 0 if result["pass"] else 1
    else:
        made = read_json(options.recipe, command="recipe")
        name, settings, folder, device = made["name"], made["settings"], options.data, options.device
        if options.command == "train":
            result = train(name, settings, folder=folder, device=device, weights=options.weights)
            report("gpu", result, packages=packages(), save=options.save, file=f"gpu-{name}")
        else:
            print(json.dumps(losses(name, settings, folder=folder, device=device, steps=options.steps)))
    return 0


def _options() -> argparse.Namespace:
    parser = arguments(__doc__)
    commands = parser.add_subparsers(dest="command")
    of_recipe = commands.add_parser("recipe", help="print the checked settings of a candidate as JSON")
    of_recipe.add_argument("preset", help="a name of presets/, or the path of a params file")
    of_recipe.add_argument("--candidate", default="cnn", help="a section of train")
    of_recipe.add_argument("--set", nargs="+", default=[], metavar="KEY=JSON", help="such as debug.max_steps=4")
    of_train = commands.add_parser("train", help="train and test; print times and accuracies")
    of_losses = commands.add_parser("losses", help="print the losses of the first steps")
    for command in (of_train, of_losses):
        command.add_argument("recipe", type=Path)
        command.add_argument("--data", type=Path, default=Path("data"), help="the directory of prepared")
        command.add_argument("--device", default="auto", help="auto, cpu or gpu")
    of_train.add_argument("--weights", type=Path, help="of the backbone; for transfer")
    of_losses.add_argument("--steps", type=int, default=50)
    of_compare = commands.add_parser("compare", help="compare two outputs of losses")
    of_compare.add_argument("ours", type=Path)
    of_compare.add_argument("theirs", type=Path)
    of_compare.add_argument("--tolerance", type=float, default=TOLERANCE)
    for command in (of_train, of_compare):
        command.add_argument("--save", action="store_true", default=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
