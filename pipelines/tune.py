"""Search better values for one candidate with Optuna.

Trials use the train and val splits. The directory of best.yaml names the candidate: the values in models/cnn/best.yaml
replace those of train.cnn.
"""

from pathlib import Path

from darkroom.project.console import run, say, stage_paths
from darkroom.project.params import ComputeParams, load_section
from darkroom.training.opened import open_data
from darkroom.training.params import TrainParams
from darkroom.training.recipe import set_aside_from
from darkroom.tuning import report
from darkroom.tuning.choice import ChosenTrial
from darkroom.tuning.params import TuneParams
from darkroom.tuning.space.checks import check_trials


def main() -> None:
    paths = stage_paths(__doc__, "prepared", "augmented", "features", "best", "report")
    candidate = paths.best.parent.name
    params = load_section("tune", TuneParams)
    base = load_section(f"train.{candidate}", TrainParams).model_dump()
    compute = load_section("compute", ComputeParams)
    space = params.space_of(candidate, base)
    if why := params.why_untuned(candidate):
        kept = ChosenTrial(None, f"not tuned: {why}")
        report.write(paths.best, paths.report, rows=[], chosen=kept, values={})
        return

    folders = {"prepared": paths.prepared, "augmented": paths.augmented, "features": paths.features}
    opened = open_data(**folders, set_aside_from=set_aside_from(base, searching=True))
    check_trials(
        space,
        candidate,
        base,
        data=opened.data,
        image_shape=opened.image_shape,
        features=opened.features,
        fraction=params.fraction,
        epochs=params.epochs,
    )

    from darkroom.tuning.candidate import Budget, Resources, Tuning

    tuning = Tuning(
        candidate=candidate,
        base=base,
        space=space,
        plan=params.plan,
        settings=params.deciding(candidate),
        opened=opened,
        folders=folders,
        budget=Budget(trials=params.trials, minutes=params.minutes, epochs=params.epochs, fraction=params.fraction),
        resources=Resources(
            device=compute.device,
            backend=compute.backend,
            cluster=compute.cluster,
            workers=params.workers,
            cpus=params.cpus,
            gpus=params.gpus,
            max_worker_bytes=params.max_worker_bytes,
        ),
        alpha=params.alpha,
        confirm=params.confirm,
        study=params.study,
        storage=params.storage,
        stage=Path(__file__),
    )
    chosen = tuning.run(paths.best, paths.report)
    say(f"tune: {candidate}: {chosen.reason}")


if __name__ == "__main__":
    run(main)
