import csv
import errno
import hashlib
import os
import re
from pathlib import Path

import pytest

from darkroom.errors import DataError
from darkroom.files.writing import digest_of, read_csv, replacing, sha256_of, write_csv, write_errors, write_text


def test_a_file_is_replaced_as_a_whole_and_its_folder_made(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "a.json"
    for text in ("ä", "second"):
        write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    with replacing(path) as part:
        part.write_bytes(b"third")
        assert part.suffix == ".json"
        assert path.read_bytes() == b"second"
        with replacing(path) as other:
            other.write_bytes(b"of another process")
    assert path.read_bytes() == b"third"
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_failed_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(error), replacing(path) as part:  # noqa: PT012 - the error must come between the two
        part.write_text("ne")
        raise error
    with pytest.raises(error), replacing(path):
        raise error
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"a.txt": "old"}


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_file_has_the_usual_rights(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a.txt", "")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "out.npy: the disk (or a quota) is full after 3 images: No space left on device; free some"),
        (errno.EACCES, "out.npy: cannot be written after 3 images: Permission denied; fix that and run again"),
    ],
)
def test_only_a_full_disk_asks_for_space(number: int, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)), write_errors(Path("out.npy"), " after 3 images"):
        raise OSError(number, os.strerror(number))


def test_digests_are_those_of_hashlib(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"content").hexdigest()
    assert digest_of(tmp_path / "a", "md5") == hashlib.md5(b"content", usedforsecurity=False).hexdigest()


RUN = ["=1+1", "+A1", "-A1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "-1-1", "=cmd|' /C calc'!A0", "'=1", "''-x"]


@pytest.mark.parametrize("text", RUN)
def test_a_text_that_a_spreadsheet_would_run_is_written_as_text(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.csv"
    write_csv(path, [text, "n"], [[text, -1]])
    with path.open(newline="") as file:
        assert list(csv.reader(file)) == [["'" + text, "n"], ["'" + text, "-1"]]
    assert read_csv(path) == [{text: text, "n": "-1"}]


@pytest.mark.parametrize("value", ["cat", "a\rb", "", "'", "it's", "a=b", " -", "-1", "+1.5e-3", "-.5", -0.5, -1, None])
def test_other_cells_are_written_and_read_as_they_are(tmp_path: Path, value: object) -> None:
    path = tmp_path / "a.csv"
    write_csv(path, ["a", "b"], [["x", value]])
    with path.open(newline="") as file:
        assert file.read().replace('"', "") == f"a,b\nx,{'' if value is None else value}\n"
    assert read_csv(path) == [{"a": "x", "b": "" if value is None else str(value)}]
