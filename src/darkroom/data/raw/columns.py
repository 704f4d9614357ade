"""Find the columns of a table that hold the path, the class and the split of its images."""

import re
from collections.abc import Mapping, Sequence

from darkroom.data.raw.names import is_a_split, split_of
from darkroom.errors import DataError
from darkroom.project.text import shown

PATHS = (
    "path",
    "file",
    "filename",
    "file_name",
    "image",
    "img",
    "image_path",
    "filepath",
    "image_name",
    "image_id",
    "id",
)
LABELS = ("label", "labels", "class", "category", "target", "choice")
SPLITS = ("split", "subset", "set")
_OF_SPLIT = re.compile(r"is_?(\w+)")  # a column such as is_valid, as fastai has it
_YES, _NO = {"true", "1", "yes"}, {"false", "0", "no"}
_MOST_SPLITS = 10  # maximum number of different values in a column of splits


def find_column(header: Sequence[str], given: str | None, usual: Sequence[str], *, called: str, key: str) -> str:
    """Return the column that the setting `key` of a layout names, or that has the first of the usual names.

    Raises:
        DataError: there is none.
    """
    wanted = [given.strip()] if given else usual
    found = next((name for word in wanted for name in header if (name if given else name.casefold()) == word), None)
    if found is None:
        raise DataError(
            f"{called} has no column {' or '.join(wanted)}, only {', '.join(map(shown, header))}; name it with `{key}` "
            "in the layout"
        )
    return found


def split_column(
    rows: Mapping[int, Mapping[str, str]], given: str | None, *, asked: Sequence[str], called: str
) -> tuple[str | None, dict[int, dict[str, str]]]:
    """Return the name of the column with the splits, None if there is none, and the values to replace, by line.

    It is the given column, one with a usual name, or else the one whose values are all names of splits.

    Args:
        asked: the columns whose values are looked at.

    Raises:
        DataError: the given column does not exist, or two columns have different splits.
    """
    header = list(next(iter(rows.values())))
    if given:
        return find_column(header, given, (), called=called, key="split_column"), {}
    if usual := next((name for name in header if name.casefold() in SPLITS), None):
        return usual, {}
    found: dict[str, tuple[str, ...]] = {}
    for name in asked:
        values = {row[name] for row in rows.values()} - {""}
        of_value = {value: _meant(name, value) for value in values} if len(values) <= _MOST_SPLITS else {}
        if None not in of_value.values() and is_a_split(of_value.values()):
            found[name] = tuple(of_value.get(row[name]) or "" for row in rows.values())  # "" if the cell is empty
    if len(set(found.values())) > 1:
        both = " and ".join(map(shown, [*found][:2]))
        raise DataError(f"{called}: {both} say different splits; name the right one with `split_column` in the layout")
    if not found:
        return None, {}
    name, splits = next(iter(found.items()))
    return name, {line: {name: split} for line, split in zip(rows, splits, strict=True)}


def _meant(column: str, value: str) -> str | None:
    """Return the split that a value stands for, such as "Training" in Usage or "True" in is_valid, else None."""
    if match := _OF_SPLIT.fullmatch(column.casefold()):
        own, sure = split_of(match[1])
        other = "test" if own == "train" else "train"
        said = value.strip().casefold()
        return own if sure and said in _YES else other if sure and said in _NO else None
    return None if re.search(r"[./\\]", value) else split_of(value)[0]  # train/1.jpg is a path


def with_label(
    rows: Mapping[int, Mapping[str, str]], columns: Sequence[str], *, called: str
) -> dict[int, dict[str, str]]:
    """Return rows with a column `label` instead of one 0/1 column per class.

    Args:
        columns: the candidates; unless all of them hold 0 and 1 only, the rows are returned unchanged.

    Raises:
        DataError: a row has several classes, or none.
    """
    classes = [name for name in columns if name]  # pandas writes an index without a name
    is_coded = all({row[name].strip() for row in rows.values()} <= {"0", "1", "0.0", "1.0"} for name in classes)
    if len(classes) < 2 or not is_coded:
        return {line: dict(row) for line, row in rows.items()}
    chosen = {line: [name for name in classes if row[name].strip().startswith("1")] for line, row in rows.items()}
    if odd := next((line for line, names in chosen.items() if len(names) != 1), None):
        such = " and ".join(map(shown, chosen[odd])) or "none"
        raise DataError(
            f"{called}, row {odd}: of the classes {', '.join(map(shown, classes))} it has {such}; expected one 1 per "
            "row, or a column with the class, which `label_column` in the layout names"
        )
    others = [name for name in next(iter(rows.values())) if name not in classes]
    return {line: {**{name: row[name] for name in others}, "label": chosen[line][0]} for line, row in rows.items()}
