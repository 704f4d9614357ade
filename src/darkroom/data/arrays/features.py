"""Features of a frozen backbone on disk: one float32 array per split, and a manifest that is written last. Numpy only.

    train.npy, val.npy          float32 (n, features), memory-mapped on read
    train-rows.npy, ...         int64 (n, 3): 0 for a prepared image or 1 for an augmented copy, its row there, and the
                                number of its group: near-duplicates and the copies of an image have the same
    train-labels.npy, ...       int64 (n,), positions in the classes of the data
    manifest.json               backbone, weights, image_size, what the features were computed from, digest

Without a backbone there is only the manifest, which says so.
"""

import copy
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from darkroom.data.arrays.dataset import Dataset
from darkroom.errors import DataError, ParamsError
from darkroom.files.array_folder import MANIFEST, FolderWriter, load_array, npy_header, read_manifest
from darkroom.files.writing import write_text

SPLITS = ("train", "val")  # the test images go through the deployed model alone
STAGE = "embed"  # which writes them
_NONE_WITHOUT_BACKBONE = (
    "backbone",
    "weights",
    "weights_origin",
    "weights_sha256",
    "image_size",
    "seed",
    "prepared_digest",
    "augmented_digest",
)
_KEYS = {*_NONE_WITHOUT_BACKBONE, "n_features", "counts", "digest"}


class Features:
    """Features that the stage `embed` computed; make one with Features.open(directory).

    Attributes:
        backbone: the name of the backbone; None if embed.backbone is none: then there are no arrays.
        weights: the setting embed.weights: imagenet, none, or {path, sha256}, with the sha256 of the file read.
        weights_origin: none, pretrained or file; see backbones.table.Weights.
        weights_sha256: of the file of weights; None without one.
        image_size: (height, width) in pixels of the backbone's input.
        seed: of random weights.
        prepared_digest, augmented_digest: of the data that the features were computed from.
        n_features: width of the arrays.
        counts: rows of each split.
        digest: sha256 of everything above and of every value in the arrays.
    """

    def __init__(self, directory: Path, manifest: dict[str, Any]) -> None:
        self.directory = directory
        self.backbone: str | None = manifest["backbone"]
        self.weights: str | dict[str, Any] | None = manifest["weights"]
        self.weights_origin: Literal["none", "pretrained", "file"] | None = manifest["weights_origin"]
        self.weights_sha256: str | None = manifest["weights_sha256"]
        size = manifest["image_size"]
        self.image_size: tuple[int, int] | None = (size[0], size[1]) if size else None
        self.seed: int | None = manifest["seed"]
        self.prepared_digest: str | None = manifest["prepared_digest"]
        self.augmented_digest: str | None = manifest["augmented_digest"]
        self.n_features: int = manifest["n_features"]
        self.counts: dict[str, int] = manifest["counts"]
        self._n_stored = self.counts
        self._val: np.ndarray | None = None  # positions of the rows of val in use; None: all
        self.digest: str = manifest["digest"]

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Return the features in directory; their values are read by arrays().

        Raises:
            DataError: the manifest is missing or incomplete.
        """
        return cls(directory, read_manifest(directory, keys=_KEYS, stage=STAGE))

    def with_val(self, chosen: np.ndarray) -> Self:
        """Return the same features with only these rows of val: (n,), bool."""
        part = copy.copy(self)
        if self.backbone is not None:
            part._val, part.counts = np.flatnonzero(chosen), {**self.counts, "val": int(chosen.sum())}
        return part

    def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the features of a split, float32 (n, n_features) on disk, and their labels, int64 (n,).

        Args:
            split: "train" (augmented copies included, after the originals) or "val".

        Raises:
            DataError: there are none, or a file is missing, cut short or of another shape.
        """
        if self.backbone is None or split not in SPLITS:
            what = "embed.backbone is none" if self.backbone is None else f"splits are {', '.join(SPLITS)}"
            raise DataError(f"{self.directory} has no features of {split!r}: {what}; see embed in params.yaml")
        return self._load(split, "", np.float32, (self.n_features,)), self._load(split, "-labels", np.int64, ())

    def rows(self, split: str) -> np.ndarray:
        """Return where the images of arrays(split) are: int64 (n, 3), 0 prepared or 1 augmented, row there, and group.

        Raises:
            DataError: see arrays.
        """
        return self._load(split, "-rows", np.int64, (3,))

    def check_origin(self, *, prepared_digest: str, augmented_digest: str | None = None) -> None:
        """Check that the features were computed from these images.

        Args:
            augmented_digest: None: compare only the originals.

        Raises:
            DataError: the digests are not those of the data that the features were computed from.
        """
        pairs = {"prepared": (self.prepared_digest, prepared_digest)}
        if augmented_digest is not None:
            pairs["augmented"] = (self.augmented_digest, augmented_digest)
        for name, (computed_from, here) in pairs.items():
            if self.backbone is not None and computed_from != here:
                raise DataError(f"{self.directory}: the features belong to other {name} images; run `dvc repro embed`")

    def _load(self, split: str, part: str, dtype: type, row: tuple[int, ...]) -> np.ndarray:
        shape = (self._n_stored[split], *row)
        array = load_array(self.directory / f"{split}{part}.npy", dtype, shape, stage=STAGE, mmap=shape[0] > 0)
        whole = array.view(np.ndarray)  # indexing np.memmap itself runs Python code on every call
        return whole if split != "val" or self._val is None else whole[self._val]


