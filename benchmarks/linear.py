"""Are time and memory linear in the number of images? Every stage on 5,000 to 50,000 images, and data beyond RAM.

    python -m benchmarks.linear                                        # about 20 minutes on 2 cores, 5 GB of disk
    python -m benchmarks.linear --stages embed --skip-limit            # one part; the others are kept as recorded
    python -m benchmarks.linear --sizes 1000 2000 --fixed 300 --data-gb 0.3    # a trial run

The images are smooth noise of 32x32 pixels as JPEG in a tar. Each stage runs in a separate process, which first runs
twice on `fixed` images: to warm up, and to measure the cost that does not depend on the number of images.

seconds_per_image: (seconds of all images - seconds of the `fixed` ones) / difference in the number of images that the
    stage processes (preprocess: all; augment: 12 copies of training images; embed: training images with one copy of
    each, and validation images; train: training images with one copy of each). For train it is an epoch, after a first
    one that compiles; for embed the features, without building the network, which takes 5 s. Each is the minimum of
    several rounds, because other load can only increase it.
peak_mb: resident memory of the process and its workers, with shared pages divided among them; it includes memory-mapped
    images until the system needs their pages.
peak_private_mb: the private part of it, which the system cannot reclaim.

Data beyond RAM: a process imports everything and trains on a little data; then its data segment is limited to its
current size plus `--headroom-mb`, and it trains on images of twice this limit. The limit is RLIMIT_DATA (`ulimit -d`),
which Linux applies to all private writable memory. RLIMIT_AS (`ulimit -v`) would also count reserved addresses, tens of
gigabytes with TensorFlow, and memory-mapped files, which can be reclaimed at any time. To show that the limit works,
the same process then tries to read all images into memory, and fails.
"""

import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import numpy as np
from ruamel.yaml import YAML

from benchmarks.record import arguments, report
from darkroom.cli import presets

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("preprocess", "augment", "embed", "train")
ROUNDS = {"preprocess": 15, "augment": 9, "embed": 5, "train": 1}
EDGE = 32  # pixels
COPIES = 12  # of each training image: enough work for augment relative to the start of its workers
LIBRARIES = "pandas pyarrow.parquet cv2 matplotlib.figure joblib"
IMPORTS = {
    "preprocess": f"{LIBRARIES} darkroom.data.preparation.rows darkroom.figures.style",
    "augment": f"{LIBRARIES} darkroom.data.augmentation.copies darkroom.figures.style",
    "embed": "darkroom.networks.backbones.embedding darkroom.networks.backbones.extractor onnxruntime",
    "train": "darkroom.networks.build darkroom.training.fit",
}
PARAMS: dict[str, Any] = {
    "preprocess": {"image_size": [EDGE, EDGE], "color": "rgb", "val_fraction": 0.2, "test_fraction": 0.2},
    "augment": {
        "copies": COPIES,
        "preview_images": 1,  # drawing it is most of the fixed cost
        "transforms": [{"HorizontalFlip": {"p": 0.5}}, {"Affine": {"rotate": [-10, 10], "p": 1.0}}],
    },
}
BACKBONE = "efficientnet-lite0"
TRAINED_EPOCHS = 4  # the first compiles


def main() -> None:
    parser = arguments(__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 20_000, 50_000])
    parser.add_argument("--fixed", type=int, default=500)
    parser.add_argument("--stages", nargs="*", choices=STAGES, default=list(STAGES))
    parser.add_argument("--data-gb", type=float, help="size of the data beyond RAM; default: twice the limit")
    parser.add_argument("--headroom-mb", type=int, default=256, help="of memory, in addition to imports and a graph")
    parser.add_argument("--skip-limit", action="store_true")
    options = parser.parse_args()
    result: dict[str, Any] = {"picture": f"{EDGE}x{EDGE} rgb", "fixed": options.fixed}
    with tempfile.TemporaryDirectory(prefix="darkroom-") as scratch:
        if options.stages:
            places = {n: make_place(Path(scratch) / str(n), n) for n in (options.fixed, *sorted(options.sizes))}
        for stage in STAGES if options.stages else ():
            if stage in options.stages:
                result[stage] = measure(stage, places, fixed=options.fixed)
                print(json.dumps({stage: result[stage]}), file=sys.stderr, flush=True)
            elif stage == "preprocess":
                for place in places.values():
                    run_stage("preprocess", place)
            if stage == "augment" and {"embed", "train"} & set(
                options.stages
            ):  # so that the next part takes minutes, not hours
                for place in places.values():
                    make_one_copy(place)
        for place in places.values() if options.stages else ():
            shutil.rmtree(place)
        if not options.skip_limit:
            result["beyond_ram"] = beyond_ram(Path(scratch), data_gb=options.data_gb, headroom_mb=options.headroom_mb)
    result["target"] = "seconds_per_image within 15 % (ratio at most 1.15); beyond_ram.trained"
    packages = ["tensorflow", "keras", "onnxruntime", "numpy", "opencv-python-headless", "albumentations"]
    report("linear", result, packages=packages, save=options.save, parts=(*STAGES, "beyond_ram"))


