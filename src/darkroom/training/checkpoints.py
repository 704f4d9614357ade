"""Checkpoints of a training, outside DVC's outputs, which DVC deletes before a stage runs. Numpy and JSON only."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from darkroom.errors import TrainingError
from darkroom.files.writing import replacing, write_text


@dataclasses.dataclass
class Progress:
    """The progress of a training over all its phases.

    Epochs are counted from 1 over all phases: `epoch` is the last one, 0 before the first, `phase` its phase, and
    `plateau` the state of its schedule; `best_right` is the mask of validation images that are correct in the best
    epoch (see answers.packed); times are in seconds. A row of the history has epoch, phase and the metrics of fit.fit.
    """

    epoch: int = 0
    phase: str = ""
    best_epoch: int = 0
    best_val_accuracy: float = -1.0
    best_val_loss: float = float("inf")
    best_right: str = ""
    train_seconds: float = 0.0
    plateau: dict[str, Any] | None = None
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def best(self) -> dict[str, Any]:
        """The fields about the best epoch."""
        return {name: value for name, value in vars(self).items() if name.startswith("best_")}

    @property
    def phases(self) -> list[str]:
        """The phases with an epoch, in order."""
        return list(dict.fromkeys(row["phase"] for row in self.history))

    @property
    def best_phase(self) -> str | None:
        """The phase of the best epoch, None before the first."""
        return str(self.history[self.best_epoch - 1]["phase"]) if 0 < self.best_epoch <= len(self.history) else None


class Checkpoint:
    """The directory of a training: arrays of the last and of the best epoch, and state.json, which names them.

    state.json is replaced last and atomically, so a kill at any moment leaves the previous epoch intact.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._state_file = directory / "state.json"

    @property
    def run_id(self) -> str | None:
        """The MLflow run that this training belongs to, so that a resume continues it."""
        file = self.directory / "run_id"
        return file.read_text() if file.exists() else None

    @run_id.setter
    def run_id(self, value: str) -> None:
        write_text(self.directory / "run_id", value)

    @property
    def batch_size(self) -> int | None:
        """The batch size found to fit into memory; None if not searched yet."""
        file = self.directory / "batch_size"
        return int(file.read_text()) if file.exists() else None

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        write_text(self.directory / "batch_size", str(value))

    def load(self) -> tuple[Progress, list[np.ndarray], list[np.ndarray] | None] | None:
        """Return progress, the variables of the last epoch and the weights of the best one; None without a checkpoint.

        The best weights are None for a solved head, which is not saved but solved again at every start.

        Raises:
            TrainingError: the files cannot be read.
        """
        if not self._state_file.exists():
            return None
        try:
            state = json.loads(self._state_file.read_text())
            last, best = state.pop("last"), state.pop("best")
            return Progress(**state), self._read(last), self._read(best) if best else None
        except (OSError, EOFError, BadZipFile, ValueError, KeyError, TypeError) as error:
            raise TrainingError(
                f"the checkpoint in {self.directory} cannot be read ({error}); delete it to train from the start"
            ) from error

    def save(self, progress: Progress, *, variables: list[np.ndarray], best: list[np.ndarray] | None) -> None:
        """Save an epoch; `best` are the network's weights if this epoch is the best so far, else None.

        Raises:
            TrainingError: the files cannot be written; those of the previous epoch are kept.
        """
        try:
            self._save(progress, variables=variables, best=best)
        except OSError as error:
            raise TrainingError(
                f"the checkpoint in {self.directory} cannot be written ({error.strerror}); free some space; `dvc "
                "repro` then "
                "resumes after the last saved epoch"
            ) from error

    def _save(self, progress: Progress, *, variables: list[np.ndarray], best: list[np.ndarray] | None) -> None:
        last_name = self._write(f"last-{progress.epoch:05d}.npz", variables)
        best_name = f"best-{progress.best_epoch:05d}.npz"
        if best is not None:
            self._write(best_name, best)
        is_there = best is not None or (self.directory / best_name).exists()
        state = {**dataclasses.asdict(progress), "last": last_name, "best": best_name if is_there else None}
        write_text(self._state_file, json.dumps(state))
        for file in self.directory.glob("*.npz"):
            if file.name not in (last_name, best_name):
                file.unlink()

    def restart(self) -> None:
        """Delete all epochs, but keep the run and the batch size."""
        self._state_file.unlink(missing_ok=True)

    def delete(self) -> None:
        """Remove the directory; called once the stage's results are written."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _read(self, name: str) -> list[np.ndarray]:
        # Opened here, because numpy does not close a file that is not an archive.
        with (self.directory / name).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return [arrays[key] for key in arrays.files]

    def _write(self, name: str, arrays: list[np.ndarray]) -> str:
        with replacing(self.directory / name) as part, part.open("wb") as file:
            np.savez(file, *arrays)
            file.flush()
            os.fsync(file.fileno())
        return name
