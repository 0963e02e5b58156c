"""An entry in the settings of an MCP client: where it is to be, what is there now, and what is said about it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mcp_seedream.core.errors import ConfigurationError
from mcp_seedream.install.clients import CLIENTS, McpClient, found_as, has_token, other_vscodes
from mcp_seedream.install.diff import difference
from mcp_seedream.install.discovery import folders_here
from mcp_seedream.install.json_positions import value_at
from mcp_seedream.install.settings_file import ConfigFile, read


@dataclass(frozen=True, slots=True)
class EntryOptions:
    """Options of `install` and `uninstall`.

    Args:
        client: The client, as the command line calls it.
        name: What the client calls the server.
        config: The settings file; None: the client's usual one.
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
    """An entry in a settings file, as it is now."""

    client: McpClient
    config: ConfigFile
    path: tuple[str, str]
    entry: Any
    missing: Path | None
    """What shows that the client is there, and is not."""
    others: tuple[str, ...] = ()
    """Other builds of the client that are there, with their settings files."""


def target_of(options: EntryOptions) -> Target:
    """What the command line means, as it is now.

    Raises:
        ConfigurationError: The file can't be read, or the client can't read it.
    """
    folders = folders_here()
    client = CLIENTS[options.client if options.config else found_as(options.client, folders)]
    place = client.place(folders)
    config = read(options.config or place.file)
    path = (client.servers, options.name)
    try:
        entry = value_at(config.text, path, comments=client.comments)
    except ValueError as error:
        raise ConfigurationError(
            f"{config.path} is not what {client.title} can read: {error}. Nothing was changed."
        ) from None
    missing = None if options.config or place.is_used else place.sign
    others = () if options.config or not client.asks else tuple(other_vscodes(config.path, folders))
    return Target(client, config, path, entry, missing, others)


def show(config: ConfigFile, text: str) -> None:
    """Print what would change; no secret is in it."""
    for line in difference(config, text):
        say(line)
    say("Nothing was written.")


def kept(backup: Path | None, entry: Any) -> str:
    """Where the old text is, and whether that holds a token, as the end of a line; empty without a backup."""
    token = ", token and all" if has_token(entry) else ""
    return f" As it was before{token}: {backup}" if backup else ""


def say(text: str, file: TextIO | None = None) -> None:
    """Print a line, to stdout unless told otherwise; what its encoding has no sign for is written as an escape."""
    file = file or sys.stdout
    encoding = file.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=file)
