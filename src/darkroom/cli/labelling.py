"""`darkroom label-next`: choose the images of a directory to label first, and serve a page to label them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from darkroom.cli.options import Model, registered_name, takes
from darkroom.project.repository import checkout
from darkroom.project.text import json_line

if TYPE_CHECKING:
    import numpy as np

    from darkroom.audit.unlabelled import Unlabelled

app = typer.Typer()

SHOWN = 3  # files that cannot be read


@dataclass(frozen=True)
class LabelNextOptions:
    """The options of `darkroom label-next`."""

    n: Annotated[int, typer.Argument(metavar="N", min=1, help="Number of images to label.")]
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Directory of images without labels.")]
    model: Model = None
    alias: Annotated[str, typer.Option(help="Alias of the version to use.")] = "champion"
    review: Annotated[
        bool,
        typer.Option("--review", help="Then serve a page on this machine to label them, into data/incoming/CLASS."),
    ] = False
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of that page; 0: any free one.")] = 8010


@app.command("label-next")
@takes(LabelNextOptions)
def label_next(given: LabelNextOptions) -> None:
    """List the images of a directory to label first: those unknown to the model, and those it is least sure of.

    Prints one JSON line per image. Images that are labelled already, in data/prepared or data/incoming, and copies of
    others are left out.
    """
    from darkroom.audit import next_labels, unlabelled
    from darkroom.project.console import say
    from darkroom.registry.versions import find, load

    root = checkout()
    package = load(find(registered_name(given.model), alias=given.alias))
    found = unlabelled.read(given.folder, package, labelled=unlabelled.labelled_ids(root))
    chosen = next_labels.label_next(found.probabilities, found.copies, n=given.n, unknown=found.unknown)
    cards = [_card(found, package.classes, number, row) for number, row in enumerate(chosen.tolist())]
    say(
        f"{len(cards)} of {len(found.files):,} images without a label; {found.n_labelled} others are labelled or "
        f"repeated, {len(found.unread)} cannot be read" + "".join(f"\n  {line}" for line in found.unread[:SHOWN])
    )
    if given.review:
        _review(root, [found.files[row] for row in chosen], cards, package, port=given.port)
        return
    for card in cards:
        print(json_line({"file": card["source"], "suggested": card["suggested"], "why": card["why"]}))


def _card(found: "Unlabelled", classes: list[str], number: int, row: int) -> dict[str, Any]:
    """Return the entry of an image for the list and the page."""
    first, second = found.probabilities[row].argsort()[:-3:-1].tolist()
    is_unknown = found.unknown is not None and bool(found.unknown[row])
    shares = [f"{classes[code]} {found.probabilities[row, code]:.0%}" for code in (first, second)]
    return {
        "row": number,
        "kind": "unlabelled",
        "why": "unknown to the model" if is_unknown else f"the model says {' or '.join(shares)}",
        "label": None,
        "suggested": classes[first],
        "source": str(found.files[row]),
        "split": "",
        "beside": [],
    }


def _review(root: Path, files: list[Path], cards: list[dict[str, Any]], package: Any, *, port: int) -> None:
    import secrets

    from darkroom.audit.incoming import Incoming
    from darkroom.audit.review import Shown, serve, server
    from darkroom.audit.unlabelled import known_classes
    from darkroom.project.console import say

    incoming = root / "data" / "incoming"
    classes = sorted({*package.classes, *known_classes(root)})
    labels = Incoming(incoming, files, classes)

    def image(row: int) -> "np.ndarray":
        if not 0 <= row < len(files):
            raise IndexError
        return package.image(files[row])  # type: ignore[no-any-return]

    secret = secrets.token_urlsafe()
    shown = Shown(classes, cards, image, then="The images are in data/incoming; run dvc repro.")
    serve(server(shown, labels, secret=secret), port=port, secret=secret, said=say)
    say(f"{len(labels.made)} images labelled in {incoming}" + ("; run `dvc repro`" if labels.made else ""))
