"""Texts for people: names on one line, URIs without passwords, the nearest known word."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any


def first_line(error: BaseException) -> str:
    """Return the first line of what an error of a library says, or its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def shown(name: str) -> str:
    """Return the name in quotes, on one line."""
    return f"'{escaped(name)}'"


def escaped(name: str) -> str:
    """Return the name with newlines and what else cannot be printed spelled out: one line, whatever the name."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def json_line(value: Any) -> str:
    """Return a value as JSON that may be shown on a terminal: letters as they are, what cannot be printed escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def utf8(name: str) -> str:
    r"""Return the name with bytes that are not UTF-8 (which Python keeps as surrogates) spelled out as "\udcNN"."""
    return name.encode("utf-8", "backslashreplace").decode()


def redact(uri: str) -> str:
    """Return the URI without its password, wherever it stands: before the host, or behind `?`."""
    uri = re.sub(r"(://[^:/@\s]*):\S*@", r"\1:***@", uri)
    return re.sub(r"([?&](?:password|passwd|pwd|token)=)[^&\s]*", r"\1***", uri)


def reason(error: BaseException) -> str:
    """Return the first line of what a store's error says, without passwords, and at most 300 characters of it."""
    return redact(first_line(error)[:300])


def did_you_mean(word: str, known: Iterable[str], *, n: int = 1, cutoff: float = 0.6) -> str:
    """Return "; did you mean 'x' or 'y'?" with the nearest known words, or nothing if none is near.

    Args:
        word: what came.
        known: what may come.
        n: how many words at most.
        cutoff: smallest similarity of a near word, in [0, 1] (difflib.SequenceMatcher.ratio).

    >>> did_you_mean("transfr", ["cnn", "transfer"])
    "; did you mean 'transfer'?"
    """
    near = get_close_matches(word, known, n=n, cutoff=cutoff)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def written(value: Any) -> str:
    """Return a setting's value as params.yaml would write it; floats are rounded to 3 digits."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def in_short(settings: Mapping[str, Any]) -> str:
    """Return `learning_rate=0.01 optimizer=sgd`: of each dotted key the last part that tells it from the others."""
    short = {key: key.removesuffix(".name").rpartition(".")[2] for key in settings}
    times = Counter(short.values())
    return " ".join(
        f"{short[key] if times[short[key]] == 1 else key}={written(value)}" for key, value in settings.items()
    )


def percent(fraction: float | None) -> str:
    """Return a fraction in percent with two decimals, and a dash where there is none."""
    return "–" if fraction is None else f"{fraction:.2%}"


def ordinal(number: int) -> str:
    """Return a positive number as an ordinal: 1st, 2nd, 3rd, 4th, 11th, 21st."""
    last = number % 10 if number // 10 % 10 != 1 else 0
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(last, 'th') }"
