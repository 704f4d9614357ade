"""The strangeness of an image: how unlike the training images it is, as a second output of the exported graph.

It is the sum of two measures, each divided by its spread over known images. The Mahalanobis distance of the last
features to the nearest class mean, with one covariance for all classes (Lee et al. 2018), detects images of another
kind; the energy of the logits (Liu et al. 2020) detects images between classes. Features are scaled to length 1
(Mueller and Hein 2025), because those of unknown images are often short, and therefore near everything. They can also
be long, with an energy far below that of any known image; the energy of ambiguous images is far above. Therefore the
energy is clipped to the range of most known images, so that it does not hide a distance, and an energy far below that
range adds to the strangeness. The covariance has only the directions in which features vary most; all others share one
variance (Tipping and Bishop 1999). benchmarks/unknown.py compares this with other scores.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

MOST_DIRECTIONS = 64
IMAGES_PER_DIRECTION = 10
SHORTEST = 1e-6  # minimum length of features
# Quantiles of known images' energy, chosen on digits and CIFAR-10 in benchmarks/unknown.py: an energy below the first
# adds the difference to the strangeness; between the other two it counts as it is.
ENERGIES = (0.005, 0.05, 0.9)
LEAST_VARIANCE = 1e-3  # of the mean variance; units that are hardly ever active would otherwise dominate


class Known(NamedTuple):
    """The features of the training images, at length 1.

    Attributes:
        mean: float32 (features,).
        directions: (features, r), orthonormal: those in which features vary most within classes.
        scale: (r,): the standard deviation in each direction.
        centres: (classes, r): the means of the classes, scaled.
        rest: the variance in each other direction; 0 if there is none.
        energy_marks: the three energies of the quantiles above.
        spreads: of distance and energy over images that were not used for training.
    """

    mean: np.ndarray
    directions: np.ndarray
    scale: np.ndarray
    centres: np.ndarray
    rest: float
    energy_marks: tuple[float, float, float] = (-np.inf, -np.inf, np.inf)
    spreads: tuple[float, float] = (1.0, 1.0)

    def spread_over(self, logits: np.ndarray, features: np.ndarray) -> "Known":
        """Return the same with energy_marks and spreads of these images."""
        energy = energies(logits)
        of_distance, of_energy = (max(float(np.std(one)), 1e-6) for one in (distances(features, self), energy))
        lowest, least, greatest = (float(mark) for mark in np.quantile(energy, ENERGIES))
        return self._replace(energy_marks=(lowest, least, greatest), spreads=(of_distance, of_energy))


def known(features: np.ndarray, labels: np.ndarray) -> Known:
    """Return the statistics of training images.

    Args:
        features: float32 (n, features), n at least 2.
        labels: (n,), int.
    """
    n_images, n_features = features.shape
    of_length_1 = features.astype(np.float64) / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), SHORTEST)
    mean = of_length_1.mean(axis=0)
    centred = of_length_1 - mean
    members = np.unique(labels, return_inverse=True)[1]
    centres = np.stack([centred[members == number].mean(axis=0) for number in range(members.max() + 1)])
    within = centred - centres[members]
    variance, directions = (found[..., ::-1] for found in np.linalg.eigh(within.T @ within / n_images))
    least = LEAST_VARIANCE * max(float(variance.mean()), 1e-12)
    n_kept = min(MOST_DIRECTIONS, n_features, max(1, n_images // IMAGES_PER_DIRECTION))
    directions, scale = directions[:, :n_kept], np.sqrt(np.maximum(variance[:n_kept], least))
    outside = (centred**2).sum() - ((centred @ directions) ** 2).sum()
    rest = max(outside / n_images / (n_features - n_kept), least) if n_kept < n_features else 0.0
    arrays = (mean, directions, scale, centres @ directions / scale)
    mean, directions, scale, centres = (array.astype(np.float32) for array in arrays)
    return Known(mean, directions, scale, centres, float(rest))


def distances(features: Any, of: Known) -> Any:
    """Return the distances of features (n, features) from known ones: (n,), for an array or a layer's output."""
    length = ops.maximum(ops.sqrt(ops.sum(features**2, axis=1, keepdims=True)), SHORTEST)
    centred = features / length - of.mean
    inside = ops.matmul(centred, of.directions)
    scaled = inside / of.scale
    to_origin = ops.sum(scaled**2, axis=1)
    found = to_origin + ops.min(ops.matmul(scaled, -2 * of.centres.T) + (of.centres**2).sum(axis=1), axis=1)
    if of.rest:
        found = found + ops.relu(ops.sum(centred**2, axis=1) - ops.sum(inside**2, axis=1)) / of.rest
    return found


def energies(logits: Any) -> Any:
    """Return the energies of logits (n, classes): (n,); high if no class has a high logit."""
    return -ops.logsumexp(logits, axis=1)


def summed(logits: Any, features: Any, of: Known) -> Any:
    """Return the strangeness of images from logits and features, (n,), for arrays or outputs of layers."""
    energy, (lowest, least, greatest) = energies(logits), of.energy_marks
    counted = ops.clip(energy, least, greatest) + ops.relu(lowest - energy)
    return distances(features, of) / of.spreads[0] + counted / of.spreads[1]


def measured(described: keras.Model, of: Known) -> keras.Model:
    """Return the model from images to their strangeness, (n,).

    Args:
        described: returned by inference.described.
    """
    logits, features = described.outputs
    return keras.Model(described.input, summed(logits, features, of), name="strangeness")
