"""The bundle for Claude Desktop: `.venv/bin/python -m tools.bundle` updates manifest.json and builds the bundle.

The manifest is generated from the server's tools, prompts and settings. The bundle contains only files that git tracks.
The host's `uv` installs the dependencies of pyproject.toml (MCPB 0.4, `server.type: "uv"`).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import anyio
import pytest
from annotated_types import Ge, Le
from mcp import Client
from mcp_types import Prompt

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.catalog.table_file import read_table
from mcp_seedream.core.errors import TOKEN_PAGE
from mcp_seedream.core.settings import Settings, name_of
from mcp_seedream.generation.journal import IN_MEMORY, Journal
from mcp_seedream.media.local_files import LocalFiles
from mcp_seedream.server.prompts import Prompts
from mcp_seedream.server.server import build_server
from mcp_seedream.server.tools import ToolDefaults
from mcp_seedream.upstream.client import SeedreamClient
from tests.support.node import MCPB, node, npm_install, with_node

ROOT = Path(__file__).parent.parent
MANIFEST = ROOT / "manifest.json"
COMMAND = "mcp-seedream"
"""The command, and the name of the bundle, by which hosts identify it."""
BUNDLE = ROOT / "dist" / f"{COMMAND}.mcpb"
PACKED = ("mcp_seedream", "manifest.json", "pyproject.toml", "README.md", "LICENSE", "docs/icon.png")
CONFIG = {
    "api_token": "token",
    "sandbox": "sandbox",
    "output_dir": "output_dir",
    "wait_seconds": "wait_seconds",
    "preview": "preview",
}
"""The fields of the form that people fill in, and their settings."""
_ABOUT = f"""\
Ask for a picture in words: Seedream makes it, changes it, or combines pictures that you have.

- Real pictures need an AceDataCloud API token: get one at {TOKEN_PAGE}. Each picture is billed to it.
- To try it without a token, switch the sandbox on: it draws placeholders, at no cost.
- Pictures are links that expire after about a day, unless you choose a folder for them.
- The first start installs all requirements of the server, which takes a minute.
"""


async def manifest(table: ModelTable) -> dict[str, Any]:
    """The manifest, as MCPB 0.4 has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    server = json.loads((ROOT / "server.json").read_text("utf-8"))
    holder = re.search(r"Copyright \(c\) \d+ (.+)", (ROOT / "LICENSE").read_text("utf-8"))
    assert holder is not None
    return {
        "manifest_version": "0.4",
        "name": COMMAND,
        "display_name": server["title"],
        "version": project["version"],
        "description": server["description"],
        "long_description": _ABOUT,
        "author": {"name": holder[1]},
        "icon": "docs/icon.png",
        "server": {
            "type": "uv",
            "entry_point": "mcp_seedream/__main__.py",
            "mcp_config": {
                "command": "uv",
                "args": ["run", "--project", "${__dirname}", COMMAND],
                "env": {name_of(field): f"${{user_config.{key}}}" for key, field in CONFIG.items()},
            },
        },
        "tools": await _tools(table),
        "prompts": [_prompt(table, prompt) for prompt in Prompts(table, local=True).definitions()],
        "keywords": project["keywords"],
        "license": project["license"],
        "compatibility": {"platforms": ["darwin", "win32", "linux"]},  # uv installs a suitable Python
        "user_config": _user_config(),
    }


async def _tools(table: ModelTable) -> list[dict[str, str]]:
    """The tools as the server lists them over stdio."""
    server = build_server(
        table,
        lambda: SeedreamClient("http://127.0.0.1:9"),
        token_of=lambda _: None,
        defaults=ToolDefaults(local=LocalFiles()),
        journal=Journal(IN_MEMORY),
    )
    async with Client(server) as client:
        return [{"name": t.name, "description": t.description or ""} for t in (await client.list_tools()).tools]


def _prompt(table: ModelTable, prompt: Prompt) -> dict[str, Any]:
    """A prompt with its required arguments only."""
    names = [argument.name for argument in prompt.arguments or [] if argument.required]
    filled = Prompts(table, local=True).render(prompt.name, {name: f"${{arguments.{name}}}" for name in names})
    text = filled.messages[0].content.model_dump()["text"]
    return {"name": prompt.name, "description": prompt.description, "arguments": names, "text": text}


def _user_config() -> dict[str, dict[str, Any]]:
    fields = Settings.model_fields
    wait = fields["wait_seconds"]
    bounds = {type(rule): rule for rule in wait.metadata}
    return {
        "api_token": {
            "type": "string",
            "title": "AceDataCloud API token",
            "description": f"From {TOKEN_PAGE}. It is sent to AceDataCloud and nowhere else. The sandbox needs none.",
            "sensitive": True,
            "required": False,
        },
        "sandbox": {
            "type": "boolean",
            "title": "Sandbox",
            "description": "Drawn placeholders instead of real pictures: at no cost, and without a token.",
            "required": False,
            "default": False,
        },
        "output_dir": {
            "type": "directory",
            "title": "Folder for pictures",
            "description": "Every picture is saved there. Without one, pictures are links that live about a day.",
            "required": False,
        },
        "wait_seconds": {
            "type": "number",
            "title": "Seconds to wait for a picture",
            "description": f"{wait.description}. A picture that takes longer is fetched later, and billed once.",
            "required": False,
            "default": wait.default,
            "min": bounds[Ge].ge,
            "max": bounds[Le].le,
        },
        "preview": {
            "type": "boolean",
            "title": "Show previews",
            "description": "A small picture in each result, so that Claude sees the picture.",
            "required": False,
            "default": True,
        },
    }


def rendered(table: ModelTable) -> str:
    """The text of manifest.json."""
    return json.dumps(anyio.run(manifest, table), indent=2, ensure_ascii=False) + "\n"


def mcpb(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the `mcpb` command."""
    program = npm_install([MCPB]) / "node_modules" / "@anthropic-ai" / "mcpb" / "dist" / "cli" / "cli.js"
    command = [str(node()[0]), str(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=with_node(), check=False)


def tracked(*paths: str) -> list[str]:
    """The paths of the files that git tracks."""
    git = shutil.which("git")
    if not git or not (ROOT / ".git").exists():
        pytest.skip("only git knows which files belong into a bundle, and this is not a checkout")
    done = subprocess.run([git, "ls-files", "-z", "--", *paths], cwd=ROOT, capture_output=True, check=True)
    return [name for name in done.stdout.decode().split("\0") if name]


def pack(bundle: Path) -> None:
    """Pack the files that git tracks."""
    with tempfile.TemporaryDirectory() as folder:
        for path in PACKED:
            names = tracked(path)
            assert names, f"git does not track {path}"
            for name in names:
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, Path(folder) / name)
        done = mcpb("pack", folder, bundle)
    assert done.returncode == 0, done.stdout + done.stderr


def main() -> int:
    """Write the manifest and the bundle; returns 1 if that fails."""
    MANIFEST.write_text(rendered(read_table()), "utf-8")
    try:
        done = mcpb("validate", MANIFEST)
        if done.returncode:
            print(done.stdout + done.stderr, file=sys.stderr)
            return 1
        pack(BUNDLE)
    except pytest.skip.Exception as why:  # without Node, or without packages of npm
        print(why, file=sys.stderr)
        return 1
    print(f"{BUNDLE.relative_to(ROOT)}: {BUNDLE.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
