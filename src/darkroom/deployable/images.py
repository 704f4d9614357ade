"""Decode image files to the pixels of a network's input, for training and serving.

Travels beside package.py inside every registered model and imports nothing of darkroom; every error is a ValueError
with one clear line.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

from .headers import checked_header, undecodable
from .plain_formats import Header

_NO_MEMORY = -4  # StsNoMem of OpenCV
_ROWS = 64  # of an image that are composed with the background at once
_REDUCED = {  # to IMREAD_COLOR_RGB and IMREAD_GRAYSCALE
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


class AboveWhiteError(ValueError):
    """A 16-bit image has values above the white level, which would all become white."""


class Form(NamedTuple):
    """The form of a network's input, and how images are converted to it.

    Attributes:
        size: (height, width) in pixels.
        color: "grey" (1 channel) or "rgb" (3 channels, in this order).
        resize: "stretch" (changes the aspect ratio), "letterbox" (keeps it, with bars of the background) or "crop"
            (keeps it, takes the middle).
        background: the RGB colour behind transparent pixels and of the bars.
        white_level: the value of 16-bit files that becomes 255, at least 255.
    """

    size: tuple[int, int]
    color: str
    resize: str = "stretch"
    background: tuple[int, int, int] = (255, 255, 255)
    white_level: int = 65535

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> "Form":
        """Return the form in a model's metadata or a dataset's manifest; missing keys have defaults."""
        given = {key: metadata[key] for key in ("resize", "white_level") if key in metadata}
        if "background" in metadata:
            given["background"] = tuple(metadata["background"])
        return cls(tuple(metadata["image_shape"][:2]), metadata["color"], **given)

    @property
    def metadata(self) -> dict[str, Any]:
        """The form as values for JSON, see of."""
        return {
            "image_shape": list(self.image_shape),
            "color": self.color,
            "resize": self.resize,
            "background": list(self.background),
            "white_level": self.white_level,
        }

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return (*self.size, 1 if self.color == "grey" else 3)


def prepare(
    item: bytes | np.ndarray, form: Form, *, max_pixels: int, out: np.ndarray | None = None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return an image file's bytes, or pixels, in the form of a network, and its original (height, width).

    A JPEG larger than needed is decoded at a half, quarter or eighth (libjpeg averages blocks in the frequency domain),
    never below the wanted size; `_stretched` does the rest.

    Args:
        item: encoded, or uint8 (H, W), (H, W, 1) or (H, W, 3) RGB.
        max_pixels: maximum height x width of an encoded image.
        out: where to write the result, uint8 of form.image_shape and contiguous; None: a new array.

    Raises:
        ValueError: not an image, an animation, truncated, larger than max_pixels, or values above the white level.
    """
    if isinstance(item, np.ndarray):
        image, size = convert(item, color=form.color), item.shape[:2]
    else:
        header = checked_header(item, max_pixels=max_pixels)
        factor = _reduction(header, form)
        image = _decoded(item, header, form, factor=factor)
        stored = (-(-header.height // factor), -(-header.width // factor))
        turned = image.shape[:2] != stored
        if sorted(image.shape[:2]) != sorted(stored) and header.kind != "HEIC":  # libheif crops
            raise ValueError(
                f"the file says {stored} pixels (height, width) and holds {image.shape[:2]}; save it again"
            )
        size = (header.width, header.height) if turned else (header.height, header.width)
    return resize(image, form, out=out), (int(size[0]), int(size[1]))


def decode(data: bytes, form: Form, *, max_pixels: int) -> np.ndarray:
    """Return an encoded image at its own size: uint8 (H, W, C), C = 1 for the colour "grey", 3 (RGB) for "rgb".

    EXIF orientation is applied, transparent pixels show the background, CMYK and palettes are converted, 16 bits become
    8. A JPEG that is damaged inside but has its end is decoded as far as possible.

    Args:
        form: its size and resize mode are not used.

    Raises:
        ValueError: see prepare.
    """
    return _decoded(data, checked_header(data, max_pixels=max_pixels), form, factor=1)


def brightest(data: bytes) -> int | None:
    """Return the highest value in the file of an image with more than 8 bits; None for floats.

    Raises:
        ValueError: it cannot be decoded.
    """
    pixels = _opencv(data, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    return int(pixels.max()) if pixels.dtype.kind == "u" else None


def convert(pixels: np.ndarray, *, color: str) -> np.ndarray:
    """Return pixels uint8 (H, W), (H, W, 1) or (H, W, 3) RGB as uint8 (H, W, C), C = 1 for "grey", 3 for "rgb".

    Raises:
        ValueError: another dtype or shape.
    """
    grey = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 1)
    if pixels.dtype != np.uint8 or not (grey or (pixels.ndim == 3 and pixels.shape[2] == 3)) or pixels.size == 0:
        raise ValueError(f"expected uint8 pixels (H, W), (H, W, 1) or (H, W, 3), got {pixels.dtype} {pixels.shape}")
    if grey:
        pixels = pixels.reshape(*pixels.shape[:2], 1)
        return pixels if color == "grey" else np.repeat(pixels, 3, axis=2)
    if color == "rgb":
        return pixels
    one_channel: np.ndarray = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)  # OpenCV takes no views
    return one_channel[:, :, np.newaxis]


def resize(image: np.ndarray, form: Form, *, out: np.ndarray | None = None) -> np.ndarray:
    """Return image (H, W, C) at the size of a form; see Form.resize.

    Args:
        out: where to write the result, uint8 (height, width, C) and contiguous; None: a new array, or image itself.
    """
    height, width = form.size
    if form.resize == "crop":
        inner_height, inner_width = _largest_inside(image.shape[:2], form.size)
        top, left = (image.shape[0] - inner_height) // 2, (image.shape[1] - inner_width) // 2
        image = image[top : top + inner_height, left : left + inner_width]
    if form.resize != "letterbox":
        return _stretched(image, form.size, out=out)
    inner_height, inner_width = _largest_inside(form.size, image.shape[:2])
    boxed = np.empty((height, width, image.shape[2]), np.uint8) if out is None else out
    boxed[...] = _background(form)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    boxed[top : top + inner_height, left : left + inner_width] = _stretched(image, (inner_height, inner_width))
    return boxed


def _largest_inside(outer: tuple[int, ...], aspect: tuple[int, ...]) -> tuple[int, int]:
    """Return the largest (height, width) inside `outer` with the aspect ratio of `aspect`, at least 1."""
    (height, width), (rows, columns) = outer[:2], aspect[:2]
    scale = min(height / rows, width / columns)
    return max(1, min(height, round(rows * scale))), max(1, min(width, round(columns * scale)))


def _stretched(image: np.ndarray, size: tuple[int, int], *, out: np.ndarray | None = None) -> np.ndarray:
    """Return image at this (height, width): area averages if a side becomes less than half, else linear.

    INTER_AREA takes five times as long as INTER_LINEAR, which also uses every source pixel as long as no side becomes
    less than half. INTER_AREA repeats pixels in blocks when enlarging, and if one side grows OpenCV uses it for
    neither; so sides that shrink are resized first, and then the others.
    """
    if image.shape[:2] == size:
        if out is None or image is out:
            return image
        out[...] = image
        return out
    image = np.ascontiguousarray(image)
    if image.shape[0] > 2 * size[0] or image.shape[1] > 2 * size[1]:
        smaller = (min(image.shape[0], size[0]), min(image.shape[1], size[1]))
        averaged = np.empty((*smaller, image.shape[2]), np.uint8) if out is None or smaller != size else out
        cv2.resize(image, smaller[::-1], averaged, interpolation=cv2.INTER_AREA)
        if smaller == size:
            return averaged
        image = averaged
    into = np.empty((*size, image.shape[2]), np.uint8) if out is None else out
    cv2.resize(image, size[::-1], into, interpolation=cv2.INTER_LINEAR)
    return into


def _reduction(header: Header, form: Form) -> int:
    """Return the factor by which libjpeg may shrink an image before resizing: 1, 2, 4 or 8."""
    height, width = form.size
    if header.kind != "JPEG" or max(header.width, header.height) < 2 * min(height, width):
        return 1
    least = 8
    for sides in ((header.height, header.width), (header.width, header.height)):  # EXIF may turn it
        wanted = form.size
        if form.resize == "letterbox":
            wanted = _largest_inside(form.size, sides)
        elif form.resize == "crop":
            inner = _largest_inside(sides, form.size)
            # Twice, because the crop is cut at whole pixels of the smaller image.
            wanted = (2 * height * sides[0] // inner[0], 2 * width * sides[1] // inner[1])
        least = min(least, max(1, sides[0] // wanted[0]), max(1, sides[1] // wanted[1]))
    return 1 << (least.bit_length() - 1)


def _decoded(data: bytes, header: Header, form: Form, *, factor: int) -> np.ndarray:
    """Return the pixels of a checked file, uint8 (H, W, C) of the form's colour, at 1/factor of its size."""
    if header.kind == "HEIC":
        return convert(_heic(data), color=form.color)
    if header.white is not None:
        form = form._replace(white_level=header.white)
    if header.has_alpha:
        return convert(_flattened(data, header, form), color=form.color)
    if header.is_deep:
        return convert(_rgb(_opencv(data, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR), form), color=form.color)
    flags = cv2.IMREAD_GRAYSCALE if form.color == "grey" else cv2.IMREAD_COLOR_RGB
    pixels = _opencv(data, flags | _REDUCED[factor])
    pixels = pixels.reshape(*pixels.shape[:2], 1 if form.color == "grey" else 3)  # grey comes without a channel
    return _turned(pixels, header.orientation) if header.kind == "AVIF" else pixels


def _opencv(data: bytes, flags: int) -> np.ndarray:
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(0)  # silent: OpenCV prints several lines for a broken file, the error below one
    pixels: np.ndarray | None = None
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if error.code == _NO_MEMORY:
            raise MemoryError(f"decoding {len(data)} bytes takes more memory than there is") from None
    finally:
        cv2.utils.logging.setLogLevel(level)
    if pixels is None:
        raise ValueError(undecodable(data))
    return pixels


def _eight_bits(pixels: np.ndarray, white_level: int) -> np.ndarray:
    """Return pixels as uint8: 16 bits scaled so that the white level becomes 255, floats so that 1 does."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.float32:
        if not (pixels.min() >= 0 and pixels.max() <= 1):  # also where it is not a number
            raise ValueError(f"float values from {pixels.min():g} to {pixels.max():g}; expected 0 to 1")
        white_level = 1
    elif (most := int(pixels.max())) > white_level:
        raise AboveWhiteError(f"16-bit values up to {most} exceed the white level of {white_level}")
    scaled: np.ndarray = cv2.convertScaleAbs(pixels, alpha=255 / white_level)  # rounds
    return scaled


def _rgb(pixels: np.ndarray, form: Form) -> np.ndarray:
    """Return what OpenCV decoded to grey, BGR or BGRA of any depth as uint8 (H, W, 3) RGB."""
    if pixels.dtype not in (np.uint8, np.uint16, np.float32):
        raise ValueError(f"pixels of type {pixels.dtype}; expected 8 or 16 bits, unsigned, or floats from 0 to 1")
    codes = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}
    n_channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    return _eight_bits(cv2.cvtColor(pixels, codes[n_channels]), form.white_level)


def _flattened(data: bytes, header: Header, form: Form) -> np.ndarray:
    """Return an image with transparency as RGB on the background, uint8 (H, W, 3)."""
    unchanged = _opencv(data, cv2.IMREAD_UNCHANGED)
    color = _rgb(unchanged, form)
    if unchanged.ndim == 2:  # OpenCV ignores the one transparent value of a grey PNG
        alpha = np.where(unchanged == header.transparent_grey, 0, 255).astype(np.uint8)
    elif unchanged.shape[2] == 4:
        alpha = _eight_bits(np.ascontiguousarray(unchanged[..., 3]), header.white or 65535)
        if header.kind == "BMP" and not alpha.any():  # many programs state the mask and leave its bytes 0
            return color
    else:
        return _turned(color, header.orientation)
    background = np.array(form.background, np.uint16)
    for start in range(0, len(color), _ROWS):  # in parts: the products take twice the memory
        rows = slice(start, start + _ROWS)
        opaque = alpha[rows, :, np.newaxis].astype(np.uint16)
        shown = color[rows] * (np.uint16(255) if header.premultiplied else opaque)
        color[rows] = np.minimum((shown + background * (255 - opaque) + 127) // 255, 255)
    return _turned(color, header.orientation)


def _turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """Return an image with its EXIF orientation (1 to 8) applied, which IMREAD_UNCHANGED does not do."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    vertical, horizontal = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(image[:: -1 if vertical else 1, :: -1 if horizontal else 1])


def _background(form: Form) -> np.ndarray:
    color: np.ndarray = convert(np.array(form.background, np.uint8).reshape(1, 1, 3), color=form.color)[0, 0]
    return color


def _heic(data: bytes) -> np.ndarray:
    """Return the pixels of a HEIC photograph, uint8 (H, W, 3) RGB, with its orientation applied."""
    try:
        import pillow_heif  # iPhones write HEIC, which OpenCV cannot read
    except ImportError:
        raise ValueError("a HEIC image: install pillow-heif to read it, or convert it to JPEG") from None
    try:
        return np.asarray(pillow_heif.open_heif(data, convert_hdr_to_8bit=True).to_pillow().convert("RGB"))
    except (ValueError, RuntimeError, OSError, SyntaxError, EOFError):
        raise ValueError(undecodable(data)) from None
