import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest

from darkroom.files.writing import sha256_of
from darkroom.registry import aliases, register
from tests.support.command_line import SOURCE, darkroom, run
from tests.support.trained_repository import clean_environment, fresh_store, prepare, train

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
def shop(registered, tmp_path, monkeypatch):
    """That repository, and a current folder with two image files of known class."""
    monkeypatch.setenv("DVC_ROOT", str(registered))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    for name, pixel in (("cat.png", 0), ("dög 1.png", 255)):
        image = np.zeros((4, 4), np.uint8)
        image[0, 0], image[2, 0] = pixel, 255 - pixel
        Path(name).write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return tmp_path


def test_predict_answers_from_the_champion_without_mlflow(shop):
    began = time.monotonic()
    ended = darkroom("predict", "cat.png", "dög 1.png")
    assert time.monotonic() - began < 6
    assert (ended.returncode, ended.stderr) == (0, b"")
    lines = [json.loads(line) for line in ended.stdout.decode().splitlines()]
    assert [(line["file"], line["label"], line["model"], line["version"]) for line in lines] == [
        ("cat.png", "cat", "pets", "1"),
        ("dög 1.png", "dog", "pets", "1"),
    ]
    assert all(0.5 < line["probability"] <= 1 for line in lines)
    assert set(lines[0]) == {"file", "label", "probability", "prediction_set", "model", "version"}


def test_predict_draws_what_supports_the_answer(shop):
    ended = darkroom("predict", "cat.png", "no.png", "dög 1.png", "--explain", "why/map.png")
    assert ended.returncode == 1, "no.png cannot be read"
    assert ended.stderr.decode() == "why/map.png: bright places support the answer (RISE)\n"
    drawn = np.asarray(cv2.imread("why/map.png"))
    assert drawn.shape == (512, 512, 3), "two images of 256 x 256, each with its map beside it"
    assert (drawn[:256, :256] == drawn[:256, :256, :1]).all(), "the image itself is grey"
    assert not (drawn[:256, 256:] == drawn[:256, 256:, :1]).all()


def write_new_images() -> None:
    image = np.zeros((4, 4), np.uint8)
    Path("new").mkdir()
    for name, pixel in (("cat.png", 0), ("between.png", 128), ("dog.png", 255)):
        image[0, 0], image[2, 0] = pixel, 255 - pixel
        Path("new", name).write_bytes(cv2.imencode(".png", image)[1].tobytes())


def test_label_next_lists_the_least_sure_image_first(shop, monkeypatch, capfd):
    write_new_images()
    code, out, err = run(monkeypatch, capfd, "label-next", "2", "new")
    lines = [json.loads(line) for line in out.splitlines()]
    assert (code, len(lines), lines[0]["file"]) == (0, 2, "new/between.png")
    assert re.fullmatch("the model says (cat|dog) 5[0-9]% or (cat|dog) [45][0-9]%", lines[0]["why"])
    assert err == "2 of 3 images without a label; 0 others are labelled or repeated, 0 cannot be read\n"


def test_label_next_serves_a_page_that_labels_into_incoming(shop, registered):
    write_new_images()
    command = [sys.executable, "-m", "darkroom.cli.main", "label-next", "1", "new", "--review", "--port", "0"]
    environment = {**clean_environment(), "PYTHONPATH": str(SOURCE)}
    copy = registered / "data/incoming/dog" / f"{sha256_of(Path('new/between.png'))}.png"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        said = iter(process.stderr)
        address = next(line for line in said if line.startswith("review at ")).split()[2]
        url, _, secret = address.partition("#")
        with httpx.Client(base_url=url, headers={"X-Review": secret}) as client:
            assert client.get("/findings").json()["classes"] == ["cat", "dog"]
            assert client.get("/images/0", params={"secret": secret}).headers["content-type"] == "image/png"
            assert client.get("/images/1", params={"secret": secret}).status_code == 404
            client.post("/decisions", json={"row": 0, "new": "dog"})
            assert copy.is_file()
            client.post("/undo")
            assert not copy.exists()
        process.send_signal(signal.SIGINT)
        assert "0 images labelled in" in next(said)
    assert process.returncode == 0


def test_predict_reads_one_image_from_stdin(shop):
    ended = darkroom("predict", "-", stdin=Path("cat.png").read_bytes())
    answer = json.loads(ended.stdout)
    assert (ended.returncode, answer["file"], answer["label"]) == (0, "-", "cat")


def test_a_bad_file_gets_an_error_line_and_others_an_answer(shop, monkeypatch, capfd):
    Path("broken.png").write_bytes(b"not an image")
    Path("folder").mkdir()
    code, out, err = run(monkeypatch, capfd, "predict", "broken.png", "missing.png", "folder", "cat.png")
    assert (code, err) == (1, "")
    broken, missing, folder, cat = (json.loads(line) for line in out.splitlines())
    assert set(broken) == {"file", "error"}
    assert "not an image" in broken["error"]
    assert missing["error"] == "No such file or directory"
    assert folder["error"] == "Is a directory"
    assert cat["label"] == "cat"


