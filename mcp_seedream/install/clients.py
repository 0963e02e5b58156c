"""The MCP clients that `install` knows: where each keeps its settings, and what an entry for a server looks like there.

Places and shapes are from the clients' own documents and, where those are behind, from reports of their users.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcp_seedream.core.settings import name_of

TOKEN = name_of("token")
HOSTED = "https://seedream.mcp.acedata.cloud/mcp"
"""This server, as AceDataCloud serves it."""
INPUT: Mapping[str, Any] = {
    "id": "acedatacloud-api-token",
    "type": "promptString",
    "description": "AceDataCloud API token (platform.acedata.cloud)",
    "password": True,
}
"""What VS Code is to ask for: once, and it keeps the answer in its secret storage."""
ASKED = f"${{input:{INPUT['id']}}}"
"""What it puts the answer in place of."""


@dataclass(frozen=True)
class Folders:
    """Where programs keep a person's settings.

    Args:
        system: As `sys.platform` has it.
        home: The person's own folder.
        config: Linux: `$XDG_CONFIG_HOME` or `~/.config`; macOS: `~/Library/Application Support`; Windows: `%APPDATA%`.
        local: Windows: `%LOCALAPPDATA%`; elsewhere it does not matter.
        claude_code: `$CLAUDE_CONFIG_DIR`, where it is set.
    """

    system: str
    home: Path
    config: Path
    local: Path
    claude_code: Path | None = None


@dataclass(frozen=True)
class Place:
    """A settings file, and a folder or file that is there where its client is."""

    file: Path
    sign: Path

    @property
    def is_used(self) -> bool:
        """Whether the client is there."""
        return self.file.exists() or self.sign.exists()


@dataclass(frozen=True)
class McpClient:
    """A client, and how it wants to be told of servers.

    Args:
        title: Its name for people.
        place: Where its settings are.
        servers: The member of its settings that holds the servers.
        then: What is left to do once they are written.
        comments: Whether it reads comments and trailing commas; settings with some are no use to one that does not.
        url: What it calls the address of a remote server; None if its file has only local ones.
        asks: The member of its settings that holds what it is to ask people for; None if it asks for nothing.
        local: What else an entry for a local server has.
        remote: The same for a remote one.
    """

    title: str
    place: Callable[[Folders], Place]
    servers: str
    then: str
    comments: bool = True
    url: str | None = "url"
    asks: str | None = None
    local: Mapping[str, str] = field(default_factory=dict)
    remote: Mapping[str, str] = field(default_factory=dict)

    def local_entry(self, command: Sequence[str], env: Mapping[str, str]) -> dict[str, Any]:
        """The entry that has the client start this command, with these variables; without any there is no `env`."""
        entry = {**self.local, "command": command[0], "args": list(command[1:])}
        return {**entry, "env": dict(env)} if env else entry

    def remote_entry(self, url: str, token: str | None) -> dict[str, Any]:
        """The entry that has it call this address; without a token it signs in there (OAuth)."""
        entry: dict[str, Any] = {**self.remote, self.url or "url": url}
        return {**entry, "headers": {"Authorization": f"Bearer {token}"}} if token else entry


FILLED_IN = r"\$\{(?:input|env):[^{}\"]*\}"
_ABOUT_START = {"command", "args", "env"}
_ABOUT_ADDRESS = {"url", "serverUrl", "headers", "transport"}
_SECRETS = {"env": TOKEN, "headers": "Authorization"}


def merged(old: Any, new: Mapping[str, Any], *, keep_token: bool) -> dict[str, Any]:
    """An entry that is there already, made anew: what people added to it stays, other variables and headers, too.

    Args:
        old: What stands there, of whatever shape.
        new: The entry as it would be in an empty place.
        keep_token: Whether the token that `old` has stays where `new` has none.
    """
    if not isinstance(old, Mapping):
        return dict(new)
    gone = _ABOUT_ADDRESS if "command" in new else _ABOUT_START
    entry = {key: value for key, value in old.items() if key not in gone} | dict(new)
    for place, secret in _SECRETS.items():
        before = old.get(place)
        if place in gone or not isinstance(before, Mapping):
            continue
        drop = "" if keep_token and place not in new else secret.lower()
        entry[place] = {key: value for key, value in before.items() if key.lower() != drop} | new.get(place, {})
        if before and not entry[place]:
            del entry[place]
    return entry


def token_in(entry: Any) -> str | None:
    """The token that an entry for a local server has."""
    env = entry.get("env") if isinstance(entry, Mapping) else None
    token = env.get(TOKEN) if isinstance(env, Mapping) else None
    return token if isinstance(token, str) and token else None


def has_authorization(entry: Any) -> bool:
    """Whether an entry for a remote server says who calls."""
    headers = entry.get("headers") if isinstance(entry, Mapping) else None
    return isinstance(headers, Mapping) and any(name.lower() == "authorization" for name in headers)


def is_filled_in(token: str) -> bool:
    """Whether a client puts a token in place of this: one that it asks for, or has in its own environment."""
    return re.fullmatch(FILLED_IN, token) is not None


def has_token(entry: Any) -> bool:
    """Whether an entry of either kind holds a secret; any header may be one, unless the client fills it in."""
    token = token_in(entry)
    if token is not None and not is_filled_in(token):
        return True
    headers = entry.get("headers", {}) if isinstance(entry, Mapping) else {}
    values = headers.values() if isinstance(headers, Mapping) else [headers]
    return not all(isinstance(each, str) and is_filled_in(each.removeprefix("Bearer ")) for each in values)


def _claude_desktop(folders: Folders) -> Place:
    """On Windows its packaged form reads neither `%APPDATA%` nor the file that its own Edit Config opens."""
    folder = folders.config / "Claude"
    if folders.system == "win32":
        packaged = [
            *sorted(folders.local.glob("Claude-Data/[Cc]laude_*")),
            *sorted(path / "LocalCache/Roaming/Claude" for path in folders.local.glob("Packages/Claude_*")),
        ]
        folder = next(iter(packaged), folder)
    return Place(folder / "claude_desktop_config.json", folder)


def _claude_code(folders: Folders) -> Place:
    folder = folders.claude_code
    return Place((folder or folders.home) / ".claude.json", folder or folders.home / ".claude")


def _cursor(folders: Folders) -> Place:
    folder = folders.home / ".cursor"
    return Place(folder / "mcp.json", folder)


_VSCODES = {
    "vscode": (("Code", "com.visualstudio.code", "code"), ("Code - OSS", "com.visualstudio.code-oss", "code-oss")),
    "vscode-insiders": (("Code - Insiders", "com.visualstudio.code.insiders", "code-insiders"),),
    "vscodium": (
        ("VSCodium", "com.vscodium.codium", "codium"),
        ("VSCodium - Insiders", "com.vscodium.codium-insiders", "codium-insiders"),
    ),
}
"""VS Code and its builds: the settings folder of each, and its names as a Flatpak and as a snap."""


def _vscode_places(client: str, folders: Folders) -> Iterator[Place]:
    """All it may have: of a package of the system, of a Flatpak, and of a snap, which may keep to its own folder."""
    for product, flatpak, snap in _VSCODES[client]:
        file = Path(product, "User", "mcp.json")
        yield Place(folders.config / file, folders.config / product)
        if folders.system == "linux":
            inside = folders.home / ".var" / "app" / flatpak
            yield Place(inside / "config" / file, inside)
            inside = folders.home / "snap" / snap
            yield Place(inside / "current" / ".config" / file, inside / "current" / ".config" / product)
            yield Place(folders.config / file, inside)


def _used(places: Iterable[Place]) -> Place:
    """The first that is used, or else the first."""
    there = list(places)
    return next((place for place in there if place.is_used), there[0])


def _vscode(client: str) -> Callable[[Folders], Place]:
    return lambda folders: _used(_vscode_places(client, folders))


def _windsurf(folders: Folders) -> Place:
    folder = folders.home / ".codeium" / "windsurf"
    return Place(folder / "mcp_config.json", folder)


def _devin(folders: Folders) -> Place:
    folder = _dot_config(folders) / "devin"
    return Place(folder / "mcp_config.json", folder)


def _zed(folders: Folders) -> Place:
    folder = _dot_config(folders) / ("Zed" if folders.system == "win32" else "zed")
    inside = folders.home / ".var" / "app" / "dev.zed.Zed"  # as a Flatpak
    return _used([Place(folder / "settings.json", folder), Place(inside / "config" / "zed" / "settings.json", inside)])


def _dot_config(folders: Folders) -> Path:
    """Some programs keep to `~/.config` on macOS, too."""
    return folders.home / ".config" if folders.system == "darwin" else folders.config


CLIENTS: Mapping[str, McpClient] = {
    "claude-desktop": McpClient(
        "Claude Desktop",
        _claude_desktop,
        "mcpServers",
        "Quit Claude Desktop altogether (closing its window is not enough) and start it. If it was running just now "
        "and the entry is gone again, it wrote its settings back: quit it first, then run this once more.",
        comments=False,
        url=None,
    ),
    "claude-code": McpClient(
        "Claude Code",
        _claude_code,
        "mcpServers",
        "Start a new session of Claude Code; /mcp shows the server.",
        comments=False,
        local={"type": "stdio"},
        remote={"type": "http"},
    ),
    "cursor": McpClient(
        "Cursor", _cursor, "mcpServers", "Restart Cursor; its settings, under MCP, show the server and its switch."
    ),
    **{
        client: McpClient(
            title,
            _vscode(client),
            "servers",
            f"In {title} run the command “MCP: List Servers”, choose the server and start it.",
            asks="inputs",
            local={"type": "stdio"},
            remote={"type": "http"},
        )
        for client, title in {
            "vscode": "VS Code",
            "vscode-insiders": "VS Code Insiders",
            "vscodium": "VSCodium",
        }.items()
    },
    "windsurf": McpClient(
        "Windsurf", _windsurf, "mcpServers", "Press Refresh in Windsurf's MCP panel, or restart it.", url="serverUrl"
    ),
    "devin": McpClient(
        "Devin Desktop (once Windsurf)",
        _devin,
        "mcpServers",
        "Restart Devin Desktop; the MCP section of its agent panel shows the server.",
        remote={"transport": "http"},
    ),
    "zed": McpClient("Zed", _zed, "context_servers", "Zed starts it by itself; the agent panel's settings show it."),
}
"""By the name that the command line has for it."""


def found_as(name: str, folders: Folders) -> str:
    """The client that is meant: Windsurf may have become Devin Desktop, and VS Code may be another build."""
    if name == "vscode":
        return next((client for client in _VSCODES if CLIENTS[client].place(folders).is_used), name)
    return "devin" if name == "windsurf" and _devin(folders).sign.is_dir() else name


def other_vscodes(used: Path, folders: Folders) -> list[str]:
    """VS Codes of any build that are there as well, each with its settings file, in words."""
    found = {
        place.file: CLIENTS[client].title
        for client in _VSCODES
        for place in _vscode_places(client, folders)
        if place.is_used and place.file.resolve() != used
    }
    return [f"{title} ({file})" for file, title in found.items()]
