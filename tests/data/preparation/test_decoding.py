import contextlib
import io
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from darkroom.data.preparation.decoding import Rejected, convert, decode, perceptual_hashes, read_batch, resize
from darkroom.deployable import package

MAX = 10_000


def picture(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    blurred = cv2.GaussianBlur(noise, (0, 0), 6).astype(float)
    return np.asarray(np.clip((blurred - 127) * 8 + 127, 0, 255).astype(np.uint8))


def encoded(form: str, mode: str = "RGB", image: np.ndarray | None = None, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture() if image is None else image).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def frames(form: str) -> bytes:
    second = [Image.fromarray(255 - picture())]
    return encoded(form, save_all=True, append_images=second)


def png16() -> bytes:
    done, data = cv2.imencode(".png", picture()[..., ::-1].astype(np.uint16) * 257)
    assert done
    return data.tobytes()


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bomb(width: int, height: int) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(100))) + png_chunk(b"IEND", b"")


def long8_tiff(width: int, height: int) -> bytes:
    """Return a grey TIFF that keeps its size as 64-bit numbers elsewhere: in the tags stand offsets, 122 and 130."""
    tags = [(256, 16, 122), (257, 16, 130), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 138), (277, 3, 1)]
    tags += [(278, 4, height), (279, 4, width * height)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, 9) + entries + struct.pack("<IQQ", 0, width, height) + bytes(width * height)


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def smooth(image: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.blur(np.ascontiguousarray(image), (9, 9)).astype(int).reshape(image.shape))


