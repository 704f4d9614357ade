"""A PostgreSQL server of the tests' own, on loopback, from the programs that are installed."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CANDIDATES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


@dataclass(frozen=True)
class Server:
    """A running server; everybody on this machine may connect as user postgres."""

    port: int

    def url(self, name: str) -> str:
        """The URL of a database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def database(self, name: str) -> str:
        """Create a database and return its URL."""
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)


def program(name: str) -> str | None:
    """The path of one of PostgreSQL's programs; Debian keeps them off the PATH."""
    return next((str(folder / name) for folder in CANDIDATES if (folder / name).is_file()), shutil.which(name))


@contextmanager
def running() -> Iterator[Server]:
    """A new server with empty data, gone afterwards. It refuses to run as root: then it runs as nobody."""
    initdb, postgres = program("initdb"), program("postgres")
    assert initdb is not None
    assert postgres is not None
    user = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    owner = {"user": user.pw_uid, "group": user.pw_gid} if os.getuid() == 0 else {}
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="darkroom-postgres-", dir="/tmp") as folder:
        os.chown(folder, user.pw_uid, user.pw_gid)
        data = f"{folder}/data"
        make = [initdb, "--pgdata", data, "--username", "postgres", "--auth", "trust", "--no-sync"]
        subprocess.run(make, check=True, capture_output=True, cwd=folder, **owner)  # type: ignore[call-overload]
        options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
        server = subprocess.Popen(  # type: ignore[call-overload]
            [postgres, "-D", data, "-p", str(port), *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            **owner,
        )
        try:
            _wait_until_ready(port, server)
            yield Server(port)
        finally:
            server.send_signal(signal.SIGINT)  # without waiting for clients, which SIGTERM would
            server.wait()


def _wait_until_ready(port: int, server: "subprocess.Popen[bytes]") -> None:
    import psycopg

    while True:
        assert server.poll() is None, "PostgreSQL has ended"
        try:
            psycopg.connect(Server(port).url("postgres"), connect_timeout=5).close()
            return
        except psycopg.OperationalError:
            continue
