"""The choices for `auto`, made from the data, each with its reason."""

import hashlib
import heapq
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from darkroom.data.raw.layouts import Unread, content_of, open_images
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
MOST_SPREAD = 1.5  # maximum ratio of aspect ratios for stretching
MOST_CROPPED = 2.0  # maximum aspect ratio for cropping: less than half of longer images would be left
FAINT = 16  # times darker than white: 12 bits among 16


class ImageSize(NamedTuple):
    """A chosen image size in pixels, and the reason."""

    height: int
    width: int
    reason: str


class ChosenColor(NamedTuple):
    """The colour mode, grey or rgb, and the reason."""

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
    """Return "rgb" if an image was found to have different channels, else "grey".

    Args:
        n_pictures: number of images that were examined.
        colored: the quoted name of a coloured image, None if there is none.
    """
    if colored is not None:
        return ChosenColor("rgb", f"{colored} is coloured")
    return ChosenColor("grey", f"no colour in {_pictures(n_pictures)}")


def choose_resize(sizes: Sequence[tuple[int, int]]) -> tuple[str, str]:
    """Return how images of these sizes (height, width) are resized to one size, and the reason.

    Images of about one shape are stretched, which changes all of them alike and loses nothing. Photographs of many
    shapes are cropped, unless the middle is a small part of them. Cropped ones were classified best, but the difference
    from stretched ones may be chance (benchmarks/results/resize.json).

    >>> choose_resize([(300, 400), (400, 300)])
    ('crop', 'height/width from 0.75 to 1.3')
    """
    ratios = sorted(height / width for height, width in sizes)
    low, high = ratios[len(ratios) // 20], ratios[-1 - len(ratios) // 20]  # without the extreme 5 % on both sides
    spread = f"height/width from {low:.2g} to {high:.2g}"
    if high <= MOST_SPREAD * low:
        return "stretch", spread
    return ("crop" if max(high, 1 / low) <= MOST_CROPPED else "letterbox"), spread


def choose_white_level(brightest: int | None, faintest: tuple[str, int] | None = None) -> tuple[int, str]:
    """Return the value of 16-bit images that becomes 255, and the reason: the end of 8, 10, 12, 14 or 16 bits.

    Args:
        brightest: the highest value in 16-bit images, None if there are none.
        faintest: the quoted name of the image with the lowest maximum, and this maximum.

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
_SMALL_PIXELS = 1 << 16  # decoding takes less than a millisecond, and gives the size after EXIF orientation


class Sample(NamedTuple):
    """Statistics of a sample of images.

    Attributes:
        sizes: (height, width) of each in pixels.
        colored: the quoted name of the first whose channels differ; None if all are grey.
        brightest: the highest value in 16-bit images; None if there are none.
        faintest: the quoted name of the 16-bit image with the lowest maximum, and this maximum.
    """

    sizes: list[tuple[int, int]]
    colored: str | None
    brightest: int | None = None
    faintest: tuple[str, int] | None = None


class Chosen(NamedTuple):
    """The form of prepared images, and the reasons for choices of `auto`."""

    form: Form
    reasons: dict[str, str]

    def in_words(self) -> str:
        """Return the choices and their reasons in one line."""
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
    """Return the form that params set; values of `auto` are chosen from a sample of the dataset.

    Images in data/incoming are not used: they must not change the input shape of an existing network.

    Args:
        look: returns the sample; called only if something is auto.
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
    """Return statistics of n images of data/raw, the same ones every time, without official test images.

    The hashes of their names decide which. In archives with class directories only the sampled images are read.

    Args:
        directory, max_archive_bytes, max_image_bytes: see layouts.read_images.
        max_pixels: an image with more is not decoded.
        n: maximum number of images.

    Raises:
        DataError: the dataset cannot be read, or none of the images can be decoded.
    """
    found = _sampled(directory, n=n, max_archive_bytes=max_archive_bytes, max_image_bytes=max_image_bytes)
    return sample_of(found, where=directory, max_pixels=max_pixels)


def sample_of(images: Iterable[tuple[str, bytes | np.ndarray | Unread]], *, where: Path, max_pixels: int) -> Sample:
    """Return statistics of images, each with its name.

    Args:
        where: the dataset's name in errors.
        max_pixels: an image with more is not decoded.

    Raises:
        DataError: none of the images can be decoded.
    """
    sizes: list[tuple[int, int]] = []
    deep: list[tuple[str, int]] = []
    first_colored: str | None = None
    why = "there are none"
    for name, data in images:
        if isinstance(data, Unread):
            why = f"{shown(name)}: {data.reason}"
            continue
        try:
            size, colored, brightest = _measured(data, max_pixels=max_pixels, color_matters=first_colored is None)
        except ValueError as reason:
            why = f"{shown(name)}: {reason}"
            continue
        sizes.append(size)
        if colored and first_colored is None:
            first_colored = shown(name)
        if brightest is not None:
            deep.append((shown(name), brightest))
    if not sizes:
        raise DataError(f"{where}: cannot choose what is auto in preprocess: no image can be decoded; {why}")
    faintest = min(deep, key=lambda one: one[1], default=None)
    return Sample(sizes, first_colored, max((value for _, value in deep), default=None), faintest)


def _measured(
    data: bytes | np.ndarray, *, max_pixels: int, color_matters: bool
) -> tuple[tuple[int, int], bool, int | None]:
    """Return (height, width) after orientation, whether channels differ, and the highest 16-bit value.

    Large 8-bit images are decoded in full only if the colour matters.
    """
    brightest = None
    if isinstance(data, np.ndarray):
        pixels = images.convert(data, color="rgb")
    else:
        header = checked_header(data, max_pixels=max_pixels)
        # The white level does not apply to floats, which range from 0 to 1.
        brightest = (images.brightest(data) or None) if header.is_deep else None
        if not color_matters and header.width * header.height > _SMALL_PIXELS:
            size = (header.width, header.height) if header.orientation >= 5 else (header.height, header.width)
            if header.kind in ("JPEG", "TIFF"):  # headers.py does not read their orientation
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
) -> Iterator[tuple[str, bytes | Unread]]:
    """Yield name and content of n of the images that may be trained on; see look()."""
    ranked = sorted((image for image in placed if image.split in (None, "train")), key=lambda image: _order(image.name))
    fit = (
        image for image in ranked if listing.unread(image.number) or listing.n_bytes(image.number) <= max_image_bytes
    )
    chosen = list(islice(fit, n))  # looks at few files
    for image in sorted(chosen, key=lambda image: image.number):  # a compressed tar can only be read forward
        yield image.name, content_of(listing, image.number, max_image_bytes=max_image_bytes)


def _order(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