class FeaturesWriter(FolderWriter):
    """Write features as they are computed; used as a context manager, it removes what it wrote unless finish() ended.

    Args:
        directory: made if it does not exist; features in it are removed.

    Raises:
        DataError: (from every method) a file cannot be written, for example because the disk is full.
    """

    def __init__(self, directory: Path) -> None:
        parts = ("", "-rows", "-labels")
        super().__init__(directory, old=[directory / f"{split}{part}.npy" for split in SPLITS for part in parts])
        self._digest = hashlib.sha256()
        self._counts: dict[str, int] = {}
        self._n_features = 0

    def write(
        self, split: str, blocks: Iterable[np.ndarray], *, n_features: int, rows: np.ndarray, labels: np.ndarray
    ) -> None:
        """Write the features of one split.

        Streamed and not memory-mapped: a full disk kills a process that writes to a memory map, without a message.

        Args:
            split: a name of SPLITS, each once.
            blocks: float32 (any, n_features), in the order of rows, len(rows) together.
            n_features: width of the features.
            rows: see Features.rows.
            labels: (n,), int.
        """
        n_rows = 0
        with self._new_file(f"{split}.npy") as path, path.open("wb") as file:
            file.write(npy_header((len(rows), n_features), "<f4"))
            for block in blocks:
                if block.dtype != np.float32 or block.shape[1:] != (n_features,):
                    raise ValueError(f"got {block.dtype} {block.shape}, expected float32 (any, {n_features})")
                content = np.ascontiguousarray(block).data
                file.write(content)
                self._digest.update(content)
                n_rows += len(block)
        if n_rows != len(rows) or n_rows != len(labels):
            raise ValueError(f"got {n_rows} features for {len(rows)} rows and {len(labels)} labels")
        for name, values in (("rows", rows), ("labels", labels)):
            with self._new_file(f"{split}-{name}.npy") as path:
                np.save(path, values.astype(np.int64), allow_pickle=False)
            self._digest.update(values.astype(np.int64).tobytes())
        self._counts[split], self._n_features = n_rows, n_features

    def finish(self, **about: Any) -> dict[str, Any]:
        """Write the manifest and return it.

        Args:
            about: backbone, weights, weights_origin, weights_sha256, image_size, seed, prepared_digest and
                augmented_digest, and other values to record; n_features, counts and digest are added.
        """
        whole = {**about, "n_features": self._n_features, "counts": self._counts}
        # The features do not depend on the path of a file of weights, only on its sha256.
        self._digest.update(json.dumps({**whole, "weights": None}, sort_keys=True).encode())
        whole["digest"] = self._digest.hexdigest()
        with self._new_file(MANIFEST) as path:
            write_text(path, json.dumps(whole, indent=2, sort_keys=True) + "\n")
        self._finished = True
        return whole


