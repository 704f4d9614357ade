"""Train again where something calls for it, leave the decision to `promote`, and tell who wants to know.

Until a run is through, its failure or death leaves champion, data and dvc.lock as they were: at once where it can still
act, else by the next run, which then goes on with what DVC's cache and the checkpoints hold.
"""

import json
import re
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from darkroom.errors import DarkroomError, LockedError
from darkroom.files.writing import read_json, write_text
from darkroom.operations import alarms, triggers
from darkroom.operations.notifications import notify
from darkroom.operations.params import Order
from darkroom.operations.single_flight import single_flight
from darkroom.operations.triggers import Trigger
from darkroom.operations.undo import MARK, WorkInProgress, end, free_dvc_locks, lock_is_valid, processes_of
from darkroom.operations.workspace import INCOMING, Workspace
from darkroom.project.console import say
from darkroom.registry import versions

NOTHING, FAILED, LOCKED = "nothing", "failed", "locked"  # beside the words of `promote`
UNCHANGED, KEPT, PROMOTED = "unchanged", "kept", "promoted"
APPLIED = ("would_promote", "awaiting_approval", PROMOTED)  # the last two: with promote.from_experiments
EXPERIMENT = "experiment"  # of retrain.mode
REPORT = Path("reports/retrain.json")
_TRAINED = re.compile(r"^Running stage '(train(?:@[^']+)?)'", re.MULTILINE)


def retrain(order: Order) -> dict[str, Any]:
    """Return the report of one run, which is also in reports/retrain.json.

    decision is `nothing` where no trigger fired, `locked` where somebody runs DVC by hand, else what `promote` decided.

    Raises:
        LockedError: another run is at work, or somebody runs DVC by hand.
        DarkroomError: whatever went wrong; the report says it too, with decision `failed`.
    """
    with single_flight("darkroom retrain") as owner:
        began = time.monotonic()
        report = {
            "decision": FAILED,
            "registered_model": order.model,
            "mode": order.params.mode,
            "started": owner["started"],
            "seconds": 0.0,
            "who": owner["who"],
            "triggers": [],
            "trained": [],
            "reasons": [],
            "version_before": None,
            "version_after": None,
            "commit": None,
            "pushed": False,
            "error": None,
        }
        try:
            _Retraining(order, owner, report).run()
        except BaseException as error:
            known = isinstance(error, DarkroomError | OSError)
            report["error"] = str(error) if known else f"stopped by {type(error).__name__}: {error}"
            if isinstance(error, LockedError):
                report["decision"] = LOCKED
            raise
        finally:
            report["seconds"] = round(time.monotonic() - began, 1)
            _tell(order, report)
    return report


