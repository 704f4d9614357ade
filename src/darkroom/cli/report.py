"""`darkroom report`: what the last `dvc repro` did and found, what was decided, and what to do next."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from darkroom.cli.options import Json
from darkroom.errors import RegistryError
from darkroom.files.writing import read_json
from darkroom.project.repository import checkout
from darkroom.project.stage_runs import last_run

app = typer.Typer()


@app.command()
def report(
    since: Annotated[
        float | None,
        typer.Option("--since", metavar="SECONDS", help="Time since 1970; a stage that last ran before it is cached."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the result of the last `dvc repro`: stages, winner, accuracy, decision, champion, and what to do next."""
    root = checkout()
    evaluation = read_json(root / "reports" / "evaluation.json", remedy="run `dvc repro` to write it")
    promotion = read_json(root / "reports" / "promotion.json", remedy="run `dvc repro` to write it")
    name = promotion["registered_model"]
    champion = _champion(name)
    if as_json:
        print(json.dumps({"evaluation": evaluation, "promotion": promotion, "champion": champion}))
        return
    from darkroom.promotion.outcome import in_words

    print("".join(f"{line}\n" for line in _stages(root, since)))
    print("\n".join(_scores(evaluation)))
    moved = "" if champion == promotion["champion_after"] else "; it changed since, see `darkroom history`"
    print(
        f"decision   {in_words(promotion)}. {' '.join(promotion['reasons'])}\n"
        f"champion   models:/{name}@champion is {f'version {champion}' if champion else 'not set'}{moved}\n"
        f"report     {root / 'reports' / 'report.html'}\n"
        "\n"
        "next       darkroom predict IMAGE   classify an image\n"
        "           darkroom serve           serve the champion over HTTP, with a page to try it\n"
        "           make ui                  compare the runs in MLflow"
    )


def _champion(name: str) -> str | None:
    """Return the number of the champion as the registry has it now: a rollback may have followed the last decision."""
    from darkroom.registry.versions import find

    try:
        return find(name, alias="champion").version
    except RegistryError:
        return None


def _stages(root: Path, since: float | None) -> Iterator[str]:
    """Yield a table of the stages: whether each was run or cached, its seconds, and its last log line."""
    runs = {stage: last_run(stage, root=root) for stage in _names(root)}
    yield f"{'stage':<15}  {'':<6}  {'seconds':>7}  result"
    width = shutil.get_terminal_size().columns - 34
    for stage, ended in runs.items():
        if ended is None:  # its result came from DVC's cache or from another machine
            yield f"{stage:<15}  cached"
            continue
        state = "cached" if since and ended.started < since else "run"
        said = ended.said if len(ended.said) <= width else f"{ended.said[: width - 1]}…"
        yield f"{stage:<15}  {state:<6}  {ended.seconds:7.1f}  {said}".rstrip()


def _names(root: Path) -> Iterator[str]:
    """Yield the stages of dvc.yaml in its order, one per candidate where there is a matrix."""
    from darkroom.project.params import read_params

    candidates = read_params(root / "params.yaml")["candidates"]
    for name, stage in read_params(root / "dvc.yaml")["stages"].items():
        yield from (f"{name}@{candidate}" for candidate in candidates) if "matrix" in stage else (name,)


def _scores(evaluation: dict[str, Any]) -> Iterator[str]:
    winner = evaluation["winner"]
    scores = evaluation["candidates"][winner]
    low, high = scores["test_accuracy_ci95"]
    yield f"winner     {winner}: test accuracy {scores['test_accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%})"
    if recent := scores.get("recent"):  # an evaluation of before has none
        low, high = recent["accuracy_ci95"]
        yield (
            f"recent     accuracy {recent['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}) on "
            f"{recent['n_images']:,} incoming images"
        )
