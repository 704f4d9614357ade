"""`darkroom init`: its output, its files, and that `preprocess` then finds the same."""

import json
import shutil
import subprocess
import sys
import zlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from os import mkfifo
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from darkroom.data.arrays.dataset import Dataset
from darkroom.project.params import load_section, read_params
from darkroom.training import recipe
from darkroom.training.data import pictures
from darkroom.training.params import TrainParams
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


def shard(name: str) -> bytes:
    """Return a parquet file of images of cats and dogs, as the hub has it."""
    images = [{"bytes": photo(f"{name} {number}"), "path": None} for number in range(16)]
    features = {"label": {"names": ["cats", "dogs"], "_type": "ClassLabel"}}
    table = pa.table({"image": images, "label": [number % 2 for number in range(16)]})
    pq.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}),
        buffer := BytesIO(),
        row_group_size=5,
    )
    return buffer.getvalue()


def coco(names: Sequence[str]) -> bytes:
    return json.dumps(
        {
            "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
            "annotations": [{"image_id": number, "category_id": number % 2} for number in range(len(names))],
            "categories": [{"id": 0, "name": "cats"}, {"id": 1, "name": "dogs"}],
        }
    ).encode()


def studio(names: Sequence[str]) -> bytes:
    tasks = [{"image": name, "choice": ["cats", "dogs"][n % 2], "annotator": 1} for n, name in enumerate(names)]
    return json.dumps(tasks).encode()


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
    "a table of each split": {
        f"{split}/{name}": photo(f"{split} {name}") for split in ("train", "test") for name in map(str, range(8))
    }
    | {
        f"{split}/metadata.jsonl": csv(*(f'{{"file_name": "{n}", "label": "{n % 2}"}}' for n in range(8)))
        for split in ("train", "test")
    },
    "directories, and a table with a split": ANIMALS
    | {
        "labels.csv": csv(
            "path,label,Usage", *(f"{name},{name[:4]},{'Test' if name[5] in '012' else 'Training'}" for name in ANIMALS)
        )
    },
    "one column per class": FLAT
    | {"labels.csv": csv("image,cats,dogs", *(f"{n},{int('cats' in n)},{int('dogs' in n)}" for n in FLAT))},
    "COCO": FLAT | {"annotations.json": coco([*FLAT])},
    "Label Studio": FLAT | {"project.json": studio([*FLAT])},
    "shards": {"data/train-00000-of-00001.parquet": shard("1"), "data/test-00000-of-00001.parquet": shard("2")},
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


