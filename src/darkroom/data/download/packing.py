"""Pack a directory or a bundled dataset into one file whose bytes depend only on its content."""

import json
import os
import sys
import tarfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import numpy as np

from darkroom.data.raw.labels import placed_in, table_names
from darkroom.data.raw.layouts import UNREADABLE
from darkroom.data.raw.listing import listing_of_files, unreadable, walk
from darkroom.data.raw.placement import check_classes
from darkroom.data.raw.shards import is_shard


def pack_folder(path: Path, target: Path, *, layout: Mapping[str, Any], all_classes: bool) -> dict[str, str]:
    """Write a directory dataset as one tar that depends only on names and contents: sorted, without dates and owners.

    One file, because DVC is slow with many small ones. With label tables or shards only these and their images are
    packed. A file that cannot be read is packed empty and listed in layouts.UNREADABLE, so that `preprocess` rejects
    it; the result maps the names of these files to the reasons.

    Args:
        path: the directory; hidden files and litter are left out, links are followed.
        target: the tar to write.
        layout: see labels.placed_in.
        all_classes: whether to check that there are two classes and images to train on.

    Raises:
        DataError: the layout does not fit, or a directory cannot be read.
    """
    entries = list(walk(path))
    placed = placed_in(listing_of_files(path, entries), layout, max_archive_bytes=sys.maxsize)
    if all_classes:
        check_classes(placed, where=path)
    if layout["kind"] == "parquet":
        entries, images = [entry for entry in entries if is_shard(entry[0])], set[str]()
    else:
        images = {entries[image.number][0] for image in placed}
    if tables := set(table_names(layout)):
        entries = [entry for entry in entries if entry[0] in tables | images]
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        failed = [(name, _add(tar, name, file, is_dir=is_dir)) for name, file, is_dir in entries]
        reasons = {name: reason for name, reason in failed if reason and name in images}
        if reasons:
            note = json.dumps(reasons).encode()
            member = tarfile.TarInfo(UNREADABLE)
            member.size = len(note)
            tar.addfile(member, BytesIO(note))
    return reasons


def _add(tar: tarfile.TarFile, name: str, file: Path, *, is_dir: bool) -> str | None:
    """Add a directory or file; return the reason if it cannot be read, else None."""
    member = tarfile.TarInfo(name)
    if is_dir:
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(member)
    elif reason := unreadable(file):
        tar.addfile(member)
        return reason
    else:
        with file.open("rb") as content:
            member.size = os.fstat(content.fileno()).st_size
            tar.addfile(member, content)
    return None


def pack_digits(target: Path) -> None:
    """Write scikit-learn's 1,797 digits, 8x8, as an npz of images and labels."""
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
