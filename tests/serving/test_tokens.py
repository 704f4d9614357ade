import re
import secrets

import pytest

from darkroom.serving.tokens import weakness
from tests.support.project import ROOT


@pytest.mark.parametrize(
    "token",
    [
        "change-me", "changeme", "CHANGE_ME_PLEASE_NOW", "please-change-this-token", "replace-me-with-a-token",
        "your-token-here", "YOUR_SECRET_TOKEN", "placeholder-token", "example-token-123", "<your token>", "<TOKEN>",
        "${DARKROOM_SERVE_TOKEN}", "{{ token }}", "{{token}}", "$(cat token)", "my-secret-token", "supersecrettoken",
        "test-token-1234", "password12345", "admin-admin-admin", "dummy-token-dummy", "the-api-key-is-here", "todo",
        "xxxxxxxxxxxxxxxxxxxx", "darkroom-serve-token", "none-none-none",
    ],
)  # fmt: skip
def test_a_placeholder_is_refused(token: str) -> None:
    assert weakness(token) in ("it is a placeholder", "expected one word of ASCII characters")


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("", "expected one word"),
        ("a b", "expected one word"),
        ("a\nb", "expected one word"),
        ("schlüssel-zum-haus", "expected one word"),
        ("k8q2", "it has 4 characters, fewer than 12"),
        ("k8q2w9e7r1f", "it has 11 characters, fewer than 12"),
        ("123456789012", "it can be guessed"),
        ("abcdefghijklmnop", "it can be guessed"),
        ("k8k8k8k8k8k8k8k8", "it can be guessed"),
    ],
)
def test_what_protects_nothing_is_refused(token: str, why: str) -> None:
    assert why in str(weakness(token))


def test_tokens_drawn_at_random_are_taken() -> None:
    drawn = [draw() for draw in (secrets.token_hex, secrets.token_urlsafe) for _ in range(500)]
    assert [token for token in drawn if weakness(token)] == []


def test_the_tokens_of_all_examples_are_refused() -> None:
    text = "\n".join(path.read_text() for path in (ROOT / "deploy").rglob("*.example"))
    tokens = re.findall(r"^\w*TOKEN=(.*)$", text, re.M)
    assert len(tokens) >= 2
    assert [token for token in tokens if weakness(token) is None] == []
