"""The entry in a client's settings that `install` and `uninstall` change, and the output of both commands."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mcp_seedream.core.errors import ConfigurationError
from mcp_seedream.install.clients import CLIENTS, McpClient, has_token, installed_client, other_vscodes
from mcp_seedream.install.diff import difference
from mcp_seedream.install.discovery import folders_here
from mcp_seedream.install.json_positions import value_at
from mcp_seedream.install.settings_file import ConfigFile, read


@dataclass(frozen=True, slots=True)
class EntryOptions:
    """Options of `install` and `uninstall`.

    Args:
        client: The client's name on the command line.
        name: The server's name in the client.
        config: The settings file; None for the client's usual file.
        dry_run: Whether changes are only shown.
    """

    client: str
    name: str
    config: Path | None
    dry_run: bool


@dataclass(frozen=True, slots=True)
class InstallOptions(EntryOptions):
    """Options of `install`.

    Args:
        hosted: Whether AceDataCloud's server is installed instead of this one.
        url: The address of another hosted server.
        sandbox: Whether the server uses the sandbox.
        ask: Whether the client asks for the token.
        link: Whether links are printed, and nothing is written.
    """

    hosted: bool
    url: str | None
    sandbox: bool
    ask: bool
    link: bool


@dataclass(frozen=True)
class Target:
    """The current state of an entry in a settings file."""

    client: McpClient
    config: ConfigFile
    path: tuple[str, str]
    entry: Any
    missing: Path | None
    """The missing file or folder that an installed client would have."""
    others: tuple[str, ...] = ()
    """Other installed builds of the client, with their settings files."""


def target_of(options: EntryOptions) -> Target:
    """The entry that the options select, in its current state.

    Raises:
        ConfigurationError: The file can't be read, or the client can't read it.
    """
    folders = folders_here()
    client = CLIENTS[options.client if options.config else installed_client(options.client, folders)]
    place = client.settings_path(folders)
    config = read(options.config or place.file)
    path = (client.servers, options.name)
    try:
        entry = value_at(config.text, path, comments=client.comments)
    except ValueError as error:
        raise ConfigurationError(f"{client.title} can't read {config.path}: {error}. Nothing was changed.") from None
    missing = None if options.config or place.is_installed else place.evidence
    others = () if options.config or not client.inputs else tuple(other_vscodes(config.path, folders))
    return Target(client, config, path, entry, missing, others)


def show(config: ConfigFile, text: str) -> None:
    """Print the changes to a file, without secrets."""
    for line in difference(config, text):
        say(line)
    say("Nothing was written.")


def backup_note(backup: Path | None, entry: Any) -> str:
    """The path of the backup, and whether it contains a token, for the end of a line; empty without a backup."""
    token = ", which contains a token" if has_token(entry) else ""
    return f" Backup{token}: {backup}" if backup else ""


def say(text: str, file: TextIO | None = None) -> None:
    """Print a line, to stdout by default. Characters that the stream can't encode are escaped."""
    file = file or sys.stdout
    encoding = file.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=file)
