"""Decisions about winners: each case is decided once and kept in .darkroom/decisions/.

promote runs in every `dvc repro`; a case that was decided before is answered without loading a model or MLflow.
"""

import json
from pathlib import Path

from darkroom.files import write_text
from darkroom.params import digest
from darkroom.promotion import Decision, decide
from darkroom.promotion_rule import Gates
from darkroom.registered import Version
from darkroom.repository import repository_root
from darkroom.scoring import answer, test_slices
from darkroom.versions import load
from darkroom.winner import Winner, read_json, sum_of

DECIDES = ("decisions", "gates", "paired", "promotion", "scoring", "slices")  # a change in them asks every case anew


def decided(winner: Winner, champion: Version | None, gates: Gates) -> Decision:
    """Return the decision of this very case, made now if it was not made before."""
    kept = _path(winner, champion, gates)
    if kept.is_file():
        return Decision(**read_json(kept))
    decision = _decide(winner, champion, gates)
    keep(decision, winner, champion, gates)
    return decision


def keep(decision: Decision, winner: Winner, champion: Version | None, gates: Gates) -> None:
    """Let this be the decision of the case from now on."""
    write_text(_path(winner, champion, gates), json.dumps(vars(decision), indent=2) + "\n")


def _path(winner: Winner, champion: Version | None, gates: Gates) -> Path:
    """Return where the decision of the case is kept: the name is the digest of all that it depends on."""
    of_champion = sorted((champion.tags if champion else {}).items())
    inputs = {
        "candidate": [sum_of(winner.onnx), sum_of(winner.predictions), winner.metrics],
        "champion": [champion.version if champion else None, *(tag for tag in of_champion if _is_of_content(tag[0]))],
        "test": [winner.test_ids_sha256, sum_of(winner.prepared / "manifest.json")],
        "slices": sum_of(winner.prepared / "index.parquet"),
        "gates": gates.model_dump(),
        "code": [sum_of(Path(__file__).with_name(f"{name}.py")) for name in DECIDES],
    }
    return repository_root() / ".darkroom" / "decisions" / f"{digest(inputs)}.json"


def _is_of_content(tag: str) -> bool:
    return tag == "test_ids_sha256" or tag.startswith("sha256/")


def _decide(winner: Winner, champion: Version | None, gates: Gates) -> Decision:
    """Return the decision, after scoring the champion now on the images that the winner was scored on."""
    candidate = winner.answers()
    if champion is None:
        return decide(candidate.correct, None, labels=candidate.labels, slices=[], metrics=winner.metrics, rule=gates)
    dataset, rows = winner.test_images(candidate)
    package = load(champion)
    decision = decide(
        candidate.correct,
        answer(champion, package, dataset, rows) == candidate.labels,
        labels=candidate.labels,
        slices=test_slices(dataset, rows, by=gates.slice_accuracy.by) if gates.slice_accuracy else [],
        metrics=winner.metrics,
        rule=gates,
    )
    if champion.tags.get("test_ids_sha256") != winner.test_ids_sha256:
        decision.reasons.append("The test images are not those of the champion's promotion; both were scored now.")
    if missing := sorted(set(dataset.classes) - set(package.classes)):
        decision.reasons.append(f"The champion does not know {', '.join(missing)}: images of them count as its errors.")
    return decision
