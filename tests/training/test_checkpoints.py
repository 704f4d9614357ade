from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from darkroom.errors import TrainingError
from darkroom.training.checkpoints import Checkpoint, Progress


def arrays(value: float) -> list[np.ndarray]:
    return [np.full((2, 3), value, np.float32), np.array(int(value), np.int64)]


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c")
    assert checkpoint.load() is None
    progress = Progress(epoch=2, best_epoch=1, best_val_accuracy=0.9, history=[{"epoch": 1, "train_loss": 1.5}])
    checkpoint.save(progress, variables=arrays(5), best=arrays(4))
    loaded = Checkpoint(tmp_path / "c").load()
    assert loaded is not None
    kept, variables, best = loaded
    assert kept == progress
    np.testing.assert_array_equal(variables[0], arrays(5)[0])
    assert best is not None
    assert best[1] == 4


def test_only_the_last_and_the_best_epoch_are_kept(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    for epoch in range(4):
        is_best = epoch == 1
        progress = Progress(epoch=epoch + 1, best_epoch=min(epoch, 1) + 1)
        checkpoint.save(progress, variables=arrays(epoch), best=arrays(epoch) if is_best or epoch == 0 else None)
    assert sorted(file.name for file in tmp_path.glob("*.npz")) == ["best-00002.npz", "last-00004.npz"]
    loaded = checkpoint.load()
    assert loaded is not None
    assert loaded[2] is not None
    assert loaded[2][1] == 1


def test_a_kill_during_a_write_leaves_the_epoch_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save(Progress(epoch=1, best_epoch=1), variables=arrays(1), best=arrays(1))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("darkroom.training.checkpoints.write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(Progress(epoch=2, best_epoch=2), variables=arrays(2), best=arrays(2))
    loaded = checkpoint.load()
    assert loaded is not None
    assert loaded[0].epoch == 1
    assert loaded[1][1] == 1


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("state.json", lambda _content: b"{}"),
        ("last-00001.npz", lambda content: content[:-100]),
        ("last-00001.npz", lambda content: content.replace(b"\x00\x00\xa0@", b"\x00\x00\xa0A")),
        ("best-00001.npz", lambda _content: b""),
    ],
    ids=["another state", "cut off", "changed", "empty"],
)
def test_a_damaged_checkpoint_says_what_to_delete(file: str, damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    Checkpoint(tmp_path).save(Progress(epoch=1, best_epoch=1), variables=arrays(5), best=arrays(4))
    (tmp_path / file).write_bytes(damage((tmp_path / file).read_bytes()))
    with pytest.raises(TrainingError, match="delete it to train from the start"):
        Checkpoint(tmp_path).load()


def test_the_run_id_outlives_the_process(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c")
    assert checkpoint.run_id is None
    checkpoint.run_id = "abc"
    assert Checkpoint(tmp_path / "c").run_id == "abc"
    checkpoint.delete()
    assert checkpoint.run_id is None
