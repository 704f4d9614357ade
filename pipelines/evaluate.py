"""Score every candidate and choose the winner.

Each model.onnx is scored on the splits test and recent; metrics, pictures and a report are written.
"""

import hashlib
import json
from contextlib import ExitStack
from typing import Any

from darkroom.data.arrays.dataset import Dataset
from darkroom.errors import DataError
from darkroom.evaluation.params import EvaluateParams
from darkroom.files.writing import write_text
from darkroom.project.console import progress, run, say, stage_paths
from darkroom.project.params import load_candidates, load_section


def main() -> None:
    paths = stage_paths(__doc__, "prepared", "models", "out", "predictions", "figures", "plots", "report")
    params = load_section("evaluate", EvaluateParams)
    named = load_candidates()

    from darkroom.evaluation.candidates import (
        candidate_folders,
        choose_winner,
        read_run,
        score,
        single_numbers,
        worst_errors,
    )

    dataset = Dataset.open(paths.prepared)
    rows = dataset.rows("test")
    if not len(rows):
        raise DataError(f"{paths.prepared}: the test set is empty; raise preprocess.test_fraction, or add images")
    folders = candidate_folders(paths.models, named)
    trained = {folder.name: read_run(folder / "run.json") for folder in folders}

    from darkroom.evaluation import predictions, report
    from darkroom.figures.fonts import advice
    from darkroom.tracking.runs import reopen_training

    with ExitStack() as stack:  # a store that does not answer must fail before anything is scored, not after
        records = {name: stack.enter_context(reopen_training(name, said)) for name, said in trained.items()}
        options: dict[str, Any] = {"calibration_bins": params.calibration_bins}
        candidates = [
            score(folder, trained[folder.name], dataset, latency_repeats=params.latency_repeats, **options)
            for folder in progress(folders, unit="candidate")
        ]
        metrics = {candidate.name: dict(candidate.metrics) for candidate in candidates}
        winner = choose_winner(trained, model_bytes={name: metrics[name]["model_bytes"] for name in metrics})
        index, labels = dataset.index(), dataset.labels[rows]
        test, recent = index.iloc[rows], index.iloc[dataset.rows("recent")]
        predictions.write_predictions(candidates, test, recent, dataset.classes, paths.predictions)
        worst = {one.name: worst_errors(one, dataset, test, n_errors=params.worst_images) for one in candidates}
        drawn = {}
        for candidate in candidates:
            name, pictures = candidate.name, paths.figures / candidate.name
            report.write_plots(candidate, labels, paths.plots / name, classes=dataset.classes, **options)
            drawn[name] = report.draw(
                candidate, labels, pictures, classes=dataset.classes, worst=worst[name], **options
            )
            records[name].log_metrics(single_numbers(metrics[name]))
            records[name].log_artifact(pictures, "pictures")
        page = report.render(
            candidates, labels, winner=winner, manifest=dataset.manifest, worst=worst[winner], drawn=drawn, **options
        )
        write_text(paths.report, page)
        records[winner].log_artifact(paths.report)
    test_ids_sha256 = hashlib.sha256("\n".join(sorted(test["id"])).encode()).hexdigest()
    summary = {"test_ids_sha256": test_ids_sha256, "winner": winner, "candidates": metrics}
    write_text(paths.out, json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    say(f"evaluate: {winner}: {report.in_words(metrics[winner], n_images=len(rows))}")
    if unreadable := advice(dataset.classes):
        say(unreadable)


if __name__ == "__main__":
    run(main)
