"""What a recipe is refused for, and what it says of the data: all without Keras."""

import copy
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from darkroom.cli import presets
from darkroom.errors import ParamsError
from darkroom.networks.runtime import device
from darkroom.training import recipe
from darkroom.training.batches import EpochBatches, OneBatch
from darkroom.training.data import Data, part
from darkroom.training.variation import Variation
from tests.support.project import ROOT

RNG = np.random.default_rng(0)
DATA = Data(
    images=RNG.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8),
    labels=np.arange(40) % 3,
    val_images=RNG.integers(0, 256, (9, 8, 8, 1), dtype=np.uint8),
    val_labels=np.arange(9) % 3,
    classes=["ant", "bee", "cow"],
)
TRANSFER = {"name": "transfer", "units": 0, "dropout": 0.0, "unfreeze": 1, "finetune_epochs": 3}
TRANSFER |= {"finetune_learning_rate": 0.01}


@cache
def _smoke() -> dict[str, Any]:
    return dict(presets.read("smoke", root=ROOT)["train"]["cnn"])


def made(**changes: Any) -> dict[str, Any]:
    """The default preset's recipe for small data, with changes."""
    default = copy.deepcopy(_smoke())
    return {**default, "batch_size": 16, "architecture": {**default["architecture"], "filters": [4]}, **changes}


def varied(**changes: Any) -> dict[str, Any]:
    return {"train_augmentation": {**made()["train_augmentation"], **changes}}


def features(backbone: str | None = "tiny", *, n_train: int = 40) -> Any:
    arrays = {"train": (np.zeros((n_train, 5), np.float32), np.arange(n_train) % 3)}
    return SimpleNamespace(backbone=backbone, arrays=arrays.__getitem__)


@pytest.mark.parametrize(
    ("mode", "backbone", "expected"),
    [
        ("finetune", "efficientnet-lite1", "float32"),
        ("frozen", "mobilenet-v2", "float32"),
        ("finetune", "resnet50", "mixed_bfloat16"),
        ("features", "efficientnet-lite1", "mixed_bfloat16"),
    ],
)
def test_a_cpu_trains_light_backbones_in_float32(
    mode: str, backbone: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "gpus", tuple)
    monkeypatch.setattr(device, "_cpu_has_bfloat16", lambda: True)
    found = recipe.policy_of(made(architecture={**TRANSFER, "mode": mode}), features(backbone))
    assert found == expected
    assert recipe.policy_of(made(), None) == "mixed_bfloat16"


def test_the_shape_of_a_recipe_is_the_section_of_params_yaml() -> None:
    from darkroom.training.params import TrainParams

    for changes in ({}, {"architecture": {**TRANSFER, "mode": "finetune"}}):
        assert TypeAdapter(TrainParams).validate_python(made(**changes)).model_dump() == made(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 41}, "batch_size is 41, more than the 40 training images; lower it"),
        ({"class_weights": {"dog": 2.0}}, "weight for an unknown class 'dog'; classes: ant, bee, cow"),
        ({"output": "sigmoid"}, "output sigmoid needs exactly 2 classes, the dataset has 3; use softmax"),
        (varied(cutout=8), "cutout is 8: it would blank whole images of (8, 8) pixels; the maximum is 7"),
        (varied(shift=8, shift_fill="reflect"), "shift is 8: .* the maximum is 7"),
        ({"architecture": {**made()["architecture"], "filters": [4] * 4}}, "needs images of at least"),
        ({"architecture": {**TRANSFER, "mode": "features"}}, "mode features needs a backbone.*; set embed.backbone"),
        ({"architecture": {**TRANSFER, "mode": "frozen"}}, "mode frozen needs a backbone"),
    ],
)
def test_a_recipe_that_does_not_fit_the_data_is_refused(changes: dict[str, Any], message: str) -> None:
    recipe.check(made(), DATA, image_shape=(8, 8, 1), features=features(None))
    with pytest.raises(ParamsError, match=message.replace("(8, 8)", r"\(8, 8\)")):
        recipe.check(made(**changes), DATA, image_shape=(8, 8, 1), features=features(None))


def test_a_batch_must_fit_into_the_images_with_features() -> None:
    asked = made(architecture={**TRANSFER, "mode": "features", "units": 4})
    recipe.check(asked, DATA, image_shape=(8, 8, 1), features=features())
    with pytest.raises(ParamsError, match="batch_size is 16, more than the 12 training images"):
        recipe.check(asked, DATA, image_shape=(8, 8, 1), features=features(n_train=12))
    solved = made(architecture={**TRANSFER, "mode": "features"})
    recipe.check(solved, DATA, image_shape=(8, 8, 1), features=features(n_train=12))


