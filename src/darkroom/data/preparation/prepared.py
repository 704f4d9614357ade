"""Turn decoded rows into a finished dataset: rejections, split, duplicates, index and channel statistics."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from darkroom.data.arrays.dataset import SPLIT_CODES, UNUSED, split_sizes
from darkroom.data.arrays.dataset_writer import DatasetWriter
from darkroom.data.preparation.auto import Chosen
from darkroom.data.preparation.completeness import check_classes
from darkroom.data.preparation.corrections import LISTED
from darkroom.data.preparation.rows import Duplicate, Rows
from darkroom.data.preparation.splits import Assignment, Fractions, Images, assign
from darkroom.errors import DataError
from darkroom.files.writing import write_csv
from darkroom.project.text import escaped, shown

if TYPE_CHECKING:
    import pandas as pd

CLASSES_NAMED = 50  # maximum number of classes that are listed with their numbers of images


def check_rejected(rows: Rows, *, limit: float, listed_in: Path) -> None:
    """Check that there are rows and that at most the fraction `limit` of the images was rejected.

    Raises:
        DataError: otherwise; the message names the first rejected images, and the file that lists all.
    """
    if rows.n_images == 0:
        raise DataError("no images to prepare: the dataset and data/incoming are both empty")
    n_rejected = len(rows.rejected)
    if n_rejected == 0 or n_rejected <= limit * rows.n_images:
        return
    first = "; ".join(f"{shown(name)}: {reason}" for name, reason in rows.rejected[:10])
    raise DataError(
        f"{n_rejected} of {rows.n_images} images ({n_rejected / rows.n_images:.1%}) were rejected, more than "
        f"preprocess.max_rejected_fraction ({limit}); fix or delete them, or raise the limit; {listed_in} lists all. "
        f"The first: {first}"
    )


def given_groups(rows: Rows, group_by: str | None) -> np.ndarray:
    """Return the number of each row's group, -1 if it is in none: (n,), int.

    Args:
        group_by: a regular expression with one group in parentheses that is searched in the paths, or the name of a
            column of the label table; None: no groups.

    Raises:
        DataError: the expression matches no path, no image has the column, or the dataset itself puts images of a group
            into two splits.
    """
    if group_by is None:
        return np.full(len(rows), -1)
    texts, numbers = _group_names(rows, group_by), dict[str, int]()
    codes = np.array([numbers.setdefault(text, len(numbers)) if text else -1 for text in texts])
    if not numbers:
        pattern = f"fits no path, such as {shown(rows.names[0])}; correct it"
        column = "is not a column of a label table; a regular expression needs parentheses around what is the group"
        raise DataError(f"preprocess.group_by ({group_by}) {pattern if re.compile(group_by).groups else column}")
    sides: dict[int, set[int]] = {}
    for number, side, incoming in zip(codes.tolist(), rows.official.tolist(), rows.incoming.tolist(), strict=True):
        if number >= 0 and not incoming:
            sides.setdefault(number, set()).add(side)
    if across := [text for text, number in numbers.items() if len(sides.get(number, ())) > 1]:
        raise DataError(
            f"the dataset's own splits share {len(across)} of {len(numbers)} groups of preprocess.group_by (such as "
            f"{', '.join(map(shown, across[:3]))}): the test would be of known ones; put each group into one split"
        )
    return codes


def _group_names(rows: Rows, group_by: str) -> list[str]:
    """Return the name of each row's group, "" if it is in none."""
    pattern = re.compile(group_by)
    if pattern.groups == 0:
        return [row.get(group_by, "") for row in rows.attributes]
    return [match[1] or "" if (match := pattern.search(name)) else "" for name in rows.names]


