"""Which images of a dataset are looked at, and what is found out about them."""

import io
import json
import tarfile
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
from PIL import Image

from darkroom.data.preparation import auto
from darkroom.data.preparation.auto import Chosen
from darkroom.deployable.images import Form
from darkroom.errors import DataError
from tests.support.image_files import encoded as image_file
from tests.support.image_files import picture, turned
from tests.support.raw_files import pixels, write_idx, write_manifest

LIMITS: dict[str, Any] = {"max_archive_bytes": 10**9, "max_image_bytes": 10**6, "max_pixels": 10**7}


def encoded(image: np.ndarray, form: str = ".png") -> bytes:
    done, data = cv2.imencode(form, image)
    assert done
    return data.tobytes()


def grey(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Shades of grey stored in three channels."""
    return np.asarray(np.repeat(pixels(1, height, width, 1, seed=seed)[0], 3, axis=2))


def colored(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.asarray(pixels(1, height, width, 3, seed=seed)[0])


def raw(directory: Path, files: dict[str, bytes], *, mode: Literal["w", "w:gz", "w:xz", "w:bz2"] = "w") -> Path:
    directory.mkdir()
    path = directory / "d.tar"
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    file = {"name": path.name, "bytes": path.stat().st_size, "sha256": ""}
    manifest = {"dataset": "d", "files": [file], "layout": {"kind": "folders"}}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def form(
    directory: Path, image_size: list[int] | Literal["auto"] = "auto", color: str = "auto", **given: Any
) -> Chosen:
    rest: dict[str, Any] = {"resize": "stretch", "background": (255, 255, 255), "white_level": 65535, **given}
    return auto.choose_form(partial(auto.look, directory, **LIMITS), image_size=image_size, color=color, **rest)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_shades_of_grey_stored_as_rgb_are_grey(tmp_path: Path, suffix: str) -> None:
    files = {f"{name}/{number}{suffix}": encoded(grey(28, 28, number), suffix) for name in "ab" for number in range(5)}
    chosen = form(raw(tmp_path / "raw", files))
    assert chosen.in_words() == "image_size 28x28 (that of 10 images), color grey (no colour in 10 images)"
    assert chosen.form[:2] == ((28, 28), "grey")


def test_one_coloured_picture_among_grey_ones_is_found_and_named(tmp_path: Path) -> None:
    files = {f"{name}/{number}.png": encoded(grey(28, 28, number)[..., 0]) for name in "ab" for number in range(5)}
    chosen = form(raw(tmp_path / "raw", files | {"a/x.png": encoded(colored(28, 28))}))
    assert chosen.form.color == "rgb"
    assert chosen.reasons["color"] == "'a/x.png' is coloured"


def test_mixed_sizes_become_a_square_by_the_median(tmp_path: Path) -> None:
    shapes = [(90, 400), (172, 300), (180, 170), (800, 600), (700, 900)]
    files = {f"{'ab'[n % 2]}/{n}.jpg": encoded(colored(*shape), ".jpg") for n, shape in enumerate(shapes)}
    chosen = form(raw(tmp_path / "raw", files))
    assert chosen.form.size == (160, 160)
    assert chosen.in_words().startswith("image_size 160x160 (median shorter side 172 px of 5 images), color rgb (")


def test_what_is_given_is_not_chosen(tmp_path: Path) -> None:
    files = {"a/1.png": encoded(colored(40, 30)), "b/1.png": encoded(colored(40, 30))}
    directory = raw(tmp_path / "raw", files)
    assert form(directory, [20, 10], "grey") == (Form((20, 10), "grey"), {})
    assert form(directory, [20, 10]).in_words() == "color rgb ('a/1.png' is coloured)"
    assert form(directory, color="grey") == (Form((40, 30), "grey"), {"image_size": "that of 2 images"})


def test_nothing_is_read_where_nothing_is_to_be_chosen(tmp_path: Path) -> None:
    assert form(tmp_path / "nowhere", [20, 10], "rgb").form.size == (20, 10)


def test_the_sample_does_not_depend_on_order_or_packing(tmp_path: Path) -> None:
    files = {f"{name}/{n}.png": encoded(colored(20 + n, 30, n)) for name in "ab" for n in range(40)}
    one = auto.look(raw(tmp_path / "one", files), n=10, **LIMITS)
    reverse = dict(sorted(files.items(), reverse=True))
    two = auto.look(raw(tmp_path / "two", reverse, mode="w:gz"), n=10, **LIMITS)
    assert sorted(one.sizes) == sorted(two.sizes)
    assert len(one.sizes) == 10
    assert len(set(one.sizes)) > 5  # and not the first ones of the archive alone


def test_official_test_pictures_are_not_looked_at(tmp_path: Path) -> None:
    files = {f"train/{name}/{n}.png": encoded(grey(32, 32, n)) for name in "ab" for n in range(5)}
    files |= {f"test/{name}/{n}.png": encoded(colored(64, 64, n)) for name in "ab" for n in range(50)}
    assert form(raw(tmp_path / "raw", files)).form[:2] == ((32, 32), "grey")


def test_arrays_are_looked_at_too(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"x_train": pixels(300, 28, 28), "y_train": np.arange(300) % 10}
    write_idx(tmp_path, x_test=pixels(9, 28, 28), y_test=np.arange(9), **arrays)
    write_manifest(tmp_path, "idx")
    expected = "image_size 28x28 (that of 200 images), color grey (no colour in 200 images)"
    assert form(tmp_path).in_words() == expected


def test_the_white_level_is_the_end_of_the_range_in_use(tmp_path: Path) -> None:
    for name, most, level in (("eight", 200, 255), ("twelve", 3900, 4095), ("all", 40_000, 65535)):
        deep = np.linspace(0, most, 900).astype(np.uint16).reshape(30, 30)
        files = {"a/1.png": encoded(deep), "b/1.png": encoded(colored(30, 30)), "b/2.tif": encoded(deep // 2, ".tif")}
        chosen = form(raw(tmp_path / name, files), [20, 20], "grey", white_level="auto")
        assert chosen.form.white_level == level
        assert chosen.in_words() == f"white_level {level} (values up to {most})"
    chosen = form(
        raw(tmp_path / "plain", dict.fromkeys(("a/1.png", "b/1.png"), encoded(colored(30, 30)))),
        [20, 20],
        "grey",
        white_level="auto",
    )
    assert chosen.in_words() == "white_level 65535 (no images of 16 bits)"


def test_images_of_a_smaller_range_beside_others_are_pointed_out(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 400).reshape(20, 20)
    files = {f"a/{most}.png": encoded((ramp * most).astype(np.uint16)) for most in (65535, 20000, 4095)}
    chosen = form(
        raw(tmp_path / "raw", {**files, "b/1.png": files["a/65535.png"]}), [20, 20], "grey", white_level="auto"
    )
    assert chosen.in_words() == (
        "white_level 65535 (values up to 65535, but 'a/4095.png' has none above 4095 and will be nearly black: scale "
        "such files first)"
    )


def test_floats_say_nothing_about_the_white_level(tmp_path: Path) -> None:
    floats = encoded(np.linspace(0, 1, 900, dtype=np.float32).reshape(30, 30), ".tiff")
    chosen = form(raw(tmp_path / "raw", {"a/1.tif": floats, "b/1.tif": floats}), [20, 20], "grey", white_level="auto")
    assert chosen.in_words() == "white_level 65535 (no images of 16 bits)"


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ([(60, 40), (62, 40)], "stretch (height/width from 1.5 to 1.6)"),
        ([(60, 40), (40, 60)], "crop (height/width from 0.67 to 1.5)"),
        ([(90, 30), (40, 60)], "letterbox (height/width from 0.67 to 3)"),
    ],
)
def test_the_resize_mode_follows_the_aspect_ratios(tmp_path: Path, shapes: list[tuple[int, int]], words: str) -> None:
    files = {f"{'ab'[n]}/{n}.png": encoded(colored(*shape)) for n, shape in enumerate(shapes)}
    chosen = form(raw(tmp_path / "raw", files), [20, 20], "rgb", resize="auto")
    assert chosen.in_words() == f"resize {words}"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF", "AVIF"])
@pytest.mark.parametrize("color", ["auto", "rgb"])
def test_big_pictures_are_measured_as_they_are_seen(tmp_path: Path, kind: str, color: str) -> None:
    image = Image.fromarray(picture(300, 400))
    files = {f"{'ab'[n % 2]}/{n}": image_file(kind, image, exif=turned(1 if n < 5 else 6)) for n in range(10)}
    sample = auto.look(raw(tmp_path / "raw", files), **LIMITS)
    assert sorted(sample.sizes) == [(300, 400)] * 5 + [(400, 300)] * 5
    chosen = form(tmp_path / "raw", [20, 20], color, resize="auto")
    assert (chosen.form.resize, chosen.reasons["resize"]) == ("crop", "height/width from 0.75 to 1.3")


def test_pictures_of_no_use_are_passed_over(tmp_path: Path) -> None:
    files = {f"{name}/{n}.png": encoded(colored(28, 28, n)) for name in "ab" for n in range(5)}
    files |= {"a/empty.png": b"", "a/text.png": b"no picture", "b/half.png": encoded(colored(99, 99))[:-50]}
    assert len(auto.look(raw(tmp_path / "raw", files), **LIMITS).sizes) == 10


def test_a_data_set_without_a_usable_picture_gives_a_reason(tmp_path: Path) -> None:
    directory = raw(tmp_path / "raw", {"a/1.png": b"", "b/1.png": b""})
    with pytest.raises(DataError, match=r"cannot choose .*: no image can be decoded; '[ab]/1.png': 0 bytes: the file"):
        form(directory)
