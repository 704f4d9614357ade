"""Record the result of a benchmark with its machine, versions and command."""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from darkroom.errors import DarkroomError

RESULTS = Path(__file__).parent / "results"
SURROUNDINGS = ("command", "commit", "machine", "python", "versions")


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/NAME.json")
    return parser


def find_mirror(benchmark: str, *files: str) -> Path | None:
    """Return the directory DARKROOM_MIRROR; None, with a line on stderr, if it lacks a file that the benchmark needs.

    A benchmark then ends without an error, so that `make bench` continues with the others. The variable becomes
    absolute, because a relative path would be relative to the clone.
    """
    folder = Path(os.environ.get("DARKROOM_MIRROR", ".")).resolve()
    if not all((folder / name).is_file() for name in files):
        print(f"{benchmark}: skipped; put {' and '.join(files)} into DARKROOM_MIRROR", file=sys.stderr)
        return None
    os.environ["DARKROOM_MIRROR"] = str(folder)
    return folder


def run(main: Callable[[], int]) -> NoReturn:
    """Call main and exit with its result, or with the code of an error of Darkroom and one line on stderr.

    console.run does more, and needs more packages than training does.
    """
    try:
        sys.exit(main())
    except DarkroomError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def processor() -> str:
    """Return the processor's name and how many cores of it this process may use."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(os.sched_getaffinity(0))} cores"


def git_commit() -> str:
    """Return the commit, like tracking.provenance, whose module needs more packages than training does."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository: a copied folder
        return "unknown"


COMMIT = git_commit()  # at the start: commits may follow while a benchmark runs


def report(
    name: str,
    result: dict[str, Any],
    *,
    packages: list[str],
    save: bool,
    file: str | None = None,
    parts: Collection[str] = (),
) -> None:
    """Print a benchmark's result with its environment as JSON, and save it if requested.

    Args:
        name: of the benchmark.
        result: the measured values, units in their names.
        packages: distributions whose versions are recorded.
        save: whether to write the file.
        file: its name in benchmarks/results, without .json; None: that of the benchmark.
        parts: keys of the result that a run may omit. Omitted parts are kept as recorded before, and `earlier`
            says by which command, at which commit, where.
    """
    record = {
        "command": f"python -m benchmarks.{name} {' '.join(sys.argv[1:])}".strip(),
        "commit": COMMIT,
        "machine": processor(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
        **result,
    }
    text = json.dumps(record, indent=2)
    print(text)
    if save:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{file or name}.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(with_earlier(record, before, parts=parts), indent=2) + "\n")


def with_earlier(record: dict[str, Any], before: dict[str, Any], *, parts: Collection[str]) -> dict[str, Any]:
    """Return the record with its missing parts taken from the previous record, and their origin."""
    taken = {name: before[name] for name in parts if name in before and name not in record}
    if not taken:
        return record
    source = {name: before[name] for name in SURROUNDINGS}
    origins = {name: before.get("earlier", {}).get(name, source) for name in taken}
    return {**record, **taken, "earlier": origins}
