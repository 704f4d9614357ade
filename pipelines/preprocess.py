"""Turn downloaded and new images into shards of one image size, split into train, val and test."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from darkroom.data.preparation.params import PreprocessParams
from darkroom.errors import ParamsError
from darkroom.project.console import native_stderr_silenced, run, say, stage_paths
from darkroom.project.params import ComputeParams, load_section


def main() -> None:
    paths = stage_paths(__doc__, "raw", "incoming", "out", "report")
    params = load_section("preprocess", PreprocessParams)
    compute = load_section("compute", ComputeParams)
    if params.val_fraction + params.test_fraction >= 1:
        raise ParamsError("params.yaml: preprocess.val_fraction and test_fraction leave no training images")
    from darkroom.data.arrays.dataset import Dataset, DatasetWriter
    from darkroom.data.preparation.auto import choose_form
    from darkroom.data.preparation.rows import (
        Duplicate,
        check_rejected,
        duplicates_of,
        finish_rows,
        in_words,
        read_sources,
        split_rows,
        take_in,
    )
    from darkroom.data.preparation.samples import PER_CLASS, samples
    from darkroom.data.raw.layouts import read_manifest

    with native_stderr_silenced():
        form = choose_form(
            paths.raw,
            image_size=params.image_size,
            color=params.color,
            max_archive_bytes=params.max_archive_bytes,
            max_image_bytes=params.max_image_bytes,
            max_pixels=params.max_image_pixels,
        )
    if form.reasons:
        say(f"preprocess: {form.in_words()}")
    dataset = read_manifest(paths.raw)["dataset"]
    paths.report.mkdir(parents=True, exist_ok=True)
    with DatasetWriter(paths.out, image_shape=form.image_shape, shard_bytes=params.shard_bytes) as writer:
        with native_stderr_silenced():
            rows = take_in(
                read_sources(
                    paths.raw,
                    paths.incoming,
                    max_archive_bytes=params.max_archive_bytes,
                    max_image_bytes=params.max_image_bytes,
                ),
                writer,
                size=form.size,
                color=form.color,
                max_pixels=params.max_image_pixels,
                hashes=params.near_duplicates != "keep",
                backend="threading" if compute.backend == "auto" else compute.backend,  # OpenCV leaves the GIL
                workers=compute.workers,
                cluster=compute.cluster,
            )
        _write_csv(paths.report / "rejected.csv", ("source", "reason"), rows.rejected)
        check_rejected(rows, limit=params.max_rejected_fraction, listed_in=paths.report / "rejected.csv")
        assignment = split_rows(
            rows,
            near_duplicates=params.near_duplicates,
            near_duplicate_bits=params.near_duplicate_bits,
            seed=params.seed,
            val_fraction=params.val_fraction,
            test_fraction=params.test_fraction,
        )
        _write_csv(paths.report / "duplicates.csv", Duplicate._fields, duplicates_of(rows, assignment))
        manifest = finish_rows(rows, assignment, writer, dataset=dataset, form=form)
    from darkroom.figures.grid import image_grid  # loads matplotlib, which takes a second

    images, titles = samples(Dataset.open(paths.out))
    image_grid(images, titles, paths.report / "samples.png", n_columns=2 * PER_CLASS)
    say(in_words(rows, assignment, manifest))


def _write_csv(path: Path, header: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *lines])


if __name__ == "__main__":
    run(main)
