"""Compare the winner of the evaluation with the champion on the same images, register and promote it if it is better.

This stage runs in every `dvc repro`, so what was decided before is answered without loading a model or MLflow: the
champion is recognised by the sha256 of its model.onnx, and every comparison is kept in .darkroom/decisions/.
"""

import json
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from pydantic import Field

from darkroom.console import run, say, stage_paths
from darkroom.errors import DataError
from darkroom.files import sha256_of, write_text
from darkroom.params import Section, digest, load_candidates, load_section
from darkroom.promotion import Decision, Rule, decide
from darkroom.repository import repository_root
from darkroom.versions import Version, load, read

N_VERIFIED = 64  # test images that the registered version must answer as evaluated


class PromoteParams(Section):
    """The section `promote` of params.yaml."""

    registered_model: str = Field(pattern=r"^\w[\w .-]*$", max_length=200)
    min_test_accuracy: float = Field(ge=0, le=1)
    alpha: float = Field(gt=0, le=1)
    from_experiments: bool


def main() -> None:
    paths = stage_paths(__doc__, "evaluation", "predictions", "prepared", "models", "out")
    params = load_section("promote", PromoteParams)
    named = load_candidates()

    evaluation = _read_json(paths.evaluation)
    paths.onnx = _winners_model(paths, evaluation["winner"], named)
    registered = read(params.registered_model)
    champion = registered.under("champion")
    known = registered.with_model(sha256_of(paths.onnx))

    if champion and known and known.model_sha256 == champion.model_sha256:
        reason = f"The champion, version {champion.version}, is this very model ({paths.onnx})."
        _write(paths.out, "unchanged", Decision(False, [reason], {}), champion, before=champion, after=champion)
        return
    decision = _decide(paths, evaluation, champion, Rule(params.min_test_accuracy, params.alpha))
    if decision.promote and known and "rolled_back" in known.tags:
        reason = f"But version {known.version} is this very model, and was rolled back: {known.tags['rolled_back']}"
        decision = Decision(False, [*decision.reasons, reason], decision.tests)
    if not decision.promote:
        _write(paths.out, "kept", decision, known, before=champion, after=champion, name=params.registered_model)
    elif os.environ.get("DVC_EXP_NAME") and not params.from_experiments:
        reason = "An experiment promotes nothing (promote.from_experiments is false)."
        decision = Decision(True, [*decision.reasons, reason], decision.tests)
        _write(
            paths.out, "would_promote", decision, known, before=champion, after=champion, name=params.registered_model
        )
    else:
        version = known or _register(paths, evaluation, registered.name)
        verification = _publish(version, paths, evaluation, decision, champion)
        decision = Decision(True, decision.reasons, {**decision.tests, "verification": verification})
        _write(paths.out, "promoted", decision, version, before=champion, after=version)


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


def _decide(paths: Namespace, evaluation: dict[str, Any], champion: Version | None, rule: Rule) -> Decision:
    """Return the decision, taken from the file that an equal comparison left, else by scoring the champion now."""
    champion_sha256 = champion.model_sha256 if champion else None
    inputs = [sha256_of(paths.onnx), champion_sha256, sha256_of(paths.predictions), vars(rule)]
    kept = repository_root() / ".darkroom" / "decisions" / f"{digest(inputs)}.json"
    if kept.is_file():
        return Decision(**json.loads(kept.read_text()))
    from darkroom.dataset import Dataset
    from darkroom.scoring import answer, read_predictions, test_rows

    candidate = read_predictions(paths.predictions, evaluation["winner"])
    if champion is None:
        return decide(candidate.correct, None, rule)
    dataset, package = Dataset.open(paths.prepared), load(champion)
    predicted = answer(package, dataset, test_rows(dataset, candidate.ids))
    decision = decide(candidate.correct, predicted == candidate.labels, rule)
    if champion.tags.get("test_ids_sha256") != evaluation["test_ids_sha256"]:
        decision.reasons.append("The test images are not those of the champion's promotion; both were scored now.")
    if missing := sorted(set(dataset.classes) - set(package.classes)):
        decision.reasons.append(f"The champion does not know {', '.join(missing)}: images of them count as its errors.")
    write_text(kept, json.dumps(vars(decision), indent=2) + "\n")
    return decision


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


def _publish(
    version: Version, paths: Namespace, evaluation: dict[str, Any], decision: Decision, champion: Version | None
) -> dict[str, Any]:
    """Prove that a consumer gets from the version what was evaluated, make it champion, and return the proof."""
    from darkroom import registry
    from darkroom.dataset import Dataset
    from darkroom.scoring import read_predictions, test_rows

    registry.challenge(version, reasons=decision.reasons)
    candidate, dataset = read_predictions(paths.predictions, evaluation["winner"]), Dataset.open(paths.prepared)
    rows = test_rows(dataset, candidate.ids)[:N_VERIFIED]
    difference = registry.verify(version, dataset.images[rows], candidate.probabilities[:N_VERIFIED])
    registry.promote(version, replacing=champion.version if champion else None, reasons=decision.reasons)
    return {"n_images": len(rows), "max_abs_difference": difference}


def _write(
    path: Path,
    decision: str,
    made: Decision,
    version: Version | None,
    *,
    before: Version | None,
    after: Version | None,
    name: str = "",
) -> None:
    """Write reports/promotion.json, and the decision with its reasons for the person who watches."""
    report = {
        "decision": decision,
        "reasons": made.reasons,
        "registered_model": version.name if version else name,
        "version": version.version if version else None,
        "champion_before": before.version if before else None,
        "champion_after": after.version if after else None,
        "tests": made.tests,
    }
    write_text(path, json.dumps(report, indent=2) + "\n")
    say(f"{report['registered_model']}: {decision}. {' '.join(made.reasons)}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); run `dvc repro` from the start") from None


if __name__ == "__main__":
    run(main)
