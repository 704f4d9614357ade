"""Check what `dvc repro` and `make ui` need of this machine and repository, with remedies."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from darkroom.deployable.machine import usable_cores
from darkroom.errors import DarkroomError, RegistryError
from darkroom.operations.disk import in_words, usage
from darkroom.operations.preflight import check_merges, check_repository
from darkroom.operations.workspace import Workspace
from darkroom.project.text import redact

LEAST_FREE = 5e9  # bytes; the default dataset, its models and DVC's cache take about 1 GB
GPU_SECONDS = 30  # for nvidia-smi to answer


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        about: python | packages | environment | git | dvc | disk | gpu | store | registry | mirror.
        status: ok; note: something does not work until the remedy is done; wrong: `dvc repro` will fail.
        sentence: what was found, and the remedy if there is one.
    """

    about: str
    status: Literal["ok", "note", "wrong"]
    sentence: str


def examine(root: Path, *, model: str) -> Iterator[Finding]:
    """Yield the results in the order of dependencies; nothing is written.

    Args:
        root: the repository.
        model: the registered name.
    """
    with TemporaryDirectory() as folder:
        tree = Workspace(root, log=Path(folder) / "log")
        yield from _examine(root, tree, model)


def _examine(root: Path, tree: Workspace, model: str) -> Iterator[Finding]:
    checks: dict[str, Callable[[], Finding]] = {
        "python": _python,
        "packages": _packages,
        "environment": lambda: _environment(root),
        "git": lambda: _git(tree),
        "dvc": lambda: _dvc(tree),
        "disk": lambda: _disk(root),
        "gpu": _gpu,
        "store": _store,
        "registry": lambda: _registry(model),
        "mirror": _mirror,
    }
    for about, look in checks.items():
        try:
            yield look()
        except DarkroomError as error:
            yield Finding(about, "wrong", str(error))


def _python() -> Finding:
    found = platform.python_version()
    needed = SpecifierSet(distribution("darkroom").metadata["Requires-Python"])
    if found not in needed:
        return Finding("python", "wrong", f"{found} is not {needed}; run `make setup PYTHON=python3.12`")
    return Finding("python", "ok", f"{found} in {sys.prefix}")


def _packages() -> Finding:
    """Compare the installed packages with the requirements of darkroom."""
    needed = [Requirement(text) for text in distribution("darkroom").requires or ()]
    needed = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    differing = []
    for one in needed:
        try:
            found = version(one.name)
        except PackageNotFoundError:
            differing.append(f"{one.name} is missing")
        else:
            if not one.specifier.contains(found, prereleases=True):
                differing.append(f"{one.name} {found} is not {one.specifier}")
    if differing:
        return Finding("packages", "wrong", f"{', '.join(differing)}; run `make setup`")
    return Finding("packages", "ok", f"all {len(needed)} that darkroom needs are installed")


def _environment(root: Path) -> Finding:
    """Check that `dvc` runs the stages with this Python."""
    ready = root / ".venv" / ".ready"
    if ready.is_file() and (was := ready.read_text().strip()) != str(root):
        return Finding("environment", "wrong", f"the repository was moved from {was or 'elsewhere'}; run `make setup`")
    python = shutil.which("python3")
    own = root / ".venv" / "bin" / "python"
    if python and own.is_file():  # pipelines/__init__.py switches to it
        python = str(own)
    if python is None or Path(python).parent != Path(sys.executable).parent:
        return Finding(
            "environment",
            "wrong",
            f"`python3`, which runs the stages, is {python or 'not found'}, not {sys.executable}; activate the "
            f"environment: . {Path(sys.prefix) / 'bin' / 'activate'}",
        )
    return Finding("environment", "ok", f"stages run with {python}")


def _git(tree: Workspace) -> Finding:
    if shutil.which("git") is None:
        return Finding("git", "wrong", "git is not installed; install it with the package manager of the system")
    try:
        check_repository(tree)
        check_merges(tree.root)
    except DarkroomError as error:
        return Finding("git", "note", f"{error} (`dvc repro` works; `retrain --commit` and `dvc exp` do not)")
    return Finding("git", "ok", f"{shutil.which('git')}; it can commit here")


def _dvc(tree: Workspace) -> Finding:
    if not (tree.root / ".dvc").is_dir():
        return Finding("dvc", "wrong", f"{tree.root} has no .dvc directory; run `dvc init`")
    remote = tree.run([sys.executable, "-m", "dvc", "remote", "default"], shown="DVC", allowed=(0, 1))
    if remote.status:
        return Finding("dvc", "ok", f"{version('dvc')}; no remote: data and models stay on this machine")
    return Finding("dvc", "ok", f"{version('dvc')}; remote {remote.printed.strip()}")


def _disk(root: Path) -> Finding:
    free = shutil.disk_usage(root).free
    said = f"{free / 1e9:,.1f} GB are free in {root}; this repository takes {in_words(usage(root))}"
    return Finding("disk", "note" if free < LEAST_FREE else "ok", said)


def _gpu() -> Finding:
    if shutil.which("nvidia-smi") is None:
        return Finding("gpu", "ok", f"no NVIDIA driver; {usable_cores()} CPU cores are used")
    try:
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
            timeout=GPU_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return Finding("gpu", "note", f"nvidia-smi gave no answer in {GPU_SECONDS} s; the driver hangs: reboot")
    if asked.returncode:
        return Finding("gpu", "note", f"nvidia-smi failed ({asked.stdout.strip()}); until it works the CPU is used")
    cards = "; ".join(asked.stdout.strip().splitlines())
    try:
        version("nvidia-cudnn-cu12")
    except PackageNotFoundError:
        return Finding(
            "gpu", "note", f"{cards}; TensorFlow cannot use it yet: .venv/bin/uv pip install -r requirements-gpu.lock"
        )
    return Finding("gpu", "ok", cards)


def _store() -> Finding:
    from darkroom.tracking.artifacts import refuse_misplaced
    from darkroom.tracking.store import sqlite_file, tracking_uri

    uri = tracking_uri()
    if (file := sqlite_file(uri)) and not file.exists():
        return Finding("store", "ok", f"{redact(uri)}: the first `dvc repro` makes it")
    refuse_misplaced()
    return Finding("store", "ok", redact(uri))


def _registry(model: str) -> Finding:
    from darkroom.registry.check import check
    from darkroom.registry.versions import find, read
    from darkroom.tracking.store import registry_uri, sqlite_file

    if (file := sqlite_file(registry_uri())) and not file.exists():
        return Finding("registry", "ok", f"nothing is registered as {model} yet")
    read(model)  # raises only if the store does not answer
    try:
        champion = find(model, alias="champion")
    except RegistryError as error:
        return Finding("registry", "note", str(error))
    if found := check(model):
        more = f" (and {len(found) - 1} more)" if found[1:] else ""
        return Finding("registry", "note", f"{found[0].sentence}{more}; `darkroom registry-check` lists all")
    return Finding("registry", "ok", f"models:/{model}@champion is version {champion.version}")


def _mirror() -> Finding:
    folder = os.environ.get("DARKROOM_MIRROR")
    if folder is None:
        return Finding("mirror", "ok", "none: files come over the network; set DARKROOM_MIRROR to a directory of files")
    if not Path(folder).is_dir():
        return Finding("mirror", "wrong", f"DARKROOM_MIRROR is {folder}, not a directory; correct or unset it")
    return Finding("mirror", "ok", f"{folder}, {sum(1 for _ in Path(folder).iterdir())} files")
