import csv
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest

from darkroom.files.writing import sha256_of
from darkroom.monitoring.feedback import FeedbackLog, TrueLabel, read_feedback
from darkroom.registry import aliases, register
from tests.support.command_line import run
from tests.support.trained_repository import fresh_store, prepare, train

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """A repository with version 1 as champion, which believes pixel 0."""
    root = tmp_path_factory.mktemp("repository")
    with pytest.MonkeyPatch.context() as patch:
        fresh_store(root, patch)
        prepare(root)
        uri = train(root, reads=0)
        digest = sha256_of(root / "models/cnn/model.onnx")
        version = register.register("pets", model_uri=uri, model_sha256=digest, tags={})
        aliases.promote(version, replacing=None, reasons=["the first"])
    return root


@pytest.fixture
def shop(registered, tmp_path, monkeypatch, capfd):
    """That repository, and a current folder with 20 images, classified into log/, which keeps them."""
    monkeypatch.setenv("DVC_ROOT", str(registered))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for number in range(20):
        image = np.full((4, 4), number, np.uint8)
        image[0, 0], image[2, 0] = (0, 255) if number % 2 else (255, 0)
        Path("in", f"{number:02d}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    assert run(monkeypatch, capfd, "batch", "in", "out.parquet", "--log", "log", "--log-images")[0] == 0
    return tmp_path


@pytest.fixture
def darkroom(shop, monkeypatch, capfd):
    return lambda *arguments: run(monkeypatch, capfd, *arguments)


def ids():
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(Path("in").glob("*.png"))]


def write_csv(name, rows, head):
    with Path(name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])


def test_labels_of_a_csv_file_become_accuracy_in_drift(darkroom):
    write_csv("true.csv", [[f"in/{n:02d}.png", "dog" if n < 12 else "cat"] for n in range(20)], ["path", "label"])
    code, out, err = darkroom("feedback", "true.csv", "--log", "log")
    assert (code, out, err) == (0, "20 labels stored in log\n", "")
    code, out, _ = darkroom("drift", "--log", "log", "--picture", "drift.png")
    assert code == 0
    assert "accuracy of what was served, by the 20 images with a true label:" in out
    assert "50.0%  29.9% to 70.1%" in out
    served = json.loads(darkroom("drift", "--log", "log", "--picture", "drift.png", "--json")[1])["served"]
    (version,) = served["versions"]
    assert (version["version"], version["n_labelled"], version["accuracy"]) == ("1", 20, 0.5)
    assert [week["n_labelled"] for week in served["weeks"]] == [20]


def test_lines_of_json_may_name_images_in_three_ways(darkroom):
    lines = [
        {"sha256": ids()[0].upper(), "label": "cat"},
        {"id": ids()[1], "label": "zebra"},
        {"path": "in/02.png", "label": "dög"},
        {"id": "till-7", "position": 1, "label": "cat"},
    ]
    Path("true.jsonl").write_text("".join(f"{json.dumps(line)}\n\n" for line in lines))
    code, out, _ = darkroom("feedback", "true.jsonl", "--log", "log", "--json")
    assert (code, json.loads(out)) == (0, {"n_stored": 4, "unknown_classes": ["dög", "zebra"], "to_incoming": None})
    assert [(one.id, one.position) for one in read_feedback(Path("log"))[0]] == [
        *((image, None) for image in ids()[:3]),
        ("till-7", 1),
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("path,label\nin/00.png,cat\nin/nowhere.png,cat\n", "line 3: in/nowhere.png cannot be read"),
        ("path,label\nin/00.png,cat\nin/01.png,Dog\n", "line 3: label 'Dog': it differs from the class dog in case"),
        ("path,label\nin/00.png,cat\nin/01.png\n", "line 3: there is no label; expected lines of CSV with a head"),
        ("in/00.png,cat\nin/01.png,cat\n", "line 2: it names 0 images, expected one by id, sha256 or path"),
        ("path,id,label\nin/00.png,x,cat\n", "line 2: it names 2 images"),
        ("sha256,label\nabc,cat\n", "line 2: sha256 is 'abc'; expected 64 hex digits"),
        ("id,position,label\nx,first,cat\n", "line 2: position is 'first'; expected a number"),
        ('path,label\n"in/00.png,cat\n', "is not CSV"),
        ('{"path": "in/00.png", "label": "cat"}\n{"path": \n', "line 2 is not a JSON object"),
        ('{"path": ["in/00.png"], "label": "cat"}\n', "line 1: it names 1 images, expected one by id"),
        ("path,label\n", "has no labels"),
        ("", "has no labels"),
    ],
)
def test_of_a_file_with_a_wrong_line_nothing_is_stored(darkroom, text, sentence):
    Path("true.csv").write_text(text)
    code, out, err = darkroom("feedback", "true.csv", "--log", "log")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert sentence in err
    assert read_feedback(Path("log")) == ([], 0)


