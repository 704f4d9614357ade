"""The answers of two models on the same images, in the form that the gates need. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from darkroom.errors import DataError
from darkroom.promotion.slices import Slice

LEAST_PROBABILITY = 1e-7  # about the resolution of float32, so that the log loss is finite


@dataclass(frozen=True)
class Answers:
    """One model's answers: (n,) each.

    Attributes:
        correct: bool: the image was classified correctly.
        log_loss: -log of the probability of the true class, at most 16.1.
        brier: sum over classes of the squared difference of probability and truth (Brier 1950), in [0, 2].
    """

    correct: np.ndarray
    log_loss: np.ndarray
    brier: np.ndarray

    @classmethod
    def of(cls, probabilities: np.ndarray, *, classes: Sequence[str], labels: np.ndarray) -> "Answers":
        """Return the answers of a model. Classes that it does not know have probability 0.

        Args:
            probabilities: (n, classes), float; rows sum to 1.
            classes: names of the columns.
            labels: (n,), str: the true classes, which the model need not know.

        Raises:
            DataError: the shapes disagree.
        """
        if probabilities.shape != (len(labels), len(classes)):
            raise DataError(
                f"got probabilities of shape {probabilities.shape} for {len(labels)} images and {len(classes)} classes"
            )
        truth = labels[:, None] == np.array(classes, dtype=str)
        of_truth = (probabilities * truth).sum(axis=1)
        unknown = ~truth.any(axis=1)
        return cls(
            correct=np.array(classes, dtype=str)[probabilities.argmax(axis=1)] == labels,
            log_loss=-np.log(np.maximum(of_truth, LEAST_PROBABILITY)),
            brier=((probabilities - truth) ** 2).sum(axis=1) + unknown,
        )

    def at(self, members: np.ndarray) -> "Answers":
        """Return the answers on some of the images: (n,), bool."""
        return Answers(self.correct[members], self.log_loss[members], self.brier[members])


@dataclass(frozen=True)
class Scored:
    """Candidate and champion on the same images, in the same order.

    Attributes:
        labels: (n,), str: the true classes.
        champion: None if there is none.
        comparable: (n,), bool: images that neither model has seen in training or tuning; None: all.
        slices: of the same images.
        reference: the model with which the candidate is also compared for the margin of the gate `champion`, or None.
    """

    labels: np.ndarray
    candidate: Answers
    champion: Answers | None = None
    comparable: np.ndarray | None = None
    slices: Sequence[Slice] = field(default_factory=tuple)
    reference: Answers | None = None

    def compared(self) -> "Scored":
        """Return only the comparable images."""
        if (keep := self.comparable) is None:
            return self
        return Scored(
            self.labels[keep],
            self.candidate.at(keep),
            champion=self.champion and self.champion.at(keep),
            slices=[Slice(part.name, part.members[keep]) for part in self.slices],
            reference=self.reference and self.reference.at(keep),
        )
