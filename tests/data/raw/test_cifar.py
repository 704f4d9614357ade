"""The batches of CIFAR: both versions give the same images, and no pickle makes this process do anything else."""

import io
import os
import pickle
import pickletools
import re
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.data.raw.cifar import cifar_blocks
from darkroom.data.raw.idx_npz import Block
from darkroom.errors import DataError
from tests.support.raw_files import pixels, write_tar

CLASSES = ["airplane", "automobile", "bird"]
LABELS = {"data_batch_1": [0, 1, 2, 0], "data_batch_2": [2, 1], "data_batch_10": [1], "test_batch": [1, 0, 2]}
PLANES = {name: pixels(len(labels), 3072, seed=i) for i, (name, labels) in enumerate(LABELS.items())}


def python_batches(protocol: int = 2) -> dict[str, bytes]:
    """Return the files of the "python" version, with text keys; protocol 2 writes bytes through _codecs.encode."""
    files = {
        name: pickle.dumps({b"data": PLANES[name], b"labels": labels, b"filenames": [b"a.png"]}, protocol)
        for name, labels in LABELS.items()
    }
    files["batches.meta"] = pickle.dumps({b"label_names": [c.encode() for c in CLASSES]}, protocol)
    return {f"cifar-10-batches-py/{name}": files[name] for name in reversed(files)} | {"readme.html": b"<html>"}


def binary_batches() -> dict[str, bytes]:
    files = {
        f"cifar-10-batches-bin/{name}.bin": np.hstack([np.array(labels, np.uint8)[:, None], PLANES[name]]).tobytes()
        for name, labels in LABELS.items()
    }
    return files | {"cifar-10-batches-bin/batches.meta.txt": "\n".join([*CLASSES, ""]).encode()}


def read(*paths: Path, classes: list[str] | None = None, limit: int = 10**7) -> list[Block]:
    return list(cifar_blocks(paths, classes=classes, max_archive_bytes=limit))


def check(blocks: list[Block]) -> None:
    order = ["data_batch_1", "data_batch_2", "data_batch_10", "test_batch"]
    assert [block.split for block in blocks] == ["train", "train", "train", "test"]
    for block, name in zip(blocks, order, strict=True):
        assert block.labels == [CLASSES[label] for label in LABELS[name]]
        assert block.pixels.shape == (len(LABELS[name]), 32, 32, 3)
        for channel in range(3):  # red, green, blue, plane after plane
            plane = PLANES[name][:, channel * 1024 : (channel + 1) * 1024].reshape(-1, 32, 32)
            np.testing.assert_array_equal(block.pixels[..., channel], plane)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_pickled_batches_are_read_in_order_of_their_numbers(tmp_path: Path, protocol: int) -> None:
    check(read(write_tar(tmp_path / "c.tar.gz", python_batches(protocol), "w:gz")))


def test_the_binary_batches_give_the_same(tmp_path: Path) -> None:
    check(read(write_tar(tmp_path / "c.tar.gz", binary_batches(), "w:gz")))


def test_class_names_of_a_text_file_are_its_lines(tmp_path: Path) -> None:
    files = binary_batches() | {"cifar-10-batches-bin/batches.meta.txt": "aquarium fish\r\nbee\n\nkäse\n".encode()}
    labels = [label for block in read(write_tar(tmp_path / "c.tar", files)) for label in block.labels]
    assert set(labels) == {"aquarium fish", "bee", "käse"}
    files["cifar-10-batches-bin/batches.meta.txt"] = b"plane\n\xff\n"
    with pytest.raises(DataError, match=r"'batches.meta.txt' is damaged \(not UTF-8\)"):
        read(write_tar(tmp_path / "c.tar", files))


def test_loose_batch_files_give_the_same(tmp_path: Path) -> None:
    for name, data in python_batches().items():
        (tmp_path / Path(name).name).write_bytes(data)
    check(read(*sorted(tmp_path.iterdir())))


def python2_pickle(array: np.ndarray, labels: list[int]) -> bytes:
    """Return what cPickle of Python 2.7 wrote (protocol 2): numpy.core names, and str for text and bytes alike."""

    def string(data: bytes) -> bytes:
        return (b"U" + bytes([len(data)]) if len(data) < 256 else b"T" + struct.pack("<i", len(data))) + data

    dtype = b"cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R(K\x03" + string(b"|") + b"NNNJ\xff\xff\xff\xffJ"
    dtype += b"\xff\xff\xff\xffK\x00tb"
    data = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + b"K\x00\x85" + string(b"b") + b"\x87R"
    data += b"(K\x01" + b"K" + bytes([array.shape[0]]) + b"M\x00\x0c\x86" + dtype + b"\x89" + string(array.tobytes())
    data += b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + string(b"data") + data + string(b"labels") + numbers + b"u."


