"""Options that several commands share."""

import inspect
import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperArgument, TyperGroup

from darkroom.errors import ParamsError
from darkroom.project.repository import checkout, repository_root

Model = Annotated[
    str | None, typer.Option("--model", help="Registered model name; default: promote.registered_model in params.yaml.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace params.yaml even if it has uncommitted edits.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]


SPEAKING = {"ALIAS", "DAYS", "MB", "PORT", "SECONDS", "VERSION"}  # last words of options, used as metavars
TYPES = {"int": "INTEGER", "float": "FLOAT", "str": "TEXT", "path": "PATH"}  # typer's words, and those of other tools

OptionsT = TypeVar("OptionsT")


def takes(options: type[OptionsT]) -> Callable[[Callable[[OptionsT], None]], Callable[..., None]]:
    """Return a decorator that turns the fields of a dataclass into options and calls the command with one object.

    Fields are declared as typer's parameters: Annotated[type, typer.Option(...)] = default.
    """

    def decorated(command: Callable[[OptionsT], None]) -> Callable[..., None]:
        @wraps(command)
        def called(**values: Any) -> None:
            command(options(**values))

        called.__signature__ = inspect.signature(options)  # type: ignore[attr-defined]  # typer reads it
        return called

    return decorated


def registered_name(model: str | None) -> str:
    """Return the registered name that a command works on: --model, else promote.registered_model.

    Raises:
        ParamsError: neither is given, or there is no params.yaml.
    """
    if model:
        return model
    from darkroom.project.params import read_params

    try:
        path = checkout() / "params.yaml"
    except ParamsError as error:
        raise ParamsError(f"{error}, or pass --model") from None
    try:
        return str(read_params(path)["promote"]["registered_model"])
    except (KeyError, TypeError):
        raise ParamsError(f"{path}: promote.registered_model is missing; set it, or pass --model") from None


def hold_days() -> float | None:
    """Return promote.hold_days of params.yaml, None if it is null or cannot be read."""
    from darkroom.project.params import read_params

    try:
        return float(read_params(repository_root() / "params.yaml")["promote"]["hold_days"])
    except (ParamsError, KeyError, TypeError, ValueError):
        return None


class Commands(TyperGroup):
    """The commands of an app, with the help texts of other tools: `OUT --port PORT --limit INTEGER`."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, None if there is none of this name."""
        command: Any = super().get_command(ctx, cmd_name)
        if command:
            command.short_help = command.get_short_help_str(limit=sys.maxsize)  # the whole sentence, not 45 characters
        for parameter in command.params if command else ():
            if isinstance(parameter, TyperArgument):  # NAME, [NAME] or NAME..., where typer adds braces and a type
                parameter.metavar = parameter.metavar or parameter.name.upper()
                name = f"{parameter.metavar}..." if parameter.nargs != 1 else parameter.metavar
                pieces = [name if parameter.required else f"[{name}]"]
                vars(parameter).update(
                    get_usage_pieces=lambda ctx, pieces=pieces: pieces,  # noqa: ARG005
                    display_type_rich=lambda ctx: "",  # noqa: ARG005
                )
            elif parameter.metavar is None and not parameter.is_flag:
                kind = parameter.display_type(ctx).strip("<>").partition(" ")[0]  # of <int range>
                last = parameter.opts[-1].rpartition("-")[2].upper()
                parameter.metavar = last if last in SPEAKING else TYPES.get(kind)
        return command
