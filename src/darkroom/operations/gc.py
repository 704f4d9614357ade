"""Find and delete what is no longer needed in this repository's stores.

Kept are, for every registered model, the versions under an alias, rolled-back ones (their tag prevents another
promotion) and the newest; the reference versions of their margins; the runs and models of kept versions; the models of
the work tree; and active runs. Metrics, settings and tags of runs and the history of the aliases are always kept.
"""

import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkroom.registry.aliases import ROLLED_BACK
from darkroom.registry.comparisons import REFERENCE
from darkroom.registry.snapshot import Registered
from darkroom.registry.versions import known_names, local_folder, read
from darkroom.tracking.artifacts import refuse_misplaced
from darkroom.tracking.store import client, existing, sqlite_file, store_errors, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

PAGE = 1000  # runs per call
ALL = 3  # mlflow.entities.ViewType.ALL: runs that were deleted in the UI still have files


@dataclass(frozen=True)
class Waste:
    """An item that can be deleted.

    Attributes:
        kind: version | model | run | checkpoint | decision | study | download
        name: the registered model, the run's id, or the file's name.
        n_bytes: on this disk; 0 if the files are elsewhere.
        path: the file or directory to delete; None if the files are elsewhere.
        key: its id in the store: a version's number, a logged model's id.
    """

    kind: str
    name: str
    n_bytes: int
    path: Path | None
    key: str = ""


@dataclass(frozen=True)
class Plan:
    """The items that can be deleted, and the versions to keep per registered model.

    Attributes:
        n_outside: number of items whose files are on this disk outside the repository. They are kept, because another
            repository may need them.
    """

    waste: list[Waste]
    kept: Mapping[str, list[str]]
    n_outside: int

    @property
    def n_bytes(self) -> int:
        """Bytes to delete on this disk."""
        return sum(one.n_bytes for one in self.waste)

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as a dict for JSON."""
        items = [{"kind": one.kind, "name": one.name, "key": one.key, "bytes": one.n_bytes} for one in self.waste]
        return {"bytes": self.n_bytes, "kept": dict(self.kept), "outside": self.n_outside, "items": items}


def kept_versions(registered: Registered, *, keep: int) -> set[str]:
    """Return the numbers of the versions to keep: under an alias, rolled back, or among the `keep` newest.

    The reference version of each one's margin is kept too.
    """
    newest = sorted(registered.versions, key=int, reverse=True)[:keep]
    rolled_back = {number for number, version in registered.versions.items() if ROLLED_BACK in version.tags}
    staying = ({*registered.aliases.values()} | {*newest} | rolled_back) & registered.versions.keys()
    references = {registered.versions[number].tags.get(REFERENCE, number) for number in staying}
    return staying | (references & registered.versions.keys())


def plan(root: Path, *, name: str, keep: int, days: float) -> Plan:
    """Return what can be deleted.

    Args:
        root: of the repository.
        name: the registered model of params.yaml. This repository's own store (a sqlite file) is searched as a whole;
            on a server, which others use too, only this model is considered, and no runs.
        keep: number of newest versions of each model to keep, at least 1.
        days: runs, checkpoints, decisions and studies younger than that are kept.

    Raises:
        RegistryError: the store does not answer, or was copied or moved.
    """
    refuse_misplaced()
    own = sqlite_file(tracking_uri()) is not None
    before = time.time() - days * 86400
    models = {each: read(each) for each in (known_names() if own else [name])}
    kept = {each: kept_versions(registered, keep=keep) for each, registered in models.items()}
    staying = [models[each].versions[number] for each, numbers in kept.items() for number in numbers]
    locations = {version.location.rstrip("/") for version in staying}
    waste = []
    for each, registered in models.items():
        for number in sorted(registered.versions.keys() - kept[each], key=int):
            version = registered.versions[number]
            path = None if version.location.rstrip("/") in locations else _folder_of_model(version.location)
            waste.append(Waste("version", each, _size(path), path, number))
    gone = {one.path for one in waste if one.path}
    if own and any(registered.versions for registered in models.values()):
        needed = {version.run_id for version in staying if version.run_id} | {run for run, _ in _working_models(root)}
        in_use = locations | {f"models:/{model}" for _, model in _working_models(root)}
        waste += [one for one in _in_store(before, runs=needed, models=in_use) if one.path not in gone]
    waste += _in_darkroom(root / ".darkroom", before)
    waste += _downloads(root / ".darkroom" / "models", kept)
    order = {each: sorted(numbers, key=int) for each, numbers in kept.items()}
    inside = [one for one in waste if one.path is None or one.path.resolve().is_relative_to(root.resolve())]
    return Plan(inside, order, len(waste) - len(inside))


def remove(chosen: Plan, *, keep: int) -> None:
    """Delete the items of a plan, except versions that have come under an alias since.

    Items are deleted from the store before their files, so that a reader never finds an entry without files, and the
    next plan finds what a kill leaves.

    Raises:
        LockedError: another process holds the lock of the registry.
        RegistryError: the store refuses.
    """
    versions = [one for one in chosen.waste if one.kind == "version"]
    doomed: list[Waste] = []
    for name in sorted({one.name for one in versions}):
        doomed += _forgotten(name, [one for one in versions if one.name == name], keep=keep)
    doomed += [one for one in chosen.waste if one.kind != "version"]
    for one in doomed:
        if one.kind in ("version", "model"):
            _forget_model(one.path.name if one.path else one.key)
        if one.path and one.path.is_dir():
            shutil.rmtree(one.path)
        elif one.path:
            one.path.unlink(missing_ok=True)


def _forgotten(name: str, versions: list[Waste], *, keep: int) -> list[Waste]:
    """Delete versions of a registered model from the store, except those to keep; return the deleted ones."""
    from darkroom.registry.ledger import ledger

    with ledger(name) as book:
        registered = book.read()
        staying = kept_versions(registered, keep=keep)
        going = [one for one in versions if one.key not in staying]
        for one in going:
            if one.key in registered.versions:
                with book.writing():
                    book.client.delete_model_version(name, one.key)
    return going


def _in_store(before: float, *, runs: Iterable[str], models: Iterable[str]) -> Iterator[Waste]:
    """Yield logged models and artifacts of runs on this disk that are not among `runs` and `models`."""
    opened, needed, in_use = client(), set(runs), set(models)
    experiments = [
        experiment.experiment_id
        for experiment in _pages(lambda token: opened.search_experiments(view_type=ALL, page_token=token))
    ]
    going_on = set()
    for run in _runs(opened, experiments):
        info = run.info
        ended = info.end_time or info.start_time
        if info.status == "RUNNING":
            going_on.add(info.run_id)
        elif info.run_id not in needed and ended / 1000 < before:
            path = local_folder(info.artifact_uri)
            if path and path.is_dir():
                yield Waste("run", f"{info.run_name} {info.run_id}", _size(path), path)
    for model in _models(opened, experiments):
        location = model.artifact_location.rstrip("/")
        used = location in in_use or model.model_uri in in_use or model.source_run_id in going_on
        if not used and model.creation_timestamp / 1000 < before:
            path = _folder_of_model(location)
            yield Waste("model", model.name, _size(path), path, model.model_id)


def _runs(opened: "MlflowClient", experiments: list[str]) -> Iterator[Any]:
    with store_errors(tracking_uri()):
        yield from _pages(
            lambda token: opened.search_runs(experiments, run_view_type=ALL, max_results=PAGE, page_token=token)
        )


def _models(opened: "MlflowClient", experiments: list[str]) -> Iterator[Any]:
    with store_errors(tracking_uri()):
        yield from _pages(lambda token: opened.search_logged_models(experiments, max_results=50, page_token=token))


def _pages(ask: Any) -> Iterator[Any]:
    token = None
    while True:
        page = ask(token)
        yield from page
        if not (token := page.token):
            return


def _in_darkroom(folder: Path, before: float) -> Iterator[Waste]:
    """Yield old checkpoints, decisions and studies; a candidate's present study is kept."""
    in_use = {_study(path) for path in (folder / "tuning").glob("*.json")}
    for kind, pattern in (
        ("checkpoint", "checkpoints/*"),
        ("decision", "decisions/*.json"),
        ("study", "tuning/*.journal*"),
    ):
        for path in sorted(folder.glob(pattern)):
            if kind == "study" and path.name.partition(".journal")[0] in in_use:
                continue
            if _newest(path) < before:
                yield Waste(kind, path.name, _size(path), path)


