"""A real browser for the tests of pages."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
QUIET = ("no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking", "disable-sync")


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield an installed Chromium without a window; skip the test where there is none."""
    if not CHROMIUM.exists():
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[f"--{name}" for name in QUIET])
        yield browser
        browser.close()
