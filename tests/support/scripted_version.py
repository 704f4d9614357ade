"""A version whose code does what its images say: they are texts, such as `white`, `work` or `end`."""

import hashlib
from pathlib import Path

from darkroom.registry.snapshot import IMPORTED_FILES, MODEL_FILE, PACKAGE_FILE, SHA256, Version

CODE = """
import os, signal, time
from pathlib import Path
import numpy as np

class Package:
    classes, abstain_below = ["dark", "light"], 0.5

    def __init__(self, path):
        self.folder = Path(path).parent
        side = SIDE
        if not side:
            raise OSError("no model")
        self.image_shape = (side, side, 1)

    @classmethod
    def load(cls, path, **_):
        return cls(path)

    def note(self, what):
        with (self.folder / "notes").open("a") as notes:
            notes.write(f"{what}\\n")

    def decode(self, data):
        self.note(f"decode {data.decode()}")
        what, _, more = data.decode().partition(" ")
        if what == "work":
            while True:
                pass
        elif what == "hang":
            time.sleep(1000)
        elif what == "wait":
            while not (self.folder / more).exists():
                time.sleep(0.005)
        elif what == "end":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "fill":
            return np.ones(int(more) << 20, np.uint8)
        elif what == "break":
            raise RuntimeError(more)
        elif what == "text":
            raise ValueError("not an\\nimage")
        values = {"black": 0, "nan": 77}
        return np.full(self.image_shape, values.get(what, 255), np.uint8)

    def probabilities(self, images):
        if len(images) > 16:  # of an explanation
            self.note(f"cover {len(images)}")
            if (self.folder / "stop").exists():
                (self.folder / "stop").unlink()
                signal.pause()
        return np.tile(np.float32([0.2, 0.8]), (len(images), 1))

    def predict(self, images, **_):
        self.note(f"predict {len(images)}")
        if any(image.max() == 77 for image in images):
            raise ValueError("non-finite")
        return [self.answer(image.max() > 0) for image in images]

    def answer(self, is_light):
        label, other = ("light", "dark") if is_light else ("dark", "light")
        return {"label": label, "probability": 0.75, "probabilities": {label: 0.75, other: 0.25}, "abstained": False}
"""

EMPTY_GRAPH = ":\5b\3\n\1p"  # of ONNX, with an output named p; enough for explanations


def scripted_version(folder: Path, *, side: int = 4, number: str = "1", model: str = "") -> Version:
    """Return a version in a directory, which need not exist; side 0 cannot be loaded."""
    contents = {MODEL_FILE: model, PACKAGE_FILE: CODE.replace("SIDE", str(side)), **dict.fromkeys(IMPORTED_FILES, "")}
    for path, content in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    tags = {f"{SHA256}{path}": hashlib.sha256(content.encode()).hexdigest() for path, content in contents.items()}
    return Version("pets", number, None, folder.as_uri(), tags)


def notes(folder: Path) -> list[str]:
    """Return what the version has done so far."""
    file = folder / "artifacts" / "notes"
    return file.read_text().splitlines() if file.exists() else []


def let_go(folder: Path, name: str) -> None:
    """Let the images `wait NAME` be decoded; `stop`: let an explanation wait for a signal at its first inference."""
    (folder / "artifacts" / name).touch()
