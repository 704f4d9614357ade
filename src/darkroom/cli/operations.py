"""Commands for operating the service: `retrain`, `acknowledge`, `doctor` and `gc`."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from darkroom.cli.options import Json, Model, registered_name
from darkroom.project.repository import checkout
from darkroom.project.text import json_line

app = typer.Typer()


@app.command()
def retrain(
    force: Annotated[bool, typer.Option("--force", help="Rerun every stage, even if nothing has changed.")] = False,
    commit: Annotated[
        bool,
        typer.Option(
            "--commit",
            help="Commit dvc.lock and the .dvc files of new images after a successful run, with the reasons in the "
            "message. Uncommitted changes of params.yaml, dvc.yaml or code are refused.",
        ),
    ] = False,
    push: Annotated[
        bool,
        typer.Option(
            "--push",
            help="Pull first; after the run commit, `dvc push` and `git push`. What cannot be pushed is pushed by the "
            "next run.",
        ),
    ] = False,
) -> None:
    """Retrain if needed: new images, a changed source or stage, drift, low accuracy, or an old champion.

    A stage has changed if its code, params or data differ from dvc.lock. After a changed source, drift, low
    accuracy or age, the dataset is downloaded again, and only stages affected by changes run.

    For schedulers: only one run at a time (exit code 75 otherwise). Git and remotes are checked before the training.
    The section `retrain` of params.yaml sets the triggers and notifications. `promote` decides. A failure or kill
    leaves champion, data and dvc.lock unchanged, and the next run resumes. If only the push is refused, the new
    champion and the commit stay; the exit code is 1 as well. The report is written to reports/retrain.json and, as one
    line of JSON, to the end of stdout.
    """
    from darkroom.operations.params import ordered
    from darkroom.operations.retrain import retrain as retrain_now

    print(json.dumps(retrain_now(ordered(force=force, commit=commit, push=push))))


@app.command()
def acknowledge(
    reason: Annotated[str, typer.Option("--reason", help="Why the alarm needs no action; recorded with your name.")],
    days: Annotated[float, typer.Option("--days", min=0.01, max=3650, help="Maximum duration in days.")] = 30.0,
    as_json: Json = False,
) -> None:
    """Acknowledge today's alarm of `retrain` (drift or low accuracy), so that it does not retrain every night.

    It is valid until the days are over, the champion or the training data change, or another measure alarms. It is
    stored in acknowledged.json in the log's directory and replaces the previous one.
    """
    from datetime import UTC, datetime

    from darkroom.operations.alarms import acknowledge as acknowledge_now
    from darkroom.operations.params import ordered

    order = ordered(force=False, commit=False, push=False)
    now = datetime.now(UTC)
    written = acknowledge_now(order.params, root=order.root, model=order.model, reason=reason, days=days, now=now)
    if as_json:
        print(json_line(asdict(written)))
        return
    print(f"{', '.join(written.alarms)}: {written}")


@app.command()
def doctor(model: Model = None, as_json: Json = False) -> None:
    """Check what `dvc repro` and `make ui` need: Python, git, DVC, disk, GPU, store, registry, mirror.

    Every problem is printed with its remedy; then the exit code is 1.
    """
    from darkroom.operations.doctor import examine

    found = []
    for one in examine(checkout(), model=registered_name(model)):
        found.append(one)
        if not as_json:
            print(f"{one.status:<6} {one.about:<12} {one.sentence}", flush=True)
    if as_json:
        print(json.dumps([asdict(one) for one in found]))
    raise typer.Exit(int(any(one.status == "wrong" for one in found)))


@app.command()
def gc(
    keep: Annotated[int, typer.Option("--keep", min=1, help="Number of newest versions to keep of each model.")] = 3,
    days: Annotated[
        float, typer.Option("--days", min=0, help="Keep runs, checkpoints, decisions and studies younger than this.")
    ] = 7.0,
    dvc: Annotated[
        bool, typer.Option("--dvc", help="Also delete from DVC's cache what neither a commit nor the work tree uses.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete the listed items; without this option nothing is deleted.")
    ] = False,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """List what can be deleted and its size: old versions, run artifacts, checkpoints, decisions, studies, old data.

    The champion, the previous champion, the challenger, rolled-back versions, the newest versions, the reference
    versions of their margins, and the runs of all these are always kept, as are metrics, params and the history.
    """
    from contextlib import nullcontext

    from darkroom.errors import DarkroomError
    from darkroom.operations.dvc_cache import unused_data
    from darkroom.operations.gc import plan, remove
    from darkroom.operations.single_flight import single_flight

    root = checkout()
    with single_flight("darkroom gc") if yes else nullcontext():
        planned = plan(root, name=registered_name(model), keep=keep, days=days)
        try:
            unused = unused_data(root, remove=yes and dvc)
            cache = {"files": unused.n_files, "bytes": unused.n_bytes, "removed": yes and dvc}
            said_of_cache = str(unused)
        except DarkroomError as error:
            if dvc:
                raise
            cache, said_of_cache = None, str(error)
        if yes:
            remove(planned, keep=keep)
    if as_json:
        print(json.dumps({"removed": yes, **planned.as_dict(), "dvc": cache}))
        return
    for one in planned.waste:
        print(f"{one.kind:<10} {f'{one.name} {one.key}'.strip():<60} {one.n_bytes:>15,} bytes")
    for name, numbers in planned.kept.items():
        print(f"{name}: keeping versions {', '.join(numbers) or 'none'}")
    if planned.n_outside:
        print(f"{planned.n_outside} items lie outside this repository ({root}) and stay")
    print(f"DVC's cache: {said_of_cache}{'' if dvc or cache is None else '; they stay without --dvc'}")
    said = "deleted" if yes else "would be deleted; delete them with --yes"
    print(f"{len(planned.waste)} items, {planned.n_bytes / 1e6:,.1f} MB {said}")
