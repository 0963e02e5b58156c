"""What the examples say of themselves, and those that need no framework; test_frameworks.py runs them all."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from examples.fake_model import Answer, Asked, think
from tests.conftest import Session, text
from tests.support.frameworks import FOLDER, NAMES, SERVER

TOOLS = ["mcp__seedream__generate_image", "mcp__seedream__get_task"]


def test_every_example_has_its_requirements() -> None:
    """The model is no example."""
    assert sorted(path.stem for path in FOLDER.glob("*.py")) == sorted([*NAMES, "fake_model"])


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short_and_says_what_it_needs(name: str) -> None:
    """At most 50 lines; its `pip install` line names what it was tested with, and the table has it."""
    source = (FOLDER / f"{name}.py").read_text("utf-8")
    assert source.count("\n") <= 50
    install = re.search(r"^pip install (.+)$", ast.get_docstring(ast.parse(source)) or "", re.MULTILINE)
    pins = (FOLDER / "requirements" / f"{name}.txt").read_text("utf-8").split()
    assert install
    assert shlex.split(install[1]) == [pin.split("==")[0] for pin in pins]
    rows = [row for row in (FOLDER / "README.md").read_text("utf-8").splitlines() if f"[`{name}.py`]" in row]
    assert len(rows) == 1
    assert all(pin.split("==")[1] in rows[0] for pin in pins)


@pytest.mark.parametrize("name", NAMES)
def test_no_token_is_sent_where_there_is_none(name: str) -> None:
    """A hosted server then says that one is missing, not that `None` is wrong."""
    source = (FOLDER / f"{name}.py").read_text("utf-8")
    assert "auth=TOKEN" in source or 'HEADERS = {"Authorization": f"Bearer {TOKEN}"} if TOKEN else {}' in source
    assert source.count("Bearer") <= 1


def run(*command: str, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """A command of the README's: as it stands there, but for the name of Python."""
    environment = {
        "PATH": os.environ["PATH"],
        "MCP_SEEDREAM": str(SERVER),
        "ACEDATACLOUD_API_TOKEN": "real",
        **settings,
    }
    return subprocess.run(
        [sys.executable, FOLDER / "fake_model.py", *command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def test_the_command_of_the_readme(tmp_path: Path) -> None:
    """A picture of the sandbox's, which is there when all has ended; the token that is set is not used."""
    done = run(sys.executable, str(FOLDER / "mcp_client.py"), "a red fox", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Drawn by the sandbox" in done.stdout
    assert "Links work as long as this server runs." in done.stdout
    assert "Links work until" not in done.stdout
    (picture,) = tmp_path.iterdir()
    assert str(picture) in done.stdout


def test_the_model_runs_a_command_and_nothing_else(tmp_path: Path) -> None:
    """How it ended is passed on; none at all is told how to."""
    assert run(sys.executable, "-c", "raise SystemExit(7)", cwd=tmp_path).returncode == 7
    none = run(cwd=tmp_path)
    assert none.returncode == 1
    assert "fake_model.py python openai_agents.py" in none.stderr


@pytest.mark.anyio
async def test_the_model_understands_the_tools(session: Session) -> None:
    """A pending result, the picture, a refusal: by their words alone."""
    assert think(Asked("a fox", TOOLS, "", shown=False)) == Answer(tool=TOOLS[0], arguments={"prompt": "a fox"})
    pending = text(await session.call("generate_image", prompt="a fox", wait_seconds=0))
    task = think(Asked("a fox", TOOLS, pending, shown=False))
    assert task.tool == TOOLS[1]
    done = text(await session.call("get_task", **task.arguments))
    structured = json.dumps(json.dumps({"images": [{"url": re.findall(r"http\S+", done)[0]}]}))
    for told in (done, json.dumps(done), json.dumps(json.dumps(done)), structured):
        seen = think(Asked("a fox", TOOLS, told, shown=True)).text
        assert re.fullmatch(r"http://\S+\.jpg\nI was shown it\.", seen), told
    for word, says in (("content_refused", "sensitive"), ("used_up", "https://platform.acedata.cloud")):
        failed = await session.call("generate_image", prompt=f"[sandbox:{word}]")
        for refused in (text(failed), json.dumps(text(failed)), failed.model_dump_json()):
            answer = think(Asked("a fox", TOOLS, refused, shown=False))
            assert answer.text.startswith("There is no picture. ")
            assert says in answer.text
    assert "no tools" in think(Asked("a fox", [], "", shown=False)).text
