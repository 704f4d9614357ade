"""`darkroom report`: the stages of the last `dvc repro`, the result, the decision, and what to do next."""

import json
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from darkroom.cli.options import Json
from darkroom.errors import DataError
from darkroom.files.writing import read_json
from darkroom.project.repository import checkout
from darkroom.project.stage_runs import last_run

app = typer.Typer()


@app.command()
def report(
    since: Annotated[
        float | None,
        typer.Option("--since", metavar="SECONDS", help="Unix time; a stage that last ran before it counts as cached."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the result of the last `dvc repro`: stages, winner, accuracy, decision, champion, and what to do next."""
    root = checkout()
    reports = root / "reports"
    if missing := [name for name in ("evaluation", "promotion") if not (reports / f"{name}.json").is_file()]:
        first = {"evaluation": "no model was evaluated", "promotion": "nothing was decided about the evaluated model"}
        raise DataError(f"there is nothing to report yet: {first[missing[0]]}; `dvc repro` does all that is left")
    evaluation = read_json(reports / "evaluation.json", remedy="run `dvc repro` to write it")
    promotion = read_json(reports / "promotion.json", remedy="run `dvc repro` to write it")
    name = promotion["registered_model"]
    champion = _champion(name)
    if as_json:
        print(json.dumps({"evaluation": evaluation, "promotion": promotion, "champion": champion}))
        return
    from darkroom.operations import disk
    from darkroom.promotion.outcome import in_words

    is_current = champion == promotion["champion_after"]
    moved = "" if is_current else "; it changed since, see `darkroom history`"
    print("\n".join(_stages(root, since)), end="\n\n")
    _print_labelled(
        *_scores(evaluation),
        ("decision", f"{in_words(promotion, is_current=is_current)}. {' '.join(promotion['reasons'])}"),
        ("champion", f"models:/{name}@champion is {f'version {champion}' if champion else 'not set'}{moved}"),
        ("report", str(root / "reports" / "report.html")),
        ("disk", disk.in_short(disk.usage(root))),
    )
    print()
    _print_labelled(
        ("next", "darkroom predict IMAGE   classify an image"),
        ("", "darkroom serve           serve it over HTTP, with a page to try it"),
        ("", "make ui                  compare the runs in MLflow"),
    )


def _print_labelled(*lines: tuple[str, str]) -> None:
    """Print texts beside their labels, wrapped to the width of the terminal."""
    width = max(40, shutil.get_terminal_size().columns - 11)
    for label, text in lines:
        wrapped = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
        print(f"{label:<11}" + f"\n{'':<11}".join(wrapped))


def _champion(name: str) -> str | None:
    """Return the champion's present number in the registry: a rollback may have followed the last decision."""
    from darkroom.registry.versions import read

    champion = read(name).under("champion")
    return champion.version if champion else None


def _stages(root: Path, since: float | None) -> Iterator[str]:
    """Yield the lines of a table of the stages: run or cached, seconds, and last log line."""
    runs = {stage: last_run(stage, root=root) for stage in _names(root)}
    yield f"{'stage':<15}  {'':<6}  {'seconds':>7}  result"
    width = shutil.get_terminal_size().columns - 34
    for stage, ended in runs.items():
        if ended is None:  # its result came from DVC's cache or from another machine
            yield f"{stage:<15}  cached"
            continue
        state = "" if since is None else "cached" if ended.started < since else "run"
        said = ended.said.removeprefix(f"{stage.partition('@')[0]}: ")
        said = said if len(said) <= width else f"{said[: width - 1]}…"
        yield f"{stage:<15}  {state:<6}  {ended.seconds:7.1f}  {said}".rstrip()


def _names(root: Path) -> Iterator[str]:
    """Yield the stages of dvc.yaml in order, one per candidate for a matrix."""
    from darkroom.project.params import read_params

    candidates = read_params(root / "params.yaml")["candidates"]
    for name, stage in read_params(root / "dvc.yaml")["stages"].items():
        yield from (f"{name}@{candidate}" for candidate in candidates) if "matrix" in stage else (name,)


def _scores(evaluation: dict[str, Any]) -> Iterator[tuple[str, str]]:
    winner = evaluation["winner"]
    scores = evaluation["candidates"][winner]
    low, high = scores["test_accuracy_ci95"]
    accuracy = f"{winner}: test accuracy {scores['test_accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%})"
    yield "winner", accuracy
    if recent := scores.get("recent"):  # evaluations of earlier releases have none
        low, high = recent["accuracy_ci95"]
        yield (
            "recent",
            f"accuracy {recent['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}) on "
            f"{recent['n_images']:,} incoming images",
        )
