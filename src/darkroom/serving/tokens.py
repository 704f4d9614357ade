"""Refuse weak bearer tokens: placeholders of examples, and tokens that are easily guessed."""

import re
from itertools import pairwise

SHORTEST = 12  # characters
DIFFERENT = 5  # minimum number of different characters
_TEMPLATE = re.compile(r"[<>{}$]")  # <token>, ${TOKEN}, {{ token }}
_PLACEHOLDER = re.compile(
    r"change(it|me|this)|replace(it|me|this)|placeholder|example|your(api|auth|key|pass|secret|token)"
)
_WORDS = re.compile(  # longer ones first
    "darkroom|password|default|letmein|testing|welcome|access|bearer|qwerty|sample|secret|server|serve|admin|dummy|fixme|"
    "login|local|super|token|value|auth|demo|fill|here|http|none|null|pass|root|test|this|todo|true|user|word|your|"
    "abc|api|bar|dev|foo|key|new|our|the|top|xyz|in|is|me|my|a|x"
)


def weakness(token: str) -> str | None:
    """Return why a token is refused, None if it is accepted.

    >>> weakness("change-me")
    'it is a placeholder'
    """
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        return "expected one word of ASCII characters"
    letters = re.sub(r"[^a-z]", "", token.lower())
    if _TEMPLATE.search(token) or _PLACEHOLDER.search(letters) or (letters and not _WORDS.sub("", letters)):
        return "it is a placeholder"
    if len(token) < SHORTEST:
        return f"it has {len(token)} characters, fewer than {SHORTEST}"
    steps = {ord(after) - ord(before) for before, after in pairwise(token)}
    if len(set(token)) < DIFFERENT or len(steps) <= 2:
        return "it can be guessed"
    return None
