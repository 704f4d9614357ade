"""The page at /, in a real browser."""

import pytest

from darkroom.monitoring.feedback import read_feedback
from tests.support.chromium import chromium
from tests.support.served import Server, png, served_repository

pytestmark = pytest.mark.heavy
TOKEN = "a-long-secret"  # noqa: S105
READ_DROPPED = """([base64, type]) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
  const event = type === "paste" ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
    : new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true });
  document.getElementById("drop").dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    with served_repository(tmp_path_factory.mktemp("page")) as root:
        (root / "cat.png").write_bytes(png(cat=True))
        (root / "text.png").write_text("no picture")
        yield root


@pytest.fixture(scope="module")
def server(root):
    with Server(root, "--explain", "--log", str(root / "log")) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, server):
    """The open page; whatever it complains about fails the test."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(str(server.client.base_url))
    page.get_by_text("The model knows 2 classes: cat, dog").wait_for()
    yield page
    page.close()
    assert [text for text in complaints if "status of 4" not in text] == []


def test_a_chosen_picture_is_answered_with_label_and_bars(page, root):
    page.get_by_label("Choose an image").set_input_files(root / "cat.png")
    page.get_by_role("heading", name="cat", exact=True).wait_for()
    bars = page.get_by_role("listitem").all_inner_texts()
    assert [bar.split()[0] for bar in bars] == ["cat", "dog"]
    assert all(bar.endswith("%") for bar in bars)
    assert "Done: cat, " in page.get_by_role("status").inner_text()
    assert "Answered by pets, version 1, round trip " in page.locator("#facts").inner_text()
    assert page.get_by_alt_text("Your image, classified as cat").is_visible()
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390, "nothing sticks out on a phone"


def test_all_classes_of_a_prediction_set_are_named(page, root):
    (root / "neither.png").write_bytes(png(cat=None))
    page.get_by_label("Choose an image").set_input_files(root / "neither.png")
    page.get_by_role("heading", name="cat or dog", exact=True).wait_for()
    assert page.get_by_role("status").inner_text() == "Done: cat or dog."


def test_the_page_shows_what_speaks_for_the_answer(page, root):
    for name in ("cat.png", "cat.png"):
        page.get_by_label("Choose an image").set_input_files(root / name)
        page.get_by_role("heading", name="cat", exact=True).wait_for()
        assert page.locator("#map").is_hidden(), "the map of an image before is gone"
        page.get_by_role("button", name="Why?").click()
        page.get_by_text("Bright places support “cat”.").wait_for()
        shown = page.get_by_alt_text("What in your image supports cat")
        assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") == 256
        assert page.get_by_role("button", name="Why?").is_hidden()


def test_the_true_class_may_be_told(page, root):
    page.get_by_label("Choose an image").set_input_files(root / "cat.png")
    page.get_by_role("heading", name="cat", exact=True).wait_for()
    for given, said in (("Dog", "Not stored: "), ("dog", "Stored, thank you.")):
        page.get_by_label("What is it really?").fill(given)
        page.get_by_role("button", name="Send").click()
        page.locator("#thanks").filter(has_text=said).wait_for()
    (label,) = read_feedback(root / "log")[0]
    assert label.label == "dog"


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_picture_may_be_dropped_or_pasted(page, event):
    from base64 import b64encode

    page.evaluate(READ_DROPPED, [b64encode(png(cat=False)).decode(), event])
    page.get_by_role("heading", name="dog", exact=True).wait_for()
    assert "dropped.png" in page.locator("#name").inner_text()


def test_what_is_no_picture_is_answered_with_the_reason(page, root):
    page.get_by_label("Choose an image").set_input_files(root / "text.png")
    page.get_by_role("alert").filter(has_text="10 bytes are not an image; expected JPEG").wait_for()
    assert page.locator("#result").is_hidden()
    page.get_by_label("Choose an image").set_input_files(root / "cat.png")
    page.get_by_role("heading", name="cat", exact=True).wait_for()
    assert page.get_by_role("alert").inner_text() == ""


def test_the_keyboard_reaches_the_choice_first(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    outline = page.locator("label[for=file]").evaluate("label => getComputedStyle(label).outlineStyle")
    assert outline == "solid"


def test_the_page_asks_for_a_token_where_one_is_needed(browser, root):
    with Server(root, environment={"DARKROOM_SERVE_TOKEN": TOKEN}) as server:
        page = browser.new_page()
        page.goto(str(server.client.base_url))
        page.get_by_label("This server asks for an access token").fill("wrong")
        page.keyboard.press("Enter")
        page.get_by_label("Choose an image").set_input_files(root / "cat.png")
        page.get_by_text("This token is not valid.").wait_for()
        page.get_by_label("This server asks for an access token").fill(TOKEN)
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="cat", exact=True).wait_for()
        assert page.get_by_role("button", name="Why?").is_hidden(), "the server runs without --explain"
        page.close()


def test_the_page_loads_nothing_foreign_and_runs_nothing_inline(server):
    answer = server.client.get("/")
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert (policy["script-src"], policy["style-src"], policy["connect-src"]) == ("'self'",) * 3
    assert "//" not in answer.text.replace("<!doctype", "")
    assert "style=" not in answer.text
    for name in ("page.js", "page.css", "icon.svg"):
        asset = server.client.get(f"/static/{name}")
        assert asset.headers["x-content-type-options"] == "nosniff"
        assert "https://" not in asset.text
