"""From a recipe and data to the model to deploy, with a stand-in for a pretrained backbone."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from darkroom.errors import ParamsError, TrainingError
from darkroom.training.answers import unpacked
from darkroom.training.candidate import Reports, Trained, first_batch_size, train_candidate
from darkroom.training.checkpoints import Checkpoint
from darkroom.training.data import Data
from tests.support.memory import out_of_memory_above
from tests.support.project import ROOT
from tests.training.test_recipe import TRANSFER, made, varied

if TYPE_CHECKING:
    import keras

pytestmark = pytest.mark.heavy

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, 128)
IMAGES = (RNG.integers(0, 160, (128, 8, 8, 3)) + 90 * LABELS[:, None, None, None]).astype(np.uint8)
# 31 validation images: two devices cannot share them out evenly.
DATA = Data(IMAGES[:96], LABELS[:96], IMAGES[96:127], LABELS[96:127], ["dark", "light"])
SHAPE = (8, 8, 3)


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()


def extractor_of(policy: str) -> "keras.Model":
    """A backbone of two convolutions with BatchNorm, which gives 6 features."""
    import keras

    from darkroom.networks.backbones import extractor

    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(1)
    inside = x = keras.Input(SHAPE)
    for name in ("block1", "block2"):
        x = keras.layers.Conv2D(6, 3, name=f"{name}a_conv")(x)
        x = keras.layers.BatchNormalization(name=f"{name}a_bn", momentum=0.5)(x)
        x = keras.layers.ReLU(name=f"{name}a_activation")(x)
    network = keras.Model(inside, keras.layers.GlobalAveragePooling2D(name="pool")(x), name="efficientnet_tiny")
    pictures = keras.Input(SHAPE, dtype="uint8", name="image")
    x = network(keras.layers.Rescaling(1 / 255)(pictures), training=False)
    model = keras.Model(pictures, keras.layers.Activation("linear", dtype="float32")(x), name="tiny_features")
    keras.config.set_dtype_policy("float32")
    extractor.freeze(model)
    return model


def features_of() -> Any:
    values = extractor_of("float32").predict(IMAGES, verbose=0)
    arrays = {"train": (values[:96], DATA.labels), "val": (values[96:127], DATA.val_labels)}
    rows = {"train": np.column_stack([np.zeros(96, int), np.arange(96), np.arange(96)])}
    rows["val"] = np.column_stack([np.zeros(31, int), np.arange(96, 127), np.arange(96, 127)])
    return SimpleNamespace(backbone="tiny", arrays=arrays.__getitem__, rows=rows.__getitem__)


@pytest.fixture(scope="module")
def features() -> Any:
    return features_of()


def transfer(mode: str, *, units: int = 4, **changes: Any) -> dict[str, Any]:
    settings = {**TRANSFER, "mode": mode, "dropout": 0.2, "units": units, "unfreeze": "all", "finetune_epochs": 2}
    asked = {"epochs": 2, "batch_size": 32, "output": "sigmoid", "precision": "float32"}
    return made(**{**asked, "architecture": settings, **varied(shift=1, flip="random"), **changes})


def trained(recipe: dict[str, Any], features: Any = None, **more: Any) -> Trained:
    return train_candidate(
        recipe, data=DATA, image_shape=SHAPE, features=features, extractor_of=extractor_of, **more
    )  # fmt: skip


def two_phases(dropout: float = 0.2) -> dict[str, Any]:
    return transfer("finetune", architecture={**transfer("finetune")["architecture"], "dropout": dropout})


def comparable(found: Trained) -> dict[str, Any]:
    """What must be the same in two trainings that are equal, as JSON can hold it."""
    weights = b"".join(np.ascontiguousarray(array).tobytes() for array in found.model.get_weights())
    history = [
        {key: value for key, value in row.items() if key != "images_per_second"} for row in found.progress.history
    ]
    digest = hashlib.sha256(weights).hexdigest()
    return {"best_epoch": found.progress.best_epoch, "history": history, "weights_sha256": digest}


def killed_after(epoch: int) -> Reports:
    def die(now: int, _record: dict[str, float]) -> None:
        if now == epoch:
            raise KeyboardInterrupt

    return Reports(on_epoch_end=die)


def accuracy(model: "keras.Model") -> float:
    return float((model.predict(DATA.val_images, verbose=0).argmax(axis=1) == DATA.val_labels).mean())


@pytest.mark.parametrize("mode", ["features", "frozen"])
def test_a_head_is_trained_on_a_backbone_that_stays_as_it_is(mode: str, features: Any) -> None:
    found = trained(transfer(mode), features)
    assert [row["phase"] for row in found.progress.history] == ["head", "head"]
    assert found.val_accuracy == accuracy(found.model) == found.progress.best_val_accuracy
    assert unpacked(found.val_right).mean() == found.val_accuracy
    assert found.model.input_shape == (None, *SHAPE)
    for ours, theirs in zip(found.model.get_weights(), extractor_of("float32").get_weights(), strict=False):
        np.testing.assert_array_equal(ours, theirs)


def test_fine_tuning_changes_the_backbone_but_not_its_statistics(features: Any) -> None:
    reported: list[int] = []
    found = trained(
        transfer("finetune", test_time_views="flip"),
        features,
        reports=Reports(on_epoch_end=lambda epoch, _record: reported.append(epoch)),
    )
    assert [row["phase"] for row in found.progress.history] == ["head"] * 2 + ["finetuning"] * 2
    assert [row["epoch"] for row in found.progress.history] == reported == [1, 2, 3, 4], "one step over both phases"
    assert found.val_accuracy == accuracy(found.model)
    assert found.progress.best_phase == "finetuning", "else this test shows nothing"
    after = {weight.path: weight.numpy() for weight in found.model.weights}
    before = {weight.path: weight.numpy() for weight in extractor_of("float32").weights}
    moved = {path for path in before if (before[path] != after[path]).any()}
    assert moved == {path for path in before if "_conv/" in path}
    assert any("moving_mean" in path for path in before)


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_a_linear_head_is_solved_in_one_epoch(output: str, features: Any) -> None:
    reported: list[int] = []

    def on_epoch_end(epoch: int, record: dict[str, float]) -> None:
        assert all(isinstance(value, float) for value in record.values()), "MLflow takes numbers alone"
        reported.append(epoch)

    recipe = transfer("features", units=0, output=output, epochs=9, batch_size=1000)
    found = trained(recipe, features, reports=Reports(on_epoch_end=on_epoch_end))
    assert [(row["epoch"], row["phase"]) for row in found.progress.history] == [(1, "head")]
    assert (reported, found.progress.best_epoch) == ([1], 1)
    assert min(found.val_accuracy, accuracy(found.model)) > 0.9
    assert found.held_out is not None
    assert found.held_out.accuracy > 0.9
    for ours, theirs in zip(found.model.get_weights(), extractor_of("float32").get_weights(), strict=False):
        np.testing.assert_array_equal(ours, theirs)


def test_fine_tuning_begins_with_the_solved_head(features: Any, tmp_path: Path) -> None:
    recipe = transfer("finetune", units=0, **{"optimizer": {**made()["optimizer"], "momentum": 0.0}})
    still = {**recipe, "architecture": {**recipe["architecture"], "finetune_learning_rate": 1e-9}}
    found = trained(still, features)
    assert [row["phase"] for row in found.progress.history] == ["head", "finetuning", "finetuning"]
    head, first = found.progress.history[:2]
    assert first["val_loss"] == pytest.approx(head["val_loss"], abs=1e-4)

    def interrupted(epoch: int, _record: dict[str, float]) -> None:
        reported.append(epoch)
        if reported == [1, 2]:
            raise KeyboardInterrupt

    reported: list[int] = []
    checkpoint, reports = Checkpoint(tmp_path), Reports(on_epoch_end=interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(recipe, features, checkpoint=checkpoint, reports=reports)
    whole = comparable(trained(recipe, features))
    assert comparable(trained(recipe, features, checkpoint=checkpoint, reports=reports)) == whole


@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_solved_head_that_stays_the_best_survives_a_resume(keep: str, features: Any, tmp_path: Path) -> None:
    ruinous = {**transfer("finetune", units=0)["architecture"], "finetune_learning_rate": 3.0}
    recipe, checkpoint = transfer("finetune", architecture=ruinous, checkpoint=keep), Checkpoint(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        trained(recipe, features, checkpoint=checkpoint, reports=killed_after(3))
    found = trained(recipe, features, checkpoint=checkpoint)
    assert found.progress.best_phase == "head"
    assert comparable(found) == comparable(trained(recipe, features))


def test_a_ruined_fine_tuning_is_undone_with_eight_images(monkeypatch: pytest.MonkeyPatch) -> None:
    few = dataclasses.replace(DATA, val_images=IMAGES[96:104], val_labels=LABELS[96:104])
    monkeypatch.setattr(f"{__name__}.DATA", few)
    values = features_of()
    arrays = {"train": values.arrays("train"), "val": tuple(array[:8] for array in values.arrays("val"))}
    rows = {"train": values.rows("train"), "val": values.rows("val")[:8]}
    features = SimpleNamespace(backbone="tiny", arrays=arrays.__getitem__, rows=rows.__getitem__)
    ruinous = {**transfer("finetune", units=0)["architecture"], "finetune_learning_rate": 3.0}
    found = trained(transfer("finetune", architecture=ruinous, checkpoint="last"), features)
    assert found.progress.history[-1]["val_accuracy"] < found.val_accuracy, "else this test shows nothing"
    assert found.progress.best_phase == "head"


@pytest.mark.parametrize("epoch", [2, 3, 4], ids=["in head", "before fine-tuning", "in fine-tuning"])
def test_a_resumed_training_equals_an_uninterrupted_one(
    epoch: int, features: Any, tmp_path: Path, uninterrupted: Callable[[], Trained]
) -> None:
    recipe, checkpoint = two_phases(), Checkpoint(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        trained(recipe, features, checkpoint=checkpoint, reports=killed_after(epoch))
    assert comparable(trained(recipe, features, checkpoint=checkpoint)) == comparable(uninterrupted())


def in_a_process(checkpoint: Path, *, kills: Sequence[int] = (), n_devices: int = 1, dropout: float = 0.2) -> list[Any]:
    """What two_phases.py prints: the epoch that each kill leaves, and what the training comes to."""
    arguments = [str(argument) for argument in (checkpoint, n_devices, dropout, *kills)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / "two_phases.py"), *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()[-1 - len(kills) :]]


@pytest.mark.slow
def test_a_training_killed_in_both_phases_ends_the_same(tmp_path: Path, uninterrupted: Callable[[], Trained]) -> None:
    assert in_a_process(tmp_path, kills=(1, 3)) == [1, 3, comparable(uninterrupted())]


@pytest.mark.slow
def test_two_devices_train_both_phases_as_one_does(tmp_path: Path, features: Any) -> None:
    (ours,), theirs = in_a_process(tmp_path, n_devices=2, dropout=0.0), comparable(trained(two_phases(0.0), features))
    for one, other in zip(ours["history"], theirs["history"], strict=True):
        assert one == {key: pytest.approx(value, rel=1e-4) if key != "phase" else value for key, value in other.items()}


@pytest.fixture(scope="module")
def uninterrupted(features: Any) -> Callable[[], Trained]:
    found: list[Trained] = []

    def once() -> Trained:
        found.append(found[0] if found else trained(two_phases(), features))
        return found[0]

    return once


def test_the_head_is_deployed_where_fine_tuning_does_not_help(features: Any) -> None:
    settings = {**transfer("finetune")["architecture"], "finetune_learning_rate": 3.0}  # ruins it
    learned: dict[str, Any] = {"epochs": 30, "learning_rate": 0.5}  # else the head guesses, and a guess may be as good
    found = trained(transfer("finetune", architecture=settings, **learned), features)
    assert found.progress.best_phase == "head"
    assert found.val_accuracy == accuracy(found.model)
    for ours, theirs in zip(found.model.get_weights(), extractor_of("float32").get_weights(), strict=False):
        np.testing.assert_array_equal(ours, theirs)


def test_too_many_blocks_are_refused_before_the_head_is_trained(features: Any) -> None:
    settings = {**transfer("finetune")["architecture"], "unfreeze": 30}
    with pytest.raises(ParamsError, match="unfreeze is 30, but efficientnet_tiny has"):
        trained(transfer("finetune", architecture=settings), features, reports=killed_after(0))


def test_one_batch_is_learnt_by_heart() -> None:
    noise = Data(IMAGES[:96], np.random.default_rng(5).integers(0, 2, 96), IMAGES[96:], LABELS[96:], DATA.classes)
    recipe = made(epochs=12, batch_size=16, debug={"overfit_one_batch": True, "max_steps": None}, label_smoothing=0.0)
    found = train_candidate(recipe, data=noise, image_shape=SHAPE)
    assert found.val_accuracy == 1.0, "labels that mean nothing: only by heart"
    assert found.progress.history[-1]["train_loss"] < 0.1


def test_a_batch_that_does_not_fit_is_halved_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out_of_memory_above(4, monkeypatch)
    said: list[str] = []
    checkpoint = Checkpoint(tmp_path)
    recipe = made(batch_size="auto", epochs=1)
    found = train_candidate(
        recipe, data=DATA, image_shape=SHAPE, checkpoint=checkpoint, reports=Reports(say=said.append)
    )
    assert found.batch_size == checkpoint.batch_size == 4
    assert said == ["batch_size auto: 8 images do not fit into memory; restarting with 4"]
    again = train_candidate(
        recipe, data=DATA, image_shape=SHAPE, checkpoint=checkpoint, reports=Reports(say=said.append)
    )
    assert again.batch_size == 4
    assert len(said) == 1, "a resume does not try again"
    with pytest.raises(Exception, match="OOM when allocating"):
        train_candidate(made(batch_size=16, epochs=1), data=DATA, image_shape=SHAPE)


def test_a_picture_that_does_not_fit_into_memory_is_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    out_of_memory_above(0, monkeypatch)
    few = Data(IMAGES[:8], LABELS[:8], IMAGES[8:16], LABELS[8:16], DATA.classes)
    with pytest.raises(TrainingError, match="not even one image fits into memory"):
        train_candidate(made(batch_size="auto", epochs=1), data=few, image_shape=SHAPE)


def test_the_first_batch_size_leaves_eight_steps_at_least() -> None:
    assert [first_batch_size(n) for n in (1, 8, 100, 4096, 60_000)] == [1, 1, 8, 512, 1024]
