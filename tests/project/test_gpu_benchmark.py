"""benchmarks.gpu: training with only Keras, a backend, numpy and OpenCV, and whether backends learn the same."""

import copy
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks import gpu, throughput
from darkroom.data.arrays.dataset_writer import DatasetWriter
from darkroom.errors import DataError, ParamsError
from darkroom.networks.backbones.table import NO_WEIGHTS
from darkroom.training import recipe
from tests.support.project import ROOT

SMALL = [
    "epochs=5",
    "batch_size=16",
    'precision="float32"',
    "architecture.filters=[4, 8]",
    "train_augmentation.shift=1",
]

LENET = {"name": "lenet5", "filters": [6, 16], "units": [120, 84], "kernel_size": 5, "stem_padding": "same"}
LENET |= {"activation": "tanh", "pooling": "average"}

# Every package that is not one of these distributions, or needed by them, is as good as not installed.
BARE = """
import importlib.metadata as metadata, re, runpy, sys
from importlib.abc import MetaPathFinder

def needed(names, found):
    for name in names:
        name = re.sub("[-_.]+", "-", name).lower()
        if name not in found:
            found.add(name)
            asked = [text for text in metadata.requires(name) or [] if "extra ==" not in text]
            needed([re.match("[A-Za-z0-9._-]+", text)[0] for text in asked if installed(text)], found)
    return found

def installed(text):
    try:
        return metadata.version(re.match("[A-Za-z0-9._-]+", text)[0])
    except metadata.PackageNotFoundError:
        return None

def normal(name):
    return re.sub("[-_.]+", "-", name).lower()

kept = needed(["keras", "jax", "numpy", "opencv-python-headless"], set())
owners = metadata.packages_distributions()
ours = {"darkroom", "benchmarks"}

class Bare(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in owners and top not in ours and not {normal(owner) for owner in owners[top]} & kept:
            raise ModuleNotFoundError(f"no module named {name} on a bare machine", name=name)

sys.meta_path.insert(0, Bare())
assert "tensorflow" in owners and "tensorflow" not in kept and "pydantic" not in kept
sys.argv = ["gpu.py", *sys.argv[1:]]
runpy.run_module("benchmarks.gpu", run_name="__main__", alter_sys=True)
"""


