"""The only writer of aliases; readers use versions.py.

MLflow's aliases have no compare-and-set and no history. Here every move is made under the store's lock (lock.py; an
MLflow server has none, so one host promotes), only if the champion is still the one of the decision, is read back, and
is recorded (ledger.py). An interrupted call can be repeated: unfinished moves are finished first, and a version is
recognised by its model's sha256.
"""

from collections.abc import Sequence

from darkroom.errors import RegistryError
from darkroom.registry.comparisons import REFERENCE
from darkroom.registry.ledger import CHALLENGER, CHAMPION, HOLD, PREVIOUS, Mark, Move, ledger
from darkroom.registry.snapshot import Hold, Registered, Version
from darkroom.registry.versions import damage, find, read

ROLLED_BACK = "rolled_back"  # version tag: why it must not become champion again automatically
AGAINST = "challenge.against"  # version tag: the champion that it was compared with, or NOBODY
NOBODY = "none"


def challenge(version: Version, *, replacing: str | None, reasons: Sequence[str]) -> None:
    """Point `challenger` at the version, which `promote` or `approve` may make champion.

    Args:
        replacing: the champion's version at the time of the decision, None if there was none.

    Raises:
        RegistryError: the champion has changed since, or the version was rolled back.
    """
    with ledger(version.name) as book:
        registered = book.read()
        if registered.aliases.get(CHAMPION) != version.version:
            _refuse_another_champion(registered, replacing)
            _refuse_rolled_back(registered, version.version)
        before = registered.aliases.get(CHALLENGER)
        against = Mark(version.version, AGAINST, replacing or NOBODY)
        book.move([Move(CHALLENGER, before, version.version, reasons)], [against])


def promote(version: Version, *, replacing: str | None, reasons: Sequence[str], despite: Hold | None = None) -> None:
    """Point `champion` at the version and `previous` at the champion it replaces; a hold ends.

    Args:
        replacing: the champion's version at the time of the decision, None if there was none.
        despite: a hold that has expired.

    Raises:
        RegistryError: the champion has changed since, the version was rolled back, or promotions were put on hold.
    """
    with ledger(version.name) as book:
        registered = book.read()
        if registered.aliases.get(CHAMPION) == version.version:
            return
        _refuse_another_champion(registered, replacing)
        _refuse_rolled_back(registered, version.version)
        if registered.hold not in (None, despite):
            raise RegistryError(f"{version.name}: {registered.hold}; run `dvc repro promote` again")
        book.move(_to_champion(registered, version.version, reasons, [f"replaced by version {version.version}"]))


def approve(name: str, *, version: str | None = None, reason: str = "") -> Version:
    """Make the challenger champion, which ends a hold, and return it; nothing happens if it is champion already.

    Args:
        version: the expected challenger; None: any.
        reason: recorded in the history.

    Raises:
        RegistryError: there is no challenger, it is another version, it was compared with another champion, it was
            rolled back, or one of its files is gone or changed.
    """
    waiting = find(name, alias=CHALLENGER)
    if version and waiting.version != version:
        raise RegistryError(
            f"{name}: the challenger is version {waiting.version}, not {version}; only the challenger can be approved"
        )
    _refuse_damaged(waiting)
    with ledger(name) as book:
        registered = book.read()
        if registered.aliases.get(CHAMPION) == waiting.version:
            return waiting
        if (now := registered.aliases.get(CHALLENGER)) != waiting.version:
            raise RegistryError(f"{name}: the challenger is now version {now or 'none'}; review it again")
        _refuse_rolled_back(registered, waiting.version)
        against, champion = waiting.tags.get(AGAINST), registered.aliases.get(CHAMPION, NOBODY)
        if against != champion:
            raise RegistryError(
                f"{name} version {waiting.version} was compared with version {against or 'unknown'}, but the champion "
                "is "
                f"now version {champion}; run `dvc repro promote` again"
            )
        reasons = [f"approved: {reason}" if reason else "approved"]
        book.move(_to_champion(registered, waiting.version, reasons, [f"replaced by version {waiting.version}"]))
    return find(name, alias=CHAMPION)


