"""The options of `darkroom serve`: where they come from, and what is refused before anything is served."""

import json
from dataclasses import fields
from typing import Any

import pytest
from typer.main import get_command

from darkroom.cli import serving
from darkroom.cli.main import app
from darkroom.errors import ParamsError
from tests.support.command_line import darkroom, run

EVERYWHERE = "0.0.0.0"  # noqa: S104


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such file; expected YAML with a section serve"),
        ("port: 8000", "expected a section serve with options, such as"),
        ("serve: [8000]", "expected a section serve with options, such as"),
        ("serve: {prot: 8000}", "serve has an unknown key 'prot'; did you mean 'port'?"),
        ("serve: {config: other.yaml}", "serve has an unknown key 'config'; known keys: model, alias,"),
        ("serve: {token: abc}", "serve has an unknown key 'token'"),
        ("serve: {port: {a: 1}}", "serve.port is {'a': 1}; expected one value"),
        ("serve: {host: [a, b]}", "serve.host is ['a', 'b']; expected one value"),
        ("serve: {port: [8000", "not valid YAML"),
    ],
)
def test_a_file_of_options_that_is_wrong_is_refused(
    tmp_path: Any, monkeypatch: Any, capfd: Any, text: str | None, said: str
) -> None:
    if text is not None:
        (tmp_path / "serve.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    code, out, err = run(monkeypatch, capfd, "serve", "--config", "serve.yaml")
    assert (code, out, err.startswith("error: "), said in err) == (2, "", True, True)


@pytest.mark.parametrize("source", ["command", "variable", "file"])
def test_a_value_of_the_wrong_kind_is_refused(tmp_path: Any, monkeypatch: Any, capfd: Any, source: str) -> None:
    (tmp_path / "serve.yaml").write_text("serve: {max-images: many}" if source == "file" else "serve: {max_images: 5}")
    if source == "variable":
        monkeypatch.setenv("DARKROOM_SERVE_MAX_IMAGES", "many")
    given = ["--max-images", "many"] if source == "command" else []
    code, _, err = run(monkeypatch, capfd, "serve", "--config", str(tmp_path / "serve.yaml"), *given)
    assert (code, "Invalid value for '--max-images'" in err) == (2, True)


@pytest.mark.parametrize("value", ["change-me", "secret", "k8q2w9", ""])
@pytest.mark.parametrize("source", ["file", "variable"])
def test_a_placeholder_is_refused_wherever_it_comes_from(
    tmp_path: Any, monkeypatch: Any, source: str, value: str
) -> None:
    (tmp_path / "token").write_text(f"{value}\n")
    monkeypatch.setenv("DARKROOM_SERVE_TOKEN", "k8q2w9e7r1f0z3" if source == "file" else value)
    with pytest.raises(ParamsError, match=r"token: .*; set a token that `openssl rand -hex 32`|TOKEN: .*; set a token"):
        serving._token(tmp_path / "token" if source == "file" else None)


@pytest.mark.parametrize("given", ["../up?", "a b", "//x//y", "/a#b"])
def test_a_prefix_that_is_no_path_is_refused(given: str) -> None:
    with pytest.raises(ParamsError, match="--root-path .*: expected a path such as /darkroom"):
        serving._root_path(given)


@pytest.mark.parametrize(
    "given", ["shop.example", "https://shop.example/", "https://a/b", "null", "https://*.example", ""]
)
def test_what_is_no_origin_is_refused(given: str) -> None:
    with pytest.raises(ParamsError, match="--cors-origin .*: expected scheme and host"):
        serving._origins(["https://shop.example", given])


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("host", "token", "warned"),
    [(EVERYWHERE, "", True), (EVERYWHERE, "k8q2w9e7r1f0z3", False), ("localhost", "", False)],
)
def test_an_address_open_to_all_without_a_token_is_warned_of(
    tmp_path: Any, monkeypatch: Any, host: str, token: str, warned: bool
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    if token:
        monkeypatch.setenv("DARKROOM_SERVE_TOKEN", token)
    ended = darkroom("serve", "--model", "pets", "--host", host, "--port", "0")
    *lines, error = ended.stderr.decode().splitlines()
    assert (ended.returncode, error.startswith("error: no model is registered as 'pets'")) == (1, True)
    events = [(line["event"], "set a token with --token-file" in line["message"]) for line in map(json.loads, lines)]
    assert events == ([("no_token", True)] if warned else [])


def test_a_host_that_is_no_name_is_refused() -> None:
    from darkroom.serving.server import _bind

    with pytest.raises(ParamsError, match="choose another --host"):
        _bind("a" * 64, 0)


@pytest.mark.parametrize("option", ["--keep-images", "--log-days", "--log-mb"])
def test_what_is_kept_of_a_log_needs_a_log(option: str, monkeypatch: Any, capfd: Any) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the command leaves SIGTERM as the system has it
    code, _, err = run(monkeypatch, capfd, "serve", option, "1")
    assert (code, f"{option} needs a log's directory; also pass --log" in err) == (2, True)


def test_every_option_has_a_variable_of_its_name(monkeypatch: Any) -> None:
    command = get_command(app).commands["serve"]  # type: ignore[attr-defined]
    context = command.make_context("serve", [], resilient_parsing=True)
    options = [one for one in command.params if one.name != "help"]
    for option in options:
        monkeypatch.setenv(f"DARKROOM_SERVE_{option.name.upper()}", "given")
    assert {option.resolve_envvar_value(context) for option in options} == {"given"}
    assert len(options) == len(fields(serving.ServeOptions))
