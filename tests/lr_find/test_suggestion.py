"""`darkroom lr-find` in a repository with prepared images of eight pixels."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from darkroom.cli import main, presets
from darkroom.data.arrays.features import SPLITS, FeaturesWriter
from darkroom.lr_find import suggestion
from tests.support.memory import out_of_memory_above
from tests.support.project import ROOT
from tests.support.shades import write_shades

SHAPE = (8, 8, 1)


def write_features(directory: Path, *, prepared_digest: str, augmented_digest: str) -> None:
    labels = np.arange(304) % 2
    values = (np.random.default_rng(0).normal(size=(304, 5)) + labels[:, None]).astype(np.float32)
    with FeaturesWriter(directory) as writer:
        for split, n_rows in zip(SPLITS, (304, 8), strict=True):
            rows = np.column_stack([np.zeros(n_rows, int), np.arange(n_rows), np.arange(n_rows)])
            writer.write(split, iter([values[:n_rows]]), n_features=5, rows=rows, labels=labels[:n_rows])
        writer.finish(
            backbone="tiny",
            weights="none",
            weights_origin="none",
            weights_sha256=None,
            image_size=[32, 32],
            seed=7,
            prepared_digest=prepared_digest,
            augmented_digest=augmented_digest,
        )


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text(presets.text("smoke", root=ROOT))
    return tmp_path


def lr_find(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["darkroom", "lr-find", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    captured = capfd.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


def test_an_unknown_candidate_is_answered_with_the_known_ones(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = lr_find(monkeypatch, capfd, "--candidate", "cmm")
    assert (code, out) == (2, "")
    assert err == "error: params.yaml: section 'train.cmm' is missing; sections found: cnn\n"


@pytest.mark.parametrize(
    ("mode", "advice"),
    [("features", "set architecture.units above 0"), ("finetune", "search architecture.finetune_learning_rate with")],
)
def test_a_head_that_is_solved_has_no_learning_rate(
    mode: str, advice: str, repository: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    text = presets.text("folder", root=ROOT)
    (repository / "params.yaml").write_text(text.replace("mode: features ", f"mode: {mode} "))
    code, _, err = lr_find(monkeypatch, capfd, "--candidate", "transfer")
    assert code == 2
    assert f"transfer: a head without hidden units is solved at once and has no learning_rate; {advice}" in err


def test_unprepared_data_are_named_with_what_prepares_them(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, _, err = lr_find(monkeypatch, capfd)
    assert code == 1
    assert re.fullmatch(r"error: .*data/prepared does not exist yet; run `dvc repro preprocess`\n", err)


def test_a_recipe_that_does_not_fit_the_data_is_refused(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_shades(repository / "data" / "prepared", splits=["train"] * 20 + ["val"] * 8, shape=SHAPE)
    write_shades(repository / "data" / "augmented", splits=["train"] * 4, shape=SHAPE)
    code, _, err = lr_find(monkeypatch, capfd)
    assert code == 2
    assert "params.yaml: train.cnn: batch_size is 32, more than the 24 training images; lower it" in err


def test_fewer_than_ten_steps_are_wrong_usage(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, _, err = lr_find(monkeypatch, capfd, "--steps", "3")
    assert code == 2
    assert "--steps" in err


@pytest.mark.parametrize(
    ("cautious", "said"),
    [
        (0.013, "most steeply; the peak of one_cycle may"),
        (0.01, "most steeply; 0.01 is the cautious choice; the peak of"),
    ],
)
def test_what_is_cautious_is_reported_where_it_is_another_rate(
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    cautious: float,
    said: str,
) -> None:
    found = {"suggestion": 0.013, "cautious": cautious, "greatest": 0.13, "now": 0.1}
    monkeypatch.setattr(suggestion, "suggest", lambda *_, **__: found)
    code, out, _ = lr_find(monkeypatch, capfd)
    assert code == 0
    assert said in out


@pytest.mark.heavy
def test_a_rate_is_suggested_and_its_picture_drawn(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_shades(repository / "data" / "prepared", splits=["train"] * 80 + ["val"] * 8, shape=SHAPE)
    write_shades(repository / "data" / "augmented", splits=["train"] * 40, shape=SHAPE)
    params = (repository / "params.yaml").read_bytes()
    code, out, err = lr_find(monkeypatch, capfd, "--steps", "30")
    assert code == 0, err
    picture = repository / "reports" / "lr_find" / "cnn.png"
    image: Any = cv2.imread(str(picture))
    assert image.std() > 5
    match = re.fullmatch(
        r"learning rate ([\d.e-]+), where the loss falls most steeply; "
        r"(?:[\d.e-]+ is the cautious choice; )?the "
        r"peak of one_cycle may go up to ([\d.e-]+)\. Set train\.cnn\.learning_rate in params\.yaml, now 0\.1; "
        r"plot: (\S+)\n",
        out,
    )
    assert match is not None, out
    suggestion, greatest = map(float, match.groups()[:2])
    assert suggestion <= greatest
    assert match[3] == str(picture)
    assert (repository / "params.yaml").read_bytes() == params


@pytest.mark.heavy
def test_an_auto_batch_that_does_not_fit_is_halved(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_shades(repository / "data" / "prepared", splits=["train"] * 80 + ["val"] * 8, shape=SHAPE)
    write_shades(repository / "data" / "augmented", splits=["train"] * 4, shape=SHAPE)
    text = (repository / "params.yaml").read_text()
    (repository / "params.yaml").write_text(re.sub(r"batch_size: \d+", "batch_size: auto", text))
    out_of_memory_above(4, monkeypatch)
    code, _, err = lr_find(monkeypatch, capfd, "--steps", "20")
    assert code == 0, err
    assert "batch_size auto: 8 images do not fit into memory; restarting with 4" in err


@pytest.mark.heavy
def test_a_transfer_candidate_is_tested_by_its_head(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its weights are few; what the features are of decides whether they are those of the data at hand."""
    digests = [
        write_shades(repository / "data" / name, splits=splits, shape=SHAPE)
        for name, splits in (("prepared", ["train"] * 300 + ["val"] * 8), ("augmented", ["train"] * 4))
    ]
    (repository / "params.yaml").write_text(presets.text("mnist", root=ROOT))
    code, _, err = lr_find(monkeypatch, capfd, "--candidate", "transfer")
    assert code == 1
    assert "data/features does not exist yet" in err
    write_features(repository / "data" / "features", prepared_digest=digests[0], augmented_digest=digests[1])
    out = repository / "head.png"
    code, printed, err = lr_find(
        monkeypatch, capfd, "--candidate", "transfer", "--steps", "20", "--out", "head.png", "--json"
    )
    assert code == 0, err
    answer = json.loads(printed)
    assert set(answer) == {
        "candidate", "suggestion", "cautious", "greatest", "now", "steps", "diverged", "picture",
    }  # fmt: skip
    assert (answer["candidate"], answer["picture"]) == ("transfer", str(out))
    assert out.is_file()
    write_features(repository / "data" / "features", prepared_digest="other", augmented_digest=digests[1])
    code, _, err = lr_find(monkeypatch, capfd, "--candidate", "transfer")
    assert code == 1
    assert "run `dvc repro embed`" in err
