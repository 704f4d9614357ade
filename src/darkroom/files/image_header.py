"""Read the size of an encoded image, and whether it has several frames, from its first bytes: some microseconds each.

A file of a few kilobytes can unpack to gigabytes, so this comes before decoding. package.py holds the same parser,
because it must stand alone; a test holds both against each other.
"""

import struct
from collections.abc import Iterator

FORMATS = "JPEG, PNG, WebP, BMP, GIF or TIFF"


def read_header(data: bytes) -> tuple[int, int, bool]:
    """Return (width, height, more than one frame?) of an image file without decoding it.

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