def write_data(folder: Path, *, n_images: int = 160) -> None:
    """Write grey 8x8 images of two classes, the brighter half to the left or to the right."""
    rng = np.random.default_rng(0)
    labels = np.arange(n_images) % 2
    images = rng.integers(0, 100, (n_images, 8, 8, 1), dtype=np.uint8)
    for label, half in enumerate((slice(0, 4), slice(4, 8))):
        images[labels == label, :, half] += 100
    splits = ["train"] * (n_images - 48) + ["val"] * 24 + ["test"] * 24
    index = pd.DataFrame({"row": range(n_images), "label": np.array(["left", "right"])[labels], "split": splits})
    index["id"] = [f"{row:04d}" for row in range(n_images)]
    manifest = {"dataset": "halves", "classes": ["left", "right"], "color": "grey", "mean": [0.4], "std": [0.2]}
    with DatasetWriter(folder, image_shape=(8, 8, 1), shard_bytes=1 << 20) as writer:
        writer.append(images)
        writer.finish(index=index, manifest=manifest)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with recipe.json and data/prepared, and nothing else."""
    folder = tmp_path_factory.mktemp("machine")
    write_data(folder / "data" / "prepared")
    (folder / "recipe.json").write_text(json.dumps(gpu.make_recipe("smoke", candidate="cnn", changes=SMALL)))
    return folder


def measure(folder: Path, *command: str, backend: str, code: str | None = None) -> tuple[dict[str, Any], str]:
    """Return what benchmarks.gpu prints as JSON, and on stderr."""
    program = ["-m", "benchmarks.gpu"] if code is None else ["-c", code]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KERAS", "XLA", "DARKROOM"))}
    path = f"{ROOT / 'src'}{os.pathsep}{ROOT}"
    done = subprocess.run(
        [sys.executable, *program, *command],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**kept, "PYTHONPATH": path, "KERAS_BACKEND": backend},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout), done.stderr


def curves(*, moved_by: float = 1e-7) -> dict[str, Any]:
    losses = np.linspace(2.3, 0.5, 50)
    effect = 1 + moved_by * np.linspace(1, 20, 50)
    return {
        "recipe": "smoke-cnn",
        "settings": {"epochs": 50},
        "data": "0" * 64,
        "n_train": 112,
        "batch_size": 16,
        "device": "CPU",
        "versions": {},
        "curves": {name: losses.tolist() for name in gpu.CURVES},
        "curves_of_moved_weights": {name: (losses * effect).tolist() for name in gpu.CURVES},
    }


def changed(side: dict[str, Any], *, curve: str, step: int, factor: float) -> dict[str, Any]:
    other = copy.deepcopy(side)
    other["curves"][curve][step - 1] *= factor
    return other


def test_losses_equal_within_rounding_pass() -> None:
    assert gpu.compare(curves(), curves())["pass"]
    rounded = changed(curves(), curve="train_loss", step=50, factor=1 + 1e-5)
    compared = gpu.compare(curves(), rounded)
    assert compared["pass"]
    assert compared["train_loss"]["at_step"] == 50
    assert compared["train_loss"]["greatest_relative_difference"] == pytest.approx(1e-5, rel=1e-3)
    assert compared["greatest_ratio_to_rounding"] == pytest.approx(5, rel=1e-2)
    assert compared["val_loss"]["greatest_relative_difference"] == 0


@pytest.mark.parametrize(
    ("curve", "step", "factor"),
    [("train_loss", 1, 1 + 1e-5), ("val_loss", 50, 1.001), ("train_loss", 25, float("nan"))],
)
def test_losses_that_rounding_does_not_explain_fail(curve: str, step: int, factor: float) -> None:
    compared = gpu.compare(curves(), changed(curves(), curve=curve, step=step, factor=factor))
    assert not compared["pass"]
    assert compared[curve]["at_step"] == step


def test_losses_of_other_data_are_not_compared() -> None:
    with pytest.raises(DataError, match="cannot be compared: data differs; make both from the same recipe and data"):
        gpu.compare(curves(), {**curves(), "data": "1" * 64})


def test_the_time_of_a_step_leaves_the_epoch_out_that_compiles() -> None:
    speeds = [("head", 10.0), ("head", 1000.0), ("head", 3000.0), ("finetuning", 5.0)]
    history = [{"phase": phase, "images_per_second": speed} for phase, speed in speeds]
    # An attempt that did not fit into memory came before.
    found = gpu.step_times(history, [9.0, 4.0, 0.1, 0.1, 6.0], batch_size=6)
    assert found == {
        "head": {"first_step_seconds": 4.0, "step_ms_median": 4.0, "images_per_second": 1500},
        "finetuning": {"first_step_seconds": 6.0, "step_ms_median": None, "images_per_second": None},
    }


def test_a_recipe_is_checked_where_it_is_written() -> None:
    made = gpu.make_recipe("smoke", candidate="cnn", changes=["debug.max_steps=4"])
    assert (made["name"], made["settings"]["debug"]["max_steps"]) == ("smoke-cnn", 4)
    with pytest.raises(ParamsError, match="train has no section 'transfer'; sections of train: cnn"):
        gpu.make_recipe("smoke", candidate="transfer")
    with pytest.raises(ParamsError, match=r"smoke.yaml: train has no key 'debug.steps'; known keys of debug: "):
        gpu.make_recipe("smoke", candidate="cnn", changes=["debug.steps=4"])
    for change in ("output=sigmoid", "epochs"):
        with pytest.raises(ParamsError, match=f"^--set {change}: expected KEY=JSON"):
            gpu.make_recipe("smoke", candidate="cnn", changes=[change])
    with pytest.raises(ParamsError, match=r"train.cnn.epochs is 0: "):
        gpu.make_recipe("smoke", candidate="cnn", changes=["epochs=0"])


def test_a_file_of_another_command_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps({"name": "smoke-cnn", "settings": {}}))
    assert gpu.read_json(file, command="recipe")["name"] == "smoke-cnn"
    with pytest.raises(DataError, match=r"recipe.json is not what `losses` prints: it has name, settings; make it"):
        gpu.read_json(file, command="losses")
    file.write_text("{}")
    with pytest.raises(DataError, match=r"recipe.json is not what `recipe` prints: it has nothing; make it again"):
        gpu.read_json(file, command="recipe")


@pytest.mark.parametrize("origin", ["pretrained", "file"])
def test_weights_are_those_that_the_features_came_from(tmp_path: Path, origin: str) -> None:
    file = tmp_path / "copied.h5"
    file.write_bytes(b"values")
    sha256 = hashlib.sha256(b"values").hexdigest()
    features: Any = SimpleNamespace(backbone="vgg16-hed", weights_origin=origin, weights_sha256=sha256)
    assert gpu.weights_of(features, file) == (origin, file, sha256)
    with pytest.raises(ParamsError, match=f"a file of weights of vgg16-hed; name it with --weights .sha256 {sha256}"):
        gpu.weights_of(features, None)
    file.write_bytes(b"others")
    with pytest.raises(DataError, match=f"copied.h5 has the wrong checksum: sha256 .*, expected {sha256}"):
        gpu.weights_of(features, file)
    drawn: Any = SimpleNamespace(backbone="vgg16-hed", weights_origin="none", weights_sha256=None)
    assert gpu.weights_of(drawn, None) == NO_WEIGHTS


def test_a_network_multiplies_as_often_as_its_paper_says() -> None:
    lenet = gpu.make_recipe("mnist", candidate="cnn", changes=[f"architecture={json.dumps(LENET)}"])["settings"]
    network = recipe.build_network(lenet, image_shape=(28, 28, 1), n_classes=10, policy="float32")
    convolutions = 28 * 28 * (5 * 5 * 6) + 10 * 10 * (5 * 5 * 6 * 16)
    assert throughput.forward_flop(network) == 2 * (convolutions + 400 * 120 + 120 * 84 + 84 * 10)


def test_the_throughput_is_that_of_the_epochs_after_the_first() -> None:
    settings = gpu.make_recipe("smoke", candidate="cnn", changes=SMALL)["settings"]
    found = throughput.measure(settings, image_size=8, n_classes=3, n_steps=2, n_epochs=2, device="cpu")
    assert (found["batch_size"], found["policy"], len(found["images_per_second"])) == (16, "float32", 2)
    assert min(found["images_per_second"]) > 0


def test_nothing_is_left_to_chance_in_a_comparison() -> None:
    settings = gpu.make_recipe("mnist-keras", candidate="cnn")["settings"]
    assert settings["architecture"]["dense_dropout"] > 0
    plain = gpu.without_chance({**settings, "schedule": {"name": "plateau"}}, steps=7)
    assert (plain["architecture"]["conv_dropout"], plain["architecture"]["dense_dropout"]) == (0, 0)
    assert (plain["epochs"], plain["debug"]["max_steps"], plain["schedule"]["name"]) == (7, 1, "constant")


def test_weights_are_drawn_and_moved_to_a_neighbouring_number() -> None:
    built = [np.zeros((3, 3, 4, 8), np.float32), np.ones(8, np.float32)]
    kernel, bias = gpu.draw_weights(built, seed=1)
    assert kernel.std() == pytest.approx((2 / 36) ** 0.5, rel=0.1)
    assert np.array_equal(bias, built[1])
    other, same = gpu.moved([kernel, bias], seed=1)
    assert np.array_equal(same, bias)
    assert other.dtype == np.float32
    assert 0 < np.abs(other / kernel - 1).max() <= np.finfo(np.float32).eps


@pytest.mark.heavy
def test_training_needs_keras_a_backend_numpy_and_opencv_alone(folder: Path) -> None:
    pytest.importorskip("jax", reason="JAX is not installed; it is part of the extra dev")
    result, told = measure(folder, "train", "recipe.json", backend="jax", code=BARE)
    assert result["device"].endswith("(jax)")
    assert result["versions"].keys() == {"keras", "jax", "numpy"}
    assert (result["epochs"], result["n_train"], result["n_test"]) == (5, 112, 24)
    assert result["test_accuracy"] > 0.9
    assert result["phases"]["training"]["step_ms_median"] > 0
    assert "there is no data/augmented: training on the originals alone" in told


@pytest.mark.heavy
def test_jax_learns_what_tensorflow_learns(folder: Path) -> None:
    pytest.importorskip("jax", reason="JAX is not installed; it is part of the extra dev")
    command = ["losses", "recipe.json", "--steps", "4"]
    ours, theirs = (measure(folder, *command, backend=backend)[0] for backend in ("tensorflow", "jax"))
    assert ours["device"].endswith("(tensorflow)")
    assert theirs["device"].endswith("(jax)")
    compared = gpu.compare(ours, theirs)
    assert compared["pass"], compared
    assert ours["curves"]["train_loss"][-1] < ours["curves"]["train_loss"][0]
    assert gpu.compare(ours, changed(theirs, curve="val_loss", step=4, factor=1.001))["pass"] is False
