"""Small files in the formats that datasets come in, for tests of what reads and fetches them."""

import gzip
import hashlib
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def pixels(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(directory: Path, *, compressed: bool = False, **arrays: Any) -> list[Path]:
    """Write x_train=..., y_train=..., x_test=..., y_test=... under their classic names."""
    names = {"x_train": "train-images-idx3", "y_train": "train-labels-idx1"}
    names |= {"x_test": "t10k-images-idx3", "y_test": "t10k-labels-idx1"}
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for key, array in arrays.items():
        path = directory / f"{names[key]}-ubyte{'.gz' if compressed else ''}"
        path.write_bytes(gzip.compress(idx(array)) if compressed else idx(array))
        paths.append(path)
    return paths


def write_tar(path: Path, files: Mapping[str, bytes | tarfile.TarInfo], mode: Any = "w") -> Path:
    """Write a tar; a name that ends in "/" is a directory; a TarInfo stands for a member that is no plain file."""
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if name.endswith("/"):
                member.type = tarfile.DIRTYPE
            if isinstance(content, bytes):
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_manifest(directory: Path, layout: str | dict[str, Any]) -> Path:
    """Make the directory one that download wrote: a manifest of the files that are in it."""
    files = sorted(path for path in directory.iterdir() if path.name != "manifest.json")
    manifest = {
        "dataset": "small",
        "layout": {"kind": layout} if isinstance(layout, str) else layout,
        "files": [{"name": path.name, "sha256": sha256(path), "bytes": path.stat().st_size} for path in files],
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def write_folder(directory: Path, *names: str) -> Path:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(f"content of {name}".encode("utf-8", "surrogateescape"))
    return directory
