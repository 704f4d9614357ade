"""Commands that use a registered model or its log of predictions: predict, batch, drift."""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from darkroom.cli.options import Json, Model, registered_name, takes
from darkroom.cli.tables import print_drift
from darkroom.errors import DataError, ParamsError
from darkroom.project.repository import repository_root
from darkroom.project.text import escaped, json_line

if TYPE_CHECKING:
    import numpy as np

    from darkroom.registry.snapshot import Version

app = typer.Typer()

Alias = Annotated[str, typer.Option("--alias", help="Alias of the version to use.")]

Number = Annotated[str | None, typer.Option("--version", help="Version to use.")]


@app.command()
def predict(
    files: Annotated[list[str], typer.Argument(help="Image files; - reads one image from stdin.", metavar="FILE")],
    model: Model = None,
    alias: Alias = "champion",
    version: Number = None,
    explain: Annotated[
        Path | None,
        typer.Option("--explain", help="Write a picture of each image beside a map of what supports its answer."),
    ] = None,
) -> None:
    """Classify images with a registered model: one JSON line per file; `darkroom batch` takes directories.

    A file that cannot be read as an image gets a line {file, error}; the others are classified, and the exit code is 1.
    """
    from darkroom.registry.versions import find, load

    chosen = find(registered_name(model), alias=alias, version=version)
    failed, package, answered = False, load(chosen), list[tuple["np.ndarray", str]]()
    for line in _answers(package, files, answered=answered if explain else None):
        failed = failed or "error" in line
        if "error" not in line:
            line |= {"model": chosen.name, "version": chosen.version}
        print(json_line(line), flush=True)
    if explain and answered:
        _write_maps(explain, chosen, package, answered)
    raise typer.Exit(1 if failed else 0)


@dataclass(frozen=True)
class BatchOptions:
    """The options of `darkroom batch`."""

    source: Annotated[
        str,
        typer.Argument(
            help="A directory, tar or zip of images, or a text file with one path per line; - for stdin.", metavar="IN"
        ),
    ]
    out: Annotated[Path, typer.Argument(help="The parquet file to write.", metavar="OUT.parquet")]
    model: Model = None
    alias: Alias = "champion"
    version: Number = None
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Classify only the first N images.")] = None
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, help="Number of workers; default: compute.workers in params.yaml, or all cores."
        ),
    ] = None
    log: Annotated[Path | None, typer.Option("--log", help="Directory of the prediction log to write to.")] = None
    log_images: Annotated[
        bool, typer.Option("--log-images", help="Also store the images in the log, named by their sha256.")
    ] = False
    restart: Annotated[bool, typer.Option("--restart", help="Start over instead of resuming a killed run.")] = False
    as_json: Json = False


@app.command()
@takes(BatchOptions)
def batch(given: BatchOptions) -> None:
    """Classify many images into a parquet file, on all cores; a killed run resumes.

    An image that cannot be read becomes a row with an error. The exit code is 1 if none could be read.
    """
    from tqdm import tqdm

    from darkroom.batch.run import Options, run
    from darkroom.project.console import native_stderr_silenced
    from darkroom.registry.versions import find

    if given.log_images and given.log is None:
        raise ParamsError("--log-images stores images in the log; also pass --log DIRECTORY")
    chosen = find(registered_name(given.model), alias=given.alias, version=given.version)
    compute = _compute()
    options = Options(
        workers=given.workers or compute["workers"],
        backend=compute["backend"],
        cluster=compute["cluster"],
        limit=given.limit,
        log=given.log,
        keep_images=given.log_images,
        restart=given.restart,
    )
    with native_stderr_silenced(), tqdm(unit="image", disable=not sys.stderr.isatty()) as bar:

        def show(done: int, of: int | None) -> None:
            bar.total = of
            bar.update(done - bar.n)

        summary = run(given.source, given.out, version=chosen, options=options, on_progress=show)
    if given.as_json:
        print(json_line(asdict(summary)))
    else:
        said = (
            f"{summary.out}: {summary.images} images by {summary.model} version {summary.version} in "
            f"{summary.seconds:.1f} s"
            + (f", {summary.resumed} of them by an earlier run that was killed" if summary.resumed else "")
            + (f"; {summary.failed} could not be read, e.g. {summary.errors[0]}" if summary.failed else "")
        )
        print(escaped(said))
    raise typer.Exit(1 if summary.failed and summary.failed == summary.images else 0)


