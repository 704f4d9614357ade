"""Descriptions of datasets, in the catalogue or inline."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from darkroom.data.download.catalogue import Dataset, Layout, find_dataset, read_catalogue
from darkroom.errors import ParamsError

FILE = {"name": "a.zip", "sha256": "0" * 64}
URL: dict[str, Any] = {"kind": "url", "layout": "folders", "files": [{**FILE, "url": "https://data.invalid/a.zip"}]}
NPM: dict[str, Any] = {
    "kind": "npm",
    "package": "a",
    "version": "1.0.0",
    "layout": "idx",
    "files": [{**FILE, "member": "package/a"}],
}

PATH = {"kind": "path", "path": "mine.zip", "layout": "folders"}


def entry(source: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"name": "mine", "sources": [{**source, **changes}]}


def test_a_name_of_the_catalogue_stands_for_its_entry() -> None:
    mnist = find_dataset("mnist")
    assert [source.kind for source in mnist.sources] == ["url", "npm"]
    assert [source.layout.kind for source in mnist.sources] == ["npz", "idx"]


@pytest.mark.parametrize(
    ("name", "hint"), [("minst", "did you mean 'mnist'? "), ("CIFAR-10", "did you mean 'cifar10'? "), ("svhn!", "")]
)
def test_an_unknown_name_is_answered_with_the_near_ones(name: str, hint: str) -> None:
    known = ", ".join(sorted(read_catalogue()))
    message = f"download.dataset is {name!r}, which is not in the catalogue; {hint}known: {known}; or give a mapping"
    with pytest.raises(ParamsError, match=re.escape(message)):
        find_dataset(name)


@pytest.mark.parametrize("source", [URL, NPM, PATH])
def test_the_entries_that_the_tests_change_make_sense(source: dict[str, Any]) -> None:
    assert Dataset.model_validate(entry(source)).sources[0].kind == source["kind"]


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"kind": "table"}, r"names its table: {kind: table, table: labels.csv}"),
        ({"kind": "coco"}, r"names its table: {kind: coco, table: labels.json}"),
        ({"kind": "folders", "table": "labels.csv"}, "kind folders has no table; it has root, level, skip"),
        ({"kind": "table", "table": "a.csv", "level": 2}, "kind table has no level; it has table, root, path_column, "),
        ({"kind": "npz", "root": "x"}, "kind npz has no root; it has classes"),
    ],
)
def test_a_layout_has_the_keys_of_its_kind(layout: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Layout.model_validate(layout)


def test_several_tables_may_be_named() -> None:
    for table in ("labels.csv", ["train.csv", "test.csv"]):
        assert Layout.model_validate({"kind": "table", "table": table}).table == table


def test_the_sources_of_a_union_differ() -> None:
    parts = [PATH, {**PATH, "path": "yours"}]
    assert Dataset.model_validate({"name": "all", "union": True, "sources": parts}).union
    for wrong, message in (
        ([PATH, PATH], "two sources of the union are the same; remove one"),
        ([PATH, {**PATH, "holds": "x"}], "cannot be part of a union; remove one of the two"),
    ):
        with pytest.raises(ValidationError, match=message):
            Dataset.model_validate({"name": "all", "union": True, "sources": wrong})


def test_a_layout_may_be_one_word() -> None:
    short = Dataset.model_validate(entry(URL))
    assert short == Dataset.model_validate(entry(URL, layout={"kind": "folders"}))


@pytest.mark.parametrize(
    "wrong",
    [
        {**entry(URL), "name": "my pictures"},
        {**entry(URL), "sources": []},
        {**entry(URL), "home": "x"},
        entry(URL, kind="ftp"),
        entry(URL, layout="webdataset"),
        entry(URL, layout={"kind": "idx", "classes": ["a"]}),
        entry(URL, layout={"kind": "idx", "classes": ["a", "A"]}),
        entry(URL, layout={"kind": "idx", "classes": ["caf\u00e9", "Cafe\u0301"]}),
        entry(URL, layout={"kind": "idx", "classes": ["T-shirt/top", "b"]}),
        entry(URL, files=[]),
        entry(URL, files=[{**URL["files"][0], "url": "file:///etc/passwd"}]),
        entry(URL, files=[{**URL["files"][0], "sha256": "0" * 63}]),
        entry(URL, files=[{**URL["files"][0], "bytes": 0}]),
        *(entry(URL, files=[{**URL["files"][0], "name": name}]) for name in ("", "../a", "a/b", ".a", "manifest.json")),
        *(entry(PATH, path=path) for path in ("", "manifest.json", "mine/Manifest.json")),
        entry(PATH, holds="my pictures"),
        *(entry(NPM, package=name) for name in ("--registry=x", "file:x", "git+ssh://x", "a b", "../a")),
        *(entry(NPM, version=version) for version in ("latest", "^1.0.0", "1.0.0 --x", "1.0")),
    ],
)
def test_entries_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Dataset.model_validate(wrong)
