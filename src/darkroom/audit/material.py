"""What labels are judged by: features of the frozen backbone, pixels or networks, and answers on test images.

Nothing is judged by a model that was trained on its label.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from darkroom.audit import pixels
from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.features import SPLITS, Features
from darkroom.data.arrays.selection import Selection
from darkroom.errors import DataError, ParamsError
from darkroom.evaluation.predictions import read_predictions
from darkroom.files.writing import read_json
from darkroom.project.console import say
from darkroom.project.params import read_params, validated
from darkroom.training import folds, overrides
from darkroom.training.params import TrainParams
from darkroom.training.recipe import Recipe

SOURCES = ("auto", "features", "pixels", "network")
N_FEATURES = 512  # principal components for the heads: half the time of 1,280


class Vectors(NamedTuple):
    """Images as vectors, for heads and neighbours.

    Attributes:
        rows: int64 (n,), of the prepared images.
        values: float32 (n, D).
        groups: int64 (n,): near-duplicates share a number.
        name: of the values, for messages.
    """

    rows: np.ndarray
    values: np.ndarray
    groups: np.ndarray
    name: str


class Answers(NamedTuple):
    """The answers of the last evaluation's winner on images that it was not trained on.

    Attributes:
        rows: int64 (n,), of the prepared images.
        probabilities: (n, classes), columns in the order of the dataset's classes.
    """

    rows: np.ndarray
    probabilities: np.ndarray


def vectors(prepared: Dataset, features: Path, *, source: str, copies: np.ndarray, rows: np.ndarray) -> Vectors:
    """Return the images as features of the backbone if they were computed, else as random features of their pixels.

    Args:
        features: data/features.
        source: a name of SOURCES; auto: features if there are any; network: pixels, to find neighbours.
        copies, rows: small copies of these rows of prepared, see pixels.small_copies.

    Raises:
        DataError: source is features and there are none, or they belong to other images.
    """
    if source in ("auto", "features"):
        found = _features(prepared, features)
        if found is not None:
            return found
        if source == "features":
            raise DataError(f"{features} has no features; set embed.backbone in params.yaml and run `dvc repro embed`")
    groups = prepared.index()["group"].factorize()[0][rows]
    name = "networks that were trained on the others" if source == "network" else "the pixels"
    return Vectors(rows, pixels.waves(copies, seed=0), groups, name)


def _features(prepared: Dataset, directory: Path) -> Vectors | None:
    if not (directory / "manifest.json").exists():
        return None
    opened = Features.open(directory)
    if opened.backbone is None:
        return None
    opened.check_origin(prepared_digest=prepared.manifest["digest"])
    values, numbers = [], []
    for split in SPLITS:
        of_split, rows = opened.arrays(split)[0], opened.rows(split)
        originals = rows[:, 0] == 0
        values.append(of_split[originals])
        numbers.append(rows[originals])
    about = np.concatenate(numbers)
    return Vectors(about[:, 1], np.concatenate(values), about[:, 2], f"the features of {opened.backbone}")


def network_answers(prepared: Dataset, vectors: Vectors, root: Path, *, n_folds: int) -> np.ndarray:
    """Return the out-of-fold probabilities of the first candidate without a backbone.

    It is trained n_folds times, with its settings in params.yaml and those that `tune` found.

    Returns:
        float32 (n, classes), in the order of vectors.

    Raises:
        ParamsError: params.yaml has no such candidate, or its settings do not suit the images.
    """
    name, recipe = candidate_recipe(root)
    say(f"audit: {name} is trained {n_folds} times, without the images whose labels it judges")
    return folds.out_of_fold(
        recipe,
        Selection([(prepared.images, vectors.rows)]),
        prepared.labels[vectors.rows],
        groups=vectors.groups,
        classes=prepared.classes,
        n_folds=n_folds,
        device=str(read_params(root / "params.yaml").get("compute", {}).get("device", "auto")),
        say=lambda line: say(f"audit: {name}: {line}"),
    )


def candidate_recipe(root: Path) -> tuple[str, Recipe]:
    """Return the name and the settings of the first candidate without a backbone.

    Raises:
        ParamsError: params.yaml has none, or its settings are wrong.
    """
    params = read_params(root / "params.yaml")
    for name in params.get("candidates", []):
        section = (params.get("train") or {}).get(name) or {}
        if (section.get("architecture") or {}).get("name", "transfer") != "transfer":
            settings = validated(section, TrainParams, name=f"train.{name}", path=root / "params.yaml").model_dump()
            best = root / "models" / name / "best.yaml"
            return name, overrides.with_best(settings, best)[0] if best.exists() else settings
    raise ParamsError(
        f"{root / 'params.yaml'}: every candidate uses a backbone, so no network can judge the labels; pass "
        "--by features"
    )


def answers(prepared: Dataset, reports: Path) -> Answers | None:
    """Return the winner's answers on the test and the recent images; None if these have not been evaluated.

    Args:
        reports: the directory of evaluation.json and predictions.parquet.
    """
    if not (reports / "evaluation.json").exists():
        return None
    winner = read_json(reports / "evaluation.json")["winner"]
    index = prepared.index()
    row_of = dict(zip(index["id"], index["row"], strict=True))
    rows, probabilities = [], []
    for split in ("test", "recent"):
        said = read_predictions(reports / "predictions.parquet", winner, split=split)
        n_known = sum(one in row_of for one in said.ids.tolist())
        if n_known < len(said.ids) or said.probabilities.shape[1:] != (len(prepared.classes),) * (len(said.ids) > 0):
            return None  # of other data
        rows += [row_of[one] for one in said.ids.tolist()]
        probabilities.append(said.probabilities.reshape(-1, len(prepared.classes)))
    return Answers(np.array(rows, np.int64), np.concatenate(probabilities))
