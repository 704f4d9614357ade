"""From decoded rows to a finished dataset: rejections, split, duplicates, index and channel statistics."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from darkroom.data.arrays.dataset import SPLIT_CODES, UNUSED, class_balance, split_sizes
from darkroom.data.arrays.dataset_writer import DatasetWriter
from darkroom.data.preparation.auto import Form
from darkroom.data.preparation.splits import Assignment, Fractions, assign, check_classes
from darkroom.errors import DataError
from darkroom.project.text import shown

if TYPE_CHECKING:
    import pandas as pd

from darkroom.data.preparation.rows import Duplicate, Rows


def check_rejected(rows: Rows, *, limit: float, listed_in: Path) -> None:
    """Refuse rows of which there are none at all, or of whose images more than the fraction `limit` is rejected.

    Raises:
        DataError: names the first rejected images, and the file that lists all.
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


def split_rows(
    rows: Rows, *, near_duplicates: str, near_duplicate_bits: int, seed: int, fractions: Fractions
) -> Assignment:
    """Return the split of every row; rows with two labels are unused. See splits.assign."""
    usable = rows.usable
    found = assign(
        ids=rows.ids[usable],
        labels=rows.labels[usable],
        official_test=rows.official_test[usable],
        incoming=rows.incoming[usable],
        hashes=rows.hashes[usable],
        near_duplicates=near_duplicates,
        near_duplicate_bits=near_duplicate_bits,
        seed=seed,
        fractions=fractions,
    )
    splits = np.full(len(rows), SPLIT_CODES[UNUSED], np.int8)
    groups = np.arange(len(rows))
    splits[usable], groups[usable] = found.splits, usable[found.groups]
    dropped = [(int(usable[row]), int(usable[of]), reason) for row, of, reason in found.dropped]
    return Assignment(splits, groups, dropped)


def check_split(rows: Rows, assignment: Assignment, *, listed_in: Path) -> None:
    """Refuse a split that lacks a class. See splits.check_classes.

    Raises:
        DataError: names the class, and the file that lists the near-duplicates.
    """
    check_classes(
        assignment,
        rows.labels,
        classes=rows.classes,
        official_test=rows.official_test,
        incoming=rows.incoming,
        listed_in=listed_in,
    )


def duplicates_of(rows: Rows, assignment: Assignment) -> list[Duplicate]:
    """Return every image that repeats another, exactly or nearly, and what was done about it."""
    names = rows.names
    found = [Duplicate(name, names[row], "exact", "dropped: same bytes") for name, row in rows.repeated]
    found += [Duplicate(names[row], names[of], "near", f"dropped: {why}") for row, of, why in assignment.dropped]
    split_names = {code: name for name, code in SPLIT_CODES.items()}
    first: dict[int, int] = {}
    for row in np.flatnonzero(assignment.splits != SPLIT_CODES[UNUSED]).tolist():
        of = first.setdefault(int(assignment.groups[row]), row)
        if of != row:
            action = f"kept: together in {split_names[int(assignment.splits[row])]}"
            found.append(Duplicate(names[row], names[of], "near", action))
    return found


def index_of(rows: Rows, assignment: Assignment) -> "pd.DataFrame":
    """Return the index of the dataset, one line per row, with the columns below."""
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
    index: pd.DataFrame = pa.table(columns).to_pandas()
    return index


def finish_rows(
    rows: Rows, assignment: Assignment, writer: DatasetWriter, *, dataset: str, form: Form
) -> dict[str, Any]:
    """Write index and manifest of the dataset, which makes it whole; return the manifest."""
    mean, std = channel_statistics(rows, assignment, image_shape=writer.image_shape)
    about = {"dataset": dataset, "classes": sorted(rows.classes), "color": form.color, "mean": mean, "std": std}
    return writer.finish(index=index_of(rows, assignment), manifest={**about, "chosen": form.reasons})


def in_words(rows: Rows, assignment: Assignment, manifest: Mapping[str, Any]) -> str:
    """Return one line with the number of images per split, rejected and dropped."""
    counts = ", ".join(f"{split} {size}" for split, size in split_sizes(manifest["counts"]).items())
    dropped = len(rows.repeated) + len(assignment.dropped)
    return (
        f"{rows.n_images} images: {counts}; {len(rows.rejected)} rejected, {dropped} duplicates dropped; "
        f"classes have {class_balance(manifest['counts']['train'])}"
    )


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
