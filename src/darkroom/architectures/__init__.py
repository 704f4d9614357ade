"""Networks by name. A function takes symbolic pictures (n, H, W, C), scaled to [0, 1], and returns features (n, d)."""

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from darkroom.architectures.articles import single_conv
from darkroom.architectures.compact import compact
from darkroom.errors import ParamsError

ARCHITECTURES: dict[str, Callable[..., Any]] = {"compact": compact, "single_conv": single_conv}


def check_architecture(name: str, arguments: dict[str, Any]) -> None:
    """Refuse an unknown architecture or argument before any data are read.

    Raises:
        ParamsError: names what is known.
    """
    if name not in ARCHITECTURES:
        near = difflib.get_close_matches(name, ARCHITECTURES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ParamsError(f"there is no architecture {name!r}; {hint}known: {', '.join(sorted(ARCHITECTURES))}")
    known = list(inspect.signature(ARCHITECTURES[name]).parameters)[1:]
    if unknown := sorted(set(arguments) - set(known)):
        raise ParamsError(f"architecture {name} has no argument {unknown[0]!r}; known: {', '.join(known)}")
