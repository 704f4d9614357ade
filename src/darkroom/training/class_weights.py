"""The weights of classes in the loss: none, balanced, effective, auto, or given in params."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from darkroom.data.arrays.dataset import class_balance
from darkroom.errors import ParamsError

BALANCED_ABOVE = 1.5  # images of the largest class per image of the smallest


class ChosenWeights(NamedTuple):
    """The choice, balanced or none, and the reason."""

    value: str
    reason: str


def choose_class_weights(counts: Mapping[str, int]) -> ChosenWeights:
    """Return "balanced" if the largest class has more than 1.5 times the images of the smallest, else "none".

    Args:
        counts: training images per class.
    """
    used = {name: count for name, count in counts.items() if count > 0}
    if not used:
        return ChosenWeights("none", "there are no training images")
    low, high = min(used.values()), max(used.values())
    value = "balanced" if high > BALANCED_ABOVE * low else "none"
    return ChosenWeights(value, f"classes have {class_balance(used)}")


EFFECTIVE_BETA = 0.999


def class_weights(setting: str | Mapping[str, float], *, labels: np.ndarray, classes: Sequence[str]) -> Any:
    """Return the weight of each class in the training loss, float32 (classes,), or None where all weigh the same.

    The mean over the training images is 1, so that the learning rate means the same with and without.

    Args:
        setting: "none"; "balanced": the inverse of the number of images of a class; "effective": the inverse of their
            effective number (1 - beta^n) / (1 - beta) with beta 0.999 (Cui et al. 2019), which is similar for all
            classes of thousands of images; "auto": balanced or none, see choose_class_weights; or weights by class
            name, 1 for classes that are not named.
        labels: (n,) int, of the training images.
        classes: names by class number.

    Raises:
        ParamsError: an unknown class or setting, or weights that are 0 for every image.
    """
    counts = np.bincount(labels, minlength=len(classes))
    if setting == "auto":
        setting = choose_class_weights(dict(zip(classes, counts.tolist(), strict=True))).value
    if setting == "none":
        return None
    if isinstance(setting, Mapping):
        if unknown := sorted(set(setting) - set(classes)):
            shown = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
            raise ParamsError(f"class_weights has a weight for an unknown class {unknown[0]!r}; classes: {shown}")
        weights = np.array([setting.get(name, 1.0) for name in classes], np.float64)
    elif setting == "balanced":
        weights = 1 / np.maximum(counts, 1)
    elif setting == "effective":
        weights = (1 - EFFECTIVE_BETA) / (1 - EFFECTIVE_BETA ** np.maximum(counts, 1))
    else:
        raise ParamsError(f"class_weights is {setting!r}, expected none, balanced, effective, auto or weights by class")
    mean = (weights * counts).sum() / counts.sum()
    if not mean > 0:
        raise ParamsError("class_weights is 0 for every training image; give at least one class a weight above 0")
    return (weights / mean).astype(np.float32)
