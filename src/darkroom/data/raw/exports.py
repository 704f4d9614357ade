"""Label tables in JSON: COCO with one category per image, and exports of Label Studio."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from darkroom.data.raw.columns import LABELS, PATHS, find_column, plain, with_split
from darkroom.data.raw.tables import Table, as_text
from darkroom.errors import DataError
from darkroom.project.text import shown


def export_kind(data: bytes) -> str | None:
    """Return the kind of the layout that reads JSON, None where it is neither COCO nor of Label Studio."""
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return "coco" if is_coco(content) else "label_studio" if is_label_studio(content) else None


def is_coco(content: Any) -> bool:
    """Return whether parsed JSON has the form of COCO."""
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in ("images", "annotations"))


def is_label_studio(content: Any) -> bool:
    """Return whether parsed JSON is an export of Label Studio, JSON or JSON-MIN."""
    tasks = content if isinstance(content, list) and content else [None]
    return all(isinstance(task, dict) and ("annotations" in task or "annotator" in task) for task in tasks)


def coco_table(data: bytes, *, name: str, where: Path, layout: Mapping[str, Any]) -> Table:
    """Return the images of a COCO file, each with the name of its only category and the other fields of its entry.

    Args:
        layout: may name the field of the split (split_column).

    Raises:
        DataError: the file does not have this form, or an image has no annotation or several categories.
    """
    called = f"{where}: {name}"
    content = _json(data, called=called)
    if not is_coco(content):
        raise DataError(f"{called} is not COCO; expected an object with images, annotations and categories")
    labels: dict[str, set[str]] = {}
    try:  # ids as texts, because some programs write 1 in one place and "1" in another
        names = {str(category["id"]): str(category["name"]) for category in content.get("categories", ())}
        for annotation in content["annotations"]:
            labels.setdefault(str(annotation["image_id"]), set()).add(names[str(annotation["category_id"])])
        found = [(str(image["file_name"]), labels.get(str(image["id"]), set())) for image in content["images"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{called} is damaged: nothing is {error}; export it again") from None
    split = layout.get("split_column")
    return _table(name, called, content["images"], found, path="file_name", label="category", split=split)


def label_studio_table(data: bytes, *, name: str, where: Path, layout: Mapping[str, Any]) -> Table:
    """Return the tasks of an export of Label Studio (JSON or JSON-MIN), each with its only choice and its other data.

    If annotations differ, those marked as ground truth count; cancelled ones never do.

    Args:
        layout: may name the field of the image (path_column), of the choice (label_column) and of the split.

    Raises:
        DataError: the file does not have this form, its fields are ambiguous, or a task has no choice or several.
    """
    called = f"{where}: {name}"
    tasks = _json(data, called=called)
    if not is_label_studio(tasks):
        raise DataError(f"{called} is not an export of Label Studio; expected a list of tasks, as JSON or JSON-MIN")
    fields = [task["data"] if isinstance(task.get("data"), dict) else task for task in tasks]
    path = find_column(list(fields[0]), layout.get("path_column"), PATHS, called=called, key="path_column")
    given = layout.get("label_column")
    choices = [_choices(task, among=[given] if given else LABELS, called=called) for task in tasks]
    named = list(dict.fromkeys(key for of_task in choices for key in of_task))
    if not named:
        raise DataError(f"{called}: no task has a choice; label them in Label Studio and export them again")
    usual = [plain(named[0])] if len(named) == 1 else LABELS
    label = find_column(named, given, usual, called=called, key="label_column")
    found = [
        (_reference(str(of_task.get(path, ""))), chosen.get(label, set()))
        for of_task, chosen in zip(fields, choices, strict=True)
    ]
    return _table(name, called, fields, found, path=path, label=label, split=layout.get("split_column"))


def _table(
    name: str,
    called: str,
    fields: Sequence[Mapping[str, Any]],
    found: Sequence[tuple[str, set[str]]],
    *,
    path: str,
    label: str,
    split: str | None,
) -> Table:
    """Return a table of images with these fields, paths and labels; each image must have exactly one label."""
    for images, what in (
        ([file for file, labels in found if not labels], "no label; label them, or take them out"),
        ([f"{file} ({', '.join(sorted(some))})" for file, some in found if len(some) > 1], "several labels; keep one"),
    ):
        if images:
            such = ", ".join(map(shown, images[:3]))
            raise DataError(f"{called}: {len(images)} of {len(found)} images have {what} (such as {such})")
    rows = [
        {**{key: as_text(value) for key, value in of_image.items() if not isinstance(value, dict | list)}, **known}
        for of_image, known in zip(fields, ({path: file, label: min(some)} for file, some in found), strict=True)
    ]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    filled: Mapping[int, Mapping[str, str]] = {
        number: {key: row.get(key, "") for key in columns} for number, row in enumerate(rows, 1)
    }
    if split is not None:
        asked = [key for key in columns if key not in (path, label)]
        filled, split = with_split(filled, split, asked=asked, called=called)
    return Table(name, called, filled, path, label, split, exported=True)


def _choices(task: Mapping[str, Any], *, among: Sequence[str], called: str) -> dict[str, set[str]]:
    """Return the choices in each field of a task; text counts only in the fields `among`."""
    found: dict[str, set[str]] = {}
    if "annotations" not in task:  # JSON-MIN
        for key, value in task.items():
            alone = [value] if key in among and value not in (None, "") else []
            chosen = value.get("choices", ()) if isinstance(value, dict) else alone
            if chosen:
                found[key] = set(map(str, chosen))
        return found
    try:
        valid = [one for one in task["annotations"] if not one.get("was_cancelled")]
        for annotation in [one for one in valid if one.get("ground_truth")] or valid:
            for result in annotation["result"]:
                if result["type"] == "choices":
                    found.setdefault(result["from_name"], set()).update(map(str, result["value"]["choices"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{called} is damaged: task {task.get('id')} lacks {error}; export it again") from None
    return found


def _reference(value: str) -> str:
    """Return the path in Label Studio's reference to an image: a path, a URL, or a key in a bucket."""
    parts = urlsplit(value)
    if local := parse_qs(parts.query).get("d"):  # /data/local-files/?d=cats/1.jpg
        return local[0]
    return unquote(parts.path) if parts.scheme in ("http", "https") else parts.path if parts.netloc else value


def _json(data: bytes, *, called: str) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{called} is not JSON: {error}") from None
