"""The originals of prepared images, found again in whatever holds them, and only as they were."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.data.raw.sources import Origin, content_id, read_originals, read_sources
from darkroom.errors import DataError
from tests.support.raw_files import pixels, write_folder, write_idx, write_manifest, write_tar, write_zip

FILES = {f"{name}/{number}.png": f"{name} {number}".encode() for name in ("cats", "dogs") for number in range(6)}
ARRAYS: dict[str, Any] = {"x_train": pixels(40, 5, 5), "y_train": np.arange(40) % 2}
ARRAYS |= {"x_test": pixels(10, 5, 5, seed=2), "y_test": np.arange(10) % 2}


def written(folder: Path, kind: str) -> Path:
    """Write data/raw in one of the formats that it can have."""
    folder.mkdir()
    if kind == "idx":
        write_idx(folder, **ARRAYS, compressed=True)
    elif kind == "npz":
        np.savez_compressed(folder / "data.npz", **ARRAYS)
    elif kind == "cifar":
        rows = np.concatenate([np.arange(20)[:, None] % 2, pixels(20, 3072)], axis=1).astype(np.uint8)
        (folder / "data_batch_1.bin").write_bytes(rows.tobytes())
    elif kind == "zip":
        write_zip(folder / "data.zip", FILES)
    else:
        write_tar(folder / "images.tar.gz", FILES, mode="w:gz")
    return write_manifest(folder, kind if kind in ("idx", "npz", "cifar") else "folders")


def drop(folder: Path) -> Path:
    """Put images into a directory of new ones, one class of it behind a link."""
    for name in ("cats", "elsewhere"):
        (folder.parent / name).mkdir()
        (folder.parent / name / "new.png").write_bytes(name.encode())
    folder.mkdir()
    (folder / "cats").symlink_to(folder.parent / "cats")
    (folder / "dogs").symlink_to(folder.parent / "elsewhere")
    (folder / "cats.dvc").write_text("outs: []\n")
    return folder


def origins(raw: Path, incoming: Path) -> tuple[list[Origin], list[Any]]:
    found = list(read_sources(raw, incoming, max_archive_bytes=10**6, max_image_bytes=10**6))
    return [Origin(image.name, new, content_id(image.data).hex()) for image, new in found], [  # type: ignore[arg-type]
        image.data for image, _ in found
    ]


@pytest.mark.parametrize("kind", ["idx", "npz", "cifar", "zip", "tar"])
def test_originals_are_found_in_every_format(tmp_path: Path, kind: str) -> None:
    raw, incoming = written(tmp_path / "raw", kind), drop(tmp_path / "incoming")
    known, data = origins(raw, incoming)
    chosen = [*np.random.default_rng(0).permutation(len(known))[:9].tolist(), len(known) - 1]
    wanted = list(dict.fromkeys(chosen))
    found = dict(read_originals(raw, incoming, [known[number] for number in wanted]))
    assert sorted(found) == list(range(len(wanted)))
    for position, number in enumerate(wanted):
        assert np.array_equal(found[position], data[number])


def test_a_name_may_stand_in_both_places(tmp_path: Path) -> None:
    """A class called incoming is not the directory of new images."""
    (tmp_path / "raw").mkdir()
    write_zip(tmp_path / "raw" / "data.zip", {"incoming/cats/new.png": b"old", "dogs/1.png": b"dog"})
    raw, incoming = write_manifest(tmp_path / "raw", "folders"), drop(tmp_path / "incoming")
    known, data = origins(raw, incoming)
    assert [origin.source for origin in known].count("incoming/cats/new.png") == 2
    assert [data for _, data in sorted(read_originals(raw, incoming, known))] == data


@pytest.mark.parametrize(("kind", "known"), [("zip", "cats"), ("npz", "1")])
def test_classes_inside_a_new_class_are_refused(tmp_path: Path, kind: str, known: str) -> None:
    raw = written(tmp_path / "raw", kind)
    incoming = write_folder(tmp_path / "incoming", f"{known}/monday/1.png", "new/monday/1.png").resolve()
    assert origins(raw, incoming)[0][-1].source == "incoming/new/monday/1.png"
    write_folder(incoming, f"train/x/{known}/1.png")
    with pytest.raises(
        DataError, match=f"incoming: 'train' would be a new class, but holds the class '{known}' of the"
    ):
        origins(raw, incoming)


def test_other_originals_are_not_read(tmp_path: Path) -> None:
    raw, incoming = written(tmp_path / "raw", "tar"), drop(tmp_path / "incoming")
    known, _ = origins(raw, incoming)
    (tmp_path / "cats" / "new.png").unlink()
    (tmp_path / "cats" / "newer.png").write_bytes(b"a later one")
    assert len(list(read_originals(raw, incoming, known[:3]))) == 3


def test_an_original_that_changed_or_went_is_named(tmp_path: Path) -> None:
    raw, incoming = written(tmp_path / "raw", "zip"), drop(tmp_path / "incoming")
    known, _ = origins(raw, incoming)
    (tmp_path / "cats" / "new.png").write_bytes(b"other")
    with pytest.raises(DataError, match=r"incoming: 'cats/new.png' has changed since it was prepared; restore it"):
        list(read_originals(raw, incoming, known))
    (tmp_path / "cats" / "new.png").unlink()
    (incoming / "dogs").unlink()
    with pytest.raises(DataError, match=r"'cats/new.png' is gone \(and 1 more of 14 originals\); restore it, for"):
        list(read_originals(raw, incoming, known))
    write_zip(raw / "data.zip", {name: data for name, data in FILES.items() if name != "dogs/5.png"})
    write_manifest(raw, "folders")
    with pytest.raises(DataError, match=r"raw: 'dogs/5.png' is gone; restore it, for example with `dvc pull`, or run"):
        list(read_originals(raw, incoming, known[:12]))
    (raw / "data.zip").unlink()
    with pytest.raises(DataError, match=r"raw is incomplete; run `dvc repro download`"):
        list(read_originals(raw, incoming, known))