def _downloads(folder: Path, kept: Mapping[str, Iterable[str]]) -> Iterator[Waste]:
    """Yield downloads of a remote store's versions that are not kept; a kept one would be downloaded again."""
    for path in sorted(folder.glob("*/*")):
        if path.is_dir() and path.name not in kept.get(path.parent.name, ()):
            yield Waste("download", f"{path.parent.name} {path.name}", _size(path), path)


def _working_models(root: Path) -> Iterator[tuple[str, str]]:
    """Yield (run id, id of the logged model) of the candidates in the work tree, which promote may register."""
    for file in (root / "models").glob("*/run.json"):
        try:
            trained = json.loads(file.read_text(encoding="utf-8"))
            yield str(trained["run_id"]), str(trained["model_uri"]).removeprefix("models:/")
        except (OSError, ValueError, KeyError):
            continue


def _study(pointer: Path) -> str:
    try:
        return str(json.loads(pointer.read_text(encoding="utf-8"))["study"])
    except (OSError, ValueError, KeyError):
        return ""


def _forget_model(model_id: str) -> None:
    """Delete a logged model from the store; a version of another kind, or one without local files, has none."""
    if model_id.startswith("m-"):
        opened = client()
        with store_errors(tracking_uri()):
            existing(lambda: opened.delete_logged_model(model_id))


def _folder_of_model(location: str) -> Path | None:
    """Return the directory m-... of a logged model's artifacts, None if it is not on this disk."""
    path = local_folder(location)
    return path.parent if path and path.name == "artifacts" else path


def _size(path: Path | None) -> int:
    if path is None:
        return 0
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file() and not file.is_symlink())


def _newest(path: Path) -> float:
    return max(entry.lstat().st_mtime for entry in (path, *path.rglob("*")))
