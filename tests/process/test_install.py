"""The entry in a client's settings: written, shown, changed and taken out again, in homes of every layout."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp import Client, StdioServerParameters

from mcp_seedream.cli import MCP_CLIENTS, main
from mcp_seedream.core.errors import ConfigurationError
from mcp_seedream.install.clients import (
    CLIENTS,
    HOSTED,
    INPUT,
    INPUT_VARIABLE,
    TOKEN,
    Folders,
    installed_client,
    merged,
)
from mcp_seedream.install.json_positions import parsed
from mcp_seedream.install.settings_file import read
from tests.unit.test_jsonc import is_within, jsonc, objects

SCRIPT = str(Path(sys.executable).parent / "mcp-seedream")
SECRET = "a-secret-token"
OTHER = {"command": "npx", "args": ["-y", "other"], "env": {"OTHER_API_KEY": "other-secret"}}
VSCODES = ("vscode", "vscode-insiders", "vscodium")
REMOTE = [name for name in MCP_CLIENTS if name != "claude-desktop"]


class Person:
    """Somebody with a home folder on a Linux system, at a command line."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self.env = {"HOME": str(home), "PATH": ""}
        self.folders = Folders("linux", home, home / ".config", home)
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def run(self, *arguments: str, token: str | None = SECRET) -> tuple[int, str, str]:
        """The exit status, and what is on stdout and stderr."""
        with self._monkeypatch.context() as here:
            for name in os.environ:
                here.delenv(name)
            for name, value in (self.env | ({TOKEN: token} if token else {})).items():
                here.setenv(name, value)
            here.chdir(self.home)
            status = main(arguments)
        said = self._capsys.readouterr()
        assert SECRET not in said.out + said.err
        return status, said.out, said.err

    def done(self, *arguments: str, token: str | None = SECRET) -> str:
        """What it says, after it went well."""
        status, out, err = self.run(*arguments, token=token)
        assert (status, err) == (0, "")
        return out

    def refused(self, *arguments: str, token: str | None = SECRET) -> str:
        """Its one line on stderr, after it did not."""
        status, out, err = self.run(*arguments, token=token)
        assert (status, out) == (2, "")
        assert err.startswith("mcp-seedream: ")
        assert err.count("\n") == 1
        return err

    def file(self, client: str) -> Path:
        return CLIENTS[client].settings_path(self.folders).file

    def uses(self, client: str) -> None:
        """Have its settings folder, as one who has started it."""
        self.file(client).parent.mkdir(parents=True, exist_ok=True)

    def has(self, client: str, content: bytes | str) -> Path:
        """Their settings, before."""
        file = self.file(client)
        self.uses(client)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def entry(self, client: str, name: str = "seedream") -> Any:
        return parsed(self.file(client).read_text("utf-8-sig"))[CLIENTS[client].servers][name]


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Person:
    home = tmp_path / "home"
    home.mkdir()
    return Person(home, monkeypatch, capsys)


def backups(file: Path) -> list[Path]:
    return sorted(file.parent.glob(f"{file.name}.backup-*"))


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


LINUX = Folders("linux", Path("/home/ann"), Path("/home/ann/.config"), Path("/home/ann/.config"))
MOVED = Folders("linux", Path("/home/ann"), Path("/xdg"), Path("/xdg"), claude_code=Path("/claude"))
MAC = Folders("darwin", Path("/Users/ann"), Path("/Users/ann/Library/Application Support"), Path("/nowhere"))
WINDOWS = Folders("win32", Path("C:/Users/ann"), Path("C:/Users/ann/Roaming"), Path("C:/Users/ann/Local"))


@pytest.mark.parametrize(
    ("folders", "client", "file"),
    [
        (LINUX, "claude-desktop", "/home/ann/.config/Claude/claude_desktop_config.json"),
        (LINUX, "claude-code", "/home/ann/.claude.json"),
        (LINUX, "cursor", "/home/ann/.cursor/mcp.json"),
        (LINUX, "vscode", "/home/ann/.config/Code/User/mcp.json"),
        (LINUX, "windsurf", "/home/ann/.codeium/windsurf/mcp_config.json"),
        (LINUX, "devin", "/home/ann/.config/devin/mcp_config.json"),
        (LINUX, "zed", "/home/ann/.config/zed/settings.json"),
        (LINUX, "vscode-insiders", "/home/ann/.config/Code - Insiders/User/mcp.json"),
        (LINUX, "vscodium", "/home/ann/.config/VSCodium/User/mcp.json"),
        (MAC, "vscode-insiders", "/Users/ann/Library/Application Support/Code - Insiders/User/mcp.json"),
        (MAC, "vscodium", "/Users/ann/Library/Application Support/VSCodium/User/mcp.json"),
        (WINDOWS, "vscode-insiders", "C:/Users/ann/Roaming/Code - Insiders/User/mcp.json"),
        (WINDOWS, "vscodium", "C:/Users/ann/Roaming/VSCodium/User/mcp.json"),
        (MOVED, "claude-desktop", "/xdg/Claude/claude_desktop_config.json"),
        (MOVED, "claude-code", "/claude/.claude.json"),
        (MOVED, "cursor", "/home/ann/.cursor/mcp.json"),
        (MOVED, "vscode", "/xdg/Code/User/mcp.json"),
        (MOVED, "windsurf", "/home/ann/.codeium/windsurf/mcp_config.json"),
        (MOVED, "devin", "/xdg/devin/mcp_config.json"),
        (MOVED, "zed", "/xdg/zed/settings.json"),
        (MAC, "claude-desktop", "/Users/ann/Library/Application Support/Claude/claude_desktop_config.json"),
        (MAC, "claude-code", "/Users/ann/.claude.json"),
        (MAC, "cursor", "/Users/ann/.cursor/mcp.json"),
        (MAC, "vscode", "/Users/ann/Library/Application Support/Code/User/mcp.json"),
        (MAC, "windsurf", "/Users/ann/.codeium/windsurf/mcp_config.json"),
        (MAC, "devin", "/Users/ann/.config/devin/mcp_config.json"),
        (MAC, "zed", "/Users/ann/.config/zed/settings.json"),
        (WINDOWS, "claude-desktop", "C:/Users/ann/Roaming/Claude/claude_desktop_config.json"),
        (WINDOWS, "claude-code", "C:/Users/ann/.claude.json"),
        (WINDOWS, "cursor", "C:/Users/ann/.cursor/mcp.json"),
        (WINDOWS, "vscode", "C:/Users/ann/Roaming/Code/User/mcp.json"),
        (WINDOWS, "windsurf", "C:/Users/ann/.codeium/windsurf/mcp_config.json"),
        (WINDOWS, "devin", "C:/Users/ann/Roaming/devin/mcp_config.json"),
        (WINDOWS, "zed", "C:/Users/ann/Roaming/Zed/settings.json"),
    ],
)
def test_where_settings_are(folders: Folders, client: str, file: str) -> None:
    """On each system, as each client has it."""
    assert CLIENTS[client].settings_path(folders).file == Path(file)


