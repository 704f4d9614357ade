"""From image files to the pixels that a network takes."""

import io
import struct
import sys
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from darkroom.deployable.images import AboveWhiteError, Form, brightest, convert, decode, prepare, resize
from darkroom.deployable.plain_formats import _png_chunks
from tests.support.image_files import (
    STILLS,
    animations,
    bombs,
    encoded,
    half_transparent,
    opencv,
    picture,
    png_chunk,
    png_with,
    tiff_of_pixels,
    turned,
)

LIMIT = 50_000_000
RGB, GREY = Form((16, 16), "rgb"), Form((16, 16), "grey")
WHITE = (255, 255, 255)


def pixels_of(data: bytes, form: Form = RGB) -> np.ndarray:
    return decode(data, form, max_pixels=LIMIT)


def smooth(image: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.blur(np.ascontiguousarray(image), (9, 9)).astype(int).reshape(image.shape))


# What is read


@pytest.mark.parametrize("form", [GREY, RGB])
@pytest.mark.parametrize("name", STILLS)
def test_an_image_becomes_pixels_like_those_it_was_made_of(name: str, form: Form) -> None:
    image = pixels_of(STILLS[name], form)
    wanted = picture()
    if name.startswith("turned"):
        wanted = np.rot90(wanted, -1)
    elif name == "16-bit png" or name == "16-bit tiff":
        wanted = wanted[..., ::-1]  # OpenCV wrote BGR
    elif name == "avif":
        wanted = wanted[..., ::-1]
    elif name.startswith("rgba"):
        wanted = np.where(np.arange(64)[:, None] < 32, wanted, 255).astype(np.uint8)
    if name in ("16-bit grey png", "float tiff"):
        wanted = np.repeat(wanted[..., :1], 3, axis=2)
    elif form is GREY or name.startswith(("grey", "1-bit")):
        wanted = cv2.cvtColor(np.ascontiguousarray(wanted), cv2.COLOR_RGB2GRAY)[..., None]
    wanted = wanted[..., :1] if form is GREY else wanted
    assert image.dtype == np.uint8
    assert image.shape == (*wanted.shape[:2], form.image_shape[2])
    distance = smooth(image) - smooth(np.broadcast_to(wanted, image.shape))
    assert np.abs(distance).mean() < (30 if name.startswith("1-bit") else 12)


