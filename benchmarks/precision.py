"""In which precision does a CPU fine-tune a backbone faster, bfloat16 or float32?

    python -m benchmarks.precision                                     # 6 minutes on 2 cores
    python -m benchmarks.precision --backbones mobilenet-v2            # a minute

All layers of each backbone are trained with a head of 10 classes on random images, in both precisions in turns. A round
is STEPS batches; the first of each is not counted, because it compiles. bfloat16_by_float32 is the ratio of the medians
of images per second; is_light says whether `train.*.precision: auto` is float32 on a CPU (networks.backbones.table).
"""

import os
import statistics
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.record import arguments, report

BACKBONES = (
    *("efficientnet-lite1", "efficientnet-b0", "efficientnet-v2-b0", "mobilenet", "mobilenet-v2", "mobilenet-v3-large"),
    *("nasnet-mobile", "xception", "inception-v3", "densenet121", "resnet50", "convnext-tiny", "vgg16"),
)
EDGE, BATCH_SIZE, STEPS, ROUNDS = 96, 32, 2, 4
POLICIES = ("mixed_bfloat16", "float32")


def main() -> None:
    from darkroom.networks.backbones.table import find_backbone
    from darkroom.networks.runtime.device import policy, prepare

    parser = arguments(__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    options = parser.parse_args()
    device = prepare("cpu")
    policy("bfloat16")  # refuses a processor without it
    result: dict[str, Any] = {"device": device, "image_size": EDGE, "batch_size": BATCH_SIZE}
    for name in options.backbones:
        speeds = _images_per_second(name)
        result[name] = {f"{of}_images_per_second": round(speed, 1) for of, speed in speeds.items()}
        result[name]["bfloat16_by_float32"] = round(speeds["mixed_bfloat16"] / speeds["float32"], 2)
        result[name]["is_light"] = find_backbone(name).is_light
    report("precision", result, packages=["tensorflow", "keras", "numpy"], save=options.save)


def _images_per_second(backbone: str) -> dict[str, float]:
    """Return the median images per second of training by dtype policy."""
    from darkroom.networks.runtime.memory import forget_networks

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (STEPS * BATCH_SIZE, EDGE, EDGE, 3), np.uint8)
    labels = np.eye(10, dtype=np.float32)[rng.integers(0, 10, len(images))]
    networks = {policy: _compiled(backbone, policy) for policy in POLICIES}
    speeds: dict[str, list[float]] = {policy: [] for policy in POLICIES}
    for _ in range(1 + ROUNDS):
        for policy, network in networks.items():
            started = time.perf_counter()
            network.fit(images, labels, batch_size=BATCH_SIZE, verbose=0)
            speeds[policy].append(len(images) / (time.perf_counter() - started))
    forget_networks()
    return {policy: statistics.median(values[1:]) for policy, values in speeds.items()}


def _compiled(backbone: str, policy: str) -> Any:
    import keras

    from darkroom.networks.backbones.extractor import extractor, unfreeze
    from darkroom.networks.build import build_head, with_head
    from darkroom.training.optimizers import make_optimizer

    features = extractor(backbone, image_shape=(EDGE, EDGE, 3), image_size=(EDGE, EDGE), policy=policy)
    unfreeze(features, "all")
    n_features = features.output_shape[-1]
    head = build_head(n_features, n_classes=10, units=0, dropout=0.0, output="softmax", seed=0, policy=policy)
    network = with_head(features, head)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    network.compile(make_optimizer("adamw", learning_rate=1e-4), loss)
    return network


if __name__ == "__main__":
    main()
