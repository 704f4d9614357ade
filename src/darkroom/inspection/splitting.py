"""Split images as `preprocess` would, with suitable settings for near-duplicates and groups."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from darkroom.data.preparation import prepared
from darkroom.data.preparation.params import PreprocessParams
from darkroom.data.preparation.rows import Duplicate, Rows
from darkroom.data.preparation.splits import Assignment, Fractions
from darkroom.errors import DataError
from darkroom.inspection.groups import Proposal, propose

FIXED_CAMERA = 0.5  # share of a class in one group of near-duplicates; a larger one shares a background, not an image


class Split(NamedTuple):
    """A split and how it was made.

    Attributes:
        assignment: of every row.
        near_duplicates, group_by: the settings.
        proposal: the most plausible grouping of the images.
        near: images that resemble another one.
        problem: why `preprocess` would refuse it, else None.
        warning: a remark for the user, or None.
    """

    assignment: Assignment
    near_duplicates: str
    group_by: str | None
    proposal: Proposal | None
    near: list[Duplicate]
    problem: str | None
    warning: str | None


def split(rows: Rows, *, params: PreprocessParams, listed_in: Path | str) -> Split:
    """Return the split with near-duplicates together, unless a fixed camera makes all images alike.

    Args:
        rows: of all images.
        params: seed, fractions and settings of near-duplicates.
        listed_in: the file that lists near-duplicates, or how to get one, for messages.
    """

    def tried(near_duplicates: str, group_by: str | None) -> tuple[Assignment, str | None]:
        assignment = prepared.split_rows(
            rows,
            group_by=group_by,
            near_duplicates=near_duplicates,
            near_duplicate_bits=params.near_duplicate_bits,
            seed=params.seed,
            fractions=Fractions(val=params.val_fraction, test=params.test_fraction, recent=params.recent_fraction),
        )
        try:
            prepared.check_split(rows, assignment, listed_in=listed_in)
        except DataError as error:
            return assignment, str(error)
        return assignment, None

    near_duplicates, group_by, warning = "group", None, None
    assignment, problem = tried(near_duplicates, None)
    near = [one for one in prepared.duplicates_of(rows, assignment) if one.kind == "near"]
    if problem and _fixed_camera(rows, assignment):
        apart, still = tried("keep", None)
        if still is None:
            near_duplicates, assignment, problem = "keep", apart, None
    labels = [rows.classes[code] for code in rows.labels.tolist()]
    proposal = propose(rows.names, labels, rows.attributes) if labels else None
    if proposal and proposal.is_certain:
        try:
            grouped, why_not = tried(near_duplicates, proposal.group_by)
        except DataError as error:  # the splits of the dataset share groups
            grouped, why_not = assignment, str(error)
        if why_not is None:
            assignment, group_by, problem = grouped, proposal.group_by, None
        else:
            warning = f"groups such as {proposal.example} by {proposal.group_by} are not kept together: {why_not}"
    return Split(assignment, near_duplicates, group_by, proposal, near, problem, warning)


def _fixed_camera(rows: Rows, assignment: Assignment) -> bool:
    """Return whether one group of near-duplicates holds most of a class."""
    sizes = Counter(rows.labels.tolist())
    groups = Counter(zip(rows.labels.tolist(), assignment.groups.tolist(), strict=True))
    return any(n > 1 and n > FIXED_CAMERA * sizes[code] for (code, _), n in groups.items())
