import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.dataset_writer import DatasetWriter
from darkroom.data.arrays.features import Features, chosen_rows
from darkroom.errors import DarkroomError, DataError, ParamsError
from pipelines import embed
from tests.support.project import ROOT

SHAPE = (12, 10, 1)
CLASSES = ["a", "b"]
ARGUMENTS = ["--prepared", "prepared", "--augmented", "augmented", "--out", "features"]
EMBED: dict[str, Any] = {
    "backbone": "efficientnet-lite0",
    "weights": "none",
    "image_size": [32, 32],
    "max_images": None,
    "seed": 7,
}


def write(directory: Path, splits: Sequence[str], *, seed: int, parents: Sequence[str] = ()) -> list[str]:
    """Write noise, the first two images of one group; return the ids."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(splits), *SHAPE), dtype=np.uint8)
    ids = [hashlib.sha256(image.tobytes()).hexdigest() for image in pixels]
    index = pd.DataFrame(
        {
            "row": range(len(splits)),
            "id": ids,
            "group": [*ids[:1] * 2, *ids[2:]],
            "parent_id": parents or ids,
            "label": [CLASSES[row % 2] for row in range(len(splits))],
            "split": splits,
        }
    )
    with DatasetWriter(directory, image_shape=SHAPE, shard_bytes=2000) as writer:
        if splits:
            writer.append(pixels)
        writer.finish(index=index, manifest={"dataset": "noise", "classes": CLASSES, "color": "grey"})
    return ids


def prepared_in(folder: Path) -> Path:
    """Write 40 prepared images (20 to train, 10 val, 10 test) and 20 copies."""
    splits = ["train", "train", "val", "test"] * 10
    ids = write(folder / "prepared", splits, seed=1)
    parents = [name for name, split in zip(ids, splits, strict=True) if split == "train"]
    write(folder / "augmented", ["train"] * 20, seed=2, parents=parents)
    return folder


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return prepared_in(tmp_path)


def write_params(folder: Path, **changes: Any) -> None:
    compute = {"backend": "auto", "cluster": None, "workers": "auto", "device": "cpu"}
    YAML(typ="safe", pure=True).dump({"embed": {**EMBED, **changes}, "compute": compute}, folder / "params.yaml")


def stage(folder: Path, **changes: Any) -> Features:
    write_params(folder, **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["embed", *ARGUMENTS])
        embed.main()
    return Features.open(folder / "features")


def test_without_a_backbone_the_folder_says_so(workspace: Path) -> None:
    features = stage(workspace, backbone="none")
    assert features.backbone is None
    assert stage(workspace, backbone="none", image_size=[99, 99], seed=8).digest == features.digest


def test_without_a_backbone_nothing_heavy_is_loaded(workspace: Path) -> None:
    write_params(workspace, backbone="none")
    code = (
        "import sys; from pipelines import embed; embed.main()\n"
        "print(sorted({'keras', 'tensorflow', 'onnxruntime', 'pandas', 'cv2', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *ARGUMENTS],
        cwd=workspace,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "[]", done.stderr
    assert done.stderr == "embed: skipped (embed.backbone is none)\n"


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        (
            {"backbone": "efficientnet-lite"},
            ParamsError,
            "unknown backbone 'efficientnet-lite'; did you mean '.*-lite0'",
        ),
        ({"image_size": [32, 16]}, ParamsError, r"image_size is \[32, 16\], expected at least \[32, 32\]"),
        ({"image_size": [32]}, ParamsError, r"embed.image_size is \[32\]: .*at least 2 items"),
        ({"weights": "imagenette"}, ParamsError, "embed.weights is 'imagenette': expected 'imagenet' or 'none' or "),
        ({"weights": {"path": "no.h5", "sha256": None}}, DataError, "no such file: .*no.h5"),
        (
            {"max_images": 1},
            ParamsError,
            "embed.max_images is 1, fewer than the 2 classes; raise it, or set null for all 40",
        ),
        ({"max_image": 1}, ParamsError, "embed has an unknown key 'max_image'; known keys: backbone, image_size"),
    ],
)
def test_a_wrong_setting_is_answered_before_keras_is_loaded(
    workspace: Path, changes: dict[str, Any], kind: type[DarkroomError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(workspace))
    monkeypatch.setitem(sys.modules, "keras", None)  # to import it is an ImportError now
    with pytest.raises(kind, match=message):
        stage(workspace, **changes)
    assert not (workspace / "features").exists()


def test_data_without_validation_images_are_refused(workspace: Path) -> None:
    write(workspace / "prepared", ["train", "test"] * 5, seed=1)
    write(workspace / "augmented", [], seed=2)
    with pytest.raises(DataError, match="prepared: no training or validation images; run `dvc repro prep"):
        stage(workspace)


def chosen(folder: Path, **changes: Any) -> np.ndarray:
    prepared, augmented = Dataset.open(folder / "prepared"), Dataset.open(folder / "augmented")
    settings = {"max_images": EMBED["max_images"], "seed": EMBED["seed"], **changes}
    return chosen_rows(prepared, augmented, **settings)["train"]


def test_a_cap_takes_originals_first_and_as_many_of_each_class(workspace: Path) -> None:
    rows = chosen(workspace, max_images=24)
    assert rows[:, 0].tolist() == [0] * 20 + [1] * 4
    assert rows[:20, 1].tolist() == Dataset.open(workspace / "prepared").rows("train").tolist()
    assert np.bincount(rows[20:, 1] % 2).tolist() == [2, 2]
    assert len(chosen(workspace, max_images=40)) == len(chosen(workspace)) == 40


def test_near_duplicates_and_copies_share_a_group(workspace: Path) -> None:
    groups = chosen(workspace)[:, 2]
    assert groups[0] == groups[1]
    assert len(np.unique(groups)) == 19
    np.testing.assert_array_equal(groups[:20], groups[20:])


def test_data_without_copies_have_rows_too(workspace: Path) -> None:
    write(workspace / "augmented", [], seed=2)
    assert [len(chosen(workspace, max_images=cap)) for cap in (10, 30, None)] == [10, 20, 20]


@pytest.fixture(scope="module")
def network() -> Any:
    """The extractor whose weights the stage draws: it takes seconds to build."""
    from darkroom.networks.backbones.extractor import extractor

    return extractor("efficientnet-lite0", image_shape=SHAPE, image_size=(32, 32), seed=7)


@pytest.mark.heavy
def test_features_are_those_of_the_extractor_for_each_image(
    workspace: Path, network: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    features = stage(workspace)
    assert (features.backbone, features.weights, features.image_size) == ("efficientnet-lite0", "none", (32, 32))
    prepared, augmented = Dataset.open(workspace / "prepared"), Dataset.open(workspace / "augmented")
    pictures = {
        "train": np.concatenate([prepared.images[prepared.rows("train")], augmented.images[:]]),
        "val": prepared.images[prepared.rows("val")],
    }
    labels = {
        "train": np.concatenate([prepared.labels[prepared.rows("train")], augmented.labels]),
        "val": prepared.labels[prepared.rows("val")],
    }
    for split, count in (("train", 40), ("val", 10)):
        found, classes = features.arrays(split)
        assert found.shape == (count, 1280)
        expected = network.predict(pictures[split], verbose=0)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.max())
        np.testing.assert_array_equal(classes, labels[split])
    features.check_origin(prepared_digest=prepared.manifest["digest"], augmented_digest=augmented.manifest["digest"])
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("embed: 1280 features of 40 training images (of 40, copies included) and 10 validation im")


@pytest.fixture(scope="module")
def capped(tmp_path_factory: pytest.TempPathFactory) -> Features:
    """Features of at most 24 training images; each run of the stage takes seconds."""
    return stage(prepared_in(tmp_path_factory.mktemp("capped")), max_images=24)


@pytest.mark.heavy
def test_equal_settings_give_equal_features(workspace: Path, capped: Features) -> None:
    assert (len(capped.arrays("train")[0]), len(capped.arrays("val")[0])) == (24, 10)
    assert stage(workspace, max_images=24).digest == capped.digest


@pytest.mark.heavy
def test_features_of_a_file_of_weights_are_bound_to_its_content(
    workspace: Path, capped: Features, network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from darkroom.networks.backbones.extractor import backbone_network
    from darkroom.networks.backbones.table import find_backbone
    from darkroom.networks.backbones.weights import obtain_weights

    monkeypatch.setenv("DVC_ROOT", str(workspace))
    expected, file = capped.arrays("val")[0], workspace / "mine.weights.h5"
    backbone_network(network).save_weights(file)
    features = stage(workspace, max_images=4, seed=8, weights={"path": file.name, "sha256": None})
    np.testing.assert_allclose(features.arrays("val")[0], expected, rtol=1e-3, atol=1e-3 * expected.max())
    assert features.weights == {"path": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    assert features.weights_origin == "file"
    file.write_bytes(b"another")
    with pytest.raises(DataError, match=r"mine.weights.h5 has the wrong checksum: .*to recompute the features"):
        obtain_weights(find_backbone("efficientnet-lite0"), features.weights)
