"""Find the columns of a table that hold the path, the class and the split of its images."""

import re
from collections.abc import Mapping, Sequence

from darkroom.data.raw.names import is_a_split, split_meant, split_of
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
SPLITS = ("split", "subset", "set")
_OF_SPLIT = re.compile(r"is_?(\w+)")  # a column such as is_valid, as fastai has it
_YES, _NO = {"true", "1", "1.0", "yes"}, {"false", "0", "0.0", "no"}
_MOST_SPLITS = 10  # maximum number of different values in a column of splits


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


def split_column(
    rows: Mapping[int, Mapping[str, str]], given: str | None, *, asked: Sequence[str], called: str
) -> tuple[str | None, dict[int, str]]:
    """Return the name of the column with the splits, None if there is none, and the splits to put there, by line.

    It is the given column, one with a usual name, or else the one whose values are all names of splits. Columns such as
    is_train and is_valid count as one; rows in which only `train` can be meant have no split.

    Args:
        asked: the columns to choose from if none is given.

    Raises:
        DataError: the given column does not exist, two columns have different splits, or a row is in two.
    """
    header = list(next(iter(rows.values())))
    named = find_column(header, given, (), called=called, key="split_column") if given else None
    if named := named or next((name for name in asked if plain(name) in SPLITS), None):
        if _is_flag(named, rows):
            return named, _by_flags(rows, [named], called=called)
        meant = {value: split_meant(value) for value in {row[named] for row in rows.values()}}
        return named, {line: split for line, row in rows.items() if (split := meant[row[named]])}
    found: dict[str, dict[int, str]] = {}
    flags = [name for name in asked if _is_flag(name, rows)]
    said = _by_flags(rows, flags, called=called) if flags else {}
    if is_a_split([split or "train" for split in said.values()]):
        found[flags[0]] = said
    for name in asked:
        values = {row[name] for row in rows.values()} - {""}
        of_value = {value: split_meant(value) for value in values} if len(values) <= _MOST_SPLITS else {}
        if None not in of_value.values() and is_a_split(of_value.values()):
            found[name] = {line: of_value.get(row[name]) or "" for line, row in rows.items()}  # "" if it is empty
    if len({tuple(split or "train" for split in splits.values()) for splits in found.values()}) > 1:
        both = " and ".join(map(shown, [*found][:2]))
        raise DataError(f"{called}: {both} say different splits; name the right one with `split_column` in the layout")
    return next(iter(found.items()), (None, {}))


def _is_flag(column: str, rows: Mapping[int, Mapping[str, str]]) -> bool:
    """Return whether a column such as is_valid says of each row whether it is in this split."""
    match = _OF_SPLIT.fullmatch(column.casefold())
    if match is None or not split_of(match[1])[1]:
        return False
    return {row[column].strip().casefold() for row in rows.values()} <= {*_YES, *_NO, ""}


def _by_flags(rows: Mapping[int, Mapping[str, str]], columns: Sequence[str], *, called: str) -> dict[int, str]:
    """Return the splits by line from columns such as is_train and is_valid, "" for rows that may be train.

    Raises:
        DataError: a row is in two splits, or there is a column for each split and it is in none.
    """
    own = {name: str(split_of(name.casefold().removeprefix("is"))[0]) for name in columns}
    rest = next((split for split in ("train", "test", "val") if split not in own.values()), None)
    splits: dict[int, str] = {}
    for line, row in rows.items():
        said = {name: row[name].strip().casefold() for name in columns}
        true = {own[name] for name, value in said.items() if value in _YES}
        is_out = not true and any(said.values())  # not an empty row
        if len(true) > 1 or (is_out and rest is None):
            raise DataError(
                f"{called}, row {line} is in {'two splits' if true else 'no split'} by {', '.join(map(shown, own))}; "
                "correct it, or name the column with the split with `split_column` in the layout"
            )
        splits[line] = true.pop() if true else rest if is_out and rest and rest != "train" else ""
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
