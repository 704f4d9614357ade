"""Decisions about winners, each made once and cached in .darkroom/decisions/.

promote runs in every `dvc repro`; a cached decision needs neither a model nor MLflow.
"""

import json
from pathlib import Path
from typing import Any

from darkroom.evaluation import predictions
from darkroom.evaluation.metrics import paired
from darkroom.files.writing import checksum, read_json, write_text
from darkroom.project.params import digest
from darkroom.project.repository import repository_root
from darkroom.promotion.decision import Decision, decide
from darkroom.promotion.params import Gates
from darkroom.promotion.scored import score
from darkroom.promotion.scoring import NotComparable
from darkroom.promotion.winner import Winner
from darkroom.registry import comparisons
from darkroom.registry.snapshot import Registered, Version

# Modules; a change in one of them invalidates all cached decisions.
DECIDES = [
    Path(__file__).with_name(f"{name}.py")
    for name in (
        "against_champion",
        "answers",
        "cases",
        "decision",
        "gates",
        "scored",
        "scoring",
        "slices",
        "winner",
    )
] + [Path(paired.__file__)]


class Case:
    """A winner against a champion under some gates.

    Args:
        champion: None if there is none yet.
        registered: the registered model, which counts the comparisons on the test set.

    Attributes:
        reference: the version with which the candidate is compared for a margin besides the champion, or None.
    """

    def __init__(self, winner: Winner, champion: Version | None, gates: Gates, *, registered: Registered) -> None:
        self._winner, self._champion, self._gates, self._registered = winner, champion, gates, registered
        has_margin = champion is not None and gates.champion is not None and gates.champion.margin > 0
        self.reference = comparisons.reference(registered, champion) if champion and has_margin else None
        self._kept = _path(winner, champion, self.reference, gates)

    def decision(self, *, counts: bool) -> Decision:
        """Return the cached decision of this case, or make it now.

        Args:
            counts: whether to count it as a comparison on the test set and to note it in the run; not for experiments
                that may not promote, nor for the comparison with a version that waits.

        Raises:
            DataError: outputs of evaluate or preprocess are missing or do not belong together.
            RegistryError: the champion cannot be loaded, or fails.
        """
        if self._kept.is_file():
            said = read_json(self._kept)
            counted = said.pop("counted")
            decision = Decision(**said)
            if counted or not counts:
                return decision
        else:
            try:
                decision = self._decide()
            except NotComparable as reason:  # not cached, because missing files may come back
                return Decision(False, [str(reason)], {})
        if counts:
            self._count(decision)
        self.keep(decision, counted=counts)
        return decision

    def keep(self, decision: Decision, *, counted: bool = True) -> None:
        """Cache the decision of the case."""
        write_text(self._kept, json.dumps({**vars(decision), "counted": counted}, indent=2) + "\n")

    def _decide(self) -> Decision:
        winner, champion, gates = self._winner, self._champion, self._gates
        by = gates.slice_accuracy.by if gates.slice_accuracy else []
        both = score(winner, champion, reference=self.reference, slices=by)
        decision = decide(
            both.test,
            recent=both.recent,
            classes=both.classes,
            champion_classes=both.champion_classes,
            metrics=winner.metrics,
            rule=gates,
            n_comparisons=comparisons.number(self._registered, *self._compared()) if champion else 1,
        )
        decision.reasons.extend(both.remarks)
        return decision

    def _compared(self) -> tuple[list[str], str]:
        """Return the ids of the test images, and a digest of the two models."""
        champion = self._champion.model_sha256 if self._champion else None
        return self._winner.answers("test").ids.tolist(), digest([self._winner.model_sha256, champion])

    def _count(self, decision: Decision) -> None:
        """Count the comparison in the registry, and note the decision in the run."""
        run_id = read_json(self._winner.onnx.with_name("run.json"))["run_id"]
        if self._champion:
            ids, models = self._compared()
            reason = decision.tests["champion"]["sentence"] if "champion" in decision.tests else decision.reasons[0]
            comparisons.record(self._champion.name, ids, models, run_id=run_id, passed=decision.promote, reason=reason)
        made = decision.tests.get("champion", {}).get("n_comparisons", 1)
        noted = {"passed": decision.promote, "reasons": " ".join(decision.reasons), "comparison": made}
        said = f"{'passed all gates' if decision.promote else 'not promoted'}. {' '.join(decision.reasons)}"
        comparisons.note(run_id, {f"promotion.{key}": str(value) for key, value in noted.items()}, decision=said)


def _path(winner: Winner, champion: Version | None, reference: Version | None, gates: Gates) -> Path:
    """Return the file of the cached decision; its name is the digest of everything that the decision depends on."""
    inputs = {
        "candidate": [winner.model_sha256, checksum(winner.predictions), checksum(winner.seen), winner.metrics],
        "champion": _content(champion),
        "reference": _content(reference),
        "test": [winner.test_ids_sha256, checksum(winner.prepared / "manifest.json")],
        "slices": checksum(winner.prepared / "index.parquet"),
        "gates": gates.model_dump(),
        "code": [checksum(path) for path in (*DECIDES, Path(predictions.__file__))],
    }
    return repository_root() / ".darkroom" / "decisions" / f"{digest(inputs)}.json"


def _content(version: Version | None) -> list[Any]:
    """Return the immutable facts of a version: its number, and the tags with the checksums of its files."""
    if version is None:
        return []
    fixed = (tag for tag in version.tags.items() if tag[0] == "test_ids_sha256" or tag[0].startswith("sha256/"))
    return [version.version, *sorted(fixed)]
