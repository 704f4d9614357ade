import shutil
from datetime import UTC, datetime, timedelta
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from darkroom.batch import run
from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.dataset_writer import DatasetWriter
from darkroom.errors import DataError
from darkroom.monitoring import figure, measures, samples
from darkroom.monitoring.drift import compare
from darkroom.monitoring.log import PredictionLog, read
from darkroom.registry import versions
from darkroom.training.familiarity import scale_of
from tests.support.registered import write_version

N = 600
SHAPE = (12, 12, 3)
STRIPES = np.where(np.arange(12) % 4 < 2, 1, -1)[:, None, None] * np.ones(SHAPE)


def photographs(n=N):
    """Blurred noise of many brightnesses, at 36x36 pixels."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 100, (n, 6, 6, 3)) + rng.integers(20, 150, (n, 1, 1, 1))
    return [cv2.resize(image.astype(np.uint8), (36, 36), interpolation=cv2.INTER_CUBIC) for image in small]


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Prepared training images, and the files they were made of in incoming/; version 3 of a model of their size."""
    root = tmp_path_factory.mktemp("repository")
    version = write_version(root / "version", shape=SHAPE)
    package = versions.load(version)
    (root / "incoming").mkdir()
    images, names = np.empty((N, *SHAPE), np.uint8), []
    for row, photograph in enumerate(photographs()):
        path = root / "incoming" / f"{row:04d}.png"
        path.write_bytes(cv2.imencode(".png", photograph[:, :, ::-1])[1].tobytes())
        images[row] = package.decode(path.read_bytes())
    labels = [answer["label"] for answer in package.predict(list(images))]
    names = [f"{row:064x}" for row in range(N)]
    index = pd.DataFrame({"row": range(N), "id": names, "label": labels, "split": "train", "width": 36, "height": 36})
    with DatasetWriter(root / "data" / "prepared", image_shape=SHAPE, shard_bytes=1 << 17) as writer:
        writer.append(images)
        writer.finish(index=index, manifest={"dataset": "a", "classes": ["dark", "light"], "color": "rgb"})
    run.run(str(root / "incoming"), root / "out.parquet", version=version, options=run.Options(log=root / "log"))
    return root, version


def striped(*, seed):
    """Images with horizontal stripes, of many brightnesses and contrasts."""
    rng = np.random.default_rng(seed)
    brightness, contrast = (rng.integers(*bounds, (N, 1, 1, 1)) for bounds in ((80, 170), (10, 40)))
    return (brightness + contrast * STRIPES + rng.normal(0, 5, (N, *SHAPE))).astype(np.uint8)


