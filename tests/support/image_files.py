"""Image files of every kind, made here: stills, animations, cut ones, and files that claim more than they hold."""

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
from PIL import Image


def picture(height: int = 48, width: int = 64) -> np.ndarray:
    blocks = np.random.default_rng(3).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(blocks, (width, height), interpolation=cv2.INTER_CUBIC))


def encoded(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(picture()) if image is None else image).save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x112] = orientation
    return exif


def half_transparent() -> Image.Image:
    """Return the picture as RGBA whose right half is transparent."""
    image = Image.fromarray(picture()).convert("RGBA")
    alpha = np.full(picture().shape[:2], 255, np.uint8)
    alpha[:, 32:] = 0
    image.putalpha(Image.fromarray(alpha))
    return image


def opencv(suffix: str, pixels: np.ndarray) -> bytes:
    """Return pixels, (H, W) or (H, W, 3) BGR, as OpenCV writes them."""
    return bytes(cv2.imencode(suffix, pixels)[1].tobytes())


def stills() -> dict[str, bytes]:
    image = Image.fromarray(picture())
    grey = picture()[:, :, 0]
    return {
        "jpeg": encoded("JPEG"),
        "progressive jpeg": encoded("JPEG", progressive=True),
        "turned jpeg": encoded("JPEG", exif=turned(6)),
        "turned png": encoded("PNG", exif=turned(6)),
        "turned webp": encoded("WEBP", exif=turned(6)),
        "cmyk jpeg": encoded("JPEG", image.convert("CMYK")),
        "grey jpeg": encoded("JPEG", image.convert("L")),
        "png": encoded("PNG"),
        "16-bit png": opencv(".png", picture().astype(np.uint16) * 257),
        "16-bit grey png": opencv(".png", grey.astype(np.uint16) * 257),
        "palette png": encoded("PNG", image.convert("P")),
        "1-bit png": encoded("PNG", image.convert("1")),
        "grey+alpha png": encoded("PNG", image.convert("LA")),
        "rgba png": encoded("PNG", half_transparent()),
        "lossy webp": encoded("WEBP"),
        "lossless webp": encoded("WEBP", lossless=True),
        "rgba webp": encoded("WEBP", half_transparent()),
        "bmp": encoded("BMP"),
        "gif": encoded("GIF"),
        "tiff": encoded("TIFF"),
        "16-bit tiff": opencv(".tiff", picture().astype(np.uint16) * 257),
        "float tiff": opencv(".tiff", (grey / 255).astype(np.float32)),
        "jpeg 2000": encoded("JPEG2000"),
        "ppm": encoded("PPM"),
        "avif": opencv(".avif", picture()),
        "one-frame apng": encoded("PNG", save_all=True, append_images=[], default_image=False),
        "jpeg with bytes after its end": encoded("JPEG") + bytes(50),
    }


STILLS = stills()


def animations() -> dict[str, bytes]:
    image = Image.fromarray(picture())
    frames = {"save_all": True, "append_images": [image.rotate(90)]}
    return {f"animated {kind}": encoded(kind, image, **frames) for kind in ("GIF", "WEBP", "PNG", "TIFF")}


