"""The README agrees with the files that it describes."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

from tests.project.test_contracts import MAY_IMPORT
from tests.support.project import ROOT

README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "benchmarks" / "results"


def result(name: str) -> dict[str, Any]:
    return dict(json.loads((RESULTS / f"{name}.json").read_text()))


@pytest.mark.parametrize("benchmark", ["mnist", "cifar10", "cats_vs_dogs"])
def test_the_first_screen_shows_what_was_measured(benchmark: str) -> None:
    measured = result(benchmark)
    (row,) = (line for line in README.split("\n```")[0].splitlines() if f"{benchmark}.json" in line)
    preset = benchmark.replace("_", "-")
    for column, name in zip(row.split(" | ")[1:], (preset, f"{preset}-article"), strict=True):
        accuracy = measured[name].get("deployed_test_accuracy") or measured[name]["test_accuracy"]
        is_transfer = name == "cats-vs-dogs"
        seconds = measured["embed_and_train_seconds"] if is_transfer else measured[name]["train_seconds"]
        assert column.startswith(f"{100 * accuracy:.1f} % in {seconds:,.0f} s, preset `{name}`")
    assert "2 CPU cores" in README
    assert measured["machine"].endswith("2 cores")


def test_the_duration_of_make_run_is_the_measured_one() -> None:
    minutes = result("fresh_clone")["make_run_seconds_with_setup"] / 60
    assert f"{minutes:.1f} minutes" in README
    assert f"{minutes:.1f} minutes" in (ROOT / "docs" / "index.md").read_text()


def test_decisions_state_what_was_measured() -> None:
    decisions = (ROOT / "docs" / "decisions.md").read_text()
    resized, embedded = result("resize"), result("embed")
    large, modes = resized["twelve_megapixels"], resized["test_accuracy"]
    assert (
        f"{large['times_faster_than_in_full']:.1f} times as fast, {large['mean_difference_of_255']:.1f} of 255"
        in decisions
    )
    assert f"{modes['crop']:.1%}, stretched {modes['stretch']:.1%}".replace("%", " %") in decisions
    assert f"{embedded['ratio']} times as fast" in decisions
    sets = result("prediction_sets")["trained_on_11000"]
    sizes = [sets[f"u {u}, lambda 0.01, k 1"]["mean_set_size"] for u in ("0", "random", "1")]
    assert (
        "{:.2f} classes on average, {:.2f} with a random share of it, {:.2f} with all of it".format(*sizes) in decisions
    )
    audited, asked = result("audit"), result("label_next")
    for side, words in {
        "darkroom": "cats and dogs {}, MNIST {}, CIFAR-10 {}",
        "cleanlab": "features {}, {}, {}",
    }.items():
        found = [f"{100 * audited[name][side]['recall_at_n']:.0f} %" for name in ("cats-vs-dogs", "mnist", "cifar10")]
        assert words.format(*found) in decisions
    assert f"{100 * asked['gain']:.1f} points more accuracy with 2,000 chosen labels" in decisions
    strangers = [result("unknown")[name]["auroc"]["far"]["all"] for name in ("digits", "cats-vs-dogs", "left-out")]
    areas = [", ".join(f"{found[score]:.3f}" for found in strangers) for score in ("familiarity", "maximum_softmax")]
    assert "{} (maximum softmax {})".format(*areas) in decisions
    small, large_images = result("serve")["28x28"], result("serve")["224x224"]
    assert f"{small['overhead_p50_ms']:.2f} ms over the bare network at 28x28" in decisions
    times = [one["times_the_requests_of_mlflow"]["8"] for one in (small, large_images)]
    assert "{:.1f} and {:.1f} times the requests per second of MLflow's server".format(*times) in decisions
    soaked, explained = result("soak"), result("explain")
    bombs, answered = soaked["bombs"]["statuses"]["422"], soaked["images"]["statuses"]["200"]
    assert f"{soaked['workers_killed']} killed workers and {bombs:,} images" in decisions
    assert f"{answered / 1e6:.1f} million answers, no error, {soaked['growth_mb']:.0f} MB more memory" in decisions
    assert sum(soaked[side]["errors"]["elsewhere"] for side in ("images", "bombs")) == 0
    for size in ("28x28", "224x224"):
        assert f"{explained[size]['share_of_requests']:.2f} times" in decisions
        assert f"{explained[size]['times_the_p95']:.2f}" in decisions


def test_decisions_about_heads_and_searches_were_measured() -> None:
    decisions = (ROOT / "docs" / "decisions.md").read_text()
    heads, searched = result("few_photographs"), result("search")
    measured = {(name, n): heads[name][n] for name in ("cats-vs-dogs", "cifar10") for n in ("20", "60", "300", "1000")}
    ways, shown = ("darkroom", "without_roots", "standardised"), measured["cifar10", "60"]
    shares = [100 * shown[way] for way in (*ways, "scikit_learn_cv")]
    said = (
        "{:.2f} %, features as they come {:.2f} %, standardised {:.2f} %; scikit-learn with C chosen by folds {:.2f} %"
    )
    assert said.format(*shares) in decisions
    large = measured["cifar10", "1000"]
    said = "with 1,000 of each {:.1f} %, {:.1f} % and {:.1f} %"
    assert said.format(*(100 * large[way] for way in ways)) in decisions
    pets = [[measured["cats-vs-dogs", n][way] for way in ways] for n in ("20", "60", "300", "1000")]
    span = 100 * max(max(accuracies) - min(accuracies) for accuracies in pets)
    assert f"on cats and dogs the three are within {span:.1f} points" in decisions
    copied = (measured[name, "300"] for name in ("cifar10", "cats-vs-dogs"))
    gains = [100 * (one["with_copies"] - one["darkroom"]) for one in copied]
    assert "{:.1f} points at 300 images of each CIFAR-10 class, {:.1f} points at 300 cats".format(*gains) in decisions
    taken, nothing = searched["choice"][0], searched["choice"][5]
    shares = [100 * taken[how]["best"] for how in ("choose", "mcnemar", "unpaired")]
    said = (
        "taken in {:.0f} % of searches (McNemar's test divided by the rivals {:.0f} %, a test without pairs {:.0f} %)"
    )
    assert said.format(*shares) in decisions
    assert f"where none is better, one is taken in {100 * nothing['choose']['wrong']:.0f} %" in decisions
    reasons = [run["chosen"] for run in result("tuning_peers")["runs"]["darkroom-alpha-1"]]
    pairs = [re.findall(r"^trial (\d+)|by trial (\d+) \(|trial (\d+) is taken$", reason) for reason in reasons]
    changed = sum(max(first) != max(taken) for first, taken in pairs)
    assert f"in {changed} of {len(reasons)} searches the second or third trial was the most accurate" in decisions
    worst, forgotten = (searched["failures"][how] for how in ("told as the worst", "as failed"))
    said = "{} of 30 trials diverge instead of {}; best value {} instead of {}"
    keys = ("n_diverged", "best")
    assert said.format(*(one[key] for key in keys for one in (worst, forgotten))) in decisions
    ranks = {name: found["rank_correlation"] for name, found in searched["fidelity"].items() if isinstance(found, dict)}
    order = (
        *("a quarter of the whole training", "three quarters of the whole training"),
        *("a fifth of the images, whole schedule", "a quarter of the epochs, whole schedule"),
    )
    said = "{} after a quarter of it, {} after three quarters; of short trials {} with a fifth of the images, {} with"
    assert said.format(*(ranks[name] for name in order)) in decisions


def test_the_sprint_of_cifar10_was_measured() -> None:
    preset, measured = (ROOT / "presets" / "cifar10.yaml").read_text(), result("cifar10_sprint")
    article = 100 * measured["cifar10-article"]["best_test_accuracy"]
    assert f"has {100 * measured['final_test_accuracy']:.1f} % after one epoch" in preset
    assert f"in {measured['ratio']:.3f} of the time in which cifar10-article has {article:.1f} %" in preset
    said = dict(re.findall(r"-S '?([\w.]+)=([^'\n]+?)'? *(?=-S|\n)", preset))
    assert {key: json.loads(value) for key, value in said.items()} == measured["changes"]


def test_decisions_about_precision_were_measured() -> None:
    quantised, decisions = result("int8"), (ROOT / "docs" / "decisions.md").read_text()
    losses = [
        100 * (quantised[name][f"{way}_test_accuracy"] - quantised[name]["float32_test_accuracy"])
        for way in ("mixed", "int8")
        for name in ("cats-vs-dogs", "cifar10")
    ]
    said = "{:+.1f} points on cats and dogs, {:+.1f} points on CIFAR-10; int8 in both {:+.1f} and {:+.1f}"
    assert said.format(*losses) in decisions
    assert f"int8 is {quantised['cats-vs-dogs']['speed']} times as fast" in decisions
    measured = result("precision")
    shown = {
        "EfficientNet-Lite1": "efficientnet-lite1",
        "NASNet-Mobile": "nasnet-mobile",
        "MobileNetV2": "mobilenet-v2",
    }
    shown |= {"ResNet50": "resnet50", "ConvNeXt-Tiny": "convnext-tiny"}
    said = ", ".join(f"{title} {measured[name]['bfloat16_by_float32']}" for title, name in shown.items())
    assert said in decisions


def test_packages_import_only_what_stands_above_them() -> None:
    (layout,) = (block for block in README.split("```") if block.startswith("\nerrors\n"))
    line_of = {name: number for number, line in enumerate(layout.strip().splitlines()) for name in line.split()}
    assert line_of.keys() == MAY_IMPORT.keys()
    for name, others in MAY_IMPORT.items():
        assert all(line_of[other] < line_of[name] for other in others.split()), name


def test_the_flow_shows_every_stage_in_the_order_of_dvc_yaml() -> None:
    (flow,) = (block for block in README.split("```") if "─►" in block)
    stages = re.findall(r"^  (\w+):$", (ROOT / "dvc.yaml").read_text().split("\nplots:")[0], re.MULTILINE)
    shown = re.findall(rf"\b(?:{'|'.join(stages)})\b", flow.splitlines()[1])
    assert shown == stages


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


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_every_link_leads_to_a_file(target: str) -> None:
    assert (ROOT / target).exists()
