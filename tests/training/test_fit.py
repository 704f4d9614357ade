from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.errors import TrainingError
from darkroom.training.answers import unpacked
from darkroom.training.batches import EpochBatches, PlainBatches
from darkroom.training.checkpoints import Checkpoint, Progress
from darkroom.training.variation import Variation

pytestmark = pytest.mark.heavy

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, 96)
IMAGES = (RNG.integers(0, 100, (96, 16, 16, 1)) + 120 * LABELS[:, None, None, None]).astype(np.uint8)
N_VAL = 37  # no multiple of a batch: the last one must weigh less
METRICS = {"train_loss", "val_loss", "train_accuracy", "val_accuracy", "learning_rate", "images_per_second"}
OnEpochEnd = Callable[[int, dict[str, float]], None]


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()


def train(
    epochs: int,
    *,
    checkpoint: Checkpoint | None = None,
    learning_rate: float = 0.01,
    policy: str = "float32",
    optimizer: dict[str, Any] | None = None,
    schedule: dict[str, Any] | None = None,
    variation: Variation | None = None,
    weights: np.ndarray | None = None,
    plateau: Any = None,
    early_stopping: dict[str, Any] | None = None,
    keep: str = "best",
    on_epoch_end: OnEpochEnd | None = None,
) -> tuple[Any, Progress]:
    from darkroom.networks import build
    from darkroom.training import fit, optimizers, schedules

    arguments = {"filters": [4, 8], "stem_kernel_size": 3, "dropout": 0.2}
    network = build.build("compact", image_shape=(16, 16, 1), n_classes=2, arguments=arguments, seed=3, policy=policy)
    variation = variation or Variation(shift=1)
    asked = {"name": "one_cycle", "warmup": 0.25, **(schedule or {})}
    rates = schedules.Schedule(**asked, peak=learning_rate, total_steps=4 * 6, steps_per_epoch=6)
    phase = fit.Phase(
        epochs,
        optimizers.make_optimizer(**{"name": "adamw", "weight_decay": 0.01, **(optimizer or {})}, learning_rate=rates),
        label_smoothing=0.1,
        variation=variation,
        early_stopping=early_stopping,
        keep=keep,
        plateau=plateau() if plateau else None,
        schedule=rates,
    )
    progress = fit.fit(
        network,
        phase,
        train=lambda epoch: EpochBatches(
            IMAGES, LABELS, n_classes=2, batch_size=16, seed=3, epoch=epoch, variation=variation, weights=weights
        ),
        validation=PlainBatches(IMAGES[:N_VAL], LABELS[:N_VAL], n_classes=2, batch_size=32),
        checkpoint=checkpoint,
        on_epoch_end=on_epoch_end,
    )
    return network, progress


def scores(network: Any) -> tuple[float, float]:
    """Cross-entropy and accuracy of the validation images, by Keras' own evaluate()."""
    import keras

    network.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    loss, accuracy = network.evaluate(IMAGES[:N_VAL], np.eye(2, dtype=np.float32)[LABELS[:N_VAL]], verbose=0)
    return loss, accuracy


def killed_after(epoch: int) -> OnEpochEnd:
    def die(now: int, _record: dict[str, float]) -> None:
        if now == epoch:
            raise KeyboardInterrupt

    return die


