"""Headers of image files other than those in boxes: JPEG, PNG, GIF, WebP, BMP, TIFF and PNM.

Travels beside headers.py, which chooses by the first bytes. The functions raise struct.error or IndexError if the data
end too early, and ValueError for what is not read.
"""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

MOST_SCANS = 100  # of a JPEG; cameras and web sites write 1 to 12
MOST_TILE_PIXELS = 1 << 20  # of a TIFF whose image is smaller
MOST_PAGES, MOST_TAGS = 16, 1024  # of a TIFF, and of one of its pages
MOST_TEXTS = 8  # of a PNG, compressed; each may unpack to 8 MB
_TIFF_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # by type; else 1


class Header(NamedTuple):
    """The header of an image file.

    Attributes:
        kind: JPEG, PNG, WebP, BMP, GIF, TIFF, JPEG 2000, PNM, AVIF or HEIC.
        width, height: in pixels, as stored, before EXIF orientation.
        animated: whether there is more than one frame or page.
        has_alpha: whether pixels may be transparent.
        is_deep: whether values may have more than 8 bits.
        orientation: of EXIF, 1 to 8, if OpenCV does not apply it: with transparency, and in AVIF.
        transparent_grey: the value of a grey PNG that means transparent.
        white: the value of white, if the file states it.
        premultiplied: whether OpenCV returns colours multiplied by their alpha.
    """

    kind: str
    width: int
    height: int
    animated: bool = False
    has_alpha: bool = False
    is_deep: bool = False
    orientation: int = 1
    transparent_grey: int | None = None
    white: int | None = None
    premultiplied: bool = False


def read_jpeg(data: bytes) -> Header:
    """Return the header of a JPEG."""
    at = 2
    while True:
        # Find the next marker exactly as libjpeg does, so that both read the same size.
        if (at := data.find(b"\xff", at)) < 0:
            raise IndexError("no start of frame")
        while data[at] == 0xFF:
            at += 1
        marker, at = data[at], at + 1
        if _is_alone(marker):
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame, whatever the process
            height, width = struct.unpack_from(">HH", data, at + 3)
            return Header("JPEG", width, height)
        at += struct.unpack_from(">H", data, at)[0]


def _is_alone(marker: int) -> bool:
    """Return whether no segment follows a JPEG marker; libjpeg skips unknown ones in a scan without one."""
    return marker < 0xC0 or 0xD0 <= marker <= 0xD8


def check_jpeg(data: bytes) -> None:
    """Refuse a progressive JPEG with so many scans that decoding takes minutes."""
    if data.count(b"\xff\xda") <= MOST_SCANS:  # also counts those inside comments and thumbnails
        return
    at = n_scans = 0
    while (at := data.find(b"\xff", at)) >= 0 and at + 3 < len(data):
        marker = data[at + 1]
        at += 1 if marker == 0xFF else 2
        if marker == 0xFF or _is_alone(marker):
            continue
        n_scans += marker == 0xDA
        if n_scans > MOST_SCANS:
            raise ValueError(f"a JPEG of more than {MOST_SCANS} scans; save it again as an ordinary one")
        at += struct.unpack_from(">H", data, at)[0]


