"""Score every candidate and choose the winner.

Each model.onnx is scored on the splits test and recent. Writes metrics, pictures and a report.
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
    paths = stage_paths(
        __doc__, "prepared", "models", "tuning", "data", "augment", "out", "predictions", "figures", "plots", "page"
    )
    params = load_section("evaluate", EvaluateParams)
    named = load_candidates()

    from darkroom.evaluation import candidates as scored

    dataset = Dataset.open(paths.prepared)
    rows = dataset.rows("test")
    if not len(rows):
        raise DataError(f"{paths.prepared}: the test set is empty; raise preprocess.test_fraction, or add images")
    folders = scored.candidate_folders(paths.models, named)
    trained = {folder.name: scored.read_run(folder / "run.json") for folder in folders}

    from darkroom.evaluation import predictions, report
    from darkroom.evaluation.earlier import read_earlier
    from darkroom.evaluation.heat import heat_of
    from darkroom.figures.fonts import advice
    from darkroom.tracking.restored import reopen_training

    with ExitStack() as stack:  # a store that does not answer must fail before anything is scored, not after
        records = {name: stack.enter_context(reopen_training(name, said)) for name, said in trained.items()}
        options: dict[str, Any] = {"calibration_bins": params.calibration_bins, "classes": dataset.classes}
        counted = {"calibration_bins": params.calibration_bins, "latency_repeats": params.latency_repeats}
        candidates = [
            scored.score(folder, trained[folder.name], dataset, **counted)
            for folder in progress(folders, unit="candidate")
        ]
        metrics = {candidate.name: dict(candidate.metrics) for candidate in candidates}
        winner = scored.choose_winner(trained, model_bytes={name: metrics[name]["model_bytes"] for name in metrics})
        index, labels = dataset.index(), dataset.labels[rows]
        test, recent = index.iloc[rows], index.iloc[dataset.rows("recent")]
        predictions.write_predictions(candidates, test, recent, dataset.classes, paths.predictions)
        worst = {one.name: scored.worst_errors(one, dataset, test, n_errors=params.worst_images) for one in candidates}
        best = candidates[named.index(winner)]
        unsure = scored.least_certain(best, dataset, test, n_answers=params.worst_images)
        earlier = read_earlier(tuning=paths.tuning, data=paths.data, augment=paths.augment, candidates=named)
        report.write_plots(candidates, labels, paths.plots, searches=earlier.searches, **options)
        drawn = {}
        for candidate in candidates:
            name, pictures = candidate.name, paths.figures / candidate.name
            drawn[name] = report.draw(candidate, labels, pictures, worst=worst[name], **options)
            records[name].log_metrics(scored.single_numbers(metrics[name]), model_uri=trained[name]["model_uri"])
            records[name].log_artifact(pictures, "pictures")
            said = report.in_words(metrics[name], n_images=len(rows))
            records[name].note("Test", f"{said}; [report]({records[winner].page('evaluation.html')})")
        heat = heat_of(paths.models / winner / "model.onnx", best, dataset, worst[winner])
        shown = {"worst": worst[winner], "unsure": unsure, "heat": heat}
        told: dict[str, Any] = {"manifest": dataset.manifest, "calibration_bins": params.calibration_bins}
        page = report.render(candidates, labels, winner=winner, shown=shown, drawn=drawn, earlier=earlier, **told)
        write_text(paths.page, page)
        records[winner].log_artifact(paths.page)
    test_ids_sha256 = hashlib.sha256("\n".join(sorted(test["id"])).encode()).hexdigest()
    summary = {"test_ids_sha256": test_ids_sha256, "winner": winner, "candidates": metrics}
    write_text(paths.out, json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    say(f"evaluate: {winner}: {report.in_words(metrics[winner], n_images=len(rows))}")
    if unreadable := advice(dataset.classes):
        say(unreadable)


if __name__ == "__main__":
    run(main)
