"""Decisions about winners: each case is decided once and kept in .darkroom/decisions/.

promote runs in every `dvc repro`; a case that was decided before is answered without loading a model or MLflow.
"""

import json
from pathlib import Path

from darkroom.evaluation import predictions
from darkroom.files.writing import checksum, read_json, write_text
from darkroom.project.params import digest
from darkroom.project.repository import repository_root
from darkroom.promotion.decision import Decision, decide
from darkroom.promotion.params import Gates
from darkroom.promotion.scored import score
from darkroom.promotion.scoring import NotComparable
from darkroom.promotion.winner import Winner
from darkroom.registry.snapshot import Version

# Modules: a change in one of them asks every case again.
DECIDES = [
    Path(__file__).with_name(f"{name}.py")
    for name in ("answers", "cases", "decision", "gates", "paired", "scored", "scoring", "slices", "winner")
]


class Case:
    """A winner against a champion under some gates.

    Args:
        champion: None: there is none yet.
    """

    def __init__(self, winner: Winner, champion: Version | None, gates: Gates) -> None:
        self._winner, self._champion, self._gates = winner, champion, gates
        self._kept = _path(winner, champion, gates)

    def decision(self) -> Decision:
        """Return the decision of this very case, made now if it was not made before.

        Raises:
            DataError: what evaluate or preprocess wrote is missing or does not belong together.
            RegistryError: the champion cannot be loaded, or fails.
        """
        if self._kept.is_file():
            return Decision(**read_json(self._kept))
        try:
            decision = _decide(self._winner, self._champion, self._gates)
        except NotComparable as reason:  # not kept: what is missing may come back
            return Decision(False, [str(reason)], {})
        self.keep(decision)
        return decision

    def keep(self, decision: Decision) -> None:
        """Let this be the decision of the case from now on."""
        write_text(self._kept, json.dumps(vars(decision), indent=2) + "\n")


def _path(winner: Winner, champion: Version | None, gates: Gates) -> Path:
    """Return where the decision of the case is kept: the name is the digest of all that it depends on."""
    of_champion = sorted((champion.tags if champion else {}).items())
    inputs = {
        "candidate": [winner.model_sha256, checksum(winner.predictions), checksum(winner.seen), winner.metrics],
        "champion": [champion.version if champion else None, *(tag for tag in of_champion if _is_of_content(tag[0]))],
        "test": [winner.test_ids_sha256, checksum(winner.prepared / "manifest.json")],
        "slices": checksum(winner.prepared / "index.parquet"),
        "gates": gates.model_dump(),
        "code": [checksum(path) for path in (*DECIDES, Path(predictions.__file__))],
    }
    return repository_root() / ".darkroom" / "decisions" / f"{digest(inputs)}.json"


def _is_of_content(tag: str) -> bool:
    return tag == "test_ids_sha256" or tag.startswith("sha256/")


def _decide(winner: Winner, champion: Version | None, gates: Gates) -> Decision:
    by = gates.slice_accuracy.by if gates.slice_accuracy else []
    both = score(winner, champion, slices=by)
    decision = decide(
        both.test,
        recent=both.recent,
        classes=both.classes,
        champion_classes=both.champion_classes,
        metrics=winner.metrics,
        rule=gates,
    )
    decision.reasons.extend(both.remarks)
    return decision
