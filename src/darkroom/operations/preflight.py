"""Check what a retraining needs of git and DVC's remote before anything is trained."""

import sys
from pathlib import Path

from ruamel.yaml import YAML

from darkroom.errors import TrainingError
from darkroom.operations.workspace import ANY, INCOMING, LOCK, Workspace
from darkroom.project.merge_conflicts import refuse_conflicts

UNFINISHED = {  # in git's directory
    "MERGE_HEAD": "merge",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
    "rebase-merge": "rebase",
    "rebase-apply": "rebase",
}
REACH_REMOTE = """
import os, sys
from dvc.repo import Repo
try:
    remote = Repo().cloud.get_remote_odb()
    if remote.fs.protocol == "local":
        os.makedirs(remote.path, exist_ok=True)  # as `dvc push` does
    remote.fs.exists(remote.path)
except Exception as error:
    sys.exit("error: " + " ".join(str(error).split()))
"""


def check_merges(root: Path) -> None:
    """Check that the files of DVC have no merge conflicts.

    Raises:
        DataError: a file has conflict markers.
    """
    for path in (root / LOCK, root / "dvc.yaml", *sorted((root / INCOMING).glob("*.dvc"))):
        refuse_conflicts(path)


def check_repository(tree: Workspace) -> None:
    """Check that git can commit here.

    Raises:
        TrainingError: git refuses the repository, a merge or rebase is unfinished, the index is locked, or git has no
            name and address.
    """
    asked = tree.git("rev-parse", "--absolute-git-dir", allowed=ANY)
    if "dubious ownership" in asked.printed:
        raise TrainingError(
            f"git refuses {tree.root}, which belongs to another user; run `git config --global --add safe.directory "
            f"{tree.root}` as the user of this process"
        )
    if asked.status:
        raise TrainingError(
            f"{tree.root} is not a git repository ({asked.last_error}); run `git init`, or retrain without --commit"
        )
    folder = Path(asked.printed.strip())
    for name, what in UNFINISHED.items():
        if (folder / name).exists():
            raise TrainingError(
                f"a {what} is unfinished in {tree.root}; finish it with `git {what} --continue`, or undo it with "
                f"`git {what} --abort`"
            )
    if (folder / "index.lock").exists():
        raise TrainingError(
            f"{folder / 'index.lock'} exists: another git command is running here, or one was killed; if none is "
            "running, delete the file"
        )
    for who in ("AUTHOR", "COMMITTER"):
        if tree.git("var", f"GIT_{who}_IDENT", allowed=ANY).status:
            raise TrainingError(
                "git has no name and address to commit under; set them with `git config user.name NAME` and "
                f"`git config user.email ADDRESS`, or GIT_{who}_NAME and GIT_{who}_EMAIL"
            )


def check_commit(tree: Workspace) -> None:
    """Check that HEAD is on a branch, and that the inputs of the pipeline are committed.

    Raises:
        TrainingError: HEAD is detached, or an input of the pipeline differs from the commit.
    """
    if tree.git("symbolic-ref", "--quiet", "HEAD", allowed=(0, 1)).status:
        raise TrainingError(
            "HEAD is detached: a commit would be on no branch and get lost; check out a branch, as in `git switch main`"
        )
    command = ("status", "--porcelain", "--untracked-files=all", "--", *_inputs(tree.root))
    if changed := [line[3:] for line in tree.git(*command).printed.splitlines()]:
        more = f" and {len(changed) - 1} more" if changed[1:] else ""
        raise TrainingError(
            f"{changed[0]}{more} differs from the last commit, and --commit commits only dvc.lock and new images: the "
            "commit would not show what was trained; commit or undo the change first"
        )


def check_remotes(tree: Workspace) -> None:
    """Check that the branch has an upstream, and that DVC's remote answers.

    Raises:
        TrainingError: the branch has no upstream, or DVC has no usable remote.
    """
    if tree.git("rev-parse", "--verify", "--quiet", "@{upstream}", allowed=ANY).status:
        branch = tree.git("rev-parse", "--abbrev-ref", "HEAD").printed.strip()
        raise TrainingError(
            f"the branch {branch} has no upstream to push to; set it with `git push --set-upstream origin {branch}`, "
            "or retrain without --push"
        )
    reached = tree.run([sys.executable, "-c", REACH_REMOTE], shown="DVC", allowed=ANY)
    if reached.status:
        raise TrainingError(
            f"DVC's remote cannot be used: {reached.last_error}; correct it with `dvc remote add --default` or "
            "`dvc remote modify`, or retrain without --push"
        )


def check_push(tree: Workspace) -> None:
    """Check that git may push, after a pull.

    Raises:
        TrainingError: the remote does not answer, or refuses.
    """
    pushed = tree.git("push", "--dry-run", "--quiet", allowed=ANY)
    if pushed.status:
        raise TrainingError(
            f"`git push --dry-run` failed: {pushed.last_error}; correct address or rights of the remote, or retrain "
            "without --push"
        )


def _inputs(root: Path) -> list[str]:
    """Return the inputs of the stages other than data: dvc.yaml, params.yaml and their dependencies."""
    stages = YAML(typ="safe", pure=True).load(root / "dvc.yaml")["stages"].values()
    deps = {str(next(iter(dep)) if isinstance(dep, dict) else dep) for stage in stages for dep in stage.get("deps", [])}
    inside = {dep for dep in deps if not dep.startswith(("/", "~", "..")) and "://" not in dep}
    return sorted({"dvc.yaml", "params.yaml", *inside} - {INCOMING.as_posix()})