def test_where_claude_desktop_is_when_windows_packages_it(tmp_path: Path) -> None:
    """In one of two folders that other programs do not share with it; the newer one counts."""
    folders = Folders("win32", tmp_path, tmp_path / "Roaming", tmp_path / "Local")
    (folders.config / "Claude").mkdir(parents=True)
    found = [CLIENTS["claude-desktop"].settings_path(folders).file.parent]
    for folder in ("Packages/Claude_pzs8sxrjxfjjc", "Claude-Data/claude_pzs8sxrjxfjjc"):
        (folders.local / folder).mkdir(parents=True)
        found.append(CLIENTS["claude-desktop"].settings_path(folders).file.parent)
    packaged = folders.local / "Packages" / "Claude_pzs8sxrjxfjjc" / "LocalCache" / "Roaming" / "Claude"
    assert found == [folders.config / "Claude", packaged, folders.local / "Claude-Data" / "claude_pzs8sxrjxfjjc"]


def test_windsurf_that_became_devin_desktop(person: Person) -> None:
    """Is found under its new name, where that is there, and said to be."""
    assert installed_client("windsurf", person.folders) == "windsurf"
    person.file("devin").parent.mkdir(parents=True)
    assert installed_client("windsurf", person.folders) == "devin"
    assert "for Devin Desktop (formerly Windsurf) in" in person.done("install", "windsurf")
    assert person.entry("devin")["command"] == SCRIPT
    assert not person.file("windsurf").exists()


FLATPAKS = {
    "com.visualstudio.code": ("vscode", "Code"),
    "com.visualstudio.code-oss": ("vscode", "Code - OSS"),
    "com.visualstudio.code.insiders": ("vscode-insiders", "Code - Insiders"),
    "com.vscodium.codium": ("vscodium", "VSCodium"),
    "com.vscodium.codium-insiders": ("vscodium", "VSCodium - Insiders"),
}


@pytest.mark.parametrize("asked", ["vscode", None])
@pytest.mark.parametrize(
    ("sign", "client", "file"),
    [
        (".config/Code", "vscode", ".config/Code/User/mcp.json"),
        (".config/Code - OSS", "vscode", ".config/Code - OSS/User/mcp.json"),
        (".config/Code - Insiders", "vscode-insiders", ".config/Code - Insiders/User/mcp.json"),
        (".config/VSCodium", "vscodium", ".config/VSCodium/User/mcp.json"),
        *[
            (f".var/app/{app}", client, f".var/app/{app}/config/{product}/User/mcp.json")
            for app, (client, product) in FLATPAKS.items()
        ],
        ("snap/code", "vscode", ".config/Code/User/mcp.json"),
        ("snap/code-insiders", "vscode-insiders", ".config/Code - Insiders/User/mcp.json"),
        ("snap/codium", "vscodium", ".config/VSCodium/User/mcp.json"),
        ("snap/code/current/.config/Code", "vscode", "snap/code/current/.config/Code/User/mcp.json"),
        ("snap/codium/current/.config/VSCodium", "vscodium", "snap/codium/current/.config/VSCodium/User/mcp.json"),
    ],
)
def test_each_vs_code_is_found(person: Person, sign: str, client: str, file: str, asked: str | None) -> None:
    """By its own name and as `vscode`: builds of others, Flatpaks, and snaps with settings inside and outside."""
    (person.home / sign).mkdir(parents=True)
    said = person.done("install", asked or client)
    assert f"for {CLIENTS[client].title} in {person.home / file}." in said
    assert parsed((person.home / file).read_text())["servers"]["seedream"]["env"] == {TOKEN: SECRET}
    assert "was not found" not in said
    assert {path.name for path in person.home.rglob("mcp.json*")} == {"mcp.json"}
    assert "Removed" in person.done("uninstall", asked or client)


def test_several_vs_codes(person: Person) -> None:
    """The usual one is taken, and the others are named, with the way to them."""
    for folder in (".config/Code", ".config/Code - Insiders", ".var/app/com.visualstudio.code"):
        (person.home / folder).mkdir(parents=True)
    said = person.done("install", "vscode")
    assert f"for VS Code in {person.home}/.config/Code/User/mcp.json." in said
    others = [
        f"VS Code ({person.home}/.var/app/com.visualstudio.code/config/Code/User/mcp.json)",
        f"VS Code Insiders ({person.home}/.config/Code - Insiders/User/mcp.json)",
    ]
    assert f"Not changed: {', '.join(others)}. Use --config to select another file." in said
    assert "Not changed" not in person.done("install", "vscode", "--config", "mcp.json")
    assert "Not changed" not in person.done("install", "cursor")


@pytest.mark.parametrize("client", VSCODES)
@pytest.mark.parametrize("hosted", [[], ["--hosted"]])
def test_no_token_where_no_vs_code_reads_it(person: Person, client: str, hosted: list[str]) -> None:
    """It is refused, and the ways out work: no token in the file, the sandbox, or a file by name."""
    (person.home / ".var/app/org.other.editor").mkdir(parents=True)
    said = person.refused("install", client, *hosted)
    assert f"{CLIENTS[client].title} was not found" in said
    assert "Nothing was changed." in said
    assert list(person.home.rglob("mcp.json*")) == []
    assert "It reads this file once it is installed" in person.done("install", client, *hosted, "--ask")
    assert SECRET not in person.file(client).read_text()
    person.done("install", client, *hosted, "--config", "mcp.json")
    assert SECRET in (person.home / "mcp.json").read_text()


