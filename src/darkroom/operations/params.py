"""The settings of scheduled retraining, read by `darkroom retrain` and `check`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from darkroom.errors import ParamsError
from darkroom.project.params import Section, load_section, read_params
from darkroom.project.repository import checkout

Days = Annotated[float, Field(gt=0)]
Text = Annotated[str, Field(min_length=1)]


class NotifyParams(Section):
    """The recipients of the result of a retraining."""

    command: Text | None
    webhook: Text | None
    heartbeat: bool
    timeout_seconds: int = Field(ge=1, le=600)

    @field_validator("webhook")
    @classmethod
    def _is_http(cls, webhook: str | None) -> str | None:
        if webhook is not None and not webhook.startswith(("http://", "https://")):
            raise ValueError("expected null, or a URL that begins with http:// or https://")
        return webhook


class RetrainParams(Section):
    """The section `retrain` of params.yaml."""

    mode: Literal["worktree", "experiment"]
    min_new_images: int = Field(ge=1)
    max_champion_age_days: Days | None
    drift_log: Text | None
    drift_days: Days
    min_recent_accuracy: Annotated[float, Field(gt=0, le=1)] | None
    min_labelled_images: int = Field(ge=1)
    notify: NotifyParams

    @model_validator(mode="after")
    def _has_a_log(self) -> Self:
        if self.min_recent_accuracy is not None and self.drift_log is None:
            raise ValueError("min_recent_accuracy needs the log of predictions; set drift_log too")
        return self


@dataclass(frozen=True)
class Order:
    """The options of one retraining, and the params that it needs.

    Attributes:
        root: of the repository, and the current directory.
        model: the registered name.
        folders: download's sources of kind path.
        max_image_bytes: of preprocess.
        force: whether to run every stage again.
        commit: whether to commit dvc.lock and the .dvc files of new images afterwards.
        push: whether to push the commit and DVC's cache.
    """

    params: RetrainParams
    root: Path
    model: str
    folders: Sequence[str]
    max_image_bytes: int
    force: bool = False
    commit: bool = False
    push: bool = False


def ordered(*, force: bool, commit: bool, push: bool) -> Order:
    """Return the order for params.yaml and these options, and change to the repository's root.

    Raises:
        ParamsError: params.yaml is invalid, or the current directory is not in a repository.
    """
    root = checkout()
    os.chdir(root)
    params = load_section("retrain", RetrainParams)
    values = read_params(root / "params.yaml")
    try:
        dataset = values["download"]["dataset"]
        sources = dataset["sources"] if isinstance(dataset, dict) else []
        return Order(
            params=params,
            root=root,
            model=str(values["promote"]["registered_model"]),
            folders=[str(source["path"]) for source in sources if source["kind"] == "path"],
            max_image_bytes=int(values["preprocess"]["max_image_bytes"]),
            force=force,
            commit=commit or push,
            push=push,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ParamsError(
            f"{root / 'params.yaml'}: download, preprocess or promote is invalid ({error}); `dvc repro check` shows "
            "where"
        ) from None
