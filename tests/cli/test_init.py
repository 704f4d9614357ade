"""`darkroom init`: what it says of images, what it writes, and that `preprocess` then finds the same."""

import json
import shutil
import subprocess
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from darkroom.data.arrays.dataset import Dataset
from darkroom.project.params import read_params
from pipelines import check, download, preprocess
from tests.support.command_line import run
from tests.support.project import ROOT
from tests.support.raw_files import write_tar, write_zip


def photo(name: str, *, edge: int = 40, suffix: str = ".png") -> bytes:
    blocks = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (8, 8, 3), np.uint8)
    return bytes(cv2.imencode(suffix, cv2.resize(blocks, (edge, edge), interpolation=cv2.INTER_CUBIC))[1].tobytes())


def photos(*folders: str, n: int = 8) -> dict[str, bytes]:
    return {name: photo(name) for folder in folders for number in range(n) for name in [f"{folder}/{number}.png"]}


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the presets, where pictures are not drawn: matplotlib takes a second to load."""
    root = tmp_path / "repository"
    root.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (root / "dvc.yaml").write_text("stages: {}\n")
    (root / "presets").symlink_to(ROOT / "presets")
    shutil.copy(ROOT / "params.yaml", root)
    monkeypatch.setitem(sys.modules, "darkroom.figures.grid", SimpleNamespace(image_grid=lambda *_, **__: None))
    return root


@pytest.fixture
def init(repository: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Run the command; return (exit code, stdout, stderr)."""
    return lambda *arguments: run(monkeypatch, capfd, "init", *map(str, arguments))


