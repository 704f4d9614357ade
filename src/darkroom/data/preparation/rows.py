"""From a stream of labelled images to rows of one size on disk: what was taken in, what was not, and why."""

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from darkroom.compute.stream import stream
from darkroom.data.arrays.dataset import SPLIT_CODES, UNUSED, DatasetWriter, class_balance
from darkroom.data.preparation.auto import Form
from darkroom.data.preparation.decoding import Batch, read_batch
from darkroom.data.preparation.splits import Assignment, assign, check_classes
from darkroom.data.raw.layouts import Oversized, RawImage, read_folder, read_images, same_name
from darkroom.errors import DataError
from darkroom.project.text import shown

if TYPE_CHECKING:
    import pandas as pd

# What goes to a worker at once: many small images, or few big ones, so that memory does not depend on their size, be
# it that of the files or that of the rows (but for a single image above it).
_BATCH_IMAGES = 32
_BATCH_BYTES = 4 << 20
_BATCH_ROW_BYTES = 8 << 20


class Duplicate(NamedTuple):
    """An image that repeats another: `of` is the other's name, `kind` exact or near."""

    source: str
    of: str
    kind: str
    action: str


class Rows:
    """The facts about every row except its pixels (about 300 bytes per row), and the rejected images.

    Attributes:
        classes: class names in the order of their first image; labels are positions in it.
        names, labels, official_test, incoming, ids, hashes, sizes, sums: one entry per row; see decoding.Batch.
        rejected: (name, reason) of the images that are of no use.
        repeated: (name, row) of the images whose bytes and label are those of a row.
        n_images: all that came, whatever became of them.
    """

    def __init__(self, n_channels: int) -> None:
        self.n_channels = n_channels
        self.classes: list[str] = []
        self.names: list[str] = []
        self.rejected: list[tuple[str, str]] = []
        self.repeated: list[tuple[str, int]] = []
        self.n_images = 0
        self._labels, self._official, self._incoming = array("i"), bytearray(), bytearray()
        self._ids, self._hashes, self._sizes, self._sums = bytearray(), array("Q"), array("i"), array("q")
        self._row_of: dict[bytes, int] = {}
        self._codes: dict[str, int] = {}
        self._forms: dict[str, str] = {}
        self._contradicted: dict[int, list[tuple[str, str]]] = {}

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labels(self) -> np.ndarray:
        return np.frombuffer(self._labels, np.int32)

    @property
    def official_test(self) -> np.ndarray:
        return np.frombuffer(self._official, bool)

    @property
    def incoming(self) -> np.ndarray:
        return np.frombuffer(self._incoming, bool)

    @property
    def ids(self) -> np.ndarray:
        return np.frombuffer(self._ids, np.uint8).reshape(-1, 32)

    @property
    def hashes(self) -> np.ndarray:
        return np.frombuffer(self._hashes, np.uint64)

    @property
    def sizes(self) -> np.ndarray:
        return np.frombuffer(self._sizes, np.int32).reshape(-1, 2)

    @property
    def sums(self) -> np.ndarray:
        return np.frombuffer(self._sums, np.int64).reshape(-1, 2, self.n_channels)

    @property
    def usable(self) -> np.ndarray:
        """Return the numbers of the rows whose label is not contradicted, ascending."""
        return np.setdiff1d(np.arange(len(self)), list(self._contradicted))

    def code(self, label: str, *, name: str) -> int:
        """Return the position of a class, which is new with its first image.

        Raises:
            DataError: another class has this name but for case or Unicode form.
        """
        if label not in self._codes:
            other = self._forms.setdefault(same_name(label), label)
            if other != label:
                raise DataError(
                    f"{shown(name)}: the class names {other!a} and {label!a} differ only in case or Unicode form; "
                    "use one of them in the dataset and in data/incoming"
                )
            self._codes[label] = len(self.classes)
            self.classes.append(label)
        return self._codes[label]

    def add(self, images: list[tuple[RawImage, bool]], batch: Batch) -> np.ndarray:
        """Take in images (with whether each is incoming) as they were read; return those that become new rows.

        Bytes with two labels are no one's, and close() rejects all of them; but an incoming image never takes away one
        of the dataset: there it is rejected alone. So incoming images come last.
        """
        reasons = dict(batch.rejected)
        new: list[int] = []
        place = -1
        for position, (image, incoming) in enumerate(images):
            code = self.code(image.label, name=image.name)
            if position in reasons:
                self.rejected.append((image.name, reasons[position]))
                continue
            place += 1
            image_id = batch.ids[place].tobytes()
            row = self._row_of.get(image_id)
            if row is None:
                self._row_of[image_id] = len(self.names)
                self.names.append(image.name)
                self._labels.append(code)
                self._official.append(image.split == "test")
                self._incoming.append(incoming)
                new.append(place)
            elif incoming and self._labels[row] != code and not (self._incoming[row] or row in self._contradicted):
                self.rejected.append((image.name, self._against_data_set(row, image.label)))
            elif row in self._contradicted or self._labels[row] != code:
                self._contradicted.setdefault(row, []).append((image.name, image.label))
            elif image.split == "test" and not self._official[row]:
                # The same pixels are in the test set, which stays whole: the row becomes the test image's.
                self.repeated.append((self.names[row], row))
                self.names[row], self._official[row], self._incoming[row] = image.name, True, incoming
            else:
                self.repeated.append((image.name, row))
        self.n_images += len(images)
        self._ids += batch.ids[new].tobytes()
        self._hashes.frombytes(batch.hashes[new].tobytes())
        self._sizes.frombytes(batch.sizes[new].tobytes())
        self._sums.frombytes(batch.sums[new].tobytes())
        return batch.images if len(new) == len(batch.images) else batch.images[new]

    def _against_data_set(self, row: int, label: str) -> str:
        stands = f"{shown(self.classes[self._labels[row]])} in the dataset ({shown(self.names[row])})"
        return (
            f"the same bytes are labelled {stands}, which takes precedence, and {shown(label)} here; remove this image"
        )

    def close(self) -> None:
        """Take no more images; reject those whose bytes came with two labels, and their copies."""
        self._row_of.clear()  # half of the memory
        for row, others in self._contradicted.items():
            labels = sorted({self.classes[self._labels[row]], *(label for _, label in others)})
            reason = f"the same bytes are labelled {' and '.join(map(shown, labels))}; keep them in one class only"
            copies = [name for name, of in self.repeated if of == row]
            self.rejected += [(name, reason) for name in [self.names[row], *copies, *(name for name, _ in others)]]
        self.repeated = [(name, of) for name, of in self.repeated if of not in self._contradicted]


