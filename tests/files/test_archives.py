"""Tar and zip archives: what is read, and what is refused before anything is read."""

import gzip
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from darkroom.errors import DataError
from darkroom.files import archives
from darkroom.files.archives import open_archive
from darkroom.project.text import shown
from tests.support.raw_files import write_tar, write_zip

FILES = {"cats/a.jpg": b"one", "cats/b c.jpg": b"two", "dogs/ä\n.jpg": b"x" * 5000, "dogs/empty": b""}
LIMIT = 10_000_000


def read_all(path: Path, limit: int = LIMIT) -> dict[str, bytes]:
    with open_archive(path, max_archive_bytes=limit) as archive:
        return {entry.name: archive.read(entry) for entry in archive.entries if not entry.is_dir}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_a_tar_gives_back_its_bytes_whatever_its_compression(tmp_path: Path, mode: str) -> None:
    assert read_all(write_tar(tmp_path / "data.bin", FILES, mode)) == FILES


def test_a_zip_gives_the_bytes_that_were_put_in(tmp_path: Path) -> None:
    assert read_all(write_zip(tmp_path / "data.bin", FILES)) == FILES


def test_members_can_be_read_in_any_order_and_piece_by_piece(tmp_path: Path) -> None:
    for path in (write_tar(tmp_path / "a.tgz", FILES, "w:gz"), write_zip(tmp_path / "a.zip", FILES)):
        with open_archive(path, max_archive_bytes=LIMIT) as archive:
            for entry in reversed(archive.entries):
                with archive.open(entry) as stream:
                    assert b"".join(iter(partial(stream.read, 7), b"")) == FILES[entry.name]


def test_dots_in_the_names_of_members_are_dropped(tmp_path: Path) -> None:
    assert list(read_all(write_tar(tmp_path / "a.tar", {"./": b"", "./cats//a.jpg": b"1"}))) == ["cats/a.jpg"]


def test_a_name_that_is_not_utf_8_is_spelled_out(tmp_path: Path) -> None:
    (name,) = read_all(write_tar(tmp_path / "a.tar", {"cats/\udcff.jpg": b"1"}))
    assert name == "cats/\\udcff.jpg"


def unmarked_zip(path: Path, *names: bytes, system: int = 3, unicode_path: str | None = None) -> Path:
    """Write a zip with members of these names, as given and without the mark of UTF-8."""
    stand_ins = [letter * len(name) for letter, name in zip("ABC", names, strict=False)]
    with zipfile.ZipFile(path, "w") as zipped:
        for stand_in, name in zip(stand_ins, names, strict=True):
            info = zipfile.ZipInfo(stand_in)
            info.create_system = system
            if unicode_path is not None:
                field = struct.pack("<BI", 1, zlib.crc32(name)) + unicode_path.encode()
                info.extra = struct.pack("<HH", 0x7075, len(field)) + field
            zipped.writestr(info, name)
    content = path.read_bytes()
    for stand_in, name in zip(stand_ins, names, strict=True):
        content = content.replace(stand_in.encode(), name)
    path.write_bytes(content)
    return path


def test_utf_8_names_of_a_zip_need_no_mark(tmp_path: Path) -> None:
    for name in ("café/a.jpg", "Äpfel/ß.jpg", "猫/1.jpg", "cats/a.jpg"):
        assert list(read_all(unmarked_zip(tmp_path / "a.zip", name.encode()))) == [name]


def test_the_unicode_path_of_a_zip_member_is_its_name(tmp_path: Path) -> None:
    raw = "Äpfel/a.jpg".encode("cp850")
    assert list(read_all(unmarked_zip(tmp_path / "a.zip", raw, unicode_path="Äpfel/a.jpg"))) == ["Äpfel/a.jpg"]


@pytest.mark.parametrize("encoding", ["cp850", "cp932", "latin-1", "gbk"])
def test_a_zip_name_in_an_unknown_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    raw = ("日本/a.jpg" if encoding in ("cp932", "gbk") else "Äpfel/a.jpg").encode(encoding)
    with pytest.raises(DataError, match=f"is in an unknown encoding \\(not UTF-8: {re.escape(repr(raw))}\\); pack it"):
        read_all(unmarked_zip(tmp_path / "a.zip", raw))