@pytest.fixture(scope="module")
def of_stripes(tmp_path_factory):
    """Prepared images with horizontal stripes, half for testing; a version to which other images are strange."""
    root, images = tmp_path_factory.mktemp("stripes"), striped(seed=0)
    away = -STRIPES.reshape(-1) / STRIPES.size
    scale = scale_of(striped(seed=1).reshape(N, -1) @ away)
    version = write_version(root / "version", shape=SHAPE, strangeness=away, scale=scale)
    labels = [answer["label"] for answer in versions.load(version).predict(list(images))]
    columns = {"id": [f"{row:064x}" for row in range(N)], "label": labels, "split": ["train", "test"] * (N // 2)}
    with DatasetWriter(root / "data" / "prepared", image_shape=SHAPE, shard_bytes=1 << 20) as writer:
        writer.append(images)
        index = pd.DataFrame({"row": range(N), **columns, "width": 12, "height": 12})
        writer.finish(index=index, manifest={"dataset": "a", "classes": ["dark", "light"], "color": "rgb"})
    return root, version


def asked(repository, images, folder):
    """Compare the answers about images with the training data."""
    (folder / "in").mkdir(parents=True)
    for number, image in enumerate(images):
        (folder / "in" / f"{number:04d}.png").write_bytes(cv2.imencode(".png", image[:, :, ::-1])[1].tobytes())
    options = run.Options(log=folder / "log")
    run.run(str(folder / "in"), folder / "out.parquet", version=repository[1], options=options)
    return inspect(repository, folder / "log")


def relabelled(root, target, *, splits, label=None):
    """Copy data/prepared to another root with the splits in turn; every third image gets the label."""
    shutil.copytree(root / "data", target / "data")
    old = Dataset.open(target / "data" / "prepared")
    index, classes = old.index(), [*old.classes, *([label] if label else [])]
    index["split"] = [splits[row % len(splits)] for row in range(N)]
    if label:
        index.loc[::3, "label"] = label
    images = old.images[:]
    shutil.rmtree(target / "data" / "prepared")
    with DatasetWriter(target / "data" / "prepared", image_shape=SHAPE, shard_bytes=1 << 17) as writer:
        writer.append(images)
        writer.finish(index=index, manifest={"dataset": "a", "classes": classes, "color": "rgb"})


def log_of(folder, rows, **changed):
    with PredictionLog(folder) as log:
        log.append([{**row, **changed} for row in rows])


def check_of(found, name):
    return next(check for check in found.report.checks if check.name == name)


def inspect(repository, log, *, root=None, **options):
    """Compare a log with the training images of the repository, or of another root."""
    here, version = repository
    return samples.inspect(log, root=root or here, package_of=lambda _: versions.load(version), **options)


def test_the_training_images_asked_again_show_no_drift(repository):
    root, _ = repository
    found = inspect(repository, root / "log")
    assert found.report.drifted is False
    assert [check.name for check in found.report.checks] == ["brightness", "contrast", "sharpness", "size", "label"]
    assert all(check.psi == pytest.approx(0, abs=1e-6) for check in found.report.checks)
    assert (found.version, found.report.n_reference, found.report.n_window) == ("3", N, N)
    where = root / "data" / "prepared"
    assert found.notes == [f"confidence is not compared: {where} has no test images of the version's classes."]


def test_a_darkened_copy_shows_drift_of_what_changed(repository, tmp_path):
    _, version = repository
    (tmp_path / "dark").mkdir()
    for row, photograph in enumerate(photographs()):
        data = cv2.imencode(".png", (photograph * 0.6).astype(np.uint8)[:, :, ::-1])[1]
        (tmp_path / "dark" / f"{row:04d}.png").write_bytes(data.tobytes())
    run.run(
        str(tmp_path / "dark"), tmp_path / "out.parquet", version=version, options=run.Options(log=tmp_path / "log")
    )
    found = inspect(repository, tmp_path / "log")
    assert found.report.drifted is True
    verdicts = {check.name: check.drifted for check in found.report.checks}
    assert verdicts["brightness"] is True
    assert verdicts["contrast"] is True
    assert verdicts["size"] is False
    assert found.report.reasons[0].startswith("brightness has drifted: median 0.5")
    picture = tmp_path / "drift.png"
    figure.drift(found.report, found.reference, found.window, picture, heading="600 answers")
    image: Any = cv2.imread(str(picture))
    assert image.shape[1] == 1036


def test_training_images_are_converted_as_the_network_does(repository, tmp_path):
    root, _ = repository
    dataset = Dataset.open(root / "data" / "prepared")
    smaller = versions.load(write_version(tmp_path, shape=(6, 6, 1)))
    same, converted = samples.training_sample(dataset), samples.training_sample(dataset, package=smaller)
    assert converted.measures["sharpness"][0] != pytest.approx(same.measures["sharpness"][0], rel=0.05)
    image = smaller.image(dataset.images[0])
    assert converted.measures["sharpness"][0] == pytest.approx(measures.features(image)["sharpness"])


def test_a_large_training_split_is_sampled_evenly(repository):
    dataset = Dataset.open(repository[0] / "data" / "prepared")
    whole, part = samples.training_sample(dataset), samples.training_sample(dataset, max_images=300)
    assert len(part) == 300
    assert set(part.measures["brightness"]) <= set(whole.measures["brightness"])
    assert compare(whole, part).drifted is False


def test_only_the_answers_of_one_version_are_compared(repository, tmp_path):
    root, _ = repository
    shutil.copytree(root / "log", tmp_path / "log")
    row = read(root / "log").to_pylist()[0]
    with PredictionLog(tmp_path / "log") as log:
        log.append([{**row, "version": "2", "time": datetime(2020, 1, 1, tzinfo=UTC)}])
    found = inspect(repository, tmp_path / "log")
    assert (found.version, found.report.n_window) == ("3", N)
    assert found.notes[0] == "1 rows of versions other than 3 are ignored."


def test_confidence_is_compared_whatever_was_evaluated_last(repository, tmp_path):
    root, _ = repository
    relabelled(root, tmp_path, splits=["train", "test"])
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "promotion.json").write_text('{"version": "4", "decision": "kept"}')
    found = inspect(repository, root / "log", root=tmp_path)
    check = check_of(found, "confidence")
    assert (check.n_reference, check.n_window, check.drifted, found.notes) == (N // 2, N, False, [])
    log_of(tmp_path / "sure", read(root / "log").to_pylist(), confidence=1.0)
    assert check_of(inspect(repository, tmp_path / "sure", root=tmp_path), "confidence").drifted is True


def test_confidence_needs_images_as_the_version_takes_them(repository, tmp_path):
    root, _ = repository
    relabelled(root, tmp_path, splits=["train", "test"])
    smaller = write_version(tmp_path / "version", shape=(6, 6, 1))
    found = inspect((tmp_path, smaller), root / "log")
    assert "confidence" not in [check.name for check in found.report.checks]
    assert found.notes == ["confidence is not compared: the version takes images of 6x6x1, the data are 12x12x3."]


def test_classes_that_the_version_cannot_answer_are_left_out(repository, tmp_path):
    """After a rollback, or while a new class waits for its first promoted model."""
    root, _ = repository
    relabelled(root, tmp_path, splits=["train", "test"], label="grey")
    found = inspect(repository, root / "log", root=tmp_path)
    check = check_of(found, "label")
    assert set(check.classes) == {"dark", "light"}
    assert found.report.drifted is False
    assert found.notes == ["label is compared without grey: not a class of both the version and the training images."]


def test_a_new_object_is_seen_though_its_measures_stay_the_same(of_stripes, tmp_path):
    """Turned by 90 degrees an image has the same brightness, contrast, sharpness and size."""
    known, turned = (
        asked(of_stripes, images, tmp_path / name)
        for name, images in {"known": striped(seed=2), "turned": striped(seed=2).swapaxes(1, 2)}.items()
    )
    names = ["brightness", "contrast", "sharpness", "size", "confidence", "familiarity", "label"]
    assert {check.name: check.drifted for check in known.report.checks} == dict.fromkeys(names, False)
    assert {check.name for check in turned.report.checks if check.drifted} == {"familiarity"}
    assert turned.report.reasons[0].startswith("familiarity has drifted: median 0.5")
    assert (known.notes, turned.notes) == ([], [])
    picture = tmp_path / "drift.png"
    figure.drift(turned.report, turned.reference, turned.window, picture)
    assert picture.stat().st_size > 0


def test_rows_without_familiarity_do_not_hide_a_verdict(of_stripes, tmp_path):
    """Those of an earlier release, for example."""
    asked(of_stripes, striped(seed=3), tmp_path)
    log_of(tmp_path / "before", read(tmp_path / "log").to_pylist(), familiarity=None)
    found = inspect(of_stripes, tmp_path / "before")
    assert "familiarity" not in [check.name for check in found.report.checks]
    assert found.report.drifted is False
    rows = read(tmp_path / "log").to_pylist()
    log_of(tmp_path / "mixed", rows[:50])
    log_of(tmp_path / "mixed", rows[50:], familiarity=None)
    found = inspect(of_stripes, tmp_path / "mixed")
    assert found.report.drifted is False
    assert found.notes == ["familiarity is not compared: only 50 rows have it, 200 are needed."]


def test_familiarity_needs_test_images_as_confidence_does(of_stripes, tmp_path):
    root, version = of_stripes
    relabelled(root, tmp_path, splits=["train"])
    log = asked(of_stripes, striped(seed=4), tmp_path / "asked").window
    found = inspect((tmp_path, version), tmp_path / "asked" / "log")
    assert {"familiarity", "confidence"} <= set(log.measures)
    assert found.notes[0].startswith("confidence and familiarity are not compared: ")


def test_a_health_check_counts_as_one_image(repository, tmp_path):
    root, _ = repository
    rows = read(root / "log").to_pylist()
    for name, repeats in {"log": 2880, "reference": 0}.items():
        with PredictionLog(tmp_path / name) as log:
            log.append(rows)
            log.append([{**rows[0], "time": rows[0]["time"] + timedelta(seconds=30 * k)} for k in range(repeats)])
    for options in ({"root": root}, {"reference": tmp_path / "reference"}):
        found = inspect(repository, tmp_path / "log", **options)
        assert (found.report.drifted, found.report.n_window) == (False, N)
        assert "2880 rows repeat an image of the window and are not counted again." in found.notes
    turned = inspect(repository, tmp_path / "reference", reference=tmp_path / "log")
    assert (turned.report.drifted, turned.report.n_reference) == (False, N)


def test_a_log_can_be_the_reference(repository, tmp_path):
    root, _ = repository
    found = inspect(repository, root / "log", root=tmp_path, reference=root / "log")
    assert found.report.drifted is False
    assert len(found.report.checks) == 6
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x.parquet has no columns to compare; expected some of id, time, version"):
        samples.stored_sample(tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"nowhere cannot be read as a reference"):
        samples.stored_sample(tmp_path / "nowhere")


def test_an_empty_window_is_too_few_to_tell(repository, tmp_path):
    root, _ = repository
    later = datetime(2100, 1, 1, tzinfo=UTC)
    found = inspect(repository, root / "log", since=later)
    assert (found.version, found.report.drifted) == (None, None)
    assert found.report.reasons[0] == "brightness: no verdict with 0 rows in the window; at least 200 are needed."
    figure.drift(found.report, found.reference, found.window, tmp_path / "drift.png")
