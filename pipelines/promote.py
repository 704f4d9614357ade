"""Compare the winner of the evaluation with the champion on the same images, register and promote it if it is better.

This stage runs in every `dvc repro`, so what was decided before is answered without loading a model or MLflow: the
champion is recognised by the sha256 of its model.onnx, and every decision is kept.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from darkroom.files.writing import write_text
from darkroom.project.console import run, say, stage_paths
from darkroom.project.params import Section, load_candidates, load_section
from darkroom.promotion.cases import Case
from darkroom.promotion.decision import Decision
from darkroom.promotion.params import Gates
from darkroom.promotion.winner import Winner, read_winner
from darkroom.registry.snapshot import Registered, Version
from darkroom.registry.versions import damage, read


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
    winner = read_winner(
        paths.evaluation,
        predictions=paths.predictions,
        models=paths.models,
        prepared=paths.prepared,
        raw=paths.raw,
        named=load_candidates(),
    )
    registered = _settled(params.registered_model)
    report = _report(_outcome(winner, registered, params), registered)
    write_text(paths.out, json.dumps(report, indent=2) + "\n")
    say(f"{registered.name}: {report['decision']}. {' '.join(report['reasons'])}")


def _settled(name: str) -> Registered:
    """Return the registered model, after finishing what a process left that died while it moved an alias."""
    registered = read(name)
    if not registered.unfinished:
        return registered
    from darkroom.registry.aliases import settle

    settle(name)
    return read(name)


def _outcome(winner: Winner, registered: Registered, params: PromoteParams) -> Outcome:
    """Decide about the winner and do what was decided."""
    champion, known = registered.under("champion"), registered.with_model(winner.model_sha256)
    if champion and known and known.model_sha256 == champion.model_sha256:
        reason = f"The champion, version {champion.version}, is this very model ({winner.onnx})."
        return Outcome("unchanged", Decision(False, [reason], {}), champion, champion)
    case = Case(winner, champion, params.gates)
    decision = case.decision()
    if decision.promote and known and "rolled_back" in known.tags:
        reason = f"But version {known.version} is this very model, and was rolled back: {known.tags['rolled_back']}"
        return Outcome("kept", _saying(decision, reason), known, champion)
    if not decision.promote:
        return Outcome("kept", decision, known, champion)
    if os.environ.get("DVC_EXP_NAME") and not params.from_experiments:
        reason = "An experiment promotes nothing (promote.from_experiments is false)."
        return Outcome("would_promote", _saying(decision, reason), known, champion)

    from darkroom.promotion import registration
    from darkroom.registry import aliases

    waiting = "It waits for `darkroom approve` (promote.approval is manual)."
    manual = params.approval == "manual"
    if manual and known and registration.awaits_approval(known, registered, decision):
        return Outcome("awaiting_approval", _saying(decision, waiting), known, champion)
    version = known
    if version is None or damage(version):
        version = registration.register_winner(registered.name, winner, lock=Path("dvc.lock"))
    decision = registration.verified(version, winner, decision, limit=params.gates.max_parity_difference)
    replacing = champion.version if champion else None
    aliases.challenge(version, replacing=replacing, reasons=decision.reasons)
    outcome = (
        Outcome("awaiting_approval", _saying(decision, waiting), version, champion)
        if manual
        else Outcome("promoted", decision, version, version)
    )
    registration.store_card(version, winner, _report(outcome, registered))
    if manual:
        case.keep(decision)  # with the proof: what waits is not loaded in every run
    else:
        aliases.promote(version, replacing=replacing, reasons=decision.reasons)
    return outcome


def _saying(decision: Decision, reason: str) -> Decision:
    return replace(decision, reasons=[*decision.reasons, reason])


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


if __name__ == "__main__":
    run(main)
