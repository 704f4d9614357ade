"""How long does the recipe of `cifar10` take to the best test accuracy of a tutorial CNN? Both, one by one.

    DARKROOM_MIRROR=folder python -m benchmarks.cifar10                            # an hour on 2 cores
    DARKROOM_MIRROR=folder python -m benchmarks.cifar10 --epochs 2 --max-steps 4   # a trial run

The directory holds cifar10_jpeg.tar.xz (the dataset cifar10-jpeg) or the original files; the result says which. JPEG
compression costs several points: compare figures of the same files only.

Both presets are prepared by the pipeline in a clone, and trained by the functions that the stage train calls too.
The test accuracy after each epoch is that of the model as it would be deployed then: averaged weights and views
included. It is computed after the training, from copies of the weights, and decides nothing. Seconds are those of the
epochs, compilation and validation included, tests not.

ratio: the seconds in which `cifar10` reaches the best test accuracy that the article's network has after any of its
epochs, by the seconds of all of those. --sprint changes values of the preset, as `dvc exp run -S` does, so that it
reaches no more than that accuracy, but soon; its result is a file of its own:

    python -m benchmarks.cifar10 --sprint train.cnn.epochs=1 train.cnn.batch_size=250 \\
        'train.cnn.architecture.filters=[48, 160, 192]'                                # 45 minutes

--speed compares nothing but images per second: the recipe as fit() trains it, with feeding, augmentation and Muon, and
where --torch-python names an environment with torch the same layers in a bare loop of PyTorch (peers/torch_cifar.py),
in turns. gflops are those that a forward convolution of 256 channels reaches in bfloat16 on this host: one with AMX
computes several times as many, so compare no two hosts.

    uv venv peer && uv pip install --python peer/bin/python torch
    python -m benchmarks.cifar10 --speed --torch-python peer/bin/python                # 3 minutes
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.mnist import ROOT, clone, seconds, use
from benchmarks.record import arguments, report
from benchmarks.throughput import measure
from darkroom.cli import presets

FILES = ("cifar10_jpeg.tar.xz", "cifar-10-python.tar.gz")
ARTICLE = "cifar10-article"
PACKAGES = ["tensorflow", "keras", "numpy"]
PEER = Path(__file__).parent / "peers" / "torch_cifar.py"
STEPS, ROUNDS, TURNS = 2, 2, 2  # batches in an epoch, epochs in a turn after the first, turns of each side


def train(preset: str) -> dict[str, Any]:
    """Train the candidate cnn of ./params.yaml on ./data, and return seconds and test accuracy after each epoch."""
    import numpy as np

    from darkroom.data.arrays.selection import Selection
    from darkroom.project.params import ComputeParams, load_section
    from darkroom.training import recipe
    from darkroom.training.opened import open_data
    from darkroom.training.params import TrainParams

    settings = load_section("train.cnn", TrainParams).model_dump()
    opened = open_data(Path("data/prepared"), Path("data/augmented"), None)
    prepared, data, shape, n_classes = opened.prepared, opened.data, opened.image_shape, len(opened.data.classes)
    recipe.check(settings, data, image_shape=shape, features=None)

    from darkroom.networks import build, inference
    from darkroom.networks.runtime import distribution
    from darkroom.networks.runtime.device import policy, prepare
    from darkroom.training import fit
    from darkroom.training.optimizers import averaged_weights

    device = prepare(load_section("compute", ComputeParams).device)
    dtype_policy, batch_size, epochs = policy(settings["precision"]), settings["batch_size"], settings["epochs"]
    steps = len(recipe.epoch_batches(settings, data, batch_size=batch_size, epoch=0))
    schedule = recipe.build_schedule(settings, peak=settings["learning_rate"], epochs=epochs, steps_per_epoch=steps)
    optimizer = recipe.build_optimizer(settings, learning_rate=schedule, policy=dtype_policy)
    weights: list[list[np.ndarray]] = []
    ends: list[float] = []
    with distribution.distribution():
        trained = recipe.build_network(settings, image_shape=shape, n_classes=n_classes, policy=dtype_policy)
        build.initialise_from_data(trained, data.images, seed=settings["seed"])

        def keep(epoch: int, logs: dict[str, float]) -> None:
            ends.append(time.perf_counter())
            weights.append(averaged_weights(optimizer, trained.weights))
            print(f"{preset}: epoch {epoch}: val accuracy {logs['val_accuracy']:.4f}", file=sys.stderr, flush=True)

        phase = fit.Phase(
            epochs,
            optimizer,
            label_smoothing=settings["label_smoothing"],
            variation=recipe.variation_of(settings, data),
            early_stopping=settings["early_stopping"],
            keep=settings["checkpoint"],
            plateau=recipe.build_plateau(settings),
            schedule=schedule,
        )
        progress = fit.fit(
            trained,
            phase,
            train=lambda epoch: recipe.epoch_batches(settings, data, batch_size=batch_size, epoch=epoch),
            validation=recipe.validation_batches(settings, data, batch_size=batch_size),
            on_epoch_end=keep,
        )
    until = [progress.train_seconds - (ends[-1] - end) for end in ends]

    test = prepared.rows("test")
    pictures, labels = Selection([(prepared.images, test)]), prepared.labels[test]
    network = recipe.build_network(settings, image_shape=shape, n_classes=n_classes, policy="float32")
    model = inference.deployable(network, settings["test_time_views"])
    accuracies = []
    for of_epoch in weights:
        network.set_weights(of_epoch)
        accuracies.append(inference.accuracy(model, pictures, labels, batch_size=100))
    return {
        "dataset": prepared.manifest["dataset"],
        "device": device,
        "policy": dtype_policy,
        "batch_size": batch_size,
        "n_train": len(data.labels),
        "n_val": len(data.val_labels),
        "n_test": len(labels),
        "n_parameters": network.count_params(),
        "epochs": len(weights),
        "train_seconds": round(progress.train_seconds, 1),
        "best_test_accuracy": max(accuracies),
        "last_test_accuracy": accuracies[-1],
        "deployed_test_accuracy": accuracies[progress.best_epoch - 1],
        "seconds_until": [round(end, 1) for end in until],
        "test_accuracy": [round(accuracy, 4) for accuracy in accuracies],
        "images_per_second": [round(float(row["images_per_second"])) for row in progress.history],
    }


def run_preset(root: Path, preset: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Prepare and train a preset with other values for some keys in a clone, in a process of its own."""
    use(root, preset, changes)
    seconds(root, "dvc", "repro", "augment")
    command = [sys.executable, "-m", "benchmarks.cifar10", "--train", preset]
    done = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.strip().rpartition("\n")[2]))