class _Retraining:
    """The moves of one run; `report` is filled as it goes, so that a failure finds in it what is known."""

    def __init__(self, order: Order, owner: dict[str, Any], report: dict[str, Any]) -> None:
        self.order = order
        self.owner = owner
        self.report = report
        self.work = WorkInProgress(order.root)
        self.tree = Workspace(order.root, log=self.work.folder / "log.txt")
        self.state: dict[str, Any] = {}
        self.incoming: dict[str, str] = {}
        self.marks: dict[str, str] = {}
        self.fired: frozenset[str] = frozenset()
        self.tried: str | None = None
        self._known_file = self.work.folder / "known.json"

    def run(self) -> None:
        left = self._recover()
        self.report["version_before"] = left["champion_before"] if left else self._champion()
        looked = self._look(left)
        self.report["triggers"] = [asdict(trigger) for trigger in looked]
        if not any(trigger.fired for trigger in looked):
            self.report |= {"decision": NOTHING, "reasons": [trigger.reason for trigger in looked]}
            self.report["version_after"] = self.report["version_before"]
            return
        for trigger in looked:
            if trigger.fired:
                say(f"retrain: {trigger.reason}")
        self.fired = triggers.fired(looked)
        self._begin(self.report["version_before"])
        try:
            self._train()
        except LockedError:  # dvc.lock may be the work of whoever runs DVC by hand
            self.work.note({**self.state, "restored": True})
            raise
        except BaseException:
            self._put_back()
            raise
        self._remember()
        self._publish()
        self.work.finish()

    def _recover(self) -> dict[str, Any] | None:
        """Put right what a killed run left, and return what it wrote down; None where there was none."""
        left = self.work.state()
        if left is None:
            return None
        left = {"champion_before": self._champion(), "kept": [], **left}
        if not left["restored"]:
            end(processes_of(left["token"]))  # its stages may have outlived it
            free_dvc_locks(self.order.root, left["pids"])
            if self._champion() == left["champion_before"] or not lock_is_valid(self.order.root / "dvc.lock"):
                self.work.restore(left)
            self.work.note({**left, "restored": True})
        return left

    def _look(self, left: dict[str, Any] | None) -> list[Trigger]:
        """Return the triggers; expensive ones are checked only if no other has fired."""
        order, params, known = self.order, self.order.params, self._known()
        self.incoming = triggers.incoming_images(order.root / INCOMING, max_image_bytes=order.max_image_bytes)
        self.marks = {path: triggers.fingerprint(order.root / path) for path in order.folders}
        prepared = triggers.prepared_ids(order.root / "data" / "prepared") if self.incoming else frozenset()
        looked = [triggers.forced()] if order.force else []
        looked += [triggers.unfinished(left)] if left else []
        looked += [
            triggers.new_images(self.incoming, known["incoming"], prepared, minimum=params.min_new_images),
            triggers.changed_folders(self.marks, known["folders"]),
            triggers.champion_age(
                self._promoted_at(),
                datetime.fromisoformat(known["finished"]) if known["finished"] else None,
                now=datetime.now(UTC),
                limit=params.max_champion_age_days,
            ),
        ]
        if not any(trigger.fired for trigger in looked):
            looked += alarms.look(params, root=order.root, model=order.model, now=datetime.now(UTC))
        if not any(trigger.fired for trigger in looked):
            status = self._status()
            tried = params.mode == EXPERIMENT and known["tried"] == triggers.behind(status, order.root)
            looked.append(triggers.changed_stages(status, tried=tried))
        return looked

    def _train(self) -> None:
        classes = sorted({name.split("/", 1)[0] for name in self.incoming})
        if classes:
            self.tree.dvc("add", *((INCOMING / name).as_posix() for name in classes))
        # --force: every stage, whatever DVC holds. Else what the sources serve now decides what runs behind it.
        force = ["--force"] if "forced" in self.fired else []
        if not force and self.fired & triggers.FETCH_AGAIN:
            self.tree.dvc("repro", "--single-item", "--force", "download")
        promotion = self._experiment(*force) if self.order.params.mode == EXPERIMENT else self._repro(*force)
        after = self._champion()
        decision = promotion["decision"]
        if decision == UNCHANGED and after != self.report["version_before"]:
            decision = PROMOTED  # by the run before this one, which was killed behind it
        if decision == KEPT and not self.report["trained"] and not self.fired & {"unfinished", "changed_stage"}:
            decision = UNCHANGED  # what `promote` says again is of an earlier night's candidate
            promotion["reasons"].insert(0, "Nothing was trained: nothing that a model depends on has changed.")
        self.report |= {"decision": decision, "reasons": promotion["reasons"], "version_after": after}

    def _repro(self, *force: str) -> dict[str, Any]:
        self._run_stages("repro", *force)
        return read_json(self.order.root / "reports" / "promotion.json", remedy="run `dvc repro promote`")

    def _experiment(self, *force: str) -> dict[str, Any]:
        """Train in a copy; what would be promoted is applied here and promoted, everything else stays an experiment."""
        self.tried = triggers.behind(self._status(), self.order.root)
        name = f"retrain-{datetime.now(UTC):%Y%m%d-%H%M%S}"
        self.tree.stage_incoming()  # DVC copies what git knows
        self._run_stages("exp", "run", "--temp", "--name", name, *force)
        said = self.work.folder / "promotion.json"
        said.unlink(missing_ok=True)
        self.tree.dvc("get", ".", "reports/promotion.json", "--rev", name, "--out", str(said))
        promotion = read_json(said, remedy="run `dvc repro promote`")
        if promotion["decision"] not in APPLIED:
            return promotion
        self.tree.dvc("exp", "apply", name)
        return self._repro()

    def _run_stages(self, *arguments: str) -> None:
        self.report["trained"] += _TRAINED.findall(self.tree.dvc(*arguments).printed)

    def _put_back(self) -> None:
        """After a failure: nothing of the run lives on, and dvc.lock, .dvc files and outputs are as before.

        Once the champion has moved, its dvc.lock stays, and the next run finishes the rest.
        """
        end(processes_of(self.state["token"]))
        free_dvc_locks(self.order.root, self.state["pids"])
        if self._champion() != self.state["champion_before"] and lock_is_valid(self.order.root / "dvc.lock"):
            return
        if self.work.restore(self.state):
            self.tree.unstage_incoming()
        if "dvc.lock" in self.state["kept"]:
            try:  # not data/incoming: the images that somebody put there are not ours to remove
                self.tree.dvc("checkout", "--force", "--allow-missing", "dvc.yaml")
            except DarkroomError as error:
                say(f"retrain: DVC outputs could not be restored: {error}; restore them with `dvc checkout`")

    def _remember(self) -> None:
        known = {
            "incoming": self.incoming,
            "folders": self.marks,
            "finished": self.owner["started"],
            "tried": self.tried,
        }
        write_text(self._known_file, json.dumps(known, indent=1, ensure_ascii=False) + "\n")

    def _known(self) -> dict[str, Any]:
        nothing: dict[str, Any] = {"incoming": {}, "folders": {}, "finished": None, "tried": None}
        try:
            return nothing | dict(json.loads(self._known_file.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return nothing

    def _publish(self) -> None:
        if self.order.commit:
            self.report["commit"] = self.tree.commit(_commit_message(self.report))
        if self.order.push:
            self.tree.push()
            self.report["pushed"] = True

    def _status(self) -> dict[str, list[Any]]:
        return triggers.parse_status(self.tree.dvc("status", "--json").printed)

    def _champion(self) -> str | None:
        return versions.read(self.order.model).aliases.get("champion")

    def _promoted_at(self) -> datetime | None:
        moves = [entry for entry in versions.read(self.order.model).history() if entry["alias"] == "champion"]
        return datetime.fromisoformat(moves[-1]["at"]) if moves else None

    def _begin(self, champion: str | None) -> None:
        """Write down what begins, and mark every process that it starts."""
        facts = {**self.owner, "model": self.order.model, "champion_before": champion, "pids": []}
        facts["fired"] = sorted(self.fired)
        self.state = self.work.begin(facts)
        self.tree.log.unlink(missing_ok=True)
        variables = {MARK: self.state["token"]}
        self.tree = Workspace(self.order.root, log=self.tree.log, variables=variables, on_start=self._note_process)

    def _note_process(self, pid: int) -> None:
        self.state = self.work.note({**self.state, "pids": [*self.state["pids"], pid]})


def _commit_message(report: dict[str, Any]) -> str:
    fired = [f"- {trigger['reason']}" for trigger in report["triggers"] if trigger["fired"]]
    champion = f"champion {report['version_before'] or 'none'} -> {report['version_after'] or 'none'}"
    subject = f"retrain: {report['registered_model']} {report['decision']}, {champion}"
    return "\n".join([subject, "", "Reasons for the run:", *fired, "", "Decision of promote:", *report["reasons"]])


def _tell(order: Order, report: dict[str, Any]) -> None:
    """Send the report to those who want to know, and write it: a full disk must not keep a failure from them."""
    report["notified"] = []
    event = _event(report)
    if event not in (NOTHING, LOCKED) and (event != UNCHANGED or _is_alarm(report)):
        told = order.params.notify
        report["notified"] = notify(
            event, report, command=told.command, webhook=told.webhook, timeout=told.timeout_seconds, root=order.root
        )
    for result in report["notified"]:
        if not result["sent"]:
            say(f"retrain: could not notify {result['to']}: {result['error']}")
    try:
        write_text(order.root / REPORT, json.dumps(report, indent=2) + "\n")
    except OSError as error:  # raised, it would take the place of what went wrong before
        say(f"retrain: {REPORT} cannot be written: {error}")


def _event(report: dict[str, Any]) -> str:
    """Return the word for those who are told."""
    return FAILED if report["error"] and report["decision"] != LOCKED else str(report["decision"])


def _is_alarm(report: dict[str, Any]) -> bool:
    """Return whether somebody waits to hear of the run, even where it changed nothing."""
    return bool(triggers.fired([Trigger(**trigger) for trigger in report["triggers"]]) & triggers.ALARMS)