@pytest.mark.parametrize("name", [name for name in STILLS if "tiff" not in name and "after its end" not in name])
def test_a_truncated_file_is_refused(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    for kept in (0.9, 0.5):
        data = STILLS[name][: int(len(STILLS[name]) * kept)]
        with pytest.raises(ValueError, match="not an image"):
            pixels_of(data)
    assert "WARN" not in capfd.readouterr().err


def test_any_cut_of_any_format_is_an_image_or_a_value_error() -> None:
    for data in STILLS.values():
        for length in range(0, min(len(data), 400), 3):
            try:
                pixels_of(data[:length], GREY)
            except ValueError:
                continue


def test_heic_needs_a_package_that_the_message_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0\0\0\x14ispe" + bytes(4) + b"\0\0\0\x40\0\0\0\x30"
    with pytest.raises(ValueError, match="a HEIC image: install pillow-heif to read it, or convert it to JPEG"):
        pixels_of(heic)


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_and_avif_are_turned_as_they_are_seen(kind: str, orientation: int) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    data = encoded(kind, exif=turned(orientation), quality=95)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.abs(pixels_of(data).astype(int) - wanted).mean() < 2


# Transparency


def transparent(kind: str) -> bytes:
    """Return a dark square on a transparent ground whose hidden colour is black, as drawing programs write it."""
    drawing = np.zeros((40, 60, 4), np.uint8)
    drawing[10:20, 10:20] = (20, 20, 20, 255)
    drawing[10:20, 20:30] = (20, 20, 20, 128)
    image = Image.fromarray(drawing)
    if kind == "16-bit PNG":
        return opencv(".png", drawing.astype(np.uint16) * 257)
    if kind == "LA":
        return encoded("PNG", Image.fromarray(np.dstack([drawing[..., 0], drawing[..., 3]]), "LA"))
    options = {"WEBP": {"lossless": True, "exact": True}, "TIFF": {}, "PNG": {}, "JPEG2000": {}}[kind]
    return encoded(kind, image, **options)


@pytest.mark.parametrize("kind", ["PNG", "16-bit PNG", "LA", "WEBP", "TIFF", "JPEG2000"])
def test_transparent_pixels_show_the_background(kind: str) -> None:
    for background in (WHITE, (200, 100, 0)):
        image = pixels_of(transparent(kind), RGB._replace(background=background))
        assert image[0, 0].tolist() == list(background)
        assert image[15, 15].tolist() == [20, 20, 20]
        half = [round((20 * 128 + value * 127) / 255) for value in background]
        assert np.abs(image[15, 25].astype(int) - half).max() <= 1
    assert pixels_of(transparent(kind), GREY)[[0, 15], [0, 15], 0].tolist() == [255, 20]


def test_a_bmp_with_a_mask_for_transparency_is_transparent() -> None:
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack("<IiiHHIIiiII", 108, 2, 1, 1, 32, 3, 0, 0, 0, 0, 0) + masks + bytes(52)
    data = b"BM" + struct.pack("<IHHI", 130, 0, 0, 122) + info + bytes([10, 20, 30, 255]) + bytes([10, 20, 30, 0])
    assert pixels_of(data)[0].tolist() == [[30, 20, 10], [255, 255, 255]]
    assert pixels_of(data[:-5] + b"\0" + data[-4:])[0].tolist() == [[30, 20, 10]] * 2  # no alpha in spite of the mask


def test_palettes_and_single_transparent_colours_are_transparent() -> None:
    grey = Image.fromarray(np.repeat(np.arange(0, 250, 10).astype(np.uint8)[None], 5, axis=0))
    assert pixels_of(encoded("PNG", grey, transparency=20))[0, :4, 0].tolist() == [0, 10, 255, 30]
    palette = grey.convert("P")
    for kind in ("PNG", "GIF"):
        image = pixels_of(encoded(kind, palette, transparency=palette.getpixel((2, 0))))
        assert image[0, :4, 0].tolist() == [0, 10, 255, 30]
    colour = Image.merge("RGB", [grey] * 3)
    assert pixels_of(encoded("PNG", colour, transparency=(20, 20, 20)))[0, :4, 0].tolist() == [0, 10, 255, 30]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (None, 20 * 102 / 255 + 153),  # as OpenCV writes transparency
        (2, 20 * 102 / 255 + 153),
        (1, 20 + 153),  # multiplied by alpha already
        (0, 20),  # near infrared, for example
    ],
)
def test_the_fourth_channel_of_a_tiff_is_what_it_says(dtype: type, extra: int | None, expected: float) -> None:
    pixels: np.ndarray = np.full((8, 8, 4), [20, 20, 20, 102]).astype(dtype) * (257 if dtype is np.uint16 else 1)
    image = pixels_of(tiff_of_pixels(pixels, extra=extra))
    assert np.abs(image - expected).max() <= 1


def test_a_grey_tiff_may_have_a_channel_that_is_not_transparency() -> None:
    data = encoded("TIFF", Image.merge("LA", [Image.new("L", (8, 8), 20), Image.new("L", (8, 8), 99)]))
    tag = struct.pack("<HHII", 338, 3, 1, 2)
    assert (pixels_of(data.replace(tag, tag[:-4] + bytes(4))) == 20).all()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_transparency_is_turned_with_the_image(kind: str, orientation: int) -> None:
    options: dict[str, Any] = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    opaque = pixels_of(encoded(kind, exif=turned(orientation), **options))
    image = pixels_of(encoded(kind, half_transparent(), exif=turned(orientation), **options))
    assert image.shape == opaque.shape
    assert (image == 255).all(axis=2).mean() == pytest.approx(0.5, abs=0.02)
    shown = ~(image == 255).all(axis=2)
    assert np.array_equal(image[shown], opaque[shown])


