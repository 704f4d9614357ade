"""Decode the names of archive members, and refuse those that point outside the archive."""

import re
import struct
import zipfile
import zlib
from pathlib import Path

from darkroom.errors import DataError
from darkroom.project.text import shown, utf8

LONGEST_NAME = 4096  # bytes, as the paths of Linux
_UTF8_NAME = 0x800  # flag of a zip member
_UNICODE_PATH = 0x7075  # extra field of a zip member


def zip_name(info: zipfile.ZipInfo, path: Path) -> str:
    """Return the name of a zip member; zipfile decodes every name without the UTF-8 flag as code page 437.

    Many programs write UTF-8 without the flag, some add Info-ZIP's Unicode Path (extra field 0x7075 of the zip
    specification, APPNOTE 4.6.9).

    Raises:
        DataError: the encoding of the name is unknown.
    """
    name = info.orig_filename
    if not info.flag_bits & _UTF8_NAME and not name.isascii():
        raw = name.encode("cp437")
        try:
            name = (_unicode_path(info.extra, raw) or raw).decode("utf-8")
        except UnicodeDecodeError:
            raise DataError(
                f"{path}: the name {shown(name)} of a member is in an unknown encoding (not UTF-8: {raw!r}); pack it "
                "again, with UTF-8 names"
            ) from None
    return name.partition("\0")[0]


def safe_name(name: str, path: Path) -> str:
    """Return the name of a member with "/" between its parts.

    Raises:
        DataError: it is longer than LONGEST_NAME, absolute, or contains "..".
    """
    n_bytes = len(utf8(name).encode())
    if n_bytes > LONGEST_NAME:
        raise DataError(
            f"{path}: the name {shown(name[:60])}... has {n_bytes:,} bytes, more than {LONGEST_NAME:,}; "
            "this is not a dataset"
        )
    parts = re.split(r"[/\\]", name)
    if parts[0] == "" or ".." in parts or re.match(r"[A-Za-z]:[/\\]", name):
        raise DataError(f"{path}: member {shown(name)} points outside the archive; do not use this archive")
    return utf8("/".join(part for part in name.split("/") if part not in ("", ".")))


def _unicode_path(extra: bytes, raw: bytes) -> bytes | None:
    """Return the UTF-8 name in an extra field, None if there is none or it belongs to a name other than `raw`."""
    while len(extra) >= 4:
        kind, n_bytes = struct.unpack_from("<HH", extra)
        content, extra = extra[4 : 4 + n_bytes], extra[4 + n_bytes :]
        if kind == _UNICODE_PATH and content[:5] == struct.pack("<BI", 1, zlib.crc32(raw)):
            return content[5:]
    return None
