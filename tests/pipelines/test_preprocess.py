import csv
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.dataset_writer import DatasetWriter
from darkroom.data.preparation import prepared, rows
from darkroom.data.preparation.corrections import Correction, write_corrections
from darkroom.data.preparation.decoding import read_batch
from darkroom.data.raw.layouts import RawImage
from darkroom.deployable.images import Form
from darkroom.errors import DataError, ParamsError
from darkroom.promotion import slices
from darkroom.promotion.params import SliceAccuracyGate
from pipelines import preprocess
from tests.support.project import ROOT
from tests.support.raw_files import pixels, write_idx, write_manifest

PARAMS = {
    "image_size": [12, 10],
    "resize": "stretch",
    "background": [255, 255, 255],
    "white_level": 65535,
    "color": "rgb",
    "val_fraction": 0.2,
    "test_fraction": 0.2,
    "recent_fraction": 0.3,
    "seed": 7,
    "group_by": None,
    "near_duplicates": "keep",
    "near_duplicate_bits": 4,
    "max_rejected_fraction": 0.0,
    "max_image_bytes": 100_000,
    "max_image_pixels": 10_000,
    "max_archive_bytes": 10_000_000,
    "shard_bytes": 3600,
}


def png(seed: int, *, height: int = 20, width: int = 16) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    done, data = cv2.imencode(".png", cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC))
    assert done
    return data.tobytes()


def some(*classes: str, n: int = 20) -> dict[str, bytes]:
    names = [f"{name}/{number}.png" for name in classes for number in range(n)]
    return {name: png(zlib.crc32(name.encode())) for name in names}


