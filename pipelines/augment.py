"""Draw augmented copies of the training images.

A preview shows them beside their originals.
"""

from darkroom.data.augmentation.params import AugmentParams
from darkroom.project.console import progress, run, say, stage_paths
from darkroom.project.params import ComputeParams, load_section


def main() -> None:
    paths = stage_paths(__doc__, "prepared", "out", "report")
    params = load_section("augment", AugmentParams)
    machine = load_section("compute", ComputeParams)
    from darkroom.data.arrays.dataset import Dataset
    from darkroom.data.arrays.dataset_writer import DatasetWriter
    from darkroom.data.augmentation.copies import copies_index, draw_copies, preview
    from darkroom.figures import grid

    prepared = Dataset.open(paths.prepared)
    rows = prepared.rows("train")
    parents = prepared.index().loc[rows, ["id", "label", "split"]]

    paths.out.mkdir(parents=True, exist_ok=True)
    # Shards have as many rows as those of the prepared data, whose maximum size preprocess.shard_bytes sets.
    shard_bytes = prepared.manifest["shards"][0]["rows"] * prepared.images[0].nbytes
    with (
        DatasetWriter(paths.out, image_shape=prepared.image_shape, shard_bytes=shard_bytes) as writer,
        progress(total=len(rows) * params.copies) as bar,
    ):
        for block in draw_copies(
            paths.prepared,
            rows=rows,
            ids=parents["id"].tolist(),
            transforms=params.transforms,
            copies=params.copies,
            seed=params.seed,
            scratch=paths.out,
            backend="loky" if machine.backend == "auto" else machine.backend,  # albumentations holds the GIL
            workers=machine.workers,
            cluster=machine.cluster,
        ):
            writer.append(block)
            bar.update(len(block))
        index = copies_index(parents, copies=params.copies)
        known = {key: prepared.manifest[key] for key in ("dataset", "classes", "mean", "std")} | prepared.form
        made = {
            "prepared_digest": prepared.manifest["digest"],
            "augment": params.model_dump(exclude={"preview_images"}),
        }
        writer.finish(index=index, manifest=known | made)
    say(f"augment: {len(index)} copies of {len(parents)} training images")

    images, titles, n_columns = preview(
        prepared,
        Dataset.open(paths.out),
        parents=rows.tolist(),
        copies=params.copies,
        images_per_class=params.preview_images,
    )
    paths.report.mkdir(parents=True, exist_ok=True)
    heading = f"{prepared.manifest['dataset']}: training images, each beside its copies"
    grid.image_grid(images, titles, paths.report / "preview.png", n_columns=n_columns, heading=heading)


if __name__ == "__main__":
    run(main)
