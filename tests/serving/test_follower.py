import os
import sys
import time
from functools import partial
from typing import Any

import pytest

from darkroom.errors import RegistryError
from darkroom.registry.snapshot import Version
from darkroom.serving import logs
from darkroom.serving.downloads import FRESH_SECONDS, remove_others
from darkroom.serving.follower import Follower, Served
from darkroom.serving.messages import Facts
from tests.support.served import eventually


def remote(number):
    return Version("pets", number, None, f"mlflow-artifacts:/pets/{number}", {})


def served(version):
    """A version without workers."""
    no_pool: Any = None
    return Served(version, Facts([], (4, 4, 1), None), no_pool)


def test_a_look_that_fails_is_reported_and_the_next_one_taken(monkeypatch):
    said, found = [], [remote("1")]

    def find():
        if isinstance(found[-1], Exception):
            raise found[-1]
        return found[-1]

    follower = Follower(
        find=find,
        load=served,
        retire=lambda _: None,
        log=lambda event, message, **_: said.append((event, message)),
        seconds=0.01,
    )

    def last_said(event):
        return said and said[-1][0] == event

    follower.start()
    try:
        for error, event in [(RegistryError("no answer"), "registry_unreadable"), (KeyError("table"), "look_failed")]:
            found.append(error)
            eventually(partial(last_said, event))
        found.append(remote("2"))
        eventually(lambda: follower.served.version.version == "2" and said[-1][0] == "version_taken")
        assert follower.problem is None
    finally:
        follower.close()
        follower._thread.join()
    assert [event for event, _ in said] == ["registry_unreadable", "look_failed", "registry_readable", "version_taken"]
    assert said[1][1] == "KeyError: 'table'; still serving version 1"


def test_a_number_that_is_used_again_is_noticed():
    """Of a registered model that was deleted and registered again; another tag makes no other version."""

    def version(run, sha256, **tags):
        return Version("pets", "1", run, f"file:///{run}", {"sha256/artifacts/model.onnx": sha256, **tags})

    said, retired, found = [], list[Served](), [version("a", "aa")]
    follower = Follower(
        find=lambda: found[-1],
        load=served,
        retire=retired.append,
        log=lambda event, message, **_: said.append((event, message)),
        seconds=60,
    )
    before = follower.served
    found.append(version("a", "aa", note="checked"))
    follower.look()
    assert follower.served is before
    for again in (version("b", "aa"), version("b", "bb")):
        found.append(again)
        follower.look()
        assert follower.served.version == again
    message = "now serving version 1 as it was registered again under this number"
    assert said == [("version_taken", message)] * 2
    assert [one.version for one in retired] == [version("a", "aa"), version("b", "aa")]


def test_a_log_line_that_cannot_be_written_is_lost_alone(monkeypatch):
    with open("/dev/full", "w") as full:  # noqa: PTH123 - every write is answered with ENOSPC
        monkeypatch.setattr(sys, "stderr", full)
        logs.log("event", "a sentence")
        monkeypatch.undo()
        with pytest.raises(OSError, match="No space left"):
            full.flush()
        buffer: Any = full.buffer
        buffer.raw.close()
    monkeypatch.setattr(sys, "stderr", full)
    logs.log("event", "a sentence")


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """Four old downloads of one model, one of another, and a fifth that has just begun."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    folder = tmp_path / ".darkroom" / "models"
    for path in ["pets/1", "pets/2", "pets/3", "pets/4", "shoes/1", "pets/5"]:
        (folder / path / "artifacts").mkdir(parents=True)
        if path != "pets/5":
            os.utime(folder / path, times=(0, time.time() - FRESH_SECONDS - 1))
    return folder


def test_downloads_go_unless_in_use_or_of_other_models(downloads):
    remove_others(remote("4"), remote("2"))
    kept = sorted(path.relative_to(downloads).as_posix() for path in downloads.glob("*/*"))
    assert kept == ["pets/2", "pets/4", "pets/5", "shoes/1"]


def test_files_of_a_local_store_stay_wherever_they_are(downloads):
    local = [Version("pets", number, None, (downloads / "pets" / number).as_uri(), {}) for number in "42"]
    remove_others(*local)
    assert len(list(downloads.glob("pets/*"))) == 5
