"""`darkroom init`: from a directory, an archive or a label table to params.yaml."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from darkroom.cli.options import Force, Json
from darkroom.errors import DataError, ParamsError
from darkroom.project.console import native_stderr_silenced
from darkroom.project.repository import checkout

if TYPE_CHECKING:
    from darkroom.project.params import Section

ModelT = TypeVar("ModelT", bound="Section")

PRESET = "folder"
REPORTS = "reports/init"

app = typer.Typer()


@app.command()
def init(
    source: Annotated[
        Path, typer.Argument(help="A directory, zip, tar, label table, COCO or Label Studio export, or parquet shard.")
    ],
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit code 1 if it would not work.")] = False,
    layout: Annotated[
        str | None, typer.Option("--layout", help="Keys of the layout, such as 'level: 2'; default: detected.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Look at your own images, say what was understood, and write params.yaml for them."""
    from darkroom.cli import presets
    from darkroom.data.preparation.params import PreprocessParams
    from darkroom.inspection import choices, findings, report
    from darkroom.inspection.source import opened

    root = checkout()
    if not (check or force):
        presets.check_no_edits(root, command=f"darkroom init {shlex.quote(str(source))}")
    if root.is_relative_to(source.resolve()):
        raise DataError(f"{source} contains this repository; give the directory that holds the classes")
    preset = presets.read(PRESET, root=root)
    params = _valid(PreprocessParams, preset["preprocess"], where=f"presets/{PRESET}.yaml: preprocess")
    reports = root / REPORTS
    with (
        native_stderr_silenced(),
        opened(source, layout=_layout(layout), max_archive_bytes=params.max_archive_bytes) as dataset,
    ):
        unlisted = "`darkroom init` without --check" if check else f"{REPORTS}/duplicates.csv"
        found = findings.inspect(dataset, params=params, listed_in=unlisted)
        facts = report.facts(found)
        if not check:
            facts |= report.write(found, reports, max_pixels=params.max_image_pixels)
    if not found.problems:
        made = choices.choices(
            found,
            name=choices.dataset_name(dataset.listing.where),
            path=choices.portable(dataset.listing.where, root=root),
            preset=preset,
        )
        facts["choices"] = {key: {"value": value, "reason": reason} for key, value, reason in made}
        if not check:
            _write(made, facts, root=root)
    print(json.dumps(facts) if as_json else report.in_words(facts))
    if found.problems:
        raise DataError(f"{source}: {' '.join(found.problems)}")
    if not as_json:
        print("nothing was written" if check else "params.yaml is written; run `dvc repro`")


def _layout(text: str | None) -> dict[str, Any] | None:
    """Return the keys of a layout from YAML such as `level: 2`."""
    if text is None:
        return None
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    from darkroom.data.download.catalogue import Layout

    try:
        given = YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        given = None
    if not isinstance(given, dict):
        raise ParamsError(f"--layout is {text!r}; expected keys and values in YAML, such as 'level: 2'")
    _valid(Layout, {"kind": "table" if "table" in given else "folders", **given}, where="--layout")
    return given


def _valid(model: type[ModelT], values: dict[str, Any], *, where: str) -> ModelT:
    from pydantic import ValidationError

    from darkroom.project.problems import explain

    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ParamsError(explain(where, model, error)) from None


def _write(made: Sequence[tuple[str, Any, str]], facts: dict[str, Any], *, root: Path) -> None:
    from darkroom.cli import presets

    n, n_classes = facts["n_images"], len(facts["classes"])
    head = (
        f"# {n:,} images of {n_classes} classes. Written by `darkroom init` from the preset `{PRESET}`; the comments\n"
        "# of what it chose are its reasons.\n#\n#   command    dvc repro"
    )
    presets.replace(presets.text_with(PRESET, made, head=head, root=root), root=root)