# More than 8 bits


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_sixteen_bit_files_are_scaled_by_the_white_level(bits: int, suffix: str, n_channels: int) -> None:
    white = (1 << bits) - 1
    ramp = np.linspace(0, white, 200).astype(np.uint16).reshape(10, 20)
    data = opencv(suffix, np.repeat(ramp[..., None], n_channels, axis=2))
    assert brightest(data) == white
    for form in (RGB, GREY):
        image = pixels_of(data, form._replace(white_level=white))
        assert np.abs(image[..., 0].astype(int) - np.linspace(0, 255, 200).reshape(10, 20)).max() <= 1
    if bits > 8:
        with pytest.raises(AboveWhiteError, match=f"16-bit values up to {white} exceed the white level of 255"):
            pixels_of(data, RGB._replace(white_level=255))


def test_a_grey_png_of_no_bits_is_refused() -> None:
    data = png_with(png_chunk(b"tRNS", b"\0\0"))
    with pytest.raises(ValueError, match="not an image that can be decoded"):
        pixels_of(data[:24] + b"\0\0" + data[26:])


def test_floats_are_read_from_0_to_1() -> None:
    ramp = np.linspace(0, 1, 200, dtype=np.float32).reshape(10, 20)
    assert np.abs(pixels_of(opencv(".tiff", ramp))[..., 0].astype(int) - np.rint(ramp * 255)).max() <= 1
    for wrong in (ramp * 300, ramp - 1, np.full((9, 9), np.nan, np.float32)):
        with pytest.raises(ValueError, match=r"float values from .* to .*; expected 0 to 1"):
            pixels_of(opencv(".tiff", wrong))


@pytest.mark.parametrize("form", [RGB, GREY])
def test_pixels_of_more_than_sixteen_bits_are_refused(form: Form) -> None:
    with pytest.raises(
        ValueError, match=r"pixels of type int32; expected 8 or 16 bits, unsigned, or floats from 0 to 1"
    ):
        pixels_of(encoded("TIFF", Image.fromarray(np.arange(64, dtype=np.int32).reshape(8, 8))), form)


@pytest.mark.parametrize("white", [300, 1023, 4095, 65535])
def test_a_pnm_says_its_white_itself(white: int) -> None:
    ramp = np.linspace(0, white, 200).astype(">u2")
    image = pixels_of(b"P5 20 10 %d\n" % white + ramp.tobytes(), RGB._replace(white_level=255))
    assert np.abs(image[..., 0].reshape(-1).astype(int) - np.linspace(0, 255, 200)).max() <= 1.5


@pytest.mark.parametrize("depth", [8, 10, 12])
def test_transparent_avif_keeps_its_brightness_at_any_depth(depth: int) -> None:
    pixels = np.full((64, 64, 4), (1 << depth) // 2, np.uint16 if depth > 8 else np.uint8)
    pixels[:32, :, 3], pixels[32:, :, 3] = (1 << depth) - 1, 0
    done, data = cv2.imencode(".avif", pixels, [cv2.IMWRITE_AVIF_DEPTH, depth, cv2.IMWRITE_AVIF_QUALITY, 100])
    assert done
    image = pixels_of(data.tobytes())
    assert np.abs(image[5, 5].astype(int) - 128).max() <= 3
    assert image[60, 60].tolist() == [255, 255, 255]


def test_exif_may_stand_behind_the_pixels_of_a_png() -> None:
    data = encoded("PNG", half_transparent(), exif=turned(6))
    chunks = {name: data[at - 8 : at + n_bytes + 4] for name, at, n_bytes in _png_chunks(data)}
    behind = data.replace(chunks[b"eXIf"], b"").replace(chunks[b"IEND"], chunks[b"eXIf"] + chunks[b"IEND"])
    assert np.array_equal(pixels_of(behind), pixels_of(data))


# Pixels of an array


def test_pixels_of_an_array_are_converted_without_change() -> None:
    colour, grey = picture(), picture()[..., 0]
    assert np.array_equal(convert(colour, color="rgb"), colour)
    assert np.array_equal(convert(grey, color="grey")[..., 0], grey)
    assert np.array_equal(convert(grey[..., None], color="rgb"), np.stack([grey] * 3, axis=-1))
    assert np.array_equal(convert(colour, color="grey")[..., 0], cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY))
    view = picture()[::-1, ::2]
    assert np.array_equal(convert(view, color="grey"), convert(view.copy(), color="grey"))
    for wrong in (colour.astype(float), *(np.zeros(shape, np.uint8) for shape in ((3, 4, 2), (0, 4), (1,)))):
        with pytest.raises(ValueError, match=r"expected uint8 pixels \(H, W\)"):
            convert(wrong, color="rgb")


