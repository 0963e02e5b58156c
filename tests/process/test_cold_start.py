"""What a server over stdio imports until it has answered `tools/list`: clients start it, and users wait for it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SLOW = (
    "redis",
    "httpx",
    "httpcore",
    "PIL",
    "cryptography",
    "prometheus_client",
    "pythonjsonlogger",
    "starlette",
    "sse_starlette",
    "uvicorn",
)
ONLY_CALLS = ("generation.service", "media.downloads", "server.runtime", "upstream.client")
OTHER_COMMANDS = ("doctor", "hosting", "install", "oauth", "sandbox.app", "telemetry.metrics", "try_command")
MESSAGES: list[dict[str, Any]] = [
    {
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
    },
    {"method": "notifications/initialized"},
    {"id": 2, "method": "tools/list"},
]


def imported(folder: Path, *arguments: str, messages: str = "") -> set[str]:
    """The modules that a Python process imports."""
    command = [sys.executable, "-P", "-X", "importtime", *arguments]
    done = subprocess.run(command, cwd=folder, input=messages, capture_output=True, text=True, env={}, check=True)
    if messages:
        assert '"generate_image"' in done.stdout
    return set(re.findall(r"^import time:.*\| +([\w.]+)$", done.stderr, re.MULTILINE))


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What the server imports besides the modules of the SDK's own server."""
    folder = tmp_path_factory.mktemp("start")
    messages = "".join(json.dumps({"jsonrpc": "2.0", **message}) + "\n" for message in MESSAGES)
    server = imported(folder, "-m", "mcp_seedream", messages=messages)
    assert "mcp_seedream.server.tools" in server
    return server - imported(folder, "-c", "import mcp.server.mcpserver")


@pytest.mark.parametrize("name", [*SLOW, *(f"mcp_seedream.{name}" for name in (*ONLY_CALLS, *OTHER_COMMANDS))])
def test_stdio_does_not_import(added: set[str], name: str) -> None:
    """Neither libraries that only some calls or servers need, nor the code of other commands."""
    assert not [module for module in added if module == name or module.startswith(f"{name}.")]
