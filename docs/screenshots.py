"""Make the screenshots of these pages from a repository after `dvc repro`:

    python docs/screenshots.py [REPOSITORY]

It opens the report and the page of `darkroom serve` in Chromium and writes docs/images/report.png and serve.png.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from playwright.sync_api import sync_playwright

from darkroom.data.arrays.dataset import Dataset

IMAGES = Path(__file__).parent / "images"
CHROMIUM = Path("/usr/bin/chromium")
WIDTH = 1100


def main() -> None:
    root = Path(sys.argv[1] if sys.argv[1:] else ".").resolve()
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        report(browser.new_page(viewport={"width": WIDTH, "height": 900}), root)
        served(browser.new_page(viewport={"width": WIDTH, "height": 860}), root)
        browser.close()


def report(page: Any, root: Path) -> None:
    page.goto((root / "reports" / "report.html").as_uri())
    page.screenshot(path=IMAGES / "report.png")


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