# Size


def test_shrinking_averages_areas_and_growing_interpolates() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (8, 4))[..., None]
    assert np.all(np.abs(resize(stripes, GREY._replace(size=(4, 4))).astype(int) - 128) <= 1)
    ramp = np.array([[0, 100]], np.uint8)[..., None]
    grown = resize(ramp, GREY._replace(size=(2, 8)))
    assert np.all(np.diff(grown[0, :, 0].astype(int)) >= 0)
    assert len(np.unique(grown)) > 2
    assert resize(ramp, GREY._replace(size=(1, 2))) is ramp


@pytest.mark.parametrize(
    ("size", "how"),
    [
        ((23, 31), cv2.INTER_AREA),
        ((23, 64), cv2.INTER_AREA),
        ((48, 31), cv2.INTER_AREA),
        ((24, 32), cv2.INTER_LINEAR),
        ((47, 63), cv2.INTER_LINEAR),
        ((48, 90), cv2.INTER_LINEAR),
        ((24, 90), cv2.INTER_LINEAR),
        ((90, 90), cv2.INTER_LINEAR),
    ],
)
def test_areas_are_averaged_below_half_the_size(size: tuple[int, int], how: int) -> None:
    expected = cv2.resize(picture(), size[::-1], interpolation=how)
    assert np.array_equal(resize(picture(), RGB._replace(size=size)), expected)


@pytest.mark.parametrize("size", [(64, 64), (65, 64), (63, 64), (200, 64)])
@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize("upright", [False, True])
def test_thin_stripes_keep_their_brightness(size: tuple[int, int], n_channels: int, upright: bool) -> None:
    stripes = np.zeros((64, 640, n_channels), np.uint8)
    stripes[:, 4::10] = 255  # linear interpolation alone sees every stripe, or none
    image = np.ascontiguousarray(stripes.swapaxes(0, 1)) if upright else stripes
    form = (GREY if n_channels == 1 else RGB)._replace(size=size[::-1] if upright else size)
    out = np.empty(form.image_shape, np.uint8)
    assert resize(image, form, out=out) is out
    assert out.mean() == pytest.approx(25.5, abs=1)
    assert np.array_equal(out, resize(image, form))


@pytest.mark.parametrize("shape", [(40, 80), (80, 40), (50, 50), (1, 300)])
@pytest.mark.parametrize("form", [RGB, GREY, RGB._replace(size=(20, 30))])
def test_letterbox_keeps_all_and_the_aspect_ratio(shape: tuple[int, int], form: Form) -> None:
    form = form._replace(resize="letterbox", background=(9, 9, 9))
    image = np.full((*shape, form.image_shape[2]), 200, np.uint8)
    out = resize(image, form)
    inside = out[..., 0] == 200
    rows, columns = inside.any(axis=1), inside.any(axis=0)
    assert set(np.unique(out)) <= {9, 200}
    assert inside.sum() == rows.sum() * columns.sum()
    assert rows.all() or columns.all()
    scale = min(form.size[0] / shape[0], form.size[1] / shape[1])
    assert (rows.sum(), columns.sum()) == (max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale)))
    assert abs(int(np.flatnonzero(rows)[0]) - int(np.flatnonzero(rows[::-1])[0])) <= 1  # in the middle
    assert np.array_equal(out, resize(image, form, out=np.empty_like(out)))


