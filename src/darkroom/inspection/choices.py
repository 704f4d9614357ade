"""Choose settings that fit the images, each with its reason."""

import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from darkroom.data.raw.labels import table_names
from darkroom.inspection.findings import Findings
from darkroom.networks.architectures.sizes import minimum_size
from darkroom.project.text import shown

FEW_IMAGES = 2000  # training images; with fewer, a network trained on them alone loses, and takes most of the time
MOST_FINETUNED = 5000  # training images; fine-tuning on so many small ones gained 9 points in 7 minutes on 2 cores
SMALL_EDGE = 64  # pixels; smaller images, such as digits and icons, suit networks pretrained on photographs badly
MOST_ASKED = {"min_test_images": 1000, "min_images": 100}  # those of the preset mnist
ENOUGH_FOR_HALF = 20  # test images of a class; with fewer, chance alone may push its recall below one half
GREATEST_FLOOR = 0.9  # of accuracy; if one class has nearly all images, recall matters more

_SUFFIXES = "zip|tar|tgz|gz|xz|bz2|csv|tsv|jsonl?|parquet"


class Choice(NamedTuple):
    """A value of params.yaml by its dotted key, with the reason."""

    key: str
    value: Any
    reason: str


def choices(found: Findings, *, name: str, path: str, preset: Mapping[str, Any]) -> list[Choice]:
    """Return the differences from the preset.

    Args:
        name: of the dataset.
        path: of the source, as written in params.yaml.
        preset: the params of the preset.
    """
    layout: Any = found.source.layout
    tables = table_names(layout)
    by_table = f"{' and '.join(map(shown, tables))} {'says' if len(tables) == 1 else 'say'} the classes"
    kinds = {"folders": "the classes are directories", "parquet": "shards with images in them"}
    kind = kinds.get(layout["kind"], by_table)
    source = {"kind": "path", "path": path, "layout": layout if len(layout) > 1 else layout["kind"]}
    form = found.chosen.form
    reasons = found.chosen.reasons
    made = [
        *candidates(found, preset),
        Choice("download.dataset.name", name, "also of the MLflow experiment"),
        Choice("download.dataset.sources", [source], kind),
        Choice("preprocess.image_size", list(form.size), reasons["image_size"]),
        Choice("preprocess.color", form.color, reasons["color"]),
        Choice("preprocess.resize", form.resize, reasons["resize"]),
    ]
    if any(seen.header and seen.header.is_deep for seen in found.seen):
        made.append(Choice("preprocess.white_level", form.white_level, reasons["white_level"]))
    made += _groups(found)
    if found.split.near_duplicates != preset["preprocess"]["near_duplicates"]:
        reason = "most images of a class look alike, as from a fixed camera"
        made.append(Choice("preprocess.near_duplicates", found.split.near_duplicates, reason))
    return [*made, Choice("promote.registered_model", name, f"models:/{name}@champion"), *_gates(found)]


def candidates(found: Findings, preset: Mapping[str, Any]) -> list[Choice]:
    """Return the candidates that can be trained on the images, and settings for few or small ones."""
    form, sections = found.chosen.form, preset["train"]
    n, is_small = sum(found.counts("train").values()), min(form.size) < SMALL_EDGE
    n_kept = n * (1 - preset["preprocess"]["max_rejected_fraction"])
    network, batch_size = sections["cnn"]["architecture"], sections["cnn"]["batch_size"]
    least = minimum_size(network["name"], network)
    if n < FEW_IMAGES and not is_small:
        made = [Choice("candidates", ["transfer"], f"{n} training images are too few without pretraining")]
    elif min(form.size) < least:
        made = [Choice("candidates", ["transfer"], f"the preset's cnn needs at least {least}x{least} pixels")]
    elif n_kept < batch_size:
        made = [Choice("candidates", ["transfer"], f"{n} training images are fewer than a batch of the cnn")]
    else:
        why = f"with {n} training images" if n >= FEW_IMAGES else "on images that small"
        made = [Choice("candidates", ["cnn", "transfer"], f"{why} a network trained on them alone may win")]
    if is_small and sections["transfer"]["batch_size"] <= n_kept and n <= MOST_FINETUNED:
        reason = "features learned from photographs work poorly on images that small"
        made.append(Choice("train.transfer.architecture.mode", "finetune", reason))
    if n < FEW_IMAGES:
        made.append(Choice("tune.fraction", 1.0, f"a part of {n} training images is too small to rank trials"))
    return made


def dataset_name(source: Path) -> str:
    """Return a valid name made from that of a file or directory.

    >>> dataset_name(Path("/data/My photos (2).zip")), dataset_name(Path("花"))
    ('My-photos-2', 'pictures')
    """
    stem = re.sub(rf"(\.({_SUFFIXES}))+$", "", source.absolute().name, flags=re.IGNORECASE)
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._]+", "-", plain).strip("-._") or "pictures"


def portable(source: Path, *, root: Path) -> str:
    """Return a source's path for params.yaml: relative to the repository or the home directory, or absolute."""
    path = source.absolute()
    if path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    home = Path.home()
    return f"~/{path.relative_to(home).as_posix()}" if path.is_relative_to(home) and path != home else str(path)


def _groups(found: Findings) -> list[Choice]:
    if (proposal := found.split.proposal) is None:
        return []
    seems = f"{proposal.n_groups} groups, such as {shown(proposal.example)}"
    if found.split.group_by:
        return [Choice("preprocess.group_by", found.split.group_by, f"{seems}; each stays in one split")]
    reason = f"if these are patients, videos or lots, set {proposal.group_by!r} ({seems})"
    return [Choice("preprocess.group_by", None, reason)]


def _gates(found: Findings) -> list[Choice]:
    """Return gates for the number of test images: half of it, so that lost images are noticed."""
    tests, everything = found.counts("test"), found.counts()
    n_tests, (rarest, fewest) = sum(tests.values()), min(tests.items(), key=lambda pair: pair[1])
    common = max(everything, key=lambda label: everything[label])
    share = everything[common] / sum(everything.values())
    least_test = min(MOST_ASKED["min_test_images"], max(1, n_tests // 2))
    least_class = min(MOST_ASKED["min_images"], max(1, fewest // 2))
    recall = 0.5 if fewest >= ENOUGH_FOR_HALF else 0.2
    return [
        Choice("promote.gates.min_test_images", least_test, f"there are {n_tests}"),
        Choice(
            "promote.gates.min_test_accuracy",
            round(min(share + (1 - share) / 4, GREATEST_FLOOR), 2),
            f"always {shown(common)} would be right on {100 * share:.0f} %",
        ),
        Choice("promote.gates.every_class.min_recall", recall, f"{shown(rarest)} has {fewest} in test"),
        Choice("promote.gates.every_class.min_images", least_class, "about half of that"),
    ]
