"""The pages of docs/ and the README: they are built, what they name exists, and commands print what they show."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.main import get_command

from darkroom.cli import main
from darkroom.data.download.catalogue import Dataset, Layout
from darkroom.errors import ParamsError
from darkroom.networks.architectures.sizes import RULES
from darkroom.networks.backbones.table import BACKBONES
from docs import reference
from pipelines.check import check_params
from tests.support.command_line import run
from tests.support.pages import DOCS, PAGES, Example, agree, blocks, code, commands, examples
from tests.support.project import ROOT

COMMANDS: dict[str, Any] = get_command(main.app).commands  # type: ignore[attr-defined]
OPTIONS = {name: {word for one in command.params for word in one.opts} for name, command in COMMANDS.items()}
MADE_BY_CODE = "\n".join(
    file.read_text() for folder in ("src", "pipelines") for file in (ROOT / folder).rglob("*") if file.suffix == ".py"
)
KEYS = {key for section, model in reference.MODELS.items() for key in reference.fields(model, section)} | {
    key for key, _, _ in reference.defaults()
}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def test_the_pages_are_built_and_their_links_lead_somewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    made = {page.stem for page in tmp_path.glob("*.html")} - {"404"}
    assert made == {page.stem for page in DOCS.glob("*.md")} - {"decisions"}
    assert len(made) < 12
    assert "--max-megapixels" in (tmp_path / "serve.html").read_text()


def test_pictures_are_small() -> None:
    pictures = list((DOCS / "images").iterdir())
    assert pictures
    assert [picture.name for picture in pictures if picture.stat().st_size > 300_000] == []


def test_the_reference_has_every_command_and_section_once() -> None:
    text = "".join(page.read_text() for page in PAGES)
    for kind, known in (("commands", COMMANDS), ("params", reference.MODELS)):
        marked = " ".join(re.findall(rf"^<!-- {kind}: (.*) -->$", text, re.M))
        assert sorted(marked.split()) == sorted(known)


def test_the_reference_explains_every_setting() -> None:
    explained = {key for key, _, comment in reference.defaults() if comment}
    defaults = YAML(typ="safe").load(ROOT / "presets" / "mnist.yaml")
    for key, value, _ in reference.defaults():
        found: Any = defaults
        for part in key.split("."):
            found = found[part] if isinstance(found, dict) else None  # transforms are a list
        if value and found is not None:
            assert found == YAML(typ="safe").load(value), key
    assert {"tune.alpha", "preprocess.group_by", "train.transfer.architecture.mode"} <= explained
    assert {f"`{name}`" for name in RULES} <= {line.split(" ")[1] for line in reference.networks().splitlines()[2:]}


@pages
def test_every_command_and_option_exists(page: Path) -> None:
    for shown in code(page.read_text()):
        for words in re.findall(r"(?:^|&& )darkroom ([a-z][^|;&<]*)", shown):
            name = words.split()[0]
            if name == "rolback":  # errors.md shows what it is answered
                continue
            assert name in COMMANDS, shown
            assert set(re.findall(r"(?<= )--[a-z-]+", words)) <= OPTIONS[name] | {"--help", "--debug"}, shown
        if shown.split()[:1] and shown.split()[0] in COMMANDS:
            assert set(re.findall(r"(?<= )--[a-z-]+", shown)) <= OPTIONS[shown.split()[0]], shown
        elif re.match(r"--[a-z-]+", shown):
            name = shown.split()[0]
            others = {"--temp", "--theirs", "--build-arg", "--version", "--debug"}  # of dvc, git, docker and darkroom
            assert name in others | set().union(*OPTIONS.values()), shown


@pages
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert commands("make", page.read_text()) <= targets


@pages
def test_every_path_exists(page: Path) -> None:
    for shown in code(page.read_text()):
        path = shown.split(" ")[0].rstrip("/")
        top = path.split("/")[0]
        if top in {"src", "pipelines", "presets", "docs", "deploy", "tests", "benchmarks"} and "NAME" not in path:
            assert (ROOT / path).exists(), shown
        elif top in {"reports", "models", "data"} and "*" not in path:
            name = path.rpartition("/")[2]
            assert "<" in name or name in MADE_BY_CODE or path in (ROOT / "dvc.yaml").read_text(), shown


@pages
def test_every_key_of_params_exists(page: Path) -> None:
    sections = {key.split(".")[0] for key in KEYS}
    last = {key.rpartition(".")[2] for key in KEYS} | {*Layout.model_fields, *Dataset.model_fields, "base", "layout"}
    last |= {key for name in RULES for key in re.findall(rf"^\| `{name}` \| `(\w+)`", reference.networks(), re.M)}
    for shown in code(page.read_text()):
        key = re.sub(r"<candidate>|CANDIDATE|NAME", "cnn", shown).partition(":")[0].strip()
        if "." in key and key.split(".")[0] in sections and re.fullmatch(r"[\w.]+", key) and "/" not in shown:
            if not re.search(r"\.(py|md|yaml|json|csv|onnx|keras|parquet|html)$", key):
                assert key in KEYS, shown
        elif re.fullmatch(r"[a-z_]+: [^ ].*", shown):
            assert key in last | sections, shown


@pages
def test_every_yaml_example_is_valid(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for block in blocks(page.read_text(), "yaml"):
        params = YAML(typ="safe").load(ROOT / "params.yaml")
        merge(params, YAML(typ="safe").load(block))
        YAML().dump(params, Path("params.yaml"))
        check_params()


def merge(params: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if key == "space":
            params[key] |= value
        elif isinstance(value, dict) and isinstance(params.get(key), dict) and "name" not in value:
            merge(params[key], value)
        else:
            params[key] = value


@pages
def test_every_variable_is_read_by_the_code(page: Path) -> None:
    variables = re.findall(r"`((?:MLFLOW|DARKROOM)_[A-Z_]+)`", page.read_text())
    libraries = {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"}
    options = {f"DARKROOM_SERVE_{option[2:].replace('-', '_').upper()}" for option in OPTIONS["serve"]}
    unread = [name for name in variables if name not in MADE_BY_CODE and name not in libraries | options]
    assert unread == []


@pytest.mark.parametrize("example", examples("nowhere"), ids=lambda example: example.command)
def test_a_command_outside_of_a_repository_answers_so(
    example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    _, out, err = run(monkeypatch, capfd, *example.command.split()[1:])
    assert agree(example.answer, (out + err).replace(str(tmp_path), "/tmp"), root=tmp_path), err  # noqa: S108


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a clone that commands read before the first `dvc repro`."""
    root = tmp_path_factory.mktemp("fresh")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "presets", root / "presets")
    return root


