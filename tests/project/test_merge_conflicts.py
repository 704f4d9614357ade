import pytest

from darkroom.errors import DataError
from darkroom.project.merge_conflicts import has_conflicts, refuse_conflicts


def test_files_without_markers_are_let_through(tmp_path):
    refuse_conflicts(tmp_path / "absent")
    (tmp_path / "dvc.lock").write_text("stages: {}  # <<<<<<< is no marker in a line\n")
    refuse_conflicts(tmp_path / "dvc.lock")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("dvc.lock", "take either side with `git checkout --ours dvc.lock` or `--theirs`"),
        ("cat.dvc", "resolve them by"),
    ],
)
def test_the_way_out_depends_on_the_file(tmp_path, name, remedy):
    (tmp_path / name).write_bytes(b"\xff\n<<<<<<< HEAD\na\n=======\nb\n>>>>>>> other\n")
    assert has_conflicts(tmp_path / name)
    with pytest.raises(DataError, match=rf"^{name} has conflicts of an unfinished merge; {remedy}"):
        refuse_conflicts(tmp_path / name)
