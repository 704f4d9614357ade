from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field
from ruamel.yaml import YAML

from darkroom.errors import ParamsError
from darkroom.project.params import SECTIONS, ComputeParams, Section, digest, load_candidates, load_section
from tests.support.project import ROOT


class Nested(Section):
    size: int


class Augment(Section):
    copies: int = Field(ge=0)
    seed: int
    rate: float
    nested: Nested


GOOD = "augment:\n  copies: 1\n  seed: 7\n  rate: 1e-3\n  nested: {size: 2}\n"


def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Augment:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(text)
    return load_section("augment", Augment)


def test_a_section_becomes_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = load(tmp_path, monkeypatch, GOOD)
    assert (section.copies, section.nested.size) == (1, 2)
    assert section.rate == 0.001, "1e-3 without a dot is a number, not a string"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("seed: 7", "seed: 7\n  flip_prob: 0.5"),
            "augment has an unknown key 'flip_prob'; known keys: copies, nested, rate, seed",
        ),
        (("  seed: 7\n", ""), "augment lacks the key 'seed'"),
        (
            ("copies: 1\n  seed: 7", "copy: 1\n  sead: 7"),
            "augment has the unknown keys 'copy', 'sead' and lacks the keys ",
        ),
        (
            ("  copies: 1\n  seed: 7\n  rate: 1e-3\n  nested: {size: 2}", "  rate: x\n  nested: {siz: 2}"),
            "augment.nested has an unknown key 'siz' and lacks the key 'size'; known keys: size; augment lacks the "
            "keys 'copies', 'seed'; augment.rate is 'x': input should be a valid number",
        ),
        (("copies: 1", "copies: -1"), "augment.copies is -1: input should be greater than or equal to 0"),
        (("copies: 1", "copies: '1'"), "augment.copies is '1': input should be a valid integer"),
        (("1e-3", ".inf"), "augment.rate is inf: input should be a finite number"),
        (("1e-3", ".nan"), "augment.rate is nan: input should be a finite number"),
        (("size: 2", "size: 2, depth: 3"), "augment.nested has an unknown key 'depth'; known keys: size"),
        (
            ("augment:", "augmentation:"),
            "unknown section 'augmentation'; known sections: candidates, download, preprocess, augment, "
            "embed, tune, train, evaluate, promote, retrain, compute",
        ),
        (("augment:", "compute: {}\n3:"), "unknown section '3'"),
        (("augment:", "train:"), "section 'augment' is missing; sections found: train"),
        ((GOOD, "augment: 3"), "augment is 3, expected a mapping"),
        ((GOOD, "- 1"), "expected sections"),
        ((GOOD, "augment: {"), "not valid YAML"),
    ],
)
def test_a_wrong_file_answers_with_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], message: str
) -> None:
    with pytest.raises(ParamsError, match="params.yaml") as caught:
        load(tmp_path, monkeypatch, GOOD.replace(*change))
    assert message in str(caught.value)


def test_the_known_sections_are_the_stages_and_three_more() -> None:
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    assert set(SECTIONS) == {"candidates", *stages, "retrain", "compute"} - {"check"}, "check reads them all"


def candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **values: Any) -> list[str]:
    monkeypatch.chdir(tmp_path)
    YAML().dump(values, Path("params.yaml"))
    return load_candidates()


def test_candidates_come_in_the_order_of_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = candidates(tmp_path, monkeypatch, candidates=["transfer", "cnn"], train={"cnn": {}, "transfer": {}})
    assert named == ["transfer", "cnn"], "a section of train that is not named is no candidate"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": {"cnn": {}}}, "'candidates' is missing: expected a list of sections of train, such as [cnn]"),
        ({"candidates": [], "train": {"cnn": {}}}, "candidates is []: expected a list"),
        ({"candidates": "cnn", "train": {"cnn": {}}}, "candidates is 'cnn': expected a list"),
        ({"candidates": [1], "train": {1: {}}}, "candidates is [1]: expected a list"),
        ({"candidates": ["cnn", "cnn"], "train": {"cnn": {}}}, "candidates names 'cnn' twice"),
        ({"candidates": ["../cnn"], "train": {"../cnn": {}}}, "candidates names '../cnn': expected only letters"),
        (
            {"candidates": ["transfr"], "train": {"cnn": {}, "transfer": {}}},
            "candidates names 'transfr', but train has no such section; sections of train: cnn, transfer; "
            "did you mean 'transfer'?",
        ),
        ({"candidates": ["cnn"]}, "but train has no such section; sections of train: none"),
        ({"candidate": ["cnn"]}, "unknown section 'candidate'; known sections: candidates, download"),
    ],
)
def test_wrong_candidates_are_answered_with_what_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParamsError, match=r"^params\.yaml: ") as caught:
        candidates(tmp_path, monkeypatch, **values)
    assert message in str(caught.value)


