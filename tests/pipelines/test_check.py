"""The check of params.yaml as DVC starts it: every section in about a second, before anything is fetched."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from darkroom.errors import DarkroomError, DataError, ParamsError
from darkroom.tuning import location
from pipelines.check import check_params, main
from tests.support.project import ROOT, Project


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default params.yaml in an empty directory, which is also the root of the repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path))


def change(params: Path, values: dict[str, Any]) -> None:
    """Write values, by keys such as "train.cnn.epochs"."""
    content = YAML(typ="safe").load(params)
    for key, value in values.items():
        *parents, last = key.split(".")
        section = content
        for parent in parents:
            section = section[parent]
        section[last] = value
    YAML().dump(content, params)


def refusal(params: Path, values: dict[str, Any]) -> str:
    change(params, values)
    with pytest.raises(DarkroomError) as caught:
        check_params()
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("download.dataset", "download.dataset is "),
        ("preprocess.val_fraction", "preprocess.val_fraction is 'x': "),
        ("augment.copies", "augment.copies is 'x': "),
        ("embed.max_images", "embed.max_images is 'x': "),
        ("train.cnn.optimizer.name", "train.cnn.optimizer.name is 'x': input should be 'sgd', "),
        ("train.transfer.schedule.name", "train.transfer.schedule.name is 'x': expected one of 'one_cycle', "),
        ("evaluate.worst_images", "evaluate.worst_images is 'x': "),
        ("promote.gates.champion.alpha", "promote.gates.champion.alpha is 'x': "),
        ("compute.workers", "compute.workers is 'x': expected a valid integer or 'auto'"),
        ("candidates", "candidates is 'x': expected a list of sections of train"),
        ("tune.trials", "tune.trials is 'x': input should be a valid integer"),
        ("tune.space.cnn", "tune.space.cnn: found x, expected a mapping of train's keys to ranges"),
        ("tuning", "unknown section 'tuning'; known sections: "),
        ("train.cnn.epoch", "train.cnn has an unknown key 'epoch'; known keys: abstain, architecture, "),
    ],
)
def test_a_mistake_in_any_section_is_answered(params: Path, key: str, message: str) -> None:
    assert refusal(params, {key: "x"}).startswith(f"params.yaml: {message}")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"embed.backbone": "none"},
            "params.yaml: train.transfer: mode features needs a backbone; set embed.backbone, which is none",
        ),
        (
            {"embed.backbone": "efficientnet-light0"},
            "params.yaml: embed: unknown backbone 'efficientnet-light0'; did you mean 'efficientnet-lite0'",
        ),
        (
            {"embed.backbone": "xception"},
            "params.yaml: embed: backbone xception: image_size is [48, 48], expected at least [71, 71]",
        ),
        (
            {"preprocess.image_size": [28, 8]},
            "params.yaml: train.cnn: architecture compact with filters [32, 64, 128], stem_kernel_size 5 needs "
            "images of at least 12x12 pixels, got 28x8; raise preprocess.image_size, or give it fewer filters",
        ),
    ],
)
def test_what_one_section_asks_of_another_is_checked(params: Path, values: dict[str, Any], message: str) -> None:
    assert refusal(params, values).startswith(message)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        *(
            (f"{section}.seed", 2**31, "input should be less than 2147483648")
            for section in ("tune", "train.cnn", "embed")
        ),
        ("preprocess.image_size", [28], "expected a list of at least 2 items or 'auto'"),
        ("train.cnn.learning_rate", float("inf"), "input should be a finite number"),
    ],
)
def test_a_value_out_of_range_is_shown(params: Path, key: str, value: Any, message: str) -> None:
    assert refusal(params, {key: value}) == f"params.yaml: {key} is {value}: {message}"


def test_the_last_epoch_is_not_kept_where_training_stops_early(params: Path) -> None:
    stopping = {"metric": "val_loss", "patience": 5}
    change(params, {"train.cnn.early_stopping": {**stopping, "metric": "train_loss"}, "train.cnn.checkpoint": "last"})
    check_params()
    assert refusal(params, {"train.cnn.early_stopping": stopping}) == (
        "params.yaml: train.cnn.checkpoint is 'last': expected best, because early_stopping ends the training 5 epochs "
        "after the best one; or set early_stopping to null"
    )


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({7: 2.0}, "class_weights has the key 7: expected text; put it in quotes"),
        ({"7": -1.0}, "class_weights.7 is -1.0: input should be greater than or equal to 0"),
    ],
)
def test_of_a_weight_of_a_class_only_what_is_wrong_is_said(params: Path, weights: Any, message: str) -> None:
    assert refusal(params, {"train.cnn.class_weights": weights}) == f"params.yaml: train.cnn.{message}"


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ([{"Afine": None}], r"^augment\.transforms\[0\]: there is no transform 'Afine'; did you mean 'Affine'"),
        ([{"Affine": {"rotat": 3}}], r"\[0\]: there is no argument of Affine 'rotat'; did you mean 'rotate'"),
        (
            [{"OneOf": {"transforms": [{"Blurr": None}]}}],
            r"\[0\]\.OneOf\.transforms\[0\]: there is no trans.* 'Blurr'",
        ),
        ([{"HorizontalFlip": {"p": 2}}], r"\[0\]: HorizontalFlip cannot be built: p is 2"),
    ],
)
def test_wrong_transforms_are_refused_each_time(params: Path, transforms: list[Any], message: str) -> None:
    check_params()
    change(params, {"augment.transforms": transforms})
    for _ in range(2):
        with pytest.raises(ParamsError, match=message):
            check_params()


@pytest.mark.parametrize(
    "values",
    [
        {"candidates": ["cnn"], "embed.backbone": "none", "embed.image_size": [1, 1]},
        {"candidates": ["cnn"], "train.transfer": "a draft"},
        {"candidates": ["transfer"], "preprocess.image_size": [2, 2]},
        {"preprocess.image_size": "auto"},
        {"embed.backbone": "xception", "embed.image_size": [71, 71]},
        {"embed.weights": "none"},
    ],
)
def test_what_has_no_effect_or_only_the_data_tell_is_accepted(params: Path, values: dict[str, Any]) -> None:
    change(params, values)
    check_params()


def test_a_file_of_weights_is_looked_at(params: Path) -> None:
    file = params.with_name("mine.h5")
    weights = {"path": "mine.h5", "sha256": hashlib.sha256(b"values").hexdigest()}
    change(params, {"embed.weights": weights})
    with pytest.raises(DataError, match=r"embed\.weights\.path: no such file: .*mine\.h5"):
        check_params()
    file.write_bytes(b"other values")
    with pytest.raises(DataError, match=r"mine\.h5 has the wrong checksum"):
        check_params()
    file.write_bytes(b"values")
    check_params()


def test_nothing_heavy_is_loaded_and_nothing_fetched(params: Path) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "sys.argv = ['check', '--out', 'reports/check.json']\n"
        "sys.addaudithook(lambda event, _: event == 'socket.connect' and sys.exit('it went to the network'))\n"
        "try:\n"
        "    runpy.run_module('pipelines.check', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    heavy = {'keras', 'tensorflow', 'mlflow', 'albumentations', 'sklearn', 'matplotlib', 'pandas'}\n"
        "    print(end.code, sorted(heavy & set(sys.modules)))\n"
    )
    for epochs, loaded in ((5, "['albumentations']"), (6, "[]")):  # transforms that have passed are not tried again
        change(params, {"train.cnn.epochs": epochs})
        done = subprocess.run([sys.executable, "-c", code], cwd=params.parent, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == (f"0 {loaded}\n", "check: params.yaml is valid\n")
        assert json.loads(Path("reports/check.json").read_text()) == {"params": "valid"}
    assert sorted(path.name for path in params.parent.iterdir()) == [".darkroom", "params.yaml", "reports"]


def test_tuned_values_that_are_no_longer_used_are_named_once(
    params: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not by `tune`, whose empty best.yaml DVC may restore from an earlier run."""
    monkeypatch.setattr(sys, "argv", ["check", "--out", str(tmp_path / "check.json")])
    location.point_at("cnn", study="s", n_trials=5, values={"learning_rate": 0.07})
    for trials, expected in ((6, 0), (0, 1), (0, 0)):
        change(params, {"tune.trials": trials})
        main()
        said = capsys.readouterr().err
        dropped = "tune: cnn: tune.trials is 0: the tuned values are dropped (learning_rate 0.07); to keep them, write"
        assert said.count(dropped) == expected
    location.point_at("cnn", study="s", n_trials=5, values={"learning_rate": 0.07})
    change(params, {"tune.trials": 6, "tune.space.cnn": {}})
    main()
    assert "tune: cnn: tune.space.cnn is empty: the tuned values are dropped" in capsys.readouterr().err


