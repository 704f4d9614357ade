"""Which search finds the better model in five minutes: tune, KerasTuner's Hyperband or AutoKeras? One after the other.

    DARKROOM_MIRROR=folder python -m benchmarks.tuning_peers                             # an hour on 2 cores
    DARKROOM_MIRROR=folder python -m benchmarks.tuning_peers --minutes 0.5 --seeds 7 --epochs 2    # a trial run

The directory holds cifar10_jpeg.tar.xz, of which about 5,000 images are trained on and 1,000 are for validation: the
same arrays for all. They are treated as somebody's own images, by the candidate cnn of the preset `folder`: its
network, optimizer, label smoothing, flips and shifts, and its space of learning rate, weight decay and dropout. Cutout,
augmented copies and bfloat16 are left out, on all sides.

Each side searches for so many minutes of wall time, in which TensorFlow starts too; after them no trial begins, and one
that runs ends with its epoch. Then it trains a network from the start with the values that it found, for so many epochs
on all the training images, and keeps the best of those epochs; the accuracy of that one counts. A trial is what the
tool calls one: KerasTuner counts one more where Hyperband goes on with a network.

What differs is the tool. tune has two workers, TPE, and train's own values as trial 0; its one_cycle schedule has the
length of the trial. It takes part twice: with a fifth of the training images in a trial, as the preset has it, and
with all of them, as the others do. Hyperband of KerasTuner draws at
random; it goes on with networks, for which no schedule knows its end, so the learning rate is constant, which is
Keras' own way. AutoKeras has blocks, learning rates, dropouts and optimizers of its own: what comes closest to the
network are four ConvBlocks, each with one of the network's widths, without BatchNorm, and with 3x3 pixels in the first
one too; it also normalises the images.

The other two run in an environment of their own (peers/requirements.txt), which is made in a temporary folder, or once:

    uv venv peers && uv pip install --python peers/bin/python -r benchmarks/peers/requirements.txt
    python -m benchmarks.tuning_peers --peers-python peers/bin/python
"""

import json
import os
import statistics
import subprocess
import sys
import tarfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.mnist import clone, seconds, use
from benchmarks.record import arguments, report

ARCHIVE = "cifar10_jpeg.tar.xz"
PRESET = "folder"
N_PER_CLASS = {"train": 600, "test": 200}  # a sixth of the former is for validation
PEERS = Path(__file__).parent / "peers"
FRACTIONS = {"darkroom": 0.2, "darkroom-all-pictures": 1.0}  # of the training images, in trials of tune
PEER_SIDES = ("keras-tuner", "autokeras")
SIDES = (*FRACTIONS, *PEER_SIDES)


def main() -> None:
    parser = arguments(__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=5.0, help="of each search")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8])
    parser.add_argument("--trial-epochs", type=int, default=5, help="of a trial of any side, at most")
    parser.add_argument("--epochs", type=int, default=30, help="of the final training")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--peers-python", type=Path, help="an environment with peers/requirements.txt")
    options = parser.parse_args()
    mirror = Path(os.environ.get("DARKROOM_MIRROR", ".")).resolve()
    if not (mirror / ARCHIVE).is_file():  # so that `make bench` goes on to the others
        print(f"tuning_peers: skipped; put {ARCHIVE} into DARKROOM_MIRROR", file=sys.stderr)
        return
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
    with clone() as root:
        python = options.peers_python.absolute() if options.peers_python else make_environment(root.parent / "peers")
        take_pictures(mirror / ARCHIVE, root / "pictures")
        use(root, PRESET, changes(options, seed=options.seeds[0], fraction=1.0))
        seconds(root, "dvc", "repro", "embed")
        data = write_arrays(root)
        for seed in options.seeds:
            for side in options.sides:
                share = FRACTIONS.get(side, 1.0)
                use(root, PRESET, changes(options, seed=seed, fraction=share))
                run = ours(root) if side in FRACTIONS else theirs(side, root, python, options, seed=seed)
                runs[side].append({"seed": seed, **run, **speeds(run, n_images=share * data["train"])})
                print(json.dumps({side: runs[side][-1]}), file=sys.stderr, flush=True)
        versions = package_versions(python)
    means = {side: summary(of_side) for side, of_side in runs.items()}
    result = {
        "peers": versions,
        "data": data,
        "minutes": options.minutes,
        "fraction_in_trials_of_tune": FRACTIONS,
        "most_epochs_of_a_trial": options.trial_epochs,
        "final_epochs": options.epochs,
        **means,
        **comparison(means),
        "runs": runs,
    }
    report("tuning_peers", result, packages=["tensorflow", "keras", "optuna"], save=options.save)


def take_pictures(archive: Path, folder: Path) -> None:
    """Unpack the first images of every class into [train|test]/<class>/."""
    with tarfile.open(archive) as tar:
        for member in tar:
            path = Path(member.name)
            if member.isfile() and int(path.stem) < N_PER_CLASS[path.parts[0]]:
                tar.extract(member, folder, filter="data")


