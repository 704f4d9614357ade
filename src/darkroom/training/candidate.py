"""Train a candidate: from params and opened data to the model to deploy, in every mode of transfer learning."""

import dataclasses
import gc
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from darkroom.data.arrays.features import Features
from darkroom.errors import TrainingError
from darkroom.training.answers import is_less_accurate, packed, unpacked
from darkroom.training.calibration import HeldOut
from darkroom.training.checkpoints import Checkpoint, Progress
from darkroom.training.data import Data, Vectors, part, vectors
from darkroom.training.head_phase import solve_head
from darkroom.training.recipe import (
    Recipe,
    build_head,
    build_network,
    build_optimizer,
    build_plateau,
    build_schedule,
    epoch_batches,
    is_solved,
    n_training,
    transfer_mode,
    validation_batches,
    variation_of,
)

if TYPE_CHECKING:
    import keras

GREATEST_AUTO_BATCH = 1024
LEAST_AUTO_STEPS = 8  # per epoch
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Reports:
    """Callbacks of a training; see fit.fit. `say` is called with lines for the user."""

    on_step: Callable[[int, int], None] | None = None
    on_epoch_end: Callable[[int, dict[str, float]], None] | None = None
    say: Callable[[str], None] = lambda _line: None


@dataclasses.dataclass(frozen=True)
class Trained:
    """A finished training: the model to deploy (float32, images in, probabilities out), and its history.

    val_accuracy is that of the deployed model with its views; without views it is that of the training, in the
    training's precision. val_right is the mask of correct validation images (see answers.packed). held_out are answers
    of folds on training and validation images, if validation images are few and a solved head is the best of all
    phases; else None. described returns logits and features of the same network (see inference.described).
    """

    model: "keras.Model"
    described: "keras.Model"
    progress: Progress
    batch_size: int
    val_accuracy: float
    val_right: str
    held_out: HeldOut | None = None


