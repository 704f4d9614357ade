"""Compute the features of the images by a frozen backbone.

Training and validation images are embedded once, for all heads on that backbone.
"""

import time

import numpy as np

from darkroom.data.arrays import features
from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.selection import Selection
from darkroom.errors import DataError
from darkroom.networks.backbones.params import EmbedParams
from darkroom.networks.backbones.table import NONE, check_image_size, find_backbone
from darkroom.networks.backbones.weights import obtain_weights
from darkroom.project.console import loading_keras, progress, run, say, stage_paths
from darkroom.project.params import ComputeParams, in_section, load_section


def main() -> None:
    paths = stage_paths(__doc__, "prepared", "augmented", "out")
    params = load_section("embed", EmbedParams)
    machine = load_section("compute", ComputeParams)
    if params.backbone == NONE:
        features.write_none(paths.out)
        say("embed: skipped (embed.backbone is none)")
        return
    with in_section("embed"):
        backbone, image_size = find_backbone(params.backbone), (params.image_size[0], params.image_size[1])
        check_image_size(backbone, image_size)
    prepared, augmented = Dataset.open(paths.prepared), Dataset.open(paths.augmented)
    rows = features.chosen_rows(prepared, augmented, max_images=params.max_images, seed=params.seed)
    if not all(map(len, rows.values())):
        raise DataError(f"{paths.prepared}: no training or validation images; run `dvc repro preprocess`")

    setting = params.model_dump()["weights"]
    weights = obtain_weights(backbone, setting)
    with loading_keras():
        from darkroom.networks.backbones import embedding
        from darkroom.networks.backbones.extractor import extractor
        from darkroom.networks.runtime.device import prepare
    device = prepare(machine.device)
    network = extractor(
        backbone.name, image_shape=prepared.image_shape, image_size=image_size, weights=weights, seed=params.seed
    )
    embedder = embedding.Embedder(network, image_size=image_size)
    n_images, started = sum(map(len, rows.values())), time.monotonic()
    with (
        features.FeaturesWriter(paths.out) as writer,
        progress(total=n_images) as bar,
    ):
        for split, numbers in rows.items():
            of_copies, row = numbers[:, 0] == 1, numbers[:, 1]
            parts = [(prepared.images, row[~of_copies]), (augmented.images, row[of_copies])]
            writer.write(
                split,
                embedder(Selection(parts), on_batch=bar.update),
                n_features=embedder.n_features,
                rows=numbers,
                labels=np.concatenate([prepared.labels[row[~of_copies]], augmented.labels[row[of_copies]]]),
            )
        writer.finish(
            backbone=backbone.name,
            # The computed sha256 is recorded, so that stages which read the features refuse another file at this path.
            weights=setting if isinstance(setting, str) else {**setting, "sha256": weights.sha256},
            weights_origin=weights.origin,
            weights_sha256=weights.sha256,
            image_size=list(image_size),
            seed=params.seed,
            prepared_digest=prepared.manifest["digest"],
            augmented_digest=augmented.manifest["digest"],
        )
    speed = n_images / (time.monotonic() - started)
    say(
        f"embed: {embedder.n_features} features of {len(rows['train'])} training images (of "
        f"{len(prepared.rows('train')) + len(augmented.rows('train'))}, copies included) and {len(rows['val'])} "
        f"validation images by {backbone.name}, {embedding.NAMES[embedder.runtime]} on {device}, {speed:.0f} images/s"
    )


if __name__ == "__main__":
    run(main)
