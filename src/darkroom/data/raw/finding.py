"""Find the files that a label table names, however it writes their paths."""

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import PurePosixPath
from typing import NamedTuple

from darkroom.data.raw.names import BESIDE_IMAGES, is_document, is_litter, split_of, words
from darkroom.errors import DataError
from darkroom.project.text import shown

_TRIED = 100  # paths that are tried to find the directories that may hold all of them
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")


class Found(NamedTuple):
    """The positions of the files in the listing by line of the table, and the names of missing files."""

    numbers: dict[int, int]
    absent: list[str]


class Files:
    """The files of a dataset by name; Unicode forms of a name are equal, and an image's suffix may be left out."""

    def __init__(self, names: Iterable[tuple[str, bool]]) -> None:
        self._numbers: dict[str, int] = {}
        self._stems: dict[str, list[int]] = {}
        self._holders: dict[str, list[str]] = {}
        for number, (name, is_dir) in enumerate(names):
            if is_dir:
                continue
            self._numbers[_form(name)] = self._numbers[name] = number
            if not is_document(name) and not any(map(is_litter, name.split("/"))):
                stem = str(PurePosixPath(_form(name)).with_suffix(""))
                self._stems.setdefault(stem, []).append(number)
                folder, last = posixpath.split(_form(name))
                for one in {last, posixpath.basename(stem)}:
                    self._holders.setdefault(one, []).append(folder)

    def number(self, path: str) -> int | None:
        """Return the position of a file, None if none has this name, or several that differ only in the suffix."""
        found = self._numbers.get(path, self._numbers.get(_form(path)))
        if found is None and len(alike := self._stems.get(_form(path), [])) == 1:
            return alike[0]
        return found

    def directories(self, path: str, *, split: str | None) -> list[str]:
        """Return the directories to which this path of a file is relative, "" for the top.

        Those of masks are left out, and those of another split if one is given.
        """
        above, last = posixpath.split(_form(path))
        end = f"/{above}" if above else ""
        holders = (folder for folder in self._holders.get(last, ()) if f"/{folder}".endswith(end))
        found = dict.fromkeys(f"/{folder}".removesuffix(end).strip("/") for folder in holders)
        return [
            folder
            for folder in found
            if not any(map(BESIDE_IMAGES.fullmatch, words(folder))) and not _is_of_another_split(folder, split)
        ]


def find(
    paths: Mapping[int, str], files: Files, *, called: str, folder: str, split: str | None, exported: bool
) -> Found:
    """Return the files that a table names, by line.

    Paths are relative to the directory of the table, to the top of the dataset, or to the only directory that holds
    them all; otherwise each of them must exist exactly once in the dataset.

    Args:
        paths: by line, with "/" between their parts.
        called: the table's name in errors.
        folder: the directory of the table.
        split: what the name of the table says; directories of another split are searched only if no other holds the
            images, and never for train: val.csv may name images in train, but train.csv none in test.
        exported: whether paths may be those of another machine, see _spellings.

    Raises:
        DataError: two directories hold all of them.
    """
    for start in (folder, ""):
        if not (found := below(start, paths, files)).absent:
            return found
    spellings = list(_spellings(paths)) if exported else [paths]
    for spelled in spellings:
        if elsewhere := _in_one_directory(spelled, files, called=called, split=split) or _scattered(
            spelled, files, split=split
        ):
            return elsewhere
    for spelled in spellings if split not in (None, "train") else ():
        if elsewhere := _in_one_directory(spelled, files, called=called, split=None):
            return elsewhere
    return below(folder, paths, files)


def _spellings(paths: Mapping[int, str]) -> Iterator[dict[int, str]]:
    """Yield paths of another machine with more and more of their common leading directories removed.

    Finally, without the prefix that Label Studio adds to the names of uploaded files. A directory called after a split
    is kept, so that train/1.jpg is never test/1.jpg.
    """
    parts = {line: path.strip("/").split("/") for line, path in paths.items()}
    for n in range(max(map(len, parts.values()))):
        if n and any(split_of(name)[1] for name in {of_path[n - 1] for of_path in parts.values() if len(of_path) >= n}):
            return
        yield {line: "/".join(of_path[min(n, len(of_path) - 1) :]) for line, of_path in parts.items()}
    yield {line: _UPLOADED.sub("", of_path[-1]) for line, of_path in parts.items()}


def below(start: str, paths: Mapping[int, str], files: Files) -> Found:
    """Return the files by paths relative to this directory."""
    numbers, absent = {}, []
    for line, path in paths.items():
        name = posixpath.normpath(posixpath.join(start, path))
        number = files.number(name)
        if number is None:
            absent.append(name)
        else:
            numbers[line] = number
    return Found(numbers, absent)


def _in_one_directory(paths: Mapping[int, str], files: Files, *, called: str, split: str | None) -> Found | None:
    """Return the files by paths relative to the only directory that holds them all; None if none does."""
    tried = list(islice(paths.values(), _TRIED))
    holding = Counter(folder for path in tried for folder in files.directories(path, split=split))
    likely = [folder for folder, n in holding.items() if n == len(tried)]
    found = {folder: whole for folder in likely if not (whole := below(folder, paths, files)).absent}
    if len(found) > 1:
        both = " and in ".join(map(shown, sorted(found)[:2]))
        raise DataError(f"{called} names images that are in {both}; set `root` in the layout to the right one")
    return next(iter(found.values()), None)


def _is_of_another_split(folder: str, split: str | None) -> bool:
    if split in (None, "eval"):
        return False
    said = {one for one, sure in map(split_of, folder.split("/")) if sure}
    return bool(said) and not said & {split, "eval"}  # eval may be val or test


def _scattered(paths: Mapping[int, str], files: Files, *, split: str | None) -> Found | None:
    """Return the files if every path exists in exactly one directory, else None."""
    numbers = {}
    for line, path in paths.items():
        folders = files.directories(path, split=split)
        number = files.number(posixpath.join(folders[0], path)) if len(folders) == 1 else None
        if number is None:
            return None
        numbers[line] = number
    return Found(numbers, [])


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)