def train_candidate(
    recipe: Recipe,
    *,
    data: Data,
    image_shape: tuple[int, int, int],
    features: Features | None = None,
    extractor_of: "Callable[[str], keras.Model] | None" = None,
    policy: str = "float32",
    fraction: float = 1.0,
    checkpoint: Checkpoint | None = None,
    reports: Reports | None = None,
) -> Trained:
    """Train a candidate on the data.

    Args:
        recipe: passed check().
        data: images.
        image_shape: (H, W, C) of the images.
        features: of the same images; for transfer in the modes features and finetune.
        extractor_of: returns the frozen backbone of `features` for a Keras dtype policy; for transfer.
        policy: Keras dtype policy to train in; the returned model is float32.
        fraction: of the training images (see data.part), for a trial.
        checkpoint: where to save every epoch; training resumes from it.
        reports: callbacks.

    Raises:
        ParamsError: the batch cannot be divided among the devices, or the backbone has fewer blocks than unfreeze.
        TrainingError: the loss is not finite, or not even one image fits into memory.
    """
    from darkroom.networks import inference
    from darkroom.networks.runtime import distribution

    reports = reports or Reports()
    start = first_batch_size(n_training(recipe, data, features, fraction=fraction))
    data = part(data, fraction, seed=recipe["seed"])

    def attempt(batch_size: int) -> Trained:
        run = _Run(recipe, data, image_shape, features, extractor_of, policy, fraction, batch_size, checkpoint, reports)
        network, progress, held_out = run.transfer() if transfer_mode(recipe) else (*run.network(), None)
        views, accuracy, right = recipe["test_time_views"], progress.best_val_accuracy, progress.best_right
        described = inference.described(network, views)
        model = inference.answering(described)
        if views != "one" and not recipe["debug"]["overfit_one_batch"]:
            size = max(1, batch_size // inference.VIEWS[views])  # each view counts as an image
            found = inference.right(model, data.val_images, data.val_labels, batch_size=size)
            accuracy, right = float(found.mean()), packed(found)
        return Trained(model, described, progress, batch_size, accuracy, right, held_out)

    if recipe["batch_size"] != "auto":
        distribution.check_batch_size(recipe["batch_size"])
        return attempt(int(recipe["batch_size"]))
    return halving(attempt, start=start, checkpoint=checkpoint, say=reports.say)


def _is_worse(progress: Progress, before: Mapping[str, Any]) -> bool:
    """Return whether fewer validation images are right than before, significantly or with a higher loss.

    Args:
        before: Progress.best of an earlier phase. Of a few images no difference is significant.
    """
    now, then = unpacked(progress.best_right), unpacked(before["best_right"])
    is_higher = progress.best_val_loss > before["best_val_loss"]
    return bool(now.sum() < then.sum()) and (is_higher or is_less_accurate(now, then))


def first_batch_size(n_train: int) -> int:
    """Return the first batch size of `auto`: a power of two with at least LEAST_AUTO_STEPS steps per epoch."""
    greatest = min(GREATEST_AUTO_BATCH, max(1, n_train // LEAST_AUTO_STEPS))
    return 1 << (greatest.bit_length() - 1)


def halving(
    attempt: Callable[[int], Result], *, start: int, checkpoint: Checkpoint | None = None, say: Callable[[str], None]
) -> Result:
    """Return the result of an attempt; halve the batch size after each one that runs out of memory.

    Args:
        attempt: called with the batch size.
        start: the first batch size, unless the checkpoint has one.
        checkpoint: restarted with every attempt.
        say: called with a line for the user.

    Raises:
        TrainingError: not even one image fits into memory.
    """
    from darkroom.networks.runtime import distribution, memory

    shares = distribution.n_devices()
    size = (checkpoint.batch_size if checkpoint else None) or max(shares, start // shares * shares)
    while True:
        if checkpoint:
            checkpoint.batch_size = size
        try:
            return attempt(size)
        except Exception as error:
            if not memory.is_out_of_memory(error):
                raise
        # Outside the handler, because the error's traceback keeps the network that did not fit.
        gc.collect()
        if size == shares:
            raise TrainingError("not even one image fits into memory; use smaller images or a smaller network")
        smaller = max(shares, size // 2 // shares * shares)
        say(f"batch_size auto: {size} images do not fit into memory; restarting with {smaller}")
        size = smaller
        if checkpoint:
            checkpoint.restart()


@dataclasses.dataclass(frozen=True)
class _Run:
    """One attempt at a training."""

    recipe: Recipe
    data: Data
    image_shape: tuple[int, int, int]
    features: Features | None
    extractor_of: "Callable[[str], keras.Model] | None"
    policy: str
    fraction: float
    batch_size: int
    checkpoint: Checkpoint | None
    reports: Reports

    def network(self) -> "tuple[keras.Model, Progress]":
        """Train a network without a backbone; return it as float32."""
        from darkroom.networks.build import initialise_from_data
        from darkroom.networks.runtime import distribution

        with distribution.distribution():
            network = self._build(self.policy)
            with distribution.whole_batches():
                initialise_from_data(network, self.data.images, seed=self.recipe["seed"])
            progress = self._phase(network, self.data, name="training")
        final = self._build("float32")  # exported in float32, whatever the precision of training
        final.set_weights(network.get_weights())
        return final, progress

    def transfer(self) -> "tuple[keras.Model, Progress, HeldOut | None]":
        """Train a head and, depending on the mode, the backbone; return both as one float32 network.

        Also return the held-out answers of solve_head; None if no head was solved, or it was not the best.
        """
        from darkroom.networks.build import with_head
        from darkroom.networks.runtime import distribution

        assert self.extractor_of is not None  # noqa: S101 - a promise to mypy
        extractor = self.extractor_of("float32")
        final = with_head(extractor, self._build_head(extractor.output_shape[-1], "float32"))
        with distribution.distribution():
            weights, progress, held_out = self._transferred(extractor.get_weights(), extractor.output_shape[-1])
        final.set_weights(weights)
        return final, progress, held_out if progress.best_phase == "head" else None

    def _transferred(
        self, backbone: list[np.ndarray], n_features: int
    ) -> tuple[list[np.ndarray], Progress, HeldOut | None]:
        """Return the weights of backbone and head in the best epoch, given the pretrained ones of the backbone."""
        from darkroom.networks.backbones.extractor import unfreeze
        from darkroom.networks.build import with_head

        assert self.extractor_of is not None  # noqa: S101 - a promise to mypy
        mode, settings = transfer_mode(self.recipe), self.recipe["architecture"]
        head = self._build_head(n_features, self.policy)
        if mode == "frozen":
            network = with_head(self.extractor_of(self.policy), head)
            progress = self._phase(network, self.data, name="head")
            return network.get_weights(), progress, None
        if mode == "finetune":  # built first, to refuse a wrong number of blocks before anything is trained
            extractor = self.extractor_of(self.policy)
            unfreeze(extractor, settings["unfreeze"])
        held_out = None
        if is_solved(self.recipe):
            progress, held_out = self._solved(head)
        else:
            progress = self._phase(head, self._vectors(), name="head")
        best = [*backbone, *head.get_weights()]
        if mode == "finetune":
            network = with_head(extractor, head)
            epochs, rate = settings["finetune_epochs"], settings["finetune_learning_rate"]
            solved = progress.best if is_solved(self.recipe) else None
            progress = self._phase(
                network, self.data, name="finetuning", epochs=epochs, learning_rate=rate, progress=progress
            )
            if solved and _is_worse(progress, solved):
                self.reports.say("fine-tuning made it less accurate; the solved head is kept")
                progress = dataclasses.replace(progress, **solved)
            best = network.get_weights() if progress.best_phase == "finetuning" else best
        return best, progress, held_out

    def _solved(self, head: "keras.Model") -> tuple[Progress, HeldOut | None]:
        """Solve the head, and report it as the first epoch, unless a resumed training has done so."""
        progress, held_out = solve_head(head, self.recipe, self._vectors(), fit_val=self.fraction == 1)
        if self.reports.on_epoch_end and not (self.checkpoint and self.checkpoint.load()):
            record = progress.history[0]
            self.reports.on_epoch_end(1, {name: record[name] for name in record.keys() - {"epoch", "phase"}})
        return progress, held_out

    def _phase(
        self,
        network: "keras.Model",
        data: Data,
        *,
        name: str,
        epochs: int | None = None,
        learning_rate: float | None = None,
        progress: Progress | None = None,
    ) -> Progress:
        from darkroom.training.fit import Phase, fit

        recipe, batch_size = self.recipe, self.batch_size
        epochs = epochs or int(recipe["epochs"])
        steps = len(epoch_batches(recipe, data, batch_size=batch_size, epoch=0))
        peak = learning_rate or recipe["learning_rate"]
        schedule = build_schedule(recipe, peak=peak, epochs=epochs, steps_per_epoch=steps)
        phase = Phase(
            epochs,
            build_optimizer(recipe, learning_rate=schedule, policy=self.policy),
            name=name,
            label_smoothing=recipe["label_smoothing"],
            variation=variation_of(recipe, data),
            early_stopping=recipe["early_stopping"],
            keep=recipe["checkpoint"],
            plateau=build_plateau(recipe),
            schedule=schedule,
        )
        return fit(
            network,
            phase,
            train=lambda epoch: epoch_batches(recipe, data, batch_size=batch_size, epoch=epoch),
            validation=validation_batches(recipe, data, batch_size=batch_size),
            progress=progress,
            checkpoint=self.checkpoint,
            on_step=self.reports.on_step,
            on_epoch_end=self.reports.on_epoch_end,
        )

    def _vectors(self) -> Vectors:
        assert self.features is not None  # noqa: S101 - a promise to mypy
        return part(vectors(self.features, self.data), self.fraction, seed=self.recipe["seed"])

    def _build(self, policy: str) -> "keras.Model":
        return build_network(self.recipe, image_shape=self.image_shape, n_classes=len(self.data.classes), policy=policy)

    def _build_head(self, n_features: int, policy: str) -> "keras.Model":
        return build_head(self.recipe, n_features=n_features, n_classes=len(self.data.classes), policy=policy)
