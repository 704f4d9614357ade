"""Trains the candidate of test_candidate in both phases; prints its history and a digest of its weights.

A process of its own, called with CHECKPOINT EPOCH DEVICES DROPOUT: in the middle of EPOCH it kills itself by SIGKILL,
at -1 it does not. Several devices are parts of the CPU.
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


def main(directory: str, epoch: int, n_devices: int, dropout: float) -> None:
    parts = [tf.config.LogicalDeviceConfiguration()] * n_devices
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
    device.prepare("cpu")
    tf.config.experimental.enable_op_determinism()
    checkpoint = Checkpoint(Path(directory))

    def die(step: int, _steps: int) -> None:
        kept = checkpoint.load()
        if step == 2 and (kept[0].epoch if kept else 0) == epoch:
            os.kill(os.getpid(), signal.SIGKILL)

    found = trained(two_phases(dropout), features_of(), checkpoint=checkpoint, reports=Reports(on_step=die))
    print(json.dumps(comparable(found)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
