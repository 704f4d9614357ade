import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from darkroom.cli import main, presets
from tests.support.command_line import SOURCE, run
from tests.support.trained_repository import clean_environment

DEFAULT = """\
# The default.

candidates: [cnn]

train:
  cnn:
    architecture: {name: a, width: 32}
    epochs: 12                    # a comment
"""

heavy = pytest.mark.heavy


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with the default preset, committed as params.yaml too, and two others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "mnist.yaml").write_text(DEFAULT)
    (tmp_path / "presets" / "one.yaml").write_text("# One.\n\ntrain: {cnn: {epochs: 4}}\n")
    (tmp_path / "presets" / "two.yaml").write_text("train: {cnn: {epochs: 3, architecture: {name: b, depth: 2}}}\n")
    (tmp_path / "params.yaml").write_text(DEFAULT)
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *command], check=True)
    return tmp_path


def test_use_replaces_params_and_says_what_changed(repository, monkeypatch, capfd):
    code, out, _ = run(monkeypatch, capfd, "use", "two")
    assert code == 0
    assert out.splitlines() == [
        "train.cnn.architecture.depth: (none) -> 2",
        "train.cnn.architecture.name: a -> b",
        "train.cnn.architecture.width: 32 -> (none)",
        "train.cnn.epochs: 12 -> 3",
        "params.yaml now holds the preset two (4 keys changed); run it with `dvc repro`",
    ]
    assert Path("params.yaml").read_text() == presets.text("two", root=repository)


def test_use_works_from_a_subfolder_and_answers_in_json(repository, monkeypatch, capfd):
    (repository / "src").mkdir()
    monkeypatch.chdir(repository / "src")
    _, out, _ = run(monkeypatch, capfd, "use", "two", "--json")
    assert json.loads(out)["changed"]["train.cnn.epochs"] == ["12", "3"]
    assert "epochs: 3" in (repository / "params.yaml").read_text()


def test_use_refuses_to_lose_uncommitted_edits_without_force(repository, monkeypatch, capfd):
    Path("params.yaml").write_text(DEFAULT.replace("epochs: 12", "epochs: 99"))
    code, out, err = run(monkeypatch, capfd, "use", "two")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "has uncommitted edits; commit them, or discard them with `darkroom use two --force`" in err
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


def test_a_key_that_the_default_lacks_is_refused_in_one_line(repository, monkeypatch, capfd):
    Path("presets/two.yaml").write_text("train: {cnn: {epoch: 3}}\n")
    code, _, err = run(monkeypatch, capfd, "use", "two")
    path = repository / "presets" / "two.yaml"
    assert (code, err) == (
        2,
        f"error: {path}: train.cnn has an unknown key 'epoch'; did you mean 'epochs'?\n",
    )
    assert Path("params.yaml").read_text() == DEFAULT


def test_a_broken_preset_does_not_keep_another_from_being_used(repository, monkeypatch, capfd):
    Path("presets/broken.yaml").write_text("trian: {}\n")
    assert run(monkeypatch, capfd, "use", "two")[0] == 0
    assert run(monkeypatch, capfd, "use", "one")[0] == 0


def test_an_unknown_preset_is_answered_with_the_known_ones(repository, monkeypatch, capfd):
    code, _, err = run(monkeypatch, capfd, "use", "tow")
    assert code == 2
    assert err == "error: there is no preset 'tow'; presets: mnist, one, two; did you mean 'two'?\n"


def test_wrong_usage_is_exit_code_2(monkeypatch, capfd):
    code, _, err = run(monkeypatch, capfd, "predict", "a.png", "--modle", "x")
    assert code == 2
    assert "No such option: --modle" in err


@pytest.mark.parametrize(
    "command",
    ["use mnist", "report", "store", "lr-find", "tune-status", "retrain", "gc", "compare 1 2", "history", "serve"],
)
def test_outside_a_repository_a_command_says_so(tmp_path, monkeypatch, capfd, command):
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    code, out, err = run(monkeypatch, capfd, *command.split())
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {tmp_path} is not in a Darkroom repository: no dvc.yaml here or above; cd into one")
    assert list(tmp_path.iterdir()) == []