def test_zed_as_a_flatpak(person: Person) -> None:
    """Has its settings inside, unless there are some outside."""
    (person.home / ".var/app/dev.zed.Zed").mkdir(parents=True)
    inside = person.home / ".var/app/dev.zed.Zed/config/zed/settings.json"
    assert f"for Zed in {inside}." in person.done("install", "zed")
    (person.home / ".config/zed").mkdir(parents=True)
    assert f"for Zed in {person.home}/.config/zed/settings.json." in person.done("install", "zed")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("https://seedream.example.com", "https://seedream.example.com/mcp"),
        ("https://seedream.example.com/", "https://seedream.example.com/mcp"),
        ("https://seedream.example.com:8443", "https://seedream.example.com:8443/mcp"),
        ("https://example.com/seedream/", "https://example.com/seedream/mcp"),
        ("https://example.com/?preview=on", "https://example.com/mcp?preview=on"),
        ("https://example.com/MCP", "https://example.com/mcp"),
        ("https://example.com/sse", "https://example.com/mcp"),
        ("http://localhost:8000", "http://localhost:8000/mcp"),
        ("https://example.com/mcps", "https://example.com/mcps/mcp"),
    ],
)
def test_an_address_without_the_endpoint(person: Person, given: str, meant: str) -> None:
    """Is refused with the right one, which is taken; nothing is written, and no link printed."""
    for more in ([], ["--dry-run"], ["--link"]):
        said = person.refused("install", "cursor", "--url", given, *more)
        assert f"--url {meant}" in said
    assert list(person.home.iterdir()) == []
    person.done("install", "cursor", "--url", meant)
    assert person.entry("cursor")["url"] == meant


@pytest.mark.parametrize("url", ["https://example.com/mcp/", "https://example.com/mcp?preview=on", "https://a.b/x/mcp"])
def test_an_address_with_the_endpoint(person: Person, url: str) -> None:
    """Is taken as it is."""
    person.done("install", "cursor", "--url", url)
    assert person.entry("cursor")["url"] == url


@pytest.mark.skipif(sys.platform == "win32", reason="no such terminals there")
@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("\n", "https://example.com/mcp"),
        ("y\n", "https://example.com/mcp"),
        ("n\n", "https://example.com"),
        ("\x04", ""),
    ],
)
def test_an_address_is_asked_about(person: Person, typed: str, url: str) -> None:
    """At a terminal; somebody who knows better has their way, and the end of input changes nothing."""
    import pty  # noqa: PLC0415  (no such module on Windows)

    mine, theirs = pty.openpty()
    command = [SCRIPT, "install", "cursor", "--url", "https://example.com"]
    with os.fdopen(mine, "r+b", buffering=0) as terminal, os.fdopen(theirs, "r+b", buffering=0) as end:
        env = person.env | {TOKEN: SECRET}
        process = subprocess.Popen(command, env=env, stdin=end, stdout=end, stderr=end, start_new_session=True)
        terminal.write(typed.encode())
        assert process.wait(30) == (0 if url else 2)
        shown = terminal.read(10_000)
    assert b"https://example.com/mcp?" in shown
    assert person.file("cursor").exists() is bool(url)
    if url:
        assert person.entry("cursor")["url"] == url


def test_the_command_line_knows_every_client() -> None:
    """It has their names by itself, since the server's start need not wait for what they are."""
    assert tuple(CLIENTS) == MCP_CLIENTS
    code = "import sys, mcp_seedream.cli; sys.exit('mcp_seedream.install.clients' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("client", MCP_CLIENTS)
def test_a_local_entry(person: Person, client: str) -> None:
    """Runs this very installation, with the token, in a file that is its owner's alone."""
    person.uses(client)
    said = person.done("install", client)
    file = person.file(client)
    typed = {"type": "stdio"} if client in ("claude-code", *VSCODES) else {}
    assert person.entry(client) == {**typed, "command": SCRIPT, "args": [], "env": {TOKEN: SECRET}}
    assert f'Added "seedream" for {CLIENTS[client].title} in {file}.' in said
    assert CLIENTS[client].next_step in said
    assert mode(file) == 0o600
    assert backups(file) == []


@pytest.mark.parametrize("client", REMOTE)
@pytest.mark.parametrize("token", [SECRET, None])
def test_a_hosted_entry(person: Person, client: str, token: str | None) -> None:
    """Names the address as the client wants it; without a token people sign in or are asked, and are told."""
    person.uses(client)
    said = person.done("install", client, "--hosted", token=token)
    typed = {"claude-code": "type", "devin": "transport", **dict.fromkeys(VSCODES, "type")}
    more = {typed[client]: "http"} if client in typed else {}
    address = "serverUrl" if client == "windsurf" else "url"
    bearer = token or (INPUT_VARIABLE if client in VSCODES else None)
    headers = {"headers": {"Authorization": f"Bearer {bearer}"}} if bearer else {}
    assert person.entry(client) == {**more, address: HOSTED, **headers}
    assert ("lets you sign in at" in said) is (bearer is None)
    assert (f"It has no token: {CLIENTS[client].title} asks" in said) is (bearer == INPUT_VARIABLE)


def test_claude_desktop_has_no_remote_servers(person: Person) -> None:
    """It says where they belong; no file is made."""
    said = person.refused("install", "claude-desktop", "--hosted")
    assert "Settings, Connectors" in said
    assert HOSTED in said
    assert not person.file("claude-desktop").exists()


def test_another_hosted_server(person: Person) -> None:
    """By its address, under a name."""
    person.done("install", "cursor", "--url", "http://localhost:8000/mcp", "--name", "mine")
    assert person.entry("cursor", "mine")["url"] == "http://localhost:8000/mcp"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--url", "seedream.example.com"], "--url must be an address"),
        (["--url", "http://example.com/mcp"], "--url must be an address"),
        (["--url", "https://a b/mcp"], "--url must be an address"),
        (["--url", "https://"], "--url must be an address"),
        (["--url", "https://user:word@example.com/mcp"], "--url must be an address"),
        (["--hosted", "--sandbox"], "--sandbox is for a local server"),
        (["--name", ""], "--name must have"),
        (["--name", "my seedream"], "--name must have"),
        (["--name", "x" * 41], "--name must have"),
        (["--config", "~nobodyhere/x.json"], "can't be read"),
    ],
)
def test_options_that_make_no_sense(person: Person, arguments: list[str], says: str) -> None:
    """Are named, and nothing is written."""
    assert says in person.refused("install", "cursor", *arguments)
    assert list(person.home.iterdir()) == []


def test_without_a_token(person: Person) -> None:
    """Both ways out are named; one is the sandbox, and another a file `.env`."""
    said = person.refused("install", "cursor", token=None)
    assert TOKEN in said
    assert "--sandbox" in said
    assert not person.file("cursor").exists()
    person.done("install", "cursor", "--sandbox", token=None)
    assert person.entry("cursor") == {"command": SCRIPT, "args": ["--sandbox"]}
    (person.home / ".env").write_text(f"{TOKEN}={SECRET}\n")
    person.done("install", "cursor", token=None)
    assert person.entry("cursor") == {"command": SCRIPT, "args": [], "env": {TOKEN: SECRET}}
    person.done("--sandbox", "install", "cursor", token=None)
    assert person.entry("cursor") == {"command": SCRIPT, "args": ["--sandbox"]}


