"""List the problems in a registry and in the runs of this machine, and repair what can be repaired.

A process may die between any two calls to the store; somebody may move an alias in MLflow's UI or delete a directory.
Repairs use only the registry's own records; lost files are not replaced.
"""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from darkroom.registry.aliases import AGAINST, NOBODY, ROLLED_BACK, lost_champion
from darkroom.registry.ledger import ALIASES, CHALLENGER, CHAMPION, PREVIOUS, Move, in_words, ledger, unrecorded
from darkroom.registry.snapshot import Registered
from darkroom.registry.versions import damage, location_of, place_hint, read
from darkroom.tracking.artifacts import misplaced, relocate
from darkroom.tracking.runs import process_namespace
from darkroom.tracking.store import client, store_errors, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUNNING_AT_ONCE = 1000  # runs per call; MLflow's limit is 50,000
CLOCK_SECONDS = 10  # by which the start of a process may seem to move when the clock is adjusted


@dataclass(frozen=True)
class Finding:
    """A problem.

    Attributes:
        kind: misplaced | unfinished | unrecorded | no champion | champion is previous | stale challenger | files |
            dead run
        about: the alias, version or run.
        sentence: what is wrong and how to repair it.
        repairable: whether `repair` repairs it.
    """

    kind: str
    about: str
    sentence: str
    repairable: bool


def check(name: str) -> list[Finding]:
    """Return the problems of a registered model, and open runs of dead processes of this machine.

    Raises:
        RegistryError: the store does not answer, or an entry of the history is damaged.
    """
    registered = read(name)
    return [*_of_places(), *_of_aliases(registered), *_of_files(registered), *_of_runs()]


def repair(name: str) -> list[Finding]:
    """Repair what can be repaired and return all problems found; `check` lists the remaining ones.

    Raises:
        LockedError: another process holds the lock of the registry.
        RegistryError: the store does not answer, or refuses.
    """
    found = check(name)
    relocate()
    location_of.cache_clear()
    if read(name) != Registered(name):
        with ledger(name) as book:  # opening it finishes and records moves
            registered = book.read()
            book.move(_mending_moves(registered))
    opened = client()
    for finding in found:
        if finding.kind == "dead run":
            with store_errors(tracking_uri()):
                opened.set_terminated(finding.about, "KILLED")
    return found


def _of_places() -> Iterator[Finding]:
    for old, new in misplaced().items():
        sentence = f"artifacts are recorded in {old}, but they belong in {new}; --repair corrects that"
        yield Finding("misplaced", old, sentence, repairable=True)


def _of_aliases(registered: Registered) -> Iterator[Finding]:
    if intent := registered.unfinished:
        sentence = f"unfinished: {in_words(intent)}; finished by --repair or the next promotion"
        yield Finding("unfinished", ", ".join(move["alias"] for move in intent["moves"]), sentence, repairable=True)
    else:
        for move in unrecorded(registered):
            sentence = (
                f"{move.alias} is version {move.to or 'none'}, but the history says {move.before or 'none'}; --repair "
                "records it in the history"
            )
            yield Finding("unrecorded", move.alias, sentence, repairable=True)
    if lost := lost_champion(registered):
        yield Finding("no champion", CHAMPION, lost, repairable=False)
    for move in _mending_moves(registered):
        kind = "stale challenger" if move.alias == CHALLENGER else "champion is previous"
        sentence = f"{move.alias} is version {move.before}: {move.reasons[0]}; --repair moves it to "
        yield Finding(kind, move.alias, sentence + (f"version {move.to}" if move.to else "none"), repairable=True)


def _mending_moves(registered: Registered) -> list[Move]:
    """Return the moves that make the aliases consistent."""
    moves = []
    champion, previous, challenger = (registered.under(alias) for alias in (CHAMPION, PREVIOUS, CHALLENGER))
    if champion and previous and champion.version == previous.version:
        earlier = [reign["version"] for reign in registered.reigns() if reign["version"] != champion.version]
        to = next((version for version in reversed(earlier) if version in registered.versions), None)
        moves.append(Move(PREVIOUS, previous.version, to, [f"version {champion.version} is champion and previous"]))
    if challenger and not (champion and challenger.version == champion.version):
        against, now = challenger.tags.get(AGAINST), champion.version if champion else NOBODY
        if ROLLED_BACK in challenger.tags:
            moves.append(Move(CHALLENGER, challenger.version, None, ["it was rolled back"]))
        elif against is not None and against != now:
            why = f"it was compared with version {against}, but the champion is now {now}"
            moves.append(Move(CHALLENGER, challenger.version, None, [why]))
    return moves


def _of_files(registered: Registered) -> Iterator[Finding]:
    for number in sorted(registered.versions, key=int):
        version = registered.versions[number]
        aliases = [alias for alias in ALIASES if registered.aliases.get(alias) == number]
        named = f"version {number}" + (f" ({', '.join(aliases)})" if aliases else "")
        for sentence in damage(version):
            hint = "restore it from a backup, or move the alias with `darkroom rollback`" if aliases else "restore it"
            yield Finding("files", number, f"{named}: {sentence}; {place_hint(version) or hint}", repairable=False)


def _of_runs() -> Iterator[Finding]:
    opened = client()
    sought = f"attributes.status = 'RUNNING' and tags.`process.host` = '{socket.gethostname()}'"
    with store_errors(tracking_uri()):
        experiments = [experiment.experiment_id for experiment in _experiments(opened)]
        runs = opened.search_runs(experiments, sought, max_results=RUNNING_AT_ONCE) if experiments else []
    for run in runs:
        tags = run.data.tags
        if tags.get("process.namespace", process_namespace()) == process_namespace() and not _lives(tags):
            sentence = (
                f"run {run.info.run_name} is RUNNING, its process {tags['process.pid']} is dead; --repair closes it as "
                "KILLED"
            )
            yield Finding("dead run", run.info.run_id, sentence, repairable=True)


def _experiments(opened: "MlflowClient") -> Iterator[Any]:
    token = None
    while page := opened.search_experiments(page_token=token):
        yield from page
        if not (token := page.token):
            return


def _lives(tags: dict[str, str]) -> bool:
    """Return whether the process that opened a run on this machine still exists; its id may have been reused.

    Runs of earlier releases lack the start time of their process; for these any process with the id counts.
    """
    import psutil

    try:
        process = psutil.Process(int(tags["process.pid"]))
        started = float(tags.get("process.started", "nan"))
        return process.status() != psutil.STATUS_ZOMBIE and not abs(process.create_time() - started) > CLOCK_SECONDS
    except (psutil.NoSuchProcess, ValueError):
        return False
