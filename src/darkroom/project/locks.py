"""Lock files of this repository, and who this process is."""

import getpass
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from darkroom.errors import LockedError
from darkroom.project.repository import repository_root


@contextmanager
def store_lock(name: str, *, timeout: float = 60.0, root: Path | None = None) -> Iterator[None]:
    """Hold the lock file .darkroom/<name>.lock; the kernel frees it when its holder dies.

    Args:
        timeout: seconds to wait for it.
        root: the directory of .darkroom; None: the repository.

    Raises:
        LockedError: another process still held it after `timeout` seconds.
    """
    from filelock import FileLock, Timeout

    path = (root or repository_root()) / ".darkroom" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=timeout):
            yield
    except Timeout:
        message = f"{path} was held by another process for {timeout:.0f} s; try again later"
        raise LockedError(message) from None


def whoami() -> str:
    """Return user@host of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for its user id
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
