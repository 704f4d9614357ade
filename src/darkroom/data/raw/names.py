"""Tell from the names of files and directories whether they are splits, classes, images or documents."""

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from darkroom.errors import DataError
from darkroom.project.text import shown

KeyT = TypeVar("KeyT")

OFFICIAL = ("train", "val", "test")  # in the order of a stream of images
_WORDS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validate", "validation", "vld", "dev"),
    "test": ("test", "testing", "tst", "holdout"),
    "eval": ("eval", "evaluation"),  # val beside a test directory, else test
}
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words}
_FILLERS = "set|sets|data|dataset|datasets|dir|folder|folders|split|image|images|img|imgs|photos|pictures|files"
SPLIT_WORD = re.compile(rf"({'|'.join(sorted(_SPLIT_OF, key=len, reverse=True))})(?:{_FILLERS})?")
_PART_OF_TEST = re.compile(r"(public|private)[ _]?test", re.IGNORECASE)  # of a contest
_FILLER = re.compile(rf"(?:{_FILLERS})")
OF_IMAGES = re.compile(r"\w*(?:images?|imgs?|photos?|pictures?)")  # a word in names of directories of all classes
BESIDE_IMAGES = re.compile(  # in names of directories of masks, annotations and the like
    r"masks?|segmentations?|segmented|annotations?|labels?|trimaps?|depths?|gt|thumbnails?|thumbs"
)
UNLABELLED = re.compile(r"pred|predict|predictions?|unlabell?ed")  # in names of directories of images without a class

_INVISIBLE = re.compile(r"[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]")
_WHOLE_FLOAT = re.compile(r"[0-9]+\.0+")

_LITTER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "picasa.ini", "__macosx", "system volume information"}
_LITTER |= {"@eadir", "@synoresource", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "lost+found"}
_DOCUMENTS = {".md", ".rst", ".txt", ".pdf", ".html", ".htm", ".docx", ".xlsx", ".log", ".py", ".ipynb"}
_DOCUMENTS |= {".csv", ".tsv", ".json", ".jsonl", ".parquet", ".yaml", ".yml", ".xml", ".xmp", ".aae"}
_DOCUMENTS |= {".dvc"}  # written by `dvc add data/incoming/cats` beside the directory
_DOCUMENTS |= {".cache", ".lst"}  # written by Ultralytics and MXNet beside the directories of splits
ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".xz", ".bz2", ".7z", ".rar"}
_DOCUMENT_NAMES = {"readme", "license", "licence", "copying", "notice", "citation", "changelog"}


def split_of(name: str) -> tuple[str | None, bool]:
    """Return the split in a directory's name (train, val, test or eval), and whether the name has nothing else.

    >>> split_of("Training Set"), split_of("seg_test"), split_of("testdata2"), split_of("cats")
    (('train', True), ('test', False), ('test', True), (None, False))
    """
    tokens = words(name)
    matches = [match for token in tokens if (match := SPLIT_WORD.fullmatch(token))]
    if len({_SPLIT_OF[match[1]] for match in matches}) != 1:
        return None, False
    others = [token for token in tokens if not SPLIT_WORD.fullmatch(token) and not _FILLER.fullmatch(token)]
    return _SPLIT_OF[matches[0][1]], not others


def split_meant(name: str) -> str | None:
    """Return the split in a name that has nothing else (see split_of), or is PublicTest or PrivateTest.

    >>> split_meant("Training"), split_meant("Public Test"), split_meant("seg_train"), split_meant("test track")
    ('train', 'test', None, None)
    """
    split, is_sure = split_of(name)
    return split if is_sure or _PART_OF_TEST.fullmatch(name.strip()) else None


def split_in_path(path: str) -> str | None:
    """Return the split in the name of a file, else of the nearest directory above it that has one."""
    return next(filter(None, (split_of(part)[0] for part in reversed(path.split("/")))), None)


def splits_by_name(paths: Sequence[str], *, where: Path) -> list[str | None]:
    """Return the split in the name of each file or of a directory above it (train, val, test or eval).

    All are None unless some are train and some are not.

    >>> splits_by_name(["train-00000-of-00002.parquet", "default/test/0000.parquet"], where=Path("data"))
    ['train', 'test']

    Raises:
        DataError: some names have a split, and one has not.
    """
    said = [split_in_path(path) for path in paths]
    if not is_a_split(said):
        return [None] * len(paths)
    if None in said:
        odd, other = paths[said.index(None)], next(path for path, split in zip(paths, said, strict=True) if split)
        raise DataError(f"{where}: {shown(odd)} is of no split, as {shown(other)} is by its name; rename or remove it")
    return said


def settled(said: Mapping[KeyT, str]) -> dict[KeyT, str]:
    """Return the splits with `eval` replaced: by val if there is a test set, else by test."""
    evaluation = "val" if "test" in said.values() else "test"
    return {key: evaluation if split == "eval" else split for key, split in said.items()}


def same_name(name: str) -> str:
    """Return a key that is equal for class names that readers or some file systems do not distinguish.

    It is the NFC form, case folded, without invisible characters, extra spaces, and trailing dots, which Windows drops;
    a whole number that a table has as a float (1.0) becomes an integer.

    >>> same_name("Hot\u00a0 dog."), same_name("cat\u200b"), same_name("3.0")
    ('hot dog', 'cat', '3')
    """
    visible = _INVISIBLE.sub("", unicodedata.normalize("NFC", name))
    plain = " ".join(visible.casefold().split()).rstrip(". ") or name
    return plain.split(".")[0] if _WHOLE_FLOAT.fullmatch(plain) else plain


def is_document(path: str) -> bool:
    """Return whether a file is text by its name, so not an image: README, a.txt, a.json, labels.csv."""
    name = path.casefold().rpartition("/")[2]
    return name[name.rfind(".") :] in _DOCUMENTS or name in _DOCUMENT_NAMES


def is_litter(name: str) -> bool:
    """Return whether a file or directory of this name is hidden or written by an operating system."""
    return name.startswith(".") or name.casefold() in _LITTER


def words(name: str) -> list[str]:
    """Return the words of a directory's name: the same for "TrainImages2" and "train_images"."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFC", name))
    return [token for token in re.split(r"[\W\d_]+", spaced.casefold()) if token]


def is_a_split(splits: Collection[str | None]) -> bool:
    return "train" in splits and len(set(splits) - {None}) > 1
