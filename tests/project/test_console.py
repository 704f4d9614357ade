import ast
import contextlib
import gc
import os
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from darkroom.project import console, stage_runs
from darkroom.training import progress
from tests.support.project import ROOT

RUN = "from darkroom.project.console import run\nfrom darkroom import errors\ndef main():\n    {body}\nrun(main)\n"


def end(body: str, *, cwd: Path, arguments: tuple[str, ...] = (), **environment: str) -> tuple[int, str, str]:
    """Run a main() with this body in a process of its own; return its exit code, stdout and stderr."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("DARKROOM_", "DVC_"))}
    command = [sys.executable, "-c", RUN.format(body=body), *arguments]
    done = subprocess.run(command, cwd=cwd, env=inherited | environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("pass", 0, ""),
        ("raise errors.DataError('a.jpg:\\n  1 byte')", 1, "error: a.jpg: 1 byte\n"),
        ("raise errors.ParamsError('x')", 2, "error: x\n"),
        ("raise errors.LockedError('x')", 75, "error: x\n"),
        ("open('/proc/none/x')", 1, "error: /proc/none/x: No such file or directory\n"),
        ("raise KeyboardInterrupt", 130, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM); import time; time.sleep(9)", 143, ""),
    ],
)
def test_an_ending_has_its_exit_code_and_one_line(body: str, code: int, message: str, tmp_path: Path) -> None:
    assert end(body, cwd=tmp_path) == (code, "", message)


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    body = "raise errors.DataError('x')"
    for ended in (end(body, cwd=tmp_path, arguments=("--debug",)), end(body, cwd=tmp_path, DARKROOM_DEBUG="1")):
        assert ended[0] == 1
        assert "Traceback" in ended[2]


def test_a_programming_mistake_is_not_hidden(tmp_path: Path) -> None:
    assert "ZeroDivisionError" in end("1 / 0", cwd=tmp_path)[2]


def test_a_reader_that_closes_our_output_is_no_error(tmp_path: Path) -> None:
    code = RUN.format(body="[print('x' * 9999, flush=True) for _ in range(999)]")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_the_env_file_of_the_root_is_read_and_does_not_win(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / ".env").write_text("DARKROOM_TEST_A=file\nDARKROOM_TEST_B=file\n")
    (tmp_path / "deep").mkdir()
    body = "import os; print(os.environ['DARKROOM_TEST_A'], os.environ['DARKROOM_TEST_B'])"
    assert end(body, cwd=tmp_path / "deep", DARKROOM_TEST_B="shell") == (0, "file shell\n", "")


def test_native_messages_are_silenced_and_pythons_are_not(tmp_path: Path) -> None:
    body = (
        "from darkroom.project.console import native_stderr_silenced; import os, sys\n"
        "    with native_stderr_silenced():\n"
        "        os.write(2, b'native')\n"
        "        print('python', file=sys.stderr)\n"
        "    os.write(2, b'after')"
    )
    assert end(body, cwd=tmp_path)[2] == "python\nafter"


def test_a_handler_made_while_silenced_still_writes_later(tmp_path: Path) -> None:
    body = (
        "from darkroom.project.console import native_stderr_silenced; import logging\n"
        "    with native_stderr_silenced():\n"
        "        handler = logging.StreamHandler()\n"
        "    handler.emit(logging.makeLogRecord({'msg': 'later'}))"
    )
    assert end(body, cwd=tmp_path)[2] == "later\n"


def test_a_stage_of_another_python_goes_over_to_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-S", "-m", "pipelines.check", "--out", "x"]  # -S: without installed packages
    own = tmp_path / ".venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.write_text("#!/bin/sh\necho own $@\n")
    own.chmod(0o755)
    environment = {**os.environ, "DVC_ROOT": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("own -S -m pipelines.check --out x\n", "")
    own.unlink()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "lacks the packages of this project; activate them with `. .venv/bin/activate`" in done.stderr


def test_the_garbage_collector_rests_while_keras_is_loaded() -> None:
    with contextlib.suppress(ImportError), console.loading_keras():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()


@pytest.mark.heavy
def test_keras_is_loaded_without_packages_it_does_without(tmp_path: Path) -> None:
    body = (
        "import sys; from darkroom.project.console import NOT_FOR_KERAS, loading_keras\n"
        "    with loading_keras():\n"
        "        import keras\n"
        "    loaded = keras.backend.backend(), *(name for name in NOT_FOR_KERAS if name in sys.modules)\n"
        "    import pandas, sklearn\n"
        "    print(*loaded, pandas.__name__, sklearn.__name__, file=sys.stderr)"
    )
    assert end(body, cwd=tmp_path)[2] == "tensorflow pandas sklearn\n"


def test_every_epoch_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = progress.TrainingProgress(epochs=3)
    record = {"train_loss": 0.5, "val_loss": 0.25, "val_accuracy": 0.9, "images_per_second": 1234.5}
    for step in range(4):
        lines.on_step(step + 1, 4)
    lines.on_epoch_end(1, record)
    expected = "epoch 1/3: train loss 0.5000, val loss 0.2500, val accuracy 0.9000, 1234 images/s\n"
    assert capsys.readouterr().err == expected


def test_a_stage_says_its_purpose_and_notes_its_time(tmp_path: Path) -> None:
    (tmp_path / "stage.py").write_text(
        '"""Do it.\n\nMore."""\n'
        "import sys\nfrom darkroom.project.console import run, say\n"
        "from darkroom.errors import DataError\n"
        "def main():\n    say('done')\n    if sys.argv[1:]: raise DataError('bad')\n"
        "run(main)\n"
    )

    def stage(*arguments: str, **variables: str) -> str:
        environment = {**os.environ, "DVC_ROOT": str(tmp_path), "DVC_STAGE": "embed", **variables}
        command = [sys.executable, "stage.py", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True).stderr

    assert stage("fail") == "Do it\ndone\nerror: bad\n"
    assert stage(DVC_EXP_NAME="x") == "done\n"
    assert stage_runs.last_run("embed", root=tmp_path) is None, "a stage that failed or was an experiment leaves none"
    assert stage() == "Do it\ndone\n"
    ended = stage_runs.last_run("embed", root=tmp_path)
    assert ended is not None
    assert ended.said == "done"
    assert stage() == "Do it (0 s last time)\ndone\n"


def test_what_a_stage_says_first_fits_into_80_columns() -> None:
    for stage in set((ROOT / "pipelines").glob("[a-z]*.py")) - {ROOT / "pipelines" / "retrain.py"}:
        purpose = (ast.get_docstring(ast.parse(stage.read_text())) or "").splitlines()[0]
        assert len(f"{purpose.rstrip('.')} (3600 s last time)") <= 80, stage.name


def test_an_interrupted_stage_says_where_the_next_run_goes_on(tmp_path: Path) -> None:
    ended = end("raise KeyboardInterrupt", cwd=tmp_path, DVC_ROOT=str(tmp_path), DVC_STAGE="train@cnn")
    assert ended[0] == 130
    assert ended[2].splitlines()[-1] == "interrupted; the next `dvc repro` goes on with train@cnn"


def test_progress_is_shown_on_a_terminal_only(tmp_path: Path) -> None:
    body = "from darkroom.project.console import progress; print(len(list(progress(range(3)))))"
    code = RUN.format(body=body)
    leader, follower = os.openpty()
    termios.tcsetwinsize(follower, (24, 80))
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, stderr=follower, stdout=subprocess.PIPE)
    assert shown.stdout == b"3\n"
    assert b"image" in os.read(leader, 10_000)
    os.close(leader)
    os.close(follower)
    assert end(body, cwd=tmp_path) == (0, "3\n", "")