@pytest.mark.skipif(sys.platform == "win32", reason="no such terminals there")
@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (f" Bearer {SECRET}\n", "Added"),
        ("\n", "No API token is set"),
        (f"two words\nyour-token\n{SECRET}\n", "It contains blanks"),
        ('two words\n"Bearer "\n<token>\n', "Nothing was changed."),
        ("x\n\n", "`x` is not a token"),
        ("\x04", "no"),
    ],
)
def test_a_token_is_asked_for(person: Person, typed: str, says: str) -> None:
    """At a terminal, and not shown there."""
    import pty  # noqa: PLC0415  (no such module on Windows)

    mine, theirs = pty.openpty()
    with os.fdopen(mine, "r+b", buffering=0) as terminal, os.fdopen(theirs, "r+b", buffering=0) as end:
        process = subprocess.Popen(
            [SCRIPT, "install", "cursor"], env=person.env, stdin=end, stdout=end, stderr=end, start_new_session=True
        )
        shown = b""
        for count, line in enumerate(typed.splitlines(keepends=True), 1):
            while shown.count(b"not shown): ") < count:
                shown += terminal.read(1000)
            terminal.write(line.encode())
        assert process.wait(30) == (0 if SECRET in typed else 2)
        shown += terminal.read(10_000)
    assert says in shown.decode()
    assert SECRET not in shown.decode()
    assert ("Nothing was changed." in shown.decode()) is (SECRET not in typed)
    assert person.file("cursor").exists() is (SECRET in typed)


@pytest.mark.parametrize("token", ["your-token", "x", "${TOKEN}", "<token>", "Bearer"])
def test_what_only_stands_for_a_token(person: Person, token: str) -> None:
    """Is not written, for either kind of server; one that is in the file is no token to keep."""
    for hosted in ([], ["--hosted"]):
        said = person.refused("install", "cursor", *hosted, token=token)
        assert f"{TOKEN} is wrong" in said
        assert "Nothing was changed." in said
    assert not person.file("cursor").exists()
    person.has("cursor", json.dumps({"mcpServers": {"seedream": {"command": "c", "env": {TOKEN: token}}}}))
    assert "No API token is set" in person.refused("install", "cursor", token=None)


def test_a_short_token(person: Person) -> None:
    """Is written, with a remark."""
    assert "The token has only 5 characters" in person.done("install", "cursor", token="abcde")
    assert person.entry("cursor")["env"] == {TOKEN: "abcde"}


def test_a_token_that_the_client_asks_for(person: Person) -> None:
    """Stays its business, when there is none here."""
    entry = {"command": "c", "env": {TOKEN: "${input:acedatacloud-token}"}}
    person.has("vscode", json.dumps({"servers": {"seedream": entry}}))
    person.done("install", "vscode", token=None)
    assert person.entry("vscode")["env"] == entry["env"]


def test_settings_are_taken_along(person: Person) -> None:
    """Those of `.env` and the environment that a local server has a use for; paths are good in every folder."""
    person.env |= {"SEEDREAM_OUTPUT_DIR": "pictures", "SEEDREAM_SEAL_KEYS": SECRET * 3, "SEEDREAM_PREVIEW": "false"}
    person.env |= {"SEEDREAM_ALLOWED_DIRS": "a,~/b", "SEEDREAM_JOURNAL": "j"}
    lines = ("SEEDREAM_WAIT_SECONDS=20", "SEEDREAM_READ_TIMEOUT=60")
    (person.home / ".env").write_text("\n".join(lines))
    said = person.done("install", "cursor")
    env = {
        TOKEN: SECRET,
        "SEEDREAM_WAIT_SECONDS": "20",
        "SEEDREAM_PREVIEW": "off",
        "SEEDREAM_OUTPUT_DIR": str(person.home / "pictures"),
        "SEEDREAM_JOURNAL": str(person.home / "j"),
        "SEEDREAM_ALLOWED_DIRS": f"{person.home / 'a'},{person.home / 'b'}",
    }
    assert person.entry("cursor")["env"] == env
    assert f"It has these settings: {', '.join([*env][1:])}." in said
    assert "already" in person.done("install", "cursor")
    for name in ("SEEDREAM_OUTPUT_DIR", "SEEDREAM_PREVIEW"):
        del person.env[name]
    person.env |= {"SEEDREAM_JOURNAL": "off", "ACEDATACLOUD_API_BASE_URL": "http://127.0.0.1:9/"}
    person.done("install", "cursor")
    more = {"SEEDREAM_JOURNAL": "off", "ACEDATACLOUD_API_BASE_URL": "http://127.0.0.1:9"}
    assert person.entry("cursor")["env"] == env | more
    person.done("install", "zed", "--hosted")
    assert "env" not in person.entry("zed")


def test_a_client_that_is_not_there(person: Person) -> None:
    """Gets its file all the same, with a remark; one that is there gets none."""
    assert f"Zed was not found (no {person.home / '.config' / 'zed'})" in person.done("install", "zed")
    person.file("cursor").parent.mkdir()
    assert "not found" not in person.done("install", "cursor")
    assert "not found" not in person.done("install", "vscode", "--config", str(person.home / "mcp.json"))


SETTINGS = {
    "claude-desktop": '{\n  "preferences": {"theme": "dark"},\n  "mcpServers": {\n    "other": OTHER\n  }\n}',
    "claude-code": '{\n  "numStartups": 12,\n  "mcpServers": {},\n  "projects": {"/a": {"mcpServers": {}}}\n}\n',
    "cursor": '\ufeff{\r\n\t"mcpServers": {\r\n\t\t"other": OTHER\r\n\t}\r\n}\r\n',
    "vscode": '{\n  // mine\n  "inputs": [],\n  "servers": {\n    "other": OTHER, // keep\n  },\n}\n',
    "vscode-insiders": '{"servers":{"other":OTHER}}',
    "vscodium": "",
    "windsurf": '{"mcpServers":{"other":OTHER}}',
    "devin": "{}",
    "zed": '// mine\n{\n  "theme": "One Dark", // dark\n  /* "context_servers": {} */\n  "vim_mode": true,\n}\n',
}


