"""Measure the disk usage of a repository, and explain it."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# In this order; a file with hard links in several of them counts for the first.
PARTS = {
    "images and features": ("data",),
    "models and reports": ("models", "reports"),
    "runs and versions of MLflow": ("mlartifacts", "mlflow.db"),
    "checkpoints and weights": (".darkroom",),
    "more in DVC's cache": (".dvc/cache",),
}
HARD_LINKS = "`dvc config --local cache.type hardlink,copy`, then `dvc checkout --relink`"


def usage(root: Path) -> dict[str, int]:
    """Return the bytes on disk by part of a repository; hard links count once."""
    seen: set[tuple[int, int]] = set()
    return {part: sum(_blocks(root / path, seen) for path in paths) for part, paths in PARTS.items()}


def in_words(used: dict[str, int]) -> str:
    """Return the disk usage with an explanation and advice."""
    parts = ", ".join(f"{part} {n_bytes / 1e6:,.0f} MB" for part, n_bytes in used.items() if n_bytes)
    shares = used["more in DVC's cache"] < used["images and features"]
    advice = "" if shares else f"; it can share the files of the last one, which are then read-only ({HARD_LINKS})"
    return (
        f"{sum(used.values()) / 1e6:,.0f} MB: {parts}. Images are stored decoded, and DVC's cache has every version of "
        f"data and models{advice}. `darkroom gc` lists what can be deleted"
    )


def in_short(used: dict[str, int]) -> str:
    """Return the total disk usage, and which commands give details."""
    total = sum(used.values()) / 1e6
    return f"{total:,.0f} MB; `darkroom doctor` says what takes it, `darkroom gc` what can be deleted"


def _blocks(path: Path, seen: set[tuple[int, int]]) -> int:
    total = 0
    for file in _files(path):
        with suppress(FileNotFoundError):  # deleted by a running stage
            found = file.lstat()
            if stat.S_ISREG(found.st_mode) and (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                total += found.st_blocks * 512
    return total


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
    for folder, _, names in os.walk(path):
        yield from (Path(folder, name) for name in names)
