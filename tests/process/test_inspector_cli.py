"""The command line of the MCP Inspector, in both eras of the protocol: over stdio, where it starts the server itself
for each command, and over HTTP.

By hand, with the Inspector installed (`npm install`, and the name and version in tests/node.py):

    npx mcp-inspector --cli .venv/bin/mcp-seedream --sandbox --protocol-era modern --method tools/list --strict
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mcp_seedream.assembly import hosted
from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.settings import read_settings
from mcp_seedream.sandbox.app import Sandbox
from tests.conftest import TOKEN, serving, submits
from tests.support.inspector import inspector_command, inspector_environment

UNAUTHORISED, TOOL_ERROR = 3, 5
TOOLS = ["generate_image", "edit_image", "get_task"]
both_eras = pytest.mark.parametrize("era", ["legacy", "modern"])


@dataclass
class Inspector:
    """One server, and how the Inspector gets at it."""

    folder: Path
    era: str
    target: Sequence[str]

    def run(self, method: str, *options: str) -> tuple[int, dict[str, Any]]:
        """The exit status, and what is said: the result, or the error where there is none."""
        common = ["--protocol-era", self.era, "--stored-auth-only", "--format", "json", "--quiet"]
        done = subprocess.run(
            [*inspector_command(), "--cli", *self.target, *common, "--method", method, *options],
            cwd=self.folder,
            env=inspector_environment(self.folder),
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        said: dict[str, Any] = json.loads(done.stdout or done.stderr)
        return done.returncode, said

    def asks(self, method: str, *options: str) -> dict[str, Any]:
        """The result of what has to go well."""
        status, said = self.run(method, *options)
        assert status == 0, said
        assert "schemaFindings" not in said
        result: dict[str, Any] = said["result"]
        return result

    def calls(self, tool: str, *arguments: str) -> dict[str, Any]:
        """A tool's structured content."""
        found: dict[str, Any] = self.asks("tools/call", "--tool-name", tool, *arguments)["structuredContent"]
        return found


@pytest.fixture
def address(table: ModelTable, upstream: str) -> Iterator[str]:
    """The hosted server's."""
    inspector_command()  # before anything is started for it
    with serving(hosted(read_settings(base_url=upstream), table=table)) as address:
        yield f"{address}/mcp"


@pytest.fixture
def over_http(address: str, tmp_path: Path, era: str) -> Inspector:
    return Inspector(tmp_path, era, [address, "--transport", "http", "--header", f"Authorization: Bearer {TOKEN}"])


@pytest.fixture
def over_stdio(upstream: str, tmp_path: Path, era: str) -> Inspector:
    settings = {
        "ACEDATACLOUD_API_BASE_URL": upstream,
        "ACEDATACLOUD_API_TOKEN": TOKEN,
        "SEEDREAM_JOURNAL": str(tmp_path / "tasks.sqlite3"),
        "SEEDREAM_PREVIEW": "off",
    }
    given = [part for name, value in settings.items() for part in ("-e", f"{name}={value}")]
    return Inspector(tmp_path, era, [sys.executable, "-m", "mcp_seedream", *given])


def look_around(inspector: Inspector, table: ModelTable) -> None:
    """What there is: no schema that other clients would stumble over, every resource and prompt."""
    assert [tool["name"] for tool in inspector.asks("tools/list", "--strict")["tools"]] == TOOLS
    listed = {resource["uri"] for resource in inspector.asks("resources/list")["resources"]}
    assert listed >= {"seedream://models", "seedream://models.json", "seedream://guide", "ui://seedream/gallery"}
    [models] = inspector.asks("resources/read", "--uri", "seedream://models.json")["contents"]
    assert {model["id"] for model in json.loads(models["text"])["models"]} == set(table.by_id)
    prompts = [prompt["name"] for prompt in inspector.asks("prompts/list")["prompts"]]
    assert prompts == ["create_image", "edit_photo", "image_set"]
    words = ["--prompt-name", "create_image", "--prompt-args", "prompt=a fox"]
    [message] = inspector.asks("prompts/get", *words)["messages"]
    assert '"prompt": "a fox"' in message["content"]["text"]


def make(inspector: Inspector, sandbox: Sandbox) -> None:
    """A picture that is not waited for, what became of it, and another one of it; then one that nobody knows."""
    arguments = ["prompt=a fox", "size=1K", "watermark=false", "wait_seconds=0"]
    made = inspector.calls("generate_image", *(part for each in arguments for part in ("--tool-arg", each)))
    found = inspector.calls("get_task", "--tool-arg", f"task_id={made['task_id']}")
    edit = {"prompt": "now in blue", "image": [f"task:{made['task_id']}"], "wait_seconds": 0}
    edited = inspector.calls("edit_image", "--tool-args-json", json.dumps(edit))
    assert [each["status"] for each in (made, found, edited)] == ["pending", "succeeded", "pending"]
    first, second = submits(sandbox)
    assert (first["prompt"], first["size"], first["watermark"]) == ("a fox", "1K", False)
    assert second["image"] == [found["images"][0]["url"]]
    status, said = inspector.run("tools/call", "--tool-name", "get_task", "--tool-arg", "task_id=nobodys")
    assert (status, said["result"]["structuredContent"]["error"]["code"]) == (TOOL_ERROR, "not_found")


@both_eras
def test_looking_around_over_http(over_http: Inspector, table: ModelTable) -> None:
    """Lists and reads, without a fault found in a schema."""
    look_around(over_http, table)


@both_eras
def test_looking_around_over_stdio(over_stdio: Inspector, table: ModelTable) -> None:
    """The same of a server that is started for each question."""
    look_around(over_stdio, table)


@both_eras
def test_pictures_over_http(over_http: Inspector, sandbox: Sandbox) -> None:
    """Each tool, and one that fails."""
    make(over_http, sandbox)


@both_eras
def test_pictures_over_stdio(over_stdio: Inspector, sandbox: Sandbox) -> None:
    """The same, each by a server that is started for it."""
    make(over_stdio, sandbox)


@both_eras
@pytest.mark.parametrize("header", [[], ["--header", "Authorization: Bearer invalid"]], ids=["none", "wrong"])
def test_without_a_good_token(address: str, tmp_path: Path, era: str, header: list[str]) -> None:
    """The Inspector says that it has to sign in."""
    status, said = Inspector(tmp_path, era, [address, "--transport", "http", *header]).run("tools/list")
    assert (status, said["error"]["code"]) == (UNAUTHORISED, "auth_required")
