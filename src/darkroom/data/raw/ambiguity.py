"""Refuse datasets in which it is ambiguous which directories are the classes."""

import re
from pathlib import Path

from darkroom.data.raw.directories import Directory, alike, unwrapped
from darkroom.data.raw.names import BESIDE_IMAGES, OF_IMAGES, SPLIT_WORD, UNLABELLED, split_of, words
from darkroom.errors import DataError
from darkroom.project.text import shown


def refuse_parts_of_classes(
    directory: Directory, path: tuple[str, ...], *, where: Path, split: str | None = None
) -> None:
    """Refuse `cats/val` beside images of classes that are in no split, or inside another split.

    Args:
        path: names of the directories down to the one of the classes.
        split: the split of all these classes, None without one.

    Raises:
        DataError: there is such a directory.
    """
    said = {
        f"{label}/{name}": split_of(name)[0] if split_of(name)[1] else None
        for label, child in directory.children.items()
        for name in child.children
    }
    splits = {*said.values(), *(split for child in directory.children.values() if split or child.has_images)}
    held_out = [name for name, own in said.items() if own not in (None, "train", split)]
    if held_out and len(splits) > 1:
        raise DataError(
            f"{where}: {shown(min(held_out))} seems to be a part of a split that other images have no part in; arrange "
            "all as train/<class>/<image> and test/<class>/<image>, or say in the layout what is meant: `root` for one "
            f"directory, `skip` to leave some out, `level`: {len(path) + 1} if all in it belongs to its class"
        )


def refuse_siblings(directory: Directory, path: tuple[str, ...], *, where: Path) -> None:
    """Refuse directories that contain directories of the same names, because either level may be the classes.

    Raises:
        DataError: there are such directories.
    """
    for one, other, shared in alike(directory.children):
        level = len(path) + 1
        raise DataError(
            f"{where}: {shown(one)} and {shown(other)} both hold {' and '.join(map(shown, shared[:2]))}; if they are "
            "parts of a split, name them train, val and test; if each is a dataset, set `root` to one of them; else "
            f"say which are the classes with `level` in the layout: {level} for {shown(one)}, {level + 1} for "
            f"{shown(shared[0])}"
        )


def refuse_what_is_no_class(
    directory: Directory, path: tuple[str, ...], *, where: Path, in_split: bool = False
) -> None:
    """Refuse `test` or `unlabelled` beside classes, `masks` beside `images` or the same classes, and `images_001`.

    Also a lone `train` of directories beside directories of images.

    Args:
        in_split: whether the directories are in one of a split, so that `test` may be a class.

    Raises:
        DataError: there is such a directory.
    """
    names = sorted(directory.children)
    numbered = {re.sub(r"\d+", "", name) for name in names if re.search(r"\d", name)}
    of_images = [name for name in names if any(map(OF_IMAGES.fullmatch, words(name)))]
    if len(names) < 2:
        return
    remedy = f"; if they are classes, say so with `level`: {len(path) + 1} in the layout"
    if len(numbered) == 1 and len(of_images) == len(names):
        raise DataError(
            f"{where}: {shown(names[0])} and {shown(names[1])} look like parts of the images, not classes; use a label "
            f"table{remedy}"
        )
    deep = {name: child for name, child in directory.children.items() if child.children}
    for name, child in deep.items() if len(deep) == 1 and not in_split else ():
        if split_of(name) == ("train", True) and len(child.children) > 1 and not child.has_images:
            other = next(other for other in names if other != name)
            raise DataError(
                f"{where}: {shown(name)} holds directories, as a split does, and {shown(other)} does not; set `root` "
                f"in the layout to {shown('/'.join((*path, name)))}{remedy}"
            )
    for name in names:
        held = unwrapped(directory.children[name], ())[0].children.keys() & set(names) - {name}
        if any(map(UNLABELLED.fullmatch, words(name))) or (split_of(name) == ("test", True) and not in_split):
            why = "holds images of no class, or of a split"
        elif any(map(BESIDE_IMAGES.fullmatch, words(name))) and of_images:
            why = f"seems to belong to {shown(of_images[0])}"
        elif held:
            why = f"holds {' and '.join(map(shown, sorted(held)[:2]))} as well"
        else:
            continue
        other = next(other for other in (*of_images, *names) if other != name)
        raise DataError(
            f"{where}: {shown(name)} beside {shown(other)} {why}; name it in `skip` of the layout, or use a label "
            f"table{remedy}"
        )


def refuse_split_classes(directory: Directory, *, where: Path) -> None:
    """Refuse cats_train beside cats_test, which are two splits of one class, not two classes.

    Raises:
        DataError: there are such directories.
    """
    seen: dict[str, str] = {}
    for name in sorted(directory.children):
        if split_of(name)[0] and not split_of(name)[1]:
            rest = " ".join(token for token in words(name) if not SPLIT_WORD.fullmatch(token))
            other = seen.setdefault(rest, name)
            if other != name and split_of(other)[0] != split_of(name)[0]:
                raise DataError(
                    f"{where}: {shown(other)} and {shown(name)} look like two splits of one class; arrange them as "
                    "train/<class>/<image> and test/<class>/<image>"
                )
