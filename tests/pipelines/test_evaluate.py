import csv
import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from darkroom.data.arrays.dataset_writer import DatasetWriter
from darkroom.deployable.package import Package
from darkroom.errors import DarkroomError
from pipelines import evaluate
from tests.support.onnx_model import write_model
from tests.support.project import ROOT
from tests.support.trained_repository import empty_database, fresh_store

CLASSES = ["<script>alert(1)</script>", "dark & low", "zebra"]
SHAPE = (12, 12, 1)
SETS = {"coverage": 0.9, "threshold": 0.8, "penalty": 0.01, "free": 1}
MEASURED_SETS = ["coverage", "coverage_ci95", "mean_set_size", "mean_set_size_ci95", "sets_per_class"]
PARAMS: dict[str, Any] = {
    "train": {"cnn": {}, "transfer": {}, "older": {}},
    "evaluate": {"calibration_bins": 10, "worst_images": 6, "latency_repeats": 5},
}
PATHS = {
    "prepared": "data/prepared",
    "models": "models",
    "tuning": "reports/tune",
    "data": "reports/data",
    "augment": "reports/augment",
    "out": "reports/evaluation.json",
    "predictions": "reports/predictions.parquet",
    "figures": "reports/figures",
    "plots": "reports/plots",
    "page": "reports/evaluation.html",
}
OPTIONS = [part for name, path in PATHS.items() for part in (f"--{name}", path)]
LEFT_OUT = ("MLFLOW_", "DVC_")


def write_dataset(folder):
    """Write a dataset whose classes are told apart by which third of the image is bright, with some noise."""
    splits = ["train"] * 30 + ["test"] * 45 + ["recent"] * 15
    n_rows = len(splits)
    rng = np.random.default_rng(0)
    labels = np.arange(n_rows) % 3
    images = rng.integers(0, 120, (n_rows, *SHAPE), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4 * label : 4 * label + 4] += rng.integers(0, 90, dtype=np.uint8)
    index = pd.DataFrame(
        {
            "row": range(n_rows),
            "id": [hashlib.sha256(image.tobytes()).hexdigest() for image in images],
            "label": [CLASSES[label] for label in labels],
            "split": splits,
            "source": [f"a/{number} <img src=x>.png" for number in range(n_rows)],
        }
    )
    manifest = {"dataset": "thirds", "classes": CLASSES, "color": "grey", "mean": [100.0], "std": [50.0]}
    with DatasetWriter(folder, image_shape=SHAPE, shard_bytes=5000) as writer:
        writer.append(images)
        writer.finish(index=index, manifest=manifest)


def thirds(sharpness):
    """Return weights that see the bright third the better, the greater the sharpness."""
    weights = np.zeros((*SHAPE[:2], 3))
    for label in range(3):
        weights[4 * label : 4 * label + 4, :, label] = sharpness / 48
    return weights.reshape(-1, 3)


def write_candidate(folder, *, run_id="0" * 32, weights=None, classes=CLASSES, metadata=None):
    write_model(folder / "model.onnx", classes=classes, image_shape=SHAPE, weights=weights, metadata=metadata)
    said = {
        "run_id": run_id,
        "experiment": "thirds",
        "tracking_uri": "sqlite:////elsewhere/mlflow.db",
        "model_uri": "models:/m-1",
        "candidate": folder.name,
        "git_commit": "c0ffee",
        "git_dirty": False,
        "data_digest": "d1ce",
        "params": {"learning_rate": 0.1},
        "params_digest": "p",
        "best_epoch": 2,
        "val_accuracy": 0.9 if folder.name == "transfer" else 0.75,
        "train_seconds": 12.5,
        "held_out_accuracy": 0.9 if folder.name == "transfer" else 0.75,
        "held_out_images": 60,
    }
    (folder / "run.json").write_text(json.dumps(said))
    columns = "epoch,train_loss,val_loss,train_accuracy,val_accuracy,learning_rate,images_per_second"
    (folder / "history.csv").write_text(f"{columns}\n1,1.0,0.9,0.4,0.5,0.1,10\n2,0.5,0.6,0.7,0.75,0.01,11\n")


