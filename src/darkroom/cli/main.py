"""The `darkroom` command: results go to stdout, logs and errors to stderr; commands import heavy packages lazily."""

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from darkroom.cli import audit, feedback, init, labelling, operations, registry, report, scoring, serving, ui
from darkroom.cli.options import Commands, Force, Json
from darkroom.project.console import run
from darkroom.project.repository import checkout

app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
app.add_typer(init.app)
app.add_typer(audit.app)
app.add_typer(labelling.app)
app.add_typer(report.app)
app.add_typer(ui.app)
app.add_typer(registry.app)
app.add_typer(operations.app)
app.add_typer(scoring.app)
app.add_typer(serving.app)
app.add_typer(feedback.app)


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 1 failed, 2 wrong usage or params, 3 drift or too many wrong labels, 75 the lock is held.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]  # read by console.run
    run(lambda: app(args=arguments, prog_name="darkroom"))


def _version(wanted: bool) -> None:
    if wanted:
        print(f"darkroom {version('darkroom')}")
        raise typer.Exit


@app.callback()
def _app(
    version_wanted: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error, before or after the command.")
    ] = False,
) -> None:
    """Turn labelled images into a tested, versioned, served classifier."""


@app.command()
def use(
    name: Annotated[str, typer.Argument(help="Name of a preset: a file in presets/, without .yaml.")],
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a preset, completed from the default, as params.yaml and print what changed."""
    from darkroom.cli import presets

    root = checkout()
    changes = presets.use(name, root=root, force=force)
    if as_json:
        print(json.dumps({"preset": name, "changed": changes}))
        return
    for key, (old, new) in changes.items():
        print(f"{key}: {'(none)' if old is None else old} -> {'(none)' if new is None else new}")
    path = presets.missing_source(root)
    to_do = "run it with `dvc repro`"
    if path is not None:
        to_do = f"set the path in download.dataset.sources (there is no {path}), or run `darkroom init FOLDER` instead"
    print(f"params.yaml now holds the preset {name} ({len(changes)} keys changed); {to_do}")


@app.command()
def store() -> None:
    """Print the URI of the MLflow store in use: MLFLOW_TRACKING_URI, or the repository's own."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        checkout()
    from darkroom.tracking.store import tracking_uri

    print(tracking_uri())


@app.command("lr-find")
def lr_find(
    candidate: Annotated[
        str, typer.Option("--candidate", help="Candidate: a section of train in params.yaml.")
    ] = "cnn",
    steps: Annotated[
        int, typer.Option("--steps", min=10, help="Number of training steps, each with a higher learning rate.")
    ] = 100,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write the plot; default: reports/lr_find/CANDIDATE.png.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Try learning rates from 1e-6 to 10 on the prepared data and suggest one; only writes a plot."""
    from darkroom.lr_find import suggestion

    root = checkout()
    path = out.absolute() if out else root / "reports" / "lr_find" / f"{candidate}.png"
    found = suggestion.suggest(candidate, root=root, n_steps=steps, picture=path)
    if as_json:
        print(json.dumps(found))
        return
    cautious = f"{found['cautious']:g} is the cautious choice; " if found["cautious"] < found["suggestion"] else ""
    print(
        f"learning rate {found['suggestion']:g}, where the loss falls most steeply; {cautious}the peak of one_cycle "
        f"may go up to {found['greatest']:g}. Set train.{candidate}.learning_rate in params.yaml, now "
        f"{found['now']:g}; plot: {path}"
    )


@app.command("tune-status")
def tune_status(
    candidate: Annotated[
        str, typer.Option("--candidate", help="Candidate: a section of train in params.yaml.")
    ] = "cnn",
    as_json: Json = False,
) -> None:
    """Show the trials of a candidate's search, live while it runs; Ctrl-C quits."""
    import time
    from functools import partial

    from darkroom.cli.tune_status import summary, watch
    from darkroom.project.params import read_params
    from darkroom.tuning import location
    from darkroom.tuning.storage import read_rows

    section = read_params(checkout() / "params.yaml").get("tune") or {}
    study = location.pointed_at(candidate)
    storage = location.storage_of(section.get("storage"), study=study["study"])
    read = partial(read_rows, study["study"], storage)
    if as_json:
        print(json.dumps(summary(read(), study["trials"], time.time())))
        return
    watch(read, title=f"{candidate}: study {study['study']}", wanted=study["trials"])


@app.command()
def tuned(
    candidate: Annotated[str | None, typer.Option("--candidate", help="Candidate; default: all.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Write the values into params.yaml.")] = False,
    as_json: Json = False,
) -> None:
    """Show which values of params.yaml the last tuning replaces; --write writes them into it and keeps comments."""
    from darkroom.tuning import adoption

    root = checkout()
    found = adoption.changes(root, candidate)
    if write:
        adoption.write(root, found)
    if as_json:
        print(json.dumps({"written": write, "changed": found}))
        return
    lines = adoption.lines(found)
    print("\n".join(lines) or "no values of params.yaml are replaced")
    if write and lines:
        print("params.yaml now has these values; `dvc repro` starts a new search from them, unless tune.trials is 0")


if __name__ == "__main__":
    main()
