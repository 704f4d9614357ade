"""Speed of preprocess against keras.utils.image_dataset_from_directory, and memory for 6,000 and for 60,000 images.

    python -m benchmarks.preprocess cats_vs_dogs.tar --save

The default path is cats_vs_dogs.tar (the dataset cats-vs-dogs-small) in the directory DARKROOM_MIRROR.

Darkroom reads the tar, hashes, validates, decodes, resizes, finds duplicates, splits and writes shards, index and
manifest. Keras decodes and resizes the same files, unpacked before, and discards the pixels; listing is not counted.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
from benchmarks import record
from benchmarks.sides import Side, be_side

ROOT = Path(__file__).resolve().parents[1]
ARCHIVE = "cats_vs_dogs.tar"

PARAMS: dict[str, Any] = {
    "image_size": [160, 160],
    "color": "rgb",
    "resize": "stretch",
    "background": [255, 255, 255],
    "white_level": 65535,
    "val_fraction": 0.1,
    "test_fraction": 0.15,
    "recent_fraction": 0.2,
    "seed": 7,
    "group_by": None,
    "near_duplicates": "group",
    "near_duplicate_bits": 4,
    "max_rejected_fraction": 0.01,
    "max_image_bytes": 50_000_000,
    "max_image_pixels": 50_000_000,
    "max_archive_bytes": 20_000_000_000,
    "shard_bytes": 67_108_864,
}


def main() -> None:
    parser = record.arguments(__doc__)
    parser.add_argument("archive", type=Path, nargs="?", help="a tar of <class>/<image> or train/<class>/<image>")
    parser.add_argument("--size", type=int, default=160, help="edge in pixels")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--backend", default="threading", choices=["threading", "loky"])
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--skip-memory", action="store_true")
    options = parser.parse_args()
    if options.archive is None:
        options.archive = Path(os.environ.get("DARKROOM_MIRROR", ".")) / ARCHIVE
        if not options.archive.is_file():  # so that `make bench` continues with the others
            print(f"preprocess: skipped; give a tar of images, or put {ARCHIVE} into DARKROOM_MIRROR", file=sys.stderr)
            return
    elif not options.archive.is_file():
        sys.exit(f"preprocess: there is no file {options.archive}")
    # Outside the repository, so that `git add benchmarks` does not add 200 MB.
    with tempfile.TemporaryDirectory(prefix="darkroom-") as scratch:
        result = {"speed": speed(Path(scratch), options)}
        if not options.skip_memory:
            result["memory"] = memory(Path(scratch), options)
    packages = ["numpy", "opencv-python-headless", "keras", "tensorflow"]
    record.report("preprocess", result, packages=packages, save=options.save)


def speed(scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return images per second of both sides, which take turns, each in a separate process."""
    raw = _raw_folder(scratch / "raw", options.archive)
    with tarfile.open(options.archive) as tar:
        tar.extractall(scratch / "files", filter="data")
    n_images = sum(path.is_file() for path in (scratch / "files").rglob("*"))
    both: dict[str, list[float]] = {"darkroom": [], "keras": []}
    # Both sides stay loaded and warm; each waits while the other works.
    common = [options.size, options.backend, options.workers]
    sources = {"darkroom": [str(raw), str(scratch / "out")], "keras": [str(scratch / "files"), str(scratch)]}
    sides = {
        name: Side("benchmarks.preprocess", name, json.dumps([*source, *common])) for name, source in sources.items()
    }
    for number in range(options.rounds + 1):
        for name, side in sides.items():
            seconds = side.seconds()
            if number > 0:  # the first round warms the page cache
                both[name].append(n_images / seconds)
        if number > 0:
            print({name: round(rates[-1]) for name, rates in both.items()}, file=sys.stderr)
    for side in sides.values():
        side.close()
    ratios = [ours / theirs for ours, theirs in zip(both["darkroom"], both["keras"], strict=True)]
    medians = {f"{name}_images_per_second": round(statistics.median(rates)) for name, rates in both.items()}
    return {
        "n_images": n_images,
        "size": options.size,
        "backend": options.backend,
        "workers": options.workers,
        **medians,
        "ratio": round(statistics.median(ratios), 3),
        "rounds": {name: [round(rate) for rate in rates] for name, rates in both.items()},
    }


def work(name: str, settings: str) -> None:
    """Run one side."""
    source, out, size, backend, workers = json.loads(settings)
    be_side(_keras(source, size) if name == "keras" else _darkroom(Path(source), Path(out), size, backend, workers))


