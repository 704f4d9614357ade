"""Compare the winner of the evaluation with the champion on the same images, register and promote it if it is better.

This stage runs in every `dvc repro`, so what was decided before is answered without loading a model or MLflow: the
champion is recognised by the sha256 of its model.onnx, and every decision is kept in .darkroom/decisions/.
"""

import json
import os
from argparse import Namespace
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from darkroom import promotion
from darkroom.console import run, say, stage_paths
from darkroom.errors import DataError
from darkroom.files import sha256_of, write_text
from darkroom.gates import parity
from darkroom.params import Section, digest, load_candidates, load_section
from darkroom.promotion import Decision, decide
from darkroom.promotion_rule import Gates
from darkroom.repository import repository_root
from darkroom.versions import Registered, Version, damage, load, read

N_VERIFIED = 64  # test images that the registered version must answer as evaluated
PARITY = "max_parity_difference"
DECIDES = ("gates", "paired", "promotion", "scoring", "slices")  # modules; a change in them asks every case anew


class PromoteParams(Section):
    """The section `promote` of params.yaml."""

    registered_model: str = Field(pattern=r"^\w[\w .-]*$", max_length=200)
    approval: Literal["automatic", "manual"]
    from_experiments: bool
    gates: Gates


class Outcome(NamedTuple):
    """What became of a candidate: the word for it, why, its version, and who is champion now."""

    word: Literal["unchanged", "kept", "would_promote", "awaiting_approval", "promoted"]
    decision: Decision
    version: Version | None
    champion: Version | None


def main() -> None:
    paths = stage_paths(__doc__, "evaluation", "predictions", "raw", "prepared", "models", "out")
    params = load_section("promote", PromoteParams)
    named = load_candidates()

    evaluation = _read_json(paths.evaluation)
    paths.onnx = _winners_model(paths, evaluation["winner"], named)
    registered = read(params.registered_model)
    if registered.unfinished:  # a process died while it moved an alias
        from darkroom.registry import settle

        settle(registered.name)
        registered = read(params.registered_model)
    report = _report(_outcome(paths, evaluation, registered, params), registered)
    write_text(paths.out, json.dumps(report, indent=2) + "\n")
    say(f"{registered.name}: {report['decision']}. {' '.join(report['reasons'])}")


def _winners_model(paths: Namespace, winner: str, named: list[str]) -> Path:
    """Return the winner's model.onnx; an evaluation of other candidates than those named now is not acted upon."""
    onnx: Path = paths.models / winner / "model.onnx"
    if winner not in named:
        raise DataError(
            f"{paths.evaluation}: the winner is {winner!r}, which is not among the candidates ({', '.join(named)}); "
            f"run `dvc repro evaluate`"
        )
    if not onnx.is_file():
        raise DataError(f"{onnx.parent}: there is no model.onnx; run `dvc repro train@{winner}` first")
    return onnx


