"""Follow an alias: poll it and switch to its version without dropping requests."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from darkroom.errors import DarkroomError
from darkroom.registry.snapshot import SHA256, Version
from darkroom.serving.downloads import remove_others
from darkroom.serving.limits import Log
from darkroom.serving.messages import Facts
from darkroom.serving.pool import Pool

RETRY_SECONDS = 60.0  # until a version that could not be loaded is tried again, because hashing its files is expensive


@dataclass(frozen=True, eq=False)
class Served:
    """A version, its facts, and its workers.

    Attributes:
        explaining: the worker that explains its answers; None without --explain.
    """

    version: Version
    facts: Facts
    pool: Pool
    explaining: Pool | None = None
    since: datetime = field(default_factory=lambda: datetime.now(UTC))


class Follower:
    """Keeps `served` at the version under the alias. The old version is kept until its last request is answered.

    Args:
        find: returns the version under the alias.
        load: loads it.
        retire: called with a version that gets no more requests.
        log: called with (event, message, **more) when something changed; it must not raise.
        seconds: between two polls of the registry.

    Attributes:
        served: the version that answers now.
        problem: why it is not, or may not be, the version under the alias; None: it is.
        read: when the registry was last read, in seconds since 1970.
    """

    def __init__(
        self,
        *,
        find: Callable[[], Version],
        load: Callable[[Version], Served],
        retire: Callable[[Served], None],
        log: Log,
        seconds: float,
    ) -> None:
        self._find = find
        self._load = load
        self._retire = retire
        self._log = log
        self._seconds = seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._refused: tuple[Version, float] | None = None  # and when
        self._unreadable = False
        self.problem: str | None = None
        self.served = load(find())
        self.read = time.time()

    def start(self) -> None:
        """Start polling the registry, on a thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop polling."""
        self._ended.set()

    def look(self) -> None:
        """Read the registry once, and switch to another version if necessary."""
        try:
            version = self._find()
        except DarkroomError as error:
            self._unreadable = True
            self._say_problem("registry_unreadable", str(error))
            return
        self.read = time.time()
        if self._unreadable:
            self._unreadable = False
            self._log("registry_readable", "the registry can be read again")
        if _content(version) == _content(self.served.version):
            self._refused, self.problem = None, None
            return
        if self._refused and self._refused[0] == version and time.monotonic() - self._refused[1] < RETRY_SECONDS:
            return
        try:
            loaded = self._load(version)
        except Exception as error:  # the version's own code may raise anything; the old version continues
            self._refused = (version, time.monotonic())
            self._say_problem("version_refused", str(error))
            return
        before, self.served = self.served, loaded  # one assignment; a request reads it once
        self._retire(before)
        self._refused, self.problem = None, None
        message = f"now serving version {version.version}, previously {before.version.version}"
        if version.version == before.version.version:
            message = f"now serving version {version.version} as it was registered again under this number"
        self._log("version_taken", message, version=version.version, before=before.version.version)
        remove_others(version, before.version)

    def _say_problem(self, event: str, message: str) -> None:
        problem = f"{' '.join(message.split())}; still serving version {self.served.version.version}"
        known, self.problem = self.problem, problem
        if problem != known:
            self._log(event, problem)

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            try:
                self.look()
            except Exception as error:  # the thread must not end
                self._unreadable = True
                self._say_problem("look_failed", f"{type(error).__name__}: {error}")


def _content(version: Version) -> tuple[object, ...]:
    """Return the identity of a version: the number of a deleted one may be reused."""
    sums = {key: value for key, value in version.tags.items() if key.startswith(SHA256)}
    return version.version, version.run_id, version.location, sums