def write_params(folder, *, candidates=("cnn", "transfer"), **changes):
    values = PARAMS | {"candidates": list(candidates), "evaluate": PARAMS["evaluate"] | changes}
    YAML().dump(values, folder / "params.yaml")


@pytest.fixture
def workspace(tmp_path):
    write_params(tmp_path, candidates=["cnn"])
    write_dataset(tmp_path / "data" / "prepared")
    write_candidate(tmp_path / "models" / "cnn")
    return tmp_path


def call(folder, **environment):
    """Run the stage in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(LEFT_OUT)]:
            patch.delenv(name)
        for name, value in {"MLFLOW_TRACKING_URI": "", **environment}.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["evaluate", *OPTIONS])
        evaluate.main()


def refusal(folder, **environment):
    """Return the one line that the stage ends with."""
    with pytest.raises(DarkroomError) as refused:
        call(folder, **environment)
    assert not (folder / "reports").exists()
    (line,) = str(refused.value).splitlines()
    return line


# --- refusals, before anything heavy


def test_a_candidate_without_a_model_names_the_next_step(workspace):
    write_params(workspace)
    message = "models/transfer: model.onnx is missing; run `dvc repro train@transfer` first"
    assert refusal(workspace) == message


def test_a_candidate_without_a_section_of_train_is_named(workspace):
    write_params(workspace, candidates=["cnn", "transfr"])
    assert "candidates names 'transfr', but train has no such section" in refusal(workspace)


def test_an_unknown_key_is_reported_with_the_known_ones(workspace):
    write_params(workspace, bins=3)
    assert "evaluate has an unknown key 'bins'; known keys: calibration_bins, latency_repeats" in refusal(workspace)


def test_a_setting_out_of_range_is_named(workspace):
    write_params(workspace, calibration_bins=0)
    assert "evaluate.calibration_bins is 0" in refusal(workspace)


def test_a_candidate_without_its_run_is_not_whole(workspace):
    (workspace / "models" / "cnn" / "run.json").write_text('{"run_id": "x"}')
    assert "models/cnn/run.json: lacks best_epoch, data_digest" in refusal(workspace)


def test_no_test_image_names_the_next_step(workspace):
    np.save(workspace / "data" / "prepared" / "splits.npy", np.zeros(90, np.int8))
    assert "the test set is empty; raise preprocess.test_fraction" in refusal(workspace)


# --- with a real MLflow store


class Page(HTMLParser):
    """What the report holds, as a browser reads it."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


class Evaluated(NamedTuple):
    """A workspace, the run of each candidate, and what the process of the stage printed: which modules it loaded."""

    folder: Path
    run_ids: dict[str, str]
    loaded: str


PROGRAM = """\
import runpy, sys
try:
    runpy.run_module("pipelines.evaluate", run_name="__main__")
except SystemExit as end:
    print(end.code, sorted({"keras", "tensorflow", "jax", "torch", "dvc", "albumentations"} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Two candidates were trained (their runs are real) and evaluated, in a process of its own."""
    from darkroom.tracking import runs

    folder = tmp_path_factory.mktemp("evaluated")
    write_params(folder)
    write_dataset(folder / "data" / "prepared")
    run_ids = {}
    with pytest.MonkeyPatch.context() as patch:
        fresh_store(folder, patch)
        for name in ("cnn", "transfer"):
            with runs.run(experiment="thirds", name=f"train-{name}", params={}, tags={}) as run:
                run_ids[name] = run.id
    write_candidate(folder / "models" / "cnn", run_id=run_ids["cnn"])
    sure = {"run_id": run_ids["transfer"], "weights": thirds(0.5), "metadata": {"sets": SETS}}
    write_candidate(folder / "models" / "transfer", **sure)
    # What an earlier preset left behind; its run is in no store.
    write_candidate(folder / "models" / "older", run_id="f" * 32, weights=thirds(50))
    tuned = folder / "reports" / "tune" / "cnn"
    tuned.mkdir(parents=True)
    (tuned / "chosen.json").write_text(json.dumps({"trial": 1, "reason": "it won", "values": {"learning_rate": 0.2}}))
    trials = "trial,state,val_accuracy,best_val_accuracy,learning_rate"
    (tuned / "trials.csv").write_text(f"{trials}\n0,complete,0.5,0.5,0.1\n1,complete,0.75,0.75,0.2\n")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(LEFT_OUT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *OPTIONS],
        cwd=folder,
        env=variables | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert re.fullmatch(
        r"evaluate: transfer: test accuracy 0\.\d{4}, 95% interval [\d.]+ to [\d.]+, 45 images; "
        r"recent accuracy [01]\.\d{4}, 95% interval [\d.]+ to [\d.]+, 15 images; "
        r"its prediction sets hold the true class of [\d.]+%, [12]\.\d\d classes on average\n",
        done.stderr,
    )
    return Evaluated(folder, run_ids, done.stdout)


