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
from darkroom.data.raw.tables import Columns, read_and_place
from darkroom.errors import DataError


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
        names = [(name, is_dir) for name, _, is_dir in entries]
        if layout["kind"] == "folders":
            placed = place(names, where=path, folders=Folders.of(layout))
        else:
            columns = Columns.of(layout)
            placed = read_and_place(
                names,
                n_bytes=lambda number: entries[number][1].stat().st_size,
                read=lambda number: entries[number][1].read_bytes(),
                where=path,
                columns=columns,
            )
            wanted = {columns.table, *(image.name for image in placed)}
            entries = [entry for entry in entries if entry[0] in wanted]
        check_classes(placed, where=path)
        with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
            for name, file, is_dir in entries:
                _add(tar, name, file, is_dir=is_dir)
    except PermissionError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from None


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
