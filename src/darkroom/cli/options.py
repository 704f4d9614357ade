"""Options that several commands share."""

from typing import Annotated

import typer

from darkroom.errors import ParamsError
from darkroom.project.repository import repository_root

Model = Annotated[
    str | None, typer.Option("--model", help="Registered name; without it promote.registered_model of params.yaml.")
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]


def registered_name(model: str | None) -> str:
    """Return the registered name that a command works on: what --model says, else what params.yaml says.

    Raises:
        ParamsError: neither says one.
    """
    if model:
        return model
    from darkroom.project.params import read_params

    path = repository_root() / "params.yaml"
    try:
        return str(read_params(path)["promote"]["registered_model"])
    except (KeyError, TypeError):
        raise ParamsError(f"{path}: promote lacks the key 'registered_model'; set it, or pass --model") from None
