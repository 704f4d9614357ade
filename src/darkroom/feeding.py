"""How training is fed: batches of pictures, with the random draws that vary them. Numpy only, OpenCV for MixUp.

Every draw is a function of (seed, epoch) alone, made here and, but for MixUp and CutMix, applied on the device
(variation.Draws): the same on every Keras backend, and after a resume.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from darkroom.defaults import choose_class_weights
from darkroom.errors import ParamsError, TrainingError

COLUMNS = {"shift": 2, "flip": 1, "cutout": 2, "erasing": 4}
EFFECTIVE_BETA = 0.999
ERASED_AREA = (0.02, 0.33)  # of the picture
ERASED_ASPECT = (0.3, 3.3)  # height by width


class Selection:
    """Rows of one or several picture arrays as one array, read when indexed: memory-mapped shards stay on disk.

    Args:
        parts: pairs (images, rows): images is indexable by an int array and gives uint8 (n, H, W, C); rows are (n,).
    """

    def __init__(self, parts: Sequence[tuple[Any, np.ndarray]]) -> None:
        self._parts = [(images, rows) for images, rows in parts if len(rows)]
        self._starts = np.cumsum([0, *(len(rows) for _, rows in self._parts)])
        self.shape = (int(self._starts[-1]), *parts[0][0].shape[1:])

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, chosen: np.ndarray) -> np.ndarray:
        """Return uint8 (len(chosen), H, W, C) in the order asked for."""
        if len(self._parts) == 1:
            images, rows = self._parts[0]
            return np.asarray(images[rows[chosen]])
        gathered = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        part_of = np.searchsorted(self._starts, chosen, side="right") - 1
        for part, (images, rows) in enumerate(self._parts):
            here = part_of == part
            gathered[here] = images[rows[chosen[here] - self._starts[part]]]
        return gathered


@dataclasses.dataclass(frozen=True)
class Variation:
    """Which random draws vary the training pictures; without arguments none do.

    Args:
        shift: greatest shift in pixels, each axis.
        shift_fill: what is shifted in: "zero", or "reflect" for the mirrored border.
        flip: left to right: "none", "random" (half of the pictures, drawn every epoch) or "alternating" (drawn once per
            picture, then every other epoch; Jordan 2024: no picture is seen the same way in two epochs running).
        cutout: edge in pixels of a square set to 0 at a random place, inside the picture (DeVries & Taylor 2017).
        erasing: probability of a rectangle set to 0 (Zhong et al. 2020, there filled with noise); one that would stick
            out of the picture is cut to its edge.
        mixup: alpha; two pictures and their labels are mixed by a share from Beta(alpha, alpha) (Zhang et al. 2018).
        cutmix: alpha; a rectangle of one picture is put into another, its area likewise (Yun et al. 2019). Where both
            are above 0, one of the two is drawn per batch. A batch has one share and, for CutMix, one rectangle.
    """

    shift: int = 0
    shift_fill: str = "zero"
    flip: str = "none"
    cutout: int = 0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def columns(self) -> dict[str, slice]:
        """Which columns of the draws belong to what; what is switched off has none.

        shift: rows down, columns right; flip: 0 or 1; cutout: top, left; erasing: top, left, height, width.
        """
        on = {"shift": self.shift, "flip": self.flip != "none", "cutout": self.cutout, "erasing": self.erasing}
        widths = {name: COLUMNS[name] for name, value in on.items() if value}
        ends = np.cumsum(list(widths.values())).tolist()
        return {name: slice(end - widths[name], end) for name, end in zip(widths, ends, strict=True)}

    @property
    def n_columns(self) -> int:
        return max((columns.stop for columns in self.columns.values()), default=0)

    @property
    def mixes(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0


def draw(
    variation: Variation, *, n_images: int, image_size: tuple[int, int], seed: int, epoch: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the draws of an epoch, int32 (n_images, variation.n_columns).

    Args:
        image_size: (H, W) in pixels.
        seed, epoch: decide alternating flips.
        rng: decides everything else.
    """
    height, width = image_size
    columns = variation.columns
    draws = np.zeros((n_images, variation.n_columns), np.int32)
    if "shift" in columns:
        draws[:, columns["shift"]] = rng.integers(-variation.shift, variation.shift + 1, (n_images, 2))
    if variation.flip == "alternating":
        # No stream of an epoch: those are [seed, epoch], which numpy fills up with zeros.
        first = np.random.default_rng([seed, 0, 1]).integers(0, 2, n_images)
        draws[:, columns["flip"]] = ((first + epoch) % 2)[:, None]
    elif "flip" in columns:
        draws[:, columns["flip"]] = rng.integers(0, 2, (n_images, 1))
    if "cutout" in columns:
        ends = [max(1, height - variation.cutout + 1), max(1, width - variation.cutout + 1)]
        draws[:, columns["cutout"]] = rng.integers(0, ends, (n_images, 2))
    if "erasing" in columns:
        area = rng.uniform(*ERASED_AREA, n_images) * height * width
        aspect = np.exp(rng.uniform(math.log(ERASED_ASPECT[0]), math.log(ERASED_ASPECT[1]), n_images))
        heights = np.clip(np.rint(np.sqrt(area * aspect)), 1, height).astype(np.int32)
        widths = np.clip(np.rint(np.sqrt(area / aspect)), 1, width).astype(np.int32)
        heights[rng.random(n_images) >= variation.erasing] = 0
        tops, lefts = rng.integers(0, height - heights + 1), rng.integers(0, width - widths + 1)
        draws[:, columns["erasing"]] = np.stack([tops, lefts, heights, widths], axis=1)
    return draws