def write_none(directory: Path) -> None:
    """Write a directory of features without a backbone.

    It does not depend on the rest of the section `embed`, so later stages do not rerun.
    """
    with FeaturesWriter(directory) as writer:
        writer.finish(**dict.fromkeys(_NONE_WITHOUT_BACKBONE))


def chosen_rows(prepared: Dataset, augmented: Dataset, *, max_images: int | None, seed: int) -> dict[str, np.ndarray]:
    """Return the rows whose features are computed, per split, originals first; see Features.rows.

    Args:
        max_images: maximum number of training images; None: all.
        seed: of the choice.

    Raises:
        ParamsError: see choose.
    """
    originals, copies = prepared.index(), augmented.index()
    groups = originals["group"].factorize()[0]
    of_copies = copies["parent_id"].map(dict(zip(originals["id"], groups, strict=True))).to_numpy(np.int64)
    rows = prepared.rows("train"), augmented.rows("train")
    train = np.concatenate([_numbered(rows[0], groups, is_copy=0), _numbered(rows[1], of_copies, is_copy=1)])
    if max_images is not None and max_images < len(train):
        chosen = choose(
            [*originals["id"].iloc[rows[0]], *copies["id"].iloc[rows[1]]],
            np.concatenate([prepared.labels[rows[0]], augmented.labels[rows[1]]]),
            is_copy=train[:, 0] == 1,
            max_images=max_images,
            seed=seed,
        )
        train = train[chosen]
    return {"train": train, "val": _numbered(prepared.rows("val"), groups, is_copy=0)}


def choose(ids: Sequence[str], labels: np.ndarray, *, is_copy: np.ndarray, max_images: int, seed: int) -> np.ndarray:
    """Return at most max_images positions of training images, ascending; every class keeps its share.

    Within a class originals come before copies, ordered by the hash of (seed, id), so the choice does not depend on the
    order of the images, and added images replace few of the chosen ones.

    Args:
        ids: (n,), unique.
        labels: (n,), int.
        is_copy: (n,), bool.
        max_images: at least one per class.
        seed: another one chooses other images.

    Raises:
        ParamsError: max_images is smaller than the number of classes.
    """
    if max_images >= len(labels):
        return np.arange(len(labels))
    present, counts = np.unique(labels, return_counts=True)
    if max_images < len(present):
        raise ParamsError(
            f"params.yaml: embed.max_images is {max_images}, fewer than the {len(present)} classes; raise it, or set "
            "null "
            f"for all {len(labels)} training images"
        )
    picked: list[int] = []
    for label, share in zip(present, _shares(counts, max_images), strict=True):
        members = np.flatnonzero(labels == label).tolist()
        picked += sorted(members, key=lambda at: (bool(is_copy[at]), _hash(seed, ids[at])))[:share]
    return np.sort(np.array(picked, np.int64))


def _numbered(rows: np.ndarray, groups: np.ndarray, *, is_copy: int) -> np.ndarray:
    return np.column_stack([np.full(len(rows), is_copy, np.int64), rows, groups[rows]])


def _shares(counts: np.ndarray, total: int) -> list[int]:
    """Divide `total` among the classes in proportion to counts, at least one each, by largest remainders."""
    exact = counts * (total / counts.sum())
    shares = np.maximum(np.floor(exact).astype(int), 1)
    while shares.sum() != total:  # off by less than the number of classes
        missing = int(np.sign(total - shares.sum()))
        gap = np.where((shares + missing >= 1) & (shares + missing <= counts), missing * (exact - shares), -np.inf)
        shares[int(gap.argmax())] += missing
    return [int(share) for share in shares]


def _hash(seed: int, identity: str) -> bytes:
    return hashlib.sha256(f"{seed}:{identity}".encode()).digest()
