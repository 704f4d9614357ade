"""Where a study is kept: a journal file, PostgreSQL, a proxy, and what does not answer."""

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from darkroom.errors import SearchError
from darkroom.tuning.storage import read_rows
from tests.support.postgres import Server
from tests.support.studies import a_plan, a_report, a_search, complete


def test_half_a_line_that_a_killed_writer_left_is_cut_off(journal: Path) -> None:
    study = a_search(journal)
    study.ask()
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"worker')
    study.tell(0, complete(0.5))
    assert [row.state for row in a_search(journal).rows()] == ["complete"]


HOLD = """
import sys, time
from pathlib import Path
from darkroom.tuning.storage import _JournalLock
lock = _JournalLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(600)
"""


def test_the_lock_of_a_killed_process_is_free_at_once(journal: Path) -> None:
    study = a_search(journal)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(journal)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    told = threading.Thread(target=study.remember, args=("key", 1), daemon=True)
    told.start()
    holder.kill()
    holder.communicate()
    told.join(timeout=10)
    assert study.attributes["key"] == 1


def test_a_study_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"there is no study in .*none.journal; set tune.trials above 0"):
        read_rows("s", str(tmp_path / "none.journal"))
    a_search(tmp_path / "one.journal")
    with pytest.raises(SearchError, match="there is no study 'other' in .*one.journal"):
        read_rows("other", str(tmp_path / "one.journal"))


@pytest.mark.parametrize("storage", ["postgresql://host:port/db", "nonsense://host/db", "grpc://host"])
def test_what_is_no_url_of_a_storage_is_reported(storage: str) -> None:
    with pytest.raises(SearchError, match=f"{storage}"):
        a_search(storage)


@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "grpc"])
def test_a_storage_that_does_not_answer_is_reported(scheme: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(
        SearchError, match=rf"the tuning storage {scheme}://u:\*\*\*@127.0.0.1:{port}/d does not answer"
    ):
        a_search(f"{scheme}://u:secret@127.0.0.1:{port}/d")


def test_a_silent_storage_is_given_up_within_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(SearchError, match="does not answer"):
        a_search(f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/d")


@pytest.mark.heavy
def test_a_study_in_postgres_is_told_and_continued(postgres: Server) -> None:
    storage, plan = postgres.database("search"), a_plan(pruner="median")
    with a_search(storage, plan=plan) as study:
        study.ask()
        a_report(0, storage).begin("host:1")
        a_report(0, storage).epoch(1, 0.25)
        study.tell(0, complete(0.5))
        study.ask()
    with a_search(storage, plan=plan) as continued:
        assert continued.lose_running() == [1]
        assert [row.state for row in continued.rows()] == ["complete", "killed", "waiting"]
        assert read_rows("s", storage)[0].curve == {1: 0.25}


def wait_for_port(port: int, server: "subprocess.Popen[bytes]") -> None:
    while True:
        assert server.poll() is None, "it has ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)


@pytest.mark.heavy
def test_a_proxy_serves_a_study_of_postgres(postgres: Server, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    serve = (
        "import sys; from optuna.storages import run_grpc_proxy_server as serve; "
        "from darkroom.tuning.storage import open_storage; "
        "serve(open_storage(sys.argv[1], create=True), host='127.0.0.1', port=int(sys.argv[2]))"
    )
    proxy = subprocess.Popen([sys.executable, "-c", serve, postgres.database("proxy"), str(port)])
    try:
        wait_for_port(port, proxy)
        study = a_search(f"grpc://127.0.0.1:{port}")
        study.ask()
        a_report(0, f"grpc://127.0.0.1:{port}").begin("host:1")
        study.tell(0, complete(0.5))
        assert [row.state for row in read_rows("s", postgres.url("proxy"))] == ["complete"]
    finally:
        proxy.kill()
        proxy.wait()