@pytest.mark.heavy
@pytest.mark.parametrize("example", examples("fresh"), ids=lambda example: f"{example.page} {example.command}")
def test_a_command_in_a_fresh_clone_answers_so(
    example: Example, fresh: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(fresh))
    monkeypatch.chdir(fresh)
    params = (ROOT / "params.yaml").read_text()
    changed = params.replace(*example.edit, 1) if example.edit else params
    assert (changed == params) == (example.edit is None)
    Path("params.yaml").write_text(changed)
    if example.command == "dvc repro":  # its first stage, in this process
        with pytest.raises(ParamsError) as caught:
            check_params()
        printed = f"error: {caught.value}"
    else:
        assert example.command.startswith("darkroom ")
        printed = "".join(run(monkeypatch, capfd, *example.command.split()[1:])[1:])
    assert agree(example.answer, printed, root=fresh), printed


def test_an_answer_that_differs_in_words_is_noticed(tmp_path: Path) -> None:
    shown = "version 1 in /home/me/darkroom ... (12 s)\n"
    assert agree(shown, f"version 23 in {tmp_path} after all (0.5 s)", root=tmp_path)
    assert not agree("version 1 is champion", "version 1 is the champion", root=tmp_path)


def rows(page: str, heading: str) -> dict[str, str]:
    """The lines of the table below a heading, by the name that each begins with."""
    section = (DOCS / page).read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return {line.split("`")[1]: line for line in section.splitlines() if line.startswith("| `")}