@pytest.mark.heavy
def test_the_evaluation_keeps_its_contract(evaluated):
    folder = evaluated.folder
    summary = json.loads((folder / "reports" / "evaluation.json").read_text())
    assert list(summary) == ["test_ids_sha256", "winner", "candidates"]
    assert (summary["winner"], list(summary["candidates"])) == ("transfer", ["cnn", "transfer"])
    index = pd.read_parquet(folder / "data" / "prepared" / "index.parquet")
    ids = sorted(index["id"][index["split"] == "test"])
    assert summary["test_ids_sha256"] == hashlib.sha256("\n".join(ids).encode()).hexdigest()
    for name, metrics in summary["candidates"].items():
        assert list(metrics) == [
            *["test_accuracy", "test_accuracy_ci95", "test_loss", "macro_f1", "ece", "per_class"],
            *["share_answered", "share_answered_ci95", "error_answered", "error_answered_ci95", "answered_per_class"],
            *(MEASURED_SETS if name == "transfer" else []),
            *["latency_ms_p50", "latency_ms_p95", "model_bytes", "recent"],
        ]
        assert list(metrics["recent"]) == [
            *["n_images", "accuracy", "accuracy_ci95", "loss", "macro_f1", "ece", "per_class"]
        ]
        assert metrics["recent"]["n_images"] == 15
        assert list(metrics["per_class"]) == CLASSES
        assert 0 < metrics["latency_ms_p50"] <= metrics["latency_ms_p95"]
        assert metrics["model_bytes"] == (folder / "models" / name / "model.onnx").stat().st_size


@pytest.mark.heavy
def test_predictions_are_the_packages_on_test_and_recent_images(evaluated):
    from darkroom.data.arrays.dataset import Dataset

    folder = evaluated.folder
    predictions = pd.read_parquet(folder / "reports" / "predictions.parquet")
    assert list(predictions) == ["candidate", "split", "id", "label", "predicted", "confidence", "probabilities"]
    dataset = Dataset.open(folder / "data" / "prepared")
    index = dataset.index()
    for name, found in predictions.groupby("candidate"):
        package = Package.load(folder / "models" / name / "model.onnx")
        rows = np.concatenate([dataset.rows("test"), dataset.rows("recent")])
        expected = package.probabilities(dataset.images[rows])
        np.testing.assert_allclose(np.stack(found["probabilities"].tolist()), expected, atol=1e-6)
        for column in ("split", "id", "label"):
            assert found[column].tolist() == index[column][rows].tolist()
        assert found["predicted"].tolist() == [CLASSES[answer] for answer in expected.argmax(axis=1)]
        summary = json.loads((folder / "reports" / "evaluation.json").read_text())["candidates"][name]
        accuracy = (found["label"] == found["predicted"]).groupby(found["split"]).mean()
        assert accuracy["test"] == pytest.approx(summary["test_accuracy"])
        assert accuracy["recent"] == pytest.approx(summary["recent"]["accuracy"])