def read_sources(
    raw: Path, incoming: Path, *, max_archive_bytes: int, max_image_bytes: int
) -> Iterator[tuple[RawImage, bool]]:
    """Yield the images of data/raw, and then those of the directory of new images, each with whether it is incoming.

    Raises:
        DataError: a source is damaged, or the directory of new images holds a stray file.
    """
    new = read_folder(incoming, max_image_bytes=max_image_bytes) if incoming.is_dir() else iter(())
    first = list(islice(new, 1))  # lists and checks the directory: a stray file there must not cost an hour of decoding
    for image in read_images(raw, max_archive_bytes=max_archive_bytes, max_image_bytes=max_image_bytes):
        yield image, False
    for image in chain(first, new):
        yield replace(image, name=f"incoming/{image.name}"), True


def take_in(
    images: Iterable[tuple[RawImage, bool]],
    writer: DatasetWriter,
    *,
    size: tuple[int, int],
    color: str,
    max_pixels: int,
    hashes: bool,
    backend: str,
    workers: int | str,
    cluster: str | None = None,
) -> Rows:
    """Read images (each with whether it is incoming), write the valid and new ones as rows, and return what is known.

    Args:
        writer: of image_shape (height, width, channels of color).
        hashes: whether to compute perceptual hashes.
        backend, workers, cluster: see compute.stream().

    Raises:
        DataError: two class names differ by case only, the source is damaged, or the disk is full.
    """
    rows = Rows(writer.image_shape[2])
    most = max(1, min(_BATCH_IMAGES, _BATCH_ROW_BYTES // prod(writer.image_shape)))
    waiting: deque[list[tuple[RawImage, bool]]] = deque()

    def contents() -> Iterator[list[bytes | np.ndarray | Oversized]]:
        for part in _batches(images, most=most):
            waiting.append(part)
            yield [image.data for image, _ in part]

    read = partial(_read, size=size, color=color, max_pixels=max_pixels, hashes=hashes)
    for batch in stream(read, contents(), backend=backend, workers=workers, cluster=cluster):
        writer.append(rows.add(waiting.popleft(), batch))
    rows.close()
    return rows


def check_rejected(rows: Rows, *, limit: float, listed_in: Path) -> None:
    """Refuse rows of which there are none at all, or of whose images more than the fraction `limit` is rejected.

    Raises:
        DataError: names the first rejected images, and the file that lists all.
    """
    if rows.n_images == 0:
        raise DataError("no images to prepare: the dataset and data/incoming are both empty")
    n_rejected = len(rows.rejected)
    if n_rejected == 0 or n_rejected <= limit * rows.n_images:
        return
    first = "; ".join(f"{shown(name)}: {reason}" for name, reason in rows.rejected[:10])
    raise DataError(
        f"{n_rejected} of {rows.n_images} images ({n_rejected / rows.n_images:.1%}) were rejected, more than "
        f"preprocess.max_rejected_fraction ({limit}); fix or delete them, or raise the limit; {listed_in} lists all. "
        f"The first: {first}"
    )


def split_rows(
    rows: Rows, *, near_duplicates: str, near_duplicate_bits: int, seed: int, val_fraction: float, test_fraction: float
) -> Assignment:
    """Return the split of every row, after a check of the classes; rows with two labels are unused. See splits.assign.

    Raises:
        DataError: see splits.check_classes.
    """
    usable = rows.usable
    found = assign(
        ids=rows.ids[usable],
        labels=rows.labels[usable],
        official_test=rows.official_test[usable],
        incoming=rows.incoming[usable],
        hashes=rows.hashes[usable],
        near_duplicates=near_duplicates,
        near_duplicate_bits=near_duplicate_bits,
        seed=seed,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
    )
    splits = np.full(len(rows), SPLIT_CODES[UNUSED], np.int8)
    groups = np.arange(len(rows))
    splits[usable], groups[usable] = found.splits, usable[found.groups]
    dropped = [(int(usable[row]), int(usable[of]), reason) for row, of, reason in found.dropped]
    check_classes(splits, rows.labels, classes=rows.classes, official_test=rows.official_test, incoming=rows.incoming)
    return Assignment(splits, groups, dropped)


def duplicates_of(rows: Rows, assignment: Assignment) -> list[Duplicate]:
    """Return every image that repeats another, exactly or nearly, and what was done about it."""
    names = rows.names
    found = [Duplicate(name, names[row], "exact", "dropped: same bytes") for name, row in rows.repeated]
    found += [Duplicate(names[row], names[of], "near", f"dropped: {why}") for row, of, why in assignment.dropped]
    split_names = {code: name for name, code in SPLIT_CODES.items()}
    first: dict[int, int] = {}
    for row in np.flatnonzero(assignment.splits != SPLIT_CODES[UNUSED]).tolist():
        of = first.setdefault(int(assignment.groups[row]), row)
        if of != row:
            action = f"kept: together in {split_names[int(assignment.splits[row])]}"
            found.append(Duplicate(names[row], names[of], "near", action))
    return found


def index_of(rows: Rows, assignment: Assignment) -> "pd.DataFrame":
    """Return the index of the dataset, one line per row, with the columns below."""
    import pyarrow as pa

    hex_ids = pa.array([row.tobytes().hex() for row in rows.ids])
    splits = np.array([*SPLIT_CODES])[assignment.splits]  # -1, unused, is the last
    columns = {
        "row": pa.array(np.arange(len(rows))),
        "id": hex_ids,
        "label": pa.array(rows.classes).take(pa.array(rows.labels)),
        "split": pa.array(splits.tolist()),
        "source": pa.array(rows.names),
        "height": pa.array(rows.sizes[:, 0]),
        "width": pa.array(rows.sizes[:, 1]),
        "group": hex_ids.take(pa.array(assignment.groups)),
        "incoming": pa.array(rows.incoming),
    }
    index: pd.DataFrame = pa.table(columns).to_pandas()
    return index


def finish_rows(
    rows: Rows, assignment: Assignment, writer: DatasetWriter, *, dataset: str, form: Form
) -> dict[str, Any]:
    """Write index and manifest of the dataset, which makes it whole; return the manifest."""
    mean, std = channel_statistics(rows, assignment, image_shape=writer.image_shape)
    about = {"dataset": dataset, "classes": sorted(rows.classes), "color": form.color, "mean": mean, "std": std}
    return writer.finish(index=index_of(rows, assignment), manifest={**about, "chosen": form.reasons})


def in_words(rows: Rows, assignment: Assignment, manifest: Mapping[str, Any]) -> str:
    """Return one line with the number of images per split, rejected and dropped."""
    counts = ", ".join(f"{split} {sum(of_class.values())}" for split, of_class in manifest["counts"].items())
    dropped = len(rows.repeated) + len(assignment.dropped)
    return (
        f"{rows.n_images} images: {counts}; {len(rows.rejected)} rejected, {dropped} duplicates dropped; "
        f"classes have {class_balance(manifest['counts']['train'])}"
    )


def channel_statistics(
    rows: Rows, assignment: Assignment, *, image_shape: tuple[int, int, int]
) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel, 0 to 255, over all pixels of the train rows; sums are exact."""
    train = rows.sums[assignment.splits == SPLIT_CODES["train"]]
    n_pixels = len(train) * image_shape[0] * image_shape[1]
    mean, std = [], []
    for total, squares in train.sum(axis=0).T.tolist():
        mean.append(total / n_pixels)
        std.append(((squares * n_pixels - total * total) / n_pixels**2) ** 0.5)
    return mean, std


def _read(
    items: list[bytes | np.ndarray | Oversized], *, size: tuple[int, int], color: str, max_pixels: int, hashes: bool
) -> Batch:
    contents = [b"" if isinstance(item, Oversized) else item for item in items]
    batch = read_batch(contents, size=size, color=color, max_pixels=max_pixels, hashes=hashes)
    reasons = dict(batch.rejected)
    for position, item in enumerate(items):
        if isinstance(item, Oversized):
            reasons[position] = f"{item.n_bytes} bytes exceed preprocess.max_image_bytes"
    return batch._replace(rejected=list(reasons.items()))


def _batches(images: Iterable[tuple[RawImage, bool]], *, most: int) -> Iterator[list[tuple[RawImage, bool]]]:
    part: list[tuple[RawImage, bool]] = []
    n_bytes = 0
    for image, incoming in images:
        part.append((image, incoming))
        n_bytes += image.data.nbytes if isinstance(image.data, np.ndarray) else 0
        n_bytes += len(image.data) if isinstance(image.data, bytes) else 0
        if len(part) == most or n_bytes >= _BATCH_BYTES:
            yield part
            part, n_bytes = [], 0
    if part:
        yield part
