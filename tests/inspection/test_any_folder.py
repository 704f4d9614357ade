"""Two hundred realistic directories: each becomes the right dataset, or is refused with a one-line error."""

import io
import json
import posixpath
import unicodedata
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import cv2
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.dataset_writer import DatasetWriter
from darkroom.data.download import catalogue
from darkroom.data.download.fetch import fetch
from darkroom.data.preparation import prepared
from darkroom.data.preparation.auto import Chosen
from darkroom.data.preparation.rows import take_in
from darkroom.data.preparation.splits import Fractions
from darkroom.data.raw.sources import read_sources
from darkroom.deployable.images import Form
from darkroom.errors import DataError
from darkroom.inspection.source import opened
from tests.support.raw_files import write_tar, write_zip

LIMIT = 100 << 20  # bytes, of an archive and of an image
ENOUGH = 4  # images of a class: one for each split, and one that may be rejected

Images = dict[str, tuple[str, str | None]]  # path to class, and to split where the folder says it


class Folder(NamedTuple):
    """Files, and what is right to make of them.

    Attributes:
        images: those of the dataset; none where nobody can tell, and the folder must be refused.
        is_clear: whether `darkroom init` must not refuse it.
        by_table: whether the directories are not what says the classes.
    """

    files: dict[str, bytes]
    images: Images
    is_clear: bool
    by_table: bool = False


# Files


def _saved(kind: str, name: str, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_pixels(name)).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def _pixels(name: str) -> np.ndarray:
    blocks = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(blocks, (16, 16), interpolation=cv2.INTER_CUBIC))


def _deep(name: str) -> bytes:
    return bytes(cv2.imencode(".png", _pixels(name)[..., 0].astype(np.uint16) * 257)[1].tobytes())


FORMATS: dict[str, Callable[[str], bytes]] = {
    ".jpg": lambda name: _saved("JPEG", name),
    ".JPG": lambda name: _saved("JPEG", name),
    ".jpeg": lambda name: _saved("JPEG", name, "L"),
    ".png": lambda name: _saved("PNG", name),
    ".Png": lambda name: _saved("PNG", name, "RGBA"),
    ".palette.png": lambda name: _saved("PNG", name, "P"),
    ".16.png": _deep,
    ".gif": lambda name: _saved("GIF", name),
    ".webp": lambda name: _saved("WEBP", name),
    ".tif": lambda name: _saved("TIFF", name),
    ".BMP": lambda name: _saved("BMP", name),
    ".jp2": lambda name: _saved("JPEG2000", name),
    "": lambda name: _saved("PNG", name),
    ".jpg.png": lambda name: _saved("JPEG", name),  # not what its suffix says
}


@cache
def photo(name: str) -> bytes:
    suffix = max((suffix for suffix in FORMATS if name.endswith(suffix)), key=len)
    return FORMATS[suffix](name)


def csv(*rows: Sequence[str], separator: str = ",") -> bytes:
    return "\n".join(separator.join('"' + value.replace('"', '""') + '"' for value in row) for row in rows).encode()


# Layouts: {c} is the class, {s} the name of a split, {i} a number, {h} 0 or 1

CLEAR = ["{c}/{i}", "{c}/{c} ({i})", "{c}/all {c}/{i}", "{c}/images/{i}", "archive/{c}/{i}", "a/My data (1)/b/{c}/{i}"]
CLEAR += ["{c}/{c}/{i}", "images/{c}/{i}", "{c}/IMG_{i}", "{c}/{c}{h}/{i}"]
SPLIT = [
    "{s}/{c}/{i}",
    "{s}/{s}/{c}/{i}",
    "{s}/images/{c}/{i}",
    "data/{s}/{c}/{i}",
    "{s}/{c}/{c}{h}/{i}",
    "{c}/{s}/{i}",
]
UNCLEAR = ["site_{h}/{c}/{i}", "{h}/{c}/{i}", "raw/{c}/{i}|processed/{c}/{i}", "images/{c}_{i}|masks/{c}_{i}"]
UNCLEAR += ["train/{c}.{i}|test/{i}", "{c}_train/{i}|{c}_test/{i}", "{c}_{i}", "JPEGImages/{i}|SegmentationClass/{i}"]
UNCLEAR += ["images_00{h}/images/{i}", "images/{i}|annotations/trimaps/{i}", "HAM_images_part_{h}/{i}"]
UNCLEAR += ["train/{i}|val/{i}|test/{i}", "images/train/{i}|images/val/{i}|labels/train/{i}", "fold{h}/train/{c}/{i}"]
UNCLEAR += ["train/images/{i}|train/masks/{i}|test/images/{i}|test/masks/{i}", "thumbnails/{i}|images/{i}"]
BESIDE = ["test/{i}", "unlabelled/{i}", "seg_pred/seg_pred/{i}", "masks/{c}/{i}", "{i}"]  # beside those that are clear
BESIDE += ["annotations/Annotation/{c}/{i}", "test/{c}/{i}", "old/{c}/{i}", "more{i}.zip"]

