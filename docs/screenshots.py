"""Make the screenshots of these pages from a repository after `dvc repro`:

    python docs/screenshots.py [REPOSITORY]

It opens the report, the page of `darkroom serve`, and MLflow's pages of runs, of their charts and of the champion in
Chromium, and writes docs/images/*.png.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from playwright.sync_api import sync_playwright

from darkroom.data.arrays.dataset import Dataset
from darkroom.tracking.pages import version_page

IMAGES = Path(__file__).parent / "images"
CHROMIUM = Path("/usr/bin/chromium")
WIDTH = 1100


def main() -> None:
    root = Path(sys.argv[1] if sys.argv[1:] else ".").resolve()
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        report(browser.new_page(viewport={"width": WIDTH, "height": 900}), root)
        tracked(browser.new_page(viewport={"width": 1300, "height": 760}), root)
        served(browser.new_page(viewport={"width": WIDTH, "height": 860}), root)
        browser.close()


def report(page: Any, root: Path) -> None:
    page.goto((root / "reports" / "report.html").as_uri())
    page.screenshot(path=IMAGES / "report.png")


def tracked(page: Any, root: Path) -> None:
    """Show the table of runs, their charts, and the version that is champion; the panel of the assistant stays shut."""
    shut = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
    page.add_init_script(shut)
    command = [sys.executable, "-m", "darkroom.cli.main", "ui", "--no-browser"]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            runs = next(line.split()[1] for line in server.stdout or () if line.startswith("runs: "))
            page.goto(runs)
            page.get_by_role("link", name=re.compile("^train-")).first.wait_for()
            page.get_by_role("button", name="Hide banner").click()
            page.screenshot(path=IMAGES / "runs.png")
            page.goto(f"{runs}&compareRunsMode=CHART")
            page.get_by_text("epoch/val_accuracy").first.wait_for()
            page.wait_for_timeout(3000)  # the charts are drawn one by one
            page.screenshot(path=IMAGES / "charts.png")
            promotion = json.loads((root / "reports" / "promotion.json").read_text(encoding="utf-8"))
            version = version_page(promotion["registered_model"], promotion["champion_after"])
            page.goto(runs.partition("#")[0] + version)
            page.get_by_text("Description").first.wait_for()
            page.wait_for_timeout(1000)
            page.screenshot(path=IMAGES / "version.png")
        finally:
            server.terminate()


def served(page: Any, root: Path) -> None:
    """Show the answer to one test image."""
    data = Dataset.open(root / "data" / "prepared")
    image = root / "reports" / "image.png"
    cv2.imwrite(str(image), data.images[int(np.flatnonzero(data.splits == 2)[0])])
    command = [sys.executable, "-m", "darkroom.cli.main", "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) as server:
        try:
            lines = iter(server.stderr or ())
            page.goto(next(found[1] for line in lines if (found := re.search(r'"url": "(.*?)"', line))))
            page.get_by_label("Choose an image").set_input_files(image)
            page.get_by_text("Answered by").wait_for()
            page.evaluate("scrollTo(0, 0)")
            page.screenshot(path=IMAGES / "serve.png")
        finally:
            image.unlink()
            server.terminate()


if __name__ == "__main__":
    main()
