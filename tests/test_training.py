from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.checkpoints import Checkpoint, Progress
from darkroom.errors import ParamsError, TrainingError
from darkroom.feeding import EpochBatches, PlainBatches

pytestmark = pytest.mark.heavy

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, 96)
IMAGES = (RNG.integers(0, 100, (96, 16, 16, 1)) + 120 * LABELS[:, None, None, None]).astype(np.uint8)


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()


def batches(epoch: int) -> EpochBatches:
    return EpochBatches(IMAGES, LABELS, n_classes=2, batch_size=16, seed=3, epoch=epoch, shift=1)


def train(
    epochs: int,
    *,
    checkpoint: Checkpoint | None = None,
    learning_rate: float = 0.01,
    on_epoch_end: Callable[[int, dict[str, float]], None] | None = None,
) -> tuple[Any, Progress]:
    from darkroom import models, training

    arguments = {"filters": [4, 8], "stem_kernel_size": 3, "dropout": 0.2}
    network = models.build("compact", image_shape=(16, 16, 1), n_classes=2, arguments=arguments, seed=3)
    schedule = training.Schedule("one_cycle", peak=learning_rate, total_steps=4 * 6, warmup=0.25)
    progress = training.fit(
        network,
        train=batches,
        validation=PlainBatches(IMAGES[:32], LABELS[:32], n_classes=2, batch_size=32),
        epochs=epochs,
        optimizer=training.make_optimizer("adamw", learning_rate=schedule, weight_decay=0.01),
        label_smoothing=0.1,
        draws={"shift": 1, "flip": False, "cutout": 0},
        checkpoint=checkpoint,
        on_epoch_end=on_epoch_end,
    )
    return network, progress


def test_training_learns_and_reports_every_epoch() -> None:
    seen: list[tuple[int, dict[str, float]]] = []
    _, progress = train(4, on_epoch_end=lambda epoch, record: seen.append((epoch, record)))
    assert [epoch for epoch, _ in seen] == [0, 1, 2, 3]
    assert set(seen[0][1]) == {
        "train_loss", "val_loss", "train_accuracy", "val_accuracy", "learning_rate", "images_per_second",
    }  # fmt: skip
    assert progress.best_val_accuracy > 0.9
    assert progress.history[progress.best_epoch]["val_accuracy"] == progress.best_val_accuracy


def test_the_network_ends_with_the_weights_of_its_best_epoch() -> None:
    network, progress = train(4)
    loss, accuracy = network.evaluate(IMAGES[:32], np.eye(2, dtype=np.float32)[LABELS[:32]], verbose=0)
    assert accuracy == pytest.approx(progress.best_val_accuracy)
    assert loss == pytest.approx(progress.best_val_loss, rel=1e-4)


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, uninterrupted = train(4)
    checkpoint = Checkpoint(tmp_path)

    def die(epoch: int, _record: dict[str, float]) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(4, checkpoint=checkpoint, on_epoch_end=die)
    epochs: list[int] = []
    resumed, progress = train(4, checkpoint=checkpoint, on_epoch_end=lambda epoch, _record: epochs.append(epoch))
    assert epochs == [1, 2, 3], "the epoch that died in its report is run again"
    assert progress.best_epoch == uninterrupted.best_epoch
    for ours, theirs in zip(progress.history, uninterrupted.history, strict=True):
        for name in ("train_loss", "val_loss", "val_accuracy", "learning_rate"):
            assert ours[name] == theirs[name], name
    for ours_array, theirs_array in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours_array, theirs_array)


def test_a_finished_checkpoint_gives_the_best_weights_without_training(tmp_path: Path) -> None:
    first, _ = train(3, checkpoint=Checkpoint(tmp_path))
    epochs: list[int] = []
    again, _ = train(3, checkpoint=Checkpoint(tmp_path), on_epoch_end=lambda epoch, _record: epochs.append(epoch))
    assert epochs == []
    np.testing.assert_array_equal(first.get_weights()[0], again.get_weights()[0])


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save(Progress(epoch=1, best_epoch=0), variables=[np.zeros(3)], best=[np.zeros(3)])
    with pytest.raises(TrainingError, match="belongs to another network"):
        train(2, checkpoint=checkpoint)