def test_a_zip_name_that_is_marked_and_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"ä/a.jpg": b"1"})
    path.write_bytes(path.read_bytes().replace("ä".encode(), b"\xe4x"))
    with pytest.raises(DataError, match="the name .* of a member is not UTF-8; pack it again"):
        read_all(path)


def test_backslashes_of_windows_zips_part_directories(tmp_path: Path) -> None:
    assert list(read_all(unmarked_zip(tmp_path / "a.zip", b"a\\1.jpg", b"b\\c\\2.jpg"))) == ["a/1.jpg", "b/c/2.jpg"]
    assert list(read_all(unmarked_zip(tmp_path / "b.zip", b"a\\1.jpg", b"b/2.jpg", system=0))) == ["a/1.jpg", "b/2.jpg"]
    assert list(read_all(unmarked_zip(tmp_path / "c.zip", b"a/\\1.jpg"))) == ["a/\\1.jpg"]


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.jpg", "cats/../../a.jpg", "..\\a.jpg", "C:\\a.jpg", "\\a.jpg"])
def test_a_path_out_of_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    for path in (write_tar(tmp_path / "a.tar", {name: b"1"}), write_zip(tmp_path / "a.zip", {name: b"1"})):
        with pytest.raises(DataError, match=re.escape(f"member {shown(name)} points outside the archive")):
            read_all(path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.FIFOTYPE, "a named pipe"),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes, message: str) -> None:
    member = tarfile.TarInfo("cats/a\n.jpg")
    member.type, member.linkname = kind, "/etc/passwd"
    with pytest.raises(DataError, match=re.escape(rf"member 'cats/a\n.jpg' is {message}")):
        read_all(write_tar(tmp_path / "a.tar", {"cats/b.jpg": b"1", "cats/a.jpg": member}))


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("cats/a.jpg")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match=r"'cats/a.jpg' is a symbolic link"):
        read_all(tmp_path / "a.zip")


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    data = bytearray(write_zip(tmp_path / "a.zip", {"cats/a.jpg": b"1"}).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match=r"'cats/a.jpg' is encrypted"):
        read_all(tmp_path / "a.zip")


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("cats/a.jpg"))
        tar.addfile(tarfile.TarInfo("./cats/a.jpg"))
    with pytest.raises(DataError, match=r"the member 'cats/a.jpg' appears twice"):
        read_all(tmp_path / "a.tar")


@pytest.mark.parametrize("name", ["bomb.zip", "bomb.tar.gz", "bomb.tar.xz"])
def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, name: str) -> None:
    files = {f"cats/{i}.jpg": bytes(400_000) for i in range(5)}
    path = tmp_path / name
    write_zip(path, files) if name.endswith("zip") else write_tar(path, files, f"w:{name[-2:]}")
    assert path.stat().st_size < 20_000
    with pytest.raises(DataError, match=r"unpacks to at least [12],\d{3},\d{3} bytes, more than 1,000,000;"):
        read_all(path, limit=1_000_000)
    assert len(read_all(path)) == 5


def test_a_zip_member_is_never_read_beyond_its_declared_size(tmp_path: Path) -> None:
    data = write_zip(tmp_path / "a.zip", {"cats/a.jpg": bytes(500_000)}).read_bytes()
    (tmp_path / "a.zip").write_bytes(data.replace(struct.pack("<I", 500_000), struct.pack("<I", 10)))
    with pytest.raises(DataError, match="damaged"):
        read_all(tmp_path / "a.zip", limit=1000)


def test_a_zip_member_shorter_than_declared_is_refused(tmp_path: Path) -> None:
    data = write_zip(tmp_path / "a.zip", {"cats/a.jpg": b"abc" * 1000}).read_bytes()
    (tmp_path / "a.zip").write_bytes(data.replace(struct.pack("<I", 3000), struct.pack("<I", 5000)))
    with pytest.raises(DataError, match=r"holds 3,000 bytes, but its header says 5,000|damaged|truncated"):
        read_all(tmp_path / "a.zip")