def measure(stage: str, places: dict[int, Path], *, fixed: int) -> dict[str, Any]:
    """Return seconds per image and peak memory of one stage for each number of images, and the ratio of the seconds."""
    found: dict[str, Any] = {}
    for n, place in places.items():
        if n == fixed:
            continue
        command = [sys.executable, "-m", "benchmarks.linear", "--stage", stage, str(places[fixed]), str(place)]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            peaks = Peaks(process.pid)
            assert process.stdout is not None
            line = process.stdout.read().strip().rpartition("\n")[2]
        if process.returncode != 0:
            sys.exit(f"linear: {stage} on {n} images ended with {process.returncode}")
        seconds = json.loads(line)
        n_more = n_worked_on(stage, place) - n_worked_on(stage, places[fixed])
        per_image = (seconds["all"] - seconds["fixed"]) / n_more
        found[str(n)] = {"seconds_per_image": float(f"{per_image:.4g}"), **peaks.megabytes(), **seconds}
    costs = [of_size["seconds_per_image"] for of_size in found.values()]
    return found | {"ratio": round(max(costs) / min(costs), 3)}


def make_one_copy(place: Path) -> None:
    """Augment with one copy of each image."""
    yaml, path = YAML(typ="safe"), place / "params.yaml"
    params = yaml.load(path)
    params["augment"]["copies"] = 1
    with path.open("w") as out:
        yaml.dump(params, out)
    run_stage("augment", place)


def run_stage(stage: str, place: Path) -> None:
    """Run a stage once, in a separate process."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", f"pipelines.{stage}", *arguments_of(stage)]
    subprocess.run(command, cwd=place, check=True, env=environment)


def n_worked_on(stage: str, place: Path) -> int:
    """Return the number of images that the stage processes."""
    manifest = json.loads((place / "data" / "prepared" / "manifest.json").read_text())
    train, val = (sum(manifest["counts"][split].values()) for split in ("train", "val"))
    n_copies = COPIES * train
    n_rows = int(manifest["n_rows"])
    return int({"preprocess": n_rows, "augment": n_copies, "embed": 2 * train + val, "train": 2 * train}[stage])


class Peaks:
    """The peak memory of a process and its children, sampled 20 times a second until it ends."""

    def __init__(self, pid: int) -> None:
        self._pid, self._peak = pid, {"Pss": 0, "Anonymous": 0}
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def megabytes(self) -> dict[str, int]:
        self._thread.join()
        return {
            "peak_mb": round(self._peak["Pss"] / 1000),
            "peak_private_mb": round(self._peak["Anonymous"] / 1000),
        }

    def _watch(self) -> None:
        import psutil

        try:
            whole = psutil.Process(self._pid)
            while whole.is_running() and whole.status() != psutil.STATUS_ZOMBIE:
                now = dict.fromkeys(self._peak, 0)
                for process in [whole, *whole.children(recursive=True)]:
                    for key, kilobytes in _memory(process.pid).items():
                        now[key] += kilobytes
                self._peak = {key: max(now[key], before) for key, before in self._peak.items()}
                time.sleep(0.05)
        except psutil.NoSuchProcess:
            return


def _memory(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return {}
    pairs = (line.split()[:2] for line in lines[1:])
    return {key[:-1]: int(kilobytes) for key, kilobytes in pairs if key in ("Pss:", "Anonymous:")}


def make_place(place: Path, n_images: int) -> Path:
    """Return a working directory with data/raw and params.yaml, for n images in ten classes."""
    import cv2

    raw = place / "data" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(n_images)
    with tarfile.open(raw / "noise.tar", "w") as tar:
        for number in range(n_images):
            small = rng.integers(0, 256, (8, 8, 3), np.uint8)
            _, data = cv2.imencode(".jpg", cv2.resize(small, (EDGE, EDGE), interpolation=cv2.INTER_CUBIC))
            member = tarfile.TarInfo(f"class{number % 10}/{number:06d}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data.tobytes()))
    file = {"name": "noise.tar", "bytes": (raw / "noise.tar").stat().st_size, "sha256": ""}
    manifest = {"dataset": "noise", "files": [file], "layout": {"kind": "folders"}}
    (raw / "manifest.json").write_text(json.dumps(manifest))
    params = presets.read("folder", root=ROOT)
    for section, changes in PARAMS.items():
        params[section].update(changes)
    with (place / "params.yaml").open("w") as out:
        YAML(typ="safe").dump(params, out)
    return place


# In the process of one stage


def work(stage: str, small: Path, big: Path) -> None:
    """Print the minimum seconds of the stage over some rounds: in the small directory, warm, and in the big one."""
    import importlib

    for name in IMPORTS[stage].split():
        importlib.import_module(name)
    made = {"embed": features_seconds, "train": lambda: epoch_seconds}
    run = made[stage]() if stage in made else stage_of(stage)
    run(small)
    # In turns, so that other load affects both.
    rounds = [(run(small), run(big)) for _ in range(ROUNDS[stage])]
    fixed, seconds = (min(times) for times in zip(*rounds, strict=True))
    print(json.dumps({"fixed": round(fixed, 3), "all": round(seconds, 3)}))


def arguments_of(stage: str) -> list[str]:
    """Return the command line of preprocess or augment."""
    read = {
        "preprocess": ["--raw", "data/raw", "--incoming", "data/incoming", "--corrections", "data/corrections.csv"],
        "augment": ["--prepared", "data/prepared"],
    }
    out = {"preprocess": "data/prepared", "augment": "data/augmented"}
    return [*read[stage], "--out", out[stage], "--report", "r"]


def stage_of(stage: str) -> Callable[[Path], float]:
    """Return a function that runs the stage's main() in a directory and returns its seconds."""
    import importlib

    main = importlib.import_module(f"pipelines.{stage}").main

    def run(place: Path) -> float:
        os.chdir(place)
        sys.argv = [stage, *arguments_of(stage)]
        started = time.perf_counter()
        main()
        return time.perf_counter() - started

    return run


