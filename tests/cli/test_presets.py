"""A preset merged with the default: values, comments, and errors."""

from pathlib import Path

import pytest

from darkroom.cli import presets
from darkroom.errors import ParamsError

DEFAULT = """\
# The default.
#
#   command    darkroom use mnist

candidates: [cnn, transfer]       # what is trained

embed:
  image_size: [48, 48]            # pixels
  weights: imagenet               # or none

tune:
  trials: 6                       # per candidate
  space:                          # ranges
    cnn:
      learning_rate: {float: [0.05, 0.5]}
    transfer:
      learning_rate: {float: [0.1, 0.2]}
  study: null                     # its name

train:
  cnn:
    architecture:                 # the network
      name: compact
      filters: [32, 64]           # of each block
    optimizer:
      name: sgd                   # or adam
      momentum: 0.9
    seed: 7                       # of the weights

  transfer:
    seed: 7

promote:
  gates:
    champion:                     # the comparison
      margin: 0.0                 # may be lost
    max_difference: 0.00001       # of a probability
"""


def merged(root: Path, preset: str) -> str:
    (root / "presets").mkdir()
    (root / "presets" / "mnist.yaml").write_text(DEFAULT)
    (root / "presets" / "own.yaml").write_text(preset)
    return presets.text("own", root=root)


def test_a_preset_changes_what_it_names_and_keeps_comments(tmp_path: Path) -> None:
    preset = """\
# My own.
#
#   command    darkroom use own

train:
  cnn: # small

    architecture:
      name: fast
      groups: 3                   # of convolutions
    optimizer: {momentum: 0.6}
    seed: 8 # mine

embed: {image_size: auto}

promote:
  gates: {champion: null}
"""
    assert merged(tmp_path, preset) == (
        DEFAULT.replace("# The default.", "# My own.")
        .replace("use mnist", "use own")
        .replace("  cnn:\n    architecture", "  cnn: # small\n    architecture")
        .replace(
            "compact\n      filters: [32, 64]           # of each block",
            "fast\n      groups: 3                   # of convolutions",
        )
        .replace("momentum: 0.9", "momentum: 0.6")
        .replace("seed: 7                       # of the weights\n\n", "seed: 8                       # mine\n")
        .replace("[48, 48]            # pixels", "auto                # pixels")
        .replace(
            "champion:                     # the comparison\n      margin: 0.0                 # may be lost",
            "champion: null                # the comparison",
        )
    )


def test_the_default_is_written_as_it_is(tmp_path: Path) -> None:
    merged(tmp_path, "{}\n")
    assert presets.text("mnist", root=tmp_path) == DEFAULT


def test_an_architecture_of_the_same_network_is_merged(tmp_path: Path) -> None:
    text = merged(tmp_path, "train: {cnn: {architecture: {filters: [8]}}}\n")
    assert text == DEFAULT.replace("# The default.\n#\n#   command    darkroom use mnist\n\n", "").replace(
        "[32, 64]           # of", "[8]                # of"
    )


def test_a_preset_may_differ_from_another_than_the_default(tmp_path: Path) -> None:
    merged(tmp_path, "# Own.\n\ncandidates: [cnn]\nembed: {weights: none}\ntrain: {cnn: {seed: 8}}\n")
    (tmp_path / "presets" / "child.yaml").write_text("# Child.\n\nbase: own\ntrain: {cnn: {seed: 9}}\n")
    own, child = presets.text("own", root=tmp_path), presets.text("child", root=tmp_path)
    assert child == own.replace("# Own.", "# Child.").replace("seed: 8", "seed: 9")


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("own", r"own\.yaml: base is 'own', which leads back to this preset"),
        ("child", r"child\.yaml: base is 'own', which leads back to this preset"),
        ("minst", "there is no preset 'minst'; presets: child, mnist, own; did you mean 'mnist'"),
        ("3", "there is no preset 3; presets: child, mnist, own"),
    ],
)
def test_a_base_is_another_preset(tmp_path: Path, base: str, message: str) -> None:
    merged(tmp_path, "{}\n")
    (tmp_path / "presets" / "own.yaml").write_text(f"base: {base}\n")
    (tmp_path / "presets" / "child.yaml").write_text("base: own\n")
    with pytest.raises(ParamsError, match=message):
        presets.text("own", root=tmp_path)


def test_sections_of_train_and_tune_are_those_of_the_candidates(tmp_path: Path) -> None:
    merged(tmp_path, "candidates: [cnn, big]\ntrain: {big: {seed: 1}}\ntune: {space: {big: {seed: {int: [1, 9]}}}}\n")
    values = presets.read("own", root=tmp_path)
    assert list(values["train"]) == ["cnn", "big"]
    assert list(values["tune"]["space"]) == ["cnn", "big"]
    assert values["train"]["big"] == {"seed": 1}


def test_a_section_may_wait_for_its_candidate(tmp_path: Path) -> None:
    merged(tmp_path, "candidates: [transfer]\ntrain: {cnn: {seed: 8}}\n")
    values = presets.read("own", root=tmp_path)
    assert values["candidates"] == ["transfer"]
    assert list(values["train"]) == ["cnn", "transfer"]
    assert values["train"]["cnn"]["seed"] == 8
    assert list(values["tune"]["space"]) == ["transfer"]


def test_a_space_is_replaced_whole(tmp_path: Path) -> None:
    merged(tmp_path, "tune: {space: {cnn: {optimizer.momentum: {float: [0.4, 0.9]}}}}\n")
    space = presets.read("own", root=tmp_path)["tune"]["space"]
    assert space["cnn"] == {"optimizer.momentum": {"float": [0.4, 0.9]}}
    assert space["transfer"] == {"learning_rate": {"float": [0.1, 0.2]}}


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("trian: {}\n", "unknown section 'trian'; did you mean 'train'?"),
        ("embed: {size: 3}\n", "embed has an unknown key 'size'; known keys: image_size, weights"),
        ("train: {cnn: {optimizer: {momentun: 0.6}}}\n", "train.cnn.optimizer has an unknown key 'momentun'; did you"),
        ("candidates: [cnn]\ntrain: {big: {seed: 8}}\n", "train has an unknown key 'big'; known keys: cnn"),
        ("candidates: cnn\n", "candidates is 'cnn': expected a list of sections of train"),
        ("train: [\n", "not valid YAML: "),
        ("# nothing but a head\n", "expected sections"),
    ],
)
def test_a_mistake_is_answered_with_the_file(tmp_path: Path, preset: str, message: str) -> None:
    with pytest.raises(ParamsError) as caught:
        merged(tmp_path, preset)
    assert str(caught.value).startswith(f"{tmp_path / 'presets' / 'own.yaml'}: {message}")
