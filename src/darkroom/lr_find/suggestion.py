"""`darkroom lr-find`: the learning-rate range test of a candidate on the prepared data."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from darkroom.data.arrays.features import Features
from darkroom.errors import ParamsError
from darkroom.project.console import loading_keras, say
from darkroom.project.params import ComputeParams, in_section, load_section
from darkroom.training import recipe
from darkroom.training.data import Data, vectors
from darkroom.training.opened import open_data
from darkroom.training.params import TrainParams

if TYPE_CHECKING:
    import keras

OF_SOLVED = {  # by mode, where a solved head has no learning rate
    "features": "set architecture.units above 0",
    "finetune": "search architecture.finetune_learning_rate with tune.space",
}


def suggest(candidate: str, *, root: Path, n_steps: int, picture: Path) -> dict[str, Any]:
    """Return {candidate, suggestion, cautious, greatest, now, steps, diverged, picture}, and draw the plot.

    A transfer candidate is tested with its head alone, on the features of `embed`, because its learning_rate is that of
    the head. A head that is solved in closed form has none.

    Args:
        candidate: a section of `train`.
        root: of the repository: params.yaml and data/ are read there.
        n_steps: at least 10.
        picture: the file to write.

    Raises:
        ParamsError: the candidate is unknown or has no learning rate, or its settings do not fit the data.
        DataError: the data are not prepared.
        TrainingError: the loss falls at no rate, or the device is missing.
    """
    section = f"train.{candidate}"
    with contextlib.chdir(root):
        params = load_section(section, TrainParams).model_dump()
        device = load_section("compute", ComputeParams).device
    if recipe.is_solved(params):
        advice = OF_SOLVED[params["architecture"]["mode"]]
        raise ParamsError(
            f"params.yaml: {section}: a head without hidden units is solved at once and has no learning_rate; "
            f"{advice}, or test another candidate"
        )
    folder = root / "data"
    opened = open_data(
        folder / "prepared", folder / "augmented", folder / "features" if recipe.transfer_mode(params) else None
    )
    data, features = opened.data, opened.features
    with in_section(section):
        recipe.check(params, data, image_shape=opened.image_shape, features=features)

    with loading_keras():
        from darkroom.lr_find import range_test
        from darkroom.networks.runtime.device import prepare
        from darkroom.training.candidate import first_batch_size, halving
        from darkroom.training.variation_layer import with_draws

        prepare(device)
        with in_section(section):
            dtype_policy = recipe.policy_of(params, features)
    start = first_batch_size(recipe.n_training(params, data, features))
    if features is not None:
        data = vectors(features, data)

    def test(batch_size: int) -> tuple[int, range_test.Finding]:
        network = _network(params, data, image_shape=opened.image_shape, features=features, policy=dtype_policy)
        with tqdm(total=n_steps, leave=False, disable=not sys.stderr.isatty(), unit="step") as bar:
            return batch_size, range_test.find(
                with_draws(network, recipe.variation_of(params, data)),
                lambda epoch: recipe.epoch_batches(params, data, batch_size=batch_size, epoch=epoch),
                optimizer=lambda schedule: recipe.build_optimizer(params, learning_rate=schedule, policy=dtype_policy),
                n_steps=n_steps,
                label_smoothing=params["label_smoothing"],
                on_step=lambda step, _: bar.update(step - bar.n),
            )

    chosen = params["batch_size"]
    batch_size, found = halving(test, start=start, say=say) if chosen == "auto" else test(chosen)
    from darkroom.lr_find.figure import learning_rate_test

    heading = f"{candidate}: learning-rate range test, {params['optimizer']['name']}, batches of {batch_size}"
    learning_rate_test(found, picture, heading=heading)
    return {
        "candidate": candidate,
        "suggestion": found.suggestion,
        "cautious": found.cautious,
        "greatest": found.greatest,
        "now": params["learning_rate"],
        "steps": len(found.losses),
        "diverged": found.diverged,
        "picture": str(picture),
    }


def _network(
    params: dict[str, Any],
    data: Data,
    *,
    image_shape: tuple[int, int, int],
    features: Features | None,
    policy: str,
) -> "keras.Model":
    from darkroom.networks.build import initialise_from_data

    n_classes = len(data.classes)
    if features is not None:
        return recipe.build_head(params, n_features=features.n_features, n_classes=n_classes, policy=policy)
    network = recipe.build_network(params, image_shape=image_shape, n_classes=n_classes, policy=policy)
    initialise_from_data(network, data.images, seed=params["seed"])
    return network
