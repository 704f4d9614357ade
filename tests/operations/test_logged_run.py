import os

from darkroom.operations.logged_run import Ended, run_logged


def run(tmp_path, script, **options):
    command = ["/bin/sh", "-c", script]
    return run_logged(command, cwd=tmp_path, log=tmp_path / "log" / "log.txt", environment=dict(os.environ), **options)


def test_what_a_program_prints_is_returned_logged_and_shown(tmp_path, capfd):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "log.txt").write_text("before\n")
    ended = run(tmp_path, "echo one; echo two >&2; exit 4")
    assert ended == Ended(4, "one\ntwo\n")
    assert (tmp_path / "log" / "log.txt").read_text() == "before\none\ntwo\n"
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "one\ntwo\n")


def test_the_process_is_told_when_it_starts(tmp_path):
    started: list[int] = []
    ended = run(tmp_path, "echo $$", on_start=started.append)
    assert int(ended.printed) == started[0]


def test_what_is_not_to_be_shown_is_still_logged(tmp_path, capfd):
    assert run(tmp_path, "echo a name", echo=False).printed == "a name\n"
    assert capfd.readouterr().err == ""
    assert (tmp_path / "log" / "log.txt").read_text() == "a name\n"


def test_a_program_is_watched_to_its_end(tmp_path):
    seen: list[bool] = []
    run(tmp_path, "touch made", on_look=lambda: seen.append((tmp_path / "made").exists()))
    assert seen[-1]


def test_the_error_of_a_stage_comes_before_that_of_dvc():
    printed = "error: params.yaml: tune lacks the key 'seed'\nERROR: failed to reproduce 'check'\nsee the docs\n"
    assert Ended(255, printed).last_error == "params.yaml: tune lacks the key 'seed'"
    assert Ended(255, "ERROR: no remote\nsee the docs\n").last_error == "no remote"
    missing = (
        "ERROR: unexpected error - s3 is supported, but requires 'dvc-s3' to be installed: No module named 'dvc_s3'"
    )
    install = "s3 is supported, but requires 'dvc-s3' to be installed: .venv/bin/uv pip install -e '.[s3]'"
    assert Ended(255, missing).last_error == install
    assert Ended(128, "fatal: no upstream\n").last_error == "no upstream"
    assert Ended(1, "something\n\n").last_error == "something"
    assert Ended(1, "").last_error == "no output"
