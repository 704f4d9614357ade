"""Commands for whoever keeps the service running: `retrain` and `gc`."""

import json
from typing import Annotated

import typer

from darkroom.cli.options import Json, Model, registered_name

app = typer.Typer()


@app.command()
def retrain(
    force: Annotated[
        bool, typer.Option("--force", help="Run every stage anew, whether anything calls for it or not.")
    ] = False,
    commit: Annotated[
        bool,
        typer.Option(
            "--commit",
            help="Commit dvc.lock, by which DVC keeps the reports, too, and the .dvc files of new images, once it is "
            "through; reports/retrain.json is of this machine, and its reasons are in the message of the commit.",
        ),
    ] = False,
    push: Annotated[bool, typer.Option("--push", help="Commit, then `dvc push` and `git push`.")] = False,
) -> None:
    """Train again if something calls for it: new images, a changed source or stage, drift, or the champion's age.

    A changed stage: code, settings or data are not those of dvc.lock. After a changed source, drift or age the data set
    is fetched again, and what it now is decides which stages run.

    For a scheduler: one run at a time (75 otherwise), the section `retrain` of params.yaml says what calls for a
    training and who is told. `promote` decides. A failure or kill leaves champion, data and dvc.lock as they were, and
    the next run goes on. The report is in reports/retrain.json and, as one line of JSON, the last line on stdout.
    """
    from darkroom.operations.params import ordered
    from darkroom.operations.retrain import retrain as retrain_now

    print(json.dumps(retrain_now(ordered(force=force, commit=commit, push=push))))


@app.command()
def gc(
    keep: Annotated[int, typer.Option("--keep", min=1, help="Newest versions of each model that stay.")] = 3,
    days: Annotated[
        float, typer.Option("--days", min=0, help="Runs, checkpoints, decisions and studies younger than this stay.")
    ] = 7.0,
    dvc: Annotated[bool, typer.Option("--dvc", help="Also what the work tree does not use of DVC's cache.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this nothing is removed.")] = False,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Say what can go, with its size: old versions, artifacts of old runs, stale checkpoints, decisions and studies.

    The champion, the previous one, the challenger, versions that were rolled back, the newest, and what they were made
    from always stay, as do metrics, settings and the history.
    """
    from contextlib import nullcontext

    from darkroom.operations.gc import drop_dvc_cache, plan, remove
    from darkroom.operations.single_flight import single_flight
    from darkroom.project.repository import repository_root

    root = repository_root()
    with single_flight("darkroom gc") if yes else nullcontext():
        planned = plan(root, name=registered_name(model), keep=keep, days=days)
        cache = drop_dvc_cache(root, dry=not yes) if dvc else None
        if yes:
            remove(planned, keep=keep)
    if as_json:
        print(json.dumps({"removed": yes, **planned.as_dict(), "dvc": cache}))
        return
    for one in planned.waste:
        print(f"{one.kind:<10} {f'{one.name} {one.key}'.strip():<60} {one.n_bytes:>15,} bytes")
    for name, numbers in planned.kept.items():
        print(f"{name}: versions {', '.join(numbers) or 'none'} stay")
    print(f"DVC's cache: {cache}" if dvc else "DVC's cache is left alone; --dvc drops what the work tree does not use")
    said = "removed" if yes else "would be removed; --yes removes them"
    print(f"{len(planned.waste)} things, {planned.n_bytes:,} bytes {said}")
