import subprocess
import sys

import cv2
import numpy as np
import pytest

from darkroom.data.preparation.decoding import Rejected, perceptual_hashes, prepare, read_batch
from darkroom.deployable.images import Form, resize
from tests.support.image_files import STILLS, opencv

FORM = Form((30, 40), "rgb")


def noise(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    blurred = cv2.GaussianBlur(pixels, (0, 0), 6).astype(float)
    return np.asarray(np.clip((blurred - 127) * 8 + 127, 0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes: the file is empty"),
        (STILLS["png"], r"64x48 pixels; the limit is 3000 pixels \(preprocess.max_image_pixels\)"),
        (
            opencv(".png", np.full((9, 9), 5000, np.uint16)),
            "exceed the white level of 4095; raise preprocess.white_level",
        ),
        (np.zeros((9, 9, 2), np.uint8), r"expected uint8 pixels \(H, W\), \(H, W, 1\) or \(H, W, 3\)"),
    ],
)
def test_a_rejection_names_the_setting_to_change(data: bytes | np.ndarray, reason: str) -> None:
    with pytest.raises(Rejected, match=reason):
        prepare(data, FORM._replace(white_level=4095), max_pixels=3000)


@pytest.mark.parametrize("color", [True, False])
def test_copies_have_near_hashes_and_other_pictures_have_not(color):
    images = [noise(120, 160, seed) if color else noise(120, 160, seed)[..., :1] for seed in range(40)]
    hashes = perceptual_hashes(np.stack(images))
    forms = [Form(size, "rgb") for size in ((90, 100), (120, 160))]
    copies = [resize(resize(image, forms[0]), forms[1]) for image in images]
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
    items: list[bytes | np.ndarray] = [
        STILLS["turned png"],
        b"",
        STILLS["lossless webp"],
        noise(),
        STILLS["jpeg"][:100],
        STILLS["png"],
    ]
    batch = read_batch(items, form=FORM, max_pixels=10_000, hashes=True)
    assert batch.images.shape == (4, 30, 40, 3)
    assert [position for position, _ in batch.rejected] == [1, 4]
    assert batch.sizes.tolist() == [[64, 48], [48, 64], [60, 80], [48, 64]]
    assert np.array_equal(batch.images[1], batch.images[3])
    assert len({row.tobytes() for row in batch.ids}) == 4
    pixels = batch.images.reshape(4, -1, 3).astype(np.int64)
    assert np.array_equal(batch.sums, np.stack([pixels.sum(1), (pixels**2).sum(1)], axis=1))


def test_the_sums_are_exact_for_big_and_extreme_images():
    for image in (np.full((1000, 900, 3), 255, np.uint8), np.zeros((5, 5, 3), np.uint8), noise(997, 1009)):
        sums = read_batch([image], form=Form(image.shape[:2], "rgb"), max_pixels=1, hashes=False).sums[0]
        pixels = image.reshape(-1, 3).astype(np.int64)
        assert np.array_equal(sums, [pixels.sum(0), (pixels**2).sum(0)])


NOISE = """
import sys
from darkroom.project.console import native_stderr_silenced
from darkroom.data.preparation.decoding import read_batch
from darkroom.deployable.images import Form
data = sys.stdin.buffer.read()
with native_stderr_silenced():
    print("before", file=sys.stderr)
    batch = read_batch([data], form=Form((9, 9), "rgb"), max_pixels=10**6, hashes=False)
    print(len(batch.rejected), file=sys.stderr)
print("after", file=sys.stderr)
"""


def test_what_libraries_print_about_broken_files_is_hidden():
    damaged = bytearray(STILLS["png"])
    damaged[len(damaged) // 2] ^= 255
    done = subprocess.run([sys.executable, "-c", NOISE], input=bytes(damaged), capture_output=True, check=True)
    assert done.stderr.decode().split() == ["before", "1", "after"]