def _darkroom(raw: Path, out: Path, size: int, backend: str, workers: int) -> Callable[[], float]:
    import pandas  # noqa: F401  - imported before the time is measured
    import pyarrow  # noqa: F401

    from darkroom.data.arrays.dataset_writer import DatasetWriter
    from darkroom.data.preparation.prepared import channel_statistics, duplicates_of, index_of, split_rows
    from darkroom.data.preparation.rows import take_in
    from darkroom.data.preparation.splits import Fractions
    from darkroom.data.raw.layouts import read_images
    from darkroom.deployable.images import Form

    def one_pass() -> float:
        start = time.perf_counter()
        shape = (size, size, 3)
        images = read_images(raw, max_archive_bytes=10**11, max_image_bytes=10**8)
        with DatasetWriter(out, image_shape=shape, shard_bytes=PARAMS["shard_bytes"]) as writer:
            rows = take_in(
                ((image, False) for image in images),
                writer,
                form=Form((size, size), "rgb"),
                max_pixels=10**8,
                hashes=True,
                backend=backend,
                workers=workers,
            )
            assignment = split_rows(
                rows,
                group_by=None,
                near_duplicates="group",
                near_duplicate_bits=4,
                seed=7,
                fractions=Fractions(val=0.1, test=0.15, recent=0.2),
            )
            duplicates_of(rows, assignment)
            mean, std = channel_statistics(rows, assignment, image_shape=shape)
            manifest = {"dataset": "", "classes": sorted(rows.classes), "color": "rgb", "mean": mean, "std": std}
            writer.finish(index=index_of(rows, assignment), manifest=manifest)
        seconds = time.perf_counter() - start
        shutil.rmtree(out)
        return seconds

    return one_pass


def _keras(files: str, size: int) -> Callable[[], float]:
    import keras

    def one_pass() -> float:
        images = keras.utils.image_dataset_from_directory(
            files, labels=None, image_size=(size, size), batch_size=32, shuffle=False, verbose=False
        )
        start = time.perf_counter()
        for _ in images:
            pass
        return time.perf_counter() - start

    return one_pass


def memory(scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the peak resident memory in MB of the whole stage for few and for many images."""
    peaks = {}
    for n_images in (6_000, 60_000):
        place = scratch / f"memory{n_images}"
        archive = scratch / f"{n_images}.tar"
        _many_images(archive, n_images)
        _raw_folder(place / "raw", archive)
        sections = {
            "preprocess": PARAMS | {"image_size": [64, 64]},
            "compute": {"backend": options.backend, "workers": options.workers, "cluster": None, "device": "auto"},
        }
        (place / "params.yaml").write_text(json.dumps(sections))
        command = [sys.executable, "-m", "pipelines.preprocess", "--raw", "raw", "--incoming", "incoming"]
        command += ["--corrections", "corrections.csv"]
        process = subprocess.Popen(
            [*command, "--out", "out", "--report", "report"],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        peaks[n_images] = _peak_megabytes(process)
        shutil.rmtree(place)
    small, big = peaks.values()
    return {f"peak_mb_{n_images}_images": round(peak) for n_images, peak in peaks.items()} | {
        "ratio": round(big / small, 3)
    }


def _peak_megabytes(process: subprocess.Popen[bytes]) -> float:
    import psutil

    peak = 0
    while process.poll() is None:
        total = 0
        try:
            whole = psutil.Process(process.pid)
            for one in [whole, *whole.children(recursive=True)]:
                total += one.memory_full_info().pss  # shared pages count once; of files only mapped pages
        except psutil.Error:
            continue
        peak = max(peak, total)
        time.sleep(0.05)
    if process.returncode != 0:
        sys.exit(f"the stage ended with {process.returncode}")
    return peak / 1e6


def _many_images(path: Path, n_images: int) -> None:
    import cv2
    import numpy as np

    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for number in range(n_images):
            small = rng.integers(0, 256, (8, 8, 3), np.uint8)
            _, data = cv2.imencode(".jpg", cv2.resize(small, (80, 80), interpolation=cv2.INTER_CUBIC))
            member = tarfile.TarInfo(f"class{number % 10}/{number:05d}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data.tobytes()))


def _raw_folder(folder: Path, archive: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / archive.name).symlink_to(archive.resolve())
    file = {"name": archive.name, "bytes": archive.stat().st_size, "sha256": ""}
    manifest = {"dataset": archive.stem, "files": [file], "layout": {"kind": "folders"}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        work(sys.argv[2], sys.argv[3])
    else:
        main()
