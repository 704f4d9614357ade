"""Labels that are given to images of a folder, by hand and on the page."""

import shutil
import threading
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from darkroom.audit import review, unlabelled
from darkroom.audit.incoming import Incoming
from darkroom.errors import DataError
from darkroom.files.writing import sha256_of
from darkroom.registry.versions import load
from tests.audit.test_review import SECRET
from tests.support.chromium import chromium
from tests.support.registered import write_version


@pytest.fixture
def files(tmp_path):
    """Six images, the darkest first."""
    (tmp_path / "new" / "below").mkdir(parents=True)
    paths = [tmp_path / "new" / ("below" if n % 2 else "") / f"{n}.PNG" for n in range(6)]
    for n, path in enumerate(paths):
        image = np.full((8, 8), 40 * n, np.uint8)
        path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return paths


def labelled(folder: Path) -> list[str]:
    return sorted(f"{path.parent.name}/{path.name[:6]}{path.suffix}" for path in folder.glob("*/*"))


def test_a_label_is_a_copy_in_its_class_and_undo_removes_it(files, tmp_path):
    folder = tmp_path / "data" / "incoming"
    labels = Incoming(folder, files, ["dark", "light"])
    short = sha256_of(files[3])[:6]
    labels.decide(3, "dark")
    labels.decide(3, "light")
    assert labelled(folder) == [f"light/{short}.png"], "an image has one class"
    labels.decide(3, "light")
    assert labels.made == [3, 3, 3]
    for left in (["light"], ["dark"], []):
        assert labels.undo() == 3
        assert labelled(folder) == [f"{name}/{short}.png" for name in left]
    assert labels.undo() is None
    assert files[3].exists()


def test_a_label_that_is_no_class_is_refused(files, tmp_path):
    labels = Incoming(tmp_path / "incoming", files, ["dark", "light"])
    with pytest.raises(DataError, match="'../x' is not a class; expected one of dark, light"):
        labels.decide(0, "../x")
    with pytest.raises(DataError, match="image 6 does not exist; expected 0 to 5"):
        labels.decide(6, "dark")
    files[0].unlink()
    with pytest.raises(DataError, match="0.PNG: cannot be read .*; it was there when the review began"):
        labels.decide(0, "dark")
    assert labels.made == []


def test_only_images_without_a_label_are_read(files, tmp_path):
    scale = {"strangeness": [150.0], "share": [0.001]}
    package = load(write_version(tmp_path / "version", strangeness=np.full(64, 1 / 64), scale=scale))
    (tmp_path / "new" / "note.txt").write_text("of no interest")
    (tmp_path / "new" / "odd.png").write_text("no image")
    (tmp_path / "new" / ".thumbnails").mkdir()
    (tmp_path / "new" / ".thumbnails" / "4.png").write_bytes(files[4].read_bytes() + b"smaller")
    with (tmp_path / "new" / "film.png").open("wb") as film:
        film.truncate(package.MAX_BYTES + 1)
    (tmp_path / "new" / "again.png").write_bytes(files[5].read_bytes())
    found = unlabelled.read(tmp_path / "new", package, labelled={sha256_of(files[0])})
    assert [path.name for path in found.files] == ["2.PNG", "4.PNG", "again.png", "1.PNG", "3.PNG"]
    assert found.n_labelled == 2
    assert [line.partition(":")[0] for line in found.unread] == ["film.png", "odd.png"]
    assert found.unread[0] == "film.png: 50,000,001 bytes are more than an image may have (50,000,000)"
    assert found.unknown is not None
    assert found.unknown.tolist() == [False, True, True, False, False]
    assert found.probabilities.shape == (5, 2)
    with pytest.raises(
        DataError, match="no image without a label; 7 are labelled, 2 cannot be read .first: film.png: "
    ):
        unlabelled.read(tmp_path / "new", package, labelled={sha256_of(path) for path in files})


def test_a_copy_that_somebody_moved_does_not_stop_undo(files, tmp_path):
    labels = Incoming(tmp_path / "incoming", files, ["dark", "light"])
    labels.decide(0, "dark")
    labels.decide(0, "light")
    shutil.rmtree(tmp_path / "incoming")
    assert (labels.undo(), labels.undo(), labels.undo()) == (0, 0, None)


def test_a_new_directory_in_incoming_is_a_class(tmp_path):
    for name in ("owl", ".ipynb_checkpoints", "@eaDir"):
        (tmp_path / "data" / "incoming" / name).mkdir(parents=True)
    assert unlabelled.known_classes(tmp_path) == {"owl"}


def test_what_is_in_incoming_is_labelled(files, tmp_path):
    assert unlabelled.labelled_ids(tmp_path) == set()
    below = tmp_path / "data" / "incoming" / "dark" / "of may" / "0.png"
    below.parent.mkdir(parents=True)
    below.write_bytes(files[0].read_bytes())
    assert unlabelled.labelled_ids(tmp_path) == {sha256_of(files[0])}
    below.unlink()
    Incoming(tmp_path / "data" / "incoming", files, ["dark"]).decide(1, "dark")
    assert unlabelled.labelled_ids(tmp_path) == {sha256_of(files[1])}


@pytest.fixture
def labels(files, tmp_path):
    return Incoming(tmp_path / "incoming", files, ["dark", "light"])


@pytest.fixture
def address(labels):
    """A page of two images without a label, served as the command does."""
    card: dict[str, Any] = {
        "kind": "unlabelled",
        "why": "unsure",
        "label": None,
        "suggested": "dark",
        "split": "",
        "beside": [],
    }
    shown = review.Shown(
        labels.classes,
        [{**card, "row": row, "source": f"{row}.PNG"} for row in (2, 4)],
        lambda row: np.full((8, 8, 1), row, np.uint8),
        "Run it.",
    )
    ready, said = threading.Event(), []

    def tell(text: str) -> None:
        said.append(text.split()[2])
        ready.set()

    server = review.server(shown, labels, secret=SECRET)
    thread = threading.Thread(target=review.serve, args=(server,), kwargs={"port": 0, "secret": SECRET, "said": tell})
    thread.start()
    assert ready.wait(20)
    yield said[0]
    server.should_exit = True
    thread.join()


def test_an_image_without_a_label_is_not_dropped(address, labels):
    with httpx.Client(base_url=address.partition("#")[0], headers={"X-Review": SECRET}) as client:
        assert client.get("/findings").json()["findings"][0]["label"] is None
        assert client.post("/decisions", json={"row": 2, "new": "drop"}).status_code == 400
        assert client.post("/decisions", json={"row": 2, "new": "light"}).json() == {"made": [2]}
    assert labelled(labels.folder) == [f"light/{sha256_of(labels.files[2])[:6]}.png"]


@pytest.mark.heavy
def test_the_page_labels_images_that_have_no_label(address, labels):
    with chromium() as browser:
        page = browser.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        page.get_by_text("1 of 2").wait_for()
        hidden = [name for name in ("keep", "drop", "arrow", "take") if not page.locator(f"#{name}").is_visible()]
        assert hidden == ["keep", "drop", "arrow"]
        for key in ("k", "d", "s"):  # the first two do nothing
            page.keyboard.press(key)
        page.get_by_text("2 of 2, 1 decided", exact=True).wait_for()
        page.keyboard.press("c")
        page.keyboard.type("light")
        page.keyboard.press("Enter")
        page.get_by_text("Run it.").wait_for()
        assert complaints == []
    short = [sha256_of(labels.files[row])[:6] for row in (2, 4)]
    assert labelled(labels.folder) == [f"dark/{short[0]}.png", f"light/{short[1]}.png"]