@pytest.mark.parametrize(
    ("client", "remote"), [*((client, False) for client in MCP_CLIENTS), *((client, True) for client in REMOTE)]
)
def test_everything_else_stays(person: Person, client: str, remote: bool) -> None:
    """Comments, order, blanks, a byte order mark; a second time changes nothing; in the end every byte is back."""
    before = SETTINGS[client].replace("OTHER", json.dumps(OTHER)).encode()
    file = person.has(client, before)
    file.chmod(0o640)
    hosted = ["--hosted"] if remote else []
    said = person.done("install", client, *hosted)
    after = file.read_bytes()
    assert is_within(before.decode("utf-8-sig"), after.decode("utf-8-sig"))
    assert after.startswith(b"\xef\xbb\xbf") is before.startswith(b"\xef\xbb\xbf")
    assert (b"\r\n" in after) is (b"\r\n" in before)
    assert person.entry(client)["url" if remote and client != "windsurf" else "serverUrl" if remote else "command"]
    kept = backups(file)
    assert [backup.read_bytes() for backup in kept] == [before]
    assert str(kept[0]) in said
    assert mode(kept[0]) == mode(file) == 0o600
    assert ("only you can" in said) is (sys.platform != "win32")

    moment = file.stat().st_mtime_ns
    assert "already" in person.done("install", client, *hosted)
    assert file.stat().st_mtime_ns == moment
    assert backups(file) == kept

    assert "The file has its previous content again." in person.done("uninstall", client)
    assert file.read_bytes() == before
    assert mode(file) == 0o600
    assert backups(file) == kept
    assert "has no" in person.done("uninstall", client)


def test_another_token(person: Person) -> None:
    """Replaces the old one and nothing else, without being seen; what people added to the entry stays."""
    person.done("install", "zed", token="an-old-token")
    file = person.file("zed")
    text = file.read_text().replace('"env": {', '"enabled": true, // mine\n      "env": {\n        "MINE": "1",')
    file.write_text(text)
    said = person.done("install", "zed", token=SECRET)
    assert 'Updated "seedream"' in said
    assert "which contains a token: " in said
    assert file.read_text() == text.replace("an-old-token", SECRET)
    assert [backup.read_text() for backup in backups(file)] == [text]


def test_a_token_that_is_there_stays(person: Person) -> None:
    """When there is no other: whoever installs once more need not have it at hand."""
    person.done("install", "cursor")
    file = person.has("cursor", person.file("cursor").read_text().replace(SCRIPT, "/old/mcp-seedream"))
    person.done("install", "cursor", token=None)
    assert person.entry("cursor") == {"command": SCRIPT, "args": [], "env": {TOKEN: SECRET}}
    assert len(backups(file)) == 1


def test_a_token_goes_nowhere_else(person: Person) -> None:
    """One for a hosted server stays as long as that is its address."""
    person.done("install", "cursor", "--hosted")
    assert "already" in person.done("install", "cursor", "--hosted", token=None)
    person.done("install", "cursor", "--url", "https://other.example.com/mcp", token=None)
    assert person.entry("cursor") == {"url": "https://other.example.com/mcp"}


@pytest.mark.parametrize("client", REMOTE)
def test_from_local_to_hosted_and_back(person: Person, client: str) -> None:
    """No half of the other kind stays."""
    person.uses(client)
    person.done("install", client)
    local = person.entry(client)
    person.done("install", client, "--hosted")
    hosted = person.entry(client)
    assert not {"command", "args", "env"} & hosted.keys()
    person.done("install", client)
    assert person.entry(client) == local
    person.done("uninstall", client)
    assert not person.file(client).exists()


@pytest.mark.parametrize(
    ("old", "new", "made"),
    [
        (None, {"command": "c"}, {"command": "c"}),
        ("nonsense", {"command": "c"}, {"command": "c"}),
        ({"command": {"path": "p"}, "source": "custom"}, {"command": "c"}, {"command": "c", "source": "custom"}),
        ({"env": {TOKEN: "t", "A": "1"}}, {"command": "c"}, {"command": "c", "env": {"A": "1"}}),
        ({"env": {TOKEN: "t"}}, {"command": "c"}, {"command": "c"}),
        ({"env": {}}, {"command": "c"}, {"command": "c", "env": {}}),
        ({"env": [1]}, {"command": "c", "env": {TOKEN: "t"}}, {"command": "c", "env": {TOKEN: "t"}}),
        (
            {"url": "u", "headers": {"authorization": "old", "X": "1"}},
            {"url": "u", "headers": {"Authorization": "new"}},
            {"url": "u", "headers": {"Authorization": "new", "X": "1"}},
        ),
        ({"url": "u", "headers": {"X": "1"}, "timeout": 9}, {"command": "c"}, {"command": "c", "timeout": 9}),
    ],
)
def test_an_entry_of_another_shape(old: Any, new: dict[str, Any], made: dict[str, Any]) -> None:
    """Whatever stands there, what is ours is as it should be, and what is not stays."""
    assert merged(old, new, keep_token=False) == made


def test_a_dry_run(person: Person) -> None:
    """Shows the difference, no secret in it, and writes nothing; it needs no token."""
    before = '{\n  "mcpServers": {\n    "other": {"env": {"OTHER_API_KEY": "other-secret"}}\n  }\n}\n'
    file = person.has("cursor", before)
    shown = person.done("install", "cursor", "--dry-run", token=None)
    assert shown.startswith(f"--- {file}\n+++ {file}")
    assert f'+      "command": "{SCRIPT}"' in shown
    assert f'+        "{TOKEN}": "(you will be asked for the token)"' in shown
    assert '"OTHER_API_KEY": "***"' in shown
    assert "other-secret" not in person.done("install", "cursor", "--dry-run", "--hosted") + shown
    assert file.read_text() == before
    assert list(file.parent.iterdir()) == [file]
    person.done("install", "zed", "--dry-run")
    assert not person.file("zed").parent.exists()
    person.done("install", "cursor")
    after = file.read_text()
    assert f'-        "{TOKEN}": "***"' in person.done("uninstall", "cursor", "--dry-run")
    shown = person.done("install", "cursor", "--dry-run", token="another-token")
    assert f'-        "{TOKEN}": "***"\n+        "{TOKEN}": "*** (changed)"' in shown
    assert "(changed)" not in person.done("install", "cursor", "--dry-run", "--sandbox")
    assert file.read_text() == after


def test_a_dry_run_of_a_file_on_one_line(person: Person) -> None:
    """Shows a difference that can be read."""
    person.has("cursor", json.dumps({"long": ["x"] * 1000, "mcpServers": {"other": OTHER}}))
    shown = person.done("install", "cursor", "--dry-run")
    assert f'+      "command": "{SCRIPT}",' in shown
    assert "other-secret" not in shown
    assert len(shown.splitlines()) < 40


def test_what_was_changed_since_stays_changed(person: Person) -> None:
    """The entry is cut out then, and the backup, which has the token, is named."""
    file = person.has("zed", '{\n  "theme": "One Dark"\n}\n')
    person.done("install", "zed")
    file.write_text(file.read_text().replace("One Dark", "Ayu"))
    assert "which contains a token" in person.done("uninstall", "zed")
    assert file.read_text() == '{\n  "theme": "Ayu",\n  "context_servers": {}\n}\n'
    assert len(backups(file)) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are another matter there")
