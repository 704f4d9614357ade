"""Find the columns of a table that hold the path, the class and the split of its images."""

import re
from collections.abc import Mapping, Sequence

from darkroom.data.raw.names import is_a_split, split_meant
from darkroom.errors import DataError
from darkroom.project.text import shown

# Without case, spaces, hyphens and underscores: "File Name" is filename.
PATHS = (
    *("path", "file", "filename", "image", "img", "imagepath", "imgpath", "filepath", "imagename", "imgname"),
    *("imagefile", "imageid", "paths", "filepaths", "filenames", "id"),
)
LABELS = (
    *("label", "labels", "class", "category", "target", "choice"),
    *("labelname", "classname", "categoryname", "classlabel", "classes"),
)
SPLITS = ("split", "subset", "set", "usage", "phase", "partition")
_FLAG = re.compile(r"is(valid|val|validation|test|train)")  # a column such as is_valid, as fastai has it
_YES, _NO = {"true", "1", "1.0", "yes"}, {"false", "0", "0.0", "no"}


def find_column(header: Sequence[str], given: str | None, usual: Sequence[str], *, called: str, key: str) -> str:
    """Return the column that the setting `key` of a layout names, or that has the first of the usual names.

    Raises:
        DataError: there is none.
    """
    wanted = [given.strip()] if given else usual
    found = next((name for word in wanted for name in header if (name if given else plain(name)) == word), None)
    if found is None:
        raise DataError(
            f"{called} has no column {' or '.join(wanted[:3])}, only {', '.join(map(shown, header))}; name it with "
            f"`{key}` in the layout"
        )
    return found


def plain(name: str) -> str:
    """Return the name of a column as the usual names are written.

    >>> plain("File Name"), plain("class_label")
    ('filename', 'classlabel')
    """
    return re.sub(r"[\s_-]", "", name.casefold())


def with_split(
    rows: Mapping[int, Mapping[str, str]],
    given: str | None,
    *,
    asked: Sequence[str],
    called: str,
    labelled: bool = True,
) -> tuple[Mapping[int, Mapping[str, str]], str | None]:
    """Return rows and the name of the column with their splits, None if there is none.

    It is the given column, else one with a usual name, all of whose values are splits (see split_meant); a column
    called split is taken whatever it holds. Else columns such as is_train and is_valid are read together, and their
    split is put into the first of them, or the given one; unless one is given, they must leave half of the rows to
    train, because is_valid may also mean that an image is in order.

    Args:
        asked: the columns to choose from.
        labelled: whether another column has the class; without one, is_train beside is_bus is a class.

    Raises:
        DataError: the given column does not exist.
    """
    flags = {name: str(split_meant(plain(name)[2:])) for name in asked if _FLAG.fullmatch(plain(name))}
    flags = {name: split for name, split in flags.items() if _is_yes_or_no(name, rows)}
    if given:
        named: str | None = find_column(list(next(iter(rows.values()))), given, (), called=called, key="split_column")
    else:
        usual = (name for word in SPLITS for name in asked if plain(name) == word)
        named = next((name for name in usual if _holds_splits(name, rows)), None)
        if not labelled and any(
            re.match(r"is[\W_]", name.casefold()) and _is_yes_or_no(name, rows) for name in {*asked} - {*flags}
        ):
            flags = {}
    if not flags or (named and named not in flags):
        return rows, named
    said = _by_flags(rows, flags)
    to_train = [split or "train" for split in said.values()]
    if not named and not (is_a_split(to_train) and 2 * to_train.count("train") >= len(rows)):
        return rows, None
    column = named or next(iter(flags))
    return {line: {**row, column: said[line]} for line, row in rows.items()}, column


def may_say_splits(name: str, *, or_flag: bool) -> bool:
    """Return whether a column has a usual name of one of splits, or of one such as is_valid."""
    return plain(name) in SPLITS or (or_flag and bool(_FLAG.fullmatch(plain(name))))


def _holds_splits(column: str, rows: Mapping[int, Mapping[str, str]]) -> bool:
    values = {row[column].strip() for row in rows.values()} - {""}
    return bool(values) and (plain(column) == "split" or all(map(split_meant, values)))


def _is_yes_or_no(column: str, rows: Mapping[int, Mapping[str, str]]) -> bool:
    return {row[column].strip().casefold() for row in rows.values()} <= {*_YES, *_NO, ""}


def _by_flags(rows: Mapping[int, Mapping[str, str]], flags: Mapping[str, str]) -> dict[int, str]:
    """Return the splits by line from columns such as is_train and is_valid, "" for rows that may be train.

    If two columns claim a row, or is_train and others deny it, this is put into words, which are no split.

    Args:
        flags: the split that each column is about.
    """
    nowhere = f"neither {' nor '.join(flags)}" if len(flags) > 1 else "test"
    denied = nowhere if "train" in flags.values() else ""
    splits: dict[int, str] = {}
    for line, row in rows.items():
        said = {name: row[name].strip().casefold() for name in flags}
        true = {flags[name]: name for name, value in said.items() if value in _YES}
        one = next(iter(true), denied if any(said.values()) else "")
        splits[line] = " and ".join(true.values()) if len(true) > 1 else one
    return splits


def with_label(
    rows: Mapping[int, Mapping[str, str]], columns: Sequence[str], *, called: str
) -> dict[int, dict[str, str]]:
    """Return rows with a column `label` instead of one column of 0 and 1, or of false and true, per class.

    Args:
        columns: the candidates; unless several hold only 0 and 1, or false and true, the rows are returned unchanged.

    Raises:
        DataError: a row has several classes, or none, or another column is beside those of the classes.
    """
    named = [name for name in columns if name]  # pandas writes an index without a name
    classes = [name for name in named if {row[name].strip().casefold() for row in rows.values()} <= _YES | _NO]
    if len(classes) < 2:
        return {line: dict(row) for line, row in rows.items()}
    if others := [name for name in named if name not in classes]:
        raise DataError(
            f"{called} has no column label, but {shown(others[0])} beside 0/1 columns such as {shown(classes[0])}; "
            "name the column with the class with `label_column` in the layout, or leave only path, split and one 0/1 "
            "column per class"
        )
    chosen = {line: [name for name in classes if row[name].strip().casefold() in _YES] for line, row in rows.items()}
    if odd := next((line for line, names in chosen.items() if len(names) != 1), None):
        such = " and ".join(map(shown, chosen[odd])) or "none"
        raise DataError(
            f"{called}, row {odd}: of the classes {', '.join(map(shown, classes))} it has {such}; expected one 1 per "
            "row, or a column with the class, which `label_column` in the layout names"
        )
    others = [name for name in next(iter(rows.values())) if name not in classes]
    return {line: {**{name: row[name] for name in others}, "label": chosen[line][0]} for line, row in rows.items()}
