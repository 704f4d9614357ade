"""Check that a split has every class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from darkroom.data.arrays.dataset import SPLIT_CODES
from darkroom.data.preparation.splits import Assignment
from darkroom.errors import DataError


def check_classes(
    assignment: Assignment,
    labels: np.ndarray,
    *,
    classes: Sequence[str],
    official_test: np.ndarray,
    incoming: np.ndarray,
    listed_in: Path | str,
) -> None:
    """Check that there are two classes, each with images in every split.

    With an official test set, a class that only incoming images have needs recent images instead of test images.

    Args:
        listed_in: the file that lists the near-duplicates.

    Raises:
        DataError: no image, one class only, a class with fewer images than splits, or a split without one of a class.
    """
    splits, used = assignment.splits, assignment.splits != SPLIT_CODES["unused"]
    n_classes = np.count_nonzero(np.bincount(labels[used], minlength=len(classes)))
    if n_classes < 2:
        found = f"only one class, {classes[labels[used][0]]!r}" if n_classes else "no usable images"
        raise DataError(f"found {found}; expected at least two classes with images in each")
    official = bool(official_test.any())
    for code, name in enumerate(classes):
        own = used & (labels == code)
        new = official and bool(np.all(incoming[own]))
        drawn = ("train", "val", *(["recent"] if new else [] if official else ["test"]))
        n_images = int(np.count_nonzero(own & ~official_test))
        if n_images < len(drawn):
            raise DataError(
                f"class {name!r} has {n_images} usable image{'s' * (n_images != 1)} for {len(drawn)} splits "
                f"({', '.join(drawn)}); add images to it or remove the class"
            )
        for split in drawn:
            if not np.any(splits[own] == SPLIT_CODES[split]):
                n_groups = len(np.unique(assignment.groups[own & ~official_test]))
                raise DataError(
                    f"class {name!r} has {n_images} images in {n_groups} group{'s' * (n_groups != 1)} of "
                    f"near-duplicates (or of preprocess.group_by), which stay together, and none is left for {split}; "
                    f"{listed_in} lists them: add images that differ, lower preprocess.near_duplicate_bits, or set "
                    "preprocess.near_duplicates: keep (right for a fixed camera)"
                )
        if official and not new and not np.any(official_test[own]):
            raise DataError(f"class {name!r} has no images in the official test set; add some or remove the class")