def test_who_may_read_a_token(person: Person) -> None:
    """Its owner alone, in backups as well; a file without one keeps its mode."""
    file = person.has("zed", "{}")
    file.chmod(0o644)
    assert "only you" not in person.done("install", "zed", "--sandbox")
    assert mode(file) == 0o644
    assert "only you can" in person.done("install", "zed")
    assert "only you" not in person.done("install", "zed", token="another-token")
    assert {mode(each) for each in (file, *backups(file))} == {0o600}


def test_backups_that_hold_a_token(person: Person) -> None:
    """Are named when the entry is taken out, and no others are."""
    file = person.has("zed", "{}")
    person.done("install", "zed")
    assert "still contain a token" not in person.done("uninstall", "zed")
    person.done("install", "zed")
    person.done("install", "zed", token="another-token")
    [with_token] = [backup for backup in backups(file) if SECRET in backup.read_text()]
    said = person.done("uninstall", "zed")
    assert f"These backups still contain a token. Delete them if you don't need them: {with_token}\n" in said


def test_a_file_that_was_not_there_is_gone_again(person: Person) -> None:
    """With every copy of the token."""
    person.done("install", "cursor")
    assert "The file had no other content, and was deleted." in person.done("uninstall", "cursor")
    assert list(person.file("cursor").parent.iterdir()) == []


def asked(person: Person) -> list[Any]:
    found: list[Any] = parsed(person.file("vscode").read_text("utf-8-sig")).get("inputs", [])
    return found


@pytest.mark.parametrize("more", [[], ["--hosted"], ["--url", "https://seedream.example.com/mcp"]])
def test_the_client_asks(person: Person, more: list[str]) -> None:
    """Where it can, and there is no token: the file has none, and is nobody's alone."""
    file = person.has("vscode", "{}")
    file.chmod(0o644)
    shown = person.done("install", "vscode", *more, "--dry-run", token=None)
    place, value = ("headers", f"Bearer {INPUT_VARIABLE}") if more else ("env", INPUT_VARIABLE)
    assert f'": "{value}"' in shown
    assert f'+      "id": "{INPUT["id"]}",' in shown
    assert "VS Code asks for it" in person.done("install", "vscode", *more, token=None)
    assert [*person.entry("vscode")[place].values()] == [value]
    assert asked(person) == [INPUT]
    assert mode(file) == 0o644
    assert "already" in person.done("install", "vscode", *more, token=None)
    assert f'-      "id": "{INPUT["id"]}",' in person.done("uninstall", "vscode", "--dry-run")
    assert "The file has its previous content again." in person.done("uninstall", "vscode")
    assert file.read_text() == "{}"


@pytest.mark.parametrize("more", [[], ["--hosted"]])
def test_from_a_token_to_being_asked_and_back(person: Person, more: list[str]) -> None:
    """A token that is there stays until somebody says otherwise; the question goes when nothing needs its answer."""
    person.uses("vscode")
    assert "plain text. With --ask, VS Code asks" in person.done("install", "vscode", *more)
    assert "already" in person.done("install", "vscode", *more, token=None)
    assert ", which contains a token: " in person.done("install", "vscode", *more, "--ask")
    file = person.file("vscode")
    assert (SECRET in file.read_text(), asked(person)) == (False, [INPUT])
    assert "already" in person.done("install", "vscode", *more, token=None)
    person.done("install", "vscode", *more)
    assert (SECRET in file.read_text(), asked(person)) == (True, [])
    person.done("install", "vscode", *more, "--ask")
    person.done("install", "vscode", "--sandbox")
    assert asked(person) == []
    person.done("install", "vscode", *more, "--ask")
    said = person.done("uninstall", "vscode")
    assert "The file had no other content, and was deleted." in said
    assert "These backups still contain a token" in said
    assert not file.exists()


def test_who_is_asked_where(person: Person) -> None:
    """Only VS Code asks, and only for what needs a token; the others' token is in their file."""
    assert "can't ask for a token: --ask is for VS Code, VS Code Insiders, VSCodium." in person.refused(
        "install", "cursor", "--ask"
    )
    assert "The sandbox needs no token" in person.refused("install", "vscode", "--ask", "--sandbox")
    assert "plain text" not in person.done("install", "vscode", "--sandbox") + person.done("install", "cursor")
    assert asked(person) == []


def in_order(text: bytes, longer: bytes) -> bool:
    """Whether all of a text is in a longer one, whatever stands in between; blanks apart."""
    rest = iter(longer)
    return all(byte in rest for byte in b"".join(text.split()))


OWN = {"type": "promptString", "id": "other", "description": "of another server"}
INPUTS = [
    '{\n  "inputs": [\n    OWN, // mine\n    // and no more\n  ],\n  "servers": {\n    "other": OTHER\n  }\n}\n',
    '\ufeff{\r\n\t"inputs": [\r\n\t\tOWN\r\n\t],\r\n\t"servers": {}\r\n}\r\n',
    '{"servers":{"other":OTHER},"inputs":[OWN,7,"odd",{"id":3},],}',
    '{ "inputs": [ /* none */ ] }',
    '{\n  "inputs": []\n}',
    "{}",
    "// nothing yet\n",
]


@pytest.mark.parametrize("before", INPUTS)
@pytest.mark.parametrize("touched", [False, True])
def test_other_questions_stay(person: Person, before: str, touched: bool) -> None:
    """In their order, with their comments; in the end every byte is back, or what was changed since."""
    content = before.replace("OWN", json.dumps(OWN)).replace("OTHER", json.dumps(OTHER)).encode()
    file = person.has("vscode", content)
    old = [] if b"inputs" not in content else asked(person)
    person.done("install", "vscode", token=None)
    assert asked(person) == [*old, INPUT]
    assert in_order(content, file.read_bytes())
    assert (b"\r\n" in file.read_bytes()) is (b"\r\n" in content)
    if touched:
        file.write_bytes(file.read_bytes() + b"// since then\n")
    said = person.done("uninstall", "vscode")
    assert ("The file has its previous content again." in said) is not touched
    if touched:
        assert asked(person) == old
        assert in_order(content, file.read_bytes())
    else:
        assert file.read_bytes() == content


