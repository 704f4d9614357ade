"""Read format and size of image files without decoding them, and refuse files that must not reach OpenCV.

Travels beside package.py inside every registered model and imports nothing of darkroom. OpenCV trusts the numbers in a
file, such as a chunk's length or a tile's size. So every number that determines an allocation or a loop is first
compared with the size of the image and of the file.
"""

import struct
from collections.abc import Callable, Mapping

from .box_formats import CODESTREAM, check_avif, check_jpeg_2000, read_heif, read_jpeg_2000
from .plain_formats import (
    Header,
    check_jpeg,
    check_png,
    check_tiff,
    read_bmp,
    read_gif,
    read_jpeg,
    read_png,
    read_pnm,
    read_tiff,
    read_webp,
)

FORMATS = "JPEG, PNG, WebP, BMP, GIF, TIFF, JPEG 2000, PNM, AVIF or HEIC"
UNREADABLE = (struct.error, IndexError, ValueError)  # errors of read_header


class TooManyPixelsError(ValueError):
    """An encoded image is larger than the limit; it was not decoded."""


def read_header(data: bytes) -> Header:
    """Return the header of an image file from its first bytes: some microseconds.

    A file of a few kilobytes can unpack to gigabytes, so this comes before decoding.

    Raises:
        struct.error, IndexError: the data end too early, or have none of FORMATS.
        ValueError: an unsupported variant of a format; the message says what to do.
    """
    if data[:3] == b"\xff\xd8\xff":
        return read_jpeg(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return read_png(data)
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return read_gif(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return read_webp(data)
    if data[:2] == b"BM":
        return read_bmp(data)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return read_tiff(data)
    if data[:12] == b"\0\0\0\x0cjP  \r\n\x87\n" or data[:4] == CODESTREAM:
        return read_jpeg_2000(data)
    if data[:2] in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"):
        return read_pnm(data)
    if data[4:8] == b"ftyp":
        return read_heif(data)
    raise IndexError("unknown format")


def checked_header(data: bytes, *, max_pixels: int) -> Header:
    """Return the header of an image file that may be decoded.

    Raises:
        TooManyPixelsError: it has more than max_pixels.
        ValueError: it is not an image, has more than one frame, is truncated, or states sizes beyond the file.
    """
    if not data:
        raise ValueError("0 bytes: the file is empty")
    try:
        header = read_header(data)
    except (struct.error, IndexError):
        raise ValueError(f"{count(data)} not an image; {_foreign(data) or f'expected {FORMATS}'}") from None
    if header.width * header.height > max_pixels:
        raise TooManyPixelsError(f"{header.width}x{header.height} pixels; the limit is {max_pixels} pixels")
    if header.animated:
        raise ValueError("more than one frame (animated, or several pages); expected a still image")
    try:
        if check := _CHECKS.get(header.kind):
            check(data)
    except (struct.error, IndexError):
        raise ValueError(undecodable(data)) from None
    return header


def undecodable(data: bytes) -> str:
    """Return the error for a file that begins as an image but cannot be decoded."""
    return f"{count(data)} not an image that can be decoded; it is truncated, damaged or compressed in an unusual way"


def count(data: bytes) -> str:
    """Return the number of bytes with its verb."""
    return "1 byte is" if len(data) == 1 else f"{len(data)} bytes are"


_CHECKS: Mapping[str, Callable[[bytes], None]] = {
    "JPEG": check_jpeg,
    "PNG": check_png,
    "TIFF": check_tiff,
    "JPEG 2000": check_jpeg_2000,
    "AVIF": check_avif,
}


def _foreign(data: bytes) -> str | None:
    """Return the format of a file that is none of FORMATS, and what to do; None if it is unknown."""
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    known = {
        b"\xff\x0a": "JPEG XL",
        b"\0\0\0\x0cjxl ": "JPEG XL",
        b"8bps": "Photoshop",
        b"\0\0\x01\0": "an icon",
        b"ii+\0": "BigTIFF",
        b"mm\0+": "BigTIFF",
        b"v/1\x01": "OpenEXR",
        b"%pdf": "PDF",
        b"simple  =": "FITS",
    }
    for magic, name in known.items():
        if start.startswith(magic):
            return f"it is {name}; convert it to JPEG or PNG"
    if data[128:132] == b"DICM":
        return "it is DICOM; convert it to PNG"
    if start.startswith((b"<!doctype html", b"<html")):
        return "it is a web page; download the image again"
    if b"<svg" in start:
        return "it is SVG; convert it to PNG"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS; run `git lfs pull`"
    return None