def features_seconds() -> Callable[[Path], float]:
    """Return a function that computes and writes the features of a directory's images and returns its seconds.

    The network is built once: that takes 5 s, plus or minus one, more than the differences to be measured.
    """
    from darkroom.data.arrays.dataset import Dataset
    from darkroom.data.arrays.features import FeaturesWriter
    from darkroom.data.arrays.selection import Selection
    from darkroom.networks.backbones import embedding, extractor
    from darkroom.networks.backbones.table import find_backbone
    from darkroom.networks.backbones.weights import obtain_weights

    weights = obtain_weights(find_backbone(BACKBONE), "none")
    embedder = embedding.Embedder(
        extractor.extractor(BACKBONE, image_shape=(EDGE, EDGE, 3), image_size=(EDGE, EDGE), weights=weights, seed=7)
    )

    def run(place: Path) -> float:
        started = time.perf_counter()
        prepared, augmented = (Dataset.open(place / "data" / name) for name in ("prepared", "augmented"))
        parts = [(prepared, "train"), (augmented, "train"), (prepared, "val")]
        images = Selection([(data.images, data.rows(split)) for data, split in parts])
        n_images = len(images)
        with FeaturesWriter(place / "data" / "features") as writer:
            writer.write(
                "train",
                embedder(images),
                n_features=embedder.n_features,
                rows=np.zeros((n_images, 3), np.int64),
                labels=np.zeros(n_images, np.int64),
            )
            writer.finish(weights="none")
        return time.perf_counter() - started

    return run


def epoch_seconds(place: Path) -> float:
    """Return the minimum seconds of an epoch on data/prepared and data/augmented, after a first one that compiles."""
    from darkroom.data.arrays.dataset import Dataset

    prepared, augmented = (Dataset.open(place / "data" / name) for name in ("prepared", "augmented"))
    history = train([prepared, augmented], epochs=TRAINED_EPOCHS, filters=[16, 32], shift=1)
    n_images = len(prepared.rows("train")) + len(augmented.rows("train"))
    return min(n_images / float(record["images_per_second"]) for record in history[1:])


