"""Show the progress of a training on stderr."""

import sys
from collections.abc import Mapping
from typing import NoReturn

from tqdm import tqdm

from darkroom.project.console import say


class TrainingProgress:
    """Epochs on stderr: a bar over the steps in a terminal, and one line per epoch everywhere."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._bar: tqdm[NoReturn] | None = None

    def on_step(self, step: int, steps: int) -> None:
        """Move the bar to `step` of `steps`."""
        if self._bar is None:
            self._bar = tqdm(total=steps, leave=False, disable=not sys.stderr.isatty(), unit="step")
        self._bar.update(step - self._bar.n)

    def on_epoch_end(self, epoch: int, record: Mapping[str, float]) -> None:
        """Replace the bar by the line of an epoch, counted from 1."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        say(
            f"epoch {epoch}/{self._epochs}: train loss {record['train_loss']:.4f}, "
            f"val loss {record['val_loss']:.4f}, val accuracy {record['val_accuracy']:.4f}, "
            f"{record['images_per_second']:.0f} images/s"
        )
