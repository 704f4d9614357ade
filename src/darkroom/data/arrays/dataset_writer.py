"""Write a dataset: uint8 shards of bounded size, labels, splits, an index and, last, the manifest."""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from darkroom.files.array_folder import MANIFEST, FolderWriter, npy_header
from darkroom.files.writing import sha256_of, write_errors, write_text

if TYPE_CHECKING:
    import pandas as pd

from darkroom.data.arrays.dataset import SPLIT_CODES, SPLITS

_RESERVED_BYTES = 8 << 20


class DatasetWriter(FolderWriter):
    """Write a dataset shard by shard; used as a context manager, it removes what it wrote unless finish() ended.

    Args:
        directory: made if it does not exist; files of an older dataset in it are removed.
        image_shape: (height, width, channels) of every image.
        shard_bytes: maximum size of the pixels of one shard; a shard holds at least one image.

    Raises:
        DataError: (from every method) a file cannot be written, for example because the disk is full.
    """

    def __init__(self, directory: Path, *, image_shape: tuple[int, int, int], shard_bytes: int) -> None:
        super().__init__(directory, old=sorted(directory.glob("images-*.npy")))
        self.image_shape = image_shape
        self.n_rows = 0
        self._shard_rows = max(1, shard_bytes // int(np.prod(image_shape)))
        self._shards: list[dict[str, Any]] = []
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._reserved = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            with suppress(OSError):  # a full disk makes the last flush fail again
                self._file.close()
            self._file = None
        super().__exit__(kind, error, traceback)

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
        """Write labels, splits and index and, last, the manifest; return the complete manifest.

        Args:
            index: one line per row, in the order of the rows, with at least row, id, label and split (train, val, test,
                recent or unused).
            manifest: dataset, classes (sorted names), color, mean, std, and other values to record. image_shape,
                n_rows, counts, shards and digest are added.
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
                self._put(npy_header((self._shard_rows, *self.image_shape), "|u1"))
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
            self._file.truncate()  # releases reserved space
            if last["rows"] != self._shard_rows:  # only the last shard: its header promised more rows than came
                self._file.seek(0)
                self._file.write(npy_header((last["rows"], *self.image_shape), "|u1"))
            self._file.close()
        self._file = None
        whole = last["rows"] == self._shard_rows
        last["sha256"] = self._hash.hexdigest() if whole else sha256_of(self.directory / last["name"])


def _reserve(file: BinaryIO, n_bytes: int) -> None:
    # Writing an image of 160x160 takes ext4 150 us of CPU, and 15 us into reserved space. Errors are ignored, because
    # the write itself fails on a full disk.
    if hasattr(os, "posix_fallocate"):
        with suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, n_bytes)


def _counts(labels: np.ndarray, splits: np.ndarray, classes: list[str]) -> dict[str, dict[str, int]]:
    counts = {split: np.bincount(labels[splits == SPLIT_CODES[split]], minlength=len(classes)) for split in SPLITS}
    return {split: dict(zip(classes, of_class.tolist(), strict=True)) for split, of_class in counts.items()}


def _digest(manifest: Mapping[str, Any], labels: np.ndarray, splits: np.ndarray, ids: "pd.Series[str]") -> str:
    """Return the sha256 of everything that training and evaluation use: pixels, labels, splits, ids, classes.

    The bytes of index.parquet are left out, because they change with the version of pyarrow.
    """
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode())
    digest.update(labels.tobytes())
    digest.update(splits.tobytes())
    digest.update("\n".join(ids).encode())
    return digest.hexdigest()