def _outcome(paths: Namespace, evaluation: dict[str, Any], registered: Registered, params: PromoteParams) -> Outcome:
    """Decide about the candidate and do what was decided."""
    champion, known = registered.under("champion"), registered.with_model(sha256_of(paths.onnx))
    if champion and known and known.model_sha256 == champion.model_sha256:
        reason = f"The champion, version {champion.version}, is this very model ({paths.onnx})."
        return Outcome("unchanged", Decision(False, [reason], {}), champion, champion)
    kept = _kept_path(paths, evaluation, champion, params.gates)
    if kept.is_file():
        decision = Decision(**_read_json(kept))
    else:
        decision = _decide(paths, evaluation, champion, params.gates)
        _keep(kept, decision)
    if decision.promote and known and "rolled_back" in known.tags:
        reason = f"But version {known.version} is this very model, and was rolled back: {known.tags['rolled_back']}"
        return Outcome("kept", _saying(decision, reason), known, champion)
    if not decision.promote:
        return Outcome("kept", decision, known, champion)
    if os.environ.get("DVC_EXP_NAME") and not params.from_experiments:
        reason = "An experiment promotes nothing (promote.from_experiments is false)."
        return Outcome("would_promote", _saying(decision, reason), known, champion)
    waiting = "It waits for `darkroom approve` (promote.approval is manual)."
    if params.approval == "manual" and known and _awaits_approval(known, registered, decision):
        return Outcome("awaiting_approval", _saying(decision, waiting), known, champion)

    from darkroom import registry

    version = known if known and not damage(known) else _register(paths, evaluation, registered.name)
    decision = _verified(version, paths, evaluation, decision, limit=params.gates.max_parity_difference)
    replacing = champion.version if champion else None
    registry.challenge(version, replacing=replacing, reasons=decision.reasons)
    if params.approval == "manual":
        outcome = Outcome("awaiting_approval", _saying(decision, waiting), version, champion)
        _store_card(version, paths, evaluation, _report(outcome, registered))
        _keep(kept, decision)  # with the proof, so that a version that waits is not loaded in every run
        return outcome
    outcome = Outcome("promoted", decision, version, version)
    _store_card(version, paths, evaluation, _report(outcome, registered))
    registry.promote(version, replacing=replacing, reasons=decision.reasons)
    return outcome


def _kept_path(paths: Namespace, evaluation: dict[str, Any], champion: Version | None, gates: Gates) -> Path:
    """Return where the decision of this very case is kept: the name is the digest of all that it depends on."""
    source = Path(promotion.__file__).parent
    of_champion = sorted((champion.tags if champion else {}).items())
    inputs = {
        "candidate": [_sum(paths.onnx), _sum(paths.predictions), evaluation["candidates"][evaluation["winner"]]],
        "champion": [champion.version if champion else None, *(tag for tag in of_champion if _is_of_content(tag[0]))],
        "test": [evaluation["test_ids_sha256"], _sum(paths.prepared / "manifest.json")],
        "slices": _sum(paths.prepared / "index.parquet"),
        "gates": gates.model_dump(),
        "code": [_sum(source / f"{name}.py") for name in DECIDES],
    }
    return repository_root() / ".darkroom" / "decisions" / f"{digest(inputs)}.json"


def _is_of_content(tag: str) -> bool:
    return tag == "test_ids_sha256" or tag.startswith("sha256/")


def _decide(paths: Namespace, evaluation: dict[str, Any], champion: Version | None, gates: Gates) -> Decision:
    """Return the decision, after scoring the champion now on the images that the candidate was scored on."""
    from darkroom.dataset import Dataset
    from darkroom.scoring import answer, read_predictions, test_rows, test_slices

    candidate = read_predictions(paths.predictions, evaluation["winner"])
    metrics = evaluation["candidates"][evaluation["winner"]]
    if champion is None:
        return decide(candidate.correct, None, labels=candidate.labels, slices=[], metrics=metrics, rule=gates)
    dataset, package = Dataset.open(paths.prepared), load(champion)
    rows = test_rows(dataset, candidate.ids)
    decision = decide(
        candidate.correct,
        answer(champion, package, dataset, rows) == candidate.labels,
        labels=candidate.labels,
        slices=test_slices(dataset, rows, by=gates.slice_accuracy.by) if gates.slice_accuracy else [],
        metrics=metrics,
        rule=gates,
    )
    if champion.tags.get("test_ids_sha256") != evaluation["test_ids_sha256"]:
        decision.reasons.append("The test images are not those of the champion's promotion; both were scored now.")
    if missing := sorted(set(dataset.classes) - set(package.classes)):
        decision.reasons.append(f"The champion does not know {', '.join(missing)}: images of them count as its errors.")
    return decision


def _saying(decision: Decision, reason: str) -> Decision:
    return replace(decision, reasons=[*decision.reasons, reason])


def _keep(path: Path, decision: Decision) -> None:
    write_text(path, json.dumps(vars(decision), indent=2) + "\n")


