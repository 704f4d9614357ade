import os
import zipfile

import pytest

from darkroom.data.raw.fingerprint import fingerprint


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "cat").mkdir(parents=True)
    (folder / "cat" / "a.png").write_bytes(b"a")
    return folder


@pytest.fixture
def mark(photos, tmp_path):
    return lambda path=photos: fingerprint(path, memory=tmp_path / "memory")


def test_new_gone_renamed_and_edited_images_change_it(photos, mark):
    seen = [mark()]
    (photos / "cat" / "b.png").write_bytes(b"b")
    seen.append(mark())
    (photos / "cat" / "a.png").write_bytes(b"c")  # of the same size
    seen.append(mark())
    (photos / "cat" / "b.png").rename(photos / "cat" / "c.png")
    seen.append(mark())
    (photos / "cat" / "c.png").unlink()
    seen.append(mark())
    assert len({*seen}) == len(seen)


def test_images_behind_a_linked_class_folder_count(photos, mark, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.png").write_bytes(b"dog")
    (photos / "dog").symlink_to(elsewhere)
    before = mark()
    (elsewhere / "b.png").write_bytes(b"another dog")
    assert mark() != before


def test_it_is_the_same_for_equal_images_on_another_machine(photos, mark, tmp_path):
    before = mark()
    copy = tmp_path / "copy"
    (copy / "cat").mkdir(parents=True)
    (copy / "cat" / "a.png").write_bytes(b"a")
    (copy / ".DS_Store").write_bytes(b"litter")
    os.utime(photos / "cat" / "a.png", (1, 1))
    assert mark() == mark(copy) == before


def test_a_file_is_read_only_once(photos, mark):
    before = mark()
    stat = (photos / "cat" / "a.png").stat()
    (photos / "cat" / "a.png").write_bytes(b"z")  # behind its back: same size, and the time set back
    os.utime(photos / "cat" / "a.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert mark() == before


def test_an_archive_is_known_by_its_content(mark, tmp_path):
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("cat/a.png", b"a")
    before = mark(archive)
    with zipfile.ZipFile(archive, "a") as zipped:
        zipped.writestr("cat/b.png", b"b")
    assert mark(archive) != before
    assert mark(tmp_path / "absent") is None


def test_what_cannot_be_listed_is_left_to_download(photos, mark):
    (photos / "dog").symlink_to(photos)
    assert mark().startswith("unreadable: ")


def test_a_broken_link_is_known_by_its_target(photos, mark):
    marks = [mark()]
    for target in ("gone.png", "lost.png"):
        (photos / "cat/link.png").unlink(missing_ok=True)
        (photos / "cat/link.png").symlink_to(target)
        marks += [mark(), mark()]
    assert marks[1:] == [marks[1], marks[1], marks[3], marks[3]]
    assert len(set(marks)) == 3


def test_a_damaged_memory_is_written_again(photos, mark, tmp_path):
    before = mark()
    (remembered,) = (tmp_path / "memory").iterdir()
    remembered.write_text("[1, 2")
    assert mark() == before
