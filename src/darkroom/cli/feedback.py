"""The command that takes true labels: `feedback`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from darkroom.cli.options import Json, Model, registered_name, takes
from darkroom.errors import DataError, ParamsError
from darkroom.project.repository import repository_root
from darkroom.project.text import json_line

app = typer.Typer()


@dataclass(frozen=True)
class FeedbackOptions:
    """The options of `darkroom feedback`."""

    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="CSV with a header, or JSON lines: label, and id (sha256 of the image or request_id of its answer), "
            "sha256 or path.",
        ),
    ] = None
    log: Annotated[
        Path | None, typer.Option("--log", help="Log directory; default: retrain.drift_log in params.yaml.")
    ] = None
    to_incoming: Annotated[
        bool,
        typer.Option(
            "--to-incoming", help="Copy labelled images that the log keeps, or FILE names by path, to data/incoming."
        ),
    ] = False
    new_classes: Annotated[
        bool, typer.Option("--new-classes", help="With --to-incoming: labels may become new classes.")
    ] = False
    model: Model = None
    as_json: Json = False


@app.command()
@takes(FeedbackOptions)
def feedback(given: FeedbackOptions) -> None:
    """Store the true classes of images that were classified; `darkroom drift` shows the accuracy of what was served.

    If an image has several labels, the last one counts. A label may be a class that the model does not know. If a line
    of FILE is wrong, nothing is stored.
    """
    if given.file is None and not given.to_incoming:
        raise ParamsError("there is nothing to do; pass a FILE of labels, --to-incoming, or both")
    root = repository_root()
    folder = _log_folder(given.log, root)
    from darkroom.monitoring.feedback import FeedbackLog, unknown_classes
    from darkroom.operations.labelled import Labelled, copy_to_incoming, read_labels
    from darkroom.registry.versions import find, load

    version = find(registered_name(given.model), alias="champion")
    classes = load(version).classes
    labelled = read_labels(given.file, classes=classes) if given.file else Labelled([], {})
    if labelled.labels:
        FeedbackLog(folder).append(labelled.labels)
    unknown = unknown_classes((label.label for label in labelled.labels), classes)
    copied = None
    if given.to_incoming:
        incoming = root / "data" / "incoming"
        copied = copy_to_incoming(
            folder, incoming, files=labelled.files, classes=classes, new_classes=given.new_classes
        )
    if given.as_json:
        said = {"n_stored": len(labelled.labels), "unknown_classes": unknown}
        print(json_line({**said, "to_incoming": asdict(copied) if copied else None}))
        return
    if given.file:
        print(
            f"{len(labelled.labels)} labels stored in {folder}"
            + (f"; not classes of version {version.version}: {', '.join(unknown)}" if unknown else "")
        )
    if copied:
        print(
            f"{copied.n_copied} images copied to data/incoming, {copied.n_known} were there, the files of "
            f"{copied.n_absent} are not kept"
        )
        if copied.unknown:
            left = ", ".join(f"{name} ({n})" for name, n in copied.unknown.items())
            print(f"left out, because they are not classes of version {version.version} or data/incoming: {left}")


def _log_folder(given: Path | None, root: Path) -> Path:
    from darkroom.project.params import read_params

    if given is None:
        path = root / "params.yaml"
        section = read_params(path).get("retrain") if path.is_file() else None
        if not section or not section.get("drift_log"):
            raise ParamsError("no log is given; pass --log DIRECTORY, or set retrain.drift_log in params.yaml")
        given = root / str(section["drift_log"])
    if not given.is_dir():
        raise DataError(f"{given}: no such directory; --log of `darkroom batch` or `darkroom serve` writes one")
    return given
