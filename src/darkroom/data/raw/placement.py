"""Find the class and split of every file of a directory dataset from the names of its directories.

Class directories may be at the top, below directories named after splits (`train/cats`, `seg_train/seg_train/cats`,
`Training Set/images/cats`), or above them (`cats/train`); all of these may be inside a directory that has nothing else.
Ambiguous directories are refused.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Self

from darkroom.data.raw.ambiguity import (
    refuse_parts_of_classes,
    refuse_siblings,
    refuse_split_classes,
    refuse_what_is_no_class,
)
from darkroom.data.raw.directories import Directory, alike, share_names, tree, unwrapped
from darkroom.data.raw.names import ARCHIVES, is_a_split, is_document, is_litter, same_name, settled, split_of
from darkroom.errors import DataError
from darkroom.project.text import shown

_NOT_UTF8 = re.compile(r"\\udc[89a-f][0-9a-f]")  # see text.utf8


class Placed(NamedTuple):
    """A file of a directory dataset.

    Attributes:
        number: in the listing.
        name: below the root.
        label, split: its class; train, val or test, None if unknown.
        attributes: the other columns of a label table.
    """

    number: int
    name: str
    label: str
    split: str | None
    attributes: Mapping[str, str] = {}


class Folders(NamedTuple):
    """The settings of a layout that decide which directories are the classes.

    Attributes:
        root: the directory of the class or split directories; everything else is ignored.
        level: depth of the class directories below root, at least 1; None: detected.
        skip: names of directories and files below root, at any depth, to ignore.
    """

    root: str | None = None
    level: int | None = None
    skip: tuple[str, ...] = ()

    @classmethod
    def of(cls, layout: Mapping[str, Any]) -> Self:
        """Return the settings of the layout in a manifest."""
        return cls(layout.get("root"), layout.get("level"), tuple(layout.get("skip", ())))


@dataclass(frozen=True)
class _Part:
    """A directory that holds class directories: its path as names of directories, and its split.

    Attributes:
        below: splits by the names of directories inside the classes, if splits are below classes.
    """

    path: tuple[str, ...]
    split: str | None = None
    below: dict[str, str] | None = None


def place(names: Iterable[tuple[str, bool]], *, where: Path, folders: Folders | None) -> list[Placed]:
    """Return the image files among `names` with their class, and their split if directories are named after splits.

    Args:
        names: (path with "/" between its parts, whether it is a directory), in any order, which is kept.
        where: the dataset's name in errors.
        folders: which directories are the classes; None: the top ones, whatever their names.

    Raises:
        DataError: there is no such root, an image is in no class directory, directories are ambiguous, another
            directory is beside those of splits, a class directory is empty, or two class names differ only in case,
            spaces or Unicode form. Documents (README, .txt, .csv, ...) and directories of documents are ignored.
    """
    found = _without_documents(below_root(names, folders or Folders(), where=where))
    parts = _parts(tree(found), where=where, level=folders.level) if folders is not None else [_Part(())]
    by_path = {part.path: part for part in parts}
    depths = {len(part.path) for part in parts}
    placed: list[Placed] = []
    labels: set[str] = set()
    for index, name, is_dir in found:
        *above, last = name.split("/")
        above += [last] if is_dir else []
        part = next((part for n in depths if (part := by_path.get(tuple(above[:n]))) and len(above) > n), None)
        if part:
            label, *inside = above[len(part.path) :]
            labels.add(label)
            if not is_dir:
                placed.append(Placed(index, name, label, part.split if part.below is None else part.below[inside[0]]))
        elif not is_dir:
            if PurePosixPath(name).suffix.casefold() in ARCHIVES:
                raise DataError(f"{where}: {shown(name)} is an archive; give its path alone, or unpack or remove it")
            raise DataError(f"{where}: {shown(name)} is not in a class directory; {_expected(parts)}")
    check_names(labels, where)
    empty = labels - {image.label for image in placed}
    if folders is not None and empty and placed:
        raise DataError(f"{where}: the class directory {shown(min(empty))} has no images; add some or remove it")
    return placed


def check_classes(images: Sequence[Placed], *, where: Path) -> None:
    """Check that there are at least two classes, each with images to train on.

    Raises:
        DataError: no image, one class only, or a class without images that may be trained on.
    """
    labels = {image.label for image in images}
    if not labels:
        raise DataError(f"{where}: no images found; expected <class>/<image> or train/<class>/<image>")
    if len(labels) == 1:
        raise DataError(
            f"{where}: only one class, {shown(labels.pop())}; a classifier needs two: a directory with images for each"
        )
    untaught = labels - {image.label for image in images if image.split in (None, "train")}
    if untaught:
        only = min(untaught)
        splits = sorted({image.split or "" for image in images if image.label == only})
        raise DataError(f"{where}: class {shown(only)} has images only in {' and '.join(splits)}; add some to train")


def below_root(names: Iterable[tuple[str, bool]], folders: Folders, *, where: Path) -> list[tuple[int, str, bool]]:
    """Return number, name below the root, and whether it is a directory, of everything that is not ignored."""
    prefix = f"{folders.root.strip('/')}/" if folders.root else ""
    found = [
        (index, name.removeprefix(prefix), is_dir)
        for index, (name, is_dir) in enumerate(names)
        if name.startswith(prefix) and not any(is_litter(part) for part in name.split("/"))
    ]
    if folders.root and not found:
        raise DataError(f"{where}: no such directory: {shown(folders.root)}; correct `root` in the layout")
    parts = [set(name.split("/")) for _, name, _ in found]
    if unknown := sorted(set(folders.skip).difference(*parts)):
        raise DataError(f"{where}: nothing is called {shown(unknown[0])}; correct `skip` in the layout")
    return [entry for entry, names in zip(found, parts, strict=True) if names.isdisjoint(folders.skip)]


def _without_documents(found: Sequence[tuple[int, str, bool]]) -> list[tuple[int, str, bool]]:
    """Return the entries without documents and without directories that hold only documents."""
    images = [entry for entry in found if not entry[2] and not is_document(entry[1])]
    documents = [entry for entry in found if not entry[2] and is_document(entry[1])]
    useless = _directories_above(documents) - _directories_above(images)
    dropped = {name for _, name, _ in documents} | useless
    return [entry for entry in found if entry[1] not in dropped]


def _directories_above(found: Iterable[tuple[int, str, bool]]) -> set[str]:
    holders = {name.rpartition("/")[0] for _, name, _ in found}
    return holders | {str(above) for holder in holders for above in PurePosixPath(holder).parents}


def _parts(top: Directory, *, where: Path, level: int | None) -> list[_Part]:
    """Return the directories that hold the class directories."""
    if level is not None:
        return _at_level(top, level)
    directory, path = unwrapped(top, ())
    if by_name := _split_directories(directory, where=where):
        return [_inside(directory, path, name, split, where=where) for name, split in by_name.items()]
    below = _splits_below_classes(directory, path, where=where)
    if not below:
        refuse_parts_of_classes(directory, path, where=where)
        refuse_siblings(directory, path, where=where)
        refuse_split_classes(directory, where=where)
    refuse_what_is_no_class(directory, path, where=where)
    return [_Part(path, below=below or None)]


def _inside(directory: Directory, path: tuple[str, ...], name: str, split: str, *, where: Path) -> _Part:
    """Return the part of a split directory; `train/images/cats` is unwrapped, a class directory is not."""
    classes = frozenset(
        label
        for other, child in directory.children.items()
        if other != name
        for label in unwrapped(child, ())[0].children
    )
    inner, inside = unwrapped(directory.children[name], (*path, name), classes=classes)
    refuse_parts_of_classes(inner, inside, where=where, split=split)
    refuse_siblings(inner, inside, where=where)
    refuse_what_is_no_class(inner, inside, where=where, in_split=True)
    return _Part(inside, split)


def _splits_below_classes(directory: Directory, path: tuple[str, ...], *, where: Path) -> dict[str, str]:
    """Return the splits by name of the directories inside the directories of this one; {} unless all are splits.

    Raises:
        DataError: the split directories hold class directories, as in `images/train/cats` beside `masks/train/cats`.
    """
    below = {
        f"{above}/{name}": inner
        for above, child in directory.children.items()
        for name, inner in child.children.items()
    }
    said = {name: split_of(name) for child in directory.children.values() for name in child.children}
    nested = all(child.children and not child.has_images for child in directory.children.values())
    by_name = {name: split for name, (split, sure) in said.items() if split and sure}
    if not nested or by_name.keys() != said.keys() or not is_a_split(by_name.values()):
        return {}
    for one, other, shared in alike(below):
        above = one.split("/")[0]
        raise DataError(
            f"{where}: {shown(one)} and {shown(other)} both hold {' and '.join(map(shown, shared[:2]))}; set `root` in "
            f"the layout to {shown('/'.join((*path, above)))} if that is a dataset of its own, or say which are the "
            f"classes with `level`: {len(path) + 1} for {shown(above)}, {len(path) + 3} for {shown(shared[0])}"
        )
    return settled(by_name)


def _split_directories(directory: Directory, *, where: Path) -> dict[str, str]:
    """Return the splits by name of the directories in this one; {} if they are not named after splits.

    Raises:
        DataError: another directory is beside them, or they have no subdirectories.
    """
    said = {name: split_of(name) for name in directory.children}
    if len(set(said)) < 2:
        return {}
    certain = {name: split for name, (split, sure) in said.items() if split and sure}
    nested = {name for name in certain if directory.children[name].children}
    if len(certain) == len(said) and nested and is_a_split(certain.values()):
        return settled(certain)
    possible = {name: split for name, (split, _) in said.items() if split and directory.children[name].children}
    if len(possible) == len(said) and is_a_split(possible.values()) and share_names(directory, list(possible)):
        return settled(possible)
    if len(certain) == len(said) and is_a_split(certain.values()):
        raise DataError(
            f"{where}: {' and '.join(sorted(map(shown, certain)))} hold images, not class directories; use "
            "train/<class>/<image> or a label table"
        )
    of_split = possible if share_names(directory, list(possible)) else {name: certain[name] for name in nested}
    if is_a_split(of_split.values()):
        odd = shown(min(name for name in said if name not in of_split))
        beside = " and ".join(sorted(map(shown, of_split)))
        raise DataError(
            f"{where}: unexpected directory {odd} beside {beside}; remove it, name it in `skip` of the layout, or set "
            "`root` to the directory that holds all classes"
        )
    return {}


def _at_level(top: Directory, level: int) -> list[_Part]:
    """Return the directories that hold class directories at this level, with the split named above them."""
    found: list[tuple[Directory, tuple[str, ...]]] = [(top, ())]
    for _ in range(level - 1):
        found = [(child, (*path, name)) for directory, path in found for name, child in directory.children.items()]
    said = {path: {split for name in path if (split := split_of(name)[0])} for _, path in found}
    by_name = {"/".join(path): splits.pop() for path, splits in said.items() if len(splits) == 1}
    if len(by_name) < len(found) or not is_a_split(by_name.values()):
        return [_Part(path) for _, path in found]
    split_by_name = settled(by_name)
    return [_Part(path, split_by_name["/".join(path)]) for _, path in found]


def _expected(parts: Sequence[_Part]) -> str:
    if all(part.split is None for part in parts):
        return "expected <class>/<image>"
    train = next(part for part in parts if part.split == "train")
    return (
        f"expected {'/'.join(train.path)}/<class>/<image>; where the test images have no classes, set `root` in the "
        f"layout to {shown('/'.join(train.path))}"
    )


def check_names(classes: set[str], where: Path) -> None:
    """Refuse class names that differ only in case, spaces or Unicode form.

    Raises:
        DataError: there are two such names.
    """
    forms: dict[str, str] = {}
    for name in sorted(classes):
        if _NOT_UTF8.search(name):
            raise DataError(f"{where}: the class name {shown(name)} is not UTF-8; rename it, or pack it again")
        other = forms.setdefault(same_name(name), name)
        if other != name:
            raise DataError(f"{where}: {apart(other, name)}; make them one class")


def apart(one: str, other: str) -> str:
    """Return a sentence about class names of which same_name() is equal: they differ in case, spaces and the like.

    Two forms of one accented letter, or two spaces, look the same on a screen; ascii() tells them apart.

    >>> apart("1", "1.0")
    "the class names '1' and '1.0' differ only in the decimal point"
    """
    first, second = (unicodedata.normalize("NFC", name) for name in (one, other))
    in_case = first != second and first.casefold() == second.casefold()
    both = f"{shown(one)} and {shown(other)}" if in_case else f"{one!a} and {other!a}"
    is_point = same_name(one).isdecimal() and "." in f"{one}{other}"
    return (
        f"the class names {both} differ only in {'the decimal point' if is_point else 'case, spaces or Unicode form'}"
    )