def test_a_loss_that_is_not_finite_stops_training() -> None:
    with pytest.raises(TrainingError, match=r"loss is (nan|inf).*lower learning_rate"):
        train(2, learning_rate=1e30)


def test_schedules_rise_then_fall_as_named() -> None:
    from darkroom.training import Schedule

    for name in ("one_cycle", "cosine"):
        schedule = Schedule(name, peak=0.4, total_steps=100, warmup=0.2)
        rates = [float(schedule(step)) for step in range(100)]
        assert int(np.argmax(rates)) in (19, 20)
        assert max(rates) == pytest.approx(0.4, rel=0.02)
        assert rates[0] == pytest.approx(0.02)
        assert rates[-1] < 0.01
    assert float(Schedule("constant", peak=0.4, total_steps=100, warmup=0.0)(99)) == pytest.approx(0.4)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    from darkroom import training

    with pytest.raises(ParamsError, match="schedule is 'linear', expected one of one_cycle"):
        training.Schedule("linear", peak=1, total_steps=1, warmup=0)
    with pytest.raises(ParamsError, match="optimizer is 'lion', expected one of adam"):
        training.make_optimizer("lion", learning_rate=0.1, weight_decay=0)
    with pytest.raises(ParamsError, match="precision is 'fp8', expected one of auto"):
        training.policy("fp8")


def test_weight_decay_spares_biases_and_batch_normalisation() -> None:
    from darkroom import models, training

    network = models.build("compact", image_shape=(16, 16, 1), n_classes=2, arguments={"filters": [4]})
    optimizer = training.make_optimizer("adamw", learning_rate=0.1, weight_decay=0.1)
    optimizer.build(network.trainable_variables)
    decayed = [variable.path for variable in network.trainable_variables if optimizer._use_weight_decay(variable)]
    assert [path.split("/")[-1] for path in decayed] == ["kernel", "kernel"]


def test_auto_precision_follows_what_the_device_computes_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from darkroom import training

    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : fpu avx2 avx512f\n")
    assert not training._cpu_has_bfloat16(cpuinfo)
    cpuinfo.write_text("flags : fpu avx2 avx512_bf16\n")
    assert training._cpu_has_bfloat16(cpuinfo)
    assert not training._cpu_has_bfloat16(tmp_path / "absent")
    for of_gpu, of_cpu, policy in [
        (None, True, "mixed_bfloat16"),
        (None, False, "float32"),
        (False, True, "float32"),
        (True, False, "mixed_bfloat16"),
    ]:
        monkeypatch.setattr(training, "_gpu_has_bfloat16", lambda of_gpu=of_gpu: of_gpu)
        monkeypatch.setattr(training, "_cpu_has_bfloat16", lambda of_cpu=of_cpu: of_cpu)
        assert training.policy("auto") == policy
    assert training.policy("float32") == "float32"
    assert training.policy("bfloat16") == "mixed_bfloat16"


def test_the_training_core_needs_keras_numpy_and_nothing_of_the_pipeline() -> None:
    import subprocess
    import sys

    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in {'mlflow', 'dvc', 'albumentations', 'pydantic', 'pandas', 'pyarrow',\n"
        "                                      'onnxruntime', 'onnx', 'joblib', 'sklearn', 'ruamel'}:\n"
        "            raise ImportError(f'a machine that only trains has no {name}')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from darkroom import checkpoints, dataset, feeding, models, training\n"
        "print(models.build('single_conv', image_shape=(28, 28, 1), n_classes=10, arguments={}).count_params())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "542230", done.stderr