@pytest.mark.parametrize(
    ("name", "content", "layout"),
    [
        ("labels.csv", csv("path,label", *(f"{name},{name[7:11]}" for name in FLAT)), "table"),
        ("annotations.json", coco([*FLAT]), "coco"),
        ("project.json", studio([*FLAT]), "label_studio"),
        ("train.parquet", shard("1"), "parquet"),
    ],
)
def test_the_file_that_says_the_classes_may_be_given(
    name: str, content: bytes, layout: str, init: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "images", FLAT | {name: content, "other.parquet": shard("2"), "other.json": coco([])})
    code, out, err = init(folder / name, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["layout"]["kind"] == layout
    assert json.loads(out)["classes"] == {"cats": 8, "dogs": 8}
    assert len(prepared(monkeypatch).index()) == 16


def test_what_cannot_be_read_is_rejected_as_preprocess_does(
    init: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "images", photos("cats", "dogs", n=40))
    (source / "cats" / "gone.png").symlink_to("/nowhere.png")
    (source / "cats" / "loop.png").symlink_to("loop.png")
    mkfifo(source / "dogs" / "pipe.png")
    code, out, err = init(source, "--json")
    assert (code, err) == (0, "")
    assert [one["source"] for one in json.loads(out)["rejected"]] == ["cats/gone.png", "cats/loop.png", "dogs/pipe.png"]
    prepared(monkeypatch)
    assert Path("reports/data/rejected.csv").read_text() == Path("reports/init/rejected.csv").read_text()
    code, _, err = init(source / "dogs" / "pipe.png", "--force")
    assert (code, err.splitlines()[-1]) == (1, f"error: cannot read {source}/dogs/pipe.png: not a regular file")


@pytest.mark.parametrize(
    ("files", "notes"),
    [
        (
            photos("pets/cats", "pets/dogs", "wild/deer"),
            [
                "directories inside the classes, such as 'pets/cats', belong to them; if these are the classes, use "
                "--layout 'level: 2'"
            ],
        ),
        (
            {**ANIMALS, ".net/1.png": photo("net"), ".thumbnails/1.png": photo("net"), ".git/config": b"x"},
            ["'.net' is hidden and left out; rename it if it is a class"],
        ),
        (
            {**FLAT, "all.parquet": shard("1")},
            ["only the shards are used; 'images/cats_0.png' and other files are left out"],
        ),
        ({**ANIMALS, "old/all.parquet": shard("1")}, ["'old/all.parquet' holds images, too, and is not used"]),
        (
            {f"{n}.png": photo(str(n)) for n in range(40)}
            | {"a.csv": csv("path,label", *(f"{n}.png,{n // 4 / 8}" for n in range(40)))},
            ["classes such as '1.125' look like measurements; each value is a class of its own"],
        ),
        (
            photos("patient001/study", "patient002/study"),
            ["classes such as 'patient001' look like groups; if so, use a label table for the classes"],
        ),
        (
            {**ANIMALS, "splits.csv": csv("path,split", *(f"{name},train" for name in ANIMALS))},
            ["'splits.csv' may list a split, which is not read; a label table with a column split is"],
        ),
        (
            {**ANIMALS, "train_test_split.txt": b"x"},
            ["'train_test_split.txt' may list a split, which is not read; a label table with a column split is"],
        ),
        (
            {**ANIMALS, "meta/train.txt": b"x", "meta/test.txt": b"x"},
            ["'meta/test.txt' may list a split, which is not read; a label table with a column split is"],
        ),
        (
            {
                **FLAT,
                "more/1.png": photo("more"),
                **{"a.csv": csv("path,label", *(f"{name},{name[7:11]}" for name in FLAT))},
            },
            [
                "the classes are those of 'a.csv', not the directories",
                "1 file is named in no row and left out, such as 'more/1.png'",
            ],
        ),
        (
            {**ANIMALS, "a.csv": csv("path,label,patient", *(f"{name},{name[:4]},{name}" for name in ANIMALS))},
            ["used: 'a.csv', with the classes of the directories and the groups, by 'patient'"],
        ),
    ],
)
def test_what_may_have_been_meant_otherwise_is_noted(
    files: dict[str, bytes], notes: list[str], init: Any, tmp_path: Path
) -> None:
    code, out, _ = init(write(tmp_path / "images", files), "--check", "--json")
    assert (code, json.loads(out)["notes"]) == (0, notes)


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
    photographs = read_params(Path("params.yaml"))
    assert photographs["candidates"] == ["transfer"]
    assert photographs["train"]["transfer"]["architecture"]["mode"] == "features"


@pytest.mark.parametrize(
    ("n", "edge", "candidates", "mode", "reason"),
    [
        (50, 40, ["cnn", "transfer"], "finetune", "on images that small a network trained on them alone may win"),
        (30, 40, ["cnn", "transfer"], "features", "on images that small a network trained on them alone may win"),
        (15, 40, ["transfer"], "features", "training images are fewer than a batch of the cnn"),
        (50, 16, ["transfer"], "finetune", "the preset's cnn needs at least 20x20 pixels"),
        (50, 20, ["cnn", "transfer"], "finetune", "on images that small"),
    ],
)
def test_small_images_get_what_can_be_trained_on_them(
    n: int,
    edge: int,
    candidates: list[str],
    mode: str,
    reason: str,
    init: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = {name: photo(name, edge=edge) for name in photos("cats", "dogs", n=n)}
    assert init(write(tmp_path / "icons", files))[0] == 0
    params, text = read_params(Path("params.yaml")), Path("params.yaml").read_text()
    assert params["candidates"] == candidates
    assert params["train"]["transfer"]["architecture"]["mode"] == mode
    assert params["tune"]["fraction"] == 1.0
    assert reason in text
    dataset = prepared(monkeypatch)
    data = pictures(dataset, None)
    if "cnn" in candidates:
        settings = load_section("train.cnn", TrainParams).model_dump()
        recipe.check(settings, data, image_shape=dataset.image_shape, features=None)
    if mode == "finetune":
        assert params["train"]["transfer"]["batch_size"] <= len(data.labels)


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
        ({"1.png": b"x", "1.cls": b"0"}, "'1.cls' seems to be the class of an image, as WebDataset writes it: write a"),
        ({"a.png": b"x"}, "'a.png' is not in a class directory; expected <class>/<image>"),
        ({**FLAT, "labels.xlsx": b"PK"}, "labels.xlsx is a spreadsheet; save it as CSV"),
        ({**FLAT, "labels.json": b"[]"}, "labels.json is neither COCO nor an export of Label Studio; save it as CSV"),
        ({**FLAT, **{f"{split}.csv": csv("path,label", *FLAT) for split in ("train", "val")}}, "no label; add it"),
        (
            {
                **FLAT,
                **{f"{split}.csv": csv("path,label", *(f"{n},{n[7:11]}" for n in FLAT)) for split in ("train", "val")},
            },
            "val.csv, row 2: 'images/cats_0.png' is named in row 2 of 'train.csv' too; keep one of them",
        ),
        (photos("a/cats", "a/dogs", "b/cats", "b/dogs"), "say which are the classes with `level` in the layout: 1 for"),
        (
            {**ANIMALS, **{f"dogs/bad{n}.png": b"x" for n in range(4)}},
            "4 of 20 images cannot be used, more than a fraction of 0.05 (preprocess.max_rejected_fraction in presets/",
        ),
    ],
)
def test_what_will_not_work_is_reported_in_one_line(
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


def test_a_missing_path_is_reported_once(init: Any) -> None:
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