def test_your_own_images_are_noted_by_content(params: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    images = tmp_path / "home" / "photos"
    source = {"kind": "path", "path": "~/photos", "layout": "folders"}
    change(params, {"download.dataset": {"name": "mine", "sources": [source]}})

    def noted() -> dict[str, str]:
        monkeypatch.setattr(sys, "argv", ["check", "--out", "reports/check.json"])
        main()
        return dict(json.loads(Path("reports/check.json").read_text()).get("sources", {}))

    assert noted() == {}, "not there yet: `download` says so"
    (images / "cat").mkdir(parents=True)
    (images / "cat" / "a.png").write_bytes(b"a")
    first = noted()
    assert set(first) == {"~/photos"}
    assert noted() == first
    (images / "cat" / "b.png").write_bytes(b"b")
    second = noted()
    assert second != first
    images.rename(tmp_path / "home" / "unmounted")
    assert noted() == second, "a machine without the images goes on with data/raw"


@pytest.mark.heavy
def test_dvc_says_what_is_wrong_before_it_fetches_or_writes(project: Project) -> None:
    change(project.root / "params.yaml", {"train.cnn.optimizer.momentum": 1.5})
    printed = project.run("dvc", "repro", status=255)
    assert re.findall(r"Running stage '([\w@]+)'", printed) == ["check"]
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert errors == ["error: params.yaml: train.cnn.optimizer.momentum is 1.5: input should be less than 1"]
    written = project.run("git", "status", "--short", "--ignored").splitlines()
    assert [line for line in written if not line.endswith(("__pycache__/", ".dvc/tmp/"))] == [" M params.yaml"]


@pytest.mark.heavy
def test_a_changed_setting_of_no_other_stage_runs_check_alone(project: Project) -> None:
    def stages() -> list[str]:
        return re.findall(r"Running stage '([\w@]+)'", project.run("dvc", "repro", "preprocess"))

    change(project.root / "params.yaml", {"train.cnn.optimizer.momentum": 0.9})
    assert stages() == ["check", "download", "preprocess"]
    change(project.root / "params.yaml", {"train.cnn.epochs": 3, "compute.workers": 1})
    assert stages() == ["check"]
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "lock")
    printed = project.run("dvc", "exp", "run", "--temp", "preprocess", "-S", "train.cnn.epochs=0", status=255)
    assert "error: params.yaml: train.cnn.epochs is 0: input should be greater than or equal to 1" in printed
    printed = project.run("dvc", "exp", "run", "--temp", "preprocess", "-S", "train.cnn.epochs=4")
    assert re.findall(r"Running stage '([\w@]+)'", printed) == ["check"]


@pytest.mark.heavy
def test_new_images_of_your_own_download_them_again(project: Project, tmp_path: Path) -> None:
    def stages() -> list[str]:
        return re.findall(r"Running stage '([\w@]+)'", project.run("dvc", "repro", "download"))

    images = tmp_path / "photos"
    for name in ("cat/a.png", "dog/b.png"):
        (images / name).parent.mkdir(parents=True)
        (images / name).write_bytes(name.encode())
    source = {"kind": "path", "path": str(images), "layout": "folders"}
    change(project.root / "params.yaml", {"download.dataset": {"name": "mine", "sources": [source]}})
    assert stages() == ["check", "download"]
    assert stages() == ["check"]
    (images / "cat" / "c.png").write_bytes(b"one more")
    assert stages() == ["check", "download"]
    shutil.rmtree(images)
    assert stages() == ["check"]
