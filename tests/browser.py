"""A real Chromium, where the machine has one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser; skips the test where none is installed (`TEST_BROWSER` names another)."""
    path = os.environ.get("TEST_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser is installed: looked for {', '.join(NAMES)}")
    with sync_playwright() as playwright:
        environ: dict[str, str | float | bool] = {
            **os.environ,
            "XDG_CONFIG_HOME": tempfile.gettempdir(),
        }  # else it writes into the user's
        browser = playwright.chromium.launch(executable_path=path, args=list(QUIET), env=environ)
        yield browser
        browser.close()