def test_every_preset_has_a_row() -> None:
    assert {preset.stem for preset in (ROOT / "presets").glob("*.yaml")} <= set(rows("index.md", "Presets"))


def test_every_network_has_a_row_with_its_parameters() -> None:
    documented = "".join(file.read_text() for file in (ROOT / "src/darkroom/networks/architectures").glob("*.py"))
    networks = rows("networks.md", "Choose a network")
    assert set(RULES) <= set(networks)
    for number in re.findall(r"\d+(?:,\d{3})+", "".join(networks.values())):
        assert number in documented


def test_the_backbones_are_counted() -> None:
    own = {name for name in BACKBONES if name.startswith("efficientnet-lite")} | {"vgg16-hed"}
    text = (DOCS / "networks.md").read_text()
    assert all(f"`{name}`" in text for name in own)
    assert f"one of the {len(BACKBONES.keys() - own)} of keras.applications" in text


def test_every_stage_has_a_row() -> None:
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    assert list(rows("how-it-works.md", "The flow")) == list(stages)


def test_the_comparison_with_fastai_is_the_measured_one() -> None:
    text = (DOCS / "compare.md").read_text()
    measured = json.loads((ROOT / "benchmarks/results/few_photographs.json").read_text())["whole"]["cats-vs-dogs"]
    for size, found in measured.items():
        sides = (found[side] for side in ("darkroom", "fastai"))
        cells = [f"{100 * side['test_accuracy']:.1f} % in {side['seconds']:.0f} s" for side in sides]
        assert f"| {' | '.join([size, *cells])} |" in text


def test_the_table_of_fine_tuning_is_the_measured_one() -> None:
    measured = json.loads((ROOT / "benchmarks/results/finetune.json").read_text())
    labels = {
        "cats-vs-dogs-100": "100 cats, 100 dogs",
        "cats-vs-dogs-1000": "1,000 cats, 1,000 dogs",
        "cifar10-60-of-5": "60 of each of 5 classes of CIFAR-10",
        "cifar10-500": "500 of each class of CIFAR-10",
        "cifar10-5000": "5,000 of each class of CIFAR-10, 1 epoch",
    }
    for case, label in labels.items():
        sides = (measured[case][side] for side in ("features", "hidden", "finetune"))
        cells = [f"{100 * side['test_accuracy']:.1f} %" for side in sides]
        assert f"| {' | '.join([label, *cells])} |" in (DOCS / "own-images.md").read_text()


def test_the_comparison_of_tuners_is_the_measured_one() -> None:
    found = json.loads((ROOT / "benchmarks/results/tuning_peers.json").read_text())
    sides = ("darkroom-alpha-1", "optuna", "darkroom", "preset", "keras-tuner", "autokeras")
    said = re.findall(r"^\| .* \| ([\d.]+) % \| (.*)\|$", (DOCS / "compare.md").read_text(), re.MULTILINE)
    for side, (accuracy, won) in zip(sides, said, strict=True):
        against = found["comparison"].get(f"darkroom-alpha-1 against {side}", {})
        assert accuracy == f"{100 * found[side]['test_accuracy']:.1f}"
        assert won.strip() == (f"{against['seeds_won']} seeds" if against else "")
    gains = found["comparison"]["darkroom-alpha-1 against optuna"]["test_accuracy_gain_points_by_seed"]
    same, *lost = sorted((gain for gain in gains if gain <= 0), reverse=True)
    assert same == 0
    sentence = "found the same values in one, and was better by {:.2f} and {:.2f} points"
    assert sentence.format(*(-gain for gain in lost)) in (DOCS / "compare.md").read_text()
