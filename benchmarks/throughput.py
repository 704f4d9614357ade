"""How many images per second does a network train on, and what share of the device's peak is that?

    python -m benchmarks.throughput                                       # the recipe of the preset cifar10, at 32x32
    python -m benchmarks.gpu recipe cifar10 --set batch_size=256 'precision="bfloat16"' \\
        'architecture={"name": "resnet", "depth": 50, "filters": 64, "stem": "imagenet", "dropout": 0.0}' > recipe.json
    KERAS_BACKEND=jax python -m benchmarks.throughput recipe.json --image-size 224 --classes 1000 --peak-tflops 989

Random images go through fit(), with feeding, augmentation and optimizer as the recipe has them. With a recipe from a
file only Keras, a backend, numpy and OpenCV are needed, as for benchmarks.gpu. The first epoch compiles and does not
count; images_per_second are the median of the others. gflop_per_image are the floating-point operations of convolutions
and dense layers, a multiplication and an addition as two, forward and twice as many backward. With --peak-tflops, which
the maker of the device states for the precision, share_of_peak is the part of it that is reached.
"""

import os
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.gpu import make_recipe, packages, read_json
from benchmarks.record import arguments, report, run
from darkroom.errors import ParamsError
from darkroom.training import recipe
from darkroom.training.data import Data

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if TYPE_CHECKING:
    import keras

BACKWARD = 2  # times the products of a forward pass: for the inputs and for the weights


def measure(
    settings: recipe.Recipe, *, image_size: int, n_classes: int, n_steps: int, n_epochs: int, device: str
) -> dict[str, Any]:
    """Train on random images for one epoch more than n_epochs; return the images per second of all but the first.

    Args:
        settings: of a network that is trained from the start, with a batch size.
        image_size: edge in pixels, of RGB images.
        n_steps: batches in an epoch.

    Raises:
        ParamsError: the recipe has neither, or the device does not compute in its precision.
    """
    if recipe.transfer_mode(settings) is not None or settings["batch_size"] == "auto":
        raise ParamsError(
            "expected a network that is trained from the start, and a number as batch_size; see --set of gpu"
        )
    from darkroom.networks.runtime.device import policy, prepare
    from darkroom.training import fit

    described, batch_size = prepare(device), int(settings["batch_size"])
    dtype_policy = policy(settings["precision"])
    rng, shape = np.random.default_rng(0), (image_size, image_size, 3)
    images = rng.integers(0, 256, (n_steps * batch_size, *shape), np.uint8)
    labels = rng.integers(0, n_classes, len(images))
    data = Data(images, labels, images[:100], labels[:100], [str(number) for number in range(n_classes)])
    network = recipe.build_network(settings, image_shape=shape, n_classes=n_classes, policy=dtype_policy)
    phase = fit.Phase(
        n_epochs + 1,
        recipe.build_optimizer(settings, learning_rate=0.01, policy=dtype_policy),
        label_smoothing=settings["label_smoothing"],
        variation=recipe.variation_of(settings, data),
    )
    progress = fit.fit(
        network,
        phase,
        train=lambda done: recipe.epoch_batches(settings, data, batch_size=batch_size, epoch=done),
        validation=recipe.validation_batches(settings, data, batch_size=batch_size),
    )
    return {
        "device": described,
        "policy": dtype_policy,
        "batch_size": batch_size,
        "n_trained_parameters": sum(int(np.prod(weight.shape)) for weight in network.trainable_weights),
        "gflop_per_image": round((1 + BACKWARD) * forward_flop(network) / 1e9, 4),
        "images_per_second": [row["images_per_second"] for row in progress.history[1:]],
    }


def forward_flop(network: "keras.Model") -> int:
    """Return the floating-point operations of a network's kernels for one image, a multiplication and an addition as 2.

    Every value of a kernel is used once per output position; normalisation, pooling and activations are left out.
    """
    total = 0
    for layer in network.layers:
        kernels = [weight for weight in layer.weights if len(weight.shape) > 1]
        positions = int(np.prod(layer.output.shape[1:-1])) if kernels else 0
        total += 2 * positions * sum(int(np.prod(kernel.shape)) for kernel in kernels)
    return total


def main() -> int:
    parser = arguments(__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("recipe", type=Path, nargs="?", help="what `benchmarks.gpu recipe` printed")
    parser.add_argument("--image-size", type=int, default=32, help="edge in pixels")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--steps", type=int, default=2, help="batches in an epoch; 50 or more for a GPU")
    parser.add_argument("--epochs", type=int, default=3, help="after the first")
    parser.add_argument("--device", default="auto", help="auto, cpu or gpu")
    parser.add_argument("--peak-tflops", type=float, help="of the device, in the precision of the recipe")
    options = parser.parse_args()
    made = read_json(options.recipe, command="recipe") if options.recipe else make_recipe("cifar10", candidate="cnn")
    found = measure(
        made["settings"],
        image_size=options.image_size,
        n_classes=options.classes,
        n_steps=options.steps,
        n_epochs=options.epochs,
        device=options.device,
    )
    median = statistics.median(found["images_per_second"])
    found |= {"images_per_second": round(median), "of_epochs": [round(one) for one in found["images_per_second"]]}
    result = {"recipe": made["name"], "architecture": made["settings"]["architecture"], **found}
    result |= {"image_size": options.image_size, "tflops": round(median * found["gflop_per_image"] / 1e3, 3)}
    if options.peak_tflops:
        result |= {
            "peak_tflops": options.peak_tflops,
            "share_of_peak": round(result["tflops"] / options.peak_tflops, 3),
        }
    report("throughput", result, packages=packages(), save=options.save)
    return 0


if __name__ == "__main__":
    run(main)
