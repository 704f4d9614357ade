"""The part of the pages that the code says itself. MkDocs calls `on_page_markdown`, which replaces the lines

<!-- commands: NAME ... -->    by what `darkroom NAME --help` prints
<!-- params: SECTION ... -->   by a table of the settings of these sections of params.yaml
<!-- networks -->              by a table of the settings of every architecture
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from typer.main import get_command

from darkroom.cli import main
from darkroom.data.augmentation.params import AugmentParams
from darkroom.data.preparation.params import PreprocessParams
from darkroom.evaluation.params import EvaluateParams
from darkroom.networks.backbones.params import EmbedParams
from darkroom.operations.params import RetrainParams
from darkroom.project.params import ComputeParams
from darkroom.promotion.params import PromoteParams
from darkroom.training import params as training
from darkroom.tuning.params import TuneParams

ROOT = Path(__file__).parents[1]
MODELS: dict[str, type[BaseModel]] = {
    "preprocess": PreprocessParams,
    "augment": AugmentParams,
    "embed": EmbedParams,
    "tune": TuneParams,
    "train.cnn": training.TrainParams,
    "evaluate": EvaluateParams,
    "promote": PromoteParams,
    "retrain": RetrainParams,
    "compute": ComputeParams,
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page with its marked lines replaced."""

    def made(mark: re.Match[str]) -> str:
        kind, names = mark[1], (mark[2] or "").split()
        return commands(names) if kind == "commands" else params(names) if kind == "params" else networks()

    return re.sub(r"^<!-- (commands|params|networks)(?:: (.*))? -->$", made, markdown, flags=re.M)


def commands(names: list[str]) -> str:
    """Return what `--help` of each command prints."""
    app: Any = get_command(main.app)
    context = app.make_context("darkroom", [], resilient_parsing=True)
    texts = []
    for name in names:
        command = app.get_command(context, name)
        inside = command.context_class(command, info_name=name, parent=context, terminal_width=80)
        texts.append(f"```console\n$ darkroom {name} --help\n{command.get_help(inside)}\n```\n")
    return "\n".join(texts)


def params(sections: list[str]) -> str:
    """Return a table of the keys of sections: default, allowed values, and the comment of presets/mnist.yaml."""
    lines = ["| key | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    settings = {key: (value, comment) for key, value, comment in defaults()}
    for section in sections:
        for key, allowed in fields(MODELS[section], section).items():
            if ".architecture." not in key:
                value, comment = settings.get(key, ("", ""))
                cells = (f"`{key.replace('train.cnn', 'train.NAME')}`", f"`{value}`" if value else "", allowed, comment)
                lines.append(_row(*cells))
    return "\n".join(lines) + "\n"


def networks() -> str:
    """Return a table of the settings of each architecture: its params model, and its docstring."""
    lines = ["| `name` | key | allowed | meaning |", "| --- | --- | --- | --- |"]
    described = dict(_described())
    for model in get_args(training.Architecture):
        (name,) = get_args(model.model_fields["name"].annotation)
        for key, allowed in fields(model, "").items():
            if key != "name":
                lines.append(_row(f"`{name}`", f"`{key}`", allowed, described[name][key]))
    return "\n".join(lines) + "\n"


def defaults() -> list[tuple[str, str, str]]:
    """Return (dotted key, value, comment) of each line of presets/mnist.yaml that has a key; a mapping has no value."""
    found: list[tuple[str, str, str]] = []
    parents: list[tuple[int, str]] = []
    for line in (ROOT / "presets" / "mnist.yaml").read_text().splitlines():
        if key := re.match(r"( *)(\w+):(?: +([^#]*[^# ]))?(?: +# (.*))?$", line):
            indent = len(key[1])
            parents = [parent for parent in parents if parent[0] < indent] + [(indent, key[2])]
            found.append((".".join(name for _, name in parents), key[3] or "", key[4] or ""))
        elif (more := re.match(r" +# (.*)$", line)) and found:
            *others, comment = found[-1]
            found[-1] = (others[0], others[1], f"{comment} {more[1]}".strip())
    return found


def fields(model: type[BaseModel], section: str) -> dict[str, str]:
    """Return the dotted keys of a params model and of the models inside of it, with what they allow in words."""
    schema = model.model_json_schema()
    found: dict[str, str] = {}
    for key, allowed in _properties(schema, schema.get("$defs", {}), section):
        is_known = allowed in found.get(key, "")  # alternatives share keys, as those of schedule do
        found[key] = found[key] if is_known else ", ".join(filter(None, [found.get(key), allowed]))
    return found


def _properties(schema: dict[str, Any], known: dict[str, Any], section: str) -> Iterator[tuple[str, str]]:
    for name, described in schema.get("properties", {}).items():
        key = f"{section}.{name}" if section else name
        yield key, _words(described, known)
        for option in described.get("anyOf") or described.get("oneOf") or [described]:
            yield from _properties(_followed(option, known), known, key)


def _followed(schema: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    return dict(known[reference.rpartition("/")[2]]) if reference else schema


def _words(schema: dict[str, Any], known: dict[str, Any]) -> str:
    """Return what a JSON schema allows, in words: "integer, 1 or more"."""
    schema = _followed(schema, known)
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_words(option, known) for option in options))
    if schema.get("type") == "array":
        few = schema.get("minItems")
        return f"list{f' of {few}' if few and few == schema.get('maxItems') else ''}: {_words(schema['items'], known)}"
    words = {"boolean": "`true`, `false`", "string": "text", "object": "mapping", "null": "`null`"}
    kind = str(schema.get("type", "text"))
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[bound]:g}" for bound, sign in bounds.items() if bound in schema]
    return f"{words.get(kind, kind)} {', '.join(limits)}".strip()


def _described() -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the arguments of each architecture with their descriptions, read from the source without loading Keras."""
    head = "train.transfer.architecture."
    yield "transfer", {key.removeprefix(head): comment for key, _, comment in defaults() if key.startswith(head)}
    for file in (ROOT / "src/darkroom/networks/architectures").glob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and "Args:" in (text := ast.get_docstring(node) or ""):
                arguments = text.split("Args:\n")[1].split("\n\n")[0]
                described = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", arguments, re.M)
                yield node.name, {key: " ".join(words.split()) for key, words in described}


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
