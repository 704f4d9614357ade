"""Addresses of pages of MLflow's UI, and saved views of an experiment's runs.

The UI of MLflow 3 opens in its mode for language models, in which an experiment of trainings looks empty; the addresses
here select the other mode. They begin with `#`, so they work after a server's address and as links in descriptions.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODE = "workflowType=machine_learning"
NOTE = "mlflow.note.content"  # MLflow's tag for the description of a run
VIEW = "mlflow.sharedViewState."  # MLflow's tag of an experiment for a saved view, with the view's key behind it
TRAINED, TRIALS = "darkroom-trained", "darkroom-trials"  # keys of views
NAME_WIDTH = 360  # pixels of the column with a run's name


def runs_page(experiment_id: str, view: str = TRAINED) -> str:
    """Return the address of an experiment's table of runs."""
    return f"#/experiments/{experiment_id}/runs?{MODE}&viewStateShareKey={view}"


def run_page(experiment_id: str, run_id: str, artifact: str = "") -> str:
    """Return the address of a run, or of one of its artifacts."""
    path = f"#/experiments/{experiment_id}/runs/{run_id}"
    return f"{path}/artifacts/{quote(artifact)}?{MODE}" if artifact else f"{path}?{MODE}"


def version_page(name: str, version: str) -> str:
    """Return the address of a version of a registered model."""
    return f"#/models/{quote(name, safe='')}/versions/{version}?{MODE}"


def offer_views(opened: "MlflowClient", experiment_id: str, tags: Mapping[str, str]) -> None:
    """Save missing views of an experiment's runs; views that somebody changed are kept.

    Args:
        tags: of the experiment.
    """
    for key, value in VIEWS.items():
        if VIEW + key not in tags:
            opened.set_experiment_tag(experiment_id, VIEW + key, value)


def _view(name: str, *, of: str, columns: Sequence[str]) -> str:
    """Return a saved view in the format of MLflow's UI: filter, order, and columns from left to right.

    Args:
        name: shown in the menu "Views".
        of: the filter, in MLflow's search syntax.
        columns: metrics and tags; runs are sorted by the first one, highest first.
    """
    chosen = [f"metrics.`{column}`" if "." not in column else f"tags.`{column}`" for column in columns]
    always = ["attributes.`Run Name`", "runDateAndNestInfo", "duration"]
    state: dict[str, Any] = {
        "searchFilter": of,
        "orderByKey": chosen[0],
        "orderByAsc": False,
        "selectedColumns": chosen,
        "columnOrder": [always[0], *chosen, *always[1:]],
        "columnWidths": {always[0]: NAME_WIDTH, **dict.fromkeys(chosen, 135)},
        "hideEmptyCharts": True,
    }
    return json.dumps({"name": name, "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)})


VIEWS = {
    TRAINED: _view(
        "Trained models",
        of="tags.`dvc.stage` LIKE 'train@%'",
        columns=["val_accuracy", "val_loss", "test_accuracy", "macro_f1", "ece", "latency_ms_p50", "dvc.exp_name"],
    ),
    TRIALS: _view("Tuning trials", of="tags.`trial` LIKE '%'", columns=["val_accuracy", "dvc.stage"]),
}
