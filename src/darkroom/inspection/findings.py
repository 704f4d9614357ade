"""Inspect a user's images as `preprocess` would: the headers of all, and the pixels of a sample.

Counts, rejected images, duplicates and the split come from the functions that `preprocess` uses.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from darkroom.data.arrays.dataset import SPLIT_CODES, UNUSED
from darkroom.data.preparation import prepared
from darkroom.data.preparation.auto import Chosen, choose_form, sample_of, sampled_in
from darkroom.data.preparation.decoding import Batch
from darkroom.data.preparation.params import PreprocessParams
from darkroom.data.preparation.rows import Rows, take_in
from darkroom.data.raw.layouts import RawImage, content_of
from darkroom.deployable.images import prepare
from darkroom.inspection import splitting
from darkroom.inspection.headers import Seen, read_headers
from darkroom.inspection.reading import Source
from darkroom.inspection.splitting import Split

MOST_DECODED = 8000  # images
MOST_DECODED_BYTES = 400 << 20  # of image files: 8,000 photographs from the web, or 130 from a telephone
RUN = 8  # consecutive names are decoded together, because near-duplicates are neighbours
SHEET_CLASSES, SHEET_IMAGES = 40, 6  # maximum that is legible on one sheet


class Findings(NamedTuple):
    """The result of an inspection.

    Attributes:
        source: where the images are, and how they are read.
        seen: every image with its header.
        rows: the usable images, and why others are not usable.
        chosen: the form that preprocess would choose.
        decoded: the names of decoded images; more of the others may be unusable or near-duplicates.
        plain: the names of images of one colour.
        split: of the rows.
        problems: reasons why preprocess would fail.
        warnings: other remarks for the user.
    """

    source: Source
    seen: list[Seen]
    rows: Rows
    chosen: Chosen
    decoded: frozenset[str]
    plain: list[str]
    split: Split
    problems: list[str]
    warnings: list[str]

    def counts(self, split: str | None = None) -> dict[str, int]:
        """Return the number of images of every class, in a split or in all of them, sorted by name."""
        codes = self.split.assignment.splits
        asked = codes != SPLIT_CODES[UNUSED] if split is None else codes == SPLIT_CODES[split]
        numbers = np.bincount(self.rows.labels[asked], minlength=len(self.rows.classes)).tolist()
        return dict(sorted(zip(self.rows.classes, numbers, strict=True)))


def inspect(source: Source, *, params: PreprocessParams, listed_in: Path | str) -> Findings:
    """Inspect the images of a source.

    Args:
        params: of preprocess, with values of `auto`.
        listed_in: the file that will list near-duplicates, or how to get one, for messages.

    Raises:
        DataError: none of the images can be decoded.
    """
    listing = source.listing
    seen = read_headers(
        listing, source.placed, max_pixels=params.max_image_pixels, max_image_bytes=params.max_image_bytes
    )
    chosen = choose_form(
        lambda: sample_of(
            sampled_in(listing, source.placed, max_image_bytes=params.max_image_bytes),
            where=listing.where,
            max_pixels=params.max_image_pixels,
        ),
        **params.model_dump(include={"image_size", "color", "resize", "background", "white_level"}),
    )
    sample = take_in(
        _read(source, _sampled(seen), params=params),
        _Nowhere(chosen.form.image_shape),
        form=chosen.form,
        max_pixels=params.max_image_pixels,
        hashes=True,
        backend="threading",
        workers="auto",
    )
    rows = _rows(seen, sample)
    split = splitting.split(rows, params=params, listed_in=listed_in)
    problems = [split.problem] if split.problem else []
    if len(rows.rejected) > params.max_rejected_fraction * rows.n_images:
        problems.append(
            f"{len(rows.rejected)} of {rows.n_images} images cannot be used, more than a fraction of "
            f"{params.max_rejected_fraction} (preprocess.max_rejected_fraction in presets/folder.yaml); fix or delete "
            "them, or raise it there"
        )
    plain = prepared.plain_images(sample, image_shape=chosen.form.image_shape)
    warnings = [split.warning] if split.warning else []
    return Findings(source, seen, rows, chosen, frozenset(sample.names), plain, split, problems, warnings)


def thumbnails(found: Findings, *, max_pixels: int) -> tuple[list[np.ndarray], list[str]]:
    """Return some images of the first classes as preprocessed for the network, and their classes."""
    numbers = {one.image.name: one.image.number for one in found.seen}
    chosen = []
    for code, label in sorted(enumerate(found.rows.classes), key=lambda pair: pair[1])[:SHEET_CLASSES]:
        own = [found.rows.names[row] for row in np.flatnonzero(found.rows.labels == code).tolist()]
        own = [name for name in own if name in found.decoded]
        chosen += [(label, numbers[name]) for name in own[:: max(1, -(-len(own) // SHEET_IMAGES))]]
    images = {
        number: prepare(found.source.listing.read(number), found.chosen.form, max_pixels=max_pixels)[0]
        for number in sorted(number for _, number in chosen)
    }
    return [images[number] for _, number in chosen], [label for label, _ in chosen]


class _Nowhere:
    """A Sink that discards the pixels of rows."""

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        self.image_shape = image_shape

    def append(self, images: np.ndarray, /) -> None:
        pass


def _sampled(seen: Sequence[Seen]) -> list[Seen]:
    """Return the images to decode: some runs of neighbours of every class, and images without a readable header."""
    unique = {one.id: one for one in reversed(seen)}.values()
    runs: dict[str, list[list[Seen]]] = defaultdict(list)
    for one in sorted((one for one in unique if one.header), key=lambda one: (one.image.label, one.image.name)):
        own = runs[one.image.label]
        if not own or len(own[-1]) == RUN:
            own.append([])
        own[-1].append(one)
    ranked = []
    for own in runs.values():
        own.sort(key=lambda run: hashlib.blake2b(run[0].image.name.encode(), digest_size=8).digest())
        ranked += list(enumerate(own))
    chosen: list[Seen] = []
    n_bytes = 0
    for _, run in sorted(ranked, key=lambda pair: pair[0]):  # the first run of every class, then the second ones
        if len(chosen) >= MOST_DECODED or n_bytes >= MOST_DECODED_BYTES:
            break
        chosen += run
        n_bytes += sum(one.n_bytes for one in run)
    return chosen + [one for one in unique if one.header is None]


def _read(source: Source, sample: Sequence[Seen], *, params: PreprocessParams) -> Iterator[tuple[RawImage, bool]]:
    for image in sorted((one.image for one in sample), key=lambda image: image.number):
        data = content_of(source.listing, image.number, max_image_bytes=params.max_image_bytes)
        yield RawImage(image.name, image.label, image.split, data, image.attributes), False


def _rows(seen: Sequence[Seen], sample: Rows) -> Rows:
    """Return all images as rows; those that were not decoded get hashes that resemble no other."""
    hashes = dict(zip(sample.names, sample.hashes.tolist(), strict=True))
    reasons = dict(sample.rejected)
    known = {one.id: one.image.name for one in seen if one.image.name in hashes or one.image.name in reasons}
    rejected, valid = [], []
    for position, one in enumerate(seen):
        if (reason := reasons.get(known.get(one.id, ""))) is not None:
            rejected.append((position, reason))
        else:
            valid.append(one)
    names = [known.get(one.id, "") for one in valid]
    n = len(valid)
    batch = Batch(
        images=np.empty((n, 0), np.uint8),
        ids=np.frombuffer(b"".join(one.id for one in valid), np.uint8).reshape(n, 32),
        hashes=np.array(
            [hashes.get(name, int.from_bytes(one.id[:8])) for name, one in zip(names, valid, strict=True)], np.uint64
        ),
        sizes=np.zeros((n, 2), np.int32),
        sums=np.zeros((n, 2, sample.n_channels), np.int64),
        rejected=rejected,
    )
    rows = Rows(sample.n_channels)
    rows.add([(RawImage(*one.image[1:4], b"", one.image.attributes), False) for one in seen], batch)
    rows.close()
    return rows
