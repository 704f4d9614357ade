"""Run DVC and git on this repository, with their output logged and errors in one line."""

import os
import sys
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path

from darkroom.errors import LockedError, TrainingError
from darkroom.operations.logged_run import Ended, run_logged

INCOMING = Path("data/incoming")
LOCK = "dvc.lock"
BUSY = ("Unable to acquire lock", "it is being blocked by")  # DVC's messages
ANY = range(256)  # exit statuses


class Workspace:
    """The work tree at `root`.

    Args:
        root: of the repository.
        log: the output of the commands is appended to this file.
        variables: environment variables for the commands, besides those of this process.
        on_start: called with the id of each process.
        on_look: called repeatedly while a process runs, and once afterwards.
    """

    def __init__(
        self,
        root: Path,
        *,
        log: Path,
        variables: Mapping[str, str] | None = None,
        on_start: Callable[[int], None] | None = None,
        on_look: Callable[[], None] | None = None,
    ) -> None:
        self.root = root
        self.log = log
        # Stages are started by name, but cron and systemd have no activated environment.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        # Nobody can answer git's questions, and its messages are parsed.
        self._environment = {**os.environ, "PATH": path, "GIT_TERMINAL_PROMPT": "0", "LANGUAGE": "en"}
        self._environment |= variables or {}
        self._on_start = on_start
        self._on_look = on_look

    def dvc(self, *arguments: str, echo: bool = True) -> Ended:
        """Run a command of DVC and show its output, unless `echo` is false; see run."""
        return self.run([sys.executable, "-m", "dvc", *arguments], shown="dvc", echo=echo)

    def git(self, *arguments: str, allowed: Container[int] = (0,)) -> Ended:
        """Run a command of git; see run."""
        return self.run(["git", "-c", "core.quotePath=false", *arguments], shown="git", allowed=allowed)

    def run(self, command: Sequence[str], *, shown: str, allowed: Container[int] = (0,), echo: bool = False) -> Ended:
        """Run a command and return its status and output.

        Args:
            shown: its name in errors.
            allowed: the exit statuses that are not errors.
            echo: whether to show its output on stderr too.

        Raises:
            LockedError: another DVC command is running here.
            TrainingError: it ended with another status.
        """
        ended = run_logged(
            command,
            cwd=self.root,
            log=self.log,
            environment=self._environment,
            on_start=self._on_start,
            on_look=self._on_look,
            echo=echo,
        )
        if ended.status in allowed:
            return ended
        if any(words in ended.printed for words in BUSY):
            raise LockedError(f"{shown}: another DVC command is running here; try again later")
        called = " ".join([shown, *command[3:]])
        raise TrainingError(
            f"`{called}` failed with exit code {ended.status}: {ended.last_error}; its output is in {self.log}"
        )

    def stage_incoming(self) -> None:
        """Stage the .dvc files of new images in git."""
        if names := self._incoming():
            self.git("add", "--", *names)

    def unstage(self, names: Sequence[str]) -> None:
        """Unstage these files; without a git repository nothing happens."""
        if names:
            self.git("reset", "--quiet", "--", *names, allowed=ANY)

    def committed(self, names: Sequence[str]) -> set[str]:
        """Return which of these files equal those of the checked-out commit; none without a git repository."""
        listed = self.git("ls-tree", "--name-only", "HEAD", "--", *names, allowed=ANY)
        changed = self.git("diff", "--name-only", "HEAD", "--", *names, allowed=ANY)
        if listed.status or changed.status:
            return set()
        return {*listed.printed.splitlines()} - {*changed.printed.splitlines()}

    def commit(self, message: str) -> str | None:
        """Commit only dvc.lock and the .dvc files of new images; return the commit, None if nothing has changed."""
        paths = [name for name in (LOCK, (INCOMING / ".gitignore").as_posix()) if (self.root / name).exists()]
        paths += self._incoming()
        self.git("add", "--", *paths)
        if self.git("diff", "--cached", "--quiet", "--", *paths, allowed=(0, 1)).status == 0:
            return None
        self.git("commit", "--quiet", "--message", message, "--", *paths)
        return self.head()

    def head(self) -> str:
        """Return the checked-out commit."""
        return self.git("rev-parse", "HEAD").printed.strip()

    def contains(self, commit: str, *, within: str = "HEAD") -> bool:
        """Return whether a commit is `within` or one of its ancestors; False for unknown commits."""
        return self.git("merge-base", "--is-ancestor", commit, within, allowed=ANY).status == 0

    def _incoming(self) -> list[str]:
        return [(INCOMING / path.name).as_posix() for path in sorted((self.root / INCOMING).glob("*.dvc"))]
