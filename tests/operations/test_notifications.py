import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from darkroom.operations import notifications
from darkroom.operations.triggers import Trigger

REPORT: dict[str, Any] = {
    "decision": "promoted",
    "registered_model": "pets",
    "reasons": ["98.0 % against 96.0 %."],
    "version_before": "2",
    "version_after": "3",
    "error": None,
}
SAID = "Retraining of pets: promoted. Champion: 2 -> 3. 98.0 % against 96.0 %."


@contextmanager
def listener(statuses: list[int]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that answers with these statuses, the last one again and again; yield its URL and what it got.

    Under /slack and /discord it refuses as those do: a message without text, or with more than they take.
    """
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            field, longest = {"/slack": ("text", 40_000), "/discord": ("content", 2_000)}.get(self.path, ("event", 99))
            refused = not 1 <= len(got[-1].get(field, "")) <= longest
            self.send_response(400 if refused else statuses[min(len(got), len(statuses)) - 1])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/hook/secret", got
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _no_webhook_of_the_machine(monkeypatch):
    monkeypatch.delenv(notifications.WEBHOOK, raising=False)


def send(tmp_path, *, command=None, webhook=None, timeout=5.0):
    return notifications.notify("promoted", REPORT, command=command, webhook=webhook, timeout=timeout, root=tmp_path)


def test_a_command_gets_the_report_and_the_event(tmp_path):
    told = send(tmp_path, command='cat > got.json; echo "$DARKROOM_EVENT" > event')
    assert told == [{"to": "command", "sent": True, "error": None}]
    assert json.loads((tmp_path / "got.json").read_text()) == {"event": "promoted", **REPORT}
    assert (tmp_path / "event").read_text() == "promoted\n"


def test_a_command_that_fails_or_hangs_raises_nothing(tmp_path):
    assert send(tmp_path, command="echo no mail today >&2; exit 3")[0]["error"] == "exit code 3: no mail today"
    assert send(tmp_path, command="exec sleep 60", timeout=0.2)[0]["error"] == "not finished after 0.2 s"


def test_a_webhook_gets_the_report(tmp_path):
    with listener([200]) as (url, got):
        told = send(tmp_path, webhook=url)
    assert told == [{"to": "webhook 127.0.0.1", "sent": True, "error": None}]
    assert got == [{"text": SAID, "content": SAID, "event": "promoted", **REPORT}]


def test_a_webhook_is_asked_again_twice(tmp_path):
    with listener([503, 200]) as (url, got):
        assert send(tmp_path, webhook=url)[0]["sent"]
    assert len(got) == 2
    with listener([500]) as (url, got):
        assert send(tmp_path, webhook=url)[0]["error"] == "HTTP 500"
    assert len(got) == 3


@pytest.mark.parametrize("chat", ["slack", "discord"])
@pytest.mark.parametrize("error", [None, "long " * 1000])
def test_a_chat_gets_a_sentence_that_it_takes(tmp_path, chat, error):
    report = {**REPORT, "error": error}
    with listener([200]) as (url, got):
        webhook = url.replace("hook/secret", chat)
        (told,) = notifications.notify("failed", report, command=None, webhook=webhook, timeout=5, root=tmp_path)
    assert (told["sent"], len(got)) == (True, 1)
    assert got[0]["text"].startswith("Retraining of pets: failed. Champion: 2 -> 3.")


@pytest.mark.parametrize(
    ("decision", "called", "error", "event", "told"),
    [
        ("unchanged", "new_images", None, "unchanged", False),
        ("unchanged", "drift", None, "unchanged", True),
        ("unchanged", "drift", "not pushed", "failed", True),
        ("nothing", None, None, "nothing", False),
        ("nothing", None, "not pushed", "failed", True),
        ("promoted", "new_images", "not pushed", "promoted", True),
        ("failed", "new_images", "no disk", "failed", True),
        ("locked", "drift", "another DVC command", "locked", False),
    ],
)
def test_the_event_says_what_became_of_the_model(decision, called, error, event, told):
    called_by = [asdict(Trigger(called, True, ""))] if called else []
    report = {"decision": decision, "error": error, "triggers": called_by}
    assert notifications.event_of(report) == event
    assert notifications.is_told(event, report, heartbeat=False) == told
    assert notifications.is_told(event, report, heartbeat=True)


def test_a_report_in_words_names_what_is_known():
    failed = {**REPORT, "version_before": None, "version_after": None, "reasons": [], "error": "no disk"}
    assert notifications.in_words("failed", failed) == "Retraining of pets: failed. Champion: none. Error: no disk."
    kept = {**REPORT, "version_after": "2"}
    assert notifications.in_words("awaiting_approval", kept).startswith(
        "Retraining of pets: awaiting approval. Champion: 2."
    )


def test_an_address_in_the_environment_is_used_and_never_shown(tmp_path, monkeypatch):
    monkeypatch.setenv(notifications.WEBHOOK, "http://127.0.0.1:1/hook/secret")
    told = send(tmp_path)
    assert told == [{"to": "webhook 127.0.0.1", "sent": False, "error": "ConnectionError"}]


def test_nobody_is_told_where_nobody_is_named(tmp_path):
    assert send(tmp_path) == []
