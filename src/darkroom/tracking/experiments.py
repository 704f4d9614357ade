"""Create experiments of the MLflow store on first use, with their artifacts beside the store."""

from darkroom.errors import RegistryError
from darkroom.project.locks import store_lock
from darkroom.project.text import redact
from darkroom.tracking.artifacts import artifact_folder, is_gone, refuse_misplaced
from darkroom.tracking.pages import offer_views
from darkroom.tracking.store import client, sqlite_file, store_errors, tracking_uri


def connect(experiment: str) -> str:
    """Return the id of the experiment; create it and the store if necessary.

    Artifacts go to mlartifacts/<experiment> beside a sqlite file, or at the repository's root for other databases; a
    server decides for itself.

    Raises:
        RegistryError: the store does not answer, was copied or moved, or the experiment was deleted, or its artifacts'
            directory is gone.
    """
    opened = client()
    refuse_misplaced()
    uri = tracking_uri()
    location = None if uri.startswith("http") else artifact_folder(uri, experiment).as_uri()
    with store_errors(uri), store_lock("tracking"):
        known = opened.get_experiment_by_name(experiment)
        if known is None:
            created = str(opened.create_experiment(experiment, artifact_location=location))
            offer_views(opened, created, {})
            return created
        if known.lifecycle_stage != "active":
            raise RegistryError(
                f"experiment {experiment!r} was deleted in the MLflow store {redact(uri)}; "
                f"restore it with `mlflow experiments restore --experiment-id {known.experiment_id}`"
            )
        offer_views(opened, known.experiment_id, known.tags)
        is_elsewhere = known.artifact_location != location or (
            # Every run writes an artifact, so the directory exists on another host.
            sqlite_file(uri) is None and opened.search_runs([known.experiment_id], max_results=1)
        )
    if is_gone(known.artifact_location) and is_elsewhere:
        raise RegistryError(
            f"experiment {experiment!r} of the MLflow store {redact(uri)} keeps its artifacts in "
            f"{known.artifact_location}, which does not exist on this machine; mount it here at the same path, let an "
            "MLflow server keep the artifacts, or, if this repository was moved, run `darkroom registry-check --repair`"
        )
    return str(known.experiment_id)


def latest() -> str | None:
    """Return the id of the experiment with the newest run of a stage; None if there is none.

    Raises:
        RegistryError: the store does not answer.
    """
    opened = client()
    with store_errors(tracking_uri()):
        known = {each.experiment_id: each for each in opened.search_experiments()}
        of_stages, newest = "tags.`dvc.stage` LIKE '%'", ["attributes.start_time DESC"]  # others may use the store too
        found = opened.search_runs([*known], of_stages, order_by=newest, max_results=1) if known else []
        if not found:
            return None
        experiment = known[found[0].info.experiment_id]
        offer_views(opened, experiment.experiment_id, experiment.tags)  # for runs of earlier releases
    return str(experiment.experiment_id)
