"""What the README says is held against the files it speaks of."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet
from typer.main import get_command

from darkroom.cli import main
from darkroom.networks.architectures.sizes import RULES
from darkroom.networks.backbones.table import BACKBONES
from tests.support.project import ROOT

README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "benchmarks" / "results"


def result(name: str) -> dict[str, Any]:
    return dict(json.loads((RESULTS / f"{name}.json").read_text()))


def commands(program: str) -> set[str]:
    """The words that follow a program's name wherever the README shows a command."""
    code = "\n".join([*re.findall(r"`([^`\n]+)`", README), *re.findall(r"```\n(.*?)```", README, re.DOTALL)])
    return set(re.findall(rf"(?:^|&& ){program} ([a-z-]+)", code, re.MULTILINE))


@pytest.mark.parametrize(
    ("benchmark", "preset", "seconds"),
    [
        ("mnist", "mnist", "train_seconds"),
        ("mnist", "mnist-article", "train_seconds"),
        ("cifar10", "cifar10", "train_seconds"),
        ("cifar10", "cifar10-article", "train_seconds"),
        ("cats_vs_dogs", "cats-vs-dogs", None),
        ("cats_vs_dogs", "cats-vs-dogs-article", "train_seconds"),
    ],
)
def test_the_first_screen_shows_what_was_measured(benchmark: str, preset: str, seconds: str | None) -> None:
    measured = result(benchmark)
    (row,) = (line for line in README.split("\n```")[0].splitlines() if f"`{preset}`" in line)
    accuracy = measured[preset].get("deployed_test_accuracy") or measured[preset]["test_accuracy"]
    assert f"{100 * accuracy:.1f} %" in row
    spent = measured[preset][seconds] if seconds else measured["embed_and_train_seconds"]
    assert f"| {spent:,.0f} s" in row
    assert "2 CPU cores" in README
    assert measured["machine"].endswith("2 cores")


def test_the_duration_of_make_run_is_the_measured_one() -> None:
    minutes = result("fresh_clone")["make_run_seconds_with_setup"] / 60
    assert f"{minutes:.1f} minutes" in README


def test_the_comparison_of_tuners_is_the_measured_one() -> None:
    found = json.loads((RESULTS / "tuning_peers.json").read_text())
    pattern = r"`tune` ends .*? has ([\d.]+) %.*?Hyperband with ([\d.]+) %, AutoKeras with ([\d.]+) %"
    said = re.search(pattern, README, re.S)
    assert said
    measured = [f"{100 * found[side]['val_accuracy']:.1f}" for side in ("darkroom", "keras-tuner", "autokeras")]
    assert list(said.groups()) == measured


def test_the_flow_shows_every_stage_in_the_order_of_dvc_yaml() -> None:
    (flow,) = (block for block in README.split("```") if "─►" in block)
    stages = re.findall(r"^  (\w+):$", (ROOT / "dvc.yaml").read_text().split("\nplots:")[0], re.MULTILINE)
    shown = re.findall(rf"\b(?:{'|'.join(stages)})\b", flow.splitlines()[1])
    assert shown == stages


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"run", "ui", "test", "test-fast", "bench"} <= commands("make") <= targets


@pytest.mark.parametrize(("minor", "is_right"), [(10, False), (11, True), (13, True), (14, False)])
def test_make_refuses_a_python_that_pyproject_refuses(tmp_path: Path, minor: int, is_right: bool) -> None:
    allowed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert (f"3.{minor}" in SpecifierSet(allowed)) == is_right
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    python = tmp_path / "python"  # calls itself 3.<minor>, and makes no environment
    version = f"import sys; sys.version_info = (3, {minor}); "
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] || exit 9\nexec "{sys.executable}" -c "{version}$2"\n')
    python.chmod(0o755)
    made = subprocess.run(["make", "run", f"PYTHON={python}"], cwd=tmp_path, capture_output=True, text=True)
    refusal = f"Python 3.11, 3.12 or 3.13 is needed, {python} is 3.{minor}; say make run PYTHON=python3.12\n"
    assert made.stderr.startswith(refusal) is not is_right
    assert ("-m venv" in made.stdout) is is_right


def test_every_darkroom_command_exists_and_is_documented() -> None:
    known = set(get_command(main.app).commands)  # type: ignore[attr-defined]
    assert commands("darkroom") == known


def rows(heading: str) -> dict[str, str]:
    """The lines of the table below a heading, by the name that each begins with."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return {line.split("`")[1]: line for line in section.splitlines() if line.startswith("| `")}


def test_every_preset_has_a_row() -> None:
    assert {preset.stem for preset in (ROOT / "presets").glob("*.yaml")} <= set(rows("Presets"))


def test_every_network_has_a_row_with_its_parameters() -> None:
    documented = "".join(file.read_text() for file in (ROOT / "src/darkroom/networks/architectures").glob("*.py"))
    networks = rows("Networks")
    assert set(RULES) <= set(networks)
    for number in re.findall(r"\d+(?:,\d{3})+", "".join(networks.values())):
        assert number in documented


def test_the_backbones_are_counted() -> None:
    own = {"efficientnet-lite0", "vgg16-hed"}
    assert all(f"`{name}`" in README for name in own)
    assert f"one of the {len(BACKBONES.keys() - own)} of keras.applications" in README


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_every_link_leads_to_a_file(target: str) -> None:
    assert (ROOT / target).exists()


@pytest.mark.parametrize("variable", sorted(set(re.findall(r"`((?:MLFLOW|DARKROOM)_[A-Z_]+)`", README))))
def test_every_variable_is_read_by_the_code(variable: str) -> None:
    assert any(variable in file.read_text() for file in (ROOT / "src").rglob("*.py"))
