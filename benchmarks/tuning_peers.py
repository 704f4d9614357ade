"""Which search finds the best model in equal time: tune, plain Optuna, KerasTuner or AutoKeras? One after the other.

    DARKROOM_MIRROR=folder python -m benchmarks.tuning_peers                             # hours on 2 cores
    DARKROOM_MIRROR=folder python -m benchmarks.tuning_peers --minutes 1.5 --trial-epochs 4 --epochs 10 --per-class 240
    DARKROOM_MIRROR=folder python -m benchmarks.tuning_peers --minutes 0.5 --seeds 7 --epochs 2    # a trial run

The directory contains cifar10_jpeg.tar.xz. By default 5,000 of its images are for training and 1,000 for validation,
the same arrays for all. They are treated as a user's own images, by the candidate cnn of the preset `folder`: its
network, optimizer, label smoothing, flips and shifts, and its space of learning rate, weight decay and dropout. Cutout,
augmented copies and bfloat16 are not used, on all sides. The params have a bad learning rate, the lowest of the space,
so that a search can certainly find a better one: `preset` trains with it, without a search.

tune searches for the given minutes and then trains the best trials at full length (`tune.confirm`). It takes part
twice: with the `alpha` of params.yaml, so that a trial must beat trial 0 significantly to be among them, and with
`alpha: 1.0`, as in the preset. The others get the time of both together with the same seed, from the start of the
stages to their end; after it no trial starts, and a running one ends after its epoch. Then each side trains a network
from the start with the values that it found, for the given epochs on all the training images, and keeps the best epoch,
whose accuracy on the test images counts. Trials are counted as by the tool: KerasTuner counts another one if Hyperband
continues a network.

Only the tools differ. tune has two workers, TPE, and the values of train as trial 0; as in the preset a trial has all
the epochs and a fifth of the training images. Plain Optuna searches with the same trainings, one at a time on all cores
and on all the training images, with fewer epochs: default TPE, no pruner, and the best trial is chosen. KerasTuner's
Hyperband draws at random; it continues networks, so a schedule cannot know its end, and the learning rate is constant,
as is Keras' default. AutoKeras has its own blocks, learning rates, dropouts and optimizers: most similar to the network
are four ConvBlocks, each with one of the network's widths, without BatchNorm, and with 3x3 pixels also in the first
one; it also normalises the images.

With --runs every run is also saved in a file of JSON lines, and finished runs are not repeated, so that a killed
benchmark can resume.

The last two run in a separate environment (peers/requirements.txt), which is made in a temporary directory, or once:

    uv venv peers && uv pip install --python peers/bin/python -r benchmarks/peers/requirements.txt
    python -m benchmarks.tuning_peers --peers-python peers/bin/python
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.few_photographs import take_photographs
from benchmarks.mnist import clone, seconds, use
from benchmarks.record import arguments, find_mirror, report

ARCHIVE = "cifar10_jpeg.tar.xz"
PRESET = "folder"
N_TEST = 200  # of each class
PEERS = Path(__file__).parent / "peers"
OURS = {"darkroom": 0.05, "darkroom-alpha-1": 1.0}  # tune.alpha; the second continues the study of the first
OTHERS = ("optuna", "keras-tuner", "autokeras", "preset")
SIDES = (*OURS, *OTHERS)


def main() -> None:
    parser = arguments(__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=5.0, help="of the trials of tune")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9, 10, 11])
    parser.add_argument("--trial-epochs", type=int, default=5, help="of a trial of the others, at most")
    parser.add_argument("--epochs", type=int, default=30, help="of the final training")
    parser.add_argument("--per-class", type=int, default=600, help="images; a sixth of them is for validation")
    parser.add_argument("--learning-rate", type=float, default=0.005, help="of the params")
    parser.add_argument("--peers-python", type=Path, help="an environment with peers/requirements.txt")
    parser.add_argument("--runs", type=Path, help="a file of JSON lines that keeps every run")
    options = parser.parse_args()
    if (mirror := find_mirror("tuning_peers", ARCHIVE)) is None:
        return
    kept = options.runs.read_text().splitlines() if options.runs and options.runs.exists() else []
    runs: dict[tuple[int, str], dict[str, Any]] = {(run["seed"], run["side"]): run for run in map(json.loads, kept)}
    # The study that the second side of tune continues was lost with the clone.
    runs = {key: run for key, run in runs.items() if key[1] != "darkroom" or (key[0], "darkroom-alpha-1") in runs}
    with clone() as root:
        python = options.peers_python.absolute() if options.peers_python else make_environment(root.parent / "peers")
        take_photographs(mirror / ARCHIVE, root / "pictures", n_train=options.per_class, n_test=N_TEST)
        use(root, PRESET, changes(options, seed=options.seeds[0]))
        seconds(root, "dvc", "repro", "embed")
        data = write_arrays(root)
        for seed, side in itertools.product(options.seeds, SIDES):
            if (seed, side) in runs:
                continue
            before = runs.get((seed, "darkroom"), {})
            own = {"tune.alpha": OURS.get(side, 1.0), **({"tune.trials": before["n_trials"]} if before else {})}
            use(root, PRESET, changes(options, seed=seed) | own)  # a finished search starts no more trials
            if side in OURS:
                found = ours(root, seconds_before=before.get("search_seconds", 0.0))
            elif side == "preset":
                found = trained_with(root, {})
            else:
                found = peer(side, root, python, options, seed=seed, limit=runs[seed, [*OURS][-1]]["search_seconds"])
            runs[seed, side] = {"seed": seed, "side": side, **found}
            line = json.dumps(runs[seed, side])
            print(line, file=sys.stderr, flush=True)
            if options.runs:
                with options.runs.open("a") as file:
                    file.write(f"{line}\n")
        versions = package_versions(python)
    by_side = {side: [runs[seed, side] for seed in options.seeds] for side in SIDES}
    result = {
        "peers": versions,
        "data": data,
        "minutes": options.minutes,
        "most_epochs_of_a_trial_of_the_others": options.trial_epochs,
        "final_epochs": options.epochs,
        "learning_rate_of_the_params": options.learning_rate,
        **{side: summary(of_side) for side, of_side in by_side.items()},
        "comparison": comparison(by_side),
        "runs": by_side,
    }
    report("tuning_peers", result, packages=["tensorflow", "keras", "optuna"], save=options.save)


def peer(side: str, root: Path, python: Path, options: Namespace, *, seed: int, limit: float) -> dict[str, Any]:
    """Search for some seconds, and train."""
    settings = peer_settings(root, options, seed=seed, seconds=limit)
    if side != "optuna":
        return run_peer(root, str(python), str(PEERS / "keras_tuners.py"), side, settings)
    found = run_peer(root, sys.executable, "-m", "benchmarks.peers.plain_optuna", settings)
    return found | trained_with(root, found["values"])


def changes(options: Namespace, *, seed: int) -> dict[str, Any]:
    """Return the changes to the preset."""
    source = {"kind": "path", "path": "pictures", "layout": "folders"}
    return {
        "candidates": ["cnn"],
        "download.dataset": {"name": "cifar10-jpeg-6000", "homepage": None, "licence": None, "sources": [source]},
        "preprocess.val_fraction": 1 / 6,
        "preprocess.near_duplicates": "keep",
        "augment.copies": 0,
        "embed.backbone": "none",
        "embed.weights": "none",
        "tune.trials": 100_000,  # until the time is over
        "tune.minutes": options.minutes,
        "tune.seed": seed,
        "train.cnn.epochs": options.epochs,
        "train.cnn.checkpoint": "best",
        "train.cnn.learning_rate": options.learning_rate,
        "train.cnn.precision": "float32",
        "train.cnn.seed": seed,
        "train.cnn.train_augmentation.cutout": 0,
    }


def write_arrays(root: Path) -> dict[str, int]:
    """Write the prepared images as arrays.npz for the other sides, and return the number of images by split."""
    from darkroom.data.arrays.dataset import Dataset

    prepared = Dataset.open(root / "data" / "prepared")
    arrays: dict[str, Any] = {}
    for split, prefix in (("train", ""), ("val", "val_"), ("test", "test_")):
        rows = prepared.rows(split)
        arrays |= {f"{prefix}images": prepared.images[rows], f"{prefix}labels": prepared.labels[rows]}
    np.savez(root / "arrays.npz", **arrays)
    return {split: len(prepared.rows(split)) for split in ("train", "val", "test")}


def ours(root: Path, *, seconds_before: float) -> dict[str, Any]:
    """Search and train with the stages of the pipeline; the seconds of an earlier search of the study count too."""
    from darkroom.tuning.rows import best_trial, n_finished
    from darkroom.tuning.storage import read_rows

    search_seconds = seconds_before + seconds(root, "dvc", "repro", "--single-item", "tune@cnn")
    pointer = json.loads((root / ".darkroom" / "tuning" / "cnn.json").read_text())
    rows = read_rows(pointer["study"], str(root / ".darkroom" / "tuning" / f"{pointer['study']}.journal"))
    best = best_trial(rows)
    chosen = json.loads((root / "reports" / "tune" / "cnn" / "chosen.json").read_text())
    return {
        "n_trials": n_finished(rows),
        "n_epochs": sum(len(row.curve) for row in rows),
        "search_seconds": round(search_seconds, 1),
        "search_val_accuracy": None if best is None else best.metrics["val_accuracy"],
        "values": chosen["values"],
        "chosen": chosen["reason"],
        **trained_with(root, chosen["values"]),
    }


def trained_with(root: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Return the result of the stage train with these values."""
    from darkroom.deployable.package import Package
    from darkroom.training import overrides

    overrides.write(root / "models" / "cnn" / "best.yaml", values, comment="of a benchmark")
    seconds(root, "dvc", "repro", "--single-item", "train@cnn")
    run = json.loads((root / "models" / "cnn" / "run.json").read_text())
    package = Package.load(root / "models" / "cnn" / "model.onnx")
    with np.load(root / "arrays.npz") as data:
        predicted = package.probabilities(data["test_images"]).argmax(axis=1)
        test_accuracy = float((predicted == data["test_labels"]).mean())
    return {
        "val_accuracy": run["val_accuracy"],
        "test_accuracy": test_accuracy,
        "train_seconds": run["train_seconds"],
    }


