"""Headers of the image files that are made of boxes (ISO 14496-12): JPEG 2000, AVIF and HEIC.

Travels beside headers.py, which chooses by the first bytes. The functions raise struct.error or IndexError if the data
end too early, and ValueError for what is not read.
"""

import re
import struct
from collections.abc import Iterator

from .plain_formats import MOST_TAGS, MOST_TILE_PIXELS, Header

MOST_TILES = 4096  # of a JPEG 2000 file
MOST_UNITS, MOST_PIECES = 16, 4  # of an AVIF item's stream, which mostly has 3, and of the item: one per layer
CODESTREAM = b"\xff\x4f\xff\x51"  # the beginning of a JPEG 2000 codestream
_COD, _COC, _POC, _SOT, _SOD, _EOC = 0xFF52, 0xFF53, 0xFF5F, 0xFF90, 0xFF93, 0xFFD9  # markers in it


def read_jpeg_2000(data: bytes) -> Header:
    """Return the header of a JPEG 2000 image."""
    at = _codestream(data)
    right, bottom, left, top, tile_width, tile_height = struct.unpack_from(">IIIIII", data, at + 8)
    n_channels, depth = struct.unpack_from(">HB", data, at + 40)
    width, height = right - left, bottom - top
    if min(width, height) < 1 or n_channels not in (1, 3, 4) or width * height > MOST_TILES * tile_width * tile_height:
        raise ValueError(f"a JPEG 2000 image of {width}x{height} pixels and {n_channels} channels; save it again")
    return Header("JPEG 2000", width, height, has_alpha=n_channels == 4, is_deep=depth & 0x7F > 7)


def check_jpeg_2000(data: bytes) -> None:
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
    if data[:4] == CODESTREAM:
        return 0
    for name, at, _ in _boxes(data, 0, len(data)):
        if name == b"jp2c" and data[at : at + 4] == CODESTREAM:
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


def read_heif(data: bytes) -> Header:
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


def check_avif(data: bytes) -> None:
    """Refuse an AVIF whose coded frames are larger than stated, because the decoder allocates for the frames.

    A grid has many frames, some with parts outside the image, and as many again for transparency.
    """
    header, n_pixels = read_heif(data), 0
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
