"""A browser for tests. Tests are skipped if the system has none.

Playwright uses the browser that is installed on the system.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import pytest
from playwright.async_api import BrowserContext, async_playwright, expect

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SWITCHES = (
    "--no-sandbox",  # which root may not have, and containers cannot
    "--disable-gpu",
    "--disable-dev-shm-usage",  # containers have little of it
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",  # a test asks nobody outside
)
PATIENCE = 60_000
"""Milliseconds that a test waits for the browser, on a busy machine."""
RERUN_ONCE = pytest.mark.flaky(reruns=1)
"""A test in a browser runs once more after a failure: Chromium can crash or start too slowly on a busy machine."""
expect.set_options(timeout=PATIENCE)


@cache
def chromium_path() -> str:
    """The system's Chromium or Chrome."""
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the path")


@asynccontextmanager
async def browsing(**options: Any) -> AsyncIterator[BrowserContext]:
    """A context of a browser that is started for it and ends with it; `options` are those of `new_context`."""
    program = chromium_path()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=list(SWITCHES))
        try:
            context = await browser.new_context(**options)
            context.set_default_timeout(PATIENCE)
            yield context
        finally:
            await browser.close()
