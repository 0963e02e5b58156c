"""The command `install`: writes this server's entry into the settings of an MCP client."""

from __future__ import annotations

import getpass
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from mcp_seedream import DISTRIBUTION
from mcp_seedream.core.credentials import clean_token, is_short, placeholder_reason
from mcp_seedream.core.errors import TOKEN_PAGE, ConfigurationError
from mcp_seedream.core.setting_fields import ADDRESSES, HARMLESS
from mcp_seedream.core.settings import Settings, Sources, ignored_warning, name_of, read_error_warning
from mcp_seedream.install.clients import (
    CLIENTS,
    HOSTED,
    INPUT_VARIABLE,
    TOKEN,
    McpClient,
    has_authorization,
    has_token,
    is_client_variable,
    merged,
    token_in,
)
from mcp_seedream.install.diff import TOKEN_PLACEHOLDER
from mcp_seedream.install.jsonc import updated
from mcp_seedream.install.links import cursor_links, entry_without_secret, vscode_links
from mcp_seedream.install.targets import InstallOptions, Target, backup_note, say, show, target_of
from mcp_seedream.install.vscode_inputs import refers_to_input, with_input, without_input

_LOCAL_SETTINGS = (
    *("base_url", "models_file", "wait_seconds", "set_images", "preview", "output_dir", "journal", "allowed_dirs"),
    *("image_hosts", "connect_timeout", "read_timeout", "stream_timeout", "shutdown_seconds"),
    *("log_level", "log_format"),
)
"""Settings that a local server reads."""
_MAX_PROMPTS = 3  # for the token
_ADDRESS = re.compile(
    r"(https://([\w.-]+|\[[\da-f:]+\])|http://(localhost|127\.0\.0\.1|\[::1\]))(:\d{1,5})?(/[!-~]*)?", re.ASCII
)


def install(options: InstallOptions, settings: Settings, sources: Sources) -> int:
    """Write the entry, show the changes, or print links; returns the exit status, 0.

    Args:
        options: The options of the command line.
        settings: The settings for the entry, including the token.
        sources: The sources of the settings.

    Raises:
        ConfigurationError: The entry can't be written; the file is unchanged.
    """
    url = options.url or (HOSTED if options.hosted else None)
    _check_options(options, url)
    url = _endpoint(url) if url else None
    if options.link:
        return _print_links(options, url)
    target = target_of(options)
    client, config = target.client, target.config
    token = _remote_token(options, url, target, settings) if url else _local_token(options, settings, target)
    env = {} if url else _settings_for_client(settings, sources, token)
    entry = _remote_entry(url, target, token) if url else _local_entry(options, target, token, env)
    _check_token_is_read(target, entry)
    if sources.read_error:
        say(read_error_warning(sources.read_error), file=sys.stderr)
    if not url and (omitted := _omitted(sources, env)):
        say(ignored_warning(omitted, "`install`"), file=sys.stderr)
    text = _with_entry(target, entry)
    data = config.encoded(text)
    if data == config.data:
        say(f'{client.title} already has "{options.name}", in {config.path}. Nothing was changed.')
        return 0
    if options.dry_run:
        show(config, text)
        return 0
    private = has_token(entry)
    restricted = private and config.is_read_by_others
    backup = config.replace(data, private=private)
    action = "Added" if target.entry is None else "Updated"
    say(f'{action} "{options.name}" for {client.title} in {config.path}.{backup_note(backup, target.entry)}')
    if restricted:
        say("Other users could read that file. Now only you can, since it contains a token.")
    for note in (*_token_notes(client, entry, url), *([] if url else _server_notes(env))):
        say(note)
    if target.missing:
        say(f"{client.title} was not found (no {target.missing}). It reads this file once it is installed.")
    if target.others:
        say(f"Not changed: {', '.join(target.others)}. Use --config to select another file.")
    say(client.next_step)
    return 0


def _check_token_is_read(target: Target, entry: dict[str, Any]) -> None:
    """Refuse to write a token into a file that no installed client reads."""
    if target.missing and target.client.inputs and has_token(entry):
        raise ConfigurationError(
            f"{target.client.title} was not found (no {target.missing}), so no program would read the token. Name its "
            "settings file with --config, or omit the token with --ask. Nothing was changed."
        )


def _with_entry(target: Target, entry: dict[str, Any]) -> str:
    """The settings with this entry, and with our input variable if an entry uses it."""
    text, inputs = updated(target.config.text, target.path, target.entry, entry), target.client.inputs
    if inputs is None or not refers_to_input([target.entry, entry]):
        return text
    if not refers_to_input(entry):
        return without_input(text, inputs)
    try:
        return with_input(text, inputs)
    except ValueError as error:
        raise ConfigurationError(
            f"{target.client.title} can't read {target.config.path}: {error}. Nothing was changed."
        ) from None


