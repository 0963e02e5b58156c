"""Runs the examples as users would, each with its framework in a separate environment.

The server is this project's, in the environment of the tests; the model is `examples/fake_model.py`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from examples.fake_model import Model, serving
from tests.conftest import TOKEN
from tests.support.kept import kept

FOLDER = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.stem for path in (FOLDER / "requirements").glob("*.txt"))
SERVER = Path(sys.executable).with_name("mcp-seedream")
PATIENCE = 240
"""Seconds for an example to end in, on a machine that does much else."""


@dataclass(frozen=True)
class Run:
    """How an example ended, what it printed, and the tools its model called."""

    status: int
    output: str
    errors: str
    calls: list[str]

    @property
    def link(self) -> str | None:
        found = re.search(r"http://\S+", self.output)
        return found[0] if found else None


@dataclass(frozen=True)
class Example:
    """One of them, by its file's name, and the Python that has its framework."""

    name: str
    python: Path

    def run(
        self, prompt: str, upstream: str, server: str = str(SERVER), *, without: str | None = None, **settings: str
    ) -> Run:
        """Run it to its end.

        Args:
            prompt: What the picture is to show.
            upstream: Where a server that it starts makes its pictures.
            server: A program, or an address.
            without: This is taken out of its text first, and must be there.
            settings: More of its environment.
        """
        text = (FOLDER / f"{self.name}.py").read_text("utf-8")
        if without is not None:
            assert without in text
            text = text.replace(without, "")
        model = Model()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home, serving(model) as answering:
            script = Path(home) / f"{self.name}.py"
            script.write_text(text, "utf-8")
            upstream_settings = {"ACEDATACLOUD_API_BASE_URL": upstream, "ACEDATACLOUD_API_TOKEN": TOKEN}
            alone = {"PATH": os.environ["PATH"], "HOME": home, "SEEDREAM_JOURNAL": "off", "MCP_SEEDREAM": server}
            done = subprocess.run(
                [self.python, script, prompt],
                env={**alone, **upstream_settings, **answering, **settings},
                cwd=home,
                capture_output=True,
                encoding="utf-8",
                timeout=PATIENCE,
                check=False,
            )
        calls = [answer.tool.removeprefix("mcp__seedream__") for answer in model.answers if answer.tool]
        return Run(done.returncode, done.stdout, done.stderr, calls)


def installed(name: str) -> Example:
    """An example whose framework is there, installed if it is the first time.

    Raises:
        RuntimeError: It can't be installed.
    """
    return Example(name, environment(FOLDER / "requirements" / f"{name}.txt"))


def environment(requirements: Path) -> Path:
    """The Python of an environment that has what a file of requirements names.

    Raises:
        RuntimeError: It can't be installed.
    """
    return _python(kept(f"{sys.version}\n{requirements.read_text('utf-8')}", partial(_install, requirements)))


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _install(requirements: Path, folder: Path) -> None:
    # No constraints of the tests' own: some frameworks want another version of the SDK than the server.
    unconstrained = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(_python(folder)), "-m", "pip", "install", "--quiet", "--requirement", str(requirements)],
    ):
        done = subprocess.run(command, env=unconstrained, capture_output=True, encoding="utf-8", check=False)
        if done.returncode:
            raise RuntimeError(f"{requirements.name} can't be installed:\n{done.stderr[-2000:]}")
