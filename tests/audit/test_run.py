import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from darkroom.audit import findings, report, run
from darkroom.audit.material import Vectors
from darkroom.data.arrays.features import FeaturesWriter
from darkroom.data.preparation.corrections import Correction, write_corrections
from darkroom.errors import DataError, ParamsError
from tests.support.flipped_digits import N_FLIPPED, digits, write_prepared
from tests.support.training_stage import train_section

BLANK, DARK, TWIN, OF, TINY = 3, 10, 17, 24, 31


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A repository of which some images are of no use."""
    root = tmp_path_factory.mktemp("audit")
    images, _, labels = (array.copy() for array in digits())
    images[BLANK], images[DARK] = 77, images[DARK] // 12
    images[TWIN], labels[TWIN], labels[OF] = images[OF], 1, 2
    sizes = np.full(len(images), 8)
    sizes[TINY] = 2
    write_prepared(root, images, labels, height=sizes)
    (root / "dvc.yaml").write_text("stages: {}\n")
    return root


@pytest.fixture(scope="module")
def audited(root):
    return run.audit(root, source="auto", bits=4)


def test_every_kind_of_fault_is_found(audited):
    assert [one.row for one in audited.of_kind("blank")] == [BLANK]
    assert [one.row for one in audited.of_kind("dark")] == [DARK]
    assert [one.row for one in audited.of_kind("tiny")] == [TINY]
    assert [{one.row, *one.beside} for one in audited.of_kind("twins")] == [{TWIN, OF}]
    _, labels, flipped = digits()
    wrong = {int(row) for row in np.flatnonzero(labels != flipped)} - {TWIN, OF}
    suspects = audited.of_kind("label")
    assert len(wrong & {one.row for one in suspects}) >= 0.7 * len(wrong)
    assert [one.quality for one in suspects] == sorted(one.quality for one in suspects)
    assert audited.by == ["700 by the pixels"]


def test_an_image_far_from_all_others_is_an_outlier():
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(2, 40))
    values = (centres[np.arange(200) % 2] + rng.normal(size=(200, 40))).astype(np.float32)
    values[7] = 3 * rng.normal(size=40)
    judged = findings.by_vectors(
        Vectors(np.arange(200) + 50, values, np.arange(200), ""), np.arange(250) % 2, n_classes=2
    )
    assert findings.outliers(judged)[0].row == 57
    assert len(findings.outliers(judged)) < 10


def test_the_report_lists_all_and_shows_the_worst(audited, tmp_path):
    page = report.write(audited, tmp_path).read_text()
    with (tmp_path / "suspects.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(audited.found)
    first = lines[0]
    assert first["kind"] == "label"
    assert {first["label"], first["suggested"]} <= set("0123456789")
    assert first["agreeing_neighbours"].endswith(" of 10")
    assert page.count("<li>") == len(audited.found)
    assert "the same image has two labels" in page
    assert "//" not in page.replace("<!doctype", "").replace("base64,//", "").split("data:")[0]


def test_a_confirmed_label_is_no_longer_suspected(root, audited, tmp_path):
    one = audited.of_kind("label")[0]
    label = audited.dataset.classes[audited.dataset.labels[one.row]]
    try:
        confirmed = Correction(audited.dataset.index()["id"][one.row], label, label, "ann", "2026-01-02")
        write_corrections(root / run.CORRECTIONS, [confirmed])
        again = run.audit(root, source="pixels", bits=4)
    finally:
        (root / run.CORRECTIONS).unlink()
    assert one.row not in {other.row for other in again.found}
    assert "1 more was decided about in data/corrections.csv" in run.in_words(again)


def write_features(root, values, rows, *, digest):
    """Write data/features of some rows, the last of them in val."""
    _, _, labels = digits()
    with FeaturesWriter(root / "data" / "features") as writer:
        for split, part in (("train", rows[:-9]), ("val", rows[-9:])):
            numbers = np.column_stack([np.zeros(len(part), int), part, part])
            writer.write(split, [values[part]], n_features=values.shape[1], rows=numbers, labels=labels[part])
        about = dict.fromkeys(("weights", "weights_origin", "weights_sha256", "image_size", "augmented_digest", "seed"))
        writer.finish(backbone="tiny", prepared_digest=digest, **about)


def test_features_are_preferred_and_what_lacks_them_is_reported(tmp_path):
    images, _, flipped = digits()
    write_prepared(tmp_path, images, flipped)
    digest = json.loads((tmp_path / "data/prepared/manifest.json").read_text())["digest"]
    rows = np.flatnonzero(np.arange(700) % 7 > 0)[:500]
    write_features(tmp_path, images.reshape(700, -1).astype(np.float32), rows, digest=digest)
    found = run.audit(tmp_path, source="auto", bits=4)
    assert found.by == ["500 by the features of tiny"]
    said = run.in_words(found)
    assert "100 test images are judged once `dvc repro evaluate` has run" in said
    assert "100 images have no features; set embed.max_images: null" in said
    assert {one.row for one in found.of_kind("label")} <= set(rows.tolist())
    write_features(tmp_path, images.reshape(700, -1).astype(np.float32), rows, digest="other")
    with pytest.raises(DataError, match="the features belong to other prepared images; run `dvc repro embed`"):
        run.audit(tmp_path, source="features", bits=4)


@pytest.mark.heavy
def test_networks_judge_the_labels_that_they_did_not_see(tmp_path):
    import keras  # noqa: F401 - else it is loaded with the stderr of this test, and keeps it

    images, labels, flipped = digits()
    write_prepared(tmp_path, images, flipped)
    section = train_section(epochs="6").replace("[4, 8]", "[16, 32]")
    (tmp_path / "params.yaml").write_text(f"candidates: [cnn]\n{section}")
    found = run.audit(tmp_path, source="network", bits=4, n_folds=2)
    assert found.by == ["700 by networks that were trained on the others"]
    suspects = {one.row for one in found.of_kind("label")}
    assert len(suspects & set(np.flatnonzero(labels != flipped).tolist())) >= 0.7 * N_FLIPPED
    assert len(suspects) < 2 * N_FLIPPED
    assert len(found.of_kind("label")[0].beside) == 10


def test_a_mistake_in_params_is_reported_before_any_computation(tmp_path):
    section = train_section(epochs="6").replace("epochs:", "epocs:", 1)
    (tmp_path / "params.yaml").write_text(f"candidates: [cnn]\n{section}")
    with pytest.raises(ParamsError, match=r"params.yaml: train.cnn .*epocs"):
        run.audit(tmp_path, source="network", bits=4)


def test_without_a_network_the_command_says_what_to_pass(tmp_path):
    images, _, flipped = digits()
    write_prepared(tmp_path, images, flipped)
    with pytest.raises(ParamsError, match="every candidate uses a backbone.*; pass --by features"):
        run.audit(tmp_path, source="network", bits=4)


def test_where_classes_cannot_be_distinguished_a_warning_says_so():
    assert run._doubts(0.9, "the pixels") == []
    assert "only 31% of the labels are found again" in run._doubts(0.31, "the pixels")[0]


def test_the_command_loads_no_keras_and_sets_the_exit_code(root):
    code = (
        "import sys\n"
        "from darkroom.cli.main import app\n"
        "try:\n"
        "    app(args=sys.argv[1:])\n"
        "finally:\n"
        "    print(sorted({'keras', 'tensorflow', 'mlflow', 'optuna'} & set(sys.modules)), file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", code, "audit", "--json", "--max-wrong", "0.001"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (3, "[]")
    said = json.loads(done.stdout)
    assert (said["n_images"], said["found"]["blank"]) == (700, 1)
    assert (root / "reports" / "audit" / "index.html").is_file()