def split_rows(
    rows: Rows,
    *,
    group_by: str | None,
    near_duplicates: str,
    near_duplicate_bits: int,
    seed: int,
    fractions: Fractions,
) -> Assignment:
    """Return the split of every row; rows with two labels are unused. See splits.assign.

    Raises:
        DataError: see given_groups.
    """
    usable, given = rows.usable, given_groups(rows, group_by)
    found = assign(
        Images(
            ids=rows.ids[usable],
            labels=rows.labels[usable],
            official=rows.official[usable],
            incoming=rows.incoming[usable],
            hashes=rows.hashes[usable],
            groups=given[usable],
        ),
        near_duplicates=near_duplicates,
        near_duplicate_bits=near_duplicate_bits,
        seed=seed,
        fractions=fractions,
    )
    splits = np.full(len(rows), SPLIT_CODES[UNUSED], np.int8)
    groups, near = np.arange(len(rows)), np.arange(len(rows))
    splits[usable], groups[usable], near[usable] = found.splits, usable[found.groups], usable[found.near]
    dropped = [(int(usable[row]), int(usable[of]), reason) for row, of, reason in found.dropped]
    return Assignment(splits, groups, dropped, near)


def check_split(rows: Rows, assignment: Assignment, *, listed_in: Path | str) -> None:
    """Check that every split has every class; see completeness.check_classes.

    Raises:
        DataError: a class is missing.
    """
    check_classes(
        assignment,
        rows.labels,
        classes=rows.classes,
        official_test=rows.official == SPLIT_CODES["test"],
        incoming=rows.incoming,
        listed_in=listed_in,
    )


def duplicates_of(rows: Rows, assignment: Assignment) -> list[Duplicate]:
    """Return every image that is an exact or near copy of another, or shares its group, and what was done about it."""
    labels = [rows.classes[code] for code in rows.labels.tolist()]

    def duplicate(row: int, of: int, kind: str, action: str) -> Duplicate:
        if kind == "near" and labels[row] != labels[of]:
            action += "; the labels differ, so look at both"
        return Duplicate(rows.names[row], rows.names[of], kind, action, labels[row], labels[of])

    found = [duplicate(row, row, "exact", "dropped: same bytes")._replace(source=name) for name, row in rows.repeated]
    found += [duplicate(row, of, "near", f"dropped: {why}") for row, of, why in assignment.dropped]
    split_names = {code: name for name, code in SPLIT_CODES.items()}
    first: dict[tuple[int, int] | int, int] = {}
    for row in np.flatnonzero(assignment.splits != SPLIT_CODES[UNUSED]).tolist():
        group = int(assignment.groups[row])
        near, given = first.setdefault((int(assignment.near[row]), group), row), first.setdefault(group, row)
        of, kind = (near, "near") if near != row else (given, "group")
        if of != row:
            found.append(duplicate(row, of, kind, f"kept: together in {split_names[int(assignment.splits[row])]}"))
    return found


def write_lists(rows: Rows, assignment: Assignment, folder: Path) -> list[Duplicate]:
    """Write duplicates.csv and corrections.csv into folder; return the duplicates."""
    duplicates = duplicates_of(rows, assignment)
    write_csv(folder / "duplicates.csv", Duplicate._fields, duplicates)
    write_csv(folder / "corrections.csv", LISTED, rows.corrections.lines(split_names(assignment)))
    return duplicates


def split_names(assignment: Assignment) -> dict[int, str]:
    """Return the name of the split of every row."""
    names = {code: name for name, code in SPLIT_CODES.items()}
    return {row: names[code] for row, code in enumerate(assignment.splits.tolist())}


def index_of(rows: Rows, assignment: Assignment) -> "pd.DataFrame":
    """Return the index of the dataset, one line per row: the columns below, and those of a label table.

    A column of the table whose name is taken is prefixed with "table_".
    """
    import pyarrow as pa

    hex_ids = pa.array([row.tobytes().hex() for row in rows.ids])
    splits = np.array([*SPLIT_CODES])[assignment.splits]  # -1, unused, is the last
    columns = {
        "row": pa.array(np.arange(len(rows))),
        "id": hex_ids,
        "label": pa.array(rows.classes).take(pa.array(rows.labels)),
        "split": pa.array(splits.tolist()),
        "source": pa.array(rows.names),
        "height": pa.array(rows.sizes[:, 0]),
        "width": pa.array(rows.sizes[:, 1]),
        "group": hex_ids.take(pa.array(assignment.groups)),
        "incoming": pa.array(rows.incoming),
    }
    for name in dict.fromkeys(key for row in rows.attributes for key in row):
        values = pa.array([row.get(name, "") for row in rows.attributes])
        columns[f"table_{name}" if name in columns else name] = values
    index: pd.DataFrame = pa.table(columns).to_pandas()
    return index


