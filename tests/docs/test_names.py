"""What the project is called on the package index, wherever something installs it by name.

The index's `mcp-seedream` belongs to somebody else: whoever installs that one hands it their token.
"""

from __future__ import annotations

import json
import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from mcp_seedream import DISTRIBUTION
from tools.bundle import tracked

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
SERVER: dict[str, Any] = json.loads((ROOT / "server.json").read_text("utf-8"))
TAKEN = "mcp-seedream"
"""The other project's name on the index; examples have NAME for it, so that they are not found in these files."""

_NAME = r"(?<![\w/\\.@-])mcp[-_.]seedream(?![\w-])(?!\.\w)"
_ONE_COMMAND = r"(?:(?!&&|[;|`\n]|--from|--project|--directory|--spec).)*?"
_INSTALLED = [
    rf"(?:\bpip3?|\buv|\bpipx|\bpoetry|\bpdm|\bconda)\s+(?:tool\s+|pip\s+)?(?:install|add|run)\s{_ONE_COMMAND}{_NAME}",
    rf"\buvx\s{_ONE_COMMAND}{_NAME}",
    rf"--(?:from|spec|with)[\s=\",']+{_NAME}",
    rf"\"(?:uvx|pipx|uv)\"(?:(?!--from|--project|--directory|--spec)[^}}]){{0,200}}?\"{_NAME}[\"@=\[]",
    rf"{_NAME}\s*(?:\[\w|[=~>]=|@\s*latest)",
    rf"(?i:\binstall)\s+(?:the\s+)?(?:package\s+)?[\"'`]?{_NAME}",
    rf"\"identifier\":\s*\"{_NAME}\"",
    rf"(?m:^\s*name\s*=\s*\"{_NAME}\")",
    rf"\b_?(?:versions?|requires|distribution|metadata)\([^\n]*?\"{_NAME}\"",
    rf"//[a-z.]+/(?:p|project|simple)/{_NAME[_NAME.index('mcp') :]}",
]


def installs_another(text: str) -> list[str]:
    """What in a text would install, or look up, the index's project of that name."""
    return [found[0] for pattern in _INSTALLED for found in re.finditer(pattern, text)]


@pytest.mark.parametrize(
    "text",
    [
        "pip install NAME",
        "`pip install -U 'NAME'`",
        ".venv/bin/pip install NAME==0.1.0",
        "pipx install NAME",
        "pipx run NAME --sandbox",
        "uv tool install NAME",
        "uv pip install NAME",
        "uv run --with NAME python",
        "uvx NAME",
        "uvx --python 3.12 NAME --sandbox",
        "uvx --from NAME NAME",
        "uvx --from=NAME NAME",
        "uvx NAME@latest",
        '{"command": "uvx", "args": ["NAME"]}',
        '{"command": "uvx", "args": ["--python", "3.12", "NAME==0.1.0"]}',
        "for a SOCKS proxy install NAME[socks]",
        "with `NAME[otel]`",
        "Install NAME from the index",
        '"identifier": "NAME",',
        'name = "NAME"',
        'version("NAME")',
        'distribution("NAME")',
        '_versions(Path(sys.executable), "NAME")',
        "https://index.example.com/project/NAME/",
    ],
)
def test_an_installation_by_name_is_found(text: str) -> None:
    """In each form that people and programs use; of our own distribution each is fine."""
    assert installs_another(text.replace("NAME", TAKEN))
    assert installs_another(text.replace("NAME", TAKEN.replace("-", "_")))
    assert installs_another(text.replace("NAME", DISTRIBUTION)) == []


@pytest.mark.parametrize(
    "text",
    [
        "pip install . && .venv/bin/NAME try",
        "py -m venv .venv; .venv\\Scripts\\pip install .; NAME try",
        f"uvx --from {DISTRIBUTION} NAME",
        '{"command": "uv", "args": ["run", "--project", "${__dirname}", "NAME"]}',
        "/opt/NAME/bin/pip install '.[hosted,otel]'",
        "NAME install claude-desktop",
        "docker build -t NAME . && docker run NAME",
        "The index's `NAME` is somebody else's.",
        '"name": "cloud.acedata/NAME"',
    ],
)
def test_other_uses_of_the_name_are_fine(text: str) -> None:
    """The command, the project and the image keep it."""
    assert installs_another(text.replace("NAME", TAKEN)) == []


def test_nothing_installs_the_other_project() -> None:
    """In any file of this project: code, messages, documents, deployment, the bundle and the registry's entry."""
    found = {}
    for name in tracked():
        try:
            text = (ROOT / name).read_text("utf-8")
        except (UnicodeDecodeError, FileNotFoundError):  # a picture, or a file that is being removed
            continue
        if wrong := installs_another(text):
            found[name] = wrong
    assert found == {}


def test_one_distribution_everywhere() -> None:
    """In the project, in what its extras name, and in the registry's entry."""
    assert PROJECT["name"] == DISTRIBUTION != TAKEN
    assert [package["identifier"] for package in SERVER["packages"]] == [DISTRIBUTION]
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines if "seedream" in line]
    assert extras
    assert all(line.startswith(f"{DISTRIBUTION}[") for line in extras)


def test_the_registry_entry_starts_this_server() -> None:
    """A client runs `uvx IDENTIFIER`, which starts the program of that name; people type the shorter one."""
    commands = {each.name: each.value for each in distribution(DISTRIBUTION).entry_points}
    assert commands == dict.fromkeys([TAKEN, SERVER["packages"][0]["identifier"]], "mcp_seedream.cli:main")
