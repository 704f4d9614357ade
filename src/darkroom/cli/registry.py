"""The commands about registered versions: history, rollback, lift-hold, approve, reject, compare, registry-check."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from darkroom.cli.options import Json, Model, hold_days, registered_name
from darkroom.errors import ParamsError
from darkroom.project.repository import checkout

app = typer.Typer()

Reason = Annotated[str, typer.Option("--reason", help="Reason, recorded in the history and on the version.")]


@app.command()
def history(model: Model = None, as_json: Json = False) -> None:
    """Show which version was champion when, who promoted it and why, and what was decided lately.

    --json adds the moves of all aliases.
    """
    from darkroom.cli import tables
    from darkroom.registry.comparisons import decided
    from darkroom.registry.versions import find, read

    name = registered_name(model)
    registered = read(name)
    if not registered.versions:
        find(name, alias="champion")  # raises the error that says what exists
    if as_json:
        told: dict[str, Any] = {"model": name, "aliases": dict(registered.aliases), "champions": registered.reigns()}
        hold = registered.hold
        held = hold and {**hold._asdict(), "ended": hold.is_over(hold_days(), datetime.now(UTC))}
        told |= {"hold": held, "comparisons": decided(registered), "moves": registered.history()}
        print(json.dumps(told, indent=2))
        return
    tables.print_history(registered, hold_days=hold_days())
    tables.print_decisions(decided(registered))


@app.command()
def rollback(
    reason: Reason,
    to: Annotated[
        str | None, typer.Option("--to", metavar="VERSION", help="An earlier champion; default: the previous one.")
    ] = None,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Make an earlier version champion again and put promotions on hold; the next `dvc repro` does not undo it."""
    from darkroom.cli import tables
    from darkroom.registry import aliases, versions

    if not reason.strip():
        raise ParamsError("--reason is empty; give a short reason, it is recorded in the history")
    champion, replaced = aliases.rollback(registered_name(model), reason=reason.strip(), to=to)
    if as_json:
        told = {"model": champion.name, "champion": champion.version}
        print(json.dumps({**told, "previous": replaced.version if replaced else None}))
        return
    moved = f"rolled back from version {replaced.version} to" if replaced else "the champion is again"
    print(f"{champion.name}: {moved} version {champion.version}")
    tables.print_hold(versions.read(champion.name), days=hold_days())


@app.command("lift-hold")
def lift_hold(
    reason: Annotated[str, typer.Option("--reason", help="Reason, recorded in the history.")] = "",
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Resume automatic promotions after a rollback."""
    from darkroom.registry import aliases

    name = registered_name(model)
    lifted = aliases.lift_hold(name, reason=reason.strip())
    if as_json:
        print(json.dumps({"model": name, "lifted": lifted and lifted._asdict()}))
    else:
        print(f"{name}: the hold is lifted" if lifted else f"{name}: promotions were not on hold")


@app.command()
def approve(
    version: Annotated[
        str | None, typer.Argument(metavar="VERSION", help="The version to approve; it must be the challenger.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Reason, recorded in the history.")] = "",
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Make the waiting challenger champion: promote.approval is manual, or a rollback put promotions on hold.

    It also ends a hold.
    """
    from darkroom.registry import aliases

    champion = aliases.approve(registered_name(model), version=version, reason=reason.strip())
    against = champion.tags[aliases.AGAINST]
    if as_json:
        print(json.dumps({"model": champion.name, "champion": champion.version, "compared_with": against}))
    else:
        compared = "there was no champion" if against == aliases.NOBODY else f"it was compared with version {against}"
        print(f"{champion.name}: approved version {champion.version} ({compared}); it is champion now")


@app.command()
def reject(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="The version that waits for approval.")],
    reason: Annotated[str, typer.Option("--reason", help="Reason, recorded in the history.")],
    model: Model = None,
) -> None:
    """Reject a version that waits for approval; later candidates need not beat it."""
    from darkroom.registry import aliases

    name = registered_name(model)
    aliases.reject(name, version=version, reason=reason.strip())
    print(f"{name}: version {version} is rejected")


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
    found = comparison.compare_versions(first, second, data=data or checkout() / "data" / "prepared")
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
    from darkroom.cli import tables
    from darkroom.registry import check
    from darkroom.registry.versions import read

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
    tables.print_hold(read(name), days=hold_days())
    problems = f"{len(found)} problem{'s' if len(found) > 1 else ''}" if found else "no problems"
    print(f"{name}: {problems}" + (f", {len(left)} not repaired" if repair and found else ""))
    raise typer.Exit(1 if left else 0)