def _token_notes(client: McpClient, entry: dict[str, Any], url: str | None) -> Iterator[str]:
    """Yield notes about the token for the user."""
    if client.inputs and refers_to_input(entry):
        yield f"It has no token: {client.title} asks for it (get one at {TOKEN_PAGE}), and stores it securely."
    elif url and "headers" not in entry:
        yield f"It has no token: {client.title} lets you sign in at {url}."
    if not url and (token := token_in(entry)) and is_short(token):
        yield f"The token has only {len(token)} characters. `mcp-seedream doctor` checks whether it is accepted."
    if client.inputs and has_token(entry):
        yield f"It has the token in plain text. With --ask, {client.title} asks for the token instead."


def _server_notes(env: Mapping[str, str]) -> Iterator[str]:
    """Yield notes about the entry's settings, and about an installation in a cache."""
    if env:
        yield f"It has these settings: {', '.join(env)}."
    if {".cache", "cache", "caches"} & {part.lower() for part in Path(sys.executable).parts}:
        yield f"{sys.executable} is in a cache, which may be cleared: install it elsewhere, and run this again."


def _remote_token(options: InstallOptions, url: str, target: Target, settings: Settings) -> str | None:
    client = target.client
    if client.url is None:
        raise ConfigurationError(
            f"{client.title} has no remote servers in its settings file. In {client.title}, open Settings, Connectors, "
            f"Add custom connector, add {url} and sign in; or install without --hosted. Nothing was changed."
        )
    token = INPUT_VARIABLE if options.ask else _token_of(settings)
    can_ask = client.inputs and not (_has_url(target, url) and has_authorization(target.entry))
    return INPUT_VARIABLE if token is None and can_ask else token


def _has_url(target: Target, url: str) -> bool:
    """Whether the existing entry has this address. Its token must not be sent to another address."""
    return isinstance(target.entry, dict) and target.entry.get(target.client.url) == url


def _remote_entry(url: str, target: Target, token: str | None) -> dict[str, Any]:
    return merged(target.entry, target.client.remote_entry(url, token), keep_token=_has_url(target, url))


def _local_entry(options: InstallOptions, target: Target, token: str | None, env: Mapping[str, str]) -> dict[str, Any]:
    variables = {**({TOKEN: token} if token else {}), **env}
    return merged(
        target.entry, target.client.local_entry(_this_command(sandbox=options.sandbox), variables), keep_token=False
    )


def _settings_for_client(settings: Settings, sources: Sources, token: str | None) -> dict[str, str]:
    """The settings for the entry's `env`, since the client starts the server with another environment and folder.

    Addresses in `.env` are never included, since a later token would be sent there. Paths in it are included only if
    the token comes from the same file.
    """
    own_token = settings.token.get_secret_value() if settings.token else None
    is_from_file = TOKEN in sources.env_file and own_token is not None and own_token == token
    withheld = ADDRESSES if is_from_file else frozenset(_LOCAL_SETTINGS) - HARMLESS
    excluded = {field for field in withheld if name_of(field) in sources.env_file}
    values = {field: getattr(settings, field) for field in _LOCAL_SETTINGS if field not in excluded}
    if values.get("journal") not in (None, "off"):
        values["journal"] = Path(values["journal"])
    fields = Settings.model_fields
    return {name_of(field): _as_variable(v) for field, v in values.items() if v != fields[field].get_default()}


def _as_variable(value: Any) -> str:
    """A setting as the value of a variable; paths are absolute."""
    if isinstance(value, list):
        return ",".join(map(_as_variable, value))
    return (
        str(value.absolute())
        if isinstance(value, Path)
        else f"{value:.15g}"
        if isinstance(value, float)
        else str(value)
    )


def _check_options(options: InstallOptions, url: str | None) -> None:
    if options.ask and not CLIENTS[options.client].inputs:
        titles = ", ".join(client.title for client in CLIENTS.values() if client.inputs)
        raise ConfigurationError(f"{CLIENTS[options.client].title} can't ask for a token: --ask is for {titles}.")
    if options.ask and options.sandbox:
        raise ConfigurationError("The sandbox needs no token: use either --ask or --sandbox.")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", options.name):
        raise ConfigurationError("--name must have 1 to 40 letters, digits, - and _, which all clients accept.")
    if url and options.sandbox:
        raise ConfigurationError("--sandbox is for a local server: leave out --sandbox, or --hosted and --url.")
    if url and not _ADDRESS.fullmatch(url):
        raise ConfigurationError(
            "--url must be an address like https://seedream.example.com/mcp (http:// for localhost)."
        )