def prepared(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Run check, download and preprocess with ./params.yaml."""
    check.check_params()
    stages = {
        download: ["--out", "data/raw"],
        preprocess: [
            *("--raw", "data/raw", "--incoming", "new", "--corrections", "none.csv"),
            *("--out", "data/prepared", "--report", "reports/data"),
        ],
    }
    for stage, arguments in stages.items():
        monkeypatch.setattr(sys, "argv", [stage.__name__, *arguments])
        stage.main()
    return Dataset.open(Path("data/prepared"))


def csv(*rows: str) -> bytes:
    return "\n".join(rows).encode()


ANIMALS = photos("cats", "dogs")
SPLIT = photos("train/cats", "train/dogs", "val/cats", "val/dogs", "test/cats", "test/dogs", n=4)
FLAT = {f"images/{name.replace('/', '_')}": content for name, content in ANIMALS.items()}
ODD = {
    **photos("cats", "dogs", n=40),
    "cats/copy.png": photo("cats/0.png"),
    "dogs/also a cat.png": photo("cats/1.png"),
    "dogs/empty.png": b"",
}
LAYOUTS: dict[str, dict[str, bytes]] = {
    "class directories": ANIMALS,
    "the dataset's own split": SPLIT,
    "a directory around them": {f"all/of/it/{name}": content for name, content in ANIMALS.items()},
    "copies, contradictions and an empty file": ODD,
    "test images without classes": {
        **photos("data/train/cats", "data/train/dogs"),
        **photos("data/test", n=3),
    },
    "a table": FLAT | {"labels.csv": csv("file,class", *(f"{name},{name[7:11]}" for name in FLAT))},
    "a table with a split": FLAT
    | {
        "labels.csv": csv(
            "path,label,split",
            *(f"{name},{name[7:11]},{'test' if name[-5] in '01' else 'train'}" for name in FLAT),
        )
    },
    "a table that names all, and directories of cameras": {
        f"camera{number % 2}/{number}.png": photo(str(number)) for number in range(16)
    }
    | {"labels.csv": csv("path,label", *(f"camera{n % 2}/{n}.png,{n // 8}" for n in range(16)))},
    "patients": {
        f"{label}/patient{number // 2:02}_{number}.png": photo(f"{label} {number}")
        for label in ("benign", "malign")
        for number in range(20)
    },
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_preprocess_finds_what_init_said(name: str, init: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "my photos", LAYOUTS[name])
    code, out, err = init(source, "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)
    data = prepared(monkeypatch)
    index = data.index()
    used = index[index["split"] != "unused"]
    assert said["classes"] == used["label"].value_counts().sort_index().to_dict()
    assert said["splits"] == {split: int(n) for split, n in used["split"].value_counts().items()}
    rejected = Path("reports/data/rejected.csv").read_text()
    assert rejected == Path("reports/init/rejected.csv").read_text()
    assert data.manifest["dataset"] == "my-photos"
    chosen = said["choices"]
    assert list(data.image_shape[:2]) == chosen["preprocess.image_size"]["value"] == [40, 40]
    assert read_params(Path("params.yaml"))["promote"]["registered_model"] == "my-photos"
    if name == "patients":
        assert index.groupby(index["source"].str.extract(r"(patient\d+)")[0])["split"].nunique().max() == 1


@pytest.mark.parametrize("packed", [write_zip, write_tar])
def test_archives_are_read_as_directories_are(packed: Any, init: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / "images", SPLIT)
    archive = packed(tmp_path / "images.zip", SPLIT)
    both = [json.loads(init(path, "--check", "--json")[1]) for path in (folder, archive)]
    assert both[0].pop("source") != both[1].pop("source")
    for one in both:
        del one["choices"]["download.dataset.sources"]
    assert both[0] == both[1]


def test_every_choice_stands_in_params_with_its_reason(init: Any, tmp_path: Path) -> None:
    code, out, err = init(write(tmp_path / "my photos", ANIMALS))
    assert (code, err) == (0, "")
    assert out.endswith("params.yaml is written; run `dvc repro`\n")
    text = Path("params.yaml").read_text()
    assert "    name: my-photos               # also of the MLflow experiment\n" in text
    assert f"        path: {tmp_path / 'my photos'}\n" in text
    assert "  image_size: [40, 40]            # that of 16 images\n" in text
    assert "    min_test_accuracy: 0.62       # always 'cats' would be right on 50 %\n" in text
    assert read_params(Path("params.yaml"))["preprocess"]["resize"] == "stretch"


def test_few_photographs_get_the_pretrained_network_alone(init: Any, tmp_path: Path) -> None:
    large = {name: photo(name, edge=80, suffix=".jpg") for name in ANIMALS}
    init(write(tmp_path / "few", large))
    assert read_params(Path("params.yaml"))["candidates"] == ["transfer"]
    init(write(tmp_path / "small", ANIMALS), "--force")
    assert read_params(Path("params.yaml"))["candidates"] == ["cnn", "transfer"]


def test_check_writes_nothing_and_says_whether_it_would_work(init: Any, tmp_path: Path, repository: Path) -> None:
    before = sorted(repository.rglob("*"))
    text = Path("params.yaml").read_text()
    code, out, _ = init(write(tmp_path / "good", ANIMALS), "--check")
    assert code == 0
    assert out.endswith("nothing was written\n")
    code, out, err = init(write(tmp_path / "bad", photos("cats") | photos("dogs", n=2)), "--check")
    assert code == 1
    assert "class 'dogs' has 2 usable images for 3 splits (train, val, test); add images to it" in err
    assert err.count("\n") == 1
    assert "classes     2: cats 8, dogs 2" in out
    assert sorted(repository.rglob("*")) == before
    assert Path("params.yaml").read_text() == text


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (photos("cats"), "only one class, 'cats'; a classifier needs two"),
        ({"cats/a.jpg": b"x", "dogs/b.jpg": b"y"}, "no image can be decoded"),
        ({"a.png": b"x"}, "'a.png' is not in a class directory; expected <class>/<image>"),
        (photos("a/cats", "a/dogs", "b/cats", "b/dogs"), "say which are the classes with `level` in the layout: 1 for"),
        (
            {**ANIMALS, **{f"dogs/bad{n}.png": b"x" for n in range(4)}},
            "4 of 20 images cannot be used, more than a fraction of 0.05 (preprocess.max_rejected_fraction in presets/",
        ),
    ],
)
def test_what_will_not_work_is_said_in_one_line(
    files: dict[str, bytes], message: str, init: Any, tmp_path: Path
) -> None:
    before = Path("params.yaml").read_text()
    code, _, err = init(write(tmp_path / "images", files))
    assert code == 1
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert Path("params.yaml").read_text() == before


def test_a_layout_that_is_refused_can_be_given(init: Any, tmp_path: Path) -> None:
    source = write(tmp_path / "images", photos("a/cats", "a/dogs", "b/cats", "b/dogs"))
    code, out, _ = init(source, "--layout", "level: 2", "--json")
    assert code == 0
    assert json.loads(out)["classes"] == {"cats": 16, "dogs": 16}
    assert read_params(Path("params.yaml"))["download"]["dataset"]["sources"][0]["layout"] == {
        "kind": "folders",
        "level": 2,
    }
    code, _, err = init(source, "--layout", "levle: 2", "--force")
    assert (code, err.count("\n")) == (2, 1)
    assert "--layout has an unknown key 'levle'" in err


def test_params_with_edits_are_not_lost_without_force(init: Any, tmp_path: Path) -> None:
    source = write(tmp_path / "images", ANIMALS)
    Path("params.yaml").write_text("mine: 1\n")
    code, _, err = init(source)
    assert code == 2
    assert f"has uncommitted edits; commit them, or discard them with `darkroom init {source} --force`" in err
    assert Path("params.yaml").read_text() == "mine: 1\n"
    assert init(source, "--force")[0] == 0


def test_a_missing_path_is_said_once(init: Any) -> None:
    assert init("nowhere") == (1, "", "error: no such file or directory: nowhere\n")


def test_a_source_that_holds_the_repository_is_refused(init: Any, repository: Path) -> None:
    code, _, err = init(repository.parent)
    assert code == 1
    assert "contains this repository; give the directory that holds the classes" in err


def test_parts_before_a_fixed_camera_keep_their_near_duplicates(init: Any, tmp_path: Path) -> None:
    base = photo("the part", edge=64)
    part = cv2.imdecode(np.frombuffer(base, np.uint8), cv2.IMREAD_COLOR)
    assert part is not None
    files = {}
    for number in range(40):
        image = part.copy()
        image[number, 10:20] = 255
        files[f"{'good' if number % 2 else 'scratched'}/{number}.png"] = cv2.imencode(".png", image)[1].tobytes()
    code, out, _ = init(write(tmp_path / "parts", files), "--json")
    assert code == 0
    said = json.loads(out)
    assert said["choices"]["preprocess.near_duplicates"]["value"] == "keep"
    assert len(said["near_duplicates"]) == 39
    assert said["near_duplicates_of_two_classes"]


def test_neither_tensorflow_nor_keras_nor_mlflow_is_loaded(repository: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from darkroom.cli import main\n"
        f"sys.argv = ['darkroom', 'init', {str(write(tmp_path / 'images', ANIMALS))!r}, '--check']\n"
        "try:\n    main.main()\nexcept SystemExit as end:\n"
        "    print(end.code, sorted({'keras', 'tensorflow', 'mlflow', 'dvc', 'matplotlib'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False)
    assert told.stdout.splitlines()[-1] == "0 []", told.stderr