@pytest.mark.parametrize(
    ("before", "left"),
    [
        ({"inputs": [{**INPUT, "description": "mine"}]}, [{**INPUT, "description": "mine"}]),
        ({"inputs": [{"id": INPUT["id"], "type": "command"}]}, [{"id": INPUT["id"], "type": "command"}]),
        ({"inputs": [INPUT], "servers": {"mine": {"headers": {"Authorization": f"Token {INPUT_VARIABLE}"}}}}, [INPUT]),
        ({"servers": {"mine": {"args": ["--token", INPUT_VARIABLE]}}}, [INPUT]),
        ({"inputs": [INPUT]}, []),
    ],
)
def test_a_question_that_is_somebodys(person: Person, before: dict[str, Any], left: list[Any]) -> None:
    """Of the same name, it is the one that is asked; it stays where it is not ours, or something else needs it."""
    file = person.has("vscode", json.dumps(before, indent=2))
    person.done("install", "vscode", token=None)
    assert len(asked(person)) == 1
    file.write_text(file.read_text() + "// since then\n")
    person.done("uninstall", "vscode")
    assert asked(person) == left


def test_two_entries_with_one_question(person: Person) -> None:
    """It goes with the last of them, whichever that is."""
    for first, last in (("seedream", "second"), ("second", "seedream")):
        file = person.has("vscode", "{\n}\n")
        for name in ("seedream", "second"):
            person.done("install", "vscode", "--name", name, token=None)
        assert asked(person) == [INPUT]
        person.done("uninstall", "vscode", "--name", first)
        assert asked(person) == [INPUT]
        person.done("uninstall", "vscode", "--name", last)
        assert file.read_text() == "{\n}\n"


@pytest.mark.parametrize(
    ("inputs", "kind"), [("null", "null"), ('"x"', "a string"), ("{}", "an object"), ("0", "a num")]
)
def test_questions_that_are_no_list(person: Person, inputs: str, kind: str) -> None:
    """Are not touched: it is said what is wrong; what needs no question is not held up by it."""
    before = f'{{"inputs": {inputs}}}'
    file = person.has("vscode", before)
    said = person.refused("install", "vscode", token=None)
    assert re.search(rf"VS Code can't read \S+: `inputs` must be [\w ]+, not {kind}", said)
    assert file.read_text() == before
    person.done("install", "vscode")
    file.write_text(file.read_text().replace(SECRET, INPUT_VARIABLE))
    person.done("uninstall", "vscode")
    assert file.read_text() == before


def test_several_entries(person: Person) -> None:
    """Side by side, each by its name."""
    person.done("install", "cursor")
    person.done("install", "cursor", "--sandbox", "--name", "try-out")
    person.done("uninstall", "cursor")
    assert parsed(person.file("cursor").read_text())["mcpServers"].keys() == {"try-out"}


ODD = [
    ("{", "settings.json: line 1, column 2"),
    ('{"context_servers": []}', "`context_servers` must be an object, not a list"),
    ("[]", "it must be an object, not a list"),
    ("null", "it must be an object, not null"),
    (b"\xff\xfe{\x00}\x00", "is not UTF-8"),
    (b'{"a": "\xe9"}', "is not UTF-8"),
    ("<settings/>", "line 1, column 1"),
]


@pytest.mark.parametrize(("content", "says"), ODD)
@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_a_file_that_is_no_settings(person: Person, command: str, content: bytes | str, says: str) -> None:
    """Is left as it is, by either command, with a line that says what is wrong."""
    file = person.has("zed", content)
    before = file.read_bytes()
    said = person.refused(command, "zed")
    assert says in said
    assert str(file) in said
    assert "Nothing was changed." in said
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("client", ["claude-desktop", "claude-code"])
def test_comments_where_the_client_reads_none(person: Person, client: str) -> None:
    """It would ignore the whole file: that is said, rather than that all is well."""
    person.has(client, '{\n  "a": 1, // one\n}')
    assert re.search(rf"{CLIENTS[client].title} can't read \S+: line 2, column 11", person.refused("install", client))


@pytest.mark.parametrize("content", ["", " \n", "{}", "{}\n", "{ }", '{"mcpServers": {}}', '{"mcpServers": {\n}\n}'])
def test_a_file_with_nothing_in_it(person: Person, content: str) -> None:
    """Is fine, and comes back to the byte."""
    file = person.has("claude-desktop", content)
    person.done("install", "claude-desktop")
    assert person.entry("claude-desktop")["command"] == SCRIPT
    person.done("uninstall", "claude-desktop")
    assert file.read_text() == content


