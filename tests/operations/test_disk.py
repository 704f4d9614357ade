"""The disk usage of a repository."""

from pathlib import Path

from darkroom.operations.disk import in_short, in_words, usage


def test_a_file_that_the_cache_shares_counts_once(tmp_path: Path) -> None:
    for name in ("data/prepared/a.npy", "models/cnn/model.onnx", ".dvc/cache/files/old"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(1_000_000))
    (tmp_path / ".dvc/cache/files/shared").hardlink_to(tmp_path / "data/prepared/a.npy")
    (tmp_path / "data/link").symlink_to(tmp_path / "models/cnn/model.onnx")
    used = usage(tmp_path)
    assert [round(n_bytes / 1e6) for n_bytes in used.values()] == [1, 1, 0, 0, 1]
    assert in_words(used).startswith(
        "3 MB: images and features 1 MB, models and reports 1 MB, more in DVC's cache 1 MB."
    )
    assert in_short(used).startswith("3 MB; `darkroom doctor`")
    assert "cache.type hardlink,copy" in in_words(used)
    assert "cache.type" not in in_words({**used, "more in DVC's cache": 1})
