"""The commands `install` and `uninstall`: this server's entry in the settings of an MCP client."""

from __future__ import annotations

import argparse
import getpass
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, TextIO

from mcp_seedream.configfile import ConfigFile, read
from mcp_seedream.differences import WANTED, difference
from mcp_seedream.entries import CLIENTS, HOSTED, TOKEN, McpClient, found_as, has_token, is_filled_in, merged, token_in
from mcp_seedream.errors import TOKEN_PAGE, ConfigurationError
from mcp_seedream.installed import folders_here
from mcp_seedream.jsonc import changed, value_at, with_member, without_member
from mcp_seedream.links import cursor_links, entry_without_secret, vscode_links
from mcp_seedream.settings import Settings, name_of
from mcp_seedream.tokens import bare, is_short, stands_for_one

_OF_STDIO = (
    *("base_url", "models_file", "wait_seconds", "preview", "output_dir", "journal", "allowed_dirs", "image_hosts"),
    *("connect_timeout", "read_timeout", "stream_timeout", "shutdown_seconds", "log_level", "log_format"),
)
"""Settings that a local server has a use for."""
_ATTEMPTS = 3  # at typing a token
_ADDRESS = re.compile(
    r"(https://([\w.-]+|\[[\da-f:]+\])|http://(localhost|127\.0\.0\.1|\[::1\]))(:\d{1,5})?(/[!-~]*)?", re.ASCII
)


@dataclass(frozen=True)
class _Target:
    """An entry in a settings file, as it is now."""

    client: McpClient
    config: ConfigFile
    path: tuple[str, str]
    entry: Any
    missing: Path | None
    """What shows that the client is there, and is not."""


def install(options: argparse.Namespace, settings: Settings) -> int:
    """Write the entry, or show what would be written, or print a link; 0 if it is there.

    Args:
        options: `client`, `hosted`, `url`, `sandbox`, `name`, `config`, `link`, `dry_run`.
        settings: Where the token comes from.

    Raises:
        ConfigurationError: It can't be: says why; the file is as it was.
    """
    url = options.url or (HOSTED if options.hosted else None)
    _check(options, url)
    if options.link:
        return _print_links(options, url)
    target = _target(options)
    client, config = target.client, target.config
    entry = _remote(client, url, target.entry, settings) if url else _local(options, target, settings)
    text = changed(config.text, target.path, target.entry, entry)
    data = config.encoded(text)
    if data == config.data:
        _say(f'{client.title} has "{options.name}" already, in {config.path}. Nothing was changed.')
        return 0
    if options.dry_run:
        _show(config, text)
        return 0
    private = has_token(entry)
    narrowed = private and config.is_read_by_others
    backup = config.replaced(data, private=private)
    done = "Added" if target.entry is None else "Updated"
    _say(f'{done} "{options.name}" for {client.title} in {config.path}.{_kept(backup, target.entry)}')
    if url and "headers" not in entry:
        _say(f"There is no token in it: {client.title} has you sign in at {url}.")
    if not url and (token := token_in(entry)) and is_short(token):
        _say(f"The token has {len(token)} characters, which is short: `mcp-seedream doctor` says if it is accepted.")
    if narrowed:
        _say("Others could read that file: now that it holds a token, you alone can.")
    if private and client.asks:
        _say(
            f"The token is in it in plain text. With --link, {client.title} asks for it, and keeps it out of the file."
        )
    if not url and (along := ", ".join(_taken_along(settings))):
        _say(f"It has what is set here: {along}.")
    if target.missing:
        _say(f"{client.title} was not found here (no {target.missing}): it will find this once it is installed.")
    if not url and {".cache", "cache", "caches"} & {part.lower() for part in Path(sys.executable).parts}:
        _say(f"{sys.executable} is in a cache, which may be emptied: install the package for good, and run this again.")
    _say(client.then)
    return 0


def uninstall(options: argparse.Namespace) -> int:
    """Take the entry out, or show what would be; 0 if it is gone, and if there was none.

    Args:
        options: `client`, `name`, `config`, `dry_run`.

    Raises:
        ConfigurationError: As for `install`.
    """
    target = _target(options)
    config, title = target.config, target.client.title
    cut = without_member(config.text, target.path)
    if cut == config.text:
        _say(f'{title} has no "{options.name}" in {config.path}. Nothing was changed.')
        return 0
    earlier = _earlier(config, target.path, cut)
    before = earlier.data if earlier else config.encoded(cut)
    if options.dry_run:
        _show(config, ConfigFile(config.path, before).text)
        return 0
    # What can be had anew needs no backup, which would keep the token; a text that was cut gets one.
    backup = config.replaced(before, keep=earlier is None)
    how = " It held nothing else, and is gone." if before is None else " It is as it was before." if earlier else ""
    _say(f'Removed "{options.name}" for {title} from {config.path}.{how}{_kept(backup, target.entry)}')
    left = [each.path for each in config.backups() if each.path != backup and _holds_token(each, target)]
    if left:
        _say(f"These still hold a token; delete them when you need them no more: {', '.join(map(str, left))}")
    _say(f"If {title} is running, it goes on with the server until it is restarted.")
    return 0


def _remote(client: McpClient, url: str, entry: Any, settings: Settings) -> dict[str, Any]:
    if client.url is None:
        raise ConfigurationError(
            f"{client.title} has no remote servers in its file. Add {url} there under Settings, Connectors, Add "
            "custom connector, and sign in; or install without --hosted. Nothing was changed."
        )
    same = isinstance(entry, dict) and entry.get(client.url) == url  # no token goes where it was not meant for
    return merged(entry, client.remote_entry(url, _given(settings)), keep_token=same)