def peer_settings(root: Path, options: Namespace, *, seed: int, seconds: float) -> Path:
    """Write the settings of another side as JSON, and return the path; its time starts now."""
    from darkroom.project.params import read_params

    params = read_params(root / "params.yaml")
    settings = {
        "arrays": str(root / "arrays.npz"),
        "space": params["tune"]["space"]["cnn"],
        "recipe": params["train"]["cnn"],
        "trial_epochs": options.trial_epochs,
        "seed": seed,
        "seconds": seconds,
        "started": time.time(),
    }
    (root / "settings.json").write_text(json.dumps(settings))
    return root / "settings.json"


def run_peer(root: Path, python: str, *arguments: str | Path) -> dict[str, Any]:
    """Return the output of another side."""
    environment = dict(os.environ)
    if python != sys.executable:
        del environment["PYTHONPATH"]
    command = [python, *map(str, arguments)]
    done = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return dict(json.loads(done.stdout.strip().rpartition("\n")[2]))


def make_environment(folder: Path) -> Path:
    """Make the environment of the other sides and return its Python."""
    uv, python = str(Path(sys.executable).with_name("uv")), folder / "bin" / "python"
    seconds(folder.parent, uv, "venv", "--quiet", "--python", sys.executable, str(folder))
    requirements = str(PEERS / "requirements.txt")
    seconds(folder.parent, uv, "pip", "install", "--quiet", "--python", str(python), "--requirement", requirements)
    return python