VALID = {
    "jpeg": encoded("JPEG"),
    "progressive jpeg": encoded("JPEG", progressive=True),
    "grey jpeg": encoded("JPEG", "L"),
    "cmyk jpeg": encoded("JPEG", "CMYK", quality=95),
    "png": encoded("PNG"),
    "16-bit png": png16(),
    "palette png": encoded("PNG", "P"),
    "grey+alpha png": encoded("PNG", "LA"),
    "rgba png": encoded("PNG", "RGBA"),
    "bitmap png": encoded("PNG", "1"),
    "still gif": encoded("GIF"),
    "webp": encoded("WEBP"),
    "lossless webp": encoded("WEBP", lossless=True),
    "webp with exif": encoded("WEBP", exif=exif(1)),
    "bmp": encoded("BMP"),
    "tiff": encoded("TIFF"),
    "turned jpeg": encoded("JPEG", exif=exif(6)),
    "turned png": encoded("PNG", exif=exif(6)),
    "jpeg with bytes after its end": encoded("JPEG") + bytes(50),
}
INVALID = {
    "empty": (b"", "0 bytes: the file is empty"),
    "one byte": (b"x", "1 byte is not an image; expected JPEG, PNG"),
    "text": (b"This is no image.\n" * 9, "162 bytes are not an image; expected JPEG, PNG"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    "half jpeg": (VALID["jpeg"][: len(VALID["jpeg"]) // 2], "truncated or damaged"),
    "jpeg without its last byte": (VALID["jpeg"][:-1], "truncated or damaged"),
    "head of jpeg": (VALID["jpeg"][:20], "not an image"),
    "half progressive jpeg": (VALID["progressive jpeg"][: len(VALID["progressive jpeg"]) // 2], "truncated or damaged"),
    "half png": (VALID["png"][: len(VALID["png"]) // 2], "truncated or damaged"),
    "half gif": (VALID["still gif"][: len(VALID["still gif"]) // 2], "not an image"),
    "half webp": (VALID["webp"][: len(VALID["webp"]) // 2], "truncated or damaged"),
    "half bmp": (VALID["bmp"][: len(VALID["bmp"]) // 2], "truncated or damaged"),
    "half tiff": (VALID["tiff"][: len(VALID["tiff"]) // 2], "not an image|truncated or damaged"),
    "animated gif": (frames("GIF"), "more than one frame"),
    "animated webp": (frames("WEBP"), "more than one frame"),
    "animated png": (frames("PNG"), "more than one frame"),
    "tiff of two pages": (frames("TIFF"), "more than one frame"),
    "tiff of 64-bit size": (long8_tiff(12, 10), "2[0-9]{2} bytes are not an image; expected JPEG"),
    "pixel bomb": (bomb(50_000, 50_000), r"50000x50000 pixels exceed preprocess\.max_image_pixels \(10000\)"),
    "jpeg of too many pixels": (encoded("JPEG", image=picture(101, 100)), "100x101 pixels exceed"),
}


@pytest.mark.parametrize("color", ["grey", "rgb"])
@pytest.mark.parametrize("name", VALID)
def test_a_valid_image_becomes_pixels_like_those_it_was_made_of(name, color):
    image = decode(VALID[name], color=color, max_pixels=MAX)
    wanted = np.rot90(picture(), -1) if name.startswith("turned") else picture()
    if color == "grey" or name.startswith(("grey", "bitmap")):
        wanted = cv2.cvtColor(np.ascontiguousarray(wanted), cv2.COLOR_RGB2GRAY)[..., None]
    assert image.dtype == np.uint8
    assert image.shape == (*wanted.shape[:2], 1 if color == "grey" else 3)
    distance = smooth(image) - smooth(np.broadcast_to(wanted, image.shape))
    assert np.abs(distance).mean() < (30 if name.startswith("bitmap") else 12)


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_image_is_rejected_with_the_reason(name):
    data, reason = INVALID[name]
    for color in ("grey", "rgb"):
        with pytest.raises(Rejected, match=reason):
            decode(data, color=color, max_pixels=MAX)


@pytest.mark.parametrize("name", VALID)
def test_every_cut_of_a_file_is_an_image_or_rejected(name):
    data = VALID[name]
    for length in [*range(0, min(len(data), 400), 3), *range(400, len(data), 101)]:
        with contextlib.suppress(Rejected):
            decode(data[:length], color="rgb", max_pixels=MAX)


@pytest.mark.parametrize("color", ["grey", "rgb"])
def test_serving_decodes_and_refuses_as_preparation_does(color):
    for data in VALID.values():
        ours = decode(data, color=color, max_pixels=MAX)
        assert np.array_equal(ours, package.decode(data, color=color, max_pixels=MAX))
    for data, _ in INVALID.values():
        with pytest.raises(ValueError, match="image"):
            package.decode(data, color=color, max_pixels=MAX)


@pytest.mark.parametrize(
    "size", [(28, 28), (60, 80), (70, 30), (200, 200), (40, 50), (20, 79), (60, 40), (60, 90), (30, 81)]
)
@pytest.mark.parametrize("n_channels", [1, 3])
def test_serving_resizes_to_the_same_pixels(size, n_channels):
    image = np.ascontiguousarray(picture(60, 80)[..., :n_channels])
    assert np.array_equal(resize(image, size=size), package.resize(image, size=size))


def test_pixels_of_an_array_are_converted_without_change():
    colour, grey = picture(), picture()[..., 0]
    assert np.array_equal(convert(colour, color="rgb"), colour)
    assert np.array_equal(convert(grey, color="grey")[..., 0], grey)
    assert np.array_equal(convert(grey[..., None], color="rgb"), np.stack([grey] * 3, axis=-1))
    assert np.array_equal(convert(colour, color="grey")[..., 0], cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY))
    for wrong in (
        colour.astype(float),
        np.zeros((3, 4, 2), np.uint8),
        np.zeros((0, 4), np.uint8),
        np.array([1], np.uint8),
    ):
        with pytest.raises(Rejected, match=r"expected uint8 \(H, W\)"):
            convert(wrong, color="rgb")


def test_shrinking_averages_areas_and_growing_interpolates():
    stripes = np.tile(np.array([0, 255], np.uint8), (8, 4))[..., None]
    assert np.all(np.abs(resize(stripes, size=(4, 4)).astype(int) - 128) <= 1)
    ramp = np.array([[0, 100]], np.uint8)[..., None]
    assert np.all(np.diff(resize(ramp, size=(2, 8))[0, :, 0].astype(int)) >= 0)
    assert len(np.unique(resize(ramp, size=(2, 8)))) > 2
    assert resize(ramp, size=(1, 2)) is ramp


@pytest.mark.parametrize(
    ("size", "how"),
    [
        ((30, 40), cv2.INTER_AREA),
        ((59, 79), cv2.INTER_AREA),
        ((60, 40), cv2.INTER_AREA),
        ((30, 80), cv2.INTER_AREA),
        ((60, 90), cv2.INTER_LINEAR),
        ((90, 90), cv2.INTER_LINEAR),
    ],
)
def test_areas_are_averaged_where_no_side_grows(size, how):
    image = picture(60, 80)
    assert np.array_equal(resize(image, size=size), cv2.resize(image, size[::-1], interpolation=how))


@pytest.mark.parametrize("size", [(64, 64), (65, 64), (63, 64), (200, 64)])
@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize("turned", [False, True])
def test_thin_stripes_keep_their_brightness(size, n_channels, turned):
    stripes = np.zeros((64, 640, n_channels), np.uint8)
    stripes[:, 4::10] = 255  # linear interpolation alone sees every stripe, or none
    image = np.ascontiguousarray(stripes.swapaxes(0, 1)) if turned else stripes
    wanted = size[::-1] if turned else size
    for make in (resize, package.resize):
        assert make(image, size=wanted).mean() == pytest.approx(25.5, abs=1)
    out = np.empty((*wanted, n_channels), np.uint8)
    assert resize(image, size=wanted, out=out) is out
    assert np.array_equal(out, package.resize(image, size=wanted))


@pytest.mark.parametrize("color", [True, False])
def test_copies_have_near_hashes_and_other_pictures_have_not(color):
    images = [picture(120, 160, seed) if color else picture(120, 160, seed)[..., :1] for seed in range(40)]
    hashes = perceptual_hashes(np.stack(images))
    copies = [resize(resize(image, size=(90, 100)), size=(120, 160)) for image in images]
    copied = perceptual_hashes(np.stack(copies))
    assert np.all(np.bitwise_count(hashes ^ copied) <= 4)
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None])[~np.eye(40, dtype=bool)]
    assert apart.min() > 8
    assert apart.mean() == pytest.approx(32, abs=2)


def test_a_plain_picture_resembles_only_itself():
    plain = np.stack([np.full((40, 40, 3), level, np.uint8) for level in (0, 0, 1, 128, 255)])
    hashes = perceptual_hashes(plain)
    assert hashes[0] == hashes[1]
    assert np.bitwise_count(hashes[1:, None] ^ hashes[None, 1:])[~np.eye(4, dtype=bool)].min() > 8


def test_a_batch_keeps_valid_ones_in_order_and_names_the_others():
    items: list[bytes | np.ndarray] = [VALID["jpeg"], b"", VALID["png"], picture(), VALID["jpeg"][:100]]
    batch = read_batch(items, size=(30, 40), color="rgb", max_pixels=MAX, hashes=True)
    assert batch.images.shape == (3, 30, 40, 3)
    assert [position for position, _ in batch.rejected] == [1, 4]
    assert batch.sizes.tolist() == [[60, 80]] * 3
    assert np.array_equal(batch.images[1], batch.images[2])
    assert len({row.tobytes() for row in batch.ids}) == 3
    pixels = batch.images.reshape(3, -1, 3).astype(np.int64)
    assert np.array_equal(batch.sums, np.stack([pixels.sum(1), (pixels**2).sum(1)], axis=1))


def test_the_sums_are_exact_for_big_and_extreme_images():
    for image in (np.full((1000, 900, 3), 255, np.uint8), np.zeros((5, 5, 3), np.uint8), picture(997, 1009)):
        sums = read_batch([image], size=image.shape[:2], color="rgb", max_pixels=1, hashes=False).sums[0]
        pixels = image.reshape(-1, 3).astype(np.int64)
        assert np.array_equal(sums, [pixels.sum(0), (pixels**2).sum(0)])


NOISE = """
import sys
from darkroom.project.console import native_stderr_silenced
from darkroom.data.preparation.decoding import read_batch
data = sys.stdin.buffer.read()
with native_stderr_silenced():
    print("before", file=sys.stderr)
    batch = read_batch([data], size=(9, 9), color="rgb", max_pixels=10**6, hashes=False)
    print(len(batch.rejected), file=sys.stderr)
print("after", file=sys.stderr)
"""


def test_what_libraries_print_about_broken_files_is_hidden():
    damaged = bytearray(VALID["png"])
    damaged[len(damaged) // 2] ^= 255
    done = subprocess.run([sys.executable, "-c", NOISE], input=bytes(damaged), capture_output=True, check=True)
    assert done.stderr.decode().split() == ["before", "1", "after"]
