"""Check the search space of a candidate against its section of train and against the data."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from darkroom.data.arrays.features import Features
from darkroom.errors import ParamsError
from darkroom.project.params import in_section
from darkroom.project.problems import explain
from darkroom.project.text import did_you_mean
from darkroom.training import overrides, recipe
from darkroom.training.data import Data
from darkroom.training.overrides import shown
from darkroom.training.params import TrainParams
from darkroom.tuning.space.domains import Categorical, Space, edges, initial, keys
from darkroom.tuning.space.syntax import NOT_SEARCHED, parse

CANNOT_TELL = {  # keys of train, with the reasons why trials cannot tell which value is best
    "epochs": "trials are compared at equal lengths",
    "architecture.finetune_epochs": "trials are compared at equal lengths",
    "checkpoint": "a trial is judged in its best epoch",
    "early_stopping": "a trial is judged in its best epoch",
    "calibration": "it does not change which class is the most probable",
    "unknown_below": "it changes what is answered, and not how",
    "abstain": "it changes what is answered, and not how",
    "sets": "it changes what is answered, and not how",
    "seed": "one seed is only luckier than another",
    "debug": "it is for finding mistakes",
}
HAVE_MOMENTUM = ("sgd", "muon")  # of params


def read(spaces: Mapping[str, Any], candidate: str, base: Mapping[str, Any], *, is_searched: bool) -> Space:
    """Return the space of a candidate, after checking that its section of train allows every edge of it.

    Args:
        spaces: the section tune.space.
        candidate: a key of it.
        base: the section train.<candidate>, the values of trial 0.
        is_searched: False if no trial is drawn; then train's values may be outside their ranges.

    Raises:
        ParamsError: a parameter does not fit.
    """
    if candidate not in spaces:
        raise ParamsError(
            f"params.yaml: tune.space has no section for the candidate {candidate!r}; write `{candidate}: {{}}` to "
            f"keep its values{did_you_mean(candidate, spaces)}"
        )
    with in_section(f"tune.space.{candidate}"):
        space = parse(spaces[candidate])
        _check_told(space)
        if is_searched:
            _check_effects(space, base)
            initial(space, base)
        for where, values in edges(space):
            try:
                TrainParams.model_validate(overrides.apply(base, values))
            except ValidationError as error:
                raise ParamsError(f"{where}: {explain(f'train.{candidate}', TrainParams, error)}") from None
    return space


def _check_told(space: Space) -> None:
    """Refuse keys of CANNOT_TELL, also inside choices, and choices that differ in one of them."""
    searched = [*keys(space)]
    for untold, why in CANNOT_TELL.items():
        for key in searched:
            if f"{key}.".startswith(f"{untold}."):
                raise ParamsError(f"{key} cannot be searched, because {why}; {NOT_SEARCHED}")
        section, _, part = untold.partition(".")
        choice = space.get(section)
        options = [option.value for option in choice.options] if isinstance(choice, Categorical) else []
        if len({shown(option[part]) for option in options if isinstance(option, Mapping) and part in option}) > 1:
            raise ParamsError(f"{untold} differs between the choices, but {why}; make it equal")


def _check_effects(space: Space, base: Mapping[str, Any]) -> None:
    """Refuse keys that have no effect in any trial.

    Raises:
        ParamsError: there is such a key.
    """
    idle = {} if {"architecture", "architecture.mode"} & space.keys() else _idle_of_head(space, base)
    if base["optimizer"]["name"] not in HAVE_MOMENTUM and not {"optimizer", "optimizer.name"} & space.keys():
        idle["optimizer.momentum"] = f"{base['optimizer']['name']} has its own; delete it here, or set optimizer.name"
    for key in space:
        for idle_key, why in idle.items():
            if f"{key}.".startswith(f"{idle_key}."):
                raise ParamsError(f"{key} has no effect: {why}")


def _idle_of_head(space: Space, base: Mapping[str, Any]) -> dict[str, str]:
    """Return the dotted keys that a candidate for transfer does not use, with the reason and what to do."""
    mode = recipe.transfer_mode(base)
    solved = "a head without hidden units is solved at once; delete it here, or set architecture.units above 0"
    idle = {} if "architecture.units" in space else dict.fromkeys(recipe.ignored(base), solved)
    if mode == "features":
        idle.setdefault("train_augmentation", "features do not vary; delete it here, or set architecture.mode: frozen")
    if mode in ("features", "frozen"):
        why = f"mode {mode} leaves the backbone as it is; delete it here, or set architecture.mode: finetune"
        idle |= dict.fromkeys(("architecture.unfreeze", "architecture.finetune_learning_rate"), why)
    return idle


def check_trials(
    space: Space,
    candidate: str,
    base: Mapping[str, Any],
    *,
    data: Data,
    image_shape: tuple[int, int, int],
    features: Features | None,
    fraction: float,
    epochs: int | None,
) -> None:
    """Check that the data allow every edge of a space.

    Args:
        space, candidate, base: see read.
        fraction: of the training images.
        epochs: maximum per phase of a trial.

    Raises:
        ParamsError: a parameter does not fit.
    """
    for where, values in [(f"trial 0, train.{candidate}", {}), *edges(space)]:
        trial = recipe.shortened(overrides.apply(base, values), epochs=epochs)
        try:
            recipe.check(trial, data, image_shape=image_shape, features=features, fraction=fraction)
        except ParamsError as error:
            raise ParamsError(f"params.yaml: tune.space.{candidate}: {where}: {error}") from None