def package_versions(python: Path) -> dict[str, str]:
    names = [line.partition("==")[0] for line in (PEERS / "requirements.txt").read_text().splitlines() if "==" in line]
    code = f"import importlib.metadata, json; print(json.dumps({{n: importlib.metadata.version(n) for n in {names}}}))"
    return dict(json.loads(subprocess.run([str(python), "-c", code], check=True, capture_output=True).stdout))


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over the seeds, and all accuracies."""
    found: dict[str, Any] = {}
    for name in ("val_accuracy", "test_accuracy"):
        values = [run[name] for run in runs]
        found[name] = round(statistics.mean(values), 4)
        found[f"{name}_by_seed"] = values
        found[f"{name}_standard_deviation"] = round(statistics.stdev(values), 4) if values[1:] else None
    if all("n_trials" in run for run in runs):
        found["n_trials_by_seed"] = [run["n_trials"] for run in runs]
        found["search_seconds_by_seed"] = [run["search_seconds"] for run in runs]
    return found


def comparison(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return for how many seeds tune is more accurate on the test images than each other side, and by how much."""
    found: dict[str, Any] = {}
    for mine, other in itertools.product(OURS, OTHERS):
        pairs = zip(runs[mine], runs[other], strict=True)
        gains = [round(100 * (ours["test_accuracy"] - theirs["test_accuracy"]), 2) for ours, theirs in pairs]
        found[f"{mine} against {other}"] = {
            "test_accuracy_gain_points": round(statistics.mean(gains), 2),
            "test_accuracy_gain_points_by_seed": gains,
            "seeds_won": f"{sum(gain > 0 for gain in gains)} of {len(gains)}",
        }
    return found


if __name__ == "__main__":
    main()
