import multiprocessing
import re
from datetime import UTC, datetime, timedelta

import pytest

from darkroom.errors import DataError
from darkroom.monitoring.feedback import FeedbackLog, TrueLabel, read_feedback, refusal

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def label(number, name="cat", **more):
    return TrueLabel(f"{number:064x}", name, NOON + timedelta(seconds=number), **more)


def append(folder, first):
    log = FeedbackLog(folder)
    for number in range(first, first + 50):
        log.append([label(number)])


def test_what_was_appended_is_read_back_oldest_first(tmp_path):
    log = FeedbackLog(tmp_path)
    log.append([label(2), TrueLabel("ab-12", "d\u00f6g\u2028", NOON, 3)])
    log.append([label(1)])
    assert read_feedback(tmp_path) == ([TrueLabel("ab-12", "d\u00f6g\u2028", NOON, 3), label(1), label(2)], 0)
    assert read_feedback(tmp_path / "nowhere") == ([], 0)


def test_processes_that_share_a_directory_lose_no_label(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=append, args=(tmp_path, first)) for first in (0, 50, 100)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    labels, n_damaged = read_feedback(tmp_path)
    assert ([int(one.id, 16) for one in labels], n_damaged) == (list(range(150)), 0)


def test_a_line_cut_short_spoils_no_other(tmp_path):
    log = FeedbackLog(tmp_path)
    log.append([label(0)])
    (file,) = (tmp_path / "feedback").iterdir()
    with file.open("ab") as opened:
        opened.write(b'\n{"time": "2026-03-01T12:0')  # a kill, or a full disk, in the middle of it
    assert read_feedback(tmp_path) == ([label(0)], 0), "it may be a write that is going on"
    log.append([label(1)])
    assert read_feedback(tmp_path) == ([label(0), label(1)], 1)


@pytest.mark.parametrize(
    "line", ["[1]", "7", '{"id": "x"}', '{"time": "2026-03-01T12:00:00", "id": "x", "label": "y"}']
)
def test_a_line_of_something_else_is_counted(tmp_path, line):
    (tmp_path / "feedback").mkdir()
    (tmp_path / "feedback" / "x.jsonl").write_text(f"{line}\n")
    assert read_feedback(tmp_path) == ([], 1)


def test_a_disk_that_refuses_is_named(tmp_path):
    (tmp_path / "feedback").write_text("a file where the directory should be")
    with pytest.raises(DataError, match=r"feedback.*\.jsonl: cannot be written: File exists; fix that and run again"):
        FeedbackLog(tmp_path).append([label(0)])


@pytest.mark.parametrize("name", ["cat", "zebra", "d\u00f6g 2", "Cat\u00e9gorie"])
def test_a_class_that_the_model_does_not_know_is_taken(name):
    assert refusal(name, ["cat", "d\u00f6g 2"]) is None


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("CAT", "differs from the class cat in case or Unicode form alone"),
        ("do\u0308g", "differs from the class d\u00f6g in case"),
        ("", "expected the name of a class, 1 to 200 printable"),
        ("x" * 201, "1 to 200 printable"),
        (" cat", "without spaces around"),
        ("a\nb", "printable"),
        ("\ud800", "printable"),
        ("../cat", "without a slash or a dot"),
        (".cat", "without a slash or a dot"),
    ],
)
def test_what_is_no_class_is_refused(name, why):
    assert re.search(why, str(refusal(name, ["cat", "d\u00f6g"])))
