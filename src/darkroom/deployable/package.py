"""The deployable classifier: an ONNX file that says itself what it eats, and the decoder it was trained with.

This one module, with NumPy, OpenCV and ONNX Runtime, is all that a consumer needs: it travels inside the registered
model and imports nothing of darkroom. For the same reason every error here is a ValueError with one clear line.
"""

import base64
import binascii
import json
import os
import re
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def _missing(package: str, error: ImportError) -> ImportError:
    wanted = f"this model needs the package {package}, which cannot be imported ({error})"
    return ImportError(f"{wanted}; install it: pip install {package}", name=error.name)


try:
    import cv2
except ImportError as error:
    raise _missing("opencv-python-headless", error) from None

METADATA_KEY = "darkroom"  # of the ONNX file's metadata_props; its value is JSON
FORMATS = "JPEG, PNG, WebP, BMP, GIF or TIFF"
_DATA_URI = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)

Item = bytes | str | Path | np.ndarray


class Package:
    """A classifier loaded from model.onnx; see `load`. Safe to share between threads.

    Attributes:
        classes: class names, in the order of the probabilities.
        image_shape: (height, width, channels) of what the network takes.
        color: "grey" (1 channel) or "rgb" (3 channels, in this order).
        abstain_below: answers with a smaller probability are marked as abstained; None: never.
        metadata: everything that the ONNX file says about itself.

    >>> package = Package.load("model.onnx")
    >>> package.classes
    ['cat', 'dog']
    >>> answer = package.predict(["photo.png"])[0]
    >>> answer["label"], answer["abstained"]
    ('cat', False)
    """

    MAX_PIXELS = 50_000_000  # refused unread above this: 150 MB as RGB, from a file that may have a few kB

    def __init__(self, session: Any, metadata: dict[str, Any], *, source: str, max_pixels: int) -> None:
        self.metadata = metadata
        self.classes: list[str] = metadata["classes"]
        self.image_shape: tuple[int, int, int] = tuple(metadata["image_shape"])
        self.color: str = metadata["color"]
        self.abstain_below: float | None = metadata.get("abstain_below")
        self.max_pixels = max_pixels
        self._session = session
        self._input = session.get_inputs()[0].name
        self._source = source

    @classmethod
    def load(cls, path: str | Path, *, threads: int | None = None, max_pixels: int = MAX_PIXELS) -> "Package":
        """Return the classifier of an ONNX file that has darkroom's metadata.

        Runs on CUDA where the installed ONNX Runtime has it, otherwise on the CPU.

        Args:
            threads: CPU threads of one inference; None: every core that this process may use.
            max_pixels: largest height x width of an encoded image that is still decoded.

        Raises:
            ValueError: there is no such file, it is not ONNX, or it was not made by darkroom.
            ImportError: ONNX Runtime is not installed.
        """
        try:
            import onnxruntime  # whoever only reads images or trains may not have it
        except ImportError as error:
            raise _missing("onnxruntime", error) from None

        if not Path(path).is_file():
            raise ValueError(f"{path}: no such file; expected the model.onnx of a trained model")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only: warnings about optimisations are of no use to a consumer
        options.intra_op_num_threads = threads or _usable_cores()
        options.inter_op_num_threads = 1
        available = onnxruntime.get_available_providers()
        providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
        try:
            session = onnxruntime.InferenceSession(str(path), sess_options=options, providers=providers)
        except Exception as error:  # the runtime's errors have no common base but this
            raise ValueError(f"{path}: ONNX Runtime cannot load this file: {_one_line(error)}") from None
        metadata = _read_metadata(session, path)
        return cls(session, metadata, source=str(path), max_pixels=max_pixels)

    def decode(self, data: bytes) -> np.ndarray:
        """Return an encoded image as the network takes it: uint8 (height, width, channels), see `image_shape`.

        EXIF orientation is applied, transparency dropped, 16 bits become 8; the image is resized without crop, so its
        aspect ratio is not kept.

        Raises:
            ValueError: data are no image, an animation, truncated, or larger than max_pixels.
        """
        return resize(decode(data, color=self.color, max_pixels=self.max_pixels), size=self.image_shape[:2])

    def image(self, item: Item) -> np.ndarray:
        """Return one item of `predict` as the network takes it: uint8 (height, width, channels).

        An item is the bytes of an image file; a Path; pixels as a uint8 array (H, W), (H, W, 1) or (H, W, 3) RGB of any
        size; or a str, which is the path of a file where there is one of that name, else a `data:` URI or base64 of an
        image file. A program that passes on what strangers send must make bytes of it first: a str can name any file
        that the process may read.

        Raises:
            ValueError: the item is none of these, or not an image.
        """
        if isinstance(item, np.ndarray):
            return resize(_convert(item, color=self.color), size=self.image_shape[:2])
        if isinstance(item, bytes | bytearray | memoryview):
            return self.decode(bytes(item))
        if isinstance(item, Path) or (isinstance(item, str) and os.path.isfile(item)):  # noqa: PTH113  (no error on a long str)
            try:
                return self.decode(Path(item).read_bytes())
            except (OSError, ValueError) as error:
                raise ValueError(f"{item}: {_one_line(error)}") from None
        if isinstance(item, str):
            data = _from_base64(item)
            try:
                return self.decode(data)
            except ValueError as error:
                raise ValueError(f"{_shorten(item)} is not an existing file; decoded from base64: {error}") from None
        raise ValueError(f"expected bytes, a path, base64 or a uint8 array of an image, got {type(item).__name__}")

    def probabilities(self, images: np.ndarray, *, batch_size: int = 256) -> np.ndarray:
        """Return float32 (n, classes), rows sum to 1, for uint8 images (n, height, width, channels), n may be 0.

        Raises:
            ValueError: another shape or type came, or the network answered with something that is not a probability.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != self.image_shape:
            expected = ", ".join(str(side) for side in self.image_shape)
            raise ValueError(f"expected uint8 images (n, {expected}), got {images.dtype} {images.shape}")
        result = np.empty((len(images), len(self.classes)), np.float32)
        for start in range(0, len(images), batch_size):
            batch = np.ascontiguousarray(images[start : start + batch_size])
            result[start : start + batch_size] = self._session.run(None, {self._input: batch})[0]
        if not np.isfinite(result).all():
            raise ValueError(f"{self._source}: the network returned a non-finite probability; retrain it")
        return result

    def predict(self, items: Sequence[Item], *, batch_size: int = 256) -> list[dict[str, Any]]:
        """Return one answer per item; what an item may be, `image` tells.

        An answer holds label (the most probable class), probability (of that class), probabilities (a dict from class)
        and abstained: true where the model has a threshold and the probability is below it; the label stands all the
        same. Only batch_size images are held at a time.

        Raises:
            ValueError: an item is not an image; the message names its position.
        """
        if isinstance(items, str | bytes | Path):
            raise ValueError(f"expected a sequence of images, got one {type(items).__name__}; put it in a list")
        return [
            self._answer(row)
            for start in range(0, len(items), batch_size)
            for row in self.probabilities(self._images(items[start : start + batch_size], start), batch_size=batch_size)
        ]

    def latencies_ms(self, image: np.ndarray, *, repeats: int, warm_up: int = 10) -> np.ndarray:
        """Return how many milliseconds the network took for one image (uint8, already decoded): float64 (repeats,)."""
        result = np.empty(repeats)
        for repeat in range(-warm_up, repeats):
            start = time.perf_counter()
            self.probabilities(image[np.newaxis])
            if repeat >= 0:
                result[repeat] = (time.perf_counter() - start) * 1000
        return result

    def _images(self, items: Sequence[Item], first: int) -> np.ndarray:
        images = np.empty((len(items), *self.image_shape), np.uint8)
        for position, item in enumerate(items):
            try:
                images[position] = self.image(item)
            except ValueError as error:
                raise ValueError(f"item {first + position}: {error}") from None
        return images

    def _answer(self, row: np.ndarray) -> dict[str, Any]:
        best = int(row.argmax())
        probability = float(row[best])
        return {
            "label": self.classes[best],
            "probability": probability,
            "probabilities": dict(zip(self.classes, row.tolist(), strict=True)),
            "abstained": self.abstain_below is not None and probability < self.abstain_below,
        }


def decode(data: bytes, *, color: str, max_pixels: int) -> np.ndarray:
    """Return an encoded image at its own size: uint8 (H, W, C), C = 1 for color "grey", 3 (RGB) for "rgb".

    Raises:
        ValueError: data are no image, an animation, truncated, or have more than max_pixels pixels.
    """
    try:
        width, height, animated = read_header(data)
    except (struct.error, IndexError):
        raise ValueError(f"{_count(data)} not an image; expected {FORMATS}") from None
    if width * height > max_pixels:
        raise ValueError(f"image too large: {width}x{height} pixels; the limit is {max_pixels} pixels")
    if animated:
        raise ValueError("more than one frame (animated, or several pages); expected a still image")
    flag = cv2.IMREAD_GRAYSCALE if color == "grey" else cv2.IMREAD_COLOR_RGB
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(0)  # silent: OpenCV prints several lines for a broken file, the error below one
    pixels: np.ndarray | None
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error:
        pixels = None
    finally:
        cv2.utils.logging.setLogLevel(level)
    if pixels is None:
        raise ValueError(f"{_count(data)} not an image that OpenCV can decode; is the file truncated?")
    image: np.ndarray = pixels
    return image.reshape(*image.shape[:2], -1)  # grey comes without a channel


def resize(image: np.ndarray, *, size: tuple[int, int]) -> np.ndarray:
    """Return image (H, W, C) at size (height, width): area averages where sides shrink, then linear for the others."""
    smaller = (min(image.shape[0], size[0]), min(image.shape[1], size[1]))
    # INTER_AREA keeps every source pixel's weight, so nothing aliases; on the way up it would repeat pixels in blocks,
    # and as soon as one side grows OpenCV uses it for neither.
    for wanted, how in ((smaller, cv2.INTER_AREA), (size, cv2.INTER_LINEAR)):
        if image.shape[:2] != wanted:
            resized = cv2.resize(np.ascontiguousarray(image), wanted[::-1], interpolation=how)
            image = resized.reshape(*wanted, image.shape[2])  # OpenCV drops a single channel
    return image


def _convert(pixels: np.ndarray, *, color: str) -> np.ndarray:
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


def _from_base64(text: str) -> bytes:
    encoded = _DATA_URI.sub("", text, count=1) if text[:5].lower() == "data:" else text
    try:
        data = base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data:
        raise ValueError(f"{_shorten(text)} is neither an existing file nor base64 of an image")
    return data


def read_header(data: bytes) -> tuple[int, int, bool]:
    """Return (width, height, more than one frame?) of an image file from its first bytes: some microseconds.

    A file of a few kilobytes can unpack to gigabytes, so this comes before decoding.

    Raises:
        struct.error, IndexError: data end too early, or are in none of FORMATS.
    """
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        width, height = struct.unpack_from(">II", data, 16)
        return width, height, any(name == b"acTL" for name in _png_chunks(data))
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return (*struct.unpack_from("<HH", data, 6), _gif_is_animated(data))
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:2] == b"BM":
        form, offset = ("<HH", 18) if data[14] == 12 else ("<ii", 18)
        width, height = struct.unpack_from(form, data, offset)
        return abs(width), abs(height), False
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _tiff(data)
    raise IndexError("unknown format")


def _jpeg(data: bytes) -> tuple[int, int, bool]:
    at = 2
    while True:
        # Find the next marker exactly as libjpeg does: a file must not show one size here and another to the decoder.
        while data[at] != 0xFF:
            at += 1
        while data[at] == 0xFF:
            at += 1
        marker, at = data[at], at + 1
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # no segment follows these
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame, whatever the process
            height, width = struct.unpack_from(">HH", data, at + 3)
            return width, height, False
        at += struct.unpack_from(">H", data, at)[0]


def _png_chunks(data: bytes) -> Iterator[bytes]:
    at = 8
    while at + 8 <= len(data) and data[at + 4 : at + 8] != b"IDAT":
        yield data[at + 4 : at + 8]
        at += 12 + int(struct.unpack_from(">I", data, at)[0])


def _gif_is_animated(data: bytes) -> bool:
    at, frames = 13 + _gif_palette(data[10]), 0
    while at < len(data) and data[at] in (0x21, 0x2C):
        if data[at] == 0x2C:  # an image descriptor, its palette, and the code size before the data
            frames += 1
            at += 11 + _gif_palette(data[at + 9])
        else:
            at += 2
        while data[at]:
            at += 1 + data[at]
        at += 1
    return frames > 1


def _gif_palette(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _webp(data: bytes) -> tuple[int, int, bool]:
    kind = data[12:16]
    if kind == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", data, 24)
        return low_width + (high_width << 16) + 1, low_height + (high_height << 16) + 1, bool(data[20] & 2)
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, False
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF, False


def _tiff(data: bytes) -> tuple[int, int, bool]:
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (n_entries,) = struct.unpack_from(f"{order}H", data, start)
    sides: dict[int, int] = {}
    for entry in range(n_entries):
        tag, kind, count = struct.unpack_from(f"{order}HHI", data, start + 2 + 12 * entry)
        if tag in (256, 257):  # width, height
            if kind not in (3, 4) or count != 1:  # no SHORT or LONG: libtiff looks for the number somewhere else
                raise IndexError("size of another type")
            (side,) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, start + 10 + 12 * entry)
            sides.setdefault(tag, side)
    (following,) = struct.unpack_from(f"{order}I", data, start + 2 + 12 * n_entries)
    if len(sides) < 2:
        raise IndexError("no size")
    return sides[256], sides[257], following != 0


def _read_metadata(session: Any, path: str | Path) -> dict[str, Any]:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise ValueError(f"{path}: the file has no metadata {METADATA_KEY!r}; expected a model exported by darkroom")
    try:
        metadata = json.loads(text)
        classes, shape, color = list(metadata["classes"]), list(metadata["image_shape"]), metadata["color"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: the metadata {METADATA_KEY!r} is not valid: {_one_line(error)}") from None
    if color not in ("grey", "rgb") or shape[2:] != [1 if color == "grey" else 3]:
        raise ValueError(f"{path}: color {color!r} and image_shape {shape} in the metadata contradict each other")
    entrance, leaving = session.get_inputs()[0], session.get_outputs()[0]
    if entrance.type != "tensor(uint8)" or entrance.shape[1:] != shape or leaving.shape[1:] != [len(classes)]:
        raise ValueError(
            f"{path}: the network maps {entrance.type} {entrance.shape} to {leaving.shape}, but its metadata says "
            f"tensor(uint8) ['n', {', '.join(map(str, shape))}] to ['n', {len(classes)}]"
        )
    return dict(metadata, classes=classes)


def _usable_cores() -> int:
    # ONNX Runtime counts the machine's cores, and complains when it may not use them all (containers, taskset).
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _count(data: bytes) -> str:
    return "1 byte is" if len(data) == 1 else f"{len(data)} bytes are"


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
