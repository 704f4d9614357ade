"""Turn the downloaded images and the new ones into shards of one size, split into train, val and test."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from darkroom.errors import DataError, ParamsError
from darkroom.project.console import native_stderr_silenced, run, say, stage_paths
from darkroom.project.params import ComputeParams, Section, load_section

if TYPE_CHECKING:
    from darkroom.data.arrays.dataset import Dataset
    from darkroom.data.preparation.rows import Rows
    from darkroom.data.raw.layouts import RawImage

SAMPLES_PER_CLASS = 6
SAMPLED_CLASSES = 40  # a sheet of more is no longer looked at

Edge = Annotated[int, Field(ge=1, le=8192)]  # pixels


class PreprocessParams(Section):
    image_size: Annotated[list[Edge], Field(min_length=2, max_length=2)] | Literal["auto"]
    color: Literal["grey", "rgb", "auto"]
    val_fraction: float = Field(gt=0, lt=1)
    test_fraction: float = Field(gt=0, lt=1)
    seed: int = Field(ge=0)
    near_duplicates: Literal["keep", "drop", "group"]
    near_duplicate_bits: int = Field(ge=0, le=8)
    max_rejected_fraction: float = Field(ge=0, le=1)
    max_image_bytes: int = Field(ge=1)
    max_image_pixels: int = Field(ge=1)
    max_archive_bytes: int = Field(ge=1)
    shard_bytes: int = Field(ge=1)


def main() -> None:
    paths = stage_paths(__doc__, "raw", "incoming", "out", "report")
    params = load_section("preprocess", PreprocessParams)
    compute = load_section("compute", ComputeParams)
    if params.val_fraction + params.test_fraction >= 1:
        raise ParamsError("params.yaml: preprocess.val_fraction and test_fraction leave nothing to train on")
    from darkroom.data.arrays.dataset import Dataset, DatasetWriter, class_balance
    from darkroom.data.preparation.auto import choose_form
    from darkroom.data.preparation.decoding import CHANNELS
    from darkroom.data.preparation.rows import (
        Duplicate,
        channel_statistics,
        duplicates_of,
        index_of,
        split_rows,
        take_in,
    )
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
    shape = (*form.size, CHANNELS[form.color])
    dataset = read_manifest(paths.raw)["dataset"]
    paths.report.mkdir(parents=True, exist_ok=True)
    with DatasetWriter(paths.out, image_shape=shape, shard_bytes=params.shard_bytes) as writer:
        with native_stderr_silenced():
            rows = take_in(
                _images(paths.raw, paths.incoming, params),
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
        duplicates = duplicates_of(rows, assignment)
        _write_csv(paths.report / "duplicates.csv", Duplicate._fields, duplicates)
        mean, std = channel_statistics(rows, assignment, image_shape=shape)
        manifest = writer.finish(
            index=index_of(rows, assignment),
            manifest={
                "dataset": dataset,
                "classes": sorted(rows.classes),
                "color": form.color,
                "mean": mean,
                "std": std,
                "chosen": form.reasons,
            },
        )
    _draw_samples(Dataset.open(paths.out), paths.report / "samples.png")
    counts = ", ".join(f"{split} {sum(of_class.values())}" for split, of_class in manifest["counts"].items())
    dropped = len(rows.repeated) + len(assignment.dropped)
    say(
        f"{rows.n_images} images: {counts}; {len(rows.rejected)} rejected, {dropped} duplicates dropped; "
        f"classes have {class_balance(manifest['counts']['train'])}"
    )


def check_rejected(rows: "Rows", *, limit: float, listed_in: Path) -> None:
    """Raise a DataError when there is no image at all, or more than the fraction `limit` of them is rejected."""
    if rows.n_images == 0:
        raise DataError("there is nothing to prepare: the data set and the folder of new images hold no image")
    n_rejected = len(rows.rejected)
    if n_rejected == 0 or n_rejected <= limit * rows.n_images:
        return
    from darkroom.project.text import shown

    first = "; ".join(f"{shown(name)}: {reason}" for name, reason in rows.rejected[:10])
    raise DataError(
        f"{n_rejected} of {rows.n_images} images ({n_rejected / rows.n_images:.1%}) are rejected, more than "
        f"preprocess.max_rejected_fraction ({limit}); mend or delete them, or raise it; all are in {listed_in}. "
        f"The first: {first}"
    )


def _images(raw: Path, incoming: Path, params: PreprocessParams) -> "Iterator[tuple[RawImage, bool]]":
    from dataclasses import replace
    from itertools import chain, islice

    from darkroom.data.raw.layouts import read_folder, read_images

    new = read_folder(incoming, max_image_bytes=params.max_image_bytes) if incoming.is_dir() else iter(())
    first = list(islice(new, 1))  # lists and checks the folder: a stray file there must not cost an hour of decoding
    for image in read_images(raw, max_archive_bytes=params.max_archive_bytes, max_image_bytes=params.max_image_bytes):
        yield image, False
    for image in chain(first, new):
        yield replace(image, name=f"incoming/{image.name}"), True


def _write_csv(path: Path, header: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *lines])


def _draw_samples(data: "Dataset", path: Path) -> None:
    from darkroom.figures.grid import image_grid

    train = data.rows("train")
    chosen = [
        row
        for code in range(min(len(data.classes), SAMPLED_CLASSES))
        for row in train[data.labels[train] == code][:SAMPLES_PER_CLASS].tolist()
    ]
    titles = [data.classes[data.labels[row]] for row in chosen]
    image_grid(data.images[chosen], titles, path, n_columns=SAMPLES_PER_CLASS * 2)


if __name__ == "__main__":
    run(main)
