"""Write a dataset that is not a file yet as one file whose bytes depend on its content alone."""

import os
import tarfile
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import numpy as np

from darkroom.data.raw.layouts import walk
from darkroom.data.raw.placement import Folders, check_classes, place
from darkroom.errors import DataError


def pack_folder(path: Path, target: Path, *, folders: Folders) -> None:
    """Write a directory dataset as one tar that depends on names and contents alone: sorted, undated, nobody's.

    One file, because DVC is slow with many small ones.

    Args:
        path: the directory; hidden files and litter are left out, links are followed.
        target: the tar to write.
        folders: which directories are the classes, see placement.place.

    Raises:
        DataError: what placement.place and placement.check_classes refuse, or a file that cannot be read.
    """
    try:
        names = [(name, is_dir) for name, _, is_dir in walk(path)]
        check_classes(place(names, where=path, folders=folders), where=path)
        with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
            for name, file, is_dir in walk(path):
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
