"""Write findings in words, as JSON, and as a sheet of images and lists."""

import json
import math
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

from darkroom.data.arrays.dataset import SPLITS
from darkroom.data.preparation.prepared import duplicates_of
from darkroom.data.preparation.rows import Duplicate
from darkroom.files.writing import write_csv
from darkroom.inspection.findings import SHEET_IMAGES, Findings, thumbnails
from darkroom.project.text import escaped, shown

SHEET = "images.png"
NAMED = 5  # maximum number of examples
CLASSES_NAMED = 50
USUAL, Z = 0.9, 1.96  # an example of an accuracy, and the quantile of its 95 % interval
IMBALANCED = 1.5  # times as many images in the largest class as in the smallest


def facts(found: Findings) -> dict[str, Any]:
    """Return the findings as plain values; see in_words."""
    rows = found.rows
    labels = dict(zip(rows.names, (rows.classes[code] for code in rows.labels.tolist()), strict=True))
    return {
        "source": str(found.source.listing.where),
        "layout": found.source.layout,
        "n_images": rows.n_images,
        "n_decoded": len(found.decoded),
        "classes": found.counts(),
        "splits": {split: n for split in SPLITS if (n := sum(found.counts(split).values()))},
        "own_splits": sorted({seen.image.split for seen in found.seen if seen.image.split}),
        "formats": dict(Counter(seen.header.kind for seen in found.seen if seen.header).most_common()),
        "shorter_side": _spread([min(seen.header.height, seen.header.width) for seen in found.seen if seen.header]),
        "rejected": [{"source": name, "reason": reason} for name, reason in rows.rejected],
        "exact_duplicates": [one for one, _ in rows.repeated],
        "near_duplicates": [[one.source, one.of] for one in found.split.near],
        "near_duplicates_of_two_classes": [
            [f"{one.source} ({labels[one.source]})", f"{one.of} ({labels[one.of]})"]
            for one in found.split.near
            if labels[one.source] != labels[one.of]
        ],
        "plain": found.plain,
        "groups": found.split.proposal._asdict() if found.split.proposal else None,
        "notes": found.source.notes,
        "warnings": found.warnings,
        "problems": found.problems,
    }


def in_words(facts: dict[str, Any]) -> str:
    """Return facts as lines for a person, with the choices and the written files, if any."""
    counts = facts["classes"]
    named = [f"{escaped(label)} {n:,}" for label, n in [*counts.items()][:CLASSES_NAMED]]
    more = [f"and {len(counts) - CLASSES_NAMED} more"] if len(counts) > CLASSES_NAMED else []
    splits = ", ".join(f"{split} {n:,}" for split, n in facts["splits"].items())
    own = " and ".join(facts["own_splits"])
    n = facts["n_images"]
    small, median, large = facts["shorter_side"]
    lines = [
        ("images", f"{n:,} in {facts['source']}: {', '.join(f'{kind} {k:,}' for kind, k in facts['formats'].items())}"),
        ("classes", f"{len(counts)}: {', '.join([*named, *more])}"),
        ("splits", f"{splits}; {f'{own} as the dataset has it' if own else 'drawn, because the dataset has none'}"),
        ("test set", _test_set(facts["splits"].get("test", 0))),
        ("sizes", f"shorter side from {small} to {large} pixels, median {median}"),
        ("unusable", _unusable(facts["rejected"])),
        ("duplicates", _duplicates(facts)),
        ("labels", _labels(facts["near_duplicates_of_two_classes"])),
        ("groups", _groups(facts["groups"])),
        ("imbalance", _imbalance(counts)),
        ("plain", _plain(facts["plain"])),
        ("sample", _sample(facts)),
        *(("note", note) for note in facts["notes"]),
        *(("warning", warning) for warning in facts["warnings"]),
        *(
            ("chosen", f"{key}: {_compact(choice['value'])} ({choice['reason']})")
            for key, choice in facts.get("choices", {}).items()
        ),
        ("sheet", facts.get("sheet")),
        ("names", facts.get("illegible")),
    ]
    return "\n".join(f"{name:<11} {text}" for name, text in lines if text)


def write(found: Findings, folder: Path, *, max_pixels: int) -> dict[str, Any]:
    """Write the lists of unusable images and duplicates as `preprocess` does, and draw a sheet of images.

    Returns:
        The path of the sheet, and what is not legible on it; see in_words.
    """
    from darkroom.figures.fonts import advice  # this and the next load matplotlib, which takes a second
    from darkroom.figures.grid import image_grid

    write_csv(folder / "rejected.csv", ("source", "reason"), found.rows.rejected)
    exact = [one for one in duplicates_of(found.rows, found.split.assignment) if one.kind == "exact"]
    write_csv(folder / "duplicates.csv", Duplicate._fields, [*exact, *found.split.near])
    images, labels = thumbnails(found, max_pixels=max_pixels)
    image_grid(images, labels, folder / SHEET, n_columns=2 * SHEET_IMAGES)
    return {"sheet": str(folder / SHEET), "illegible": advice(labels)}


def _compact(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _spread(values: list[int]) -> list[int]:
    return [min(values), int(statistics.median(values)), max(values)] if values else [0, 0, 0]


def _test_set(n: int) -> str:
    if n == 0:
        return ""
    margin = 100 * Z * math.sqrt(USUAL * (1 - USUAL) / n)
    return f"{n:,} images: an accuracy of {100 * USUAL:.0f} % is uncertain by {margin:.1f} points"


def _unusable(rejected: list[dict[str, str]]) -> str:
    if not rejected:
        return ""
    named = [f"{shown(one['source'])}: {one['reason']}" for one in rejected[:NAMED]]
    return f"{len(rejected):,}: " + "; ".join([*named, *(["..."] if len(rejected) > NAMED else [])])


def _duplicates(facts: dict[str, Any]) -> str:
    exact, near = facts["exact_duplicates"], facts["near_duplicates"]
    if not exact and not near:
        return ""
    such = f", such as {shown(near[0][0])} and {shown(near[0][1])}" if near else ""
    return f"{len(exact):,} repeat another image byte by byte, {len(near):,} resemble another one{such}"


def _labels(pairs: list[list[str]]) -> str:
    if not pairs:
        return ""
    such = "; ".join(f"{escaped(one)} and {escaped(other)}" for one, other in pairs[:NAMED])
    return f"{len(pairs)} near-duplicates have two labels: {such}{'; ...' if len(pairs) > NAMED else ''}"


def _groups(proposal: dict[str, Any] | None) -> str:
    if proposal is None:
        return ""
    sure = "" if proposal["is_certain"] else "perhaps "
    return f"{sure}{proposal['n_groups']:,}, such as {shown(proposal['example'])}, by {proposal['group_by']}"


def _plain(names: list[str]) -> str:
    return f"{len(names):,} of one colour throughout, such as {shown(names[0])}" if names else ""


def _sample(facts: dict[str, Any]) -> str:
    """Return the number of decoded images in words, "" if all usable ones were decoded."""
    n, decoded = facts["n_images"], facts["n_decoded"]
    if decoded >= n - len(facts["rejected"]) - len(facts["exact_duplicates"]):
        return ""
    return f"{decoded:,} of {n:,} were decoded; more of the others may be unusable, alike or plain"


def _imbalance(counts: dict[str, int]) -> str:
    most, least = max(counts, key=lambda one: counts[one]), min(counts, key=lambda one: counts[one])
    if counts[most] <= IMBALANCED * max(counts[least], 1):
        return ""
    ratio = counts[most] / max(counts[least], 1)
    return f"{shown(most)} has {ratio:.1f} times the images of {shown(least)}; training weighs the classes"
