"""Options that several commands share."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, TypeVar

import typer

from darkroom.errors import ParamsError
from darkroom.project.repository import repository_root

Model = Annotated[
    str | None, typer.Option("--model", help="Registered model name; default: promote.registered_model in params.yaml.")
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]


OptionsT = TypeVar("OptionsT")


def takes(options: type[OptionsT]) -> Callable[[Callable[[OptionsT], None]], Callable[..., None]]:
    """Return a decorator: the fields of this dataclass become the command's options, and it is called with one object.

    A field is declared as typer has a parameter declared: Annotated[type, typer.Option(...)] = default.
    """

    def decorated(command: Callable[[OptionsT], None]) -> Callable[..., None]:
        @wraps(command)
        def called(**values: Any) -> None:
            command(options(**values))

        called.__signature__ = inspect.signature(options)  # type: ignore[attr-defined]  # what typer asks for
        return called

    return decorated


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
        raise ParamsError(f"{path}: promote.registered_model is missing; set it, or pass --model") from None
