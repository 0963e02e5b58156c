"""Starts the MCP Inspector in a separate folder for its files."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.node import INSPECTOR, node, npm_install, with_node

LAUNCHER = Path("node_modules", "@modelcontextprotocol", "inspector", "clients", "launcher", "build", "index.js")


def inspector_command() -> list[str]:
    """Its command line, to which arguments are added."""
    return [str(node()[0]), str(npm_install([INSPECTOR]) / LAUNCHER)]


def inspector_environment(folder: Path) -> dict[str, str]:
    """Its environment: nothing that a developer has set for an Inspector of theirs."""
    inherited = {
        name: value
        for name, value in with_node().items()
        if not re.match("MCP_|INSPECTOR_|ALLOWED_|DANGEROUSLY_", name)
    }
    return {**inherited, "HOME": str(folder), "USERPROFILE": str(folder), "MCP_INSPECTOR_SECRET_STORE": "memory"}