@pytest.mark.heavy
def test_the_tables_for_dvc_plots_agree_with_the_metrics(evaluated):
    folder = evaluated.folder
    summary = json.loads((folder / "reports" / "evaluation.json").read_text())["candidates"]["cnn"]
    tables = {
        path.stem: [line for line in csv.DictReader(path.read_text().splitlines()) if line["candidate"] == "cnn"]
        for path in (folder / "reports" / "plots").iterdir()
    }
    hits = [line["actual"] == line["predicted"] for line in tables["confusion"]]
    assert sum(hits) / len(hits) == pytest.approx(summary["test_accuracy"])
    assert sum(int(line["count"]) for line in tables["calibration"]) == 45
    assert [(line["epoch"], line["split"], line["loss"]) for line in tables["curves"]] == [
        *(("1", "training", "1.0"), ("2", "training", "0.5")),
        *(("1", "validation", "0.9"), ("2", "validation", "0.6")),
    ]
    assert [(line["trial"], line["val_accuracy"]) for line in tables["tuning"]] == [("0", "0.5"), ("1", "0.75")]
    assert [line["class"] for line in tables["per_class"]] == CLASSES
    assert [int(line["support"]) for line in tables["per_class"]] == [15, 15, 15]


@pytest.mark.heavy
def test_the_report_is_one_file_that_fetches_and_runs_nothing(evaluated):
    folder = evaluated.folder
    text = (folder / "reports" / "evaluation.html").read_text(encoding="utf-8")
    page = Page(text)
    sources = [image["src"] for image in page.all("img")] + [source["srcset"] for source in page.all("source")]
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not page.all("script")
    assert not page.all("link")
    assert "<img src=x>" not in text
    assert CLASSES[0] in "".join(page.text)
    assert all(image["alt"] for image in page.all("img"))
    assert text.count("<table>") == text.count("<caption>") > 4
    headings = [tag for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert headings[:2] == ["h1", "h2"]
    assert headings.count("h1") == 1


@pytest.mark.heavy
def test_names_break_between_their_parts(evaluated):
    text = (evaluated.folder / "reports" / "evaluation.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;/<wbr>script&gt;</th>" in text
    assert re.search(r'class="source">a/<wbr>\d+ &lt;img src=x&gt;\.<wbr>png<', text)


@pytest.mark.heavy
def test_the_report_says_what_was_measured_on_what(evaluated):
    folder, run_ids, _ = evaluated
    page = " ".join(Page((folder / "reports" / "evaluation.html").read_text(encoding="utf-8")).text)
    best = json.loads((folder / "reports" / "evaluation.json").read_text())["candidates"]["transfer"]
    digest = json.loads((folder / "data" / "prepared" / "manifest.json").read_text())["digest"]
    for fact in (
        f"{best['test_accuracy']:.2%}",
        "45 test images",
        f"{best['recent']['accuracy']:.2%}",
        "15 recent images",
        run_ids["transfer"],
        "c0ffee",
        "d1ce",
        digest,
        "cnn",
        "it won",
        "2 trials",
        "Least certain right answers",
        f"they contain the true class for {best['coverage']:.2%} of images",
    ):
        assert fact in page, fact
    for low_or_high in [*best["test_accuracy_ci95"], *best["recent"]["accuracy_ci95"]]:
        assert f"{low_or_high:.2%}" in page
    n_errors = round(45 * (1 - best["test_accuracy"]))
    maps = (folder / "reports" / "evaluation.html").read_text(encoding="utf-8").count('alt="What supports ')
    assert maps == min(n_errors, 8), "masks take long, so only the first have a map"


@pytest.mark.heavy
def test_the_training_runs_get_metrics_and_pictures(evaluated):
    folder, run_ids, _ = evaluated
    summary = json.loads((folder / "reports" / "evaluation.json").read_text())["candidates"]
    with sqlite3.connect(folder / "mlflow.db") as database:
        for name, run_id in run_ids.items():
            stored = dict(database.execute("select key, value from metrics where run_uuid = ?", (run_id,)).fetchall())
            low, high = summary[name]["test_accuracy_ci95"]
            answered, wrong = (summary[name][f"{part}_answered_ci95"] for part in ("share", "error"))
            sets = {
                f"{key}_{side}": value
                for key in ("coverage_ci95", "mean_set_size_ci95")
                for side, value in zip(("low", "high"), summary[name].get(key, []), strict=False)
            }
            recent = summary[name]["recent"]
            recent_low, recent_high = recent["accuracy_ci95"]
            assert stored == pytest.approx(
                {key: value for key, value in summary[name].items() if isinstance(value, float | int)}
                | {"test_accuracy_ci95_low": low, "test_accuracy_ci95_high": high}
                | {"share_answered_ci95_low": answered[0], "share_answered_ci95_high": answered[1]}
                | {"error_answered_ci95_low": wrong[0], "error_answered_ci95_high": wrong[1]}
                | sets
                | {f"recent_{key}": value for key, value in recent.items() if isinstance(value, float | int)}
                | {"recent_accuracy_ci95_low": recent_low, "recent_accuracy_ci95_high": recent_high}
            )
            (status,) = database.execute("select status from runs where run_uuid = ?", (run_id,)).fetchone()
            assert status == "FINISHED"
    database.close()
    names = {path.name for path in (folder / "mlartifacts").rglob(f"{run_ids['transfer']}/artifacts/**/*.*")}
    pictures = {"confusion_matrix.png", "reliability.png", "recall.png", "training_curves.png", "worst_errors.png"}
    assert names == pictures | {"evaluation.html", "params.yaml"}
    assert {path.name for path in (folder / "reports" / "figures" / "transfer").iterdir()} == pictures


@pytest.mark.heavy
def test_nothing_half_written_is_left(evaluated):
    folder = evaluated.folder
    assert not [path for path in (folder / "reports").rglob("*") if path.suffix in (".part", ".tmp")]


@pytest.mark.heavy
def test_an_unreachable_server_fails_before_scoring(workspace):
    message = refusal(workspace, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert "http://127.0.0.1:9 does not answer" in message


@pytest.mark.heavy
def test_in_another_store_one_run_stands_in_for_the_training(workspace):
    (workspace / "mlflow.db").write_bytes(empty_database())
    for _ in range(2):
        call(workspace)
    with closing(sqlite3.connect(workspace / "mlflow.db")) as database:
        query = "select value from tags where key = 'restored.run_id' and run_uuid in "
        query += "(select run_uuid from latest_metrics where key = 'test_accuracy')"
        assert database.execute(query).fetchall() == [("0" * 32,)]


@pytest.mark.heavy
@pytest.mark.parametrize("spoil", ["classes", "history", "run", "metadata"])
def test_a_candidate_that_does_not_fit_the_data_is_refused(evaluated, tmp_path, spoil):
    import shutil

    folder, run_ids, _ = evaluated
    for name in ("data", "params.yaml", "models"):
        copy = shutil.copytree if (folder / name).is_dir() else shutil.copy
        copy(folder / name, tmp_path / name)
    cnn = tmp_path / "models" / "cnn"
    if spoil == "classes":
        write_candidate(cnn, run_id=run_ids["cnn"], classes=["a", "b", "c"])
        expected = "models/cnn/model.onnx has 3 classes and images of shape .* other class names"
    elif spoil == "run":
        (cnn / "run.json").unlink()
        expected = "models/cnn/run.json: cannot be read .*; run `dvc repro --force train@cnn`"
    elif spoil == "history":
        (cnn / "history.csv").write_text("epoch,loss\n0,1\n")
        expected = "models/cnn/history.csv: cannot be read .*; run `dvc repro --force train@cnn`"
    else:
        (cnn / "model.onnx").write_bytes(b"broken")
        expected = "models/cnn/model.onnx: ONNX Runtime cannot load this file"
    assert re.search(expected, refusal(tmp_path, MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db"))


@pytest.mark.heavy
def test_the_stage_loads_neither_keras_nor_tensorflow(evaluated):
    assert evaluated.loaded == "0 []\n"
