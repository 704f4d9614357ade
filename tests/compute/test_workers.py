import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from darkroom.compute.workers import WorkerDiedError, Workers
from darkroom.errors import DataError, ParamsError

KEPT: list[int] = []


def remember(number: int) -> tuple[int, list[int]]:
    KEPT.append(number)
    return os.getpid(), KEPT


def wait_in(file: Path, seconds: float = 60) -> None:
    file.write_text(str(os.getpid()))
    time.sleep(seconds)


def pid_in(file: Path) -> int:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if file.is_file() and (text := file.read_text()):
            return int(text)
        time.sleep(0.02)
    raise AssertionError(f"no task has begun to write {file}")


def lives(pid: int) -> bool:
    return bool(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)


class OddError(Exception):
    """One that pickle cannot bring back: it would call __init__ with the message alone."""

    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"{detail} ({code})")
        self.lock = threading.Lock()


class PrefixError(Exception):
    """One that pickle brings back with another message."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no {name}")


def fail(how: str) -> None:
    class LocalError(Exception):
        pass

    errors = {
        "ours": DataError("this image is odd"),
        "odd": OddError(7, detail="it broke"),
        "prefix": PrefixError("music"),
        "local": LocalError("of this function"),
        "os": FileNotFoundError(2, "not here", "a.jpg"),
    }
    raise errors[how]


def end(how: str) -> None:
    sys.exit(3) if how == "exit" else os.kill(os.getpid(), signal.SIGKILL)


def grow() -> int:
    KEPT.extend([0] * 50_000_000)  # 400 MB
    time.sleep(1.1)  # loky looks at the memory once a second
    return os.getpid()


def test_a_process_lives_on_between_the_tasks_of_its_place():
    with Workers(2, backend="loky") as workers:
        first, other = workers.submit(0, remember, 1).result(), workers.submit(1, remember, 2).result()
        again = workers.submit(0, remember, 3).result()
    assert first[0] == again[0] != other[0]
    assert again[1] == [1, 3]
    assert other[1] == [2]


def test_a_process_that_grows_is_not_ended_unasked():
    with Workers(1, backend="loky") as workers:
        pids = {workers.submit(0, os.getpid).result(), workers.submit(0, grow).result()}
        assert {workers.submit(0, os.getpid).result()} == pids


def test_a_second_task_of_a_place_waits_for_the_first(tmp_path):
    with Workers(1, backend="loky") as workers:
        slow = workers.submit(0, wait_in, tmp_path / "pid", 0.3)
        pid = workers.submit(0, os.getpid)
        assert pid.result() == pid_in(tmp_path / "pid")
        assert slow.done()


def test_a_process_that_is_killed_breaks_its_own_place_only(tmp_path):
    with Workers(2, backend="loky") as workers:
        other = workers.submit(1, remember, 2).result()[0]
        killed = workers.submit(0, wait_in, tmp_path / "pid")
        os.kill(pid_in(tmp_path / "pid"), signal.SIGKILL)
        with pytest.raises(WorkerDiedError, match=r"^worker 0 died during its task: it ended with SIGKILL\(-9\)"):
            killed.result(timeout=20)
        assert workers.submit(1, os.getpid).result() == other
        assert workers.submit(0, remember, 3).result()[1] == [3]


def test_a_process_that_is_killed_while_idle_is_started_again():
    with Workers(1, backend="loky") as workers:
        pid = workers.submit(0, os.getpid).result()
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:  # it may take a moment until its end is known
            try:
                assert workers.submit(0, os.getpid).result() != pid
                return
            except WorkerDiedError:
                continue
    raise AssertionError("no process was started")


def test_a_place_is_replaced_in_the_middle_of_a_task(tmp_path):
    with Workers(2, backend="loky") as workers:
        stopped = workers.submit(0, wait_in, tmp_path / "pid")
        other = workers.submit(1, wait_in, tmp_path / "other", 1)
        pid = pid_in(tmp_path / "pid")
        before = time.monotonic()
        workers.replace(0)
        assert time.monotonic() - before < 1
        assert stopped.done()
        with pytest.raises(WorkerDiedError, match=r"^worker 0 was stopped during its task$"):
            stopped.result()
        assert not lives(pid)
        assert workers.submit(0, os.getpid).result() != pid
        assert other.result() is None
        workers.replace(1)
        workers.replace(1)


def test_a_place_is_replaced_while_a_large_task_is_on_its_way():
    with Workers(1, backend="loky") as workers:
        task = workers.submit(0, len, bytes(50_000_000))
        workers.replace(0)
        assert task.done()
        assert workers.submit(0, len, bytes(50_000_000)).result() == 50_000_000


def test_a_place_with_waiting_tasks_is_replaced(tmp_path):
    with Workers(1, backend="loky") as workers:
        tasks = [workers.submit(0, wait_in, tmp_path / "pid") for _ in range(5)]
        pid_in(tmp_path / "pid")
        workers.replace(0)
        for task in tasks:
            with pytest.raises(WorkerDiedError, match=r"^worker 0 was stopped during its task$"):
                task.result(timeout=0)


@pytest.mark.parametrize("how", ["normally", "by an error", "by Ctrl-C"])
def test_leaving_stops_running_tasks_at_once(how, tmp_path):
    def use() -> None:
        with Workers(2, backend="loky") as workers:
            futures.append(workers.submit(0, wait_in, tmp_path / "pid"))
            pids.append(workers.submit(1, os.getpid).result())
            pids.append(pid_in(tmp_path / "pid"))
            left.append(time.monotonic())
            if how != "normally":
                raise ValueError if how == "by an error" else KeyboardInterrupt

    futures: list[Any] = []
    pids: list[int] = []
    left: list[float] = []
    if how == "normally":
        use()
    else:
        with pytest.raises((ValueError, KeyboardInterrupt)):
            use()
    assert time.monotonic() - left[0] < 2
    assert not any(lives(pid) for pid in pids)
    with pytest.raises(WorkerDiedError, match=r"worker 0 was stopped"):
        futures[0].result()


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("ours", DataError, "this image is odd"),
        ("odd", OddError, "it broke (7)"),
        ("prefix", PrefixError, "no music"),
        ("os", FileNotFoundError, "[Errno 2] not here: 'a.jpg'"),
    ],
)
def test_an_exception_keeps_its_type_and_message(how, kind, message):
    with Workers(1, backend="loky") as workers:
        before = workers.submit(0, os.getpid).result()
        error = workers.submit(0, fail, how).exception()
        assert error is not None
        assert type(error) is kind
        assert str(error) == message
        assert "in fail" in str(error.__cause__), "where it was raised is known"
        assert workers.submit(0, os.getpid).result() == before


def test_what_cannot_be_sent_is_an_error_of_the_task():
    with Workers(1, backend="loky") as workers:
        local = workers.submit(0, fail, "local").exception()
        assert (type(local).__name__, str(local)) == ("LocalError", "of this function")
        with pytest.raises(TypeError, match=r"cannot pickle '_thread.lock' object"):
            workers.submit(0, threading.Lock).result()
        with pytest.raises(TypeError, match=r"cannot pickle '_thread.lock' object"):
            workers.submit(0, print, threading.Lock())


@pytest.mark.parametrize(("how", "cause"), [("exit", "SystemExit: 3"), ("kill", r"it ended with SIGKILL\(-9\)")])
def test_a_task_that_ends_its_process_does_not_end_this_one(how, cause):
    with Workers(1, backend="loky") as workers:
        with pytest.raises(WorkerDiedError, match=rf"worker 0 died during its task: {cause}"):
            workers.submit(0, end, how).result()
        assert workers.submit(0, remember, 1).result()[1] == [1]


def test_wrong_settings_are_named(monkeypatch):
    with pytest.raises(ParamsError, match=r"^compute.backend is 'threading'; expected loky or ray$"):
        Workers(1, backend="threading")
    wrong: list[Any] = [0, -1, 1.5, True, "all"]
    for n in wrong:
        with pytest.raises(ParamsError, match=rf"^workers is {n!r}; expected auto or an integer of at least 1$"):
            Workers(n, backend="loky")
    with pytest.raises(ParamsError, match=r"^cpus of a worker is 0; expected an integer"):
        Workers(1, backend="loky", cpus=0)
    with pytest.raises(ParamsError, match=r"^gpus of a worker is -0.5; expected a number of at least 0"):
        Workers(1, backend="loky", gpus=-0.5)
    monkeypatch.setitem(sys.modules, "ray", None)
    wanted = r"^compute.backend ray needs the package ray: \.venv/bin/uv pip install -e '\.\[ray\]'$"
    with pytest.raises(ParamsError, match=wanted):
        Workers(1, backend="ray")
    with Workers(1, backend="loky") as workers, pytest.raises(IndexError, match="place 1 of 1"):
        workers.submit(1, os.getpid)
    with pytest.raises(RuntimeError, match="outside their `with`"):
        workers.submit(0, os.getpid)