def first_reaching(accuracy: float, run: dict[str, Any]) -> float | None:
    """Return the seconds after which a run first had this test accuracy, None if it never had."""
    reached = zip(run["seconds_until"], run["test_accuracy"], strict=True)
    return next((float(end) for end, found in reached if found >= accuracy), None)


def our_speed() -> dict[str, Any]:
    """Return the images per second of the epochs after the first, and the host's GFLOP/s, of random images."""
    settings = presets.read("cifar10", root=ROOT)["train"]["cnn"]
    found = measure(settings, image_size=32, n_classes=10, n_steps=STEPS, n_epochs=ROUNDS, device="cpu")
    return {**found, "gflops": convolution_gflops()}


def convolution_gflops() -> float:
    """Return the GFLOP/s of a plain convolution in bfloat16: 3x3, 256 to 256 channels, 500 images of 15x15."""
    import tensorflow as tf

    images, filters = tf.zeros((500, 15, 15, 256), tf.bfloat16), tf.zeros((3, 3, 256, 256), tf.bfloat16)
    once = tf.function(lambda: tf.nn.conv2d(images, filters, 1, "SAME"))
    times = []
    for _ in range(6):
        started = time.perf_counter()
        once().numpy()
        times.append(time.perf_counter() - started)
    return 2 * 500 * 15 * 15 * 9 * 256 * 256 / min(times) / 1e9


