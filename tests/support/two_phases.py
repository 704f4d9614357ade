"""Trains the candidate of test_candidate in both phases; prints its history and a digest of its weights.

A process of its own, called with CHECKPOINT DEVICES DROPOUT EPOCH...: before that, for each EPOCH, a fork of it trains
and kills itself by SIGKILL in the middle of that epoch; printed is the epoch of the checkpoint that is left. Several
devices are parts of the CPU.
"""

import json
import os
import signal
import sys
from pathlib import Path

import tensorflow as tf

from darkroom.networks.runtime import device
from darkroom.training.candidate import Reports
from darkroom.training.checkpoints import Checkpoint
from tests.training.test_candidate import comparable, features_of, trained, two_phases


def main(directory: str, n_devices: int, dropout: float, kills: list[int]) -> None:
    checkpoint = Checkpoint(Path(directory))
    for epoch in kills:  # TensorFlow is imported, which takes 5 s of CPU time, but at work only in the forks
        if not (child := os.fork()):
            train(checkpoint, n_devices, dropout, killed_in=epoch)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        kept = checkpoint.load()
        assert kept is not None
        assert os.WTERMSIG(status) == signal.SIGKILL
        print(kept[0].epoch)
    print(json.dumps(train(checkpoint, n_devices, dropout)))


def train(checkpoint: Checkpoint, n_devices: int, dropout: float, *, killed_in: int = -1) -> dict[str, object]:
    parts = [tf.config.LogicalDeviceConfiguration()] * n_devices
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
    device.prepare("cpu")
    tf.config.experimental.enable_op_determinism()

    def die(step: int, _steps: int) -> None:
        kept = checkpoint.load()
        if step == 2 and (kept[0].epoch if kept else 0) == killed_in:
            os.kill(os.getpid(), signal.SIGKILL)

    return comparable(trained(two_phases(dropout), features_of(), checkpoint=checkpoint, reports=Reports(on_step=die)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), [int(epoch) for epoch in sys.argv[4:]])
