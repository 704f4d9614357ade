"""Decode, resize, check and split the images.

Downloaded and new images become shards of one image size, split into train, val, test and recent.
"""

from functools import partial
from typing import Any

from darkroom.data.preparation.params import PreprocessParams
from darkroom.errors import ParamsError
from darkroom.project.console import native_stderr_silenced, progress, run, say, stage_paths
from darkroom.project.params import ComputeParams, load_section


def main() -> None:
    paths = stage_paths(__doc__, "raw", "incoming", "corrections", "out", "report")
    params = load_section("preprocess", PreprocessParams)
    compute = load_section("compute", ComputeParams)
    for name in ("test_fraction", "recent_fraction"):
        if params.val_fraction + getattr(params, name) >= 1:
            raise ParamsError(f"params.yaml: preprocess.val_fraction and {name} leave no training images")
    from darkroom.data.arrays.dataset import Dataset
    from darkroom.data.arrays.dataset_writer import DatasetWriter
    from darkroom.data.preparation import prepared, rows
    from darkroom.data.preparation.auto import choose_form, look
    from darkroom.data.preparation.corrections import Corrections, read_corrections
    from darkroom.data.preparation.samples import PER_CLASS, samples
    from darkroom.data.preparation.splits import Fractions
    from darkroom.data.raw.layouts import read_manifest
    from darkroom.data.raw.sources import read_sources
    from darkroom.files.writing import write_csv

    limits: dict[str, Any] = {"max_archive_bytes": params.max_archive_bytes, "max_image_bytes": params.max_image_bytes}
    with native_stderr_silenced():
        chosen = choose_form(
            partial(look, paths.raw, max_pixels=params.max_image_pixels, **limits),
            **params.model_dump(include={"image_size", "color", "resize", "background", "white_level"}),
        )
    if chosen.reasons:
        say(f"preprocess: {chosen.in_words()}")
    dataset = read_manifest(paths.raw)["dataset"]
    with DatasetWriter(paths.out, image_shape=chosen.form.image_shape, shard_bytes=params.shard_bytes) as writer:
        with native_stderr_silenced(), progress(read_sources(paths.raw, paths.incoming, **limits)) as images:
            taken = rows.take_in(
                images,
                writer,
                form=chosen.form,
                max_pixels=params.max_image_pixels,
                hashes=params.near_duplicates != "keep",
                backend="threading" if compute.backend == "auto" else compute.backend,  # OpenCV leaves the GIL
                workers=compute.workers,
                cluster=compute.cluster,
                corrections=Corrections(read_corrections(paths.corrections)),
            )
        write_csv(paths.report / "rejected.csv", ("source", "reason"), taken.rejected)
        prepared.check_rejected(taken, limit=params.max_rejected_fraction, listed_in=paths.report / "rejected.csv")
        assignment = prepared.split_rows(
            taken,
            group_by=params.group_by,
            near_duplicates=params.near_duplicates,
            near_duplicate_bits=params.near_duplicate_bits,
            seed=params.seed,
            fractions=Fractions(val=params.val_fraction, test=params.test_fraction, recent=params.recent_fraction),
        )
        duplicates = prepared.write_lists(taken, assignment, paths.report)
        prepared.check_split(taken, assignment, listed_in=paths.report / "duplicates.csv")
        manifest = prepared.finish_rows(taken, assignment, writer, dataset=dataset, chosen=chosen)
    from darkroom.figures.fonts import advice  # this and the next load matplotlib, which takes a second
    from darkroom.figures.grid import image_grid

    image_grid(*samples(Dataset.open(paths.out)), paths.report / "samples.png", n_columns=2 * PER_CLASS)
    say(prepared.in_words(taken, assignment, manifest, duplicates=duplicates, group_by=params.group_by))
    if unreadable := advice(manifest["classes"]):
        say(unreadable)


if __name__ == "__main__":
    run(main)
