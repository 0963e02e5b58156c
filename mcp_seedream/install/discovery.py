"""Finds this server's entries in the settings of the MCP clients on this machine."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_config_path

from mcp_seedream.core.errors import ConfigurationError
from mcp_seedream.core.settings import ClaudeCode
from mcp_seedream.install.clients import CLIENTS, HOSTED, Folders, is_client_variable, token_in
from mcp_seedream.install.json_positions import value_at
from mcp_seedream.install.settings_file import read

_OUR_NAMES = re.compile(
    r"(?:.*[/\\])?mcp[-_]seedream(?:[-_]acedatacloud)?(?:\[[^\]]*\])?(?:\.exe|[=<>~!@].*)?", re.IGNORECASE | re.DOTALL
)
_RUNNER = re.compile(r"(?:.*[/\\])?(?:uvx|uv|pipx)(?:\.exe)?", re.IGNORECASE | re.DOTALL)
_PACKAGE_OPTIONS = ("--from", "--spec", "--project", "--directory")
"""Options of a runner that name a program's package. Without them, the package has the program's name."""
_UNRELATED = re.compile(r"mcp[-_.]seedream(?:\[[^\]]*\])?(?:[=<>~!@].*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Installation:
    """An entry for this server in a client's settings.

    Args:
        client: The client's name on the command line.
        title: The display name of the client.
        name: The server's name in the client.
        file: The settings file.
        command: The command that it starts; empty for a hosted server.
        command_exists: Whether that command exists.
        sandbox: Whether it starts the server with the sandbox.
        unrelated: Whether it starts the package index's `mcp-seedream`, which is an unrelated project.
        token: The unparsed value of the token's variable.
    """

    client: str
    title: str
    name: str
    file: Path
    command: str
    command_exists: bool
    sandbox: bool
    unrelated: bool
    token: str | None

    @property
    def own_token(self) -> str | None:
        """The token in the file; None if the file has no token or a variable of the client."""
        return None if self.token is None or is_client_variable(self.token) else self.token

    @property
    def provides_token(self) -> bool:
        """Whether the client provides the token (by sign-in, or by asking the user), or none is needed."""
        return not self.command or self.sandbox or (self.token is not None and self.own_token is None)


@dataclass(frozen=True)
class Installed:
    """The entries of this server, and the reasons why files can't be read, by the client's title."""

    entries: Sequence[Installation]
    broken: Mapping[str, str]


def folders_here() -> Folders:
    """The folders of the current user's settings.

    Raises:
        ConfigurationError: There is no home folder.
    """
    try:
        home, roaming = Path.home(), user_config_path(roaming=True)
    except RuntimeError as error:
        raise ConfigurationError(f"The settings folder is not known ({error}): name the file with --config.") from None
    # Programs on macOS ignore the XDG variables, but platformdirs follows them there.
    config = home / "Library" / "Application Support" if sys.platform == "darwin" else roaming
    return Folders(sys.platform, home, config, user_config_path(), ClaudeCode().config_dir)


def find_installed(folders: Folders) -> Installed:
    """Read the settings of every client that `install` supports; clients that are not installed are skipped."""
    entries: list[Installation] = []
    broken: dict[str, str] = {}
    for client, mcp_client in CLIENTS.items():
        try:
            config = read(mcp_client.settings_path(folders).file)
            servers = value_at(config.text, (mcp_client.servers,), comments=mcp_client.comments)
        except ConfigurationError as error:
            broken[mcp_client.title] = error.message.removesuffix(" Nothing was changed.")
            continue
        except ValueError as error:
            broken[mcp_client.title] = f"it can't read {config.path}: {error}."
            continue
        for name, entry in servers.items() if isinstance(servers, Mapping) else ():
            if isinstance(entry, Mapping) and _is_ours(name, entry):
                entries.append(_installation(client, name, config.path, entry))
    return Installed(entries, broken)


def _is_ours(name: str, entry: Mapping[str, Any]) -> bool:
    return name == "seedream" or any(_OUR_NAMES.fullmatch(each) or each == HOSTED for each in _words(entry))


def _words(entry: Mapping[str, Any]) -> list[str]:
    """The command, arguments and address of an entry."""
    arguments = entry.get("args")
    words = [entry.get("command"), entry.get("url"), entry.get("serverUrl")]
    return [each for each in [*words, *(arguments if isinstance(arguments, list) else [])] if isinstance(each, str)]


def _installation(client: str, name: str, file: Path, entry: Mapping[str, Any]) -> Installation:
    command = entry.get("command")
    command = command if isinstance(command, str) else ""
    exists = not command or shutil.which(command) is not None
    sandbox = "--sandbox" in _words(entry)
    unrelated = _is_unrelated(_words(entry))
    return Installation(client, CLIENTS[client].title, name, file, command, exists, sandbox, unrelated, token_in(entry))


def _is_unrelated(words: Sequence[str]) -> bool:
    """Whether a command line makes uv or pipx install the package index's `mcp-seedream`, an unrelated project."""
    if not any(_RUNNER.fullmatch(word) for word in words):
        return False
    options = [word.partition("=") for word in words]
    sources = [
        value if equals else following
        for (option, equals, value), following in zip(options, [*words[1:], ""], strict=True)
        if option in _PACKAGE_OPTIONS
    ]
    return any(_UNRELATED.fullmatch(word) for word in sources or words)
