"""The steps of one retraining: preflight checks, recovery, triggers, training, commit, push."""

import json
import re
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from darkroom.data.raw.fingerprint import SOURCES, fingerprint
from darkroom.errors import DarkroomError, LockedError, TrainingError
from darkroom.files.writing import read_json, write_text
from darkroom.operations import alarms, lineage, preflight, publishing, triggers
from darkroom.operations.notifications import KEPT, NOTHING, PROMOTED, UNCHANGED
from darkroom.operations.params import Order, ordered
from darkroom.operations.triggers import Trigger
from darkroom.operations.undo import MARK, WorkInProgress, end, free_dvc_locks, lock_is_valid, processes_of
from darkroom.operations.workspace import INCOMING, LOCK, Workspace
from darkroom.project.console import say
from darkroom.registry import versions

APPLIED = ("would_promote", "awaiting_approval", PROMOTED)  # the last two only with promote.from_experiments
EXPERIMENT = "experiment"  # of retrain.mode
_TRAINED = re.compile(r"^Running stage '(train(?:@[^']+)?)'", re.MULTILINE)


class Retraining:
    """The steps of one run; `report` is filled on the way, so that it is useful after a failure."""

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
        preflight.check_merges(self.order.root)
        if self.order.commit or self.order.params.mode == EXPERIMENT:
            preflight.check_repository(self.tree)
        if self.order.commit:
            preflight.check_commit(self.tree)
        left = self._recover()
        if self.order.push:
            self._catch_up()
        self.report["version_before"] = left["champion_before"] if left else self._champion()
        looked = self._look(left)
        self.report["triggers"] = [asdict(trigger) for trigger in looked]
        if not any(trigger.fired for trigger in looked):
            self.report |= {"decision": NOTHING, "reasons": [trigger.reason for trigger in looked]}
            self.report["version_after"] = self.report["version_before"]
            self._publish()
            return
        for trigger in looked:
            if trigger.fired:
                say(f"retrain: {trigger.reason}")
        self.fired = triggers.fired(looked)
        self._begin(self.report["version_before"])
        try:
            self._train()
        except LockedError:  # somebody runs DVC by hand, and dvc.lock may be theirs
            self.work.note({**self.state, "restored": True})
            raise
        except BaseException:
            self._put_back()
            raise
        self._remember()
        self.work.note({**self.state, "restored": True})
        self.tree = Workspace(self.order.root, log=self.tree.log)  # the next steps are never undone
        if self.order.commit:
            runs = lineage.trained_runs(self.tree)
            self.report["commit"] = self.tree.commit(publishing.message(self.report, runs))
        self.work.finish()
        self._publish()

    def _recover(self) -> dict[str, Any] | None:
        """Undo the changes of a killed run and return its state; None if there was none."""
        left = self.work.state()
        if left is None:
            return None
        left = {"champion_before": self._champion(), "writes": [], "left": {}, **left}
        if not left["restored"]:
            end(processes_of(left["token"]))  # its stages may still run
            free_dvc_locks(self.order.root, left["pids"])
            if self._champion() == left["champion_before"] or not lock_is_valid(self.order.root / LOCK):
                self._restore(left)
            self.work.note({**left, "restored": True})
        return left

    def _restore(self, state: dict[str, Any]) -> None:
        changed = self.work.restore(state, committed=self.tree.committed(state["writes"]))
        self.tree.unstage([name for name in changed if name != LOCK])

    def _catch_up(self) -> None:
        """Pull before anything is trained, and check that the result can be pushed."""
        preflight.check_remotes(self.tree)
        publishing.refuse_mixed_images(self.tree)
        moved, overtaken = publishing.catch_up(self.tree, on_images=self._note_images)
        if overtaken:  # our last result is no longer in dvc.lock, so its images are new again
            self._write_known({**self._known(), "incoming": {}})
        self._pull_images()
        if moved:
            # Others may have trained already, and params.yaml may have changed.
            self.tree.dvc("pull", "--force", "--allow-missing", "dvc.yaml")
            self.order = ordered(force=self.order.force, commit=self.order.commit, push=self.order.push)
            self.report |= {"registered_model": self.order.model, "mode": self.order.params.mode}
        preflight.check_push(self.tree)

    def _note_images(self, names: list[str]) -> None:
        """Record which new images of others to pull, so that it is done even after a kill."""
        known = self._known()
        self._write_known({**known, "pull": sorted({*known["pull"], *names})})

    def _pull_images(self) -> None:
        if not (names := self._known()["pull"]):
            return
        try:
            self.tree.dvc("pull", *names)
        except TrainingError as error:
            raise TrainingError(
                f"new images that others pushed could not be added: {error}; if images of your own are in the way, "
                "move them elsewhere until the next retraining (--force would delete them)"
            ) from None
        self._write_known({**self._known(), "pull": []})

    def _look(self, left: dict[str, Any] | None) -> list[Trigger]:
        """Return the triggers; expensive ones are checked only if no other has fired."""
        order, params, known = self.order, self.order.params, self._known()
        self.incoming = triggers.incoming_images(order.root / INCOMING, max_image_bytes=order.max_image_bytes)
        self.marks = self._marks(known["folders"])
        prepared = triggers.prepared_ids(order.root / "data" / "prepared") if self.incoming else frozenset()
        looked = [triggers.forced()] if order.force else []
        looked += [triggers.unfinished(left)] if left else []
        looked += triggers.lost_champion(versions.read(order.model))
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

    def _marks(self, known: dict[str, str]) -> dict[str, str]:
        """Return the fingerprints of sources on this machine by path; a missing one keeps that of the last run."""
        memory = self.order.root / SOURCES
        found = {
            path: fingerprint(self.order.root / Path(path).expanduser(), memory=memory) for path in self.order.folders
        }
        return {path: mark for path, now in found.items() if (mark := now or known.get(path))}

    def _train(self) -> None:
        if folders := self._incoming_folders():
            self.tree.dvc("add", *folders)
            # Where DVC links files to its cache, these would be read-only; but they are the user's own.
            self.tree.dvc("unprotect", *folders)
        # --force reruns every stage. Otherwise download runs again, and its result decides what else runs.
        force = ["--force"] if "forced" in self.fired else []
        if not force and self.fired & triggers.FETCH_AGAIN:
            self.tree.dvc("repro", "--single-item", "--force", "download")
        promotion = self._experiment(*force) if self.order.params.mode == EXPERIMENT else self._repro(*force)
        after = self._champion()
        decision = promotion["decision"]
        if decision == UNCHANGED and after != self.report["version_before"]:
            decision = PROMOTED  # by the previous run, which was killed afterwards
        if decision == KEPT and not self.report["trained"] and not self.fired & {"unfinished", "changed_stage"}:
            decision = UNCHANGED  # the repeated decision of `promote` is about an earlier candidate
            promotion["reasons"].insert(0, "Nothing was trained: nothing that a model depends on has changed.")
        self.report |= {"decision": decision, "reasons": promotion["reasons"], "version_after": after}

    def _repro(self, *options: str) -> dict[str, Any]:
        self._run_stages("repro", *options)
        return read_json(self.order.root / "reports" / "promotion.json", remedy="run `dvc repro promote`")

    def _experiment(self, *force: str) -> dict[str, Any]:
        """Train in a copy; a candidate that would be promoted is applied here and promoted."""
        if "lost_champion" in self.fired:  # an experiment does not change the champion
            self._repro("--single-item", "promote")
        self.tried = triggers.behind(self._status(), self.order.root)
        name = f"retrain-{datetime.now(UTC):%Y%m%d-%H%M%S}"
        self.tree.stage_incoming()  # DVC copies only files that git tracks
        self._run_stages("exp", "run", "--temp", "--name", name, *force)
        said = self.work.folder / "promotion.json"
        said.unlink(missing_ok=True)
        self.tree.dvc("get", ".", "reports/promotion.json", "--rev", name, "--out", str(said))
        promotion = read_json(said, remedy="run `dvc repro promote`")
        if promotion["decision"] not in APPLIED:
            return promotion
        # Not `dvc exp apply`, which would also restore other files that somebody has edited meanwhile.
        self.tree.dvc("get", ".", LOCK, "--rev", name, "--out", LOCK, "--force")
        self.tree.dvc("checkout", "--force", "--allow-missing", "dvc.yaml")
        return self._repro("--single-item", "promote")

    def _run_stages(self, *arguments: str) -> None:
        self.report["trained"] += _TRAINED.findall(self.tree.dvc(*arguments).printed)

    def _put_back(self) -> None:
        """After a failure, end the run's processes and restore dvc.lock, .dvc files and outputs.

        If the champion has moved, its dvc.lock is kept, and the next run finishes the rest.
        """
        end(processes_of(self.state["token"]))
        free_dvc_locks(self.order.root, self.state["pids"])
        if self._champion() != self.state["champion_before"] and lock_is_valid(self.order.root / LOCK):
            return
        self._note_contents()
        self._restore(self.state)
        self.state = self.work.note({**self.state, "restored": True})
        if (self.order.root / LOCK).is_file():
            try:  # not data/incoming, which may have new images
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
        self._write_known(known)

    def _write_known(self, known: dict[str, Any]) -> None:
        write_text(self._known_file, json.dumps(known, indent=1, ensure_ascii=False) + "\n")

    def _known(self) -> dict[str, Any]:
        nothing: dict[str, Any] = {"incoming": {}, "folders": {}, "finished": None, "tried": None, "pull": []}
        try:
            return nothing | dict(json.loads(self._known_file.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return nothing

    def _publish(self) -> None:
        """Push all commits that upstream lacks, including those of earlier runs; record the commits."""
        if not self.order.commit:
            return
        committed = self.report["commit"] is not None
        try:
            if self.order.push and publishing.unpushed(self.tree):
                publishing.push(self.tree, on_images=self._note_images)
                self.report["pushed"] = True
                self._pull_images()
        except DarkroomError as error:
            raise TrainingError(
                f"committed, but not pushed: {error}; the next `darkroom retrain --push` tries again"
            ) from None
        finally:
            if committed:  # a push may have rebased it
                self.report["commit"] = self.tree.head()
            lineage.record(self.tree, self.order.model, new=committed)

    def _status(self) -> dict[str, list[Any]]:
        return triggers.parse_status(self.tree.dvc("status", "--json").printed)

    def _champion(self) -> str | None:
        return versions.read(self.order.model).aliases.get("champion")

    def _promoted_at(self) -> datetime | None:
        moves = [entry for entry in versions.read(self.order.model).history() if entry["alias"] == "champion"]
        return datetime.fromisoformat(moves[-1]["at"]) if moves else None

    def _begin(self, champion: str | None) -> None:
        """Record the start of the run, and mark every process that it starts."""
        facts = {**self.owner, "model": self.order.model, "champion_before": champion, "pids": []}
        facts["fired"] = sorted(self.fired)
        self.state = self.work.begin(facts, writes=[LOCK, *(f"{folder}.dvc" for folder in self._incoming_folders())])
        self.tree.log.unlink(missing_ok=True)
        self.tree = Workspace(
            self.order.root,
            log=self.tree.log,
            variables={MARK: self.state["token"]},
            on_start=self._note_process,
            on_look=self._note_contents,
        )

    def _incoming_folders(self) -> list[str]:
        """Return data/incoming/<class> for every class with new images, as git and DVC write it."""
        return sorted({(INCOMING / name.split("/", 1)[0]).as_posix() for name in self.incoming})

    def _note_process(self, pid: int) -> None:
        self.state = self.work.note({**self.state, "pids": [*self.state["pids"], pid]})

    def _note_contents(self) -> None:
        if (contents := self.work.contents(self.state)) != self.state["left"]:
            self.state = self.work.note({**self.state, "left": contents})
