"""The settings of scheduled retraining, read by `darkroom retrain` and, with all others, by `check`."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from darkroom.params import Section

Days = Annotated[float, Field(gt=0)]
Text = Annotated[str, Field(min_length=1)]


class NotifyParams(Section):
    """Who hears what a retraining came to."""

    command: Text | None
    webhook: Text | None
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
    notify: NotifyParams