def train(data: list[Any], *, epochs: int, filters: list[int], shift: int = 0) -> list[dict[str, Any]]:
    """Train a small network on the train rows of some datasets and return the history."""
    from darkroom.data.arrays.selection import Selection
    from darkroom.networks import build
    from darkroom.training import fit
    from darkroom.training.batches import EpochBatches, PlainBatches
    from darkroom.training.optimizers import make_optimizer
    from darkroom.training.variation import Variation

    images = Selection([(one.images, one.rows("train")) for one in data])
    labels = np.concatenate([one.labels[one.rows("train")] for one in data])
    val, n_classes, varied = data[0].rows("val"), len(data[0].classes), Variation(shift=shift)
    return fit.fit(
        build.build(
            "compact",
            image_shape=data[0].image_shape,
            n_classes=n_classes,
            arguments={"filters": filters, "stem_kernel_size": 5, "head": "average", "dropout": 0.0},
        ),
        fit.Phase(
            epochs,
            make_optimizer("sgd", learning_rate=0.01, momentum=0.9, weight_decay=0.0005),
            variation=varied,
        ),
        train=lambda epoch: EpochBatches(
            images, labels, n_classes=n_classes, batch_size=64, seed=7, epoch=epoch, variation=varied
        ),
        validation=PlainBatches(
            Selection([(data[0].images, val)]), data[0].labels[val], n_classes=n_classes, batch_size=64
        ),
    ).history


# Data beyond RAM


def beyond_ram(scratch: Path, *, data_gb: float | None, headroom_mb: int) -> dict[str, Any]:
    """Train in a process with limited memory, as described above, and return its output.

    Args:
        data_gb: size of the data; None: twice the limit.
    """
    command = [
        sys.executable,
        "-m",
        "benchmarks.linear",
        "--limited",
        str(scratch),
        str(data_gb or 0),
        str(headroom_mb),
    ]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    line = done.stdout.strip().rpartition("\n")[2]
    return dict(json.loads(line)) if done.returncode == 0 else {"trained": False, "exit_status": done.returncode}


def train_limited(scratch: Path, data_gb: float, headroom_mb: int) -> None:
    """Train on a little data, limit this process, train on all, try to read all into memory; print the results."""
    from darkroom.data.arrays.dataset import Dataset

    train([Dataset.open(make_data(scratch / "little", 30_000_000))], epochs=1, filters=[2])
    limit = data_segment() + (headroom_mb << 20)
    n_bytes = int(data_gb * 1e9) or 2 * limit
    data = Dataset.open(make_data(scratch / "much", n_bytes))
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    started = time.perf_counter()
    history = train([data], epochs=1, filters=[2])
    seconds = time.perf_counter() - started
    try:
        fits = len(data.images[:]) > 0
    except MemoryError:
        fits = False
    result = {
        "trained": len(history) == 1,
        "limit_mb": round(limit / 1e6),
        "data_mb": round(n_bytes / 1e6),
        "data_by_limit": round(n_bytes / limit, 2),
        "data_fit_into_memory": fits,
        "images_per_second": round(history[0]["images_per_second"]),
        "seconds": round(seconds, 1),
    }
    print(json.dumps(result))


def data_segment() -> int:
    """Return the size in bytes that RLIMIT_DATA limits."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmData:")[2].split()[0]) << 10


def make_data(directory: Path, n_bytes: int) -> Path:
    """Write a prepared dataset of this size: noise of 128x128 pixels in two classes."""
    import pandas as pd

    from darkroom.data.arrays.dataset_writer import DatasetWriter

    shape = (128, 128, 3)
    n_images = n_bytes // int(np.prod(shape))
    block = np.random.default_rng(0).integers(0, 256, (512, *shape), np.uint8)
    rows = np.arange(n_images)
    index = pd.DataFrame({"row": rows, "id": [f"{row:064x}" for row in rows.tolist()]})
    index["label"] = np.where(rows % 2, "a", "b")
    index["split"] = np.where(rows % 50 == 0, "val", "train")
    manifest = {"dataset": "noise", "classes": ["a", "b"], "color": "rgb", "mean": [], "std": []}
    with DatasetWriter(directory, image_shape=shape, shard_bytes=64 << 20) as writer:
        for start in range(0, n_images, len(block)):
            writer.append(block[: n_images - start])
        writer.finish(index=index, manifest=manifest)
    return directory


if __name__ == "__main__":
    if sys.argv[1:2] == ["--stage"]:
        work(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    elif sys.argv[1:2] == ["--limited"]:
        train_limited(Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