def finish_rows(
    rows: Rows, assignment: Assignment, writer: DatasetWriter, *, dataset: str, chosen: Chosen
) -> dict[str, Any]:
    """Write index and manifest, which completes the dataset; return the manifest."""
    mean, std = channel_statistics(rows, assignment, image_shape=writer.image_shape)
    about = {"dataset": dataset, "classes": sorted(rows.classes), **chosen.form.metadata, "mean": mean, "std": std}
    about["official_val"] = bool((rows.official == SPLIT_CODES["val"]).any())
    if rows.corrections.applied:
        about["corrections"] = rows.corrections.summary(split_names(assignment))
    return writer.finish(index=index_of(rows, assignment), manifest={**about, "chosen": chosen.reasons})


def in_words(
    rows: Rows,
    assignment: Assignment,
    manifest: Mapping[str, Any],
    *,
    duplicates: Sequence[Duplicate],
    group_by: str | None,
) -> str:
    """Return the numbers of images per split and class, of rejected and dropped ones, and warnings, in words."""
    counts = ", ".join(f"{split} {size}" for split, size in split_sizes(manifest["counts"]).items())
    dropped = len(rows.repeated) + len(assignment.dropped)
    of_class = np.bincount(rows.labels[assignment.splits != SPLIT_CODES[UNUSED]], minlength=len(rows.classes))
    named = [f"{name} {n}" for name, n in sorted(zip(map(escaped, rows.classes), of_class.tolist(), strict=True))]
    more = [f"and {len(named) - CLASSES_NAMED} more"] if len(named) > CLASSES_NAMED else []
    words = (
        f"{rows.n_images} images: {counts}; {len(rows.rejected)} rejected, {dropped} duplicates dropped; "
        f"{len(named)} classes: {', '.join([*named[:CLASSES_NAMED], *more])}"
    )
    if group_by is not None:
        sizes = np.bincount(given_groups(rows, group_by) + 1)  # the first is of the images in no group
        alone = "1 image" if sizes[0] == 1 else f"{sizes[0]} images"
        words += f"; {len(sizes) - 1} groups by preprocess.group_by, {alone} in none"
    if doubtful := [one for one in duplicates if one.kind == "near" and one.label != one.label_of]:
        n, first = "1 image resembles" if len(doubtful) == 1 else f"{len(doubtful)} images resemble", doubtful[0]
        words += (
            f"; {n} an image of another class (first: {shown(first.source)} is {shown(first.label)}, {shown(first.of)} "
            f"is {shown(first.label_of)}), duplicates.csv lists all"
        )
    if plain := plain_images(rows, image_shape=tuple(manifest["image_shape"])):
        n = "1 image has" if len(plain) == 1 else f"{len(plain)} images have"
        words += f"; {n} one colour throughout (first: {shown(plain[0])})"
    if rows.corrections:
        words += f"; {rows.corrections.in_words(split_names(assignment))}"
    return words


def plain_images(rows: Rows, *, image_shape: tuple[int, int, int]) -> list[str]:
    """Return the names of images of one colour: blank scans, or lost values."""
    totals, squares = rows.sums[:, 0], rows.sums[:, 1]
    same = (squares * (image_shape[0] * image_shape[1]) == totals**2).all(axis=1)
    return [rows.names[row] for row in np.flatnonzero(same).tolist()]


def channel_statistics(
    rows: Rows, assignment: Assignment, *, image_shape: tuple[int, int, int]
) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel, 0 to 255, over all pixels of the train rows; sums are exact."""
    train = rows.sums[assignment.splits == SPLIT_CODES["train"]]
    n_pixels = len(train) * image_shape[0] * image_shape[1]
    mean, std = [], []
    for total, squares in train.sum(axis=0).T.tolist():
        mean.append(total / n_pixels)
        std.append(((squares * n_pixels - total * total) / n_pixels**2) ** 0.5)
    return mean, std