def mix(
    pictures: np.ndarray, labels: np.ndarray, *, mixup: float, cutmix: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return a batch whose pictures are mixed with others of it, and its labels in the same proportion.

    Args:
        pictures: uint8 (b, H, W, C); written into by CutMix.
        labels: float32 (b, classes).
        mixup, cutmix: as in Variation; one at least is above 0.
    """
    others = rng.permutation(len(pictures))
    if mixup and (not cutmix or rng.random() < 0.5):
        import cv2

        share = rng.beta(mixup, mixup)
        flat = pictures.reshape(len(pictures), -1)
        pictures = cv2.addWeighted(flat, share, flat[others], 1 - share, 0).reshape(pictures.shape)
    else:
        height, width = pictures.shape[1:3]
        edge = math.sqrt(1 - rng.beta(cutmix, cutmix))
        row, column = rng.integers(0, height), rng.integers(0, width)
        top, bottom = np.clip([row - edge * height / 2, row + edge * height / 2], 0, height).round().astype(int)
        left, right = np.clip([column - edge * width / 2, column + edge * width / 2], 0, width).round().astype(int)
        pictures[:, top:bottom, left:right] = pictures[others, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
    return pictures, (share * labels + (1 - share) * labels[others]).astype(np.float32)


def class_weights(setting: str | Mapping[str, float], *, labels: np.ndarray, classes: Sequence[str]) -> Any:
    """Return the weight of each class in the training loss, float32 (classes,), or None where all weigh the same.

    The mean over the training pictures is 1, so that the learning rate means the same with and without.

    Args:
        setting: "none"; "balanced": by the inverse of how many pictures a class has; "effective": by the inverse of
            their effective number (1 - beta^n) / (1 - beta) with beta 0.999 (Cui et al. 2019), which treats classes
            of thousands of pictures alike; "auto": balanced or none, by how much the classes differ; or weights by
            class, 1 where a class is not named.
        labels: (n,) int, of the training pictures.
        classes: names by class number.

    Raises:
        ParamsError: an unknown class or setting, or weights that are 0 for every picture.
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
        raise ParamsError("class_weights is 0 for every training picture; give one class a weight above 0")
    return (weights / mean).astype(np.float32)


class EpochBatches:
    """One epoch of shuffled batches: (inputs, labels float32 (b, classes)), and weights float32 (b,) by class if asked.

    The inputs are pictures uint8 (b, H, W, C), or where something is drawn (pictures, draws int32 (b, columns)); they
    may be feature vectors float32 (b, D) as well, which nothing varies. The last, smaller batch is left out, since it
    would be compiled apart; the next epoch shuffles anew.

    Args:
        images: indexable by an int array, gives uint8 (n, H, W, C) or float32 (n, D).
        labels: (n,) int, class numbers.
        n_classes: width of the labels.
        batch_size: pictures per step, at most n.
        seed, epoch: decide order and draws.
        variation: what is drawn.
        weights: float32 (classes,), by class; None: no weights.
        max_steps: greatest number of batches; None: all.

    Raises:
        TrainingError: fewer pictures than one batch.
    """

    def __init__(
        self,
        images: Any,
        labels: np.ndarray,
        *,
        n_classes: int,
        batch_size: int,
        seed: int,
        epoch: int,
        variation: Variation | None = None,
        weights: np.ndarray | None = None,
        max_steps: int | None = None,
    ) -> None:
        n_images = len(labels)
        if n_images < batch_size:
            raise TrainingError(f"{n_images} training images do not fill one batch of {batch_size}; lower batch_size")
        rng = np.random.default_rng([seed, epoch])
        self.images, self.labels, self.batch_size, self.weights = images, labels, batch_size, weights
        self.variation = variation or Variation()
        self.order = rng.permutation(n_images)
        self.draws = None
        if self.variation.n_columns:
            self.draws = draw(
                self.variation, n_images=n_images, image_size=images.shape[1:3], seed=seed, epoch=epoch, rng=rng
            )
        self._steps = n_images // batch_size if max_steps is None else min(n_images // batch_size, max_steps)
        self._one_hot = np.eye(n_classes, dtype=np.float32)
        self._key = (seed, epoch)

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> tuple[Any, ...]:
        chosen = self.order[step * self.batch_size : (step + 1) * self.batch_size]
        pictures, labels = self.images[chosen], self._one_hot[self.labels[chosen]]
        if self.variation.mixes:
            rng = np.random.default_rng([*self._key, step + 2])
            mixup, cutmix = self.variation.mixup, self.variation.cutmix
            pictures, labels = mix(pictures, labels, mixup=mixup, cutmix=cutmix, rng=rng)
        inputs = pictures if self.draws is None else (pictures, self.draws[chosen])
        return (inputs, labels) if self.weights is None else (inputs, labels, labels @ self.weights)


class OneBatch:
    """The first of some batches again and again, as many times as there are batches: for finding mistakes."""

    def __init__(self, batches: EpochBatches) -> None:
        self.batch_size, self._steps, self._batch = batches.batch_size, len(batches), batches[0]

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, _step: int) -> tuple[Any, ...]:
        return self._batch


class PlainBatches:
    """All pictures in order, the last batch smaller: (pictures uint8 (b, H, W, C), one-hot float32 (b, classes))."""

    def __init__(self, images: Any, labels: np.ndarray, *, n_classes: int, batch_size: int) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self._one_hot = np.eye(n_classes, dtype=np.float32)

    def __len__(self) -> int:
        return math.ceil(len(self.labels) / self.batch_size)

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = np.arange(step * self.batch_size, min((step + 1) * self.batch_size, len(self.labels)))
        return self.images[chosen], self._one_hot[self.labels[chosen]]
