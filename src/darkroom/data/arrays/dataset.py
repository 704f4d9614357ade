"""The array format on disk: uint8 shards, labels, splits, an index for people, and a manifest that is written last.

Reading needs numpy alone: a GPU machine trains from these files without pandas or pyarrow.

    images-00000.npy ...  uint8 (rows, H, W, C); every shard but the last has the same number of rows
    labels.npy            int64 (rows,), positions in manifest["classes"]
    splits.npy            int8 (rows,): 0 train, 1 val, 2 test, -1 unused
    index.parquet         one line per row: row, id, label, split, source, ...
    manifest.json         classes, counts, shards, digest; a directory without it is not a dataset
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np

from darkroom.errors import DataError
from darkroom.files.array_folder import MANIFEST, load_array, not_whole, read_manifest
from darkroom.files.writing import sha256_of, write_errors, write_text

if TYPE_CHECKING:
    import pandas as pd


SPLITS = ("train", "val", "test")
UNUSED = "unused"
SPLIT_CODES: Mapping[str, int] = {"train": 0, "val": 1, "test": 2, UNUSED: -1}

_MANIFEST_KEYS = {"classes", "image_shape", "n_rows", "counts", "shards", "digest"}

_RESERVED_BYTES = 8 << 20


class DatasetWriter:
    """Write a dataset shard by shard; used as a context manager, it removes what it wrote unless finish() ended.

    Args:
        directory: made if it does not exist; files of an older dataset in it are removed.
        image_shape: (height, width, channels) of every image.
        shard_bytes: largest size of the pixels of one shard; a shard holds at least one image.

    Raises:
        DataError: (from every method) a file cannot be written, for example because the disk is full.
    """

    def __init__(self, directory: Path, *, image_shape: tuple[int, int, int], shard_bytes: int) -> None:
        self.directory = directory
        self.image_shape = image_shape
        self.n_rows = 0
        self._shard_rows = max(1, shard_bytes // int(np.prod(image_shape)))
        self._shards: list[dict[str, Any]] = []
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._reserved = 0
        self._written: list[Path] = []
        self._finished = False
        with write_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            # The old manifest goes first: a run that dies here must not leave it beside new shards.
            for old in [directory / MANIFEST, *sorted(directory.glob("images-*.npy"))]:
                old.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            with suppress(OSError):  # a full disk makes the last flush fail again
                self._file.close()
            self._file = None
        if not self._finished:
            for path in self._written:
                path.unlink(missing_ok=True)

    def append(self, images: np.ndarray) -> range:
        """Write images, uint8 (n, H, W, C), after the rows so far; return the numbers of the new rows."""
        if images.dtype != np.uint8 or images.shape[1:] != self.image_shape:
            raise ValueError(f"got {images.dtype} {images.shape}, expected uint8 (n, {self.image_shape})")
        first = self.n_rows
        position = 0
        while position < len(images):
            in_shard = self.n_rows % self._shard_rows
            part = images[position : position + self._shard_rows - in_shard]
            self._write(np.ascontiguousarray(part), new_shard=in_shard == 0)
            position += len(part)
            self.n_rows += len(part)
        return range(first, self.n_rows)

    def finish(self, *, index: "pd.DataFrame", manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Write labels, splits and index, and last the manifest; return the whole manifest.

        Args:
            index: one line per row, in the order of the rows, with at least row, id, label and split (train, val, test
                or unused).
            manifest: dataset, classes (sorted names), color, mean, std, and whatever else the stage wants to record.
                image_shape, n_rows, counts, shards and digest are added here.
        """
        if not np.array_equal(index["row"].to_numpy(), np.arange(self.n_rows)):
            raise ValueError(f"index has {len(index)} lines; expected rows 0 to {self.n_rows - 1} in order")
        self._close_shard()
        classes = list(manifest["classes"])
        codes = {name: code for code, name in enumerate(classes)}
        labels = index["label"].map(codes).to_numpy(dtype=np.int64)
        splits = index["split"].map(dict(SPLIT_CODES)).to_numpy(dtype=np.int8)
        with self._new_file("labels.npy") as path:
            np.save(path, labels, allow_pickle=False)
        with self._new_file("splits.npy") as path:
            np.save(path, splits, allow_pickle=False)
        with self._new_file("index.parquet") as path:
            index.to_parquet(path, index=False, compression="zstd")
        whole = {
            **manifest,
            "image_shape": list(self.image_shape),
            "n_rows": self.n_rows,
            "counts": _counts(labels, splits, classes),
            "shards": self._shards,
        }
        whole["digest"] = _digest(whole, labels, splits, index["id"])
        with self._new_file(MANIFEST) as path:
            text = json.dumps(whole, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
            write_text(path, text + "\n")
        self._finished = True
        return whole

    def _write(self, part: np.ndarray, *, new_shard: bool) -> None:
        name = f"images-{(self.n_rows // self._shard_rows):05d}.npy"
        with write_errors(self.directory / name, f" after {self.n_rows} images"):
            if new_shard:
                self._close_shard()
                self._written.append(self.directory / name)
                self._file = (self.directory / name).open("wb")
                self._hash = hashlib.sha256()
                self._reserved = 0
                self._put(_npy_header(self._shard_rows, self.image_shape))
                self._shards.append({"name": name, "rows": 0, "sha256": ""})
            self._put(part.data)
            self._shards[-1]["rows"] += len(part)

    def _put(self, data: bytes | memoryview) -> None:
        assert self._file is not None  # noqa: S101 - a promise to mypy, not a check of data
        n_bytes = data.nbytes if isinstance(data, memoryview) else len(data)
        end = self._file.tell() + n_bytes
        if end > self._reserved:
            _reserve(self._file, end + _RESERVED_BYTES)
            self._reserved = end + _RESERVED_BYTES
        self._file.write(data)
        self._hash.update(data)

    def _close_shard(self) -> None:
        if self._file is None:
            return
        last = self._shards[-1]
        with write_errors(self.directory / last["name"]):
            self._file.truncate()  # gives back what was reserved
            if last["rows"] != self._shard_rows:  # only the last shard: its header promised more rows than came
                self._file.seek(0)
                self._file.write(_npy_header(last["rows"], self.image_shape))
            self._file.close()
        self._file = None
        whole = last["rows"] == self._shard_rows
        last["sha256"] = self._hash.hexdigest() if whole else sha256_of(self.directory / last["name"])

    @contextmanager
    def _new_file(self, name: str) -> Iterator[Path]:
        path = self.directory / name
        self._written.append(path)
        with write_errors(path):
            yield path


class Images:
    """The memory-mapped shards as one read-only uint8 array of shape (rows, H, W, C)."""

    dtype = np.dtype(np.uint8)

    def __init__(self, shards: Sequence[np.ndarray], image_shape: tuple[int, int, int]) -> None:
        # A view as plain ndarray: indexing np.memmap itself runs Python code on every call.
        self._shards = [shard.view(np.ndarray) for shard in shards]
        self._shard_rows = len(shards[0]) if shards else 1
        self.shape = (sum(len(shard) for shard in shards), *image_shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: "int | slice | np.ndarray | Sequence[int]") -> np.ndarray:
        """Return a copy of the asked rows in the order asked for: (H, W, C) for one number, else (n, H, W, C)."""
        if isinstance(rows, int | np.integer):
            return self._gather(np.array([rows])).reshape(self.shape[1:])
        if isinstance(rows, slice):
            return self._gather(np.arange(*rows.indices(len(self))))
        numbers = np.asarray(rows)
        if numbers.dtype == bool:
            numbers = np.flatnonzero(numbers)
        return self._gather(numbers)

    def _gather(self, rows: np.ndarray) -> np.ndarray:
        if rows.size == 0:
            return np.empty((0, *self.shape[1:]), np.uint8)
        if len(self._shards) == 1:  # the usual case of small images: half the cost of the general one
            return np.asarray(self._shards[0].take(rows, axis=0))
        if rows.min() < -len(self) or rows.max() >= len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} are out of range (0 to {len(self) - 1})")
        shard_numbers, within = np.divmod(np.where(rows < 0, rows + len(self), rows), self._shard_rows)
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for number in np.unique(shard_numbers):
            wanted = np.flatnonzero(shard_numbers == number)
            out[wanted] = self._shards[number].take(within[wanted], axis=0)
        return out


