"""Train one candidate and record the run in MLflow.

The name of the output directory is the candidate: models/cnn is trained with the section train.cnn. The values of
best.yaml, which `tune` writes, replace those of the section.
"""

from pathlib import Path

from darkroom.project.console import run, say, stage_paths
from darkroom.project.params import ComputeParams, in_section, load_section
from darkroom.training import overrides, recipe
from darkroom.training.class_weights import choose_class_weights
from darkroom.training.opened import open_data
from darkroom.training.params import TrainParams


def main() -> None:
    paths = stage_paths(__doc__, "prepared", "augmented", "features", "best", "out")
    candidate = paths.out.name
    params, tuned = overrides.with_best(load_section(f"train.{candidate}", TrainParams).model_dump(), paths.best)
    if tuned:
        said = ", ".join(f"{key} {new} (not {old})" for key, (old, new) in tuned.items())
        say(f"train: {candidate}: tuned values: {said}")
    device = load_section("compute", ComputeParams).device

    aside = recipe.set_aside_from(params)
    opened = open_data(paths.prepared, paths.augmented, paths.features, set_aside_from=aside)
    if params["class_weights"] == "auto":
        chosen = choose_class_weights(opened.prepared.manifest["counts"]["train"])
        params["class_weights"] = chosen.value
        say(f"train: {candidate}: class_weights {chosen.value} ({chosen.reason})")
    with in_section(f"train.{candidate}"):
        recipe.check(params, opened.data, image_shape=opened.image_shape, features=opened.features)

    from darkroom.training.tracked import train_tracked

    trained = train_tracked(
        params,
        candidate=candidate,
        opened=opened,
        device=device,
        tuned={key: new for key, (_, new) in tuned.items()},
        stage=Path(__file__),
        out=paths.out,
    )
    epoch = trained.progress.best_epoch
    say(f"train: {candidate}: val accuracy {trained.val_accuracy:.4f} in epoch {epoch}")


if __name__ == "__main__":
    run(main)