def test_predict_takes_a_name_a_version_or_an_alias(shop, monkeypatch, capfd):
    for chosen in (["--version", "1"], ["--model", "pets"], ["--alias", "champion"]):
        assert run(monkeypatch, capfd, "predict", "cat.png", *chosen)[0] == 0
    code, out, err = run(monkeypatch, capfd, "predict", "cat.png", "--alias", "challenger")
    assert (code, out) == (1, "")
    assert err == "error: pets has no alias 'challenger'; its versions: 1; its aliases: champion -> 1\n"


def test_before_anything_is_registered_predict_says_so(tmp_path, monkeypatch, capfd):
    fresh_store(tmp_path, monkeypatch)
    prepare(tmp_path)
    code, _, err = run(monkeypatch, capfd, "predict", "cat.png")
    assert code == 1
    assert "no model is registered as 'pets'" in err
    assert "run `dvc repro` to train and register one" in err


def test_batch_answers_a_folder_and_says_what_it_came_to(shop, monkeypatch, capfd):
    Path("in").mkdir()
    for name in ("cat.png", "dög 1.png"):
        Path(name).rename(f"in/{name}")
    Path("in/broken.png").write_bytes(b"x")
    code, out, err = run(monkeypatch, capfd, "batch", "in", "out.parquet")
    assert (code, err) == (0, "")
    assert out.startswith("out.parquet: 3 images by pets version 1 in ")
    assert "; 1 could not be read, e.g. broken.png: 1 byte is not an image" in out
    rows = pq.read_table("out.parquet").to_pylist()
    assert [(row["path"], row["label"], row["version"]) for row in rows] == [
        ("broken.png", None, "1"),
        ("cat.png", "cat", "1"),
        ("dög 1.png", "dog", "1"),
    ]
    code, out, _ = run(monkeypatch, capfd, "batch", "in", "out.parquet", "--limit", "2", "--workers", "1", "--json")
    summary = json.loads(out)
    assert (code, summary["images"], summary["failed"], summary["model"]) == (0, 2, 1, "pets")
    assert run(monkeypatch, capfd, "batch", "in", "out.parquet", "--limit", "1")[0] == 1  # not one was answered


def test_a_file_name_does_nothing_to_the_terminal(shop, monkeypatch, capfd):
    name = "a\x1b[2J\x9b\u202eb.png"
    Path("in").mkdir()
    for folder in (".", "in"):
        Path(folder, name).write_bytes(b"x")
    outs = [
        run(monkeypatch, capfd, *arguments)
        for arguments in (
            ["predict", name],
            ["batch", "in", "out.parquet"],
            ["batch", "in", "out.parquet", "--json"],
            ["batch", f"in/{name}", "out.parquet"],
            ["batch", "nowhere\x1b[2J", "out.parquet"],
        )
    ]
    for code, out, err in outs:
        assert code in (0, 1, 2)
        assert (out + err).replace("\n", "").isprintable()
    assert json.loads(outs[0][1])["file"] == name
    assert json.loads(outs[2][1])["errors"][0].startswith(name)
    assert r"e.g. a\x1b[2J\x9b\u202eb.png: 1 byte is not an image" in outs[1][1]


def test_batch_reads_paths_from_stdin_and_logs(shop):
    ended = darkroom("batch", "-", "out.parquet", "--log", "log", "--log-images", stdin="cat.png\ndög 1.png\n".encode())
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert len(list(Path("log").glob("*.parquet"))) == 1
    assert len(list(Path("log/images").glob("*/*"))) == 2


def test_wrong_use_of_batch_and_drift_is_exit_code_2(shop, monkeypatch, capfd):
    code, _, err = run(monkeypatch, capfd, "batch", ".", "../out.parquet", "--log-images")
    assert (code, err) == (2, "error: --log-images stores images in the log; also pass --log DIRECTORY\n")
    code, _, err = run(monkeypatch, capfd, "drift", "--log", "log", "--since", "soon")
    assert code == 2
    assert "--since is 'soon'; expected e.g. 2026-03-01" in err
    code, _, err = run(monkeypatch, capfd, "drift", "--log", "log", "--since", "7d", "--until", "8d")
    assert (code, err) == (2, "error: --since 7d is not before --until 8d\n")


def test_drift_between_two_logs_is_exit_code_3_and_none_is_0(shop, monkeypatch, capfd):
    for name, top in (("before", 200), ("after", 120)):
        Path(name).mkdir()
        for number in range(200):
            image = np.random.default_rng(number).integers(0, top, (4, 4), np.uint8)
            Path(name, f"{number}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
        assert run(monkeypatch, capfd, "batch", name, f"{name}.parquet", "--log", f"{name}.log")[0] == 0
    drift = ["drift", "--log", "after.log", "--since", "1d", "--picture", "drift.png"]
    code, out, err = run(monkeypatch, capfd, *drift, "--reference", "before.log")
    assert (code, err) == (3, "")
    assert "brightness, median" in out
    assert "brightness has drifted: median " in out
    assert cv2.imread("drift.png") is not None
    code, out, _ = run(monkeypatch, capfd, *drift, "--reference", "after.log", "--json")
    report = json.loads(out)
    assert (code, report["drifted"], report["n_window"], report["version"]) == (0, False, 200, "1")
    code, out, _ = run(monkeypatch, capfd, *drift, "--reference", "before.log", "--min-rows", "201")
    assert code == 0
    assert "brightness: no verdict with 200 rows in the window; at least 201 are needed." in out