def test_wrong_use_is_exit_code_2_and_a_missing_log_is_1(darkroom):
    code, _, err = darkroom("feedback", "--log", "log")
    assert (code, err) == (2, "error: there is nothing to do; pass a FILE of labels, --to-incoming, or both\n")
    code, _, err = darkroom("feedback", "--to-incoming")
    assert (code, err) == (2, "error: no log is given; pass --log DIRECTORY, or set retrain.drift_log in params.yaml\n")
    code, _, err = darkroom("feedback", "--to-incoming", "--log", "nowhere")
    assert (code, "nowhere: no such directory; --log of" in err) == (1, True)


def test_labelled_images_go_to_incoming_under_their_last_label(darkroom, registered):
    incoming = registered / "data" / "incoming"
    now = datetime.now(UTC)
    labels = [TrueLabel(image, "cat" if row % 3 else "zebra", now) for row, image in enumerate(ids())]
    FeedbackLog(Path("log")).append([*labels, TrueLabel("f" * 64, "cat", now)])
    Path("unseen.png").write_bytes(Path("in/00.png").read_bytes() + b"\0")
    write_csv("true.csv", [["unseen.png", "dog"]], ["path", "label"])
    code, out, _ = darkroom("feedback", "true.csv", "--log", "log", "--to-incoming", "--json")
    copied = {"n_copied": 14, "n_known": 0, "n_absent": 0, "unknown": {"zebra": 7}}
    assert (code, json.loads(out)["to_incoming"]) == (0, copied)
    (unseen,) = (incoming / "dog").iterdir()
    assert (unseen.name, unseen.read_bytes()) == (
        f"{sha256_of(Path('unseen.png'))}.png",
        Path("unseen.png").read_bytes(),
    )
    assert {path.stem for path in (incoming / "cat").iterdir()} == {one.id for one in labels if one.label == "cat"}
    FeedbackLog(Path("log")).append([TrueLabel(ids()[1], "dog", datetime.now(UTC)), TrueLabel(ids()[2], "Zebra", now)])
    code, out, _ = darkroom("feedback", "--log", "log", "--to-incoming", "--new-classes")
    assert out.startswith("8 images copied to data/incoming, 11 were there, the files of 0 are not kept\n")
    assert not list(incoming.glob(f"cat/{ids()[1]}.*"))
    assert list(incoming.glob(f"dog/{ids()[1]}.png"))
    assert len(list((incoming / "zebra").iterdir())) == 7


def test_images_that_nobody_kept_are_counted(darkroom, registered):
    for path in Path("log/images").glob("*/*"):
        path.unlink()
    FeedbackLog(Path("log")).append([TrueLabel(image, "dog", datetime.now(UTC)) for image in ids()[4:6]])
    code, out, _ = darkroom("feedback", "--log", "log", "--to-incoming")
    there = [image for image in ids()[4:6] if list((registered / "data" / "incoming").glob(f"*/{image}.png"))]
    assert (code, f"the files of {2 - len(there)} are not kept" in out) == (0, True)
