import numpy as np
import pytest

from darkroom.training.batches import EpochBatches

pytestmark = pytest.mark.heavy


def test_only_statistics_move_to_the_means_over_batches() -> None:
    from keras import Model

    from darkroom.networks.build import build
    from darkroom.training.statistics import Reestimation

    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (96, 8, 8, 1), dtype=np.uint8), np.arange(96) % 2
    arguments = {"filters": [3], "stem_kernel_size": 3, "head": "flatten", "dropout": 0.5}
    network = build("compact", image_shape=(8, 8, 1), n_classes=2, arguments=arguments, seed=1)
    batches = EpochBatches(images, labels, n_classes=2, batch_size=32, seed=0, epoch=0)
    (norm,) = [layer for layer in network.layers if "normalization" in layer.name]
    norm.moving_mean.assign(np.full(3, 100.0, np.float32))
    before = [np.array(variable) for variable in network.variables]
    inputs = Model(network.input, norm.input)
    seen = [np.asarray(inputs(batches[step][0])) for step in range(3)]
    Reestimation(network)(batches)
    np.testing.assert_allclose(
        np.asarray(norm.moving_mean), np.mean([one.mean(axis=(0, 1, 2)) for one in seen], axis=0), atol=1e-4
    )
    np.testing.assert_allclose(
        np.asarray(norm.moving_variance), np.mean([one.var(axis=(0, 1, 2)) for one in seen], axis=0), atol=1e-4
    )
    for variable, value in zip(network.variables, before, strict=True):
        if variable is not norm.moving_mean and variable is not norm.moving_variance:
            np.testing.assert_array_equal(np.asarray(variable), value, err_msg=variable.path)
