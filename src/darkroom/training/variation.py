"""Random draws that vary the training images of a batch: shifts, flips, erasing, MixUp, CutMix."""

import dataclasses
import math

import numpy as np

COLUMNS = {"shift": 2, "flip": 1, "cutout": 2, "erasing": 4}

ERASED_AREA = (0.02, 0.33)  # of the image
ERASED_ASPECT = (0.3, 3.3)  # height by width


@dataclasses.dataclass(frozen=True)
class Variation:
    """The random augmentations of training images; without arguments, none.

    Args:
        shift: maximum shift in pixels, per axis.
        shift_fill: fill of the uncovered border: "zero", or "reflect".
        flip: left to right: "none", "random" (half of the images, drawn every epoch) or "alternating" (drawn once per
            image, then every other epoch, so that no image is the same in consecutive epochs; Jordan 2024).
        cutout: edge in pixels of a square inside the image that is set to 0 (DeVries & Taylor 2017).
        erasing: probability of a rectangle that is set to 0 (Zhong et al. 2020, who fill it with noise), clipped to the
            image.
        mixup: alpha; two images and their labels are mixed by a share from Beta(alpha, alpha) (Zhang et al. 2018).
        cutmix: alpha; a rectangle of one image replaces that of another, with an area drawn alike (Yun et al. 2019). If
            both are above 0, one of the two is drawn per batch. A batch has one share and, for CutMix, one rectangle.
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
        """The columns of each augmentation in the draws; those switched off have none.

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
        # Not the stream of an epoch: those are [seed, epoch], which numpy pads with zeros.
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
    images: np.ndarray, labels: np.ndarray, *, mixup: float, cutmix: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return a batch whose images are mixed with each other, with labels in the same proportion.

    Args:
        images: uint8 (b, H, W, C); CutMix changes it in place.
        labels: float32 (b, classes).
        mixup, cutmix: see Variation; at least one is above 0.
    """
    others = rng.permutation(len(images))
    if mixup and (not cutmix or rng.random() < 0.5):
        import cv2

        share = rng.beta(mixup, mixup)
        flat = images.reshape(len(images), -1)
        images = cv2.addWeighted(flat, share, flat[others], 1 - share, 0).reshape(images.shape)
    else:
        height, width = images.shape[1:3]
        edge = math.sqrt(1 - rng.beta(cutmix, cutmix))
        row, column = rng.integers(0, height), rng.integers(0, width)
        top, bottom = np.clip([row - edge * height / 2, row + edge * height / 2], 0, height).round().astype(int)
        left, right = np.clip([column - edge * width / 2, column + edge * width / 2], 0, width).round().astype(int)
        images[:, top:bottom, left:right] = images[others, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
    return images, (share * labels + (1 - share) * labels[others]).astype(np.float32)