class Dataset:
    """A prepared or augmented dataset, opened without reading its pixels; make one with Dataset.open(directory).

    Attributes:
        manifest: what manifest.json says.
        classes: class names; a label is a position in this list.
        image_shape: (height, width, channels).
        labels: int64 (rows,).
        splits: int8 (rows,): 0 train, 1 val, 2 test, -1 unused.
        images: uint8 (rows, H, W, C), read from disk when indexed.
    """

    def __init__(
        self, directory: Path, *, manifest: dict[str, Any], labels: np.ndarray, splits: np.ndarray, images: Images
    ) -> None:
        self.directory = directory
        self.manifest = manifest
        self.classes: list[str] = manifest["classes"]
        self.image_shape: tuple[int, int, int] = tuple(manifest["image_shape"])
        self.labels = labels
        self.splits = splits
        self.images = images

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Return the dataset in directory.

        Raises:
            DataError: the manifest is missing, or a file it names is missing, cut short or of another shape.
        """
        stage = _stage_of(directory)
        manifest = read_manifest(directory, keys=_MANIFEST_KEYS, stage=stage)
        n_rows, shape = manifest["n_rows"], tuple(manifest["image_shape"])
        shards = [
            load_array(directory / shard["name"], np.uint8, (shard["rows"], *shape), stage=stage, mmap=True)
            for shard in manifest["shards"]
        ]
        if sum(len(shard) for shard in shards) != n_rows:
            said = f"the shards hold {sum(map(len, shards))} rows, but the manifest says {n_rows}"
            raise not_whole(directory, said, stage=stage)
        labels = load_array(directory / "labels.npy", np.int64, (n_rows,), stage=stage)
        splits = load_array(directory / "splits.npy", np.int8, (n_rows,), stage=stage)
        return cls(directory, manifest=manifest, labels=labels, splits=splits, images=Images(shards, shape))

    def rows(self, split: str) -> np.ndarray:
        """Return the row numbers of a split (train, val, test or unused): int64, ascending.

        Raises:
            DataError: the split has another name.
        """
        if split not in SPLIT_CODES:
            raise DataError(f"there is no split {split!r}; splits: {', '.join(SPLIT_CODES)}")
        return np.flatnonzero(self.splits == SPLIT_CODES[split])

    def index(self) -> "pd.DataFrame":
        """Return index.parquet, one line per row."""
        import pandas as pd

        path = self.directory / "index.parquet"
        try:
            index = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise not_whole(self.directory, f"{path.name}: {error}", stage=_stage_of(self.directory)) from None
        if len(index) != len(self.labels):
            found = f"{path.name} has {len(index)} lines for {len(self.labels)} rows"
            raise not_whole(self.directory, found, stage=_stage_of(self.directory))
        return index


def _stage_of(directory: Path) -> str:
    return {"augmented": "augment"}.get(directory.name, "preprocess")


def _reserve(file: BinaryIO, n_bytes: int) -> None:
    # ext4 takes 150 us of CPU to find place for an image of 160x160 while it is written, and 15 us where the place was
    # reserved before. Whether the disk is full, the write itself will say.
    if hasattr(os, "posix_fallocate"):
        with suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, n_bytes)


def _npy_header(n_rows: int, image_shape: tuple[int, int, int]) -> bytes:
    """Return the .npy header of uint8 (n_rows, H, W, C); numpy pads it, so its length is the same for any n_rows."""
    buffer = BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (n_rows, *image_shape)}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def _counts(labels: np.ndarray, splits: np.ndarray, classes: list[str]) -> dict[str, dict[str, int]]:
    counts = {split: np.bincount(labels[splits == SPLIT_CODES[split]], minlength=len(classes)) for split in SPLITS}
    return {split: dict(zip(classes, of_class.tolist(), strict=True)) for split, of_class in counts.items()}


def _digest(manifest: Mapping[str, Any], labels: np.ndarray, splits: np.ndarray, ids: "pd.Series[str]") -> str:
    """Return the sha256 of everything that training or evaluation can see: pixels, labels, splits, ids, classes.

    The bytes of index.parquet are left out: they change with the version of pyarrow.
    """
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode())
    digest.update(labels.tobytes())
    digest.update(splits.tobytes())
    digest.update("\n".join(ids).encode())
    return digest.hexdigest()


def class_balance(counts: Mapping[str, int]) -> str:
    """Return the numbers of training images of the smallest and the largest class in words."""
    low, high = min(counts.values()), max(counts.values())
    return f"{low} training images each" if low == high else f"{low} to {high} training images"
