"""Does the input keep up? Training with batches.EpochBatches, against the same model on one batch kept in memory.

Both sides run alternately in one process with the network and batch size of the default preset, on random images
of MNIST's size in a memory-mapped file, as in data/prepared.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import arguments, report

N_IMAGES, BATCH_SIZE, ROUNDS = 12_800, 128, 9


class OneBatch:
    """The same batch repeated: an input without any cost."""

    def __init__(self, batch: object, *, steps: int) -> None:
        self.batch, self.steps, self.batch_size = batch, steps, BATCH_SIZE

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, _step: int) -> object:
        return self.batch


def main() -> None:
    options = arguments(__doc__).parse_args()
    import keras

    from darkroom.data.arrays.selection import Selection
    from darkroom.networks import build
    from darkroom.networks.runtime import device
    from darkroom.training import fit, optimizers
    from darkroom.training.batches import EpochBatches, PlainBatches
    from darkroom.training.variation import Variation

    variation = Variation(shift=1)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, N_IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "images.npy", rng.integers(0, 256, (N_IMAGES, 28, 28, 1), dtype=np.uint8))
        stored = np.load(Path(folder) / "images.npy", mmap_mode="r")
        half = N_IMAGES // 2
        images = Selection([(stored, np.arange(half)), (stored, np.arange(half, N_IMAGES))])

        def fed(epoch: int) -> EpochBatches:
            return EpochBatches(
                images, labels, n_classes=10, batch_size=BATCH_SIZE, seed=0, epoch=epoch, variation=variation
            )

        first = fed(0)
        preloaded: Any = OneBatch(keras.tree.map_structure(keras.ops.convert_to_tensor, first[0]), steps=len(first))
        network = build.build(
            "compact", image_shape=(28, 28, 1), n_classes=10, arguments={"filters": [32, 64, 128]},
            policy=device.policy("auto"),
        )  # fmt: skip
        speeds: dict[str, list[float]] = {"fed": [], "preloaded": []}
        progress = fit.fit(
            network,
            fit.Phase(
                epochs=2 * (ROUNDS + 1),
                optimizer=optimizers.make_optimizer("sgd", learning_rate=0.01, weight_decay=0.0005),
                variation=variation,
            ),
            train=lambda epoch: preloaded if epoch % 2 else fed(epoch),
            validation=PlainBatches(stored[:500], labels[:500], n_classes=10, batch_size=500),
        )
    for record in progress.history[2:]:  # the first epoch of each side traces the graph
        speeds["fed" if record["epoch"] % 2 else "preloaded"].append(record["images_per_second"])
    fed_speed, free_speed = (statistics.median(speeds[side]) for side in ("fed", "preloaded"))
    result = {
        "images_per_second_fed": round(fed_speed),
        "images_per_second_preloaded": round(free_speed),
        "ratio": round(fed_speed / free_speed, 3),
        "target": "at least 0.9",
    }
    report("feeding", result, packages=["tensorflow", "keras", "numpy"], save=options.save)


if __name__ == "__main__":
    main()
