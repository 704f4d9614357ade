"""`darkroom audit`: find labels that are probably wrong, and correct them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from darkroom.cli.options import Json
from darkroom.errors import ParamsError
from darkroom.project.repository import checkout

if TYPE_CHECKING:
    from darkroom.audit.run import Audit

app = typer.Typer()


@app.command()
def audit(
    by: Annotated[
        str,
        typer.Option(
            "--by",
            metavar="SOURCE",
            help="How to judge labels: features (of the backbone), pixels, network (the candidate, trained once per "
            "fold), or auto: features if there are any, else pixels.",
        ),
    ] = "auto",
    n_folds: Annotated[
        int | None, typer.Option("--folds", min=2, help="Number of trainings of --by network.", show_default="3")
    ] = None,
    max_wrong: Annotated[
        float | None,
        typer.Option("--max-wrong", min=0, max=1, help="Exit with code 3 if a larger fraction of labels looks wrong."),
    ] = None,
    review: Annotated[
        bool, typer.Option("--review", help="Then serve a page on this machine to correct the labels, one key each.")
    ] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of that page; 0: any free one.")] = 8010,
    as_json: Json = False,
) -> None:
    """Find images whose labels are probably wrong, outliers and unusable images; write reports/audit."""
    from darkroom.audit import report, run
    from darkroom.audit.findings import KINDS
    from darkroom.audit.material import SOURCES

    if by not in SOURCES:
        raise ParamsError(f"--by is {by!r}; expected one of {', '.join(SOURCES)}")
    if n_folds and by != "network":
        raise ParamsError("--folds is the number of trainings of --by network; pass both, or neither")
    root = checkout()
    found = run.audit(root, source=by, bits=_bits(root), n_folds=n_folds or run.N_FOLDS)
    page = report.write(found, root / run.REPORTS)
    n_wrong = len(found.of_kind("label"))
    if as_json:
        counts = {kind: len(found.of_kind(kind)) for kind in KINDS}
        print(json.dumps({"n_images": found.n_images, "n_judged": found.n_judged, "found": counts, "page": str(page)}))
    else:
        print(f"{run.in_words(found)}; {page}")
    if review:
        _review(found, root, port=port)
        return
    raise typer.Exit(3 if max_wrong is not None and n_wrong > max_wrong * found.n_judged else 0)


def _review(found: "Audit", root: Path, *, port: int) -> None:
    import secrets

    from darkroom.audit.decisions import Decisions
    from darkroom.audit.review import findings, serve, server
    from darkroom.audit.run import CORRECTIONS
    from darkroom.project.console import say
    from darkroom.project.locks import whoami

    decisions = Decisions(root / CORRECTIONS, found.dataset, who=whoami())
    secret = secrets.token_urlsafe()
    shown = findings(found, then=f"Commit {CORRECTIONS}, then run dvc repro.")
    serve(server(shown, decisions, secret=secret), port=port, secret=secret, said=say)
    n = len(decisions.made)
    say(f"{n} decisions in {CORRECTIONS}" + ("; commit it, then run `dvc repro`" if n else ""))


def _bits(root: Path) -> int:
    from darkroom.project.params import read_params

    try:
        return int(read_params(root / "params.yaml")["preprocess"]["near_duplicate_bits"])
    except (KeyError, TypeError, ValueError):
        raise ParamsError(f"{root / 'params.yaml'}: preprocess.near_duplicate_bits is missing; set it") from None
