import hashlib
from datetime import UTC, datetime

import pytest

from darkroom.deployable.headers import read_header
from darkroom.monitoring.feedback import FeedbackLog, TrueLabel
from darkroom.monitoring.log import PredictionLog, keep_image
from darkroom.monitoring.measures import FEATURES
from darkroom.operations import labelled
from tests.support.image_files import STILLS

NOW = datetime(2026, 5, 20, 3, tzinfo=UTC)


def logged(folder, images, label):
    """Log these images, keep their files, label them, and return their ids."""
    ids = [hashlib.sha256(data).hexdigest() for data in images]
    row = {"time": NOW, "version": "1", "label": "cat", "confidence": 0.9, "width": 4, "height": 4}
    with PredictionLog(folder) as log:
        log.append([{**row, **dict.fromkeys(FEATURES, 0.5), "id": image} for image in ids])
    for image, data in zip(ids, images, strict=True):
        keep_image(folder, image, data)
    FeedbackLog(folder).append([TrueLabel(image, label, NOW) for image in ids])
    return ids


def copied(folder, incoming):
    found = labelled.copy_to_incoming(folder, incoming, files={}, classes=["cat", "dog"], new_classes=True)
    return found.n_copied, found.n_known


def test_an_image_has_one_class_after_copies_that_were_cut_short(tmp_path):
    incoming = tmp_path / "incoming"
    known, moved = logged(tmp_path / "log", [STILLS["png"], STILLS["jpeg"]], "dog")
    for name in (f"bird/{known}.png", f"cat/{known}.png", f"dog/{known}.png", f"bird/{moved}.jpg", f"cat/{moved}.jpg"):
        path = incoming / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(STILLS["png" if path.suffix == ".png" else "jpeg"])
    (incoming / "cat" / "other.png").write_bytes(STILLS["png"])
    assert copied(tmp_path / "log", incoming) == (1, 1)
    left = sorted(path.relative_to(incoming).as_posix() for path in incoming.glob("*/*"))
    assert left == sorted(["cat/other.png", f"dog/{known}.png", f"dog/{moved}.jpg"])
    assert (incoming / "dog" / f"{moved}.jpg").read_bytes() == STILLS["jpeg"]
    assert copied(tmp_path / "log", incoming) == (0, 2)


HEIC = b"\0\0\0\x10ftypheic\0\0\0\0\0\0\0\x14ispe\0\0\0\0\0\0\0\x08\0\0\0\x08"


@pytest.mark.parametrize(
    ("data", "suffix"),
    [
        (STILLS["jpeg"], ".jpg"),
        (STILLS["png"], ".png"),
        (STILLS["lossy webp"], ".webp"),
        (STILLS["bmp"], ".bmp"),
        (STILLS["gif"], ".gif"),
        (STILLS["tiff"], ".tif"),
        (STILLS["jpeg 2000"], ".jp2"),
        (STILLS["ppm"], ".pnm"),
        (STILLS["avif"], ".avif"),
        (HEIC, ".heic"),
        (b"not an image", ".bin"),
        (STILLS["jpeg 2000"][:20], ".bin"),
    ],
)
def test_a_copy_has_the_suffix_of_its_format(tmp_path, data, suffix):
    (image,) = logged(tmp_path / "log", [data], "cat")
    copied(tmp_path / "log", tmp_path / "incoming")
    assert [path.name for path in (tmp_path / "incoming").glob("*/*")] == [f"{image}{suffix}"]


def test_every_format_has_a_suffix():
    assert {read_header(data).kind for data in [*STILLS.values(), HEIC]} == set(labelled.SUFFIXES)
