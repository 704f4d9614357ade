import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import SOURCE, run
from tests.support.trained_repository import clean_environment

heavy = pytest.mark.heavy
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with two presets, of which `one` is committed as params.yaml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "one.yaml").write_text("train:\n  cnn: {epochs: 12, width: 32}  # a comment\n")
    (tmp_path / "presets" / "two.yaml").write_text("train:\n  cnn: {epochs: 3, depth: 2}\n")
    (tmp_path / "params.yaml").write_text((tmp_path / "presets" / "one.yaml").read_text())
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *command], check=True)
    return tmp_path


def test_use_replaces_params_and_says_what_changed(repository, monkeypatch, capfd):
    code, out, _ = run(monkeypatch, capfd, "use", "two")
    assert code == 0
    assert out.splitlines() == [
        "train.cnn.depth: (none) -> 2",
        "train.cnn.epochs: 12 -> 3",
        "train.cnn.width: 32 -> (none)",
        "params.yaml is now the preset two, 3 keys changed; `dvc repro` runs it",
    ]
    assert Path("params.yaml").read_bytes() == Path("presets/two.yaml").read_bytes()


def test_use_works_from_a_subfolder_and_answers_in_json(repository, monkeypatch, capfd):
    (repository / "src").mkdir()
    monkeypatch.chdir(repository / "src")
    _, out, _ = run(monkeypatch, capfd, "use", "two", "--json")
    assert json.loads(out)["changed"]["train.cnn.epochs"] == ["12", "3"]
    assert (repository / "params.yaml").read_text().startswith("train:\n  cnn: {epochs: 3")


def test_use_refuses_to_lose_uncommitted_edits_without_force(repository, monkeypatch, capfd):
    Path("params.yaml").write_text("train:\n  cnn: {epochs: 99, width: 32}\n")
    code, out, err = run(monkeypatch, capfd, "use", "two")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "has edits that are in no commit; commit them, or use `darkroom use two --force` to lose them" in err
    assert "99" in Path("params.yaml").read_text()
    code, out, _ = run(monkeypatch, capfd, "use", "two", "--force")
    assert code == 0
    assert "train.cnn.epochs: 99 -> 3" in out


def test_use_replaces_an_uncommitted_preset_without_force(repository, monkeypatch, capfd):
    run(monkeypatch, capfd, "use", "two")
    assert run(monkeypatch, capfd, "use", "one")[0] == 0


def test_use_writes_params_where_there_are_none(repository, monkeypatch, capfd):
    Path("params.yaml").unlink()
    assert run(monkeypatch, capfd, "use", "one")[0] == 0
    assert Path("params.yaml").is_file()


def test_an_unknown_preset_is_answered_with_the_known_ones(repository, monkeypatch, capfd):
    code, _, err = run(monkeypatch, capfd, "use", "tow")
    assert code == 2
    assert err == "error: there is no preset 'tow'; presets: one, two; did you mean 'two'?\n"


def test_wrong_usage_is_exit_code_2(monkeypatch, capfd):
    code, _, err = run(monkeypatch, capfd, "predict", "a.png", "--modle", "x")
    assert code == 2
    assert "No such option: --modle" in err


def test_importing_the_command_line_is_cheap():
    code = (
        "import sys; import darkroom.cli.main; "
        "print(sorted({'mlflow', 'numpy', 'pandas', 'cv2', 'onnxruntime', 'tensorflow', 'keras', 'pydantic'} "
        "& set(sys.modules)))"
    )
    environment = {**clean_environment(), "PYTHONPATH": str(SOURCE)}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert answer.stdout.strip() == "[]"


def test_report_says_who_won_what_was_decided_and_where_to_look(repository, monkeypatch, capfd):
    (repository / "reports").mkdir()
    scores = {"test_accuracy": 0.987, "test_accuracy_ci95": [0.98, 0.992]}
    (repository / "reports" / "evaluation.json").write_text(
        json.dumps({"winner": "cnn", "candidates": {"cnn": scores}})
    )
    promotion = {
        "decision": "kept",
        "reasons": ["It is worse."],
        "registered_model": "pets",
        "champion_after": "3",
    }
    (repository / "reports" / "promotion.json").write_text(json.dumps(promotion))
    code, out, _ = run(monkeypatch, capfd, "report")
    assert code == 0
    assert "cnn: test accuracy 98.70% (95 % interval 98.00% to 99.20%)" in out
    assert "kept: It is worse." in out
    assert "models:/pets@champion is version 3" in out
    assert "make ui" in out


def test_report_before_the_first_repro_says_what_to_run(repository, monkeypatch, capfd):
    code, _, err = run(monkeypatch, capfd, "report")
    assert code == 1
    assert "evaluation.json cannot be read" in err
    assert "`dvc repro` writes it" in err
