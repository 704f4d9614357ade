"""Open a directory, an archive or a label table as `download` will, and find its layout."""

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from darkroom.data.raw.listing import Listing, listing_of_archive, listing_of_files, unreadable, walk
from darkroom.data.raw.names import is_document, split_of
from darkroom.data.raw.shards import holds_images, is_shard
from darkroom.data.raw.tables import SUFFIXES, BesideSplitsError
from darkroom.errors import DataError
from darkroom.files.archives import open_archive
from darkroom.inspection.groups import is_group_name
from darkroom.inspection.label_tables import better, label_tables, largest
from darkroom.inspection.paths import (
    directories_in_classes,
    directories_without_classes,
    hidden_classes,
    lie_in_classes,
    lists_of_splits,
    other_classes,
)
from darkroom.inspection.reading import (
    EXPORT,
    SPREADSHEETS,
    Source,
    entries_of,
    files_of,
    layout_of_table,
    read_with,
    reason_of,
)
from darkroom.project.text import escaped, shown

_MEASURED, _MANY = re.compile(r"[+-]?\d+\.\d+(e[+-]?\d+)?", re.IGNORECASE), 10  # classes that are numbers


@contextmanager
def opened(path: Path, *, layout: Mapping[str, Any] | None, max_archive_bytes: int) -> Iterator[Source]:
    """Yield the dataset at a path.

    Args:
        path: a directory, zip or tar, or a label table whose paths are relative to its directory.
        layout: keys of a layout from the user; None: detected.
        max_archive_bytes: see open_archive.

    Raises:
        DataError: the path does not exist, or no layout fits.
    """
    if not path.exists():
        raise DataError(f"no such file or directory: {escaped(str(path))}")
    if not path.is_dir() and (reason := unreadable(path)):
        raise DataError(f"cannot read {escaped(str(path))}: {reason}")
    suffix = path.suffix.casefold() if path.is_file() else ""
    if suffix in SPREADSHEETS:
        raise DataError(f"{path} is a spreadsheet; save it as CSV and give that")
    one = listing_of_files(path, [(path.name, path, False)])
    if suffix in SUFFIXES and holds_images(one, 0):
        yield _source(one, layout, max_archive_bytes)
        return
    if suffix in (*SUFFIXES, EXPORT):
        layout = {**layout_of_table(one, 0), **(layout or {})}
        path = path.absolute().parent
    if path.is_dir():
        yield _source(listing_of_files(path, list(walk(path))), layout, max_archive_bytes)
        return
    with open_archive(path, max_archive_bytes=max_archive_bytes) as archive:
        yield _source(listing_of_archive(archive), layout, max_archive_bytes)


def _source(listing: Listing, layout: Mapping[str, Any] | None, max_archive_bytes: int) -> Source:
    read = partial(read_with, listing, max_archive_bytes)
    return _found_out(listing, read) if layout is None else read(layout)


def _found_out(listing: Listing, read: Callable[[Mapping[str, Any]], Source]) -> Source:
    """Return the dataset with the first layout that fits: a table, unless the directories say as much.

    Raises:
        DataError: no layout fits.
    """
    shards = [
        n for n, (name, is_dir) in entries_of(listing) if not is_dir and is_shard(name) and holds_images(listing, n)
    ]
    others = [name for name in files_of(listing) if not is_document(name)]
    if shards and not others:
        return _by_shards(listing, read, shards)
    tables, refused, why_not = label_tables(listing, without=shards)
    unused = [f"not used: {shown(name)}; {reason_of(error, listing)}" for name, error in refused.items()]
    beside = next((error for error in refused.values() if isinstance(error, BesideSplitsError)), None)
    try:
        by_folders = read({"kind": "folders"})
    except DataError as error:
        if tables:
            chosen = largest(tables, read)
            return _with_notes(chosen._replace(notes=[*chosen.notes, *unused]))
        if shards:
            note = f"only the shards are used; {shown(min(others))} and other files are left out"
            try:
                found = _by_shards(listing, read, shards)
                return found._replace(notes=[note, *found.notes])
            except DataError as no_shards:
                why_not.append(reason_of(no_shards, listing))
        if beside:
            raise beside from None
        if refused:  # without some of the directories, others may only seem to be classes
            reasons = [reason_of(one, listing) for one in (*refused.values(), error)]
            raise DataError(f"{listing.where}: {'; '.join(reasons)}") from None
        if rest := _without_unlabelled(listing, read):
            return rest
        how = "; give keys of the layout with --layout, such as --layout 'level: 2'" if "layout" in str(error) else ""
        raise DataError("; ".join([f"{error}{how}", *other_classes(files_of(listing)), *why_not])) from None
    if beside and not tables:
        raise beside
    try:
        found = better(by_folders, largest(tables, read)) if tables else by_folders
    except DataError as error:
        found = by_folders._replace(notes=[f"not used: the label tables; {reason_of(error, listing)}"])
    found = _with_notes(found._replace(notes=[*found.notes, *unused]))
    more = [f"{shown(listing.names[n][0])} holds images, too, and is not used" for n in shards[:1]]
    return found._replace(notes=[*found.notes, *more])


