"""Pull the commits of others, and push those of retrainings."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from darkroom.errors import TrainingError
from darkroom.files.writing import write_text
from darkroom.operations.triggers import parse_status
from darkroom.operations.workspace import ANY, INCOMING, LOCK, Workspace

UPSTREAM = "@{upstream}"
PUSHES = 3  # attempts, each after pulling the commits that made the previous one fail


def message(report: Mapping[str, Any], runs: Mapping[str, str]) -> str:
    """Return the message of a retraining's commit: the decision, its reasons, and the runs in dvc.lock.

    Args:
        report: contents of reports/retrain.json.
        runs: run ids by candidate.
    """
    fired = [f"- {trigger['reason']}" for trigger in report["triggers"] if trigger["fired"]]
    champion = f"champion {report['version_before'] or 'none'} -> {report['version_after'] or 'none'}"
    subject = f"retrain: {report['registered_model']} {report['decision']}, {champion}"
    lines = [subject, "", "Reasons for the run:", *fired, "", "Decision of promote:", *report["reasons"]]
    return "\n".join([*lines, "", "MLflow runs:", *(f"- {candidate}: {run}" for candidate, run in runs.items())])


def refuse_mixed_images(tree: Workspace) -> None:
    """Fetch, and check that no class has both new images here and pushed changes of others.

    `dvc add` would drop the images of the others, and `dvc pull` those here.

    Raises:
        TrainingError: there is such a class, or the remote does not answer.
    """
    tree.git("fetch", "--quiet")
    named = _images_of_others(tree)
    known = [name for name in named if (tree.root / name).is_file()]
    status = parse_status(tree.dvc("status", "--json", *known).printed) if known else {}
    unsaved = [name for name in known if "modified" in json.dumps(status.get(name, []))]
    folders = {name: (tree.root / name).with_suffix("") for name in named if name not in known}
    unsaved += [name for name, folder in folders.items() if folder.is_dir() and any(folder.iterdir())]
    if unsaved:
        folder = unsaved[0].removesuffix(".dvc")
        raise TrainingError(
            f"{folder} holds new images, and others pushed a change of the same class; move {folder} elsewhere, run "
            f"`git pull --rebase` and `dvc pull {unsaved[0]}`, and add your images to it again"
        )


def catch_up(tree: Workspace, *, on_images: Callable[[list[str]], None]) -> tuple[bool, bool]:
    """Apply the fetched commits; return whether there were any, and whether they replaced our dvc.lock.

    If both sides changed dvc.lock, that of the others is kept: a merged one would be nobody's result, and the next
    `dvc repro` restores ours from DVC's cache.

    Args:
        on_images: called with the .dvc files of new images that the others changed, before the commits are applied.

    Raises:
        TrainingError: git cannot rebase.
    """
    ours, lock = unpushed(tree), _committed_lock(tree)
    moved = _take_over(tree, attribute="merge=upstream", on_images=on_images)
    return moved, ours > 0 and _committed_lock(tree) != lock


def unpushed(tree: Workspace) -> int:
    """Return the number of commits of this branch that its upstream does not have."""
    return int(tree.git("rev-list", "--count", f"{UPSTREAM}..HEAD").printed)


def push(tree: Workspace, *, on_images: Callable[[list[str]], None]) -> None:
    """Push DVC's cache, then git, so that others never see a commit whose data they cannot get.

    If others pushed meanwhile, our commits are rebased and pushed again, unless both changed dvc.lock.

    Args:
        on_images: see catch_up.

    Raises:
        TrainingError: a remote does not answer or refuses; the commits stay here for the next push.
    """
    tree.dvc("push")
    for attempt in range(1, PUSHES + 1):
        ended = tree.git("push", "--quiet", allowed=ANY)
        if ended.status == 0:
            return
        tree.git("fetch", "--quiet")
        if attempt == PUSHES or not _take_over(tree, attribute="-merge", on_images=on_images):
            raise TrainingError(f"`git push` failed: {ended.last_error}")


def _take_over(tree: Workspace, *, attribute: str, on_images: Callable[[list[str]], None]) -> bool:
    """Rebase the branch onto its upstream; return whether it moved.

    Args:
        attribute: of git, if both changed dvc.lock: `-merge` makes a conflict, `merge=upstream` keeps theirs.
    """
    if tree.contains(UPSTREAM):
        return False
    on_images(_images_of_others(tree))
    if tree.contains("HEAD", within=UPSTREAM):
        ended = tree.git("merge", "--quiet", "--ff-only", UPSTREAM, allowed=ANY)  # keeps uncommitted changes
        if ended.status:
            raise TrainingError(
                f"the commits pushed by others cannot be taken over: {ended.last_error} Commit or undo the uncommitted "
                "changes that `git status` shows"
            )
        return True
    attributes = tree.log.with_name("attributes")
    write_text(attributes, f"{LOCK} {attribute}\n")
    settings = ("-c", f"core.attributesFile={attributes}", "-c", "merge.upstream.driver=true")  # true: keeps theirs
    ended = tree.git(*settings, "rebase", "--quiet", "--no-autostash", UPSTREAM, allowed=ANY)
    if ended.status:
        tree.git("rebase", "--abort", allowed=ANY)
        raise TrainingError(
            f"the commits here cannot be moved behind those pushed by others: {ended.last_error}; do it by hand with "
            "`git pull --rebase`"
        )
    return True


def _images_of_others(tree: Workspace) -> list[str]:
    """Return the .dvc files of new images that the upstream changed since its merge base with HEAD."""
    paths = ("--", f"{INCOMING.as_posix()}/*.dvc")
    return tree.git("diff", "--name-only", f"HEAD...{UPSTREAM}", *paths).printed.splitlines()


def _committed_lock(tree: Workspace) -> str:
    """Return git's hash of dvc.lock in the checked-out commit."""
    return tree.git("rev-parse", "--verify", "--quiet", f"HEAD:{LOCK}", allowed=ANY).printed
