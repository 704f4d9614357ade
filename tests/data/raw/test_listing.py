"""Walking through real directories: links, links in circles, and directories that cannot be listed."""

from pathlib import Path

import pytest

from darkroom.data.raw.listing import walk
from darkroom.errors import DataError
from tests.support.raw_files import write_folder


def test_links_in_a_folder_are_followed(tmp_path: Path) -> None:
    write_folder(tmp_path, "data/cats/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "data/dogs").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/gone").symlink_to(tmp_path / "nowhere")
    found = [name for name, _, is_dir in walk(tmp_path / "data") if not is_dir]
    assert found == ["cats/a.jpg", "dogs/b.jpg", "gone"]


def test_links_in_circles_are_all_named(tmp_path: Path) -> None:
    write_folder(tmp_path, "cats/a.jpg", "dogs/b.jpg")
    (tmp_path / "cats/up").symlink_to(tmp_path)
    (tmp_path / "dogs/up").symlink_to(tmp_path)
    with pytest.raises(DataError) as refused:
        list(walk(tmp_path))
    same = "is a link to one of its own parent directories; remove the link"
    assert str(refused.value) == f"{tmp_path}: 'cats/up/' {same}; 'dogs/up/' {same}"
