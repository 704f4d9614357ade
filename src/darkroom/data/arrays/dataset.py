"""The array format on disk: uint8 shards, labels, splits, an index for people, and a manifest that is written last.

Reading needs only numpy, so that a GPU machine can train from these files without pandas or pyarrow.

    images-00000.npy ...  uint8 (rows, H, W, C); every shard but the last has the same number of rows
    labels.npy            int64 (rows,), positions in manifest["classes"]
    splits.npy            int8 (rows,): 0 train, 1 val, 2 test, 3 recent, -1 unused
    index.parquet         one line per row: row, id, label, split, source, ...
    manifest.json         classes, counts, shards, digest; a directory without it is not a dataset
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from darkroom.errors import DataError
from darkroom.files.array_folder import load_array, not_whole, read_manifest

if TYPE_CHECKING:
    import pandas as pd


CORRECTIONS_NAMED = 5  # pairs of old and new label
SPLITS = ("train", "val", "test", "recent")  # recent: test images among the incoming ones
UNUSED = "unused"
SPLIT_CODES: Mapping[str, int] = {"train": 0, "val": 1, "test": 2, "recent": 3, UNUSED: -1}

# The keys of the manifest that decide how originals become pixels; see images.Form.
FORM = ("image_shape", "color", "resize", "background", "white_level")

_MANIFEST_KEYS = {"classes", "image_shape", "n_rows", "counts", "shards", "digest"}


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
        """Return a copy of rows in the given order: (H, W, C) for one number, else (n, H, W, C)."""
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
        if len(self._shards) == 1:  # usual for small images, at half the cost of the general case
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
        manifest: contents of manifest.json.
        classes: class names; a label is a position in this list.
        image_shape: (height, width, channels).
        labels: int64 (rows,).
        splits: int8 (rows,): 0 train, 1 val, 2 test, 3 recent, -1 unused.
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
            DataError: the manifest is missing, or a file it names is missing, truncated or of another shape.
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

    @property
    def form(self) -> dict[str, Any]:
        """How every original was preprocessed; a model that was trained on the dataset does the same to its input."""
        return {name: self.manifest[name] for name in FORM if name in self.manifest}

    def rows(self, split: str) -> np.ndarray:
        """Return the row numbers of a split (train, val, test, recent or unused): int64, ascending.

        Raises:
            DataError: there is no such split.
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


def split_sizes(counts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Return the number of images of every split that has any, in the order of SPLITS.

    Args:
        counts: manifest["counts"], per split and class.
    """
    sizes = {split: sum(counts[split].values()) for split in SPLITS}
    return {split: size for split, size in sizes.items() if size > 0}


def corrected(manifest: Mapping[str, Any]) -> str | None:
    """Return a sentence with the number of labels that a person corrected, None if there are none.

    Args:
        manifest: of prepared data.
    """
    if not (said := manifest.get("corrections")):
        return None
    of_test = f", {said['n_test']:,} of them test images, which changes the measure" if said["n_test"] else ""
    pairs = ", ".join(f"{pair['n']:,} {pair['old']} to {pair['new']}" for pair in said["pairs"][:CORRECTIONS_NAMED])
    return (
        f"By hand (data/corrections.csv), labels corrected: {said['n_corrected']:,}, images dropped: "
        f"{said['n_dropped']:,}{of_test}: {pairs}{', ...' if len(said['pairs']) > CORRECTIONS_NAMED else ''}."
    )


def class_balance(counts: Mapping[str, int]) -> str:
    """Return the numbers of training images of the smallest and the largest class in words."""
    low, high = min(counts.values()), max(counts.values())
    return f"{low} training images each" if low == high else f"{low} to {high} training images"
