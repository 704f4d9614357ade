from pathlib import Path

import pytest
from pydantic import Field

from darkroom.errors import ParamsError
from darkroom.params import Section, digest, load_section


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
        (("copies: 1", "copies: -1"), "augment.copies is -1: input should be greater than or equal to 0"),
        (("copies: 1", "copies: '1'"), "augment.copies is '1': input should be a valid integer"),
        (("size: 2", "size: 2, depth: 3"), "augment.nested has an unknown key 'depth'"),
        (("augment:", "augmentation:"), "there is no section 'augment'; sections here: augmentation"),
        ((GOOD, "augment: 3"), "augment is 3, expected a mapping"),
        ((GOOD, "- 1"), "expected sections"),
        ((GOOD, "augment: {"), "this is not YAML"),
    ],
)
def test_a_wrong_file_answers_with_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], message: str
) -> None:
    with pytest.raises(ParamsError, match="params.yaml") as caught:
        load(tmp_path, monkeypatch, GOOD.replace(*change))
    assert message in str(caught.value)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError, match="darkroom use mnist"):
        load_section("augment", Augment)


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