def speed(python: Path | None) -> dict[str, Any]:
    """Return the median images per second of both sides, which took turns, and their ratio."""
    ours, theirs = [], []
    for _ in range(TURNS):
        ours.append(_answer(sys.executable, "-m", "benchmarks.cifar10", "--our-speed"))
        if python:
            theirs.append(_answer(str(python), str(PEER), str(STEPS), str(ROUNDS)))
    found: dict[str, Any] = {"darkroom": _summary(ours), "load_average": round(os.getloadavg()[0], 1)}
    if theirs:
        found["torch"] = _summary(theirs)
        found["ratio"] = round(found["darkroom"]["images_per_second"] / found["torch"]["images_per_second"], 3)
        found["ratio_target"] = "at least 0.95"
    return found


def _answer(*command: str) -> dict[str, Any]:
    environment = os.environ if command[0] == sys.executable else {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return dict(json.loads(done.stdout.strip().rpartition("\n")[2]))


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    speeds = [found for run in runs for found in run["images_per_second"]]
    said = runs[0] | {
        "images_per_second": round(statistics.median(speeds)),
        "of_epochs": [round(one) for one in speeds],
    }
    return said | ({"gflops": round(max(run["gflops"] for run in runs))} if "gflops" in said else {})


def main() -> None:
    parser = arguments(__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--preset", default="cifar10", help="what is compared with cifar10-article")
    parser.add_argument("--epochs", type=int, help="of both, for a trial run")
    parser.add_argument("--max-steps", type=int, help="per epoch, for a trial run")
    parser.add_argument("--sprint", nargs="+", metavar="KEY=VALUE", help="of the preset, such as train.cnn.epochs=1")
    parser.add_argument("--speed", action="store_true", help="only images per second")
    parser.add_argument("--torch-python", type=Path, help="an environment with torch, for --speed")
    options = parser.parse_args()
    if options.speed:
        python = options.torch_python and options.torch_python.absolute()
        report("cifar10", {"speed": speed(python)}, packages=PACKAGES, save=options.save, file="cifar10_speed")
        return
    mirror = Path(os.environ.get("DARKROOM_MIRROR", ".")).resolve()
    if not any((mirror / name).is_file() for name in FILES):  # so that `make bench` goes on to the others
        print(f"cifar10: skipped; put {' or '.join(FILES)} into DARKROOM_MIRROR", file=sys.stderr)
        return
    os.environ["DARKROOM_MIRROR"] = str(mirror)  # a relative one would start at the clone
    trial = {"train.cnn.epochs": options.epochs, "train.cnn.debug.max_steps": options.max_steps}
    trial = {key: value for key, value in trial.items() if value is not None}
    sprint = {
        key: YAML(typ="safe").load(value) for key, _, value in (one.partition("=") for one in options.sprint or [])
    }
    with clone() as root:
        article = run_preset(root, ARTICLE, trial)
        ours = run_preset(root, options.preset, trial | sprint)
    until = first_reaching(round(article["best_test_accuracy"], 4), ours)
    result = {
        ARTICLE: article,
        options.preset: ours,
        "seconds_to_the_articles_best": until,
        "ratio": round(until / article["train_seconds"], 4) if until else None,
        "final_test_accuracy": ours["deployed_test_accuracy"],
    }
    if sprint:
        result = {"changes": sprint, **result, "ratio_target": "at most 0.05"}
        report("cifar10", result, packages=PACKAGES, save=options.save, file="cifar10_sprint")
        return
    result["final_test_accuracy_target"] = "at least 0.905 on the JPEG files"
    report("cifar10", result, packages=PACKAGES, save=options.save)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        print(json.dumps(train(sys.argv[2])))
    elif sys.argv[1:2] == ["--our-speed"]:
        print(json.dumps(our_speed()))
    else:
        main()