def _register(paths: Namespace, evaluation: dict[str, Any], name: str) -> Version:
    """Return the candidate as a new version, with the lineage of its training."""
    from darkroom import registry, tracking
    from darkroom.provenance import LINEAGE, lineage_tags, lock_digest

    winner, trained = evaluation["winner"], _read_json(paths.models / evaluation["winner"] / "run.json")
    lineage = lineage_tags(
        data_digest=trained["data_digest"], params_digest=trained["params_digest"], candidate=winner
    ) | {"git.commit": trained["git_commit"], "git.dirty": str(trained["git_dirty"]).lower()}
    model_uri, run_tags = tracking.package(
        trained["model_uri"],
        run_id=trained["run_id"],
        experiment=trained["experiment"],
        onnx_path=paths.onnx,
        tags=lineage,
    )
    return registry.register(
        name,
        model_uri=model_uri,
        model_sha256=sha256_of(paths.onnx),
        tags={
            **lineage,
            **{key: run_tags[key] for key in LINEAGE if key in run_tags},
            "dvc.lock.digest": lock_digest(Path("dvc.lock")),
            "test_accuracy": str(evaluation["candidates"][winner]["test_accuracy"]),
            "test_ids_sha256": evaluation["test_ids_sha256"],
        },
    )


def _awaits_approval(known: Version, registered: Registered, decision: Decision) -> bool:
    """Return whether the version is the challenger of today's champion already, and was verified as such."""
    from darkroom.registry import AGAINST, NOBODY

    against = registered.aliases.get("champion", NOBODY)
    challenges = registered.aliases.get("challenger") == known.version and known.tags.get(AGAINST) == against
    return challenges and decision.tests[PARITY]["status"] in ("passed", "off")


def _verified(
    version: Version, paths: Namespace, evaluation: dict[str, Any], decision: Decision, *, limit: float | None
) -> Decision:
    """Return the decision with the proof that a consumer gets from the version what was evaluated.

    Raises:
        RegistryError: it cannot be loaded, or answers otherwise; that is no matter of degree, as other gates are.
    """
    from darkroom import registry
    from darkroom.dataset import Dataset
    from darkroom.scoring import read_predictions, test_rows

    if limit is None:
        return decision
    candidate, dataset = read_predictions(paths.predictions, evaluation["winner"]), Dataset.open(paths.prepared)
    rows = test_rows(dataset, candidate.ids)[:N_VERIFIED]
    expected = candidate.probabilities[:N_VERIFIED]
    difference = registry.verify(version, dataset.images[rows], expected, tolerance=limit)
    proof = parity(difference, limit=limit, n_images=len(rows)).as_dict()
    return replace(decision, tests={**decision.tests, PARITY: proof})


def _store_card(version: Version, paths: Namespace, evaluation: dict[str, Any], report: dict[str, Any]) -> None:
    """Keep a model card with the version that is about to take its place."""
    from darkroom import model_card, registry

    downloaded = paths.raw / "manifest.json"
    card = model_card.render(
        name=version.name,
        version=version.version,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=load(version).metadata,
        metrics=evaluation["candidates"][evaluation["winner"]],
        promotion=report | {"decision": "passed_all_gates"},  # whether it becomes champion is not known yet
        data=_read_json(paths.prepared / "manifest.json"),
        source=_read_json(downloaded) if downloaded.is_file() else None,
        tags=version.tags,
        run_id=version.run_id,
    )
    registry.store_card(version, markdown=card.markdown, html=card.html, description=card.short)


def _report(outcome: Outcome, registered: Registered) -> dict[str, Any]:
    """Return what reports/promotion.json says."""
    version, champion = outcome.version, outcome.champion
    return {
        "decision": outcome.word,
        "reasons": outcome.decision.reasons,
        "registered_model": registered.name,
        "version": version.version if version else None,
        "champion_before": registered.aliases.get("champion"),
        "champion_after": champion.version if champion else None,
        "tests": outcome.decision.tests,
    }


def _sum(path: Path) -> str:
    """Return the sha256 of a file that the stage depends on."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise _unreadable(path, error) from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read ({error}); run `dvc repro` from the start")


if __name__ == "__main__":
    run(main)
