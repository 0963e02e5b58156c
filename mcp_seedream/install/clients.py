"""The MCP clients that `install` supports: the settings file of each, and the form of a server's entry in it.

Paths and forms are from the clients' documentation and, where that is outdated, from reports of their users.
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
"""The server that AceDataCloud hosts."""
INPUT: Mapping[str, Any] = {
    "id": "acedatacloud-api-token",
    "type": "promptString",
    "description": "AceDataCloud API token (platform.acedata.cloud)",
    "password": True,
}
"""VS Code's input variable for the token. VS Code asks the user once, and keeps the answer in its secret storage."""
INPUT_VARIABLE = f"${{input:{INPUT['id']}}}"
"""VS Code replaces this with the answer."""


@dataclass(frozen=True)
class Folders:
    """The folders of a user's settings.

    Args:
        system: The value of `sys.platform`.
        home: The home folder.
        config: Linux: `$XDG_CONFIG_HOME` or `~/.config`; macOS: `~/Library/Application Support`; Windows: `%APPDATA%`.
        local: Windows: `%LOCALAPPDATA%`; not used on other systems.
        claude_code: `$CLAUDE_CONFIG_DIR`, if it is set.
    """

    system: str
    home: Path
    config: Path
    local: Path
    claude_code: Path | None = None


@dataclass(frozen=True)
class SettingsPath:
    """A settings file, and a folder or file that exists if its client is installed."""

    file: Path
    evidence: Path

    @property
    def is_installed(self) -> bool:
        """Whether the client is installed."""
        return self.file.exists() or self.evidence.exists()


@dataclass(frozen=True)
class McpClient:
    """A client, and the form of its settings.

    Args:
        title: Its display name.
        settings_path: Finds its settings file.
        servers: The member of its settings that contains the servers.
        next_step: Instructions for the user after the settings were written.
        comments: Whether it accepts comments and trailing commas.
        url: The member of an entry for the address of a remote server; None if its file can't have remote servers.
        inputs: The member of its settings that lists input variables; None if it has none.
        local: Further members of an entry for a local server.
        remote: Further members of an entry for a remote server.
    """

    title: str
    settings_path: Callable[[Folders], SettingsPath]
    servers: str
    next_step: str
    comments: bool = True
    url: str | None = "url"
    inputs: str | None = None
    local: Mapping[str, str] = field(default_factory=dict)
    remote: Mapping[str, str] = field(default_factory=dict)

    def local_entry(self, command: Sequence[str], env: Mapping[str, str]) -> dict[str, Any]:
        """An entry that starts this command with these variables. Without variables, it has no `env`."""
        entry = {**self.local, "command": command[0], "args": list(command[1:])}
        return {**entry, "env": dict(env)} if env else entry

    def remote_entry(self, url: str, token: str | None) -> dict[str, Any]:
        """An entry that connects to this address. Without a token, the client signs in (OAuth)."""
        entry: dict[str, Any] = {**self.remote, self.url or "url": url}
        return {**entry, "headers": {"Authorization": f"Bearer {token}"}} if token else entry


CLIENT_VARIABLE = r"\$\{(?:input|env):[^{}\"]*\}"
"""A regular expression for a variable that the client replaces by the user's input or an environment variable."""
_LOCAL_MEMBERS = {"command", "args", "env"}
_REMOTE_MEMBERS = {"url", "serverUrl", "headers", "transport"}
_SECRETS = {"env": TOKEN, "headers": "Authorization"}


def merged(old: Any, new: Mapping[str, Any], *, keep_token: bool) -> dict[str, Any]:
    """An updated entry, with the members, variables and headers that the user added to the existing one.

    Args:
        old: The existing entry, of any JSON type.
        new: The entry for an empty file.
        keep_token: Whether the token of `old` is kept if `new` has none.
    """
    if not isinstance(old, Mapping):
        return dict(new)
    removed = _REMOTE_MEMBERS if "command" in new else _LOCAL_MEMBERS
    entry = {key: value for key, value in old.items() if key not in removed} | dict(new)
    for member, secret in _SECRETS.items():
        before = old.get(member)
        if member in removed or not isinstance(before, Mapping):
            continue
        drop = "" if keep_token and member not in new else secret.lower()
        entry[member] = {key: value for key, value in before.items() if key.lower() != drop} | new.get(member, {})
        if before and not entry[member]:
            del entry[member]
    return entry


def token_in(entry: Any) -> str | None:
    """The token in an entry for a local server."""
    env = entry.get("env") if isinstance(entry, Mapping) else None
    token = env.get(TOKEN) if isinstance(env, Mapping) else None
    return token if isinstance(token, str) and token else None


def has_authorization(entry: Any) -> bool:
    """Whether an entry for a remote server has an `Authorization` header."""
    headers = entry.get("headers") if isinstance(entry, Mapping) else None
    return isinstance(headers, Mapping) and any(name.lower() == "authorization" for name in headers)


def is_client_variable(token: str) -> bool:
    """Whether the text is a variable that the client replaces by a token."""
    return re.fullmatch(CLIENT_VARIABLE, token) is not None


def has_token(entry: Any) -> bool:
    """Whether an entry contains a secret. Every header counts as a secret, unless it is a variable of the client."""
    token = token_in(entry)
    if token is not None and not is_client_variable(token):
        return True
    headers = entry.get("headers", {}) if isinstance(entry, Mapping) else {}
    values = headers.values() if isinstance(headers, Mapping) else [headers]
    return not all(isinstance(each, str) and is_client_variable(each.removeprefix("Bearer ")) for each in values)


