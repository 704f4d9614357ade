"""Write a stream of labelled images as rows of one size, and record which were rejected and why."""

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from math import prod
from typing import NamedTuple, Protocol

import numpy as np

from darkroom.compute.stream import stream
from darkroom.data.arrays.dataset import SPLIT_CODES
from darkroom.data.preparation.corrections import DROP, Corrected, Corrections
from darkroom.data.preparation.decoding import Batch, read_batch
from darkroom.data.raw.layouts import RawImage, Unread
from darkroom.data.raw.names import same_name
from darkroom.deployable.images import Form
from darkroom.errors import DataError
from darkroom.project.text import shown

# The size of a worker's task: many small images or a few large ones, so that memory does not depend on the size of
# files or rows (except for a single image above the limit).
_BATCH_IMAGES = 32
_BATCH_BYTES = 4 << 20
_BATCH_ROW_BYTES = 8 << 20


class Duplicate(NamedTuple):
    """An image that repeats another, `of`; `kind` is exact or near, or group if they only share one."""

    source: str
    of: str
    kind: str
    action: str
    label: str
    label_of: str


class Sink(Protocol):
    """A receiver of the pixels of rows, uint8 (n, *image_shape): a DatasetWriter, or one that discards them."""

    image_shape: tuple[int, int, int]

    def append(self, images: np.ndarray, /) -> object: ...