def test_pickles_of_python_2_are_read(tmp_path: Path) -> None:
    data = python2_pickle(PLANES["test_batch"], [1, 0, 2])
    pickletools.dis(data, out=io.StringIO())  # well formed
    for name in ("data_batch_1", "test_batch"):
        (tmp_path / name).write_bytes(data)
    train, _ = read(tmp_path / "data_batch_1", tmp_path / "test_batch", classes=CLASSES)
    assert train.labels == ["automobile", "airplane", "bird"]
    np.testing.assert_array_equal(train.pixels[..., 0].reshape(3, -1), PLANES["test_batch"][:, :1024])


def test_cifar_100_is_read_with_its_fine_labels(tmp_path: Path) -> None:
    fine = ["apple", "bear", "chair"]
    for name, seed in (("train", 0), ("test", 3)):
        batch = {"data": PLANES["data_batch_1" if not seed else "test_batch"], "coarse_labels": [9] * 4}
        batch["fine_labels"] = LABELS["data_batch_1" if not seed else "test_batch"]
        (tmp_path / name).write_bytes(pickle.dumps(batch))
    (tmp_path / "meta").write_bytes(pickle.dumps({"fine_label_names": fine, "coarse_label_names": ["x"]}))
    train, test = read(*sorted(tmp_path.iterdir()))
    assert (train.labels, test.labels) == (["apple", "bear", "chair", "apple"], ["bear", "apple", "chair"])


class Evil:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch hacked",), "system"),
        (eval, ("1",), "eval"),
        (getattr, (1, "real"), "getattr"),
        (np.load, ("x.npy",), "load"),
        (np.memmap, ("hacked", np.uint8, "w+", 0, (4,)), "memmap"),
        (bytearray, (10**9,), "bytearray"),
    ],
)
def test_a_pickle_that_asks_for_anything_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, function: Any, arguments: Any, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({"data": Evil(function, *arguments)}, protocol))
    with pytest.raises(
        DataError, match=rf"batch 'data_batch_1': the pickle references [\w.]+\.{name}, but only byte arrays"
    ):
        read(tmp_path / "data_batch_1")
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], r"expected a dict, found list"),
        ({"data": [1], "labels": [1]}, r"expected `data`, \(n, 3072\) uint8, .* found 'data', 'labels'"),
        ({"data": pixels(2, 3072), "labels": [1]}, r"expected `data`"),
        ({"data": pixels(1, 3072), "labels": ["x"]}, r"expected integer labels"),
        ({"data": np.zeros((1, 3072)), "labels": [1]}, r"an array of 'f8', expected unsigned bytes"),
        ({"data": np.array([[None]]), "labels": [1]}, r"an array of 'O8', expected unsigned bytes"),
        ({"data": pixels(1, 3072), "labels": [7]}, r"label 7 is out of range; the classes are 0 to 2"),
    ],
)
def test_a_pickle_of_other_values_is_refused(tmp_path: Path, value: Any, message: str) -> None:
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(value))
    with pytest.raises(DataError, match=message):
        read(tmp_path / "data_batch_1", classes=CLASSES)


def test_a_damaged_pickle_raises_nothing_but_a_data_error(tmp_path: Path) -> None:
    whole = pickle.dumps({b"data": PLANES["data_batch_10"], b"labels": [1]}, 2)
    rng = np.random.default_rng(0)
    positions = [*range(130), *range(len(whole) - 20, len(whole))]
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] = int(rng.integers(0, 256))
        for data in (whole[:position], bytes(damaged)):
            (tmp_path / "data_batch_1").write_bytes(data)
            with suppress(DataError):
                read(tmp_path / "data_batch_1")


def test_a_truncated_binary_batch_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3073 * 2 - 1))
    with pytest.raises(DataError, match=r"6,145 bytes, expected records of 3073; it is truncated"):
        read(tmp_path / "data_batch_1.bin")


def test_missing_and_too_big_batches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape("expected batches (data_batch_1, ..., test_batch), found 'a.txt'")):
        read(write_tar(tmp_path / "c.tar", {"a.txt": b"1"}))
    (tmp_path / "data_batch_1").write_bytes(bytes(1000))
    with pytest.raises(DataError, match="1,000 bytes, more than"):
        read(tmp_path / "data_batch_1", limit=999)