@dataclass(frozen=True)
class DriftOptions:
    """The options of `darkroom drift`."""

    log: Annotated[Path, typer.Option("--log", help="Log directory, as passed to --log of batch or serve.")]
    since: Annotated[
        str | None, typer.Option("--since", help="Start: 2026-03-01, 2026-03-01T12:00 (UTC), or 7d, 12h before now.")
    ] = None
    until: Annotated[str | None, typer.Option("--until", help="End, in the format of --since; default: now.")] = None
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            help="Compare with this parquet file or directory of log columns, not with the training data.",
        ),
    ] = None
    model: Model = None
    version: Annotated[
        str | None, typer.Option(help="Version whose predictions are checked; default: the last in the log.")
    ] = None
    psi: Annotated[float, typer.Option(min=0, help="PSI threshold for drift.")] = 0.2
    alpha: Annotated[
        float, typer.Option(min=0, max=1, help="Significance level, divided by the number of measures.")
    ] = 0.01
    min_rows: Annotated[int, typer.Option(min=1, help="Minimum number of rows; with fewer, no verdict.")] = 200
    picture: Annotated[Path | None, typer.Option(help="Where to write the plot; default: reports/drift.png.")] = None
    as_json: Json = False


@app.command()
@takes(DriftOptions)
def drift(given: DriftOptions) -> None:
    """Check logged predictions for drift from the training data; exit codes: 0 no drift (or too few rows), 3 drift.

    With true labels from `darkroom feedback`, it also shows the accuracy of served predictions per version and week.
    """
    from darkroom.monitoring import figure
    from darkroom.monitoring.drift import Limits
    from darkroom.monitoring.samples import inspect
    from darkroom.registry.versions import find, load

    root = repository_root()
    now = datetime.now(UTC)
    begin, end = (_moment(text, option, now) for text, option in ((given.since, "--since"), (given.until, "--until")))
    if begin and begin >= (end or now):
        raise ParamsError(f"--since {given.since} is not before {f'--until {given.until}' if given.until else 'now'}")
    found = inspect(
        given.log,
        root=root,
        package_of=lambda number: load(find(registered_name(given.model), version=number)),
        version=given.version,
        since=begin,
        until=end,
        reference=given.reference,
        limits=Limits(psi=given.psi, alpha=given.alpha, min_rows=given.min_rows),
    )
    path = given.picture or root / "reports" / "drift.png"
    heading = f"{found.report.n_window} predictions of version {found.version}" if found.version else "no predictions"
    weeks = found.served.weeks
    figure.drift(found.report, found.reference, found.window, path, weeks=weeks, heading=heading)
    if given.as_json:
        print(json.dumps({**found.as_dict(), "picture": str(path)}))
    else:
        print_drift(found, path)
    raise typer.Exit(3 if found.report.drifted else 0)


def _compute() -> dict[str, Any]:
    """Return the section compute of params.yaml, or nothing: a consumer need not have a params.yaml."""
    from darkroom.project.params import read_params

    path = repository_root() / "params.yaml"
    section = read_params(path).get("compute") if path.is_file() else None
    found = {"backend": "auto", "workers": "auto", "cluster": None, **(section or {})}
    if found["backend"] == "auto":
        found["backend"] = "threading"
    return found


def _moment(text: str | None, option: str, now: datetime) -> datetime | None:
    if text is None:
        return None
    try:
        if before := re.fullmatch(r"(\d+)([dh])", text):
            return now - timedelta(**{{"d": "days", "h": "hours"}[before[2]]: int(before[1])})
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ParamsError(f"{option} is {text!r}; expected e.g. 2026-03-01, 2026-03-01T12:00Z, 7d or 12h") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _answers(
    package: Any, files: list[str], *, answered: "list[tuple[np.ndarray, str]] | None" = None
) -> Iterator[dict[str, Any]]:
    """Yield the line of every file; classified images are appended to `answered` with their labels."""
    for file in files:
        try:
            image = package.decode(_read(file))
            answer = package.predict([image])[0]
            if answered is not None:
                answered.append((image, answer["label"]))
        except (DataError, ValueError) as error:
            yield {"file": file, "error": " ".join(str(error).split())}
            continue
        line = {"file": file, "label": answer["label"], "probability": answer["probability"]}
        line |= {key: answer[key] for key in ("familiarity", "unknown", "prediction_set") if key in answer}
        yield line | ({"abstained": True} if answer["abstained"] else {})


def _write_maps(path: Path, version: "Version", package: Any, answered: "list[tuple[np.ndarray, str]]") -> None:
    """Write one picture: a row for every image, the image itself on the left."""
    import cv2
    import numpy as np

    from darkroom.explanation.maps import Explainer, overlaid
    from darkroom.files.writing import replacing
    from darkroom.project.console import say
    from darkroom.registry.versions import fetch

    explain = Explainer(fetch(version), package)
    labels = [package.classes.index(label) for _, label in answered]
    images = np.stack([image for image, _ in answered])
    rows = [
        np.hstack([overlaid(image, np.zeros_like(heat)), overlaid(image, heat)])
        for image, heat in zip(images, explain(images, labels), strict=True)
    ]
    content = cv2.imencode(".png", np.vstack(rows)[:, :, ::-1])[1]
    with replacing(path) as part:
        part.write_bytes(content.tobytes())
    say(f"{path}: bright places speak for the answer ({explain.method})")


def _read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise DataError(error.strerror or str(error)) from None