def test_places_that_are_no_files(person: Person) -> None:
    """A folder, a device, a pipe, a circle of links, a file where a folder should be, too long a name."""
    (person.home / "folder").mkdir()
    os.mkfifo(person.home / "pipe")
    (person.home / "circle").symlink_to(person.home / "circle")
    (person.home / "file").write_text("")
    for place in ("folder", "/dev/null", "pipe", "circle", "file/settings.json", "x" * 300):
        assert (
            "can't be read" in (said := person.refused("install", "zed", "--config", place)) or "is not a file" in said
        )


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write everywhere; within this, it is nobody."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are another matter there")
def test_without_permission() -> None:
    """To read the file, to write beside it, to make its folder: a line, and the file as it was."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "settings.json"
        file.write_text("{}")
        folder.chmod(0o555)
        config = read(file)
        for data in (b"{ }", None):
            with unprivileged(), pytest.raises(ConfigurationError, match=r"can't be written: Permission denied"):
                config.replace(data)
        with unprivileged(), pytest.raises(ConfigurationError, match=r"can't be written: Permission denied"):
            read(folder / "Code" / "User" / "mcp.json").replace(b"{}")
        file.chmod(0o200)
        with unprivileged(), pytest.raises(ConfigurationError, match=r"can't be read: Permission denied"):
            read(file)
        file.chmod(0o600)
        folder.chmod(0o755)
        assert file.read_text() == "{}"
        assert list(folder.iterdir()) == [file]


def test_a_link_stays_one(person: Person) -> None:
    """What it points to is changed, where that lies, and the backup is beside it; one that points nowhere, too."""
    real = person.home / "dotfiles" / "zed.json"
    real.parent.mkdir()
    real.write_text("{}")
    file = person.file("zed")
    file.parent.mkdir(parents=True)
    file.symlink_to(os.path.relpath(real, file.parent))
    person.done("install", "zed")
    assert file.is_symlink()
    assert SECRET in real.read_text()
    assert len(backups(real)) == 1
    real.unlink()
    person.done("install", "zed")
    assert SECRET in real.read_text()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root may give files away")
def test_the_owner_stays(person: Person) -> None:
    """Whoever runs the command."""
    file = person.has("zed", "{}")
    os.chown(file, 65534, 65534)
    person.done("install", "zed")
    assert [(path.stat().st_uid, path.stat().st_gid) for path in (file, *backups(file))] == [(65534, 65534)] * 2


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, {how})
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
from mcp_seedream.cli import main
sys.exit(main(["install", "zed"]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such limits there")
@pytest.mark.parametrize("killed", [True, False])
def test_a_crash_between_backup_and_writing(person: Person, killed: bool) -> None:
    """A process that is killed, or a disk that is full, when the new text is a bit longer: the old file is there."""
    before = json.dumps({"theme": "x" * 5000})
    file = person.has("zed", before)
    code = LIMITED.format(how="signal.SIG_DFL" if killed else "signal.SIG_IGN", size=len(before))
    done = subprocess.run(
        [sys.executable, "-c", code], env=person.env | {TOKEN: SECRET}, capture_output=True, text=True, check=False
    )
    assert file.read_text() == before
    if killed:
        assert done.returncode == -signal.SIGXFSZ
        assert [backup.read_text() for backup in backups(file)] == [before]
    else:
        assert (done.returncode, "can't be written: File too large" in done.stderr) == (2, True)
        assert list(file.parent.iterdir()) == [file]
    person.done("install", "zed")
    person.done("uninstall", "zed")
    assert file.read_text() == before


def test_a_client_that_writes_at_the_same_time(person: Person) -> None:
    """Is not overwritten: whoever reads before another program writes has to read again."""
    file = person.has("claude-code", "{}")
    config = read(file)
    file.write_text('{"numStartups": 1}')
    for data in (b'{"mcpServers": {}}', None):
        with pytest.raises(ConfigurationError, match="Another program has just changed"):
            config.replace(data)
    assert file.read_text() == '{"numStartups": 1}'
    assert list(file.parent.iterdir()) == [file]


questions = st.one_of(st.just(dict(INPUT)), st.just({**INPUT, "description": "mine"}), st.just(OWN), objects)


def without_ours(value: dict[str, Any]) -> dict[str, Any]:
    """Without our question, which may be there or not, and a list that holds nothing else."""
    left = [each for each in value.get("inputs", []) if each != INPUT]
    return {key: each for key, each in value.items() if key != "inputs"} | ({"inputs": left} if left else {})


@given(value=objects, data=st.data(), client=st.sampled_from([*MCP_CLIENTS, *["vscode"] * 4]))
@settings(max_examples=60)
def test_any_settings_survive(value: dict[str, Any], data: st.DataObject, client: str) -> None:
    """Whatever else they hold, however it is written: installed, changed, taken out again, they are the same bytes."""
    value.pop(CLIENTS[client].servers, None)
    if asks := CLIENTS[client].inputs:
        value.pop(asks, None)
        value |= data.draw(st.one_of(st.just({}), st.builds(dict, inputs=st.lists(questions, max_size=3))))
    text = (
        data.draw(jsonc(value))
        if CLIENTS[client].comments
        else json.dumps(value, indent=data.draw(st.sampled_from([None, 2])))
    )
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "settings.json"
        before = data.draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.encode()
        file.write_bytes(before)
        # None of these has a token: VS Code is told to ask for it, where one is wanted.
        kind = st.sampled_from([["--ask"], ["--ask", "--hosted"], ["--sandbox"]] if asks else [["--sandbox"]])
        for name_given in ([], ["--name", "second"], []):
            assert main(["install", client, "--config", str(file), *name_given, *data.draw(kind)]) == 0
        after = parsed(file.read_text("utf-8-sig"))
        assert after.pop(CLIENTS[client].servers).keys() == {"seedream", "second"}
        assert without_ours(after) == without_ours(parsed(json.dumps(value)))
        assert main(["uninstall", client, "--config", str(file), "--name", "second"]) == 0
        assert main(["uninstall", client, "--config", str(file)]) == 0
        assert file.read_bytes() == before


@pytest.mark.anyio
@pytest.mark.parametrize("client", MCP_CLIENTS)
async def test_what_was_written_runs(person: Person, client: str, anyio_backend: str) -> None:
    """From the file, as the client would start it, in a folder of its own and with no environment to speak of."""
    person.done("install", client, "--sandbox", token=None)
    entry = person.entry(client)
    server = StdioServerParameters(
        command=entry["command"], args=entry["args"], env=entry.get("env"), cwd=person.file(client).parent
    )
    async with Client(server) as connected:
        tools = await connected.list_tools()
    assert {tool.name for tool in tools.tools} == {"generate_image", "edit_image", "get_task"}


def install_with(person: Person, python: Path) -> subprocess.CompletedProcess[str]:
    """As if the package were installed for this interpreter, which has no script beside it."""
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    code = (
        "import sys; sys.executable = sys.argv.pop(1); from mcp_seedream.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, str(python), "install", "cursor", "--sandbox"]
    return subprocess.run(command, env=person.env, capture_output=True, text=True, encoding="utf-8", check=False)


def test_without_its_script(person: Person, tmp_path: Path) -> None:
    """The interpreter itself is named, and the package, wherever the client's folder is."""
    python = tmp_path / "bin" / "python"
    done = install_with(person, python)
    assert (done.returncode, done.stderr) == (0, "")
    assert person.entry("cursor") == {"command": str(python), "args": ["-P", "-m", "mcp_seedream", "--sandbox"]}
    assert "a cache" not in done.stdout


def test_from_a_cache(person: Person, tmp_path: Path) -> None:
    """Where `uvx` and `pipx run` put packages, that is said: one day it is emptied."""
    done = install_with(person, tmp_path / ".cache" / "uv" / "archive-v0" / "bin" / "python")
    assert "is in a cache" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode there")
def test_names_that_are_no_text(person: Person) -> None:
    """A settings file may have one; a command may not, since JSON can't hold it."""
    person.done("install", "cursor", "--config", "\udcff.json")
    assert (person.home / "\udcff.json").is_file()
    done = install_with(person, person.home / "\udcff" / "python")
    assert (done.returncode, done.stdout) == (2, "")
    assert "has bytes that" in done.stderr
    assert not person.file("cursor").exists()


@pytest.mark.parametrize("client", ["cursor", "vscode"])
def test_links_are_printed(person: Person, client: str) -> None:
    """Without the token, whatever is set; nothing is written."""
    said = [person.run("install", client, "--link", *more) for more in ([], ["--hosted"], ["--sandbox"])]
    assert [status for status, _, _ in said] == [0, 0, 0]
    # The links of VS Code have it ask; at a hosted server people sign in.
    assert [f"set {TOKEN} in the environment of" in err for _, _, err in said] == [
        client == "cursor",
        False,
        False,
    ]
    links = [out.split() for _, out, _ in said]
    assert len({link for pair in links for link in pair}) == 6
    assert list(person.home.iterdir()) == []
    assert "has no links that add a server" in person.refused("install", "zed", "--link")