class Rows:
    """The facts about every row except its pixels (about 300 bytes per row), and the rejected images.

    Args:
        corrections: of labels, applied first.

    Attributes:
        classes: class names in the order of their first image; labels are positions in it.
        names, labels, official, incoming, ids, hashes, sizes, sums: one entry per row; official is the split that the
            dataset gives, test or val, else train; see decoding.Batch.
        attributes: the other columns of a label table for each row.
        rejected: (name, reason) of unusable images.
        repeated: (name, row) of images with the bytes and the label of a row.
        n_images: number of all images, rejected and repeated ones included.
        published: the labels of all images before corrections.
    """

    def __init__(self, n_channels: int, corrections: Corrections | None = None) -> None:
        self.n_channels = n_channels
        self.corrections = corrections or Corrections()
        self.published: set[str] = set()
        self.classes: list[str] = []
        self.names: list[str] = []
        self.attributes: list[Mapping[str, str]] = []
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
    def official(self) -> np.ndarray:
        return np.frombuffer(self._official, np.int8)

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
        """Return the position of a class, which is added with its first image.

        Raises:
            DataError: another class has the same name in other case or Unicode form.
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
        """Add images (each with whether it is incoming); return the mask of those that become new rows.

        Images of the dataset with the same bytes but two labels are all rejected by close(). If an incoming image
        contradicts one of the dataset, only the incoming one is rejected, so incoming images must come last.
        """
        reasons = dict(batch.rejected)
        new: list[int] = []
        place = -1
        for position, (image, incoming) in enumerate(images):
            if position in reasons:
                self.code(image.label, name=image.name)
                self.rejected.append((image.name, reasons[position]))
                continue
            place += 1
            image_id = batch.ids[place].tobytes()
            row = self._row_of.get(image_id)
            label = self._corrected(image_id, image, row=row)
            if label is None:
                continue
            code = self.code(label, name=image.name)
            if row is None:
                self._row_of[image_id] = len(self.names)
                self.names.append(image.name)
                self.attributes.append(image.attributes)
                self._labels.append(code)
                self._official.append(SPLIT_CODES[image.split or "train"])
                self._incoming.append(incoming)
                new.append(place)
            elif incoming and self._labels[row] != code and not (self._incoming[row] or row in self._contradicted):
                self.rejected.append((image.name, self._against_data_set(row, label)))
            elif row in self._contradicted or self._labels[row] != code:
                self._contradicted.setdefault(row, []).append((image.name, label))
            elif (code_of := SPLIT_CODES[image.split or "train"]) > self._official[row]:
                # The same pixels are in val or test, so the row moves to that split.
                self.repeated.append((self.names[row], row))
                self.names[row], self._official[row], self._incoming[row] = image.name, code_of, incoming
                self.attributes[row] = image.attributes
            else:
                self.repeated.append((image.name, row))
        self.n_images += len(images)
        self._ids += batch.ids[new].tobytes()
        self._hashes.frombytes(batch.hashes[new].tobytes())
        self._sizes.frombytes(batch.sizes[new].tobytes())
        self._sums.frombytes(batch.sums[new].tobytes())
        return batch.images if len(new) == len(batch.images) else batch.images[new]

    def _corrected(self, image_id: bytes, image: RawImage, *, row: int | None) -> str | None:
        """Return the label of an image after corrections, None if it is dropped."""
        self.published.add(image.label)
        correction = self.corrections.label(image_id, image.label)
        if correction is None:
            return image.label
        is_dropped = correction.new == DROP
        number = None if is_dropped else len(self.names) if row is None else row
        done = Corrected(image.name, correction, number, image.split or "train")
        before = self.corrections.applied.get(image_id)
        if before is None or SPLIT_CODES[done.official] > SPLIT_CODES[before.official]:  # as in add: held out wins
            self.corrections.applied[image_id] = done
        return None if is_dropped else correction.new

    def _against_data_set(self, row: int, label: str) -> str:
        stands = f"{shown(self.classes[self._labels[row]])} in the dataset ({shown(self.names[row])})"
        return (
            f"the same bytes are labelled {stands}, which takes precedence, and {shown(label)} here; remove this image"
        )

    def close(self) -> None:
        """Finish adding images; reject those with the same bytes but two labels."""
        self.corrections.check(self.published)
        self._row_of.clear()  # frees half of the memory
        for row, others in self._contradicted.items():
            labels = sorted({self.classes[self._labels[row]], *(label for _, label in others)})
            reason = f"the same bytes are labelled {' and '.join(map(shown, labels))}; keep them in one class only"
            copies = [name for name, of in self.repeated if of == row]
            self.rejected += [(name, reason) for name in [self.names[row], *copies, *(name for name, _ in others)]]
        self.repeated = [(name, of) for name, of in self.repeated if of not in self._contradicted]


def take_in(
    images: Iterable[tuple[RawImage, bool]],
    writer: Sink,
    *,
    form: Form,
    max_pixels: int,
    hashes: bool,
    backend: str,
    workers: int | str,
    cluster: str | None = None,
    corrections: Corrections | None = None,
) -> Rows:
    """Read images (each with whether it is incoming), write the valid and new ones as rows, and return the facts.

    Args:
        writer: for images of the form's image_shape.
        hashes: whether to compute perceptual hashes.
        backend, workers, cluster: see compute.stream().
        corrections: of labels.

    Raises:
        DataError: two class names differ only in case, the source is damaged, the disk is full, or a correction is to a
            label that no image has.
    """
    rows = Rows(writer.image_shape[2], corrections)
    most = max(1, min(_BATCH_IMAGES, _BATCH_ROW_BYTES // prod(writer.image_shape)))
    waiting: deque[list[tuple[RawImage, bool]]] = deque()

    def contents() -> Iterator[list[bytes | np.ndarray | Unread]]:
        for part in _batches(images, most=most):
            waiting.append(part)
            yield [image.data for image, _ in part]

    read = partial(_read, form=form, max_pixels=max_pixels, hashes=hashes)
    for batch in stream(read, contents(), backend=backend, workers=workers, cluster=cluster):
        writer.append(rows.add(waiting.popleft(), batch))
    rows.close()
    return rows


def _read(items: list[bytes | np.ndarray | Unread], *, form: Form, max_pixels: int, hashes: bool) -> Batch:
    contents = [b"" if isinstance(item, Unread) else item for item in items]
    batch = read_batch(contents, form=form, max_pixels=max_pixels, hashes=hashes)
    reasons = dict(batch.rejected)
    for position, item in enumerate(items):
        if isinstance(item, Unread):
            reasons[position] = item.reason
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