def read_png(data: bytes) -> Header:
    """Return the header of a PNG."""
    width, height, depth, color = struct.unpack_from(">IIBB", data, 16)
    n_frames, alpha, grey, orientation = 1, color in (4, 6), None, 1
    for name, at, n_bytes in _png_chunks(data):
        if name == b"acTL":
            (n_frames,) = struct.unpack_from(">I", data, at)
        elif name == b"tRNS":
            alpha = True
            if color == 0:  # OpenCV gives a grey of 1, 2 or 4 bits as 8 bits
                (grey,) = struct.unpack_from(">H", data, at)
                grey = grey * 255 // ((1 << depth) - 1) if depth in (1, 2, 4) else grey
        elif name == b"eXIf":
            orientation = _orientation(data[at : at + n_bytes])
    return Header("PNG", width, height, n_frames > 1, alpha, depth == 16, orientation, grey)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, position of the content, bytes of it)."""
    at = 8
    while at + 8 <= len(data):
        (n_bytes,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8], at + 8, n_bytes
        at += 12 + n_bytes


def check_png(data: bytes) -> None:
    """Refuse a chunk that is longer than the file, because OpenCV allocates its stated length, and surplus data.

    Compressed data may grow a thousandfold, and libpng decompresses all texts and what follows the last row.
    """
    width, height, depth, color = struct.unpack_from(">IIBB", data, 16)
    n_unpacked = height * (1 + -(-width * depth * {2: 3, 4: 2, 6: 4}.get(color, 1) // 8))
    n_packed = n_texts = 0
    for name, at, n_bytes in _png_chunks(data):
        if at + n_bytes + 4 > len(data):
            raise IndexError("a chunk ends behind the file")
        n_packed += n_bytes if name == b"IDAT" else 0
        n_texts += name == b"zTXt" or (name == b"iTXt" and data[data.find(b"\0", at) + 1] != 0)
        if n_texts > MOST_TEXTS:
            raise ValueError(f"a PNG of more than {MOST_TEXTS} compressed texts; save it without them")
        if n_packed > n_unpacked * 5 // 4 + (1 << 16):
            raise ValueError("a PNG with more compressed data than an image has; save it again")
        if name == b"IEND":
            return
    raise IndexError("no end")


def read_gif(data: bytes) -> Header:
    """Return the header of a GIF."""
    width, height = struct.unpack_from("<HH", data, 6)
    at, n_frames, alpha = 13 + _gif_palette(data[10]), 0, False
    while at < len(data) and data[at] in (0x21, 0x2C):
        if data[at] == 0x2C:  # an image descriptor, its palette, and the code size before the data
            n_frames += 1
            at += 11 + _gif_palette(data[at + 9])
        else:
            alpha |= data[at + 1] == 0xF9 and bool(data[at + 3] & 1)  # a graphic control extension
            at += 2
        while data[at]:
            at += 1 + data[at]
        at += 1
    return Header("GIF", width, height, n_frames > 1, alpha)


def _gif_palette(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def read_webp(data: bytes) -> Header:
    """Return the header of a WebP image."""
    kind = data[12:16]
    if kind == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", data, 24)
        width, height = low_width + (high_width << 16) + 1, low_height + (high_height << 16) + 1
        orientation = 1
        if data[20] & 8:
            at = data.rfind(b"EXIF")
            orientation = _orientation(data[at + 8 :].removeprefix(b"Exif\0\0")) if at > 0 else 1
        return Header("WebP", width, height, bool(data[20] & 2), bool(data[20] & 16), orientation=orientation)
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return Header("WebP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, has_alpha=bool(bits >> 28 & 1))
    width, height = struct.unpack_from("<HH", data, 26)
    return Header("WebP", width & 0x3FFF, height & 0x3FFF)


def read_bmp(data: bytes) -> Header:
    """Return the header of a BMP."""
    (n_bytes,) = struct.unpack_from("<I", data, 14)
    if n_bytes not in (12, 40, 52, 56, 64, 108, 124):  # OpenCV reads others too, and some of them otherwise
        raise ValueError(f"a BMP with a header of {n_bytes} bytes, which is none that is known; save it as PNG")
    width, height = struct.unpack_from("<HH" if n_bytes == 12 else "<ii", data, 18)
    bits, compression, alpha = 0, 0, 0
    if n_bytes >= 56:  # with a mask for transparency
        bits, compression, alpha = struct.unpack_from("<HI32xI", data, 28)
    return Header("BMP", abs(width), abs(height), has_alpha=bits == 32 and compression == 3 and alpha != 0)


def read_tiff(data: bytes) -> Header:
    """Return the header of a TIFF."""
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    tags, following = _tiff_tags(data, start, order)
    if not {256, 257} <= tags.keys():
        raise IndexError("no size")
    for tag in (256, 257, 278, 322, 323):
        if tag in tags and (tags[tag][0] not in (3, 4) or tags[tag][1] != 1):
            raise IndexError("size of another type")  # libtiff looks for the number somewhere else
    (width, height), samples = (tags[256][2], tags[257][2]), tags.get(277, (3, 1, 1))[2]
    tile = (tags.get(322, tags[256])[2], tags.get(323, tags.get(278, tags[257]))[2])
    if tile[1] == 0xFFFFFFFF:  # all rows in one strip
        tile = (width, height)
    if samples > 4:
        raise ValueError(f"a TIFF of {samples} channels; expected 1 to 4")
    if tile[0] * tile[1] > max(width * height, MOST_TILE_PIXELS):
        raise ValueError(f"a TIFF of {width}x{height} pixels in tiles of {tile[0]}x{tile[1]}; save it again")
    animated, n_pages = False, 1
    while following and not animated:  # thumbnails may follow
        n_pages += 1
        if n_pages > MOST_PAGES:
            raise ValueError(f"a TIFF of more than {MOST_PAGES} pages; expected a still image")
        of_page, following = _tiff_tags(data, following, order)
        animated = not of_page.get(254, (4, 1, 0))[2] & 1
    depth, photometric = tags.get(258, (3, 1, 1)), tags.get(262, (3, 1, 0))[2]
    bits = depth[2] if depth[1] * 2 <= 4 else struct.unpack_from(f"{order}H", data, depth[2])[0]
    if bits > 8 and photometric == 0:  # OpenCV does not invert it
        raise ValueError("a TIFF of 16 bits in which 0 is white; save it as one in which 0 is black")
    extra = tags[338][2] if 338 in tags else None  # of the last channel; OpenCV writes alpha without this tag
    is_grey_beside_another = samples == 2 and photometric < 2 and bits <= 8  # OpenCV reads the grey one
    if is_grey_beside_another and extra != 0:  # 0: another channel, such as near infrared
        raise ValueError("a grey TIFF with transparency, which OpenCV ignores; save it as PNG")
    if samples > 1 and photometric != 2 and (photometric < 2 or bits > 8) and not is_grey_beside_another:
        raise ValueError(f"a TIFF of {samples} channels that are not RGB; save it as PNG")
    if samples > 1 and bits > 8 and tags.get(284, (3, 1, 1))[2] != 1:  # OpenCV mixes them up
        raise ValueError("a TIFF of 16 bits whose channels are stored one after another; save them interleaved")
    if samples == 1 and photometric == 2:  # OpenCV returns memory that it has not written
        raise ValueError("a TIFF of one channel that is said to be RGB; save it again")
    has_alpha = samples == 4 and photometric == 2 and extra != 0
    premultiplied = has_alpha and (extra == 1 if bits > 8 else extra is not None)  # libtiff does it, too, in 8 bits
    return Header("TIFF", width, height, animated, has_alpha, bits > 8, premultiplied=premultiplied)


def _tiff_tags(data: bytes, start: int, order: str) -> tuple[dict[int, tuple[int, int, int]], int]:
    """Return (type, count, value or where the values are) by tag of a TIFF's directory, and where the next one is."""
    (n_entries,) = struct.unpack_from(f"{order}H", data, start)
    if n_entries > MOST_TAGS:
        raise ValueError(f"a TIFF with {n_entries} tags on a page; expected at most {MOST_TAGS}")
    tags: dict[int, tuple[int, int, int]] = {}
    for at in range(start + 2, start + 2 + 12 * n_entries, 12):
        tag, kind, count = struct.unpack_from(f"{order}HHI", data, at)
        (value,) = struct.unpack_from(f"{order}{'H' if kind == 3 and count < 3 else 'I'}", data, at + 8)
        tags.setdefault(tag, (kind, count, value))
    return tags, int(struct.unpack_from(f"{order}I", data, start + 2 + 12 * n_entries)[0])


