"""Commands for whoever keeps the service running: `retrain` and `gc`."""

import json
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def retrain(
    force: Annotated[bool, typer.Option("--force", help="Train whether anything calls for it or not.")] = False,
    commit: Annotated[
        bool, typer.Option("--commit", help="Commit dvc.lock and the .dvc files of new images, once it is through.")
    ] = False,
    push: Annotated[bool, typer.Option("--push", help="Commit, then `dvc push` and `git push`.")] = False,
) -> None:
    """Train again if something calls for it: new images, a changed source, drift, or the champion's age.

    For a scheduler: one run at a time (75 otherwise), the section `retrain` of params.yaml says what calls for a
    training and who is told. `promote` decides. A failure or kill leaves champion, data and dvc.lock as they were, and
    the next run goes on. The report is in reports/retrain.json and, as one line of JSON, the last line on stdout.
    """
    from darkroom.retrain_params import ordered
    from darkroom.retraining import retrain as retrain_now

    print(json.dumps(retrain_now(ordered(force=force, commit=commit, push=push))))
