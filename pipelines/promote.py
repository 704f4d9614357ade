"""Promote the winner if it is better than the champion.

Both classify the same images; a winner that passes every gate is registered.
This stage runs in every `dvc repro`, so an earlier decision is repeated without loading a model or MLflow: the champion
is recognised by the sha256 of its model.onnx, and every decision is cached.
"""

import json

from darkroom.files.writing import write_text
from darkroom.project.console import run, say, stage_paths
from darkroom.project.params import load_candidates, load_section
from darkroom.project.repository import is_experiment_in_place
from darkroom.promotion.healing import healed
from darkroom.promotion.outcome import in_words, promote_if_better, report, settled
from darkroom.promotion.page import decided
from darkroom.promotion.params import PromoteParams
from darkroom.promotion.winner import read_winner


def main() -> None:
    paths = stage_paths(
        __doc__, "evaluation", "predictions", "raw", "incoming", "prepared", "models", "page", "out", "report"
    )
    params = load_section("promote", PromoteParams)
    winner = read_winner(
        paths.evaluation,
        predictions=paths.predictions,
        models=paths.models,
        prepared=paths.prepared,
        raw=paths.raw,
        incoming=paths.incoming,
        named=load_candidates(),
    )
    registered, healing = healed(settled(params.registered_model), models=paths.models)
    outcome = promote_if_better(
        winner,
        registered,
        gates=params.gates,
        approval=params.approval,
        from_experiments=params.from_experiments,
        hold_days=params.hold_days,
    )
    said = report(outcome, registered)
    said["reasons"] = [*([healing] if healing else []), *said["reasons"]]
    write_text(paths.out, json.dumps(said, indent=2) + "\n")
    write_text(paths.report, decided(paths.page.read_text(encoding="utf-8"), said))
    if is_experiment_in_place():
        say(
            "this experiment ran in place: the next `dvc repro` would promote its params; `git checkout params.yaml "
            "dvc.lock` and `dvc checkout` take them back; `dvc exp run --temp` leaves them as they are"
        )
    say(f"{registered.name}: {in_words(said)}. {' '.join(said['reasons'])}")


if __name__ == "__main__":
    run(main)
