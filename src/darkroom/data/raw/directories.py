"""The tree of directories of a dataset."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from darkroom.data.raw.names import SPLIT_WORD, is_a_split, split_meant, split_of, words


@dataclass
class Directory:
    """A directory.

    Attributes:
        children: its subdirectories by name.
        has_images: whether it contains files.
    """

    children: dict[str, "Directory"] = field(default_factory=dict)
    has_images: bool = False

    def only_child(self) -> str | None:
        """Return the name of the only entry if it is a directory with subdirectories, else None."""
        if self.has_images or len(self.children) != 1:
            return None
        ((name, child),) = self.children.items()
        return name if child.children else None


def tree(found: Sequence[tuple[int, str, bool]]) -> Directory:
    """Return the top directory of entries, given as number, path with "/" and whether it is a directory."""
    top = Directory()
    for _, name, is_dir in found:
        *above, last = name.split("/")
        directory = top
        for part in [*above, last] if is_dir else above:
            directory = directory.children.setdefault(part, Directory())
        directory.has_images |= not is_dir
    return top


def unwrapped(
    directory: Directory, path: tuple[str, ...], *, classes: frozenset[str] = frozenset()
) -> tuple[Directory, tuple[str, ...]]:
    """Return the directory inside all those that only wrap another one, and its path.

    Args:
        path: names of the directories down to this one.
        classes: names of directories that are classes and end the descent.
    """
    while (name := directory.only_child()) and name not in classes:
        directory, path = directory.children[name], (*path, name)
    return directory, path


def alike(directories: Mapping[str, Directory]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield pairs of directories and the names that both hold, if they share two or more, or all of one of them."""
    for one, other in combinations(sorted(name for name, held in directories.items() if held.children), 2):
        names, others = (unwrapped(directories[name], ())[0].children.keys() for name in (one, other))
        shared = sorted(names & others)
        if len(shared) > 1 or (len(shared) == min(len(names), len(others)) < max(len(names), len(others))):
            yield one, other, shared


def share_names(directory: Directory, names: Sequence[str]) -> bool:
    """Return whether directories hold directories of the same names, as the splits of one dataset do."""
    held = [set(unwrapped(directory.children[name], ())[0].children) for name in names]
    return len(held) > 1 and all(held[0] & other for other in held[1:])


def splits_by_directories(paths: Sequence[str]) -> list[str | None]:
    """Return the split of the topmost directory above each file that is named after one (train, val, test or eval).

    Directories above all files are not looked at. A name such as seg_test counts only at the top, and only if the
    directories of splits share the names of their directories, or differ in nothing but the word for the split. All are
    None unless some are train and some are not.

    >>> splits_by_directories(["seg_train/1.jpg", "seg_test/deep/2.jpg", "3.jpg"])
    ['train', 'test', None]
    """
    top, shared = unwrapped(tree([(number, path, False) for number, path in enumerate(paths)]), ())
    above = [path.split("/")[len(shared) : -1] for path in paths]
    possible = {name: split for name in top.children if (split := split_of(name)[0])}
    others = {" ".join(word for word in words(name) if not SPLIT_WORD.fullmatch(word)) for name in possible}
    if not is_a_split(possible.values()) or not (len(others) == 1 or share_names(top, list(possible))):
        possible = {}
    said = [next(filter(None, map(split_meant, parts)), possible.get(parts[0]) if parts else None) for parts in above]
    return said if is_a_split(said) else [None] * len(paths)
