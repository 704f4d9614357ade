"""README.md and the pages of docs/, and what they show: commands, code, and answers to compare with real ones."""

import re
from pathlib import Path
from typing import NamedTuple

from tests.support.project import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(page for page in DOCS.glob("*.md") if page.name != "decisions.md")]


class Example(NamedTuple):
    """A command of a page and its answer, from a block below `<!-- run: PLACE -->`.

    Attributes:
        place: where it is run.
        edit: (old, new) text of params.yaml before it is run, if any.
    """

    page: str
    place: str
    edit: tuple[str, str] | None
    command: str
    answer: str


FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(text: str, *languages: str) -> list[str]:
    return [block for language, block in FENCED.findall(text) if language in languages]


def code(text: str) -> list[str]:
    """Return every inline code, and every command line of a block, without its prompt and comment."""
    typed = re.findall(r"^\$ (.*)$", "".join(blocks(text, "console")), re.M) + "".join(blocks(text, "")).splitlines()
    shown = [line.partition("  #")[0].strip() for line in typed]
    return [*re.findall(r"`([^`\n]+)`", FENCED.sub("", text)), *shown]


def commands(program: str, text: str) -> set[str]:
    """Return the words that follow a program's name wherever a page shows a command."""
    return {found for shown in code(text) for found in re.findall(rf"(?:^|&& ){program} ([a-z-]+)", shown)}


def examples(place: str) -> list[Example]:
    """Return the examples of all pages that are run at this place."""
    found = []
    for page in PAGES:
        marked = re.findall(r"^<!-- run: (\w+)(.*?) -->\n```console\n(.*?)^```", page.read_text(), re.M | re.DOTALL)
        for where, given, block in marked:
            old, arrow, new = given.removeprefix("; params.yaml: ").partition(" -> ")
            for shown in re.split(r"^\$ ", block, flags=re.M)[1:] if where == place else ():
                command, _, answer = shown.partition("\n")
                edit = (old, new) if arrow else None
                found.append(Example(page.name, where, edit, command.partition("  #")[0], answer))
    return found


def agree(shown: str, printed: str, *, root: Path) -> bool:
    """Return whether an answer on a page is a real one: numbers and the place of the repository may differ, `...` is
    any text, and white space counts only as a gap."""

    def comparable(text: str) -> str:
        text = re.sub(r"\b[0-9a-f]{8,}\b|\d+(?:[.,:-]\d+)*", "0", text.replace(str(root), "/home/me/darkroom"))
        return " ".join(text.split())

    pattern = ".*".join(re.escape(part) for part in comparable(shown).split("..."))
    return re.fullmatch(pattern.replace(r"\ .*", ".*").replace(r".*\ ", ".*"), comparable(printed)) is not None
