import subprocess
import sys

import pytest

from darkroom.errors import DataError
from darkroom.operations.dvc_cache import unused_data
from darkroom.operations.undo import WorkInProgress


def test_the_cache_of_an_unfinished_retraining_is_kept(tmp_path):
    WorkInProgress(tmp_path).begin({"started": "2026-05-20T03:00:00+00:00"}, writes=[])
    with pytest.raises(
        DataError, match=r"the retraining started at 2026-05-20T03.* is unfinished and needs DVC's cache; run"
    ):
        unused_data(tmp_path, remove=True)


def test_old_data_that_a_commit_names_stays_in_the_cache(tmp_path, monkeypatch):
    def do(*command: str) -> None:
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    def versioned(text: str) -> None:
        data.unlink(missing_ok=True)
        data.write_text(text)
        do(sys.executable, "-m", "dvc", "add", "data.txt")

    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(name, "test@localhost")
    data = tmp_path / "data.txt"
    do("git", "init", "--quiet")
    do(sys.executable, "-m", "dvc", "init", "--quiet")
    versioned("committed")
    do("git", "add", "--all")
    do("git", "commit", "--quiet", "--message", "data")
    versioned("used by nothing")
    versioned("in the work tree")
    assert unused_data(tmp_path, remove=False) == (1, len("used by nothing"))
    assert unused_data(tmp_path, remove=True) == (1, len("used by nothing"))
    assert unused_data(tmp_path, remove=False) == (0, 0)
    left = {path.read_text() for path in (tmp_path / ".dvc" / "cache" / "files").rglob("*") if path.is_file()}
    assert left == {"committed", "in the work tree"}