def check_tiff(data: bytes) -> None:
    """Refuse lists that are longer than the file in total, because libtiff allocates their stated length."""
    order = "<" if data[:2] == b"II" else ">"
    tags, _ = _tiff_tags(data, struct.unpack_from(f"{order}I", data, 4)[0], order)
    if sum(count * _TIFF_BYTES.get(kind, 1) for kind, count, _ in tags.values()) > len(data):
        raise IndexError("lists end behind the file, or overlap")


def _orientation(exif: bytes) -> int:
    """Return the orientation in EXIF data, which are a TIFF without an image: 1 to 8."""
    try:
        order = "<" if exif[:2] == b"II" else ">"
        tags, _ = _tiff_tags(exif, struct.unpack_from(f"{order}I", exif, 4)[0], order)
    except struct.error:
        return 1
    value = tags.get(274, (3, 1, 1))[2]
    return value if value in range(1, 9) else 1


def read_pnm(data: bytes) -> Header:
    """Return the header of a PBM, PGM or PPM image."""
    # As OpenCV reads them: a comment ends at either, and not even a comment follows a number at once.
    between = rb"(?:\s|#[^\n\r]*[\n\r])"  # one of them: nested repetitions would take for ever
    numbers = re.match(rb"P[1-6]%b+(\d{1,9})\s%b*(\d{1,9})\s%b*(\d*)" % (between, between, between), data[:4096])
    if numbers is None:
        raise IndexError("no size")
    width, height = int(numbers[1]), int(numbers[2])
    if data[1:2] in b"14":  # bits
        return Header("PNM", width, height)
    white = int(numbers[3] or 0)
    if not 255 <= white <= 65535:
        raise ValueError(f"a PNM of values up to {white}; expected 255 to 65,535, save it as PNG")
    return Header("PNM", width, height, is_deep=white > 255, white=None if white == 255 else white)