def png_chunk(name: bytes, body: bytes, *, claim: int | None = None) -> bytes:
    length = len(body) if claim is None else claim
    return struct.pack(">I", length) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, *, claim: int | None = None) -> bytes:
    """Return a PNG of some 60 bytes that says it is of this size; `claim` is the length that its IDAT states."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(bytes(100)), claim=claim)
    return b"\x89PNG\r\n\x1a\n" + header + body + png_chunk(b"IEND", b"")


def bmp(width: int, height: int, *, header_bytes: int) -> bytes:
    """Return a run-length-encoded BMP without runs: its header may have any number of bytes."""
    info = struct.pack("<IiiHHIIiiII", header_bytes, width, height, 1, 8, 1, 0, 0, 0, 2, 0)
    info += bytes(header_bytes - len(info))
    start = 14 + len(info) + 8
    return b"BM" + struct.pack("<IHHI", start + 2, 0, 0, start) + info + bytes(4) + b"\xff\xff\xff\0" + b"\0\1"


def jpeg_of_scans(side: int, n_scans: int) -> bytes:
    """Return a progressive grey JPEG whose scans are nearly empty: each costs a pass over all blocks."""

    def segment(marker: int, body: bytes) -> bytes:
        return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body

    blocks = (-(-side // 8)) ** 2
    bits = ("0" + "1" * 14) * -(-blocks // 32767)  # runs of 32,767 blocks without a change
    bits += "1" * (-len(bits) % 8)
    runs = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    parts = [
        b"\xff\xd8",
        segment(0xDB, b"\0" + b"\1" * 64),
        segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0"),
        segment(0xC4, b"\x00" + bytes([1, *[0] * 15]) + b"\0"),
        segment(0xC4, b"\x10" + bytes([1, *[0] * 15]) + b"\xe0"),
        segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes(-(-blocks // 8)),
        segment(0xDA, bytes([1, 1, 0, 1, 63, 1])) + runs,
        *[segment(0xDA, bytes([1, 1, 0, 1, 63, 0x10])) + runs] * (n_scans - 2),
    ]
    return b"".join(parts) + b"\xff\xd9"


def tiff(tags: list[tuple[int, int, int, int]], data: bytes = b"") -> bytes:
    """Return a TIFF of (tag, type, count, value); `data` lies behind them, at 14 + 12 times their number."""
    entries = b"".join(
        struct.pack("<HHI", tag, kind, count)
        + (struct.pack("<HH", value, 0) if kind == 3 and count == 1 else struct.pack("<I", value))
        for tag, kind, count, value in sorted(tags)
    )
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + data


def tiff_of_pixels(pixels: np.ndarray, *, photometric: int = 2, extra: int | None = None) -> bytes:
    """Return uint8 or uint16 pixels (H, W, C) as a TIFF in one strip; `extra` says what the fourth channel is."""
    height, width, n_channels = pixels.shape
    bits = struct.pack(f"<{n_channels}H", *[8 * pixels.itemsize] * n_channels)
    at = 14 + 12 * (9 if extra is None else 10)
    tags = [(256, 4, 1, width), (257, 4, 1, height), (259, 3, 1, 1), (262, 3, 1, photometric), (277, 3, 1, n_channels)]
    tags += [(258, 3, n_channels, at), (273, 4, 1, at + len(bits)), (278, 4, 1, height), (279, 4, 1, pixels.nbytes)]
    tags += [] if extra is None else [(338, 3, 1, extra)]
    return tiff(tags, bits + pixels.tobytes())


def tiff_of_tile(tile: int, *, side: int = 8) -> bytes:
    """Return a grey TIFF of side x side pixels in one tile of tile x tile zeros."""
    at = 14 + 12 * 11
    packed = zlib.compress(bytes(tile * tile), 9)
    tags = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    tags += [(284, 3, 1, 1), (322, 4, 1, tile), (323, 4, 1, tile), (324, 4, 1, at), (325, 4, 1, len(packed))]
    return tiff(tags, packed)


def tiff_of_strip(rows: int, *, side: int = 8, samples: int = 1) -> bytes:
    """Return a grey TIFF of side x side pixels whose one strip claims `rows` rows."""
    at = 14 + 12 * 9
    tags = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, samples)]
    tags += [(273, 4, 1, at), (278, 4, 1, rows), (279, 4, 1, side * side)]
    return tiff(tags, bytes(side * side))


def long8_tiff(width: int, height: int) -> bytes:
    """Return a grey TIFF that keeps its size as 64-bit numbers elsewhere: in the tags stand offsets, 122 and 130."""
    tags = [(256, 16, 122), (257, 16, 130), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 138), (277, 3, 1)]
    tags += [(278, 4, height), (279, 4, width * height)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, 9) + entries + struct.pack("<IQQ", 0, width, height) + bytes(width * height)


def thumbnail_chain(n_pages: int) -> bytes:
    """Return a TIFF of one page that is followed by n empty thumbnails."""
    first = tiff([(256, 4, 1, 8), (257, 4, 1, 8)])
    page = struct.pack("<HHHII", 1, 254, 4, 1, 1)
    chain = b"".join(page + struct.pack("<I", len(first) + 18 * (number + 1)) for number in range(n_pages - 1))
    return first[:-4] + struct.pack("<I", len(first)) + chain + page + struct.pack("<I", 0)


def jp2_with_decoy() -> bytes:
    """Return a JPEG 2000 file of 64x48 pixels; a box before it looks like the beginning of an image of 1x1."""
    data = encoded("JPEG2000")
    decoy = b"\xff\x4f\xff\x51" + struct.pack(">HHIIIIIIIIH", 41, 0, *[1, 1, 0, 0] * 2, 3) + b"\7\1\1" * 3
    at = data.index(b"jp2h") - 4
    return data[:at] + struct.pack(">I4s", len(decoy) + 8, b"free") + decoy + data[at:]


def jpeg_of_hidden_scans() -> bytes:
    """Return a JPEG whose scans lie behind a marker that says that 64 kB follow it; libjpeg passes over it alone."""
    data = jpeg_of_scans(64, 2)
    first, last = data.index(b"\xff\xda"), data.rindex(b"\xff\xda")
    hidden = b"\xff\x02\xff\xff" + data[last:-2] * 1000
    return data[:first] + b"\xff\xdd\0\4\0\1" + data[first:-2] + hidden + data[-2:]


def png_with(*chunks: bytes) -> bytes:
    """Return a PNG of one pixel with other chunks before its IDAT."""
    data = png(1, 1)
    return data[:33] + b"".join(chunks) + data[33:]


def jpeg_2000_of_layers(n_layers: int) -> bytes:
    """Return a JPEG 2000 file of 64x48 pixels in 192 tiles that says that it has so many layers."""
    data = bytearray(encoded("JPEG2000", tile_size=(4, 4), no_jp2=True))
    struct.pack_into(">H", data, data.index(b"\xff\x52") + 6, n_layers)
    return bytes(data)


def avif_of_extents(n_items: int, n_extents: int) -> bytes:
    """Return the head of an AVIF whose items have so many pieces, each of them described by no bytes."""
    listed = bytes(6) + struct.pack(">H", n_items) + struct.pack(">HHH", 1, 0, n_extents) * n_items
    said = struct.pack(">I4sIII", 20, b"ispe", 0, 8, 8) + struct.pack(">I4s4s", 12, b"av1C", b"\x81\0\0\0")
    inside = bytes(4) + struct.pack(">I4s", len(listed) + 8, b"iloc") + listed + said
    return b"\0\0\0\x14ftypavif\0\0\0\0avif" + struct.pack(">I4s", len(inside) + 8, b"meta") + inside


def avif_of_equal_frames(n_frames: int, *, side: int) -> bytes:
    """Return an AVIF that lists the same frame of side x side pixels several times, as the tiles of a grid may be."""
    data = bytearray(opencv(".avif", np.zeros((side, side, 3), np.uint8)))
    more, at = 14 * (n_frames - 1), data.index(b"iloc") + 12
    sizes = (data.index(b"meta") - 4, data.index(b"iloc") - 4, at + 6)  # the last one is where the frame is
    for size in sizes:
        struct.pack_into(">I", data, size, struct.unpack_from(">I", data, size)[0] + more)
    struct.pack_into(">H", data, at - 2, n_frames)
    return bytes(data[:at] + data[at : at + 14] * n_frames + data[at + 14 :])


def avif_that_says(width: int, height: int, *, size: int) -> bytes:
    """Return an AVIF of size x size pixels that says it has others."""
    data = opencv(".avif", np.zeros((size, size, 3), np.uint8))
    return data.replace(struct.pack(">II", size, size), struct.pack(">II", width, height))


def avif_of_two_sizes(size: int, *, pieces: int = 1) -> bytes:
    """Return an AVIF of 64x48 pixels whose stream goes on with another sequence header and size x size pixels.

    Its item is in so many pieces, the first one with the first header alone.
    """
    small, data = opencv(".avif", picture()), bytearray(avif_that_says(64, 48, size=size))
    start = small.index(b"mdat") + 4
    header = small[start + 2 : start + 4 + small[start + 3]]  # behind a temporal delimiter of 2 bytes
    listed, media = data.index(b"iloc") + 12, data.index(b"mdat")
    offset, length = struct.unpack_from(">II", data, listed + 6)
    more, ends = 8 * (pieces - 1), [len(header)] * (pieces - 1)
    for size in (data.index(b"meta") - 4, listed - 16) if more else ():
        struct.pack_into(">I", data, size, struct.unpack_from(">I", data, size)[0] + more)
    listing, at = struct.pack(">H", pieces), offset + more
    for n_bytes in (*ends, length + len(header) - sum(ends)):
        listing, at = listing + struct.pack(">II", at, n_bytes), at + n_bytes
    struct.pack_into(">I", data, media - 4, len(data) - media + 4 + len(header))
    return bytes(data[: listed + 4] + listing + data[listed + 14 : media + 4] + header + data[media + 4 :])


def bombs() -> dict[str, bytes]:
    """Return files that would cost gigabytes or minutes, none of them larger than some kilobytes."""
    return {
        "png of 900 megapixels": png(30_000, 30_000),
        "png with a chunk of 4 GB": png(1, 1, claim=0xFFFFFFF0),
        "png with a chunk longer than the file": png(1, 1, claim=1 << 20),
        "bmp with a long header": bmp(16_384, 65_535, header_bytes=0x10C),
        "jpeg of 1,500 scans": jpeg_of_scans(256, 1500),
        "jpeg of hidden scans": jpeg_of_hidden_scans(),
        "png of many compressed texts": png_with(*[png_chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(1000)))] * 9),
        "png of more data than rows": png_with(png_chunk(b"IDAT", bytes(100_000))),
        "tiff of one large tile": tiff_of_tile(4096),
        "tiff of lists that overlap": tiff(
            [(256, 4, 1, 8), (257, 4, 1, 8), *[(700, 7, 900, 8), (701, 7, 900, 8)]], bytes(999)
        ),
        "tiff of one high strip": tiff_of_strip(1 << 30),
        "tiff of many samples": tiff_of_strip(8, samples=60_000),
        "tiff of an endless list": tiff([*[(256, 4, 1, 8), (257, 4, 1, 8)], (273, 4, 1 << 30, 8)]),
        "tiff of a thousand thumbnails": thumbnail_chain(1000),
        "tiff of 60,000 tags": tiff([(256, 4, 1, 8), (257, 4, 1, 8), *[(700, 4, 1, 0)] * 60_000])[:200_000],
        "64-bit tiff": long8_tiff(12, 10),
        "avif of larger frames": avif_that_says(64, 48, size=2000),
        "avif of a second, larger size": avif_of_two_sizes(2000),
        "avif of a larger size in another piece": avif_of_two_sizes(2000, pieces=2),
        "avif of hundreds of frames": avif_of_equal_frames(400, side=100),
        "avif of endless pieces": avif_of_extents(1000, 65_535),
        "jpeg 2000 of tiny blocks": encoded("JPEG2000", Image.new("L", (1600, 1600)), codeblock_size=(4, 4)),
        "jpeg 2000 of many layers": jpeg_2000_of_layers(65_535),
        "pnm with another end of a comment": b"P6 #\r30000 30000 255\n8 8 255\n" + bytes(192),
        "pnm with a comment at a number": b"P6 8#125000000 255 \n8 255\n" + bytes(192),
        "pnm of spaces": b"P6" + b" " * 4000 + b"x",
    }