SPLITS = [
    {"train": "train", "test": "test"},
    {"Training Set": "train", "Test Set": "test"},
    {"TRAIN": "train", "Valid": "val"},
    {"train ": "train", "val": "val", "test": "test"},
    {"train": "train", "eval": "test"},
    {"training_images": "train", "validation_images": "val", "holdout": "test"},
]
CLASSES = [
    ("cats", "dogs"),
    ("猫", "犬", "鳥"),
    (unicodedata.normalize("NFD", "Café"), "thé"),
    ("0", "1", "2"),
    (" with space", "no  space ", "-"),
    ("train", "bus", "tram"),
    ("test tube", "flask"),
    ("mask", "no mask"),
    ("A.B", "c.d", "E+"),
    ("images of cats", "images of dogs"),
    ("Label, quoted", 'say "hi"'),
    ("part_1", "part_2"),
    ("real", "drawings"),
]

# What lies about: no image of the dataset, whatever its suffix

LITTER: dict[str, Callable[[str], dict[str, bytes]]] = {
    "nothing": lambda _: {},
    "of macOS": lambda first: {f"__MACOSX/{posixpath.dirname(first)}/._a.png": b"x", ".DS_Store": b"x"},
    "of Windows": lambda first: {f"{posixpath.dirname(first)}/Thumbs.db": b"x", "desktop.ini": b"x"},
    "of a Synology": lambda first: {f"{posixpath.dirname(first)}/@eaDir/a.png/SYNO.png": photo("a.png")},
    "hidden": lambda first: {f"{posixpath.dirname(first)}/.a.swp": b"x", ".git/objects/ab/cd": b"x"},
    "texts": lambda first: {"README.md": b"# Images", "LICENSE": b"x", "docs/about.pdf": b"x", f"{first}.json": b"{}"},
    "labels of boxes": lambda _: {f"labels/{i}.txt": b"0 0.5 0.5 1 1" for i in range(3)},
    "a table of boxes": lambda first: {"boxes.csv": csv(("path", "class"), (first, "something"))},
    "another table": lambda _: {"stats.csv": csv(("id", "age"), ("1", "44"))},
    "no images": lambda first: {
        f"{posixpath.dirname(first)}/{name}": data
        for name, data in {"empty.png": b"", "page.jpg": b"<html>403</html>", "more.zip": b"PK\5\6" + bytes(18)}.items()
    },
}


def _named(pattern: str, classes: Sequence[str], n: int, splits: Mapping[str, str], suffix: str) -> Images:
    return {
        one.format(c=label, i=f"{number:03}", h=number % 2, s=name) + suffix: (label, side or None)
        for one in pattern.split("|")
        for name, side in splits.items()
        for label in classes
        for number in range(n)
    }


TABLES = {  # images, other images, the name of the table
    "a table": ("images/{i}", "", "labels.csv"),
    "beside the images": ("{i}", "", "labels.tsv"),
    "of directories": ("cam{h}/{i}", "", "all.csv"),
    "with masks": ("images/{i}", "masks/{i}", "labels.csv"),
    "of a contest": ("train/{i}", "test/{j}", "train.csv"),
    "in a directory": ("data/images/{i}", "", "data/labels.jsonl"),
    "of others than the directories say": ("{i0}/{i}", "", "meta/labels.csv"),
}


@st.composite
def tables(draw: st.DrawFn, classes: Sequence[str], n: int, suffix: str) -> Folder:
    pattern, other, table = TABLES[draw(st.sampled_from([*TABLES]))]
    columns = draw(st.sampled_from([("path", "label"), ("id", "class"), ("file_name", "Category"), ("img", "target")]))
    spelled = draw(st.sampled_from([lambda path: path, posixpath.basename, lambda path: f"./{path}"]))
    if not suffix or draw(st.booleans()):
        spelled, suffix = (lambda path: posixpath.splitext(posixpath.basename(path))[0]), suffix or ".jpg"
    said = {"train": "train", **draw(st.sampled_from([{}, {"Test": "test"}, {"val": "val"}]))}
    files: dict[str, bytes] = {}
    images: Images = {}
    rows: list[tuple[str, ...]] = []
    for number, (label, position) in enumerate(product(classes, range(n))):
        i = f"{number:03}"
        split = [*said][-(position == 0)]  # one of each class is held out
        path = pattern.format(i=i, i0=i[-1], h=number % 2) + suffix
        images[path] = (label.strip(), said[split] if len(said) > 1 else None)
        rows.append((spelled(path), label, *([split] if len(said) > 1 else [])))
        if other:
            files[other.format(i=i, j=f"9{i}") + suffix] = photo(f"other {i}{suffix}")
    header = (*columns, *(["split"] if len(said) > 1 else []))
    files |= {path: photo(path) for path in images} | {table: _table(table, header, rows)}
    files |= {"sample_submission.csv": csv(columns, ("9000", classes[0]))} if other == "test/{j}" else {}
    return Folder(files, images, n >= ENOUGH, by_table=True)


