"""What the headers of image files say, and which files never reach OpenCV."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from darkroom.deployable.box_formats import MOST_UNITS, _av1_frame_size
from darkroom.deployable.headers import TooManyPixelsError, checked_header, read_header
from darkroom.deployable.plain_formats import MOST_SCANS, MOST_TEXTS
from tests.support import decoding_memory
from tests.support.image_files import (
    STILLS,
    animations,
    avif_of_equal_frames,
    avif_of_two_sizes,
    avif_that_says,
    bmp,
    bombs,
    encoded,
    jp2_with_decoy,
    jpeg_2000_of_layers,
    jpeg_of_scans,
    long8_tiff,
    png,
    png_chunk,
    png_with,
    thumbnail_chain,
    tiff,
    tiff_of_pixels,
    tiff_of_strip,
    tiff_of_tile,
)
from tests.support.project import ROOT

LIMIT = 50_000_000


@pytest.mark.parametrize("name", STILLS)
def test_the_header_gives_the_size_without_decoding(name: str) -> None:
    header = checked_header(STILLS[name], max_pixels=64 * 48)
    assert ({header.width, header.height}, header.animated) == ({64, 48}, False)


def test_transparency_depth_and_orientation_are_known() -> None:
    headers = {name: read_header(data) for name, data in STILLS.items()}
    with_alpha = {"grey+alpha png", "rgba png", "rgba webp"}
    assert {name for name, header in headers.items() if header.has_alpha} - {"gif"} == with_alpha
    assert {name for name, header in headers.items() if header.is_deep} == {
        "16-bit png",
        "16-bit grey png",
        "16-bit tiff",
        "float tiff",
    }
    assert (headers["turned png"].orientation, headers["turned webp"].orientation) == (6, 6)


@pytest.mark.parametrize(("name", "data"), animations().items())
def test_more_than_one_frame_is_refused(name: str, data: bytes) -> None:
    with pytest.raises(ValueError, match="more than one frame"):
        checked_header(data, max_pixels=LIMIT)


def test_a_jpeg_cannot_hide_its_size() -> None:
    data = STILLS["jpeg"]
    for hidden in (b"garbage", b"\xff\xd0", b"\xff\x01", b"\xff\xd0\x00\x02", b"\xff\xff\xff"):
        assert read_header(data[:20] + hidden + data[20:])[1:3] == (64, 48)


@pytest.mark.parametrize("change", ["64-bit", "two numbers", "none"])
def test_a_tiff_cannot_hide_its_size_behind_another_type(change: str) -> None:
    data = bytearray(long8_tiff(12, 10))
    if change != "64-bit":  # plain LONG tags with the size itself
        for at, side in ((10, 12), (22, 10)):
            struct.pack_into("<HII", data, at + 2, 4, 2 if change == "two numbers" else 1, side)
    if change == "none":
        assert read_header(bytes(data))[1:3] == (12, 10)
    else:
        with pytest.raises(IndexError, match="size of another type"):
            read_header(bytes(data))
    decoded = cv2.imdecode(np.frombuffer(long8_tiff(12, 10), np.uint8), 0)
    assert decoded is not None
    assert decoded.shape == (10, 12)  # OpenCV follows the offsets


@pytest.mark.parametrize(
    "data", [b"", b"x", b"hello, this is text", b"\xff\xd8\xff", b"BM", b"RIFF0000WEBP", b"GIF89a", b"II*\0", b"P6"]
)
def test_what_is_no_image_is_refused_by_its_length(data: bytes) -> None:
    expected = rf"^{len(data)} bytes? (is|are) not an image; expected JPEG, PNG, WebP, BMP, GIF"
    with pytest.raises(ValueError, match=expected if data else "^0 bytes: the file is empty$"):
        checked_header(data, max_pixels=LIMIT)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\xff\x0a" + bytes(60), "JPEG XL; convert it to JPEG or PNG"),
        (b"8BPS" + bytes(60), "Photoshop; convert"),
        (b"II+\0" + bytes(60), "BigTIFF; convert"),
        (b"\0\0\1\0" + bytes(60), "an icon; convert"),
        (bytes(128) + b"DICM", "DICOM; convert it to PNG"),
        (b"%PDF-1.7", "PDF; convert"),
        (b"<!DOCTYPE html><html>403", "a web page; download the image again"),
        (b"<?xml version='1.0'?>\n<svg/>", "SVG; convert it to PNG"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS; run `git lfs pull`"),
    ],
)
def test_known_formats_that_are_not_read_are_named(data: bytes, name: str) -> None:
    with pytest.raises(ValueError, match=f"not an image; it is {name}"):
        checked_header(data, max_pixels=LIMIT)


@pytest.mark.parametrize(("name", "data"), bombs().items())
def test_what_claims_more_than_it_holds_is_refused(name: str, data: bytes) -> None:
    assert len(data) <= 200_000
    with pytest.raises(ValueError, match="not an image|pixels; the limit|scans|PNG|TIFF|BMP|AVIF|JPEG 2000"):
        checked_header(data, max_pixels=LIMIT)


def test_the_limits_leave_room_for_honest_files() -> None:
    texts = png_with(*[png_chunk(b"zTXt", b"x\0\0")] * MOST_TEXTS, *[png_chunk(b"tEXt", b"x\0")] * 99)
    fine = [encoded("JPEG2000", codeblock_size=(4, 4)), encoded("JPEG2000", precinct_size=(64, 64))]
    fine += [encoded("JPEG2000", codeblock_size=(8, 8)), encoded("JPEG2000", tile_size=(32, 32))]
    fine += [png(1, 1), texts, jpeg_of_scans(64, MOST_SCANS), tiff_of_tile(512), tiff_of_strip(0xFFFFFFFF)]
    for data in (*fine, jpeg_2000_of_layers(100), avif_of_equal_frames(9, side=64), avif_of_two_sizes(64, pieces=2)):
        assert checked_header(data, max_pixels=LIMIT).width <= 64
    thumbnails = STILLS["jpeg"][:2] + b"\xff\xfe\x01\x92" + b"\xff\xda" * 200 + STILLS["jpeg"][2:]  # a comment
    assert checked_header(thumbnails, max_pixels=LIMIT).kind == "JPEG"


@pytest.mark.parametrize("options", [{"codeblock_size": (8, 8)}, {"tile_size": (32, 32)}])
def test_a_jpeg_2000_file_may_be_in_small_parts(options: dict[str, tuple[int, int]]) -> None:
    data = encoded("JPEG2000", Image.new("L", (1000, 1000)), **options)
    assert checked_header(data, max_pixels=LIMIT).width == 1000


def test_a_png_of_few_bits_per_row_may_be_hard_to_compress() -> None:
    rows = np.random.default_rng(0).integers(0, 256, (200_000, 2), dtype=np.uint8).tobytes()
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 200_000, 1, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")
    assert checked_header(data, max_pixels=LIMIT).height == 200_000


def test_the_largest_size_of_a_frame_is_found_anywhere() -> None:
    data = avif_that_says(64, 48, size=2000)
    stream = data[data.index(b"mdat") + 4 :]
    padding = b"\x7a\x02\0\0"
    for before in (b"", b"\x12\0", padding * 9):
        whole = before + stream
        assert _av1_frame_size(whole, 0, len(whole)) == ((2000, 2000), len(whole))
    with pytest.raises(ValueError, match=f"an AVIF with a frame of more than {MOST_UNITS} units; save it again"):
        _av1_frame_size(padding * 99 + stream, 0, 4096)


def test_a_codestream_in_another_box_is_none() -> None:
    assert read_header(jp2_with_decoy())[1:3] == (64, 48)


def test_thumbnails_may_come_before_or_after_their_image() -> None:
    header = read_header(thumbnail_chain(10))
    assert (header.width, header.animated) == (8, False)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bmp(8, 8, header_bytes=44), "a BMP with a header of 44 bytes, which is none that is known; save it as PNG"),
        (tiff_of_strip(8, samples=5), "a TIFF of 5 channels; expected 1 to 4"),
        (b"P5 8 8 15\n" + bytes(64), "a PNM of values up to 15; expected 255 to 65,535, save it as PNG"),
        (tiff_of_tile(4096), "a TIFF of 8x8 pixels in tiles of 4096x4096; save it again"),
        (
            tiff([(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 16), (262, 3, 1, 0)]),
            "a TIFF of 16 bits in which 0 is white",
        ),
        (encoded("TIFF", Image.new("LA", (8, 8))), "a grey TIFF with transparency, which OpenCV ignores; save it"),
        (
            tiff_of_pixels(np.zeros((8, 8, 2), np.uint16), photometric=1),
            "a TIFF of 2 channels that are not RGB; save it as PNG",
        ),
        (bombs()["png of many compressed texts"], "a PNG of more than 8 compressed texts; save it without them"),
        (
            jpeg_2000_of_layers(65_535),
            "a JPEG 2000 image in tiny parts, or in many layers: about [0-9]{8} bytes for them, the limit is 33563648",
        ),
        (
            tiff_of_pixels(np.zeros((8, 8, 3), np.uint8), photometric=1),
            "a TIFF of 3 channels that are not RGB; save it",
        ),
        (
            tiff_of_pixels(np.zeros((8, 8, 4), np.uint16), photometric=5),
            "a TIFF of 4 channels that are not RGB; save it",
        ),
        (
            tiff([(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 16), (262, 3, 1, 2), (277, 3, 1, 3), (284, 3, 1, 2)]),
            "a TIFF of 16 bits whose channels are stored one after another; save them interleaved",
        ),
        (encoded("JPEG2000", Image.new("LA", (8, 8))), "a JPEG 2000 image of 8x8 pixels and 2 channels; save it again"),
        (
            tiff([(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 16), (262, 3, 1, 2)]),
            "a TIFF of one channel that is said to be RGB; save it again",
        ),
    ],
)
def test_kinds_of_a_format_that_are_not_read_are_named(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        checked_header(data, max_pixels=LIMIT)


def test_too_many_pixels_are_an_error_of_their_own() -> None:
    with pytest.raises(TooManyPixelsError, match="64x48 pixels; the limit is 3071 pixels"):
        checked_header(STILLS["png"], max_pixels=64 * 48 - 1)


MUTATIONS = """
import resource, sys, time
import cv2, numpy as np
from darkroom.deployable.headers import checked_header
from darkroom.deployable.images import Form, decode, prepare
from tests.support.image_files import STILLS, bombs

