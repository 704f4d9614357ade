"""`darkroom tuned`: what best.yaml replaces, and that it is put into params.yaml without touching anything else."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from darkroom.cli import presets
from darkroom.errors import DataError, ParamsError
from darkroom.project.params import read_params
from darkroom.training import overrides
from darkroom.tuning import adoption, location
from tests.support.command_line import run
from tests.support.project import ROOT


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    for candidate in ("cnn", "transfer"):
        overrides.write(tmp_path / "models" / candidate / "best.yaml", {}, comment="nothing")
    return tmp_path


def best(root: Path, values: dict[str, Any]) -> None:
    overrides.write(root / "models" / "cnn" / "best.yaml", values, comment="x")


def differences(root: Path) -> list[str]:
    """The lines of params.yaml that are not as they were."""
    before = (ROOT / "params.yaml").read_text().splitlines()
    return [line for line in (root / "params.yaml").read_text().splitlines() if line not in before]


def write(root: Path) -> dict[str, Any]:
    adoption.write(root, adoption.changes(root, None))
    return dict(read_params(root / "params.yaml")["train"]["cnn"])


def test_values_are_put_in_place_with_comments_in_their_column(root: Path) -> None:
    values = {"learning_rate": 0.0683121, "architecture.filters": [16, 32], "optimizer.weight_decay": 1e-05}
    best(root, values)
    written = write(root)
    assert {key: overrides.value_at(written, key) for key in values} == values
    assert differences(root) == [
        "      filters: [16, 32]           # width of each block; a block halves height and width",
        "      weight_decay: 1e-05         # decoupled; not applied to biases and BatchNorm",
        "    learning_rate: 0.0683121      # peak of the schedule",
    ]
    assert adoption.changes(root, "cnn") == {"cnn": {}}


def test_line_endings_of_windows_stay(root: Path) -> None:
    path = root / "params.yaml"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    best(root, {"learning_rate": 0.0683121})
    assert write(root)["learning_rate"] == 0.0683121
    content = path.read_bytes()
    assert content.count(b"\n") == content.count(b"\r\n") == (ROOT / "params.yaml").read_bytes().count(b"\n")
    assert len(differences(root)) == 1


@pytest.mark.parametrize(
    ("key", "value", "old", "new"),
    [
        ("optimizer.clip_norm", 1.5, "      clip_norm:\n", "      clip_norm: 1.5\n"),
        ("optimizer.clip_norm", 1.5, "      clip_norm:      # none\n", "      clip_norm: 1.5  # none\n"),
        (
            "architecture.filters",
            [16, 32],
            "      filters:\n      - 8\n      - 24\n",
            "      filters:\n       [16, 32]\n",
        ),
    ],
)
def test_a_value_may_be_empty_or_start_below_its_key(root: Path, key: str, value: Any, old: str, new: str) -> None:
    path, name = root / "params.yaml", key.rpartition(".")[2]
    text = re.sub(rf"^      {name}: .*\n", lambda _: old, path.read_text(), count=1, flags=re.MULTILINE)
    assert old in text
    path.write_text(text)
    best(root, {key: value})
    assert overrides.value_at(write(root), key) == value
    assert path.read_text() == text.replace(old, new)


def test_of_the_same_network_only_what_differs_is_written(root: Path) -> None:
    network = presets.read("mnist", root=ROOT)["train"]["cnn"]["architecture"]
    best(root, {"architecture": {**network, "dropout": 0.25}})
    assert write(root)["architecture"]["dropout"] == 0.25
    assert [line.split() for line in differences(root)] == [["dropout:", "0.25"]]


def test_another_network_takes_the_place_of_the_whole_one(root: Path) -> None:
    network = {"name": "fast", "filters": [8, 16], "whitening_kernel_size": 2, "activation": "gelu"}
    best(root, {"architecture": network, "early_stopping": {"metric": "val_loss", "patience": 3}})
    written = write(root)
    assert written["architecture"] == network
    assert written["early_stopping"] == {"metric": "val_loss", "patience": 3}
    first, second = differences(root)
    assert first.strip() == "{name: fast, filters: [8, 16], whitening_kernel_size: 2, activation: gelu}"
    assert second.endswith("# or {metric: val_loss, patience: 5}")


def test_a_file_with_aliases_is_left_as_it_is(root: Path) -> None:
    text = (root / "params.yaml").read_text()
    text = re.sub(r"learning_rate: 0\.2 ", "learning_rate: &rate 0.2 ", text)
    assert_left(root, text.replace("finetune_learning_rate: 0.00003", "finetune_learning_rate: *rate"))


def test_a_file_with_a_merged_key_is_left_as_it_is(root: Path) -> None:
    text = re.sub(r"(?m)^    learning_rate: 0\.2 .*\n", "", (root / "params.yaml").read_text(), count=1)
    assert_left(root, text.replace("  cnn:\n    arch", "  cnn:\n    <<: {learning_rate: 0.2}\n    arch"))


def assert_left(root: Path, text: str) -> None:
    (root / "params.yaml").write_text(text)
    best(root, {"learning_rate": 0.1})
    with pytest.raises(
        ParamsError, match=r"params.yaml uses aliases \(&, \*\) or merges \(<<\), .*; write them by hand$"
    ):
        write(root)
    assert (root / "params.yaml").read_text() == text


def test_the_command_shows_and_writes(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str) -> str:
        status, printed, _ = run(monkeypatch, capfd, "tuned", *arguments)
        assert status == 0
        return printed

    best(root, {"learning_rate": 0.1})
    assert said() == "train.cnn.learning_rate: 0.2 -> 0.1\n"
    assert differences(root) == []
    changed = {"cnn": {"learning_rate": [0.2, 0.1]}, "transfer": {}}
    assert json.loads(said("--json")) == {"written": False, "changed": changed}
    assert said("--write").endswith("`dvc repro` starts a new search from them, unless tune.trials is 0\n")
    assert said("--candidate", "cnn") == "no values of params.yaml are replaced\n"


def test_an_untuned_candidate_is_reported(root: Path) -> None:
    (root / "models" / "cnn" / "best.yaml").unlink()
    with pytest.raises(DataError, match=r"models/cnn/best.yaml does not exist yet; run `dvc repro tune`"):
        adoption.changes(root, None)


def test_only_values_that_params_yaml_lacks_are_named_as_dropped(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = read_params(root / "params.yaml")["train"]["cnn"]
    found = {"learning_rate": base["learning_rate"], "architecture.dropout": 0.4}

    def dropped(values: dict[str, Any], base: dict[str, Any]) -> str:
        location.point_at("cnn", study="s", n_trials=3, values=values)
        adoption.drop("cnn", base, why="tune.trials is 0")
        return capsys.readouterr().err

    assert "tune.trials is 0: the tuned values are dropped (architecture.dropout 0.4); to keep" in dropped(found, base)
    assert dropped({"learning_rate": base["learning_rate"]}, base) == ""
    assert "(architecture.dropout 0.4)" in dropped(
        {"architecture.dropout": 0.4}, {**base, "architecture": {"name": "fast"}}
    )