def _table(name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    if name.endswith("jsonl"):
        return "\n".join(json.dumps(dict(zip(header, row, strict=True))) for row in rows).encode()
    return csv(header, *rows, separator="\t" if name.endswith("tsv") else ",")


@st.composite
def folders(draw: st.DrawFn) -> Folder:
    kind = draw(st.sampled_from(["clear", "split", "table", "beside", "twins", "unclear"]))
    patterns = {"split": SPLIT, "unclear": UNCLEAR}.get(kind, CLEAR)
    classes = draw(st.sampled_from(CLASSES))
    n = draw(st.sampled_from([ENOUGH, ENOUGH + 3, 1, 2]))
    splits = draw(st.sampled_from(SPLITS)) if kind == "split" else {"": ""}
    suffix = draw(st.sampled_from([*FORMATS]))
    pattern = draw(st.sampled_from(patterns))
    if pattern == CLEAR[0]:
        classes = classes[: draw(st.sampled_from([3, 1]))]
    images = _named(pattern, classes, n, splits, suffix)
    files = {path: photo(path) for path in images}
    is_clear = n >= ENOUGH and not (pattern == SPLIT[1] and {*classes} & {*splits})  # train/train/train
    if kind == "unclear" or len(classes) == 1:
        images, is_clear = {}, False
    elif kind == "beside":
        beside = _named(draw(st.sampled_from(BESIDE)), classes, n, {"": ""}, suffix)
        files |= {path: photo(path) for path in beside if path not in files}
        is_clear = False
    elif kind == "twins":
        changed = draw(st.sampled_from([str.upper, str.title, "{} ".format, " {}".format]))
        twin = changed(classes[0])
        files |= {path: photo(path) for path in _named(pattern, [twin], n, splits, suffix)}
        images = images if twin == classes[0] else {}
        is_clear = False
    elif kind == "table":
        return draw(tables(classes, n, suffix))
    files |= draw(st.sampled_from([*LITTER.values()]))(next(iter(files)))
    return Folder(files, images, is_clear)


def _write(folder: Folder, top: Path, *, packed: str) -> Path:
    if packed in ("directory", "links"):
        real = top.with_name("elsewhere") if packed == "links" else top
        for name, content in folder.files.items():
            (real / name).parent.mkdir(parents=True, exist_ok=True)
            (real / name).write_bytes(content)
        if packed == "links":
            top.mkdir()
            for path in real.iterdir():
                (top / path.name).symlink_to(path)
        return top
    path = top.with_name(f"images.{packed}")
    return write_zip(path, folder.files) if packed == "zip" else write_tar(path, folder.files)


def _prepared(source: Path, layout: Mapping[str, Any], work: Path) -> Images:
    """Return the images that download and preprocess make of a source, with class and split."""
    entry = {"name": "any", "sources": [{"kind": "path", "path": str(source), "layout": layout}]}
    fetch(catalogue.Dataset.model_validate(entry), work / "raw", mirror=None, base=work)
    chosen = Chosen(Form((16, 16), "rgb"), {})
    with DatasetWriter(work / "prepared", image_shape=chosen.form.image_shape, shard_bytes=LIMIT) as writer:
        rows = take_in(
            read_sources(work / "raw", work / "incoming", max_archive_bytes=LIMIT, max_image_bytes=LIMIT),
            writer,
            form=chosen.form,
            max_pixels=LIMIT,
            hashes=True,
            backend="threading",
            workers=1,
        )
        prepared.check_rejected(rows, limit=0.5, listed_in=work / "rejected.csv")
        assignment = prepared.split_rows(
            rows,
            group_by=None,
            near_duplicates="group",
            near_duplicate_bits=4,
            seed=7,
            fractions=Fractions(val=0.1, test=0.15, recent=0.1),
        )
        prepared.check_split(rows, assignment, listed_in=work / "duplicates.csv")
        prepared.finish_rows(rows, assignment, writer, dataset="any", chosen=chosen)
    index = Dataset.open(work / "prepared").index()
    columns = (index[name].tolist() for name in ("source", "label", "split"))
    return {source: (label, split) for source, label, split in zip(*columns, strict=True)}


def _check(found: Images, folder: Folder) -> None:
    assert {path: label for path, (label, _) in found.items()} == {p: label for p, (label, _) in folder.images.items()}
    own = {split for _, split in folder.images.values()}
    for path, (label, split) in found.items():
        said = folder.images[path][1]
        assert split == said or said is None or (said == "train" and split not in own), (path, label, split)


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
@given(folder=folders(), packed=st.sampled_from(["directory", "links", "zip", "tar"]))
def test_a_folder_becomes_the_right_dataset_or_one_line(folder: Folder, packed: str) -> None:
    def found_out() -> Mapping[str, Any]:
        with opened(source, layout=None, max_archive_bytes=LIMIT) as dataset:
            return dataset.layout

    with TemporaryDirectory() as work:
        source = _write(folder, Path(work) / "images", packed=packed)
        for number, layout in enumerate([found_out, *([] if folder.by_table else [lambda: {"kind": "folders"}])]):
            try:
                found = _prepared(source, layout(), Path(work) / str(number))
            except DataError as error:
                refusal = str(error)
            else:
                _check(found, folder)
                continue
            assert "\n" not in refusal
            assert not folder.is_clear, refusal
