"""Texts for people: names on one line, URIs without passwords, the nearest known word."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any


def first_line(error: BaseException) -> str:
    """Return the first line of the message of a library's error, or its type if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def shown(name: str) -> str:
    """Return the name in quotes, on one line."""
    return f"'{escaped(name)}'"


def escaped(name: str) -> str:
    """Return the name on one line, with newlines and other unprintable characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def json_line(value: Any) -> str:
    """Return a value as JSON that is safe to print: letters as they are, unprintable characters escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def utf8(name: str) -> str:
    r"""Return the name with bytes that are not UTF-8 (surrogates in Python) written as "\udcNN"."""
    return name.encode("utf-8", "backslashreplace").decode()


def redact(uri: str) -> str:
    """Return the URI without its password, before the host or in the query."""
    uri = re.sub(r"(://[^:/@\s]*):\S*@", r"\1:***@", uri)
    return re.sub(r"([?&](?:password|passwd|pwd|token)=)[^&\s]*", r"\1***", uri)


def reason(error: BaseException) -> str:
    """Return the first line of a store's error, without passwords, cut to 300 characters."""
    return redact(first_line(error)[:300])


def did_you_mean(word: str, known: Iterable[str], *, n: int = 1, cutoff: float = 0.6) -> str:
    """Return "; did you mean 'x' or 'y'?" with the nearest known words, or "" if none is near.

    Args:
        word: the unknown word.
        known: the valid words.
        n: maximum number of suggestions.
        cutoff: minimum similarity, in [0, 1] (difflib.SequenceMatcher.ratio).

    >>> did_you_mean("transfr", ["cnn", "transfer"])
    "; did you mean 'transfer'?"
    """
    near = get_close_matches(word, known, n=n, cutoff=cutoff)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def written(value: Any) -> str:
    """Return a setting's value as it would be written in params.yaml; floats are rounded to 3 digits."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def in_short(settings: Mapping[str, Any]) -> str:
    """Return `learning_rate=0.01 optimizer=sgd`: dotted keys are shortened as long as they stay distinct."""
    short = {key: key.removesuffix(".name").rpartition(".")[2] for key in settings}
    times = Counter(short.values())
    return " ".join(
        f"{short[key] if times[short[key]] == 1 else key}={written(value)}" for key, value in settings.items()
    )


def percent(fraction: float | None) -> str:
    """Return a fraction in percent with two decimals, or a dash for None."""
    return "–" if fraction is None else f"{fraction:.2%}"


def ordinal(number: int) -> str:
    """Return a positive number as an ordinal: 1st, 2nd, 3rd, 4th, 11th, 21st."""
    last = number % 10 if number // 10 % 10 != 1 else 0
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(last, 'th') }"
