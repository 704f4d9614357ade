import json
import re
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.support.project import ROOT, clone

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    """Return (instruction, arguments) of the Dockerfile, continuation lines joined, comments left out."""
    lines = [line for line in DOCKERFILE.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name.upper(), rest) for name, rest in (line.split(maxsplit=1) for line in joined.splitlines())]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps this path of the repository out of the build."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    parts = path.split("/")
    parents = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
    is_out = False
    for line in lines:
        pattern = line.removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        anywhere = pattern.removeprefix("**/")
        for parent in parents:
            here = parent.count("/") == pattern.count("/") and fnmatch(parent, pattern)
            if fnmatch(parent.rsplit("/", 1)[-1], anywhere) if anywhere != pattern else here:
                is_out = not line.startswith("!")  # of several lines the last decides
    return is_out


def tracked() -> list[str]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    result = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in result.stdout.split("\0") if name]


def test_the_base_is_a_pinned_build_argument_of_both_stages() -> None:
    name, base = instructions()[0]
    assert name == "ARG"
    assert re.fullmatch(r"BASE=python:3\.\d+\.\d+-slim-[a-z]+", base)
    assert [rest for name, rest in instructions() if name == "FROM"] == ["${BASE} AS build", "${BASE}"]


def test_packages_come_from_the_hashed_lock_files_alone() -> None:
    installs = [
        line for name, rest in instructions() if name == "RUN" for line in rest.split("&&") if "install" in line
    ]
    from_index = [line for line in installs if "pip install" in line and "--editable" not in line]
    assert len(from_index) == 3
    for line in from_index:
        assert "--require-hashes" in line
        assert re.search(r"-r (/tmp/uv|requirements|requirements-gpu)\.lock", line)
    (editable,) = [line for line in installs if "--editable" in line]
    assert "--no-deps" in editable
    assert "--no-build-isolation" in editable


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-gpu.lock", "requirements-s3.lock"])
def test_a_lock_file_pins_and_hashes_every_package(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    code = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    assert "://" not in code
    entries = re.split(r"\n(?=\S)", code.strip())
    for entry in entries:
        assert re.match(r"[a-z0-9_.-]+(\[[a-z0-9,_-]+\])?==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry


def test_the_gpu_lock_holds_what_tensorflow_names_for_cuda() -> None:
    from importlib.metadata import requires

    wanted = {line.split("<")[0].split(">")[0] for line in requires("tensorflow") or [] if "and-cuda" in line}
    text = (ROOT / "requirements-gpu.lock").read_text(encoding="utf-8")
    locked = dict(re.findall(r"^(nvidia-[a-z0-9-]+)==(\S+)", text, flags=re.MULTILINE))
    assert set(locked) == wanted
    assert re.findall(r"^(?!nvidia-|#|\s)\S+", text, flags=re.MULTILINE) == []
    assert locked["nvidia-cudnn-cu12"].startswith("9.")
    from importlib.metadata import version

    assert f"tensorflow[and-cuda]=={version('tensorflow')}" in text


def test_the_gpu_image_finds_cusolver() -> None:
    settings = " ".join(rest for name, rest in instructions() if name == "ENV")
    assert "LD_LIBRARY_PATH=/opt/venv/nvidia/cusolver/lib" in settings


def test_an_image_that_writes_no_bytecode_brings_it() -> None:
    build, run = (rest for name, rest in instructions() if name == "ENV")
    assert "PYTHONDONTWRITEBYTECODE=1" in run
    assert "UV_COMPILE_BYTECODE=1" in build


def test_the_image_runs_dvc_repro_as_an_ordinary_user() -> None:
    *_, user, entry = instructions()
    assert user == ("USER", "darkroom")
    assert entry[0] == "ENTRYPOINT"
    assert json.loads(entry[1]) == ["dvc", "repro"]


def test_every_copied_file_exists_and_reaches_the_build() -> None:
    copies = [rest.split() for name, rest in instructions() if name == "COPY" and "--from=" not in rest]
    assert copies
    for words in copies:
        *sources, _ = [word for word in words if not word.startswith("--")]
        for source in sources:
            assert (ROOT / source).exists(), source
            assert not ignored(source), source


def test_no_tracked_file_is_kept_out_of_the_image() -> None:
    assert [name for name in tracked() if ignored(name)] == []
    assert not ignored("data/incoming/cat.dvc")  # what `dvc add` writes for git
    assert not ignored(".git/HEAD")  # the image knows its commit, and DVC needs a repository


def test_secrets_data_and_caches_stay_out_of_the_image() -> None:
    names = [
        ".env",
        ".venv/bin/python",
        ".dvc/cache/files/md5/00/1",
        ".dvc/config.local",
        "mlflow.db",
        "data/raw/a.npz",
        "data/incoming/cat/a.png",
        "data/incoming/cat/deeper/b.png",
        "data/incoming/c.png",
    ]
    names += ["src/darkroom/__pycache__/a.pyc", "models/cnn/model.keras", "reports/report.html", "mlflow.db-wal"]
    for name in names:
        assert ignored(name), name


@pytest.mark.heavy
def test_the_dry_run_of_the_head_works_in_a_fresh_clone(tmp_path: Path) -> None:
    assert "docker run --rm darkroom --dry --force" in DOCKERFILE
    said = clone(tmp_path / "clone").run("dvc", "repro", "--dry", "--force")
    assert re.findall(r"Running stage '(\w+)", said)[-1] == "promote"