def _by_shards(listing: Listing, read: Callable[[Mapping[str, Any]], Source], shards: Sequence[int]) -> Source:
    """Return the dataset by its shards, without parquet files that hold no images."""
    names = {listing.names[number][0] for number in shards}
    without = {name for name in files_of(listing) if is_shard(name)} - names
    skip = sorted({*map(posixpath.basename, without)} - {part for name in names for part in name.split("/")})
    if not skip:
        return read({"kind": "parquet"})
    found = read({"kind": "parquet", "skip": skip})
    return found._replace(notes=[f"{' and '.join(map(shown, skip))} left out: no images in it"])


def _with_notes(source: Source) -> Source:
    """Return a dataset with notes about files that are left out and about other possible layouts."""
    files = [name for name in files_of(source.listing) if not is_document(name)]
    notes = list(source.notes)
    if source.layout["kind"] != "folders":
        placed = {source.listing.names[image.number][0] for image in source.placed}
        if left := sorted(set(files) - placed):
            n = "1 file is" if len(left) == 1 else f"{len(left)} files are"
            notes.append(f"{n} named in no row and left out, such as {shown(left[0])}")
    elif inner := directories_in_classes(source.placed):
        notes.append(
            f"directories inside the classes, such as {shown(inner)}, belong to them; if these are the classes, use "
            f"--layout 'level: {inner.count('/') + 1}'"
        )
    labels = {image.label for image in source.placed}
    if len(labels) >= _MANY and all(map(_MEASURED.fullmatch, labels)):
        notes.append(f"classes such as {shown(max(labels))} look like measurements; each value is a class of its own")
    if all(map(is_group_name, labels)):
        notes.append(f"classes such as {shown(min(labels))} look like groups; if so, use a label table for the classes")
    if source.layout["kind"] == "folders" and (hidden := hidden_classes(source.listing, source.placed)):
        notes.append(f"{shown(hidden[0])} is hidden and left out; rename it if it is a class")
    if not any(image.split for image in source.placed) and (lists := _lists_of_splits(source)):
        notes.append(f"{shown(lists[0])} may list a split, which is not read; a label table with a column split is")
    return source._replace(notes=notes)


def _lists_of_splits(source: Source) -> list[str]:
    """Return the files that may list a split and were not read."""
    files = files_of(source.listing)
    if source.layout["kind"] != "folders":  # a test.csv beside a train.csv names images without labels
        files = [name for name in files if name.casefold().endswith(".txt")]
    return lists_of_splits(files)


def _without_unlabelled(listing: Listing, read: Callable[[Mapping[str, Any]], Source]) -> Source | None:
    """Return the dataset without directories of unlabelled images and of masks, None if it still does not fit."""
    skip = directories_without_classes(files_of(listing))
    for left_out in [*([name] for name in skip), *([skip] if len(skip) > 1 else [])]:
        with suppress(DataError):
            found = read({"skip": left_out})
            if all(split_of(image.label)[0] for image in found.placed):  # 1_train beside 1_test
                continue
            if any(split_of(name)[1] and lie_in_classes(name, files_of(listing), found.placed) for name in left_out):
                continue
            return found._replace(notes=[f"{' and '.join(map(shown, left_out))} left out: no images of classes"])
    return None
