"""Write files atomically, report disk errors in one line, compute checksums; standard library only."""

import csv
import errno
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from types import SimpleNamespace
from typing import Any

from darkroom.errors import DataError

FROM_THE_START = "run `dvc repro` from the start"
# Text that spreadsheets run as a formula, after any apostrophes that write_csv added; a signed number is a number.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
CRLF = "\r\n"
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` if no error occurs, so that readers see the old file or the new one.

    The directory is created if it does not exist. The temporary name is unique, so that two processes that write the
    same file do not interfere, and it keeps the ending of `path`.

    >>> with replacing(Path("scores.csv")) as part:
    ...     _ = part.write_text("0.99")
    >>> Path("scores.csv").read_text()
    '0.99'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{token_hex(4)}-{path.name}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8, atomically."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_csv(path: Path, columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file in UTF-8 with a line of column names, atomically.

    Text that a spreadsheet would run as a formula is prefixed with an apostrophe, which spreadsheets read as "this is
    text"; `read_csv` removes it.
    """
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        # csv quotes a carriage return only where lines end with one; an unquoted one would start a new line.
        ending = SimpleNamespace(write=lambda line: file.write(f"{line.removesuffix(CRLF)}\n"))
        writer = csv.writer(ending, lineterminator=CRLF)
        writer.writerows([_as_text(cell) for cell in line] for line in (columns, *lines))


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the lines of a file that `write_csv` wrote, each as column -> text.

    Raises:
        OSError, ValueError: the file is missing, or not UTF-8.
    """
    with path.open(newline="", encoding="utf-8") as file:
        columns, *lines = [[_as_written(cell) for cell in line] for line in csv.reader(file)] or [[]]
    return [dict(zip(columns, line, strict=False)) for line in lines]


def _as_text(cell: Any) -> Any:
    is_run = isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if is_run else cell


def _as_written(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


@contextmanager
def write_errors(path: Path, when: str = "") -> Iterator[None]:
    """Turn an OSError into a DataError that names the path.

    Args:
        path: the file that is written.
        when: appended to the description of the error, with a leading space.

    Raises:
        DataError: the block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            message = f"{path}: the disk (or a quota) is full{when}: {error.strerror}; free some space and run again"
        else:
            message = f"{path}: cannot be written{when}: {error.strerror or error}; fix that and run again"
        raise DataError(message) from error


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file in hex."""
    return digest_of(path, "sha256")


def digest_of(path: Path, algorithm: str) -> str:
    """Return the digest of a file in hex, by an algorithm of hashlib."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def read_json(path: Path, *, remedy: str = FROM_THE_START) -> dict[str, Any]:
    """Return the JSON object that a stage wrote.

    Args:
        remedy: how to recreate the file, for the error.

    Raises:
        DataError: the file is missing or is not a JSON object.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist yet; {remedy}") from None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}); {remedy}") from None


def checksum(path: Path) -> str:
    """Return the sha256 of a file that a stage wrote.

    Raises:
        DataError: the file is missing.
    """
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); {FROM_THE_START}") from None
