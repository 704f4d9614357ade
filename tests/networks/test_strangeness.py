"""The strangeness of images: compared with the formula, and in the exported graph."""

from pathlib import Path

import numpy as np
import pytest

from darkroom.errors import TrainingError
from tests.networks.test_build import COMPACT, extractor

pytestmark = pytest.mark.heavy
RNG = np.random.default_rng(0)


def clusters(n_images: int, *, n_features: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(n_images) % 3
    features = RNG.normal(size=(n_images, n_features)) * np.linspace(1, 3, n_features)
    return (features + 5 * np.eye(3, n_features)[labels]).astype(np.float32), labels


def test_with_all_directions_the_distance_is_that_of_mahalanobis() -> None:
    from darkroom.networks import strangeness

    features, labels = clusters(400, n_features=5)
    of_length_1 = features / np.linalg.norm(features, axis=1, keepdims=True)
    means = np.stack([of_length_1[labels == label].mean(axis=0) for label in range(3)])
    within = of_length_1 - means[labels]
    inverse = np.linalg.inv(within.T @ within / 400)
    apart = of_length_1[:, None] - means
    expected = np.einsum("nci,ij,ncj->nc", apart, inverse, apart).min(axis=1)
    known = strangeness.known(features, labels)
    assert known.rest == 0
    np.testing.assert_allclose(np.asarray(strangeness.distances(features, known)), expected, rtol=1e-3)


def test_what_lies_outside_of_the_kept_directions_is_strange() -> None:
    from darkroom.networks import strangeness

    features, labels = clusters(300, n_features=100)
    features[:, 50:] = 0
    known = strangeness.known(features, labels)
    assert known.directions.shape == (100, 30), "one for ten images"
    elsewhere = np.roll(features, 50, axis=1)
    inside, outside = (np.asarray(strangeness.distances(one, known)) for one in (features, elsewhere))
    assert outside.min() > inside.max()
    assert np.isfinite(np.asarray(strangeness.distances(np.zeros((1, 100), np.float32), known))).all()


def test_no_energy_makes_up_for_a_distance() -> None:
    """As noise has it whose features are longer than those of any known image."""
    from darkroom.networks import strangeness

    labels = np.arange(300) % 3
    features = (5 * np.eye(3, 10)[labels] + RNG.normal(size=(300, 10))).astype(np.float32)
    weights = RNG.normal(size=(10, 3)).astype(np.float32)
    known = strangeness.known(features, labels).spread_over(features @ weights, features)
    longer = 100 * np.roll(features, 5, axis=1)
    energies = [np.asarray(strangeness.energies(one @ weights)) for one in (features, longer)]
    sums = [np.asarray(strangeness.summed(one @ weights, one, known)) for one in (features, longer)]
    assert np.median(energies[1]) < energies[0].min()
    assert np.median(sums[1]) > sums[0].max()


def test_an_energy_far_below_that_of_known_images_is_strange() -> None:
    from darkroom.networks import strangeness

    labels = np.arange(300) % 3
    features = (5 * np.eye(3, 10)[labels] + RNG.normal(size=(300, 10))).astype(np.float32)
    weights = np.eye(10, 3, dtype=np.float32)
    known = strangeness.known(features, labels).spread_over(features @ weights, features)
    sums = [np.asarray(strangeness.summed(one @ weights, one, known)) for one in (features, 20 * features)]
    assert sums[1].min() > sums[0].max(), "the same directions, longer than any"


@pytest.mark.parametrize(("with_backbone", "views"), [(False, "one"), (True, "flip_and_shift")])
def test_the_exported_graph_tells_how_strange_an_image_is(with_backbone: bool, views: str, tmp_path: Path) -> None:
    from darkroom.deployable.package import Package
    from darkroom.networks import build, export, inference, strangeness

    if with_backbone:
        network = build.with_head(extractor(), build.build_head(4, n_classes=3, units=5, of_roots=True, seed=2))
    else:
        network = build.build("compact", image_shape=(16, 16, 1), n_classes=3, arguments=COMPACT)
    shape = network.input_shape[1:]
    images = RNG.integers(0, 256, (60, *shape), dtype=np.uint8)
    described = inference.described(network, views)
    logits, features = described.predict(images, verbose=0)
    if with_backbone:
        assert features.shape == (60, 4), "of the backbone, and of the image as it is"
    known = strangeness.known(features, np.arange(60) % 3).spread_over(logits, features)
    told = strangeness.measured(described, known)
    model = inference.at_temperature(inference.answering(described), 1.7)
    said = {"dataset": "toy", "classes": ["a", "b", "c"], "image_shape": list(shape), "unknown_below": 0.1}
    said |= {"color": "rgb" if shape[2] == 3 else "grey", "familiarity": {"strangeness": [0.0], "share": [0.05]}}
    assert export.export(model, tmp_path, metadata=said, images=images, strangeness=told) < 1e-5
    package = Package.load(tmp_path / "model.onnx")
    expected = np.asarray(strangeness.distances(features, known)) / known.spreads[0]
    energy = -np.log(np.exp(logits).sum(axis=1))
    lowest, least, greatest = known.energy_marks
    assert ((energy < lowest).sum(), (energy < least).sum(), (energy > greatest).sum()) == (1, 3, 6), "of 60"
    counted = np.clip(energy, least, greatest) + np.maximum(lowest - energy, 0)
    expected = expected + counted / known.spreads[1]
    np.testing.assert_allclose(package.strangeness(images), expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(package.probabilities(images), model.predict(images, verbose=0), atol=1e-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "STRANGENESS_TOLERANCE", -1.0)
        with pytest.raises(TrainingError, match="how strange it finds images differs"):
            export.export(model, tmp_path / "refused", metadata=said, images=images, strangeness=told)
