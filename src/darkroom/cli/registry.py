"""The commands about registered versions: history, rollback, approve, compare, registry-check."""

import json
from pathlib import Path
from typing import Annotated

import typer

from darkroom.cli.options import Json, Model, registered_name
from darkroom.errors import ParamsError
from darkroom.project.repository import repository_root

app = typer.Typer()

Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the history and on the version.")]


@app.command()
def history(model: Model = None, as_json: Json = False) -> None:
    """Show what was champion when, who made it so and why; --json adds every move of the other aliases."""
    from darkroom.cli import tables
    from darkroom.registry.versions import find, read

    name = registered_name(model)
    registered = read(name)
    if not registered.versions:
        find(name, alias="champion")  # says that there is none, and what there is
    if as_json:
        told = {"model": name, "aliases": dict(registered.aliases), "champions": registered.reigns()}
        print(json.dumps({**told, "moves": registered.history()}, indent=2))
        return
    tables.print_history(registered)


@app.command()
def rollback(
    reason: Reason,
    to: Annotated[
        str | None, typer.Option("--to", metavar="VERSION", help="An earlier champion; without it the previous one.")
    ] = None,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Make an earlier champion champion again; the next `dvc repro` does not undo it."""
    from darkroom.registry import aliases

    if not reason.strip():
        raise ParamsError("--reason is empty; say in a few words why, the history keeps it")
    champion, previous = aliases.rollback(registered_name(model), reason=reason.strip(), to=to)
    if as_json:
        print(json.dumps({"model": champion.name, "champion": champion.version, "previous": previous.version}))
    else:
        print(f"{champion.name}: champion is version {champion.version} again, previous is version {previous.version}")


@app.command()
def approve(
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="The version that you mean; it must be the challenger.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the history.")] = "",
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Make the challenger champion, where promote.approval is manual."""
    from darkroom.registry import aliases

    champion = aliases.approve(registered_name(model), version=version, reason=reason.strip())
    if as_json:
        print(json.dumps({"model": champion.name, "champion": champion.version}))
    else:
        print(f"{champion.name}: champion is version {champion.version}")


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A version or an alias.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="A folder of prepared data; without it data/prepared.")
    ] = None,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Score two versions on the same test images and say whether chance explains the difference."""
    from darkroom.cli import tables
    from darkroom.promotion import comparison
    from darkroom.registry.versions import find

    name = registered_name(model)
    first, second = (find(name, version=which) if which.isdecimal() else find(name, alias=which) for which in (a, b))
    found = comparison.compare_versions(first, second, data=data or repository_root() / "data" / "prepared")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    names = [
        f"version {version.version}" + ("" if which.isdecimal() else f" ({which})")
        for version, which in ((first, a), (second, b))
    ]
    tables.print_comparison(found, a=names[0], b=names[1])


@app.command("registry-check")
def registry_check(
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """List what is wrong in the registry, and runs that dead processes of this machine left open.

    Exit code 1 where something is wrong; with --repair where something is left.
    """
    from darkroom.registry import check

    name = registered_name(model)
    found = check.repair(name) if repair else check.check(name)
    left = check.check(name) if repair else found
    if as_json:
        told = {"model": name, "found": [vars(finding) for finding in found]}
        print(json.dumps({**told, "left": [vars(finding) for finding in left]}, indent=2))
        raise typer.Exit(1 if left else 0)
    for finding in found:
        mended = "mended: " if finding not in left else ""
        print(f"{mended}{finding.kind}: {finding.sentence}")
    print(f"{name}: {len(left)} found" if not repair else f"{name}: {len(found)} found, {len(left)} left")
    raise typer.Exit(1 if left else 0)
