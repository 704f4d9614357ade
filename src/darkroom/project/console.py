"""Path arguments, log lines, one-line errors and exit codes of stages and commands."""

import argparse
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, cast

from dotenv import load_dotenv

from darkroom.errors import DarkroomError
from darkroom.project.repository import repository_root
from darkroom.project.stage_runs import current_stage, last_run, timed
from darkroom.project.text import escaped

if TYPE_CHECKING:
    from tqdm import tqdm

NOT_FOR_KERAS = ("jax", "matplotlib", "pandas", "sklearn")


def stage_paths(description: str | None, *names: str) -> argparse.Namespace:
    """Return the stage's paths from the command line: one required option `--name` per name, each a Path.

    dvc.yaml is the only place where a path is chosen, so there are no defaults.
    """
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    for name in names:
        parser.add_argument(f"--{name.replace('_', '-')}", required=True, type=Path, metavar="PATH")
    return parser.parse_args()


_last_line = ""


def say(message: str) -> None:
    """Write one line for a person to stderr; stdout is for machine-readable output."""
    global _last_line
    _last_line = message
    print(message, file=sys.stderr, flush=True)


def progress(items: Iterable[Any] | None = None, *, total: int | None = None, unit: str = "image") -> "tqdm[Any]":
    """Return a progress bar that counts items or is moved by `update`; it is shown on a terminal only."""
    from tqdm import tqdm

    shown = sys.stderr.isatty()
    return tqdm(items, total=total, unit=unit, leave=False, dynamic_ncols=True, disable=not shown)


class _Stream:
    """Python's stderr while descriptor 2 is silenced and afterwards, because log handlers keep a reference to it."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def native_stderr_silenced() -> Iterator[None]:
    """Keep what C libraries print away from the user; Python's own stderr stays. DARKROOM_DEBUG=1 shows all.

    libjpeg and similar libraries write a line per broken file, TensorFlow two screens of notices while it loads, all
    directly to file descriptor 2, some before any logging setting is read.
    """
    if os.environ.get("DARKROOM_DEBUG"):
        yield
        return
    terminal, python = os.dup(2), sys.stderr
    silence = os.open(os.devnull, os.O_WRONLY)
    python.flush()
    try:
        with os.fdopen(os.dup(terminal), "w", encoding=python.encoding, errors="backslashreplace") as kept:
            stream = _Stream(python)
            with suppress(OSError, ValueError):  # a stderr that is not a file, as in some tests, needs no change
                stream.stream = kept if python.fileno() == 2 else python
            sys.stderr = cast(TextIO, stream)
            os.dup2(silence, 2)
            try:
                yield
            finally:
                stream.stream = python
    finally:
        sys.stderr = python
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(silence)


@contextmanager
def loading_keras() -> Iterator[None]:
    """Import Keras, on TensorFlow if KERAS_BACKEND is not set, in about half of the CPU time and without notices.

    Neither the garbage collector runs meanwhile, nor are packages found that Keras imports only to support them.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    hidden = [name for name in NOT_FOR_KERAS if name not in sys.modules and name != backend]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: an import of it fails
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        with native_stderr_silenced():
            yield
    finally:
        if was_enabled:
            gc.enable()
        for name in hidden:
            del sys.modules[name]


def run(main: Callable[[], None]) -> NoReturn:
    """Call main and exit: 0 when done, the error's own code with one line on stderr, 143 on SIGTERM, 130 on Ctrl-C.

    SIGTERM is raised as SystemExit inside main, so that open runs are closed and temporary files removed.
    Variables of a `.env` file at the root of the repository are set first: DVC starts stages without the user's shell
    profile. Set DARKROOM_DEBUG=1, or pass --debug, for the traceback.
    """
    load_dotenv(repository_root() / ".env")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        _run_stage(main) if current_stage() else main()
    except DarkroomError as error:
        if "--debug" in sys.argv or os.environ.get("DARKROOM_DEBUG"):
            raise
        say(f"error: {escaped(' '.join(str(error).split()))}")
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader has closed the pipe: `darkroom predict ... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(0)
    except OSError as error:  # a full or read-only disk, missing permissions
        if "--debug" in sys.argv or os.environ.get("DARKROOM_DEBUG"):
            raise
        say(f"error: {escaped(str(error.filename or 'a file'))}: {error.strerror or error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def _run_stage(main: Callable[[], None]) -> None:
    """Print what the stage is going to do and how long it took last time, and run it."""
    stage, root = str(current_stage()), repository_root()
    purpose = (sys.modules["__main__"].__doc__ or stage).partition("\n")[0].rstrip(".")
    before = last_run(stage, root=root)
    say(f"{purpose}{f' ({before.seconds:.0f} s last time)' if before else ''}")
    opening = _last_line
    try:
        timed(stage, main, root=root, said=lambda: _last_line if _last_line != opening else "")
    except KeyboardInterrupt:
        say(f"interrupted; the next `dvc repro` goes on with {stage}")
        raise


def _terminate(signum: int, _frame: object) -> NoReturn:
    sys.exit(128 + signum)