def test_a_tar_header_with_a_huge_name_is_refused_unread(tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 3_000_000
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(3_000_000)))
    with pytest.raises(DataError, match="a header of 3,000,320 bytes"):
        read_all(path)


def pax(headers: dict[str, str], *, before: int = 0) -> bytes:
    """Return a tar whose last member has these pax headers, behind others that are whole."""
    member = tarfile.TarInfo("./")  # a name that is passed over, so no second member of the name ends the circle
    member.pax_headers = headers
    whole = b"".join(tarfile.TarInfo(f"cats/{number}").tobuf() for number in range(before))
    return whole + member.tobuf(tarfile.PAX_FORMAT) + bytes(1024)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("size", ["-512", "-1024", "-1536", "-100000"])
def test_a_tar_member_of_an_impossible_size_is_refused(
    tmp_path: Path, size: str, before: int, pack: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "a.tar").write_bytes(pack(pax({"size": size}, before=before)))
    with pytest.raises(DataError, match="a.tar is damaged"):
        read_all(tmp_path / "a.tar")


@pytest.mark.parametrize("before", [0, 3])
def test_a_tar_header_with_a_number_that_is_none_is_refused(tmp_path: Path, before: int) -> None:
    (tmp_path / "a.tar").write_bytes(pax({"GNU.sparse.map": "one,two", "GNU.sparse.size": "3"}, before=before))
    with pytest.raises(DataError, match="a.tar is damaged .*invalid literal for int"):
        read_all(tmp_path / "a.tar")


def test_a_tar_header_of_a_negative_size_is_not_everything(tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, -5000
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(DataError, match="a.tar is damaged"):
        read_all(tmp_path / "a.tar")


def test_a_name_longer_than_a_path_can_be_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "a.tar", tmp_path / "a.zip"):
        write = write_tar if path.suffix == ".tar" else write_zip
        assert len(read_all(write(path, {"ä" * 2048: b"1"}))) == 1
        with pytest.raises(DataError, match=r"the name 'ä{60}'... has 4,098 bytes, more than 4,096"):
            read_all(write(path, {"ä" * 2049: b"1"}))


def test_an_archive_of_too_many_members_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_MEMBERS", 3)
    for path in (write_tar(tmp_path / "a.tar", FILES), write_zip(tmp_path / "a.zip", FILES)):
        with pytest.raises(DataError, match="has more than 3 members"):
            read_all(path)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_truncated_tar_is_refused(tmp_path: Path, mode: str, kept: float) -> None:
    path = write_tar(tmp_path / "a.tar", {f"cats/{i}": bytes([i]) * 3000 for i in range(20)}, mode)
    end = 20 * (512 + 3072) if mode == "w" else path.stat().st_size
    path.write_bytes(path.read_bytes()[: int(end * kept)])
    with pytest.raises(DataError, match="truncated"):
        read_all(path)


def test_no_cut_of_a_tar_goes_unnoticed(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "a.tar", {f"cats/{i}": bytes([i]) * 100 * i for i in range(4)}).read_bytes()
    end = 4 * 512 + 3 * 512  # behind it, two blocks of zeros say that it is complete
    for cut in range(0, end + 512, 32):
        (tmp_path / "cut.tar").write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"truncated|not a zip or tar archive"):
            read_all(tmp_path / "cut.tar")


@pytest.mark.parametrize("kept", [0.5, 0.9, 0.99])
def test_a_truncated_zip_is_refused(tmp_path: Path, kept: float) -> None:
    path = write_zip(tmp_path / "a.zip", FILES)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(DataError, match="is truncated; download it again"):
        read_all(path)


def test_a_damaged_zip_member_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("cats/a.jpg", b"picture")
    path.write_bytes(path.read_bytes().replace(b"picture", b"pictura"))
    with pytest.raises(DataError, match="damaged"):
        read_all(path)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_a_compressed_file_that_is_no_tar_is_refused(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / "a").write_bytes(pack(b"not a tar" * 1000))
    with pytest.raises(DataError, match="damaged"):
        read_all(tmp_path / "a")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match=f"{len(content)} bytes are not a zip or tar archive"):
        read_all(tmp_path / "a.tar")