def changes(options: Namespace, *, seed: int, fraction: float) -> dict[str, Any]:
    """Return what the benchmark changes in the preset."""
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
        "tune.epochs": options.trial_epochs,
        "tune.fraction": fraction,
        "tune.seed": seed,
        "train.cnn.epochs": options.epochs,
        "train.cnn.precision": "float32",
        "train.cnn.seed": seed,
        "train.cnn.variation.cutout": 0,
    }


def write_arrays(root: Path) -> dict[str, int]:
    """Write what was prepared as arrays.npz for the other sides, and return the number of images by split."""
    from darkroom.data.arrays.dataset import Dataset

    prepared = Dataset.open(root / "data" / "prepared")
    arrays: dict[str, Any] = {}
    for split, prefix in (("train", ""), ("val", "val_"), ("test", "test_")):
        rows = prepared.rows(split)
        arrays |= {f"{prefix}images": prepared.images[rows], f"{prefix}labels": prepared.labels[rows]}
    np.savez(root / "arrays.npz", **arrays)
    return {split: len(prepared.rows(split)) for split in ("train", "val", "test")}


def ours(root: Path) -> dict[str, Any]:
    """Search and train with the stages of the pipeline."""
    from darkroom.deployable.package import Package
    from darkroom.tuning.rows import best_trial, n_finished
    from darkroom.tuning.storage import read_rows

    seconds(root, "dvc", "repro", "--single-item", "tune@cnn")
    pointer = json.loads((root / ".darkroom" / "tuning" / "cnn.json").read_text())
    rows = read_rows(pointer["study"], str(root / ".darkroom" / "tuning" / f"{pointer['study']}.journal"))
    ends = [row.started + row.seconds for row in rows if row.started is not None and row.seconds is not None]
    best = best_trial(rows)
    chosen = json.loads((root / "reports" / "tune" / "cnn" / "chosen.json").read_text())
    seconds(root, "dvc", "repro", "--single-item", "train@cnn")
    run = json.loads((root / "models" / "cnn" / "run.json").read_text())
    package = Package.load(root / "models" / "cnn" / "model.onnx")
    with np.load(root / "arrays.npz") as data:
        predicted = package.probabilities(data["test_images"]).argmax(axis=1)
        test_accuracy = float((predicted == data["test_labels"]).mean())
    return {
        "n_trials": n_finished(rows),
        "n_pruned": sum(row.state == "pruned" for row in rows),
        "n_epochs": sum(len(row.curve) for row in rows),
        "search_seconds": round(max(ends) - min(row.started for row in rows if row.started is not None), 1),
        "search_val_accuracy": None if best is None else best.metrics["val_accuracy"],
        "values": chosen["values"],
        "chosen": chosen["reason"],
        "val_accuracy": run["val_accuracy"],
        "test_accuracy": test_accuracy,
        "train_seconds": run["train_seconds"],
    }


def theirs(side: str, root: Path, python: Path, options: Namespace, *, seed: int) -> dict[str, Any]:
    """Search and train with one of the other two, in their environment."""
    from darkroom.project.params import read_params

    params = read_params(root / "params.yaml")
    settings = {
        "arrays": str(root / "arrays.npz"),
        "space": params["tune"]["space"]["cnn"],
        "recipe": params["train"]["cnn"],
        "trial_epochs": options.trial_epochs,
        "seed": seed,
        "seconds": 60 * options.minutes,
        "started": time.time(),
    }
    (root / "settings.json").write_text(json.dumps(settings))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), str(PEERS / "keras_tuners.py"), side, str(root / "settings.json")]
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


def speeds(run: dict[str, Any], *, n_images: float) -> dict[str, float]:
    """Return how fast a search was, n_images being those of an epoch."""
    return {
        "trials_per_hour": round(3600 * run["n_trials"] / run["search_seconds"], 1),
        "trained_images_per_second": round(run["n_epochs"] * n_images / run["search_seconds"]),
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over the seeds, and of accuracies each of them."""
    found: dict[str, Any] = {}
    for name in ("val_accuracy", "test_accuracy", "trials_per_hour"):
        values = [run[name] for run in runs]
        found[name] = round(statistics.mean(values), 4)
        found[f"{name}_by_seed"] = values
        found[f"{name}_standard_deviation"] = round(statistics.stdev(values), 4) if values[1:] else None
    return found


def comparison(means: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what tune, in either form, gains over each of the others that took part."""
    found: dict[str, Any] = {}
    for ours in (side for side in FRACTIONS if side in means):
        for peer in (side for side in PEER_SIDES if side in means):
            gain = 100 * (means[ours]["val_accuracy"] - means[peer]["val_accuracy"])
            ratio = means[ours]["trials_per_hour"] / means[peer]["trials_per_hour"]
            found[f"{ours} against {peer}"] = {
                "val_accuracy_gain_points": round(gain, 2),
                "trials_per_hour_ratio": round(ratio, 2),
            }
    return {"comparison": found, "targets": "gains above 0 over both; a ratio of at least 3 to keras-tuner"}


if __name__ == "__main__":
    main()
