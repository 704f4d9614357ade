"""Images as a consumer passes them: the bytes of a file, its path, base64, or pixels. Travels beside package.py."""

import base64
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

Item = bytes | str | Path | np.ndarray


def image_of(
    item: Item, prepare: Callable[[bytes | np.ndarray], np.ndarray], *, paths: bool, max_bytes: int
) -> np.ndarray:
    """Return what `prepare` makes of the content of an item; see package.Package.image.

    Args:
        paths: whether a str may be a path.
        max_bytes: of an image file; a text may have half as many characters again.

    Raises:
        ValueError: the item is not of these types, is larger, or cannot be prepared.
    """
    if isinstance(item, np.ndarray):
        return prepare(item)
    if isinstance(item, bytes | bytearray | memoryview):
        return prepare(bytes(item))
    if isinstance(item, Path) or (isinstance(item, str) and paths and os.path.isfile(item)):  # noqa: PTH113  (no error on a long str)
        try:
            return prepare(_read(Path(item), max_bytes))
        except (OSError, ValueError) as error:
            raise ValueError(f"{item}: {one_line(error)}") from None
    if isinstance(item, str):
        data = _from_base64(item, paths=paths, max_bytes=max_bytes)
        try:
            return prepare(data)
        except ValueError as error:
            no_file = " is not an existing file;" if paths else ""
            raise ValueError(f"{_shorten(item)}{no_file} decoded from base64: {error}") from None
    raise ValueError(f"expected bytes, a path, base64 or a uint8 array of an image, got {type(item).__name__}")


def _read(path: Path, max_bytes: int) -> bytes:
    if (n_bytes := path.stat().st_size) > max_bytes:
        raise ValueError(f"{n_bytes:,} bytes are more than an image may have ({max_bytes:,})")
    return path.read_bytes()


def decode_base64(text: str) -> bytes:
    """Return the bytes of a base64 text, which may have whitespace anywhere.

    Raises:
        ValueError: it is not base64, or not ASCII.
    """
    # Of bytes: to split a text that is full of spaces takes 25 times as much memory as it has.
    return base64.b64decode(text.encode("ascii").translate(None, b" \t\n\r\f\v"), validate=True)


def _from_base64(text: str, *, paths: bool, max_bytes: int) -> bytes:
    if len(text) > max_bytes * 3 // 2:
        raise ValueError(f"{len(text):,} characters are more than an image may have")
    head, comma, rest = text.partition(",")
    encoded = rest if comma and head[:5].lower() == "data:" and head[-7:].lower() == ";base64" else text
    try:
        data = decode_base64(encoded)
    except ValueError:
        data = b""
    if not data:
        what = "neither an existing file nor base64" if paths else "not base64"
        raise ValueError(f"{_shorten(text)} is {what} of an image")
    return data


def _shorten(text: str) -> str:
    return repr(str(text) if len(text) <= 60 else f"{text[:57]}...")  # plain: NumPy has a str of its own


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line, its type without one."""
    return " ".join(str(error).split()) or type(error).__name__
