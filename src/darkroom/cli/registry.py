"""The commands about registered versions: history, rollback, approve, compare, registry-check."""

import json
from pathlib import Path
from typing import Annotated

import typer

from darkroom.cli.options import Json, Model, registered_name
from darkroom.errors import ParamsError
from darkroom.project.repository import repository_root

app = typer.Typer()

Reason = Annotated[str, typer.Option("--reason", help="Reason, recorded in the history and on the version.")]


@app.command()
def history(model: Model = None, as_json: Json = False) -> None:
    """Show which version was champion when, who promoted it and why; --json adds the moves of all aliases."""
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
        str | None, typer.Option("--to", metavar="VERSION", help="An earlier champion; default: the previous one.")
    ] = None,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Make an earlier version champion again; the next `dvc repro` does not undo it."""
    from darkroom.registry import aliases

    if not reason.strip():
        raise ParamsError("--reason is empty; give a short reason, it is recorded in the history")
    champion, previous = aliases.rollback(registered_name(model), reason=reason.strip(), to=to)
    if as_json:
        print(json.dumps({"model": champion.name, "champion": champion.version, "previous": previous.version}))
    else:
        print(f"{champion.name}: rolled back from version {previous.version} to version {champion.version}")


@app.command()
def approve(
    version: Annotated[
        str | None, typer.Argument(metavar="VERSION", help="The version to approve; it must be the challenger.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Reason, recorded in the history.")] = "",
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
    b: Annotated[str, typer.Argument(metavar="B", help="The version or alias to compare it with.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="Directory of prepared data; default: data/prepared.")
    ] = None,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Score two versions on the same test images and test whether the difference is significant."""
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
    repair: Annotated[bool, typer.Option("--repair", help="Repair what can be repaired.")] = False,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """List problems in the registry, and runs left open by dead processes of this machine.

    The exit code is 1 if problems were found, or with --repair if problems remain.
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
        prefix = "repaired: " if finding not in left else ""
        print(f"{prefix}{finding.kind}: {finding.sentence}")
    problems = f"{len(found)} problem{'s' if len(found) > 1 else ''}" if found else "no problems"
    print(f"{name}: {problems}" + (f", {len(left)} not repaired" if repair and found else ""))
    raise typer.Exit(1 if left else 0)