def test_help_shows_what_an_option_takes_as_other_tools_do(monkeypatch, capfd):
    commands: Any = get_command(main.app)
    for name in commands.list_commands(None):
        _, out, err = run(monkeypatch, capfd, name, "--help")
        assert re.search(r"<[a-z]|^Usage:.*[{}]", out + err) is None, name
    _, out, _ = run(monkeypatch, capfd, "serve", "--help")
    for shown in ("--port PORT", "--poll-seconds SECONDS", "--max-body-mb MB", "--workers INTEGER", "--log PATH"):
        assert f"  {shown} " in out
    _, out, _ = run(monkeypatch, capfd, "predict", "--help")
    assert out.startswith("Usage: darkroom predict [OPTIONS] FILE...\n")
    _, out, _ = run(monkeypatch, capfd, "approve", "--help")
    assert out.startswith("Usage: darkroom approve [OPTIONS] [VERSION]\n")


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
    recent = {"accuracy": 0.0953, "accuracy_ci95": [0.05, 0.15], "n_images": 1200}
    scores = {"test_accuracy": 0.987, "test_accuracy_ci95": [0.98, 0.992], "recent": recent}
    (repository / "reports" / "evaluation.json").write_text(
        json.dumps({"winner": "cnn", "candidates": {"cnn": scores}})
    )
    promotion = {
        "decision": "kept",
        "reasons": ["It is worse."],
        "registered_model": "pets",
        "version": None,
        "champion_after": "3",
    }
    (repository / "reports" / "promotion.json").write_text(json.dumps(promotion))
    stages = {"check": {}, "tune": {"matrix": {"candidate": "${candidates}"}}, "promote": {}}
    (repository / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    (repository / ".darkroom" / "stages").mkdir(parents=True)
    for name, started, said in (("check", 50.0, ""), ("tune@cnn", 200.0, "tune: cnn: " + "x" * 200)):
        ended = {"started": started, "seconds": 12.34, "said": said}
        (repository / ".darkroom" / "stages" / f"{name}.json").write_text(json.dumps(ended))
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(monkeypatch, capfd, "report", "--since", "100")
    assert code == 0
    assert out.splitlines()[:4] == [
        "stage                    seconds  result",
        "check            cached     12.3",
        f"tune@cnn         run        12.3  cnn: {'x' * 40}…",
        "promote          cached",
    ]
    assert all(len(line) <= 80 for line in out.splitlines() if str(repository) not in line), out
    out = " ".join(out.split())
    assert "cnn: test accuracy 98.70% (95 % interval 98.00% to 99.20%)" in out
    assert "accuracy 9.53% (95 % interval 5.00% to 15.00%) on 1,200 incoming images" in out
    assert "decision not promoted, version 3 stayed champion. It is worse." in out
    assert "models:/pets@champion is not set; it changed since, see `darkroom history`" in out
    assert "make ui" in out


def test_report_reads_an_evaluation_without_recent_images(repository, monkeypatch, capfd):
    scores = {"test_accuracy": 0.987, "test_accuracy_ci95": [0.98, 0.992]}
    evaluation = {"winner": "cnn", "candidates": {"cnn": scores}}
    promotion: dict[str, object] = {
        "decision": "kept",
        "reasons": [],
        "registered_model": "pets",
        "version": None,
        "champion_after": "3",
    }
    (repository / "reports").mkdir()
    (repository / "reports" / "evaluation.json").write_text(json.dumps(evaluation))
    (repository / "reports" / "promotion.json").write_text(json.dumps(promotion))
    code, out, err = run(monkeypatch, capfd, "report")
    assert (code, err) == (0, "")
    assert "\nwinner     cnn: test accuracy 98.70%" in out
    assert "recent" not in out


def test_report_before_the_first_repro_says_what_to_run(repository, monkeypatch, capfd):
    code, _, err = run(monkeypatch, capfd, "report")
    assert code == 1
    assert err == "error: there is nothing to report yet: no model was evaluated; `dvc repro` does all that is left\n"
