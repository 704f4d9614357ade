"""Read format and size of image files without decoding them, and refuse files that must not reach OpenCV.

Travels beside package.py inside every registered model and imports nothing of darkroom. OpenCV trusts the numbers in a
file, such as a chunk's length or a tile's size. So every number that determines an allocation or a loop is first
compared with the size of the image and of the file.
"""

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

FORMATS = "JPEG, PNG, WebP, BMP, GIF, TIFF, JPEG 2000, PNM, AVIF or HEIC"
UNREADABLE = (struct.error, IndexError, ValueError)  # errors of read_header
MOST_SCANS = 100  # of a JPEG; cameras and web sites write 1 to 12
MOST_TILES = 4096  # of a JPEG 2000 file
MOST_TILE_PIXELS = 1 << 20  # of a TIFF whose image is smaller
MOST_PAGES, MOST_TAGS = 16, 1024  # of a TIFF, and of one of its pages
MOST_TEXTS = 8  # of a PNG, compressed; each may unpack to 8 MB
MOST_UNITS, MOST_PIECES = 16, 4  # of an AVIF item's stream, which mostly has 3, and of the item: one per layer
_TIFF_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # by type; else 1
_CODESTREAM = b"\xff\x4f\xff\x51"  # the beginning of a JPEG 2000 codestream
_COD, _COC, _POC, _SOT, _SOD, _EOC = 0xFF52, 0xFF53, 0xFF5F, 0xFF90, 0xFF93, 0xFFD9  # markers in it


class TooManyPixelsError(ValueError):
    """An encoded image is larger than the limit; it was not decoded."""


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


def read_header(data: bytes) -> Header:
    """Return the header of an image file from its first bytes: some microseconds.

    A file of a few kilobytes can unpack to gigabytes, so this comes before decoding.

    Raises:
        struct.error, IndexError: the data end too early, or have none of FORMATS.
        ValueError: an unsupported variant of a format; the message says what to do.
    """
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _png(data)
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return _gif(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:2] == b"BM":
        return _bmp(data)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _tiff(data)
    if data[:12] == b"\0\0\0\x0cjP  \r\n\x87\n" or data[:4] == _CODESTREAM:
        return _jpeg_2000(data)
    if data[:2] in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"):
        return _pnm(data)
    if data[4:8] == b"ftyp":
        return _heif(data)
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


def _jpeg(data: bytes) -> Header:
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


def _check_jpeg(data: bytes) -> None:
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


def _png(data: bytes) -> Header:
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


def _check_png(data: bytes) -> None:
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


def _gif(data: bytes) -> Header:
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


def _webp(data: bytes) -> Header:
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


def _bmp(data: bytes) -> Header:
    (n_bytes,) = struct.unpack_from("<I", data, 14)
    if n_bytes not in (12, 40, 52, 56, 64, 108, 124):  # OpenCV reads others too, and some of them otherwise
        raise ValueError(f"a BMP with a header of {n_bytes} bytes, which is none that is known; save it as PNG")
    width, height = struct.unpack_from("<HH" if n_bytes == 12 else "<ii", data, 18)
    bits, compression, alpha = 0, 0, 0
    if n_bytes >= 56:  # with a mask for transparency
        bits, compression, alpha = struct.unpack_from("<HI32xI", data, 28)
    return Header("BMP", abs(width), abs(height), has_alpha=bits == 32 and compression == 3 and alpha != 0)


def _tiff(data: bytes) -> Header:
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


def _check_tiff(data: bytes) -> None:
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


def _jpeg_2000(data: bytes) -> Header:
    at = _codestream(data)
    right, bottom, left, top, tile_width, tile_height = struct.unpack_from(">IIIIII", data, at + 8)
    n_channels, depth = struct.unpack_from(">HB", data, at + 40)
    width, height = right - left, bottom - top
    if min(width, height) < 1 or n_channels not in (1, 3, 4) or width * height > MOST_TILES * tile_width * tile_height:
        raise ValueError(f"a JPEG 2000 image of {width}x{height} pixels and {n_channels} channels; save it again")
    return Header("JPEG 2000", width, height, has_alpha=n_channels == 4, is_deep=depth & 0x7F > 7)