def assert_equal(ours: tuple[Any, Progress], theirs: tuple[Any, Progress]) -> None:
    assert ours[1].best_epoch == theirs[1].best_epoch
    for one, other in zip(ours[1].history, theirs[1].history, strict=True):
        for name in METRICS - {"images_per_second"} | {"epoch", "phase"}:
            assert one[name] == other[name], name
    for one, other in zip(ours[0].get_weights(), theirs[0].get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_training_learns_and_reports_every_epoch() -> None:
    seen: list[tuple[int, dict[str, float]]] = []
    _, progress = train(4, on_epoch_end=lambda epoch, record: seen.append((epoch, record)))
    assert [epoch for epoch, _ in seen] == [row["epoch"] for row in progress.history] == [1, 2, 3, 4]
    assert set(seen[0][1]) == METRICS
    assert progress.best_val_accuracy > 0.9
    assert progress.history[progress.best_epoch - 1]["val_accuracy"] == progress.best_val_accuracy


def test_keep_last_takes_the_last_epoch_also_where_it_is_worse() -> None:
    ruin = {"name": "constant", "warmup": 0.9}  # the rate rises far above what can be learnt with
    high: dict[str, Any] = {"learning_rate": 30.0, "schedule": ruin, "optimizer": {"name": "sgd", "clip_norm": 1.0}}
    _, best = train(4, **high)
    assert best.best_epoch < 4, "else the test shows nothing"
    network, last = train(4, keep="last", **high)
    assert last.best_epoch == 4
    assert scores(network)[1] == pytest.approx(last.best_val_accuracy) == last.history[3]["val_accuracy"]


def test_the_network_ends_with_the_weights_of_its_best_epoch() -> None:
    network, progress = train(4)
    loss, accuracy = scores(network)
    assert accuracy == pytest.approx(progress.best_val_accuracy)
    assert unpacked(progress.best_right).mean() == progress.best_val_accuracy
    assert loss == pytest.approx(progress.best_val_loss, rel=1e-4)


def every_other_epoch() -> Any:
    """A plateau that every fall of the learning rate ends, since it is the learning rate that it watches."""
    from darkroom.training.schedules import Plateau

    return Plateau("learning_rate", patience=1, factor=0.5)


EVERYTHING: dict[str, Any] = {
    "optimizer": {"name": "muon", "averaging": 0.9, "clip_norm": 1.0},
    "schedule": {"name": "plateau", "warmup": 0.0},
    "plateau": every_other_epoch,
    "variation": Variation(shift=1, shift_fill="reflect", flip="alternating", erasing=0.5, mixup=0.3, cutmix=1.0),
    "weights": np.array([0.5, 1.5], np.float32),
}
FLOAT16: dict[str, Any] = {"policy": "mixed_float16", "optimizer": {"name": "sgd", "loss_scaling": True}}


@pytest.mark.parametrize("settings", [{}, EVERYTHING, FLOAT16], ids=["default", "everything", "float16"])
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path, settings: dict[str, Any]) -> None:
    whole = train(4, **settings)
    with pytest.raises(KeyboardInterrupt):
        train(4, checkpoint=Checkpoint(tmp_path), on_epoch_end=killed_after(3), **settings)
    epochs: list[int] = []
    resumed = train(
        4, checkpoint=Checkpoint(tmp_path), on_epoch_end=lambda epoch, _record: epochs.append(epoch), **settings
    )
    assert epochs == [3, 4], "the epoch that died in its report is run again"
    assert_equal(resumed, whole)
    if "plateau" in settings:
        assert [row["learning_rate"] for row in whole[1].history] == pytest.approx([0.01, 0.01, 0.005, 0.005])


def test_averaged_weights_are_kept_and_training_uses_its_own() -> None:
    averaged, progress = train(3, optimizer={"averaging": 0.99})
    own, others = train(3)
    assert [row["train_loss"] for row in progress.history] == [row["train_loss"] for row in others.history]
    assert progress.history[0]["val_loss"] != others.history[0]["val_loss"]
    loss, _ = scores(averaged)
    assert loss == pytest.approx(progress.best_val_loss, rel=1e-4)
    assert (averaged.get_weights()[0] != own.get_weights()[0]).any()


def test_weights_are_copied_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    calls: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        real = getattr(keras.Model, name)

        def call(*arguments: Any) -> Any:
            calls.append(name)
            return real(*arguments)

        return call

    for name in ("get_weights", "set_weights"):
        monkeypatch.setattr(keras.Model, name, counted(name))
    train(3)
    assert calls == [*["get_weights"] * 3, "set_weights"], "set once, to those of the best epoch"


def test_training_stops_early_and_a_resume_does_not_continue(tmp_path: Path) -> None:
    stopping = {"metric": "learning_rate", "patience": 1}  # of the one-cycle schedule it is highest in epoch 1
    for _ in range(2):
        _, progress = train(4, early_stopping=stopping, checkpoint=Checkpoint(tmp_path))
        assert len(progress.history) == 3


def test_losses_are_best_low_and_accuracies_best_high() -> None:
    from darkroom.training.fit import epochs_without_gain

    assert epochs_without_gain([0.5, 0.2, 0.3, 0.2], metric="val_loss") == 2
    assert epochs_without_gain([0.5, 0.9, 0.3, 0.9], metric="train_accuracy") == 2
    assert epochs_without_gain([0.5], metric="val_accuracy") == 0


def test_a_finished_checkpoint_needs_no_training(tmp_path: Path) -> None:
    first, _ = train(3, checkpoint=Checkpoint(tmp_path))
    epochs: list[int] = []
    again, _ = train(3, checkpoint=Checkpoint(tmp_path), on_epoch_end=lambda epoch, _record: epochs.append(epoch))
    assert epochs == []
    np.testing.assert_array_equal(first.get_weights()[0], again.get_weights()[0])


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save(Progress(epoch=1, best_epoch=1, phase="training"), variables=[np.zeros(3)], best=[np.zeros(3)])
    with pytest.raises(TrainingError, match="belongs to another network"):
        train(2, checkpoint=checkpoint)


def test_a_loss_that_is_not_finite_stops_training() -> None:
    with pytest.raises(TrainingError, match=r"loss is (nan|inf).*lower learning_rate"):
        train(2, learning_rate=1e30)


def test_train_loss_has_no_smoothing_and_no_class_weights() -> None:
    weighted = train(1, learning_rate=1e-30, weights=np.full(2, 100.0, np.float32))[1]
    plain = train(1, learning_rate=1e-30)[1]
    assert weighted.history[0]["train_loss"] == pytest.approx(plain.history[0]["train_loss"], rel=1e-5)
    least = -(0.95 * np.log(0.95) + 0.05 * np.log(0.05))  # of what is minimised, with a label smoothing of 0.1
    assert min(record["train_loss"] for record in train(4)[1].history) < least