def test_crop_keeps_the_middle_and_the_aspect_ratio() -> None:
    image = np.zeros((40, 120, 3), np.uint8)
    image[:, 40:80] = 255
    assert resize(image, RGB._replace(resize="crop")).min() == 255
    assert resize(image.swapaxes(0, 1), RGB._replace(resize="crop")).min() == 255
    wide = RGB._replace(resize="crop", size=(10, 30))
    assert np.array_equal(resize(image, wide), resize(image, wide._replace(resize="stretch")))


# Large JPEGs


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Return a list of what OpenCV decodes from now on."""
    found: list[np.ndarray] = []
    imdecode = cv2.imdecode

    def recorded(*given: Any) -> Any:
        found.append(np.asarray(imdecode(*given)))
        return found[-1]

    monkeypatch.setattr(cv2, "imdecode", recorded)
    return found


def photograph(height: int, width: int, **options: Any) -> bytes:
    noise = np.random.default_rng(1).integers(0, 256, (height // 50, width // 50, 3), dtype=np.uint8)
    image = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return encoded("JPEG", Image.fromarray(image), quality=92, **options)


@pytest.mark.parametrize("mode", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("form", [RGB, GREY])
@pytest.mark.parametrize("size", [(96, 96), (60, 96)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_large_jpegs_are_decoded_smaller_with_the_same_look(
    mode: str, form: Form, size: tuple[int, int], orientation: int, decoded: list[np.ndarray]
) -> None:
    form = form._replace(resize=mode, size=size)
    data = photograph(1200, 1600, exif=turned(orientation))
    image, original = prepare(data, form, max_pixels=LIMIT)
    assert original == ((1600, 1200) if orientation == 6 else (1200, 1600))
    assert decoded[0].size < 1200 * 1600 * form.image_shape[2] / 3
    smallest = resize(decode(data, form, max_pixels=LIMIT), form)
    difference = np.abs(image.astype(int) - smallest)
    assert (difference.mean() < 1, difference.max() < 20) == (True, True)


def test_at_half_its_size_every_pixel_has_a_weight() -> None:
    for size in (33, 40, 47, 64):
        for place in range(64):
            line = np.zeros((64, 64, 1), np.uint8)
            line[:, place] = 255
            shown = resize(line, GREY._replace(size=(size, size))).astype(int).sum(axis=1)
            assert np.all(shown > 0)


def test_no_jpeg_is_decoded_below_the_wanted_size(decoded: list[np.ndarray]) -> None:
    for side in (95, 96, 191, 192, 383, 384, 767, 768, 2000):
        for mode in ("stretch", "letterbox", "crop"):
            prepare(photograph(side, 2 * side), Form((96, 96), "rgb", mode), max_pixels=LIMIT)
            height, width = decoded.pop().shape[:2]
            wanted = {"stretch": (96, 96), "letterbox": (48, 96), "crop": (96, 192)}[mode]
            if (height, width) != (side, 2 * side):
                assert (height >= wanted[0], width >= wanted[1]) == (True, True)


def test_forms_survive_a_model_s_metadata() -> None:
    form = Form((20, 30), "grey", "crop", (1, 2, 3), 4095)
    assert Form.of(form.metadata) == form
    assert Form.of({"image_shape": [8, 9, 3], "color": "rgb"}) == Form((8, 9), "rgb")


def test_bombs_and_animations_are_refused() -> None:
    for data in (bombs() | animations()).values():
        with pytest.raises(ValueError, match="not an image|pixels|scans|more than one frame|PNG|TIFF|BMP|AVIF|JPEG"):
            prepare(data, RGB, max_pixels=LIMIT)
