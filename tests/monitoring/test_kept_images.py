import hashlib
import os
import time

import pytest

from darkroom.monitoring.kept_images import Keeping, KeptImages, stored_images
from darkroom.monitoring.log import keep_image
from darkroom.monitoring.retention import CLEAN_SECONDS

DAY = 86400.0


def picture(number, n_bytes=1000):
    data = number.to_bytes(4, "big") * (n_bytes // 4)
    return hashlib.sha256(data).hexdigest(), data


def age(log, image_id, seconds):
    path = stored_images(log)[image_id]
    os.utime(path, (time.time() - seconds,) * 2)


def n_bytes(log):
    return sum(path.stat().st_size for path in stored_images(log).values())


@pytest.mark.parametrize("fraction", [0.0, 0.1, 1.0])
def test_a_fraction_is_drawn_by_content(fraction):
    keeping = Keeping(fraction, DAY, 1 << 20)
    drawn = [keeping.wants(picture(number)[0]) for number in range(2000)]
    assert sum(drawn) == pytest.approx(2000 * fraction, abs=60 if fraction == 0.1 else 0)
    assert drawn == [keeping.wants(picture(number)[0]) for number in range(2000)]


def test_what_is_kept_never_grows_beyond_its_bytes_the_oldest_go(tmp_path):
    kept = KeptImages(tmp_path, Keeping(1.0, DAY, 50_000))
    for number in range(200):
        image, data = picture(number)
        kept.keep(image, data)
        age(tmp_path, image, 1000 - number)
        assert n_bytes(tmp_path) <= 50_000
    assert n_bytes(tmp_path) > 40_000
    assert picture(199)[0] in stored_images(tmp_path)
    assert picture(0)[0] not in stored_images(tmp_path)
    kept.keep(*picture(1000, 60_000))
    assert n_bytes(tmp_path) > 40_000, "an image that is larger than all may be makes no room"


def test_two_servers_share_the_bytes(tmp_path):
    both = [KeptImages(tmp_path, Keeping(1.0, DAY, 100_000)) for _ in range(2)]
    for number in range(400):
        both[number % 2].keep(*picture(number))
        assert n_bytes(tmp_path) <= 110_000


def test_an_image_and_a_half_written_one_go_after_its_days(tmp_path):
    kept = KeptImages(tmp_path, Keeping(1.0, DAY, 1 << 20))
    for number in range(3):
        kept.keep(*picture(number))
    age(tmp_path, picture(0)[0], 2 * DAY)
    half = stored_images(tmp_path)[picture(1)[0]].with_name(".0123abcd-half")
    half.write_bytes(b"half")
    os.utime(half, (time.time() - 2 * DAY,) * 2)
    kept.clean_if_due()
    assert half.exists(), "it looks every ten minutes"
    kept._cleaned -= CLEAN_SECONDS
    kept.clean_if_due()
    assert set(stored_images(tmp_path)) == {picture(1)[0], picture(2)[0]}
    assert not half.exists()


def test_what_batch_was_told_to_keep_has_no_bounds(tmp_path):
    for number in range(10):
        keep_image(tmp_path, *picture(number))
        age(tmp_path, picture(number)[0], 2 * DAY)
    KeptImages(tmp_path, Keeping(1.0, DAY, 5000)).clean_if_due()
    assert len(stored_images(tmp_path)) == 10