def _local(options: argparse.Namespace, target: _Target, settings: Settings) -> dict[str, Any]:
    command = _this_command(sandbox=options.sandbox)
    token = None if options.sandbox else _token(options, settings, target.entry)
    env = ({TOKEN: token} if token else {}) | _taken_along(settings)
    return merged(target.entry, target.client.local_entry(command, env), keep_token=False)


def _taken_along(settings: Settings) -> dict[str, str]:
    """What is set here for a local server: a client starts it in another folder, and without this environment."""
    values = {field: getattr(settings, field) for field in _OF_STDIO}
    if settings.journal not in (None, "off"):
        values["journal"] = Path(settings.journal)
    fields = Settings.model_fields
    return {name_of(field): _written(v) for field, v in values.items() if v != fields[field].get_default()}


def _written(value: Any) -> str:
    """A setting as the environment has it; paths are good in any folder."""
    if isinstance(value, list):
        return ",".join(map(_written, value))
    return (
        str(value.absolute())
        if isinstance(value, Path)
        else f"{value:.15g}"
        if isinstance(value, float)
        else str(value)
    )


def _check(options: argparse.Namespace, url: str | None) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", options.name):
        raise ConfigurationError("--name takes up to 40 letters, digits, - and _: some clients refuse others.")
    if url and options.sandbox:
        raise ConfigurationError("--sandbox is for a local server: leave it out, or --hosted and --url.")
    if url and not _ADDRESS.fullmatch(url):
        raise ConfigurationError(
            "--url takes an address like https://seedream.example.com/mcp (http:// for localhost)."
        )


def _print_links(options: argparse.Namespace, url: str | None) -> int:
    make = {"cursor": cursor_links, "vscode": vscode_links}.get(options.client)
    if make is None:
        raise ConfigurationError(f"{CLIENTS[options.client].title} has no such links: cursor and vscode have.")
    command = None if url else _this_command(sandbox=options.sandbox)
    entry = entry_without_secret(options.client, command, url or HOSTED, token=not options.sandbox)
    for link in make(options.name, entry):
        _say(link)
    if any(f"${{env:{TOKEN}}}" in word for word in entry.get("env", {}).values()):
        title = CLIENTS[options.client].title
        _say(f"{title} does not ask for the token: {TOKEN} has to be in its own environment.", file=sys.stderr)
    return 0


def _target(options: argparse.Namespace) -> _Target:
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
    there = options.config or place.file.exists() or place.sign.exists()
    return _Target(client, config, path, entry, None if there else place.sign)


def _this_command(*, sandbox: bool) -> list[str]:
    """What starts this very installation, in whatever folder."""
    try:
        distribution("mcp-seedream")
    except PackageNotFoundError:
        raise ConfigurationError("This runs from a folder and is not installed: `pip install .` there first.") from None
    script = shutil.which("mcp-seedream", path=str(Path(sys.executable).parent))
    start = [script] if script else [sys.executable, "-P", "-m", "mcp_seedream"]
    return [*start, "--sandbox"] if sandbox else start


def _token(options: argparse.Namespace, settings: Settings, entry: Any) -> str:
    if given := _given(settings):
        return given
    there = token_in(entry)
    if there and (is_filled_in(there) or not stands_for_one(there)):
        return there
    return WANTED if options.dry_run else _asked_for()


def _given(settings: Settings) -> str | None:
    """The token of the environment or `.env`, if it may be one."""
    token = settings.token.get_secret_value() if settings.token else None
    if token and (why := stands_for_one(token)):
        raise ConfigurationError(f"{TOKEN} holds no token. {why}: {TOKEN_PAGE} has one for you. Nothing was changed.")
    return token


def _asked_for() -> str:
    at_a_terminal = sys.stdin and sys.stdin.isatty()
    for _ in range(_ATTEMPTS if at_a_terminal else 0):
        typed = _asked()
        if not typed:
            break
        try:
            token = bare(typed)
            why = stands_for_one(token) if token else "It is empty"
        except ValueError as error:
            why = str(error)
        if not why:
            return token
        _say(f"That is no token. {why[0].upper()}{why[1:]}.")
    raise ConfigurationError(
        f"There is no API token. Put it into {TOKEN} (the environment, or .env here; {TOKEN_PAGE} has one for "
        "you), or try it out without one: --sandbox. Nothing was changed."
    )


def _asked() -> str:
    try:
        return getpass.getpass(f"AceDataCloud API token (from {TOKEN_PAGE}; it is not shown): ").strip()
    except EOFError:
        return ""


def _earlier(config: ConfigFile, path: Sequence[str], cut: str) -> ConfigFile | None:
    """The file from before it had the entry, if nothing else has changed since: to the byte, as a backup has it.

    Args:
        config: With the entry.
        path: The entry's.
        cut: The text without it, which still has whatever was made for it.
    """
    for earlier in (*config.backups(), ConfigFile(config.path, None)):
        try:
            without_entry = value_at(earlier.text, path) is None
            if without_entry and without_member(with_member(earlier.text, path, {}), path) == cut:
                return earlier
        except (ValueError, ConfigurationError):
            continue  # a backup of something else
    return None


def _holds_token(backup: ConfigFile, target: _Target) -> bool:
    try:
        return has_token(value_at(backup.text, target.path))
    except (ValueError, ConfigurationError):
        return False  # a backup of something else


def _show(config: ConfigFile, text: str) -> None:
    for line in difference(config, text):
        _say(line)
    _say("Nothing was written.")


def _kept(backup: Path | None, entry: Any) -> str:
    token = ", token and all" if has_token(entry) else ""
    return f" As it was before{token}: {backup}" if backup else ""


def _say(text: str, file: TextIO | None = None) -> None:
    file = file or sys.stdout
    encoding = file.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=file)
