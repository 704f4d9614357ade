"""Real answers for benchmarks/promotion.py: hundreds of cheap models on MNIST, CIFAR-10, and photographs of pets.

A model is a ridge regression on a layer of random ReLU features, drawn by its seed (Rahimi & Recht 2007), with a
temperature for its probabilities. It trains in about a second and behaves like other classifiers: two models of a
recipe, with different seeds and training images, make different errors. A recipe is a number of features. MNIST is
classified by its pixels, the others by the pooled features of EfficientNet-Lite0 with ImageNet weights.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.mnist import clone, seconds, use
from darkroom.data.arrays.dataset import Dataset
from darkroom.promotion.answers import Answers

TEMPERATURES = np.geomspace(1, 60, 40)


class Source(NamedTuple):
    """A dataset of the benchmark.

    Attributes:
        archive: its file in DARKROOM_MIRROR; None: it is downloaded.
        image_size: edge in pixels of the backbone's input; None: the pixels themselves are classified.
        n_components: number of principal components that are the input of the random features.
        ridge: strength of the regularization.
        n_pool: number of images for training; a model uses a random half and fits its temperature on the other.
        recipes: numbers of random features: of the nightly recipe, and of better ones.
    """

    archive: str | None
    preset: str
    changes: dict[str, str]
    image_size: int | None
    n_components: int
    ridge: float
    n_pool: int
    recipes: tuple[int, ...]


SOURCES = {
    "mnist": Source(None, "mnist", {}, None, 40, 0.001, 20_000, (600, 740, 940)),
    "cifar10": Source(
        "cifar10_jpeg.tar.xz", "cifar10", {"download.dataset": "cifar10-jpeg"}, 96, 100, 0.1, 20_000, (600, 790, 1150)
    ),
    "cats-vs-dogs": Source("cats_vs_dogs.tar", "cats-vs-dogs", {}, 96, 30, 0.1, 1_000, (100, 118, 160)),
}


class Inputs(NamedTuple):
    """The input of the models, (n, d) float32, and the true class of each image, (n,) int."""

    values: np.ndarray
    labels: np.ndarray


def read_inputs(source: Source) -> Inputs:
    """Return the inputs of all images of a dataset, in an order drawn by a fixed seed."""
    with clone() as root:
        use(root, source.preset, source.changes)
        seconds(root, "dvc", "repro", "preprocess")
        dataset = Dataset.open(root / "data" / "prepared")
        order = np.random.default_rng(7).permutation(len(dataset.images))
        values = _pixels(dataset) if source.image_size is None else _features(dataset, source.image_size)
    return Inputs(_principal(values[order], source.n_components), dataset.labels[order])


def read_recipes(source: Source, *, n_models: Sequence[int], kept: Path | None) -> list[list[Answers]]:
    """Return the answers of new models of each recipe; log loss and Brier score in half precision.

    Args:
        n_models: of the first recipe, and of each other.
        kept: a file of answers, read if it exists, otherwise written.
    """
    if kept and kept.is_file():
        arrays = dict(np.load(kept))
    else:
        inputs, arrays = read_inputs(source), {}
        for number, size in enumerate(source.recipes):
            seeds = range(1000 * size, 1000 * size + n_models[min(number, 1)])
            found = [answers(inputs, source, n_features=size, seed=seed) for seed in seeds]
            arrays[f"{size}_correct"] = np.array([model.correct for model in found])
            for name in ("log_loss", "brier"):
                arrays[f"{size}_{name}"] = np.array([getattr(model, name) for model in found], np.float16)
        if kept:
            np.savez(kept, **arrays)
    names = ("correct", "log_loss", "brier")
    return [
        [Answers(*model) for model in zip(*(arrays[f"{size}_{name}"] for name in names), strict=True)]
        for size in source.recipes
    ]


def answers(inputs: Inputs, source: Source, *, n_features: int, seed: int) -> Answers:
    """Return the answers of a new model on all images outside the pool for training."""
    rng, n_pool = np.random.default_rng(seed), source.n_pool
    n_classes = int(inputs.labels.max()) + 1
    shuffled = rng.permutation(n_pool)
    train, held_out = shuffled[: n_pool // 2], shuffled[n_pool // 2 :]
    weights = rng.standard_normal((inputs.values.shape[1], n_features), dtype=np.float32)
    offsets = rng.standard_normal(n_features, dtype=np.float32)
    hidden = np.maximum(inputs.values @ weights / np.sqrt(len(weights)) + offsets, 0)
    gram = hidden[train].T @ hidden[train]
    gram[np.diag_indices(n_features)] += source.ridge * np.trace(gram) / n_features
    targets = np.eye(n_classes, dtype=np.float32)[inputs.labels]
    scores = hidden @ np.linalg.solve(gram, hidden[train].T @ targets[train])
    losses = [-np.log(_softmax(t * scores[held_out])[targets[held_out] == 1] + 1e-7).mean() for t in TEMPERATURES]
    probabilities = _softmax(TEMPERATURES[int(np.argmin(losses))] * scores[n_pool:])
    names = [str(label) for label in range(n_classes)]
    return Answers.of(probabilities, classes=names, labels=inputs.labels[n_pool:].astype(str))


def _softmax(scores: np.ndarray) -> np.ndarray:
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def _principal(values: np.ndarray, n_components: int) -> np.ndarray:
    """Return the first principal components of the images, scaled by one factor to a mean variance of 1."""
    centred = values - values.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    reduced = centred @ vectors[:, -n_components:]
    return np.asarray(reduced / reduced.std(), np.float32)


def _pixels(dataset: Dataset) -> np.ndarray:
    return dataset.images[:].reshape(len(dataset.images), -1).astype(np.float32) / 255


def _features(dataset: Dataset, edge: int) -> np.ndarray:
    from darkroom.networks.backbones.embedding import Embedder
    from darkroom.networks.backbones.extractor import extractor
    from darkroom.networks.backbones.table import find_backbone
    from darkroom.networks.backbones.weights import obtain_weights

    network = extractor(
        "efficientnet-lite0",
        image_shape=dataset.images.shape[1:],
        image_size=(edge, edge),
        weights=obtain_weights(find_backbone("efficientnet-lite0"), "imagenet"),
    )
    return np.concatenate(list(Embedder(network, image_size=(edge, edge))(dataset.images)))
