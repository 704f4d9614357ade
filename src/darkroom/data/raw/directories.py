"""The tree of directories of a dataset."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations


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