def _claude_desktop(folders: Folders) -> SettingsPath:
    """On Windows, the packaged version does not read `%APPDATA%`, nor the file that its Edit Config opens."""
    folder = folders.config / "Claude"
    if folders.system == "win32":
        packaged = [
            *sorted(folders.local.glob("Claude-Data/[Cc]laude_*")),
            *sorted(path / "LocalCache/Roaming/Claude" for path in folders.local.glob("Packages/Claude_*")),
        ]
        folder = next(iter(packaged), folder)
    return SettingsPath(folder / "claude_desktop_config.json", folder)


def _claude_code(folders: Folders) -> SettingsPath:
    folder = folders.claude_code
    return SettingsPath((folder or folders.home) / ".claude.json", folder or folders.home / ".claude")


def _cursor(folders: Folders) -> SettingsPath:
    folder = folders.home / ".cursor"
    return SettingsPath(folder / "mcp.json", folder)


_VSCODES = {
    "vscode": (("Code", "com.visualstudio.code", "code"), ("Code - OSS", "com.visualstudio.code-oss", "code-oss")),
    "vscode-insiders": (("Code - Insiders", "com.visualstudio.code.insiders", "code-insiders"),),
    "vscodium": (
        ("VSCodium", "com.vscodium.codium", "codium"),
        ("VSCodium - Insiders", "com.vscodium.codium-insiders", "codium-insiders"),
    ),
}
"""The builds of VS Code: settings folder, name as a Flatpak, and name as a snap."""


def _vscode_paths(client: str, folders: Folders) -> Iterator[SettingsPath]:
    """All possible settings files: of a system package, a Flatpak, and a snap, which may use its own folder."""
    for product, flatpak, snap in _VSCODES[client]:
        file = Path(product, "User", "mcp.json")
        yield SettingsPath(folders.config / file, folders.config / product)
        if folders.system == "linux":
            inside = folders.home / ".var" / "app" / flatpak
            yield SettingsPath(inside / "config" / file, inside)
            inside = folders.home / "snap" / snap
            yield SettingsPath(inside / "current" / ".config" / file, inside / "current" / ".config" / product)
            yield SettingsPath(folders.config / file, inside)


def _first_installed(places: Iterable[SettingsPath]) -> SettingsPath:
    """The first settings file whose client is installed, or the first of all."""
    candidates = list(places)
    return next((place for place in candidates if place.is_installed), candidates[0])


def _vscode(client: str) -> Callable[[Folders], SettingsPath]:
    return lambda folders: _first_installed(_vscode_paths(client, folders))


def _windsurf(folders: Folders) -> SettingsPath:
    folder = folders.home / ".codeium" / "windsurf"
    return SettingsPath(folder / "mcp_config.json", folder)


def _devin(folders: Folders) -> SettingsPath:
    folder = _dot_config(folders) / "devin"
    return SettingsPath(folder / "mcp_config.json", folder)


def _zed(folders: Folders) -> SettingsPath:
    folder = _dot_config(folders) / ("Zed" if folders.system == "win32" else "zed")
    inside = folders.home / ".var" / "app" / "dev.zed.Zed"  # as a Flatpak
    return _first_installed(
        [
            SettingsPath(folder / "settings.json", folder),
            SettingsPath(inside / "config" / "zed" / "settings.json", inside),
        ]
    )


def _dot_config(folders: Folders) -> Path:
    """The folder `~/.config`, which some programs also use on macOS."""
    return folders.home / ".config" if folders.system == "darwin" else folders.config


CLIENTS: Mapping[str, McpClient] = {
    "claude-desktop": McpClient(
        "Claude Desktop",
        _claude_desktop,
        "mcpServers",
        "Quit Claude Desktop completely (closing its window is not enough), and start it again. If the entry is then "
        "missing, Claude Desktop has overwritten its settings: quit it first, and run this command again.",
        comments=False,
        url=None,
    ),
    "claude-code": McpClient(
        "Claude Code",
        _claude_code,
        "mcpServers",
        "Start a new session of Claude Code. /mcp shows the server.",
        comments=False,
        local={"type": "stdio"},
        remote={"type": "http"},
    ),
    "cursor": McpClient(
        "Cursor", _cursor, "mcpServers", "Restart Cursor. Its settings, under MCP, show the server and its switch."
    ),
    **{
        client: McpClient(
            title,
            _vscode(client),
            "servers",
            f"In {title}, run the command “MCP: List Servers”, choose the server, and start it.",
            inputs="inputs",
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
        "Devin Desktop (formerly Windsurf)",
        _devin,
        "mcpServers",
        "Restart Devin Desktop. The MCP section of its agent panel shows the server.",
        remote={"transport": "http"},
    ),
    "zed": McpClient(
        "Zed", _zed, "context_servers", "Zed starts the server by itself. The settings of its agent panel show it."
    ),
}
"""The clients, by their names on the command line."""


def installed_client(name: str, folders: Folders) -> str:
    """The installed client for a name: Windsurf may now be Devin Desktop, and VS Code another build."""
    if name == "vscode":
        return next((client for client in _VSCODES if CLIENTS[client].settings_path(folders).is_installed), name)
    return "devin" if name == "windsurf" and _devin(folders).evidence.is_dir() else name


def other_vscodes(used: Path, folders: Folders) -> list[str]:
    """The other installed builds of VS Code, each with its settings file, as text."""
    others = {
        place.file: CLIENTS[client].title
        for client in _VSCODES
        for place in _vscode_paths(client, folders)
        if place.is_installed and place.file.resolve() != used
    }
    return [f"{title} ({file})" for file, title in others.items()]