def test_every_stage_refuses_candidates_without_a_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"candidates: [cnn, cn]\n{GOOD}train: {{cnn: {{}}}}\n"
    with pytest.raises(ParamsError, match="candidates names 'cn', but train has no such section"):
        load(tmp_path, monkeypatch, text)


class Wide(Section):
    name: Literal["wide"]
    width: int | Literal["all"]


class Deep(Section):
    name: Literal["deep"]
    depth: int


class Train(Section):
    network: Annotated[Wide | Deep, Field(discriminator="name")]
    rest: Annotated[list[Annotated[Wide | Deep, Field(discriminator="name")]], Field(min_length=1)] | None
    either: Nested | int
    named: dict[str, Nested | None]


TRAIN: dict[str, Any] = {
    "network": {"name": "wide", "width": 3},
    "rest": [{"name": "deep", "depth": 1}],
    "either": 1,
    "named": {"a": None},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": {"name": "wide", "width": "x"}}, "train.network.width is 'x': expected a valid integer or 'all'"),
        ({"network": {"name": "wide"}}, "train.network lacks the key 'width'; known keys: name (wide), width"),
        (
            {"network": {"name": "deep", "depth": 1, "width": 1}},
            "train.network has an unknown key 'width'; known keys: name (deep), depth (integer)",
        ),
        ({"network": {"name": "flat"}}, "train.network.name is 'flat': expected one of 'wide', 'deep'"),
        (
            {"network": {"name": "dep"}},
            "train.network.name is 'dep': expected one of 'wide', 'deep'; did you mean 'deep'?",
        ),
        ({"network": {}}, "train.network lacks the key 'name'"),
        ({"rest": [{"name": "deep", "depth": "1"}]}, "train.rest.0.depth is '1': input should be a valid integer"),
        (
            {"rest": [{"name": "wide", "wide": 1}]},
            "train.rest.0 has an unknown key 'wide' and lacks the key 'width'; known",
        ),
        ({"either": {"size": 1, "siz": 1}}, "train.either has an unknown key 'siz'; known keys: size"),
        ({"named": {"b": {"c": 1}}}, "train.named.b has an unknown key 'c' and lacks the key 'size'; known keys: size"),
        ({"named": {0: None}}, "train.named has the key 0: expected text; put it in quotes"),
        ({"named": {"b": {"size": "x"}}}, "train.named.b.size is 'x': input should be a valid integer"),
        ({"either": {"size": "x"}}, "train.either.size is 'x': input should be a valid integer"),
        ({"rest": []}, "train.rest is []: input should be a list of at least 1 item"),
        ({"network": "wide"}, "train.network is 'wide': input should be a mapping of keys to values"),
        ({"either": "x"}, "train.either is 'x': expected a mapping of keys to values or a valid integer"),
        ({"named": {"b": "x" * 1000}}, f"train.named.b is '{'x' * 199}...: input should be"),
    ],
)
def test_what_pydantic_adds_to_a_place_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    YAML().dump({"train": TRAIN}, Path("params.yaml"))
    assert load_section("train", Train).either == 1
    YAML().dump({"train": TRAIN | change}, Path("params.yaml"))
    with pytest.raises(ParamsError) as caught:
        load_section("train", Train)
    assert str(caught.value).startswith(f"params.yaml: {message}")


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        ("all", "compute.workers is 'all': expected a valid integer or 'auto'"),
        (0, "compute.workers is 0: expected greater than or equal to 1 or 'auto'"),
    ],
)
def test_a_value_of_a_wrong_type_is_answered_with_all_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int | str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    YAML().dump(
        {"compute": {"backend": "auto", "cluster": None, "workers": workers, "device": "auto"}}, Path("params.yaml")
    )
    with pytest.raises(ParamsError) as caught:
        load_section("compute", ComputeParams)
    assert str(caught.value) == f"params.yaml: {message}"


@pytest.mark.parametrize(
    ("backend", "cluster", "message"),
    [
        ("spark", None, "compute.backend is 'spark': input should be 'auto', 'threading', 'loky' or 'ray'"),
        ("ray", 10001, "compute.cluster is 10001: input should be a valid string"),
        ("ray", "", "compute.cluster is '': string should have at least 1 character"),
        ("loky", "host:6379", "compute.cluster is 'host:6379': expected null, because compute.backend loky works on"),
    ],
)
def test_a_cluster_is_an_address_of_a_backend_that_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, cluster: object, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    section = {"backend": backend, "cluster": cluster, "workers": "auto", "device": "auto"}
    YAML().dump({"compute": section}, Path("params.yaml"))
    with pytest.raises(ParamsError) as caught:
        load_section("compute", ComputeParams)
    assert str(caught.value).startswith(f"params.yaml: {message}")


def test_a_missing_file_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError, match="darkroom use mnist"):
        load_section("augment", Augment)


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