def reject(name: str, *, version: str, reason: str) -> None:
    """Reject a version that waits for approval: it is not promoted automatically, and later ones need not beat it.

    Args:
        version: that of the challenger.
        reason: recorded in the history and on the version.

    Raises:
        RegistryError: the version does not wait for approval, or is the champion.
    """
    find(name, version=version)
    with ledger(name) as book:
        registered = book.read()
        if registered.aliases.get(CHALLENGER) != version or registered.aliases.get(CHAMPION) == version:
            now = registered.aliases.get(CHALLENGER)
            waits = f"version {now} does" if now not in (None, registered.aliases.get(CHAMPION)) else "none does"
            raise RegistryError(f"{name}: version {version} does not wait for approval; {waits}")
        rejected = Move(CHALLENGER, version, None, [f"rejected: {reason}"])
        book.move([rejected], [Mark(version, ROLLED_BACK, f"rejected: {reason}")])


def rollback(name: str, *, reason: str, to: str | None = None) -> tuple[Version, Version | None]:
    """Make an earlier champion champion again; return it and the version it replaced (None: the champion was lost).

    The version that was rolled back is tagged, so that the next `dvc repro` does not promote it again, and promotions
    are put on hold, because a model trained the next night would hardly differ.

    Args:
        to: a version that was champion before; None: `previous`, or the last remaining champion if it was lost.

    Raises:
        RegistryError: there is no earlier champion, `to` was never champion, one of its files is gone or changed, or
            another process changes the champion at the same time.
    """
    seen = read(name)
    if not seen.reigns():
        find(name, alias=CHAMPION)
    if not seen.unfinished:  # an unfinished move is finished below, and may be this rollback
        _refuse_damaged(_rollback_target(seen, to))  # before the lock, which must not be held during a download
    with ledger(name) as book:
        registered = book.read()
        if any(_is_rollback(move, registered, to) for move in book.finished or []):
            return find(name, alias=CHAMPION), registered.under(PREVIOUS)
        if not seen.unfinished:
            _refuse_another_champion(registered, seen.aliases.get(CHAMPION), again="check `darkroom history` first")
        target, current = _rollback_target(registered, to), registered.under(CHAMPION)
        hold = target.version if current else registered.aliases.get(HOLD)
        reasons = [f"rollback: {reason}"]
        moves = _to_champion(registered, target.version, reasons, [f"rolled back: {reason}"], hold=hold)
        marks = [Mark(current.version, ROLLED_BACK, reason)] if current else []
        book.move(moves, [*marks, Mark(target.version, ROLLED_BACK, None)])
    return find(name, alias=CHAMPION), find(name, version=current.version) if current else None


def stand_in(version: Version, *, lost: Version) -> None:
    """Move the champion's aliases to another version of the same model, because files of the champion are lost.

    A hold, a challenger that was compared with the lost version, and margins that refer to it are kept.

    Raises:
        RegistryError: the champion has changed since.
    """
    with ledger(version.name) as book:
        registered = book.read()
        _refuse_another_champion(registered, lost.version)
        reasons = [f"the same model as version {lost.version}, of which files are lost"]
        named = [alias for alias in (CHALLENGER, HOLD, CHAMPION) if registered.aliases.get(alias) == lost.version]
        waiting = registered.under(CHALLENGER)
        compared = waiting and waiting.tags.get(AGAINST) == lost.version
        marks = [Mark(waiting.version, AGAINST, version.version)] if waiting and compared else []
        held = [each for each in registered.versions.values() if each.tags.get(REFERENCE) == lost.version]
        marks += [Mark(each.version, REFERENCE, version.version) for each in held]
        book.move([Move(alias, lost.version, version.version, reasons) for alias in named], marks)


def lift_hold(name: str, *, reason: str = "") -> Hold | None:
    """Resume promotions after a rollback and return the lifted hold, None if there was none.

    Args:
        reason: recorded in the history.

    Raises:
        RegistryError: no model of that name is registered, or the store refuses.
    """
    if not read(name).versions:
        find(name, alias=HOLD)  # raises the error that says what exists
    with ledger(name) as book:
        registered = book.read()
        held = registered.hold
        reasons = [f"hold lifted: {reason}" if reason else "hold lifted"]
        book.move([Move(HOLD, registered.aliases.get(HOLD), None, reasons)])
    return held


