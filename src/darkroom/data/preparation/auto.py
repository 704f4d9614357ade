"""The choices for `auto`, made from the data, each with its reason."""

import hashlib
import heapq
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from darkroom.data.raw.layouts import Unread, open_images
from darkroom.data.raw.listing import Listing
from darkroom.data.raw.placement import Placed
from darkroom.deployable import images
from darkroom.deployable.headers import checked_header
from darkroom.deployable.images import Form
from darkroom.errors import DataError
from darkroom.project.text import shown

EDGE_STEP = 32  # pixels: networks halve an image up to five times
LEAST_EDGE, GREATEST_EDGE = 32, 224
LEAST_KEPT_EDGE = 16
MOST_SPREAD = 1.5  # of aspect ratios that are stretched to one
FAINT = 16  # times below white: what 12 bits are among 16
MOST_CROPPED = 2.0  # times as long as wide: of longer images less than half would be left


class ImageSize(NamedTuple):
    """A chosen image size in pixels, and why."""

    height: int
    width: int
    reason: str


class ChosenColor(NamedTuple):
    """The word grey or rgb, and why."""

    value: str
    reason: str


def choose_image_size(sizes: Sequence[tuple[int, int]]) -> ImageSize:
    """Return the size for images of these sizes (height, width), at least one.

    Small images (edges of 16 to 224 pixels) that all have one size keep it: resizing would add nothing. Others become
    squares: the median of their shorter sides, as a multiple of 32 between 32 and 224. Most networks were designed for
    224, and the cost grows with the square of it.

    >>> choose_image_size([(480, 640), (600, 400)])
    ImageSize(height=224, width=224, reason='median shorter side 400 px of 2 images')
    """
    n = len(sizes)
    if len(set(sizes)) == 1 and min(sizes[0]) >= LEAST_KEPT_EDGE and max(sizes[0]) <= GREATEST_EDGE:
        return ImageSize(*sizes[0], f"that of {_pictures(n)}")
    median = statistics.median_low([min(size) for size in sizes])
    edge = (median + EDGE_STEP // 2) // EDGE_STEP * EDGE_STEP
    edge = min(max(edge, LEAST_EDGE), GREATEST_EDGE)
    return ImageSize(edge, edge, f"median shorter side {median} px of {_pictures(n)}")


def choose_color(*, n_pictures: int, colored: str | None) -> ChosenColor:
    """Return "grey" where no image was found to be coloured, that is to have channels that differ, else "rgb".

    Args:
        n_pictures: how many were looked at.
        colored: the name of a coloured one, quoted.
    """
    if colored is not None:
        return ChosenColor("rgb", f"{colored} is coloured")
    return ChosenColor("grey", f"no colour in {_pictures(n_pictures)}")


def choose_resize(sizes: Sequence[tuple[int, int]]) -> tuple[str, str]:
    """Return how images of these sizes (height, width) become one size, and why.

    Where they have about one shape, stretching changes all of them alike and nothing is lost. Photographs of many
    shapes are cropped, unless the middle is a small part of them: cropped they were classified best, but the difference
    to stretched ones may be chance (benchmarks/results/resize.json: 0.6 points, 95 % interval -0.3 to 1.5).

    >>> choose_resize([(300, 400), (400, 300)])
    ('crop', 'height/width from 0.75 to 1.3')
    """
    ratios = sorted(height / width for height, width in sizes)
    low, high = ratios[len(ratios) // 20], ratios[-1 - len(ratios) // 20]  # a twentieth on both sides may be odd
    spread = f"height/width from {low:.2g} to {high:.2g}"
    if high <= MOST_SPREAD * low:
        return "stretch", spread
    return ("crop" if max(high, 1 / low) <= MOST_CROPPED else "letterbox"), spread


def choose_white_level(brightest: int | None, faintest: tuple[str, int] | None = None) -> tuple[int, str]:
    """Return the value that becomes 255 in images of 16 bits, and why: the end of a range of 8, 10, 12, 14 or 16 bits.

    Args:
        brightest: the highest value in them, None where there are none.
        faintest: the image whose highest value is the lowest, and that value.

    >>> choose_white_level(3900)
    (4095, 'values up to 3900')
    """
    if brightest is None:
        return 65535, "no images of 16 bits"
    level = next(level for bits in (8, 10, 12, 14, 16) if (level := (1 << bits) - 1) >= brightest)
    reason = f"values up to {brightest}"
    if faintest and faintest[1] * FAINT < level:
        reason += f", but {faintest[0]} has none above {faintest[1]} and will be nearly black: scale such files first"
    return level, reason


def _pictures(n: int) -> str:
    return "1 image" if n == 1 else f"{n} images"


SAMPLE_PICTURES = 200  # the median of 200 sides lies within 4 percentiles of that of all, two times in three
_PLAIN = Form((1, 1), "rgb")
_SMALL_PIXELS = 1 << 16  # decoding one takes less than a millisecond, and tells its size after EXIF orientation


class Sample(NamedTuple):
    """Statistics of a sample of images.

    Attributes:
        sizes: (height, width) of each in pixels.
        colored: the name, quoted, of the first whose channels differ; None where all are shades of grey.
        brightest: the highest value in images of 16 bits; None where there are none.
        faintest: the name, quoted, of the one whose highest value is the lowest, and that value.
    """

    sizes: list[tuple[int, int]]
    colored: str | None
    brightest: int | None = None
    faintest: tuple[str, int] | None = None


class Chosen(NamedTuple):
    """The form of prepared images, and the reasons of choices by `auto`."""

    form: Form
    reasons: dict[str, str]

    def in_words(self) -> str:
        """Return what was chosen, with its reasons, in one line."""
        height, width = self.form.size
        values = {**self.form.metadata, "image_size": f"{height}x{width}"}
        return ", ".join(f"{key} {values[key]} ({reason})" for key, reason in self.reasons.items())


def choose_form(
    look: Callable[[], Sample],
    *,
    image_size: Sequence[int] | Literal["auto"],
    color: str,
    resize: str,
    background: Sequence[int],
    white_level: int | Literal["auto"],
) -> Chosen:
    """Return the form that params ask for; what is `auto` is chosen by a sample of the dataset.

    New images of the drop directory play no role: they must not change the shape of a network that is in use.

    Args:
        look: returns the sample; called only where something is auto.
        image_size: (height, width) in pixels, or auto.
        color: grey, rgb or auto.
        resize: stretch, letterbox, crop or auto.
        background: of the form, RGB.
        white_level: of the form, or auto.
    """
    reasons: dict[str, str] = {}
    if "auto" in (image_size, color, resize, white_level):
        sample = look()
    if image_size == "auto":
        height, width, reasons["image_size"] = choose_image_size(sample.sizes)
    else:
        height, width = (int(edge) for edge in image_size)
    if color == "auto":
        color, reasons["color"] = choose_color(n_pictures=len(sample.sizes), colored=sample.colored)
    if resize == "auto":
        resize, reasons["resize"] = choose_resize(sample.sizes)
    if white_level == "auto":
        white_level, reasons["white_level"] = choose_white_level(sample.brightest, sample.faintest)
    red, green, blue = background
    return Chosen(Form((height, width), color, resize, (red, green, blue), white_level), reasons)


def look(
    directory: Path, *, max_archive_bytes: int, max_image_bytes: int, max_pixels: int, n: int = SAMPLE_PICTURES
) -> Sample:
    """Return what n images of data/raw are like, the same ones every time; of official test images none is taken.

    Which ones is decided by the hashes of their names. Of an archive with class directories only they are read.

    Args:
        directory, max_archive_bytes, max_image_bytes: see layouts.read_images.
        max_pixels: an image with more is not decoded.
        n: how many images; fewer where there are fewer, or where some are of no use.

    Raises:
        DataError: the dataset cannot be read, or none of the images can be decoded.
    """
    found = _sampled(directory, n=n, max_archive_bytes=max_archive_bytes, max_image_bytes=max_image_bytes)
    return sample_of(found, where=directory, max_pixels=max_pixels)


def sample_of(images: Iterable[tuple[str, bytes | np.ndarray | Unread]], *, where: Path, max_pixels: int) -> Sample:
    """Return what images, each with its name, are like.

    Args:
        where: what to call the dataset in an error.
        max_pixels: an image with more is not decoded.

    Raises:
        DataError: none of the images can be decoded.
    """
    found = Sample([], None)
    why = "there are none"
    for name, data in images:
        if isinstance(data, Unread):
            why = f"{shown(name)}: {data.reason}"
            continue
        try:
            size, colored, brightest = _measured(data, max_pixels=max_pixels, color_matters=found.colored is None)
        except ValueError as reason:
            why = f"{shown(name)}: {reason}"
            continue
        found.sizes.append(size)
        own = None if brightest is None else (shown(name), brightest)
        found = Sample(
            found.sizes,
            found.colored or (shown(name) if colored else None),
            _larger(found.brightest, brightest),
            min((one for one in (found.faintest, own) if one), key=lambda one: one[1], default=None),
        )
    if not found.sizes:
        raise DataError(f"{where}: cannot choose what is auto in preprocess: no image can be decoded; {why}")
    return found


def _larger(one: int | None, other: int | None) -> int | None:
    return max((value for value in (one, other) if value is not None), default=None)


def _measured(
    data: bytes | np.ndarray, *, max_pixels: int, color_matters: bool
) -> tuple[tuple[int, int], bool, int | None]:
    """Return (height, width) as seen, whether channels differ, where that matters, and the highest value of 16 bits.

    Big images of 8 bits are decoded in full only where the colour matters.
    """
    brightest = None
    if isinstance(data, np.ndarray):
        pixels = images.convert(data, color="rgb")
    else:
        header = checked_header(data, max_pixels=max_pixels)
        # Floats have no value of 16 bits; theirs are 0 to 1 whatever the white level.
        brightest = (images.brightest(data) or None) if header.is_deep else None
        if not color_matters and header.width * header.height > _SMALL_PIXELS:
            size = (header.width, header.height) if header.orientation >= 5 else (header.height, header.width)
            if header.kind in ("JPEG", "TIFF"):  # their headers are not searched for an orientation
                _, size = images.prepare(data, _PLAIN, max_pixels=max_pixels)
            return size, False, brightest
        pixels = images.decode(data, _PLAIN, max_pixels=max_pixels)
    height, width = pixels.shape[:2]
    same = np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 0], pixels[..., 2])
    return (height, width), not same, brightest


def _sampled(
    directory: Path, *, n: int, max_archive_bytes: int, max_image_bytes: int
) -> Iterator[tuple[str, bytes | np.ndarray | Unread]]:
    with open_images(directory, max_archive_bytes=max_archive_bytes) as images:
        names = (name for name, split in images.names() if split in (None, "train"))
        chosen = frozenset(heapq.nsmallest(n, names, key=_order))
        for image in images.read(max_image_bytes=max_image_bytes, only=chosen):
            yield image.name, image.data


def sampled_in(
    listing: Listing, placed: Iterable[Placed], *, max_image_bytes: int, n: int = SAMPLE_PICTURES
) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of n of the images that may be trained on; see look()."""
    fit = (
        image
        for image in placed
        if image.split in (None, "train")
        and not listing.unread(image.number)
        and listing.n_bytes(image.number) <= max_image_bytes
    )
    chosen = heapq.nsmallest(n, fit, key=lambda image: _order(image.name))
    for image in sorted(chosen, key=lambda image: image.number):  # a compressed tar can only be read forward
        yield image.name, listing.read(image.number)


def _order(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
