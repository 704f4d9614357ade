"""Write an audit: suspects.csv with every finding, and index.html with the worst of each kind as images."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from darkroom.audit.findings import KINDS, Finding
from darkroom.audit.run import Audit, in_words
from darkroom.files.templates import templates
from darkroom.files.writing import write_csv, write_text

COLUMNS = ("kind", "id", "source", "split", "label", "suggested", "quality", "agreeing_neighbours", "beside")
SIDE = 96  # pixels of an image on the page
LOSSLESS_SIDE = 48  # larger ones are compressed, to a fifth of the size
SHOWN = {"label": 240}  # maximum number of findings per kind on the page
SHOWN_OF_OTHERS = 60
BESIDE = 3


def write(audit: Audit, folder: Path) -> Path:
    """Write suspects.csv and index.html into folder; return the path of the page."""
    write_csv(folder / "suspects.csv", COLUMNS, lines(audit))
    environment = templates("darkroom.audit")
    page = environment.get_template("index.html.j2").render(
        dataset=audit.dataset.manifest["dataset"],
        summary=in_words(audit),
        sections=[_section(audit, kind) for kind in KINDS if audit.of_kind(kind)],
    )
    write_text(folder / "index.html", page)
    return folder / "index.html"


def lines(audit: Audit) -> Iterator[tuple[Any, ...]]:
    """Yield the lines of suspects.csv: one per finding, in the order of COLUMNS."""
    classes, index = audit.dataset.classes, audit.dataset.index()
    ids, sources, splits, labels = (index[name].tolist() for name in ("id", "source", "split", "label"))
    for one in audit.found:
        yield (
            one.kind,
            ids[one.row],
            sources[one.row],
            splits[one.row],
            labels[one.row],
            "" if one.suggested is None else classes[one.suggested],
            "" if one.quality is None else f"{one.quality:.4f}",
            "" if one.agreeing is None else f"{one.agreeing} of {len(one.beside)}",
            " ".join(ids[row][:12] for row in one.beside),
        )


def _section(audit: Audit, kind: str) -> dict[str, Any]:
    found = audit.of_kind(kind)
    shown = found[: SHOWN.get(kind, SHOWN_OF_OTHERS)]
    index = audit.dataset.index()
    return {
        "title": KINDS[kind],
        "n": len(found),
        "images": [_card(audit, one, source=index["source"][one.row], split=index["split"][one.row]) for one in shown],
    }


def _card(audit: Audit, one: Finding, *, source: str, split: str) -> dict[str, Any]:
    dataset = audit.dataset
    beside = one.beside[:BESIDE] if one.kind != "outlier" else []
    return {
        "image": thumbnail(dataset.images[one.row]),
        "label": dataset.classes[dataset.labels[one.row]],
        "suggested": None if one.suggested is None else dataset.classes[one.suggested],
        "agreeing": one.agreeing,
        "n_beside": len(one.beside),
        "source": source,
        "split": split,
        "beside": [(thumbnail(dataset.images[row]), dataset.classes[dataset.labels[row]]) for row in beside],
    }


def thumbnail(image: np.ndarray) -> str:
    """Return an image, uint8 (H, W, C), as a data: URI of at most SIDE pixels."""
    content, media_type = encoded(image, side=SIDE)
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def encoded(image: np.ndarray, *, side: int) -> tuple[bytes, str]:
    """Return an image, uint8 (H, W, C), as a file of at most `side` pixels, and its media type."""
    scale = side / max(image.shape[:2])
    if scale < 1:
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    image = image if image.ndim == 2 or image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    form = "webp" if max(image.shape[:2]) > LOSSLESS_SIDE else "png"
    return cv2.imencode(f".{form}", image)[1].tobytes(), f"image/{form}"