def lost_champion(registered: Registered) -> str | None:
    """Return a sentence if the champion's alias or version is gone, None if nothing is lost."""
    reigns = registered.reigns()
    if not reigns or registered.under(CHAMPION):
        return None
    name, last = registered.name, reigns[-1]["version"]
    gone = "is no longer under the alias" if last in registered.versions else "was deleted"
    lost = f"{name}: the champion, version {last}, {gone}, and Darkroom did not do that; "
    if left := _last_champion(registered):
        return lost + f"make version {left.version} champion with `darkroom rollback --to {left.version} --reason ...`"
    return lost + (
        "no earlier champion is left to compare with: restore the store from a backup, or start again by deleting the "
        f"registered model {name} in MLflow's UI"
    )


def settle(name: str) -> list[str]:
    """Finish moves of dead processes and record moves made elsewhere; return a sentence for each of them."""
    with ledger(name) as book:
        return book.settled


def _refuse_another_champion(
    registered: Registered, seen: str | None, *, again: str = "run `dvc repro promote` again"
) -> None:
    current = registered.aliases.get(CHAMPION)
    if current != seen:
        raise RegistryError(
            f"{registered.name}: the champion is now version {current or 'none'}, but the decision was made against "
            f"{seen or 'none'}; {again}"
        )


def _refuse_rolled_back(registered: Registered, version: str) -> None:
    if reason := registered.versions[version].tags.get(ROLLED_BACK):
        raise RegistryError(
            f"{registered.name} version {version} was rolled back: {reason}; use `darkroom rollback --to {version}` to "
            "promote it anyway"
        )


def _is_rollback(move: Move, registered: Registered, to: str | None) -> bool:
    """Return whether a finished move is the requested rollback and still holds."""
    is_one = move.alias == CHAMPION and move.reasons[0].startswith("rollback: ")
    return is_one and move.to == registered.aliases.get(CHAMPION) and to in (None, move.to)


def _refuse_damaged(version: Version) -> None:
    if found := damage(version):
        raise RegistryError(
            f"{version.name} version {version.version} cannot become champion: {'; '.join(found)}; restore its files"
        )


def _rollback_target(registered: Registered, to: str | None) -> Version:
    name, champion = registered.name, registered.aliases.get(CHAMPION)
    default = registered.under(PREVIOUS) if registered.under(CHAMPION) else _last_champion(registered)
    if to is None and default is None:
        lost = lost_champion(registered)
        raise RegistryError(lost or f"{name} has no alias {PREVIOUS!r}: there is no earlier champion to roll back to")
    target = registered.versions.get(to) if to is not None else default
    earlier = dict.fromkeys(reign["version"] for reign in registered.reigns() if reign["version"] != champion)
    known = ", ".join(version for version in earlier if version in registered.versions) or "none"
    if target is None:
        raise RegistryError(f"{name} has no version {to}; earlier champions: {known}")
    if target.version == champion:
        raise RegistryError(f"{name}: version {champion} is already the champion")
    if to is not None and to not in earlier:
        raise RegistryError(f"{name}: version {to} was never champion; earlier champions: {known}")
    return target


def _last_champion(registered: Registered) -> Version | None:
    """Return the last champion that still exists and was not rolled back."""
    reigned = [registered.versions.get(reign["version"]) for reign in reversed(registered.reigns())]
    return next((version for version in reigned if version and ROLLED_BACK not in version.tags), None)


def _to_champion(
    registered: Registered,
    version: str,
    reasons: Sequence[str],
    reasons_of_previous: Sequence[str],
    hold: str | None = None,
) -> list[Move]:
    """Return the moves that make a version champion, and remove another challenger.

    Args:
        hold: the version under the alias `hold` from then on, None: no hold.
    """
    aliases, moves = registered.aliases, []
    champion, challenger = aliases.get(CHAMPION), aliases.get(CHALLENGER)
    if challenger not in (None, version):
        moves.append(Move(CHALLENGER, challenger, None, [f"version {version} becomes champion"]))
    if champion:
        moves.append(Move(PREVIOUS, aliases.get(PREVIOUS), champion, reasons_of_previous))
    moves.append(Move(HOLD, aliases.get(HOLD), hold, reasons))
    return [*moves, Move(CHAMPION, champion, version, reasons)]