cv2.setNumThreads(1)
form = Form((32, 32), "rgb")
for data in STILLS.values():
    prepare(data, form, max_pixels=10**7)
used = int(open("/proc/self/statm").read().split()[0]) * 4096
slack = 64 << 20  # arenas, and buffers that do not grow with the image
if sys.argv[3] == "limited":
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 3 * 10**6 + slack,) * 2)  # 3 times an image of a megapixel
rng = np.random.default_rng(int(sys.argv[1]))
names, accepted, slowest = [*STILLS], [], 0.0
for round in range(int(sys.argv[2])):
    data = bytearray(STILLS[names[round % len(names)]])
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(0, min(len(data), 300) if rng.random() < 0.7 else len(data)))
        data[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(0, 256))]))
    start = time.process_time()
    try:
        decode(bytes(data), form, max_pixels=10**6)
        accepted.append(round)
    except ValueError:
        pass
    slowest = max(slowest, time.process_time() - start)
print(*accepted, slowest)
"""


def test_no_mutation_takes_much_memory_or_time() -> None:
    accepted = []
    for memory in ("limited", "unlimited"):
        command = [sys.executable, "-c", MUTATIONS, "1", "3000", memory]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        *rounds, slowest = done.stdout.split()
        assert float(slowest) < 5  # seconds of the processor, for a megapixel at most; an honest one takes 0.02
        accepted.append(rounds)
    assert accepted[0] == accepted[1]  # what OpenCV was refused, it calls a damaged file
    assert len(accepted[0]) > 400


@pytest.mark.parametrize(
    ("side", "n_mutations", "seed"),
    [(1200, 3, 1), *(pytest.param(2800, 20, seed, marks=pytest.mark.slow) for seed in (2, 3))],
)
def test_no_file_takes_more_memory_than_its_header_allows(
    tmp_path: Path, side: int, n_mutations: int, seed: int
) -> None:
    decoding_memory.write_large(tmp_path, side)
    command = [sys.executable, "-m", "tests.support.decoding_memory", str(tmp_path), str(n_mutations), str(seed)]
    environment = os.environ | decoding_memory.ENVIRONMENT
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {one["name"]: one["beyond"] for one in found if one["beyond"]} == {}
    assert {one["name"] for one in found if one["n_accepted"] == 0} == set()
    assert sum(one["n_accepted"] for one in found) > (1 + n_mutations / 5) * len(found)