class Place:
    """A working folder with data/raw, data/incoming and params.yaml; run() is the stage."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        Path("data/raw").mkdir(parents=True)
        Path("data/incoming").mkdir()
        Path("data/incoming/README.md").write_text("put images here")
        self.params()

    def params(self, *, backend: str = "threading", workers: int | str = 1, **changed) -> None:
        sections = {
            "preprocess": PARAMS | changed,
            "compute": {"backend": backend, "cluster": None, "workers": workers, "device": "auto"},
        }
        Path("params.yaml").write_text(json.dumps(sections))

    def raw(self, files: dict[str, bytes]) -> None:
        path = Path("data/raw/d.tar")
        with tarfile.open(path, "w") as tar:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        file = {"name": path.name, "bytes": path.stat().st_size, "sha256": "not looked at"}
        manifest = {"dataset": "d", "files": [file], "layout": {"kind": "folders"}}
        Path("data/raw/manifest.json").write_text(json.dumps(manifest))

    def incoming(self, files: dict[str, bytes]) -> None:
        for name, data in files.items():
            path = Path("data/incoming") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def run(self, out: str = "data/prepared", *, raw: str = "data/raw") -> Dataset:
        arguments = ["--raw", raw, "--incoming", "data/incoming", "--corrections", "data/corrections.csv"]
        arguments += ["--out", out, "--report", "reports/data"]
        self.monkeypatch.setattr(sys, "argv", ["preprocess", *arguments])
        preprocess.main()
        return Dataset.open(Path(out))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    no_pictures = SimpleNamespace(image_grid=lambda *_, **__: None)  # matplotlib takes a second to load
    monkeypatch.setitem(sys.modules, "darkroom.figures.grid", no_pictures)
    return Place(monkeypatch)


def listed(name: str) -> list[list[str]]:
    with Path(f"reports/data/{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def repeats() -> list[list[str]]:
    """Return duplicates.csv without the labels."""
    return [line[:4] for line in listed("duplicates")]


def test_images_become_rows_with_their_class_split_and_source(place):
    place.raw(some("cat", "dog"))
    data = place.run()
    index = data.index()
    assert data.images.shape == (40, 12, 10, 3)
    assert data.classes == ["cat", "dog"]
    assert set(index["split"]) == {"train", "val", "test"}
    assert index["source"].tolist() == list(some("cat", "dog"))
    assert [source.split("/")[0] for source in index["source"]] == index["label"].tolist()
    assert index[["height", "width"]].drop_duplicates().values.tolist() == [[20, 16]]
    assert index["group"].tolist() == index["id"].tolist()
    assert data.manifest["counts"]["train"] == index[index["split"] == "train"]["label"].value_counts().to_dict()
    decoded = cv2.cvtColor(cv2.imdecode(np.frombuffer(some("cat")["cat/3.png"], np.uint8), 1), cv2.COLOR_BGR2RGB)
    assert np.array_equal(data.images[3], cv2.resize(decoded, (10, 12)))
    pixels = data.images[data.rows("train")].reshape(-1, 3)
    assert data.manifest["mean"] == pytest.approx(pixels.mean(axis=0))
    assert data.manifest["std"] == pytest.approx(pixels.std(axis=0))
    assert listed("rejected") == listed("duplicates") == []


def test_the_output_is_the_same_whatever_does_the_work(place):
    place.raw({**some("cat", "dog", n=60), "cat/bad.jpg": b"x"})
    outputs = []
    for backend, workers in [("threading", 1), ("threading", 2), ("threading", 5), ("loky", 2)]:
        place.params(backend=backend, workers=workers, near_duplicates="group", max_rejected_fraction=0.1)
        place.run(f"{backend}{workers}")
        outputs.append({path.name: path.read_bytes() for path in Path(f"{backend}{workers}").iterdir()})
    assert all(output == outputs[0] for output in outputs)
    assert "data" not in outputs[0]["manifest.json"].decode().replace("dataset", "")


def test_arrays_give_the_same_output_without_files_between(place):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 12, 10), np.uint8)
    np.savez(
        "data/raw/d.npz", x_train=pixels[:30], y_train=np.arange(30) % 2, x_test=pixels[30:], y_test=np.arange(10) % 2
    )
    manifest = {
        "dataset": "d",
        "files": [{"name": "d.npz", "bytes": Path("data/raw/d.npz").stat().st_size, "sha256": ""}],
        "layout": {"kind": "npz"},
    }
    Path("data/raw/manifest.json").write_text(json.dumps(manifest))
    place.params(color="grey")
    data = place.run()
    assert np.array_equal(data.images[:][..., 0], pixels)
    assert data.rows("test").tolist() == list(range(30, 40))


def test_npz_and_idx_of_the_same_arrays_give_the_same_bytes(place):
    arrays: dict[str, Any] = {"x_train": pixels(60, 28, 28), "y_train": np.arange(60) % 10}
    arrays |= {"x_test": pixels(20, 28, 28, seed=1), "y_test": np.arange(20) % 10}
    place.params(color="grey", image_size=[28, 28], val_fraction=0.4, near_duplicates="group", shard_bytes=20_000)
    Path("raw/npz").mkdir(parents=True)
    np.savez("raw/npz/mnist.npz", **arrays)
    write_idx(Path("raw/idx"), **arrays)
    write_idx(Path("raw/idx.gz"), compressed=True, **arrays)
    outputs = []
    for name, layout in [("npz", "npz"), ("idx", "idx"), ("idx.gz", "idx")]:
        write_manifest(Path("raw", name), layout)
        data = place.run(f"prepared/{name}", raw=f"raw/{name}")
        outputs.append({path.name: path.read_bytes() for path in data.directory.iterdir()})
    assert sorted(outputs[0]) == [
        *(f"images-{number:05d}.npy" for number in range(4)),
        *("index.parquet", "labels.npy", "manifest.json", "splits.npy"),
    ]
    assert outputs[0] == outputs[1] == outputs[2]
    assert np.array_equal(data.images[:60][..., 0], arrays["x_train"])


@pytest.mark.parametrize("test", [(), ("test/cat", "test/dog")])
def test_a_validation_set_of_the_data_stays_one(place, test):
    files = some("train/cat", "train/dog", "valid/cat", "valid/dog", *test)
    files["train/cat/copy.png"] = files["valid/cat/3.png"]
    place.raw(files)
    index = place.run().index().set_index("source")
    of_val = index.index.str.startswith("valid/")
    assert set(index["split"][of_val]) == {"val"}
    assert set(index["split"][~of_val]) == {"train", "test"}
    assert "train/cat/copy.png" not in index.index
    assert repeats() == [["train/cat/copy.png", "valid/cat/3.png", "exact", "dropped: same bytes"]]


def test_the_images_of_a_patient_share_a_split(place, capsys):
    images = some("cat", "dog", n=60)
    names = {name: name.replace("/", f"/p{number % 13}_") for number, name in enumerate(images)}
    place.raw({names[name]: data for name, data in images.items()} | {"cat/nobody.png": png(1)})
    place.params(group_by=r"/(p\d+)_")
    index = place.run().index()
    sides = index["split"].groupby(index["source"].str.extract(r"/(p\d+)_")[0]).nunique()
    assert len(sides) == 13
    assert sides.max() == 1
    assert "13 groups by preprocess.group_by, 1 image in none" in capsys.readouterr().err


def test_a_label_table_gives_classes_groups_and_columns(place, capsys):
    images = some("x", n=60)
    rows = [f"{name},{'cat' if number % 2 else 'dog'},p{number // 4},A" for number, name in enumerate(images)]
    place.raw({**images, "labels.csv": "\n".join(["path,label,patient,source", *rows]).encode()})
    manifest = json.loads(Path("data/raw/manifest.json").read_text())
    manifest["layout"] = {"kind": "table", "table": "labels.csv"}
    Path("data/raw/manifest.json").write_text(json.dumps(manifest))
    place.params(group_by="patient", image_size="auto")
    index = place.run().index()
    assert index["split"].groupby(index["patient"]).nunique().max() == 1
    assert index["label"].value_counts().to_dict() == {"cat": 30, "dog": 30}
    assert set(index["table_source"]) == {"A"}
    assert "15 groups by preprocess.group_by, 0 images in none" in capsys.readouterr().err


def test_a_column_of_a_label_table_slices_the_test_set(place):
    images = some("x", n=60)
    lines = [f"{name},{'cat' if n % 2 else 'dog'},{'AB'[n % 3 == 0]},{n}" for n, name in enumerate(images)]
    place.raw({**images, "labels.csv": "\n".join(["path,label,camera,age", *lines]).encode()})
    manifest = json.loads(Path("data/raw/manifest.json").read_text())
    manifest["layout"] = {"kind": "table", "table": "labels.csv"}
    Path("data/raw/manifest.json").write_text(json.dumps(manifest))
    place.params(image_size="auto", test_fraction=0.5)
    dataset = place.run()
    tested = dataset.rows("test")
    index = dataset.index().iloc[tested]
    gate = SliceAccuracyGate(by=["camera", "age"], max_drop=0.1, alpha=0.05, min_images=5)
    found = {part.name: part.members for part in slices.test_slices(dataset, tested, by=gate.by)}
    assert [name.split()[0] for name in found] == ["camera", "camera", "age", "age", "age"]
    assert np.array_equal(found["camera B"], index["camera"] == "B")
    assert sum(members.sum() for name, members in found.items() if name.startswith("age")) == len(tested)
    with pytest.raises(DataError, match=r"no column 'camra', so .* or a column of the label table: camera, age\)"):
        slices.test_slices(dataset, tested, by=["camra"])


def test_an_expression_for_groups_must_fit_some_path(place):
    place.raw(some("cat", "dog"))
    place.params(group_by=r"patient(\d+)")
    fails(place, r"preprocess.group_by \(patient\(\\d\+\)\) fits no path, such as 'cat/0.png'; correct it")
    place.params(group_by=r"\w+/\d")
    fails(place, r"preprocess.group_by \(.*\) is not a column of a label table; a regular expression needs parentheses")


def test_a_patient_in_two_splits_of_the_data_is_named(place):
    files = some("train/cat", "train/dog", "test/cat", "test/dog")
    place.raw({name.replace("cat/1", "cat/p1").replace("dog/2", "dog/p2"): data for name, data in files.items()})
    place.params(group_by=r"/(p\d)")
    fails(place, "splits share 2 of 2 groups of preprocess.group_by \\(such as 'p1', 'p2'\\): .* into one split")


def test_images_of_one_colour_are_reported(place, capsys):
    blank = cv2.imencode(".png", np.full((20, 16, 3), 7, np.uint8))[1].tobytes()
    place.raw({**some("cat", "dog"), "dog/blank.png": blank})
    place.run()
    said = "2 classes: cat 20, dog 21; 1 image has one colour throughout (first: 'dog/blank.png')"
    assert said in capsys.readouterr().err


def test_new_images_never_join_an_official_test_set(place, capsys):
    files = some("train/cat", "train/dog", "test/cat", "test/dog")
    place.raw(files)
    before = place.run().index().set_index("source")["split"]
    assert "recent" not in capsys.readouterr().err
    place.incoming(some("dog", "bird"))
    data = place.run()
    after = data.index().set_index("source")
    assert data.classes == ["bird", "cat", "dog"]
    assert after["split"][before.index].equals(before)
    new = after[after["incoming"]]
    assert len(new) == 40
    assert "incoming/bird/0.png" in new.index
    for name in ("bird", "dog"):
        assert set(new["split"][new["label"] == name]) == {"train", "val", "recent"}
    recent = new["label"][new["split"] == "recent"].value_counts().to_dict()
    assert data.manifest["counts"]["recent"] == {"bird": 0, "cat": 0, "dog": 0} | recent
    assert f"test 40, recent {sum(recent.values())};" in capsys.readouterr().err


def test_exact_copies_become_one_row_and_test_keeps_its_own(place):
    files = some("train/cat", "train/dog", "test/cat", "test/dog")
    place.raw(files | {"train/cat/copy.png": files["train/cat/3.png"], "train/dog/leak.png": files["test/dog/0.png"]})
    index = place.run().index().set_index("source")
    assert len(index) == 80
    assert index.loc["test/dog/0.png", "split"] == "test"
    assert repeats() == [
        ["train/cat/copy.png", "train/cat/3.png", "exact", "dropped: same bytes"],
        ["train/dog/leak.png", "test/dog/0.png", "exact", "dropped: same bytes"],
    ]


def test_the_same_bytes_in_two_classes_are_rejected_everywhere(place):
    files = some("cat", "dog")
    place.raw(files | {"cat/again.png": files["cat/0.png"], "dog/same.png": files["cat/0.png"]})
    place.params(max_rejected_fraction=0.1)
    data = place.run()
    reason = "the same bytes are labelled 'cat' and 'dog'; keep them in one class only"
    assert listed("rejected") == [[name, reason] for name in ("cat/0.png", "cat/again.png", "dog/same.png")]
    assert listed("duplicates") == []
    assert data.rows("unused").tolist() == [0]
    assert sum(sum(of_class.values()) for of_class in data.manifest["counts"].values()) == 39


def contradicting(label: str, old: str, name: str) -> str:
    return (
        f"the same bytes are labelled '{label}' in the dataset ('{old}'), which takes precedence, and '{name}' here; "
        "remove this image"
    )


@pytest.mark.parametrize("official", [False, True])
def test_a_new_image_that_contradicts_the_data_is_rejected(place, official):
    parts = ["train/", "test/"] if official else [""]
    files = some(*(f"{part}{name}" for part in parts for name in ("cat", "dog")))
    old = f"{parts[-1]}cat/0.png"
    place.raw(files)
    before = place.run().index()
    place.incoming({"dog/wrong.png": files[old], "cat/right.png": files[old], "dog/wrong_too.png": files[old]})
    place.params(max_rejected_fraction=0.1)
    data = place.run()
    reason = contradicting("cat", old, "dog")
    assert listed("rejected") == [["incoming/dog/wrong.png", reason], ["incoming/dog/wrong_too.png", reason]]
    assert repeats() == [["incoming/cat/right.png", old, "exact", "dropped: same bytes"]]
    assert data.index().equals(before)
    if official:
        assert before.set_index("source").loc[old, "split"] == "test"


def test_new_images_that_contradict_each_other_are_both_rejected(place):
    place.raw(some("cat", "dog"))
    before = place.run().index().set_index("source")["split"]
    place.incoming({"cat/a.png": png(5), "dog/b.png": png(5), "dog/c.png": png(6)})
    place.params(max_rejected_fraction=0.1)
    after = place.run().index().set_index("source")["split"]
    reason = "the same bytes are labelled 'cat' and 'dog'; keep them in one class only"
    assert listed("rejected") == [["incoming/cat/a.png", reason], ["incoming/dog/b.png", reason]]
    assert after[before.index].equals(before)
    assert after["incoming/cat/a.png"] == "unused"
    assert after["incoming/dog/c.png"] != "unused"


def test_a_contradiction_in_the_data_takes_new_copies_with_it(place):
    files = some("cat", "dog")
    place.raw(files | {"dog/same.png": files["cat/0.png"]})
    place.incoming({"cat/x.png": files["cat/0.png"]})
    place.params(max_rejected_fraction=0.1)
    place.run()
    assert [name for name, _ in listed("rejected")] == ["cat/0.png", "dog/same.png", "incoming/cat/x.png"]


def saved_again(data: bytes) -> bytes:
    done, copy = cv2.imencode(".bmp", cv2.imdecode(np.frombuffer(data, np.uint8), 1))
    assert done
    return copy.tobytes()


@pytest.mark.parametrize("policy", ["keep", "group", "drop"])
def test_near_copies_are_kept_or_share_a_side_or_go(place, policy):
    files = some("cat", "dog")
    place.raw(files | {f"{name[:3]}/copy{name[4:]}": saved_again(data) for name, data in files.items()})
    place.params(near_duplicates=policy)
    index = place.run().index().set_index("source")
    originals, copies = index.loc[list(files)], index.loc[[f"{name[:3]}/copy{name[4:]}" for name in files]]
    sides_agree = (originals["split"].to_numpy() == copies["split"].to_numpy()).all()
    if policy == "keep":
        assert not sides_agree
        assert listed("duplicates") == []
    elif policy == "group":
        assert sides_agree
        assert (originals["group"].to_numpy() == copies["group"].to_numpy()).all()
        together = zip(copies.index, originals.index, copies["split"], strict=True)
        assert repeats() == [[copy, of, "near", f"kept: together in {side}"] for copy, of, side in together]
    else:
        assert set(copies["split"]) == {"unused"}
        assert set(originals["split"]) == {"train", "val", "test"}
        dropped = zip(copies.index, originals.index, strict=True)
        assert repeats() == [[copy, of, "near", "dropped: near-duplicate"] for copy, of in dropped]


@pytest.mark.parametrize("policy", ["group", "drop"])
def test_near_copies_of_two_classes_are_listed_with_both(place, capsys, policy):
    files = some("cat", "dog")
    place.raw(
        files | {"dog/copy.png": saved_again(files["cat/0.png"]), "cat/copy.png": saved_again(files["cat/1.png"])}
    )
    place.params(near_duplicates=policy)
    place.run()
    wrong, right = sorted(listed("duplicates"), reverse=True)
    assert wrong[:3] + wrong[4:] == ["dog/copy.png", "cat/0.png", "near", "dog", "cat"]
    assert wrong[3].endswith("; the labels differ, so look at both")
    assert right[:3] + right[4:] == ["cat/copy.png", "cat/1.png", "near", "cat", "cat"]
    assert not right[3].endswith("look at both")
    said = (
        "1 image resembles an image of another class (first: 'dog/copy.png' is 'dog', 'cat/0.png' is 'cat'), duplicat"
    )
    assert said in capsys.readouterr().err


def test_images_of_one_group_are_no_near_copies(place):
    files = some("cat", "dog", n=12)
    place.raw({**files, "cat/p1 a.png": png(501), "dog/p1 b.png": png(502)})
    place.params(near_duplicates="group", group_by="(p1)")
    place.run()
    ((source, of, kind, action, label, label_of),) = listed("duplicates")
    assert (source, of, kind, label, label_of) == ("dog/p1 b.png", "cat/p1 a.png", "group", "dog", "cat")
    assert action in ("kept: together in train", "kept: together in val", "kept: together in test")


def test_odd_names_survive_in_the_lists(place):
    names = ['cat/a\n"b", c.jpg', "cat/käse 猫.jpg", "dog/sub folder/deep/er.jpg"]
    place.raw(some("cat", "dog") | dict.fromkeys(names, b"no image"))
    place.params(max_rejected_fraction=0.1)
    place.run()
    assert [name for name, _ in listed("rejected")] == names


def test_limits_of_the_params_reject_with_their_name(place):
    place.raw(some("cat", "dog") | {"cat/big.png": png(1, height=104, width=100), "dog/long.png": bytes(100_001)})
    place.params(max_rejected_fraction=0.1)
    place.run()
    assert listed("rejected") == [
        ["cat/big.png", "100x104 pixels; the limit is 10000 pixels (preprocess.max_image_pixels)"],
        ["dog/long.png", "100001 bytes exceed preprocess.max_image_bytes"],
    ]


def test_size_and_color_chosen_from_the_data_are_recorded(place, capsys):
    place.raw(some("cat", "dog"))
    place.incoming({f"cat/{number}.png": png(number, height=64, width=64) for number in range(50)})
    place.params(image_size="auto", color="auto", near_duplicates="group")
    data = place.run()
    assert data.image_shape == (20, 16, 3)
    assert data.manifest["color"] == "rgb"
    assert data.manifest["chosen"]["image_size"] == "that of 40 images"
    chosen = data.manifest["chosen"]["color"]
    said = f"preprocess: image_size 20x16 (that of 40 images), color rgb ({chosen})\n"
    assert capsys.readouterr().err.startswith(said)
    auto = Path("data/prepared/images-00000.npy").read_bytes()
    place.params(image_size=[20, 16], near_duplicates="group")
    assert place.run().manifest["chosen"] == {}
    assert Path("data/prepared/images-00000.npy").read_bytes() == auto


def fails(place: Place, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        place.run()
    assert "\n" not in str(caught.value)
    assert not Path("data/prepared/manifest.json").exists()
    assert not list(Path("data/prepared").glob("*.npy"))


def test_too_many_rejected_images_stop_the_stage_with_reasons(place):
    place.raw(some("cat", "dog") | {f"cat/b\n{number:02d}.jpg": b"" for number in range(12)})
    place.params(max_rejected_fraction=0.1)
    fails(
        place,
        r"^12 of 52 images \(23.1%\) were rejected, more than preprocess.max_rejected_fraction \(0.1\); .*"
        r"rejected.csv lists all. The first: 'cat/b\\n00.jpg': 0 bytes: the file is empty; .*'cat/b\\n09.jpg': [^;]*$",
    )
    assert len(listed("rejected")) == 12


def test_class_names_that_differ_by_case_are_both_named(place):
    place.raw(some("cat", "Dög"))
    place.incoming({"DÖG/1.png": png(99)})
    fails(place, r"the class names 'D\\xf6g' and 'D\\xd6G' differ only in case or Unicode form")


def test_a_class_with_fewer_images_than_splits_is_named(place):
    place.raw(some("cat", "dog") | some("eel", n=2))
    fails(place, r"class 'eel' has 2 usable images for 3 splits \(train, val, test\); add images")


def test_a_class_whose_images_were_all_rejected_is_named(place):
    place.raw(some("cat", "dog") | {"eel/1.png": b"", "eel/2.png": b""})
    place.params(max_rejected_fraction=0.5)
    fails(place, "class 'eel' has 0 usable images for 3 splits")


def test_a_class_of_too_few_groups_is_named_with_their_list(place):
    eels = some("eel", n=2)
    place.raw(some("cat", "dog") | eels | {"eel/copy.bmp": saved_again(eels["eel/0.png"])})
    place.params(near_duplicates="group")
    fails(
        place,
        r"class 'eel' has 3 images in 2 groups of near-duplicates \(or of preprocess.group_by\), which stay together, "
        r"and none is left for \w+; "
        r"reports/data/duplicates.csv lists them: add images that differ, lower preprocess.near_duplicate_bits",
    )
    assert [line[:3] for line in listed("duplicates")] == [["eel/copy.bmp", "eel/0.png", "near"]]


def test_one_class_only_is_an_error(place):
    place.raw(some("cat"))
    fails(place, "only one class")


def test_no_image_at_all_is_an_error(place):
    none: Any = SimpleNamespace(n_images=0, rejected=[])
    with pytest.raises(DataError, match="no images to prepare"):
        prepared.check_rejected(none, limit=1, listed_in=Path())


def test_an_archive_that_ends_too_early_leaves_nothing(place):
    place.raw(some("cat", "dog"))
    path = Path("data/raw/d.tar")
    path.write_bytes(path.read_bytes()[:9000])
    manifest = json.loads(Path("data/raw/manifest.json").read_text())
    manifest["files"][0]["bytes"] = 9000
    Path("data/raw/manifest.json").write_text(json.dumps(manifest))
    fails(place, "truncated")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"near_duplicates": "merge"}, "preprocess.near_duplicates is 'merge'"),
        ({"image_size": [28]}, r"preprocess.image_size is \[28\]: "),
        ({"image_size": "automatic"}, "preprocess.image_size is 'automatic': expected .* or 'auto'"),
        ({"color": "colour"}, "preprocess.color is 'colour': .*'auto'"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "val_fraction and test_fraction leave no training images"),
        ({"val_fraction": 0.4, "recent_fraction": 0.6}, "val_fraction and recent_fraction leave no training images"),
        ({"flip": True}, "preprocess has an unknown key 'flip'; known keys: background, color, group_by"),
        ({"seed": "7"}, "preprocess.seed is '7'"),
        ({"group_by": "p(1"}, "preprocess.group_by is 'p\\(1': .*not a regular expression: missing"),
        ({"group_by": "p(1)(2)"}, "with one group in parentheses, got 2"),
    ],
)
def test_wrong_params_are_named(place, changed, message):
    place.params(**changed)
    with pytest.raises(ParamsError, match=message):
        place.run()


def test_a_stray_new_file_is_named_before_the_data_set_is_read(place):
    place.raw(some("cat", "dog"))
    path = Path("data/raw/d.tar")
    path.write_bytes(b"no archive".ljust(path.stat().st_size))
    fails(place, "d.tar")
    place.incoming({"stray.png": png(1)})
    fails(place, r"data/incoming: 'stray.png' is not in a class directory")


@pytest.mark.parametrize(("image_shape", "most"), [((1700, 1700, 3), 1), ((1000, 1000, 3), 2), ((8, 8, 3), 5)])
def test_few_images_are_decoded_at_once_where_the_rows_are_big(tmp_path, monkeypatch, image_shape, most):
    lengths = []

    def counted(items, **options):
        lengths.append(len(items))
        return read_batch(items, **options)

    monkeypatch.setattr(rows, "read_batch", counted)
    images = [(RawImage(f"a/{number}", "a", None, png(number)), False) for number in range(5)]
    with DatasetWriter(tmp_path, image_shape=image_shape, shard_bytes=1 << 30) as writer:
        rows.take_in(
            images,
            writer,
            form=Form(image_shape[:2], "rgb"),
            max_pixels=10_000,
            hashes=False,
            backend="threading",
            workers=1,
        )
    assert max(lengths) == most
    assert sum(lengths) == 5


COMMAND = [
    *("--raw", "data/raw", "--incoming", "data/incoming", "--corrections", "data/corrections.csv"),
    *("--out", "data/prepared", "--report", "reports/data"),
]


def test_the_stage_prints_one_line_and_loads_no_network_library(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = Place(monkeypatch)
    place.raw(some("cat", "dog") | {"cat/half.png": png(5)[:-40]})
    place.params(max_rejected_fraction=0.1, workers=2)
    code = (
        "import sys, pipelines.preprocess as stage; stage.main()\n"
        "print([name for name in ('keras', 'tensorflow', 'mlflow', 'albumentations') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *COMMAND],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    counted = r"41 images: train \d+, val \d+, test \d+; 1 rejected, 0 duplicates dropped; "
    assert re.fullmatch(counted + r"2 classes: cat 20, dog 20\n", done.stderr)
    assert done.stdout == "[]\n"
    assert Path("reports/data/samples.png").stat().st_size > 1000


def test_a_full_disk_is_one_line_and_nothing_is_taken_for_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = Place(monkeypatch)
    place.raw(some("cat", "dog"))
    place.params(image_size=[100, 100], shard_bytes=10**9)
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"  # write() fails as if full
        "from darkroom.project.console import run; from pipelines.preprocess import main; run(main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *COMMAND],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1
    assert re.fullmatch(r"error: data/prepared/images-00000.npy: the disk .* is full .* run again\n", done.stderr)
    assert list(Path("data/prepared").iterdir()) == []


def correct(*lines: tuple[bytes, str, str]) -> None:
    told = [Correction(hashlib.sha256(image).hexdigest(), old, new, "ann", "2026-01-02") for image, old, new in lines]
    write_corrections(Path("data/corrections.csv"), told)


def test_corrections_are_applied_by_content(place, capsys):
    images = some("cat", "dog")
    place.raw({name: data for name, data in images.items() if not name.startswith("cat/0")})
    before = place.run()
    place.raw(images)
    wrong, bad = images["cat/3.png"], images["dog/4.png"]
    correct((wrong, "cat", "dog"), (bad, "dog", "drop"), (images["cat/5.png"], "cat", "cat"), (b"gone", "cat", "dog"))
    place.incoming({"cat/again.png": wrong})  # a copy is corrected as the image is, and contradicts nothing
    data = place.run()
    index = data.index().set_index("source")
    assert index.loc["cat/3.png", "label"] == "dog"
    assert "dog/4.png" not in index.index
    assert index.loc["cat/5.png", "label"] == "cat"
    assert [line[:4] for line in listed("corrections")] == [
        ["cat/3.png", hashlib.sha256(wrong).hexdigest(), "cat", "dog"],
        ["dog/4.png", hashlib.sha256(bad).hexdigest(), "dog", "drop"],
    ]
    assert listed("rejected") == []
    said = data.manifest["corrections"]
    assert (said["n_corrected"], said["n_dropped"]) == (1, 1)
    assert "1 label corrected, 1 image dropped" in capsys.readouterr().err
    assert "corrections" not in before.manifest


def test_a_correction_of_a_test_image_is_marked(place, capsys):
    images = some("train/cat", "train/dog", "test/cat", "test/dog")
    place.raw(images)
    correct((images["test/cat/1.png"], "cat", "dog"), (images["test/dog/1.png"], "dog", "drop"))
    data = place.run()
    assert data.manifest["corrections"]["n_test"] == 2
    assert [line[-2:] for line in listed("corrections")] == [["test", "yes"], ["dropped from test", "yes"]]
    assert "2 of them test images" in capsys.readouterr().err


def test_a_correction_that_no_longer_fits_is_ignored(place, capsys):
    images = some("cat", "dog", "owl")
    place.raw(images)
    correct((images["cat/1.png"], "dog", "owl"))
    data = place.run()
    assert data.index().set_index("source").loc["cat/1.png", "label"] == "cat"
    assert "1 ignored, because the image has another label now" in capsys.readouterr().err


def test_corrections_of_one_image_follow_each_other(place):
    images = some("cat", "dog", "owl")
    place.raw(images)
    image = images["cat/1.png"]
    correct((image, "cat", "dog"), (image, "dog", "owl"))
    assert place.run().index().set_index("source").loc["cat/1.png", "label"] == "owl"
    assert listed("corrections")[0][2:4] == ["cat", "owl"]


def test_a_class_whose_images_are_all_corrected_is_gone(place):
    images = some("cat", "dog") | {"catt/0.png": png(5)}
    place.raw(images)
    correct((images["catt/0.png"], "catt", "cat"))
    assert place.run().classes == ["cat", "dog"]


def test_a_correction_to_an_unknown_class_is_refused(place):
    images = some("cat", "dog")
    place.raw(images)
    correct((images["cat/1.png"], "cat", "dgo"))
    with pytest.raises(
        DataError, match="the new label 'dgo' of .* is not a class of the dataset; expected drop or one of"
    ):
        place.run()
    Path("data/corrections.csv").write_text("id,old,new,who,when\nabc,cat,dog,ann,now\n")
    with pytest.raises(DataError, match="line 2: expected an id of 64 hex digits"):
        place.run()
