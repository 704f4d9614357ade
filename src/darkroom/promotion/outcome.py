"""Carry out the decision about a winner: not promoted, waiting for approval, or promoted to champion."""

import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from darkroom.errors import RegistryError
from darkroom.promotion.cases import Case
from darkroom.promotion.decision import Decision
from darkroom.promotion.params import Gates
from darkroom.promotion.winner import Winner
from darkroom.registry.snapshot import Hold, Registered, Version
from darkroom.registry.versions import damage, read


class Outcome(NamedTuple):
    """The outcome for a candidate: the decision with its reasons, its version, and the current champion."""

    word: Literal["unchanged", "kept", "would_promote", "awaiting_approval", "promoted"]
    decision: Decision
    version: Version | None
    champion: Version | None


def settled(name: str) -> Registered:
    """Return the registered model, after finishing unfinished moves of aliases."""
    registered = read(name)
    if not registered.unfinished:
        return registered
    from darkroom.registry.aliases import settle

    settle(name)
    return read(name)


def promote_if_better(
    winner: Winner,
    registered: Registered,
    *,
    gates: Gates,
    approval: Literal["automatic", "manual"],
    from_experiments: bool,
    hold_days: float | None,
) -> Outcome:
    """Decide about the winner and carry out the decision.

    Args:
        registered: returned by settled().
        approval: manual: a better version waits as challenger.
        from_experiments: whether `dvc exp run` may promote.
        hold_days: days for which promotions need approval after a rollback; None: until a person ends the hold.

    Raises:
        DataError: outputs of evaluate or preprocess are missing or do not belong together.
        RegistryError: MLflow's store does not answer, the champion is lost, or a version cannot be loaded or verified.
    """
    _refuse_lost_champion(registered)
    champion, known = registered.under("champion"), registered.with_model(winner.model_sha256)
    if champion and known and known.model_sha256 == champion.model_sha256:
        reason = f"This model is already the champion (version {champion.version})."
        return Outcome("unchanged", Decision(False, [reason], {}), champion, champion)
    case = Case(winner, champion, gates, registered=registered)
    is_trial = bool(os.environ.get("DVC_EXP_NAME")) and not from_experiments
    decision = case.decision(counts=not is_trial)
    if decision.promote and known and "rolled_back" in known.tags:
        reason = f"But version {known.version} is the same model and was rolled back: {known.tags['rolled_back']}"
        return Outcome("kept", _saying(decision, reason), known, champion)
    if not decision.promote:
        return Outcome("kept", decision, known, champion)
    if is_trial:
        reason = "Experiments do not promote (promote.from_experiments is false)."
        return Outcome("would_promote", _saying(decision, reason), known, champion)

    from darkroom.promotion import registration
    from darkroom.registry import aliases, comparisons

    hold = registered.hold
    approval_reason = _needed_for(decision, approval, hold, hold_days)
    if approval_reason and known and registration.awaits_approval(known, registered, decision):
        return Outcome("awaiting_approval", _waiting(decision, known, approval_reason), known, champion)
    if approval_reason and (unbeaten := _unbeaten(winner, decision, gates, registered)):
        return Outcome("kept", _saying(decision, unbeaten), known, champion)
    version = known
    if version is None or damage(version):
        again = version is not None
        version = registration.register_winner(registered.name, winner, lock=Path("dvc.lock"), again=again)
    decision = registration.verified(version, winner, decision, limit=gates.max_parity_difference)
    if "beats_reference" in decision.tests["champion"]:
        kept = version if decision.tests["champion"]["beats_reference"] else case.reference or champion or version
        comparisons.hold_against(version, kept)
    replacing = champion.version if champion else None
    aliases.challenge(version, replacing=replacing, reasons=decision.reasons)
    outcome = (
        Outcome("awaiting_approval", _waiting(decision, version, approval_reason), version, champion)
        if approval_reason
        else Outcome("promoted", decision, version, version)
    )
    registration.store_card(version, winner, report(outcome, registered))
    if approval_reason:
        case.keep(decision)  # with the parity gate, so that the waiting version is not loaded in every run
    else:
        aliases.promote(version, replacing=replacing, reasons=decision.reasons, despite=hold)
    return outcome


def in_words(said: Mapping[str, Any], *, is_current: bool = True) -> str:
    """Return the decision of a report in words; reports/promotion.json keeps the one word.

    Args:
        is_current: False if the champion has changed since.
    """
    champion = said["champion_after"]
    is_champion, stays = ("is champion", "stays champion") if is_current else ("became champion", "stayed champion")
    return {
        "unchanged": "nothing new to promote",
        "kept": f"not promoted, version {champion} {stays}" if champion else "not promoted, still no champion",
        "would_promote": "would be promoted (experiment)",
        "awaiting_approval": "waiting for approval",
        "promoted": f"promoted, version {said['version']} {is_champion}",
    }[str(said["decision"])]


def report(outcome: Outcome, registered: Registered) -> dict[str, Any]:
    """Return the contents of reports/promotion.json."""
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


def _refuse_lost_champion(registered: Registered) -> None:
    """Refuse to decide without a lost champion: only the first candidate may pass by minimum accuracy alone."""
    if registered.under("champion") is None:
        from darkroom.registry.aliases import lost_champion

        if lost := lost_champion(registered):
            raise RegistryError(lost)


def _unbeaten(winner: Winner, decision: Decision, gates: Gates, registered: Registered) -> str | None:
    """Return why the version that waits for approval is not replaced, None if the winner beats it or none waits."""
    from darkroom.promotion import registration

    rival = registration.waiting(registered)
    if rival is None or rival.model_sha256 == winner.model_sha256:
        return None
    against = Case(winner, rival, gates, registered=registered).decision(counts=False)
    if against.promote:
        return None
    failed = " ".join(reason for reason in against.reasons if reason not in decision.reasons)
    return (
        f"Version {rival.version} waits for approval (`darkroom reject {rival.version}` takes it away) and is not "
        f"beaten; in the champion's place: {failed}"
    )


def _needed_for(decision: Decision, approval: str, hold: Hold | None, hold_days: float | None) -> str | None:
    """Return why a person must approve the candidate, else None."""
    if decision.needs_approval:
        return "a class would be lost"
    if hold and not hold.is_over(hold_days, datetime.now(UTC)):
        return f"{hold}; `darkroom lift-hold` ends that"
    return "promote.approval is manual" if approval == "manual" else None


def _waiting(decision: Decision, version: Version, why: str | None) -> Decision:
    return _saying(decision, f"Waiting for `darkroom approve {version.version}`: {why}.")


def _saying(decision: Decision, reason: str) -> Decision:
    return replace(decision, reasons=[*decision.reasons, reason])
