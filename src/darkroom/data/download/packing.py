"""Write a dataset that is not a file yet as one file whose bytes depend on its content alone."""

import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import numpy as np

from darkroom.data.raw.layouts import walk
from darkroom.data.raw.placement import Folders, check_classes, place
from darkroom.data.raw.tables import Columns, place_by_table, read_table
from darkroom.errors import DataError
from darkroom.project.text import shown


def pack_folder(path: Path, target: Path, *, layout: Mapping[str, Any]) -> None:
    """Write a directory dataset as one tar that depends on names and contents alone: sorted, undated, nobody's.

    One file, because DVC is slow with many small ones. With a label table only what it names goes along.

    Args:
        path: the directory; hidden files and litter are left out, links are followed.
        target: the tar to write.
        layout: which directories are the classes (see placement.Folders), or which table says it (tables.Columns).

    Raises:
        DataError: what the placement refuses, or a file that cannot be read.
    """
    try:
        entries = list(walk(path))
        if layout["kind"] == "folders":
            names = ((name, is_dir) for name, _, is_dir in entries)
            check_classes(place(names, where=path, folders=Folders.of(layout)), where=path)
        else:
            entries = _named_by_table(entries, Columns.of(layout), where=path)
        with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
            for name, file, is_dir in entries:
                _add(tar, name, file, is_dir=is_dir)
    except PermissionError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from None


def _named_by_table(
    entries: list[tuple[str, Path, bool]], columns: Columns, *, where: Path
) -> list[tuple[str, Path, bool]]:
    """Return the entries of the table and of the images that it names."""
    files = {name: entry for entry in entries if not entry[2] for name in entry[:1]}
    if columns.table not in files:
        raise DataError(f"{where}: no file {shown(columns.table)}; correct `table` in the layout")
    rows = read_table(files[columns.table][1].read_bytes(), name=columns.table, where=where)
    placed = place_by_table(files, rows, where=where, columns=columns)
    check_classes(placed, where=where)
    wanted = {columns.table, *(image.name for image in placed)}
    return [entry for name, entry in files.items() if name in wanted]


def _add(tar: tarfile.TarFile, name: str, file: Path, *, is_dir: bool) -> None:
    member = tarfile.TarInfo(name)
    if is_dir:
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(member)
        return
    with file.open("rb") as content:
        member.size = os.fstat(content.fileno()).st_size
        tar.addfile(member, content)


def pack_digits(target: Path) -> None:
    """Write the 1,797 digits that scikit-learn brings, 8x8, as an npz of images and labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    arrays = {
        "images": ((digits.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8),  # 0..16 to 0..255
        "labels": digits.target.astype(np.uint8),
    }
    with ZipFile(target, "w", ZIP_STORED) as zipped:
        for name, array in arrays.items():
            member = ZipInfo(f"{name}.npy")  # dated 1980
            member.create_system = 3
            with zipped.open(member, "w") as stream:
                np.lib.format.write_array(stream, array, version=(1, 0), allow_pickle=False)