@pytest.mark.parametrize("mode", ["features", "finetune"])
def test_a_head_that_is_solved_has_no_batch_to_learn_by_heart(mode: str) -> None:
    asked = made(architecture={**TRANSFER, "mode": mode}, debug={"overfit_one_batch": True, "max_steps": None})
    with pytest.raises(ParamsError, match="a head without hidden units is solved at once; set architecture.mode: froz"):
        recipe.check(asked, DATA, image_shape=(8, 8, 1), features=features())


def test_data_without_validation_images_are_refused() -> None:
    data = Data(DATA.images, DATA.labels, DATA.val_images[:0], DATA.val_labels[:0], DATA.classes)
    with pytest.raises(ParamsError, match="no validation images; raise preprocess.val_fraction"):
        recipe.check(made(), data, image_shape=(8, 8, 1), features=None)


def test_nothing_varies_features_or_a_debugging_batch() -> None:
    asked = made(**varied(shift=2, flip="random"))
    assert recipe.variation_of(asked, DATA) == Variation(**asked["train_augmentation"])
    vectors = Data(np.zeros((40, 5), np.float32), DATA.labels, np.zeros((9, 5)), DATA.val_labels, DATA.classes)
    assert recipe.variation_of(asked, vectors) == Variation()
    asked["debug"] = {"overfit_one_batch": True, "max_steps": 2}
    assert recipe.variation_of(asked, DATA) == Variation()


def test_a_debugging_run_trains_and_validates_on_one_batch() -> None:
    asked = made(debug={"overfit_one_batch": True, "max_steps": None})
    first, later = (recipe.epoch_batches(asked, DATA, batch_size=16, epoch=epoch) for epoch in (0, 3))
    assert isinstance(first, OneBatch)
    assert len(first) == 2
    np.testing.assert_array_equal(first[0][0], later[1][0])
    validation = recipe.validation_batches(asked, DATA, batch_size=16)
    assert len(validation) == 1
    for ours, trained in zip(validation[0], first[0], strict=True):
        np.testing.assert_array_equal(ours, trained)


def test_steps_per_epoch_can_be_limited() -> None:
    batches = recipe.epoch_batches(
        made(debug={"overfit_one_batch": False, "max_steps": 1}), DATA, batch_size=16, epoch=0
    )
    assert isinstance(batches, EpochBatches)
    assert len(batches) == 1


def test_epochs_of_fine_tuning_count_too() -> None:
    assert recipe.n_epochs(made(epochs=5)) == 5
    for units, of_features in ((4, 5), (0, 1)):  # a head that is solved counts as one
        network = {**TRANSFER, "units": units}
        assert recipe.n_epochs(made(epochs=5, architecture={**network, "mode": "features"})) == of_features
        assert recipe.n_epochs(made(epochs=5, architecture={**network, "mode": "finetune"})) == of_features + 3


def test_a_batch_must_fit_into_the_part_that_is_trained_on() -> None:
    with pytest.raises(
        ParamsError, match="more than the 10 training images of a trial; lower it, or raise tune.fraction"
    ):
        recipe.check(made(), DATA, image_shape=(8, 8, 1), features=None, fraction=0.25)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.25, 1.0])
def test_a_part_is_counted_as_it_is_drawn(fraction: float) -> None:
    labels = np.repeat([0, 1, 2], [14, 14, 3])
    data = Data(np.zeros((31, 4, 4, 1), np.uint8), labels, DATA.val_images, DATA.val_labels, DATA.classes)
    n_drawn = len(part(data, fraction, seed=1).labels)
    assert recipe.n_training(made(), data, None, fraction=fraction) == n_drawn


def test_a_shortened_recipe_has_fewer_epochs_in_every_phase() -> None:
    asked = made(epochs=5, architecture={**TRANSFER, "mode": "finetune", "units": 4})
    assert recipe.n_epochs(recipe.shortened(asked, epochs=2)) == 4
    assert recipe.n_epochs(recipe.shortened(asked, epochs=4)) == 7
    assert recipe.shortened(asked, epochs=None) == asked
    assert recipe.n_epochs(asked) == 8