def _check_jpeg_2000(data: bytes) -> None:
    """Refuse tiny tiles, precincts and code blocks, and many layers: they take far more memory and time than pixels."""
    start = _codestream(data)
    right, bottom, left, top, tile_width, tile_height = struct.unpack_from(">IIIIII", data, start + 8)
    width, height = min(tile_width, right - left), min(tile_height, bottom - top)
    n_tiles = -(-(right - left) // tile_width) * -(-(bottom - top) // tile_height)
    n_bytes, is_whole = 0, True
    for marker, at in _segments(data, start + 2):
        is_whole &= marker != _SOT
        if marker == _COD and is_whole:
            n_bytes += n_tiles * _bytes_of_parts(data, at, width, height)
        elif marker in (_COD, _COC, _POC):
            raise ValueError("a JPEG 2000 image whose parts are coded in different ways; save it again")
    limit = 3 * (right - left) * (bottom - top) + (1 << 25)  # the constant is for small images in ordinary parts
    if n_bytes > limit:
        said = f"a JPEG 2000 image in tiny parts, or in many layers: about {n_bytes} bytes for them"
        raise ValueError(f"{said}, the limit is {limit}; save it again")


def _segments(data: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Yield (marker, position of its content) of each segment of a JPEG 2000 codestream, without the image data."""
    following = 0
    while at + 4 <= len(data):
        marker, n_bytes = struct.unpack_from(">HH", data, at)
        if marker == _SOD:
            if following <= at:
                raise IndexError("a part that ends before its data")
            at = following
            continue
        if marker == _EOC or marker < 0xFF00:  # OpenJPEG ends here too
            return
        yield marker, at + 4
        if marker == _SOT:
            (length,) = struct.unpack_from(">I", data, at + 6)
            if 0 < length < 14:
                raise IndexError("a part shorter than its head")
            following = at + length if length else len(data)
        at += 2 + n_bytes


def _bytes_of_parts(data: bytes, at: int, width: int, height: int) -> int:
    """Return about how many bytes OpenJPEG allocates for the precincts and code blocks of one channel of a tile.

    The factors were measured.

    Args:
        at: position of the content of the marker COD (ISO/IEC 15444-1, A.6.1).
    """
    style, _, n_layers, _, n_levels, block_width, block_height = struct.unpack_from(">BBHBBBB", data, at)
    n_bytes = 0
    for level in range(min(n_levels, 32) + 1):  # from the lowest resolution
        sides = data[at + 10 + level] if style & 1 else 0xFF
        wide, high = -(-width // (1 << (n_levels - level))), -(-height // (1 << (n_levels - level)))
        across, down = sides & 15, sides >> 4
        n_precincts = -(-wide // (1 << across)) * -(-high // (1 << down))
        block = (1 << min(across, block_width + 2), 1 << min(down, block_height + 2))
        n_blocks = -(-wide // block[0]) * -(-high // block[1])
        n_bytes += 300 * n_blocks + (1500 + 2 * n_layers) * n_precincts
    return n_bytes


def _codestream(data: bytes) -> int:
    """Return where the codestream of a JPEG 2000 file begins, ignoring its marker in other boxes."""
    if data[:4] == _CODESTREAM:
        return 0
    for name, at, _ in _boxes(data, 0, len(data)):
        if name == b"jp2c" and data[at : at + 4] == _CODESTREAM:
            return at
    raise IndexError("no codestream")


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start and end of the content) of the boxes of JPEG 2000, AVIF and HEIC files (ISO 14496-12)."""
    while at + 8 <= end:
        n_bytes, name = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if n_bytes == 1:
            (n_bytes,), start = struct.unpack_from(">Q", data, start), start + 8
        following = end if n_bytes == 0 else at + n_bytes
        if following < start:
            raise IndexError("a box shorter than its head")
        yield name, start, following
        at = following


def _pnm(data: bytes) -> Header:
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


def _heif(data: bytes) -> Header:
    """Return the header of an AVIF or HEIC file: of its largest image; the others are thumbnails or alpha."""
    (n_bytes,) = struct.unpack_from(">I", data, 0)
    brands = {data[at : at + 4] for at in range(8, min(n_bytes, 256), 4)}
    kind = "AVIF" if brands & {b"avif", b"avis"} else "HEIC"
    if kind == "HEIC" and not brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1"}:
        raise IndexError("unknown brand")
    # Coded pixels may contain any bytes.
    meta = next((data[start:end] for name, start, end in _boxes(data, 0, len(data)) if name == b"meta"), data)
    sizes = [struct.unpack_from(">II", meta, match.end() + 4) for match in re.finditer(b"ispe", meta)]
    if not sizes:
        raise IndexError("no size")
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    animated = data[8:12] in (b"avis", b"hevc")
    if kind == "HEIC":
        return Header(kind, width, height, animated)
    turned, mirrored, config = meta.find(b"irot"), meta.find(b"imir"), meta.index(b"av1C")
    quarters = meta[turned + 4] & 3 if turned > 0 else 0  # anticlockwise
    orientation = (1, 8, 3, 6)[quarters]
    if mirrored > 0:  # after the turn: 0 top and bottom, 1 left and right change places
        orientation = ((4, 5, 2, 7), (2, 7, 4, 5))[meta[mirrored + 4] & 1][quarters]
    bits = {0: 8, 2: 10, 3: 12}.get(meta[config + 6] >> 5 & 3, 8)
    alpha = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha" in meta
    white = (1 << bits) - 1 if alpha and bits > 8 else None
    return Header(kind, width, height, animated, alpha, orientation=orientation, white=white)


def _check_avif(data: bytes) -> None:
    """Refuse an AVIF whose coded frames are larger than stated, because the decoder allocates for the frames.

    A grid has many frames, some with parts outside the image, and as many again for transparency.
    """
    header, n_pixels = _heif(data), 0
    stated = header.width * header.height
    meta = next((start for name, start, _ in _boxes(data, 0, len(data)) if name == b"meta"), len(data))
    where: dict[bytes, tuple[int, int]] = {}
    for name, start, end in _boxes(data, meta + 4, len(data)):
        where.setdefault(name, (start, end))
    inner, _ = where.get(b"idat", (0, 0))
    for at, end, is_whole in _pieces(data, *where.get(b"iloc", (0, 0)), inner=inner):
        size, at = _av1_frame_size(data, at, end)
        if not is_whole and at != end:  # the next unit may hide a size, and in another piece
            raise ValueError("an AVIF whose items are in pieces; save it again")
        if size:
            n_pixels += size[0] * size[1]
            if size[0] * size[1] > max(stated, MOST_TILE_PIXELS) or n_pixels > 8 * stated + MOST_TILE_PIXELS:
                said = f"an AVIF of {header.width}x{header.height} pixels whose frames have {n_pixels} or more"
                raise ValueError(f"{said}; save it again")
    if n_pixels == 0:
        raise IndexError("no frames")


def _pieces(data: bytes, at: int, end: int, *, inner: int) -> Iterator[tuple[int, int, bool]]:
    """Yield (start, end) of every piece of the items that the box iloc lists, and whether it is the whole item.

    Args:
        at, end: of its content.
        inner: position of the content of the box idat.
    """
    version, lengths, more = data[at], data[at + 4], data[at + 5]
    widths = (lengths >> 4, lengths & 15, more >> 4, more & 15 if version else 0)  # offset, length, base, index
    wide = 4 if version == 2 else 2

    def number(n_bytes: int) -> int:
        nonlocal at
        at += n_bytes
        if at > end:
            raise IndexError("the list of items ends too early")
        return int.from_bytes(data[at - n_bytes : at], "big")

    at += 6
    n_items = number(wide)
    for _ in range(n_items):
        number(wide)  # the item
        method = number(2) & 15 if version else 0
        number(2)  # the file
        base, n_extents = number(widths[2]), number(2)
        if n_items > MOST_TAGS or not 0 < n_extents <= MOST_PIECES:
            raise ValueError("an AVIF of many items or pieces, or of empty ones; save it again")
        for _ in range(n_extents):
            number(widths[3])
            start, length = base + (inner if method == 1 else 0) + number(widths[0]), number(widths[1])
            yield start, start + length if length else len(data), n_extents == 1


def _av1_frame_size(data: bytes, at: int, end: int) -> tuple[tuple[int, int] | None, int]:
    """Return the largest (width, height) that a sequence header of an AV1 stream allows, and where its last unit ends.

    There may be several headers, each for the frames after it. The size is None without one, as in what is not AV1.

    AV1 Bitstream & Decoding Process Specification, sections 5.3 to 5.5.
    """
    found = None
    for _ in range(MOST_UNITS + 1):
        if at >= min(end, len(data)) or not data[at] & 2:  # without a length it is the last unit, or not AV1
            return found, at
        kind, at = data[at] >> 3 & 15, at + 2 if data[at] & 4 else at + 1
        n_bytes = shift = 0
        while True:  # leb128
            n_bytes |= (data[at] & 127) << shift
            at, shift = at + 1, shift + 7
            if not data[at - 1] & 128 or shift > 56:
                break
        if kind == 1:
            size = _sequence_size(data[at : at + min(n_bytes, 128)])
            found = max(found or size, size, key=lambda one: one[0] * one[1])
        at += n_bytes
    raise ValueError(f"an AVIF with a frame of more than {MOST_UNITS} units; save it again")


def _sequence_size(data: bytes) -> tuple[int, int]:
    bits = f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}"
    at = 4  # profile, still picture

    def number(n_bits: int) -> int:
        nonlocal at
        at += n_bits
        return int(bits[at - n_bits : at] or "0", 2)

    if number(1):  # a reduced header, as of nearly every still picture
        number(5)
    else:
        if number(2):  # timing, or delays at the display
            raise ValueError("an AVIF with the header of a video; save it again as a still image")
        for _ in range(number(5) + 1):
            number(12)
            if number(5) > 7:
                number(1)
    width_bits, height_bits = number(4) + 1, number(4) + 1
    return number(width_bits) + 1, number(height_bits) + 1


_CHECKS: Mapping[str, Callable[[bytes], None]] = {
    "JPEG": _check_jpeg,
    "PNG": _check_png,
    "TIFF": _check_tiff,
    "JPEG 2000": _check_jpeg_2000,
    "AVIF": _check_avif,
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
