"""Record the commit of a retraining on its runs and versions, which are written before the commit exists."""

from collections.abc import Iterable, Mapping

from darkroom.errors import RegistryError
from darkroom.files.writing import read_json, sha256_of
from darkroom.operations.workspace import ANY, LOCK, Workspace
from darkroom.project.console import say
from darkroom.registry import versions
from darkroom.registry.versions import Version

LOCK_COMMIT = "dvc.lock.commit"  # tag: the first commit whose dvc.lock has this training


def trained_runs(tree: Workspace) -> dict[str, str]:
    """Return the run ids of the models in the work tree by candidate."""
    files = sorted((tree.root / "models").glob("*/run.json"))
    return {file.parent.name: str(read_json(file)["run_id"]) for file in files}


def record(tree: Workspace, model: str, *, new: bool) -> None:
    """Tag the runs and versions of the models in the work tree with the commit whose dvc.lock names them.

    A tag is kept as long as its commit is in the history; a commit that was rebased is replaced. Errors are logged, and
    the next retraining tries again.

    Args:
        model: the registered name.
        new: whether dvc.lock was just committed; otherwise only versions without the tag are considered.
    """
    if LOCK not in tree.committed([LOCK]):
        return
    commit = tree.git("log", "-1", "--format=%H", "--", LOCK).printed.strip()
    try:
        lacking = _record_on_versions(tree, model, commit)
        if lacking or new:
            _record_on_runs(
                tree, {*trained_runs(tree).values(), *filter(None, (one.run_id for one in lacking))}, commit
            )
    except RegistryError as error:
        say(f"retrain: the commit {commit[:12]} could not be recorded in MLflow: {error}")


def _record_on_versions(tree: Workspace, model: str, commit: str) -> list[Version]:
    """Return the versions of the models in the work tree that lacked the tag."""
    sums = {sha256_of(file) for file in (tree.root / "models").glob("*/model.onnx")}
    found = [one for one in versions.read(model).versions.values() if one.model_sha256 in sums]
    lacking = [one for one in found if not _holds(tree, one.tags)]
    if lacking:
        from darkroom.registry.ledger import Mark, ledger

        with ledger(model) as book:
            book.move([], [Mark(one.version, LOCK_COMMIT, commit) for one in lacking])
    return lacking


def _record_on_runs(tree: Workspace, run_ids: Iterable[str], commit: str) -> None:
    from darkroom.tracking import runs

    for run_id in run_ids:
        tags = runs.tags_of(run_id)
        if tags is not None and not _holds(tree, tags):
            with runs.reopen(run_id) as run:
                run.set_tags({LOCK_COMMIT: commit})


def _holds(tree: Workspace, tags: Mapping[str, str]) -> bool:
    """Return whether the tag names a commit of the history, or one that this (perhaps shallow) clone lacks."""
    if LOCK_COMMIT not in tags:
        return False
    asked = tree.git("merge-base", "--is-ancestor", tags[LOCK_COMMIT], "HEAD", allowed=ANY)
    return asked.status != 1  # 0: in the history; 1: not; 128: unknown to git