def _endpoint(url: str) -> str:
    """The endpoint's address. If it does not end in `/mcp`, the user confirms another one, or an error suggests it."""
    address, mark, query = url.partition("?")
    if address.rstrip("/").endswith("/mcp"):
        return url
    suggestion = re.sub(r"(/mcp|/sse)?/*$", "/mcp", address, count=1, flags=re.IGNORECASE) + mark + query
    if sys.stdin and sys.stdin.isatty():
        with suppress(EOFError):
            answer = input(f"{url} does not end in /mcp. Use {suggestion}? [Y/n] ")
            return url if answer.strip().lower().startswith("n") else suggestion
    raise ConfigurationError(
        f"{url} does not end in /mcp, as endpoints do: use --url {suggestion}. Nothing was changed."
    )


def _print_links(options: InstallOptions, url: str | None) -> int:
    make = {"cursor": cursor_links, "vscode": vscode_links}.get(options.client)
    if make is None:
        raise ConfigurationError(
            f"{CLIENTS[options.client].title} has no links that add a server; cursor and vscode have."
        )
    command = None if url else _this_command(sandbox=options.sandbox)
    entry = entry_without_secret(options.client, command, url or HOSTED, token=not options.sandbox)
    for link in make(options.name, entry):
        say(link)
    if any(f"${{env:{TOKEN}}}" in word for word in entry.get("env", {}).values()):
        title = CLIENTS[options.client].title
        say(f"{title} does not ask for the token: set {TOKEN} in the environment of {title}.", file=sys.stderr)
    return 0


def _this_command(*, sandbox: bool) -> list[str]:
    """The command that starts this installation from any folder."""
    try:
        distribution(DISTRIBUTION)
    except PackageNotFoundError:
        raise ConfigurationError("The package is not installed: run `pip install .` in its folder first.") from None
    script = shutil.which("mcp-seedream", path=str(Path(sys.executable).parent))
    start = [script] if script else [sys.executable, "-P", "-m", "mcp_seedream"]
    return [*start, "--sandbox"] if sandbox else start


def _omitted(sources: Sources, env: Mapping[str, str]) -> tuple[str, ...]:
    """Settings of `.env` that a local server reads, but that are not in the entry."""
    harmless = {name_of(field) for field in HARMLESS} | {TOKEN}
    local = {name_of(field) for field in _LOCAL_SETTINGS}
    return tuple(sorted({*sources.ignored, *(sources.env_file.keys() & local) - harmless - env.keys()}))


def _local_token(options: InstallOptions, settings: Settings, target: Target) -> str | None:
    """The token of the settings or the existing entry. Without one, the client asks for it, or this command does."""
    if options.sandbox:
        return None
    if options.ask:
        return INPUT_VARIABLE
    if token := _token_of(settings):
        return token
    existing = token_in(target.entry)
    if existing and (is_client_variable(existing) or not placeholder_reason(existing)):
        return existing
    if target.client.inputs:
        return INPUT_VARIABLE
    return TOKEN_PLACEHOLDER if options.dry_run else _ask_for_token()


def _token_of(settings: Settings) -> str | None:
    """The token of the environment or `.env`.

    Raises:
        ConfigurationError: It is a placeholder.
    """
    token = settings.token.get_secret_value() if settings.token else None
    if token and (why := placeholder_reason(token)):
        raise ConfigurationError(f"{TOKEN} is wrong. {why}: get one at {TOKEN_PAGE}. Nothing was changed.")
    return token


def _ask_for_token() -> str:
    at_a_terminal = sys.stdin and sys.stdin.isatty()
    for _ in range(_MAX_PROMPTS if at_a_terminal else 0):
        typed = _prompt()
        if not typed:
            break
        try:
            token = clean_token(typed)
            why = placeholder_reason(token) if token else "It is empty"
        except ValueError as error:
            why = str(error)
        if not why:
            return token
        say(f"{why[0].upper()}{why[1:]}. Try again.")
    raise ConfigurationError(
        f"No API token is set. Set {TOKEN} in the environment or in .env here (get a token at {TOKEN_PAGE}), or use "
        "--sandbox, which needs none. Nothing was changed."
    )


def _prompt() -> str:
    try:
        return getpass.getpass(f"AceDataCloud API token (from {TOKEN_PAGE}; not shown): ").strip()
    except EOFError:
        return ""
