"""The command `install`: puts this server's entry into the settings of an MCP client."""

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
from mcp_seedream.core.credentials import bare, is_short, stands_for_one
from mcp_seedream.core.errors import TOKEN_PAGE, ConfigurationError
from mcp_seedream.core.setting_fields import ADDRESSES, HARMLESS
from mcp_seedream.core.settings import Settings, Sources, about_passed_over, about_trouble, name_of
from mcp_seedream.install.clients import (
    ASKED,
    CLIENTS,
    HOSTED,
    TOKEN,
    McpClient,
    has_authorization,
    has_token,
    is_filled_in,
    merged,
    token_in,
)
from mcp_seedream.install.diff import WANTED
from mcp_seedream.install.jsonc import changed
from mcp_seedream.install.links import cursor_links, entry_without_secret, vscode_links
from mcp_seedream.install.targets import InstallOptions, Target, kept, say, show, target_of
from mcp_seedream.install.vscode_inputs import asks_for_ours, with_question, without_question

_OF_STDIO = (
    *("base_url", "models_file", "wait_seconds", "set_images", "preview", "output_dir", "journal", "allowed_dirs"),
    *("image_hosts", "connect_timeout", "read_timeout", "stream_timeout", "shutdown_seconds"),
    *("log_level", "log_format"),
)
"""Settings that a local server has a use for."""
_ATTEMPTS = 3  # at typing a token
_ADDRESS = re.compile(
    r"(https://([\w.-]+|\[[\da-f:]+\])|http://(localhost|127\.0\.0\.1|\[::1\]))(:\d{1,5})?(/[!-~]*)?", re.ASCII
)


def install(options: InstallOptions, settings: Settings, found: Sources) -> int:
    """Write the entry, or show what would be written, or print a link; 0 if it is there.

    Args:
        options: The command line's.
        settings: Where the token comes from.
        found: Where they come from themselves.

    Raises:
        ConfigurationError: It can't be: says why; the file is as it was.
    """
    url = options.url or (HOSTED if options.hosted else None)
    _check(options, url)
    url = _endpoint(url) if url else None
    if options.link:
        return _print_links(options, url)
    target = target_of(options)
    client, config = target.client, target.config
    token = _remote_token(options, url, target, settings) if url else _local_token(options, settings, target)
    along = {} if url else _taken_along(settings, found, token)
    entry = _remote(url, target, token) if url else _local(options, target, token, along)
    _check_reader(target, entry)
    if found.trouble:
        say(about_trouble(found.trouble), file=sys.stderr)
    if not url and (left_out := _left_out(found, along)):
        say(about_passed_over(left_out, "`install`"), file=sys.stderr)
    text = _with_entry(target, entry)
    data = config.encoded(text)
    if data == config.data:
        say(f'{client.title} has "{options.name}" already, in {config.path}. Nothing was changed.')
        return 0
    if options.dry_run:
        show(config, text)
        return 0
    private = has_token(entry)
    narrowed = private and config.is_read_by_others
    backup = config.replaced(data, private=private)
    done = "Added" if target.entry is None else "Updated"
    say(f'{done} "{options.name}" for {client.title} in {config.path}.{kept(backup, target.entry)}')
    if narrowed:
        say("Others could read that file: now that it holds a token, you alone can.")
    for remark in (*_about_the_token(client, entry, url), *([] if url else _about_this_server(along))):
        say(remark)
    if target.missing:
        say(f"{client.title} was not found here (no {target.missing}): it will find this once it is installed.")
    if target.others:
        say(f"Not changed: {', '.join(target.others)}. --config takes another file.")
    say(client.then)
    return 0


def _check_reader(target: Target, entry: dict[str, Any]) -> None:
    """Refuse to write a token into a file that no installed client reads."""
    if target.missing and target.client.asks and has_token(entry):
        raise ConfigurationError(
            f"{target.client.title} was not found here (no {target.missing}): nothing would read the token. Name its "
            "settings file with --config, or leave the token out with --ask. Nothing was changed."
        )


def _with_entry(target: Target, entry: dict[str, Any]) -> str:
    """The settings with this entry, and with our question as long as an entry needs its answer."""
    text, inputs = changed(target.config.text, target.path, target.entry, entry), target.client.asks
    if inputs is None or not asks_for_ours([target.entry, entry]):
        return text
    if not asks_for_ours(entry):
        return without_question(text, inputs)
    try:
        return with_question(text, inputs)
    except ValueError as error:
        raise ConfigurationError(
            f"{target.config.path} is not what {target.client.title} can read: {error}. Nothing was changed."
        ) from None


def _about_the_token(client: McpClient, entry: dict[str, Any], url: str | None) -> Iterator[str]:
    """Where it comes from, if people are to know or to do something."""
    if client.asks and asks_for_ours(entry):
        yield f"There is no token in it: {client.title} asks for it ({TOKEN_PAGE} has one), and keeps it elsewhere."
    elif url and "headers" not in entry:
        yield f"There is no token in it: {client.title} has you sign in at {url}."
    if not url and (token := token_in(entry)) and is_short(token):
        yield f"The token has {len(token)} characters, which is short: `mcp-seedream doctor` says if it is accepted."
    if client.asks and has_token(entry):
        yield f"The token is in it in plain text. With --ask, {client.title} asks for it, and keeps it out of the file."


def _about_this_server(along: Mapping[str, str]) -> Iterator[str]:
    """What comes along of what is here, and whether it is here to stay."""
    if along:
        yield f"It has what is set here: {', '.join(along)}."
    if {".cache", "cache", "caches"} & {part.lower() for part in Path(sys.executable).parts}:
        yield f"{sys.executable} is in a cache, which may be emptied: install the package for good, and run this again."


def _remote_token(options: InstallOptions, url: str, target: Target, settings: Settings) -> str | None:
    client = target.client
    if client.url is None:
        raise ConfigurationError(
            f"{client.title} has no remote servers in its file. Add {url} there under Settings, Connectors, Add "
            "custom connector, and sign in; or install without --hosted. Nothing was changed."
        )
    token = ASKED if options.ask else _given(settings)
    asks = client.asks and not (_same(target, url) and has_authorization(target.entry))
    return ASKED if token is None and asks else token


def _same(target: Target, url: str) -> bool:
    """Whether the entry that is there has this address: no token goes where it was not meant for."""
    return isinstance(target.entry, dict) and target.entry.get(target.client.url) == url


def _remote(url: str, target: Target, token: str | None) -> dict[str, Any]:
    return merged(target.entry, target.client.remote_entry(url, token), keep_token=_same(target, url))


def _local(options: InstallOptions, target: Target, token: str | None, along: Mapping[str, str]) -> dict[str, Any]:
    env = {**({TOKEN: token} if token else {}), **along}
    return merged(
        target.entry, target.client.local_entry(_this_command(sandbox=options.sandbox), env), keep_token=False
    )


def _taken_along(settings: Settings, found: Sources, token: str | None) -> dict[str, str]:
    """What is set here for a local server: a client starts it in another folder, and without this environment.

    Of `.env` no address is taken, as it would outlive the folder and get the next token, and paths only with its token.
    """
    own = token is not None and TOKEN in found.filed and settings.token and settings.token.get_secret_value() == token
    kept_back = ADDRESSES if own else frozenset(_OF_STDIO) - HARMLESS
    left = {field for field in kept_back if name_of(field) in found.filed}
    values = {field: getattr(settings, field) for field in _OF_STDIO if field not in left}
    if values.get("journal") not in (None, "off"):
        values["journal"] = Path(values["journal"])
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


def _check(options: InstallOptions, url: str | None) -> None:
    if options.ask and not CLIENTS[options.client].asks:
        able = ", ".join(client.title for client in CLIENTS.values() if client.asks)
        raise ConfigurationError(f"{CLIENTS[options.client].title} asks nobody for a token: --ask is for {able}.")
    if options.ask and options.sandbox:
        raise ConfigurationError("The sandbox needs no token: leave --ask out, or --sandbox.")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", options.name):
        raise ConfigurationError("--name takes up to 40 letters, digits, - and _: some clients refuse others.")
    if url and options.sandbox:
        raise ConfigurationError("--sandbox is for a local server: leave it out, or --hosted and --url.")
    if url and not _ADDRESS.fullmatch(url):
        raise ConfigurationError(
            "--url takes an address like https://seedream.example.com/mcp (http:// for localhost)."
        )


def _endpoint(url: str) -> str:
    """An endpoint's address: one that does not end in `/mcp` is asked about, or refused with the right one."""
    address, mark, query = url.partition("?")
    if address.rstrip("/").endswith("/mcp"):
        return url
    meant = re.sub(r"(/mcp|/sse)?/*$", "/mcp", address, count=1, flags=re.IGNORECASE) + mark + query
    if sys.stdin and sys.stdin.isatty():
        with suppress(EOFError):
            answer = input(f"{url} does not end in /mcp. Is it {meant}? [Y/n] ")
            return url if answer.strip().lower().startswith("n") else meant
    raise ConfigurationError(
        f"{url} does not end in /mcp, as such addresses do: use --url {meant}. Nothing was changed."
    )


def _print_links(options: InstallOptions, url: str | None) -> int:
    make = {"cursor": cursor_links, "vscode": vscode_links}.get(options.client)
    if make is None:
        raise ConfigurationError(f"{CLIENTS[options.client].title} has no such links: cursor and vscode have.")
    command = None if url else _this_command(sandbox=options.sandbox)
    entry = entry_without_secret(options.client, command, url or HOSTED, token=not options.sandbox)
    for link in make(options.name, entry):
        say(link)
    if any(f"${{env:{TOKEN}}}" in word for word in entry.get("env", {}).values()):
        title = CLIENTS[options.client].title
        say(f"{title} does not ask for the token: {TOKEN} has to be in its own environment.", file=sys.stderr)
    return 0


def _this_command(*, sandbox: bool) -> list[str]:
    """What starts this very installation, in whatever folder."""
    try:
        distribution(DISTRIBUTION)
    except PackageNotFoundError:
        raise ConfigurationError("This runs from a folder and is not installed: `pip install .` there first.") from None
    script = shutil.which("mcp-seedream", path=str(Path(sys.executable).parent))
    start = [script] if script else [sys.executable, "-P", "-m", "mcp_seedream"]
    return [*start, "--sandbox"] if sandbox else start


def _left_out(found: Sources, along: Mapping[str, str]) -> tuple[str, ...]:
    """Settings of `.env` that are not taken along, though a local server has a use for them."""
    harmless = {name_of(field) for field in HARMLESS} | {TOKEN}
    ours = {name_of(field) for field in _OF_STDIO}
    return tuple(sorted({*found.passed_over, *(found.filed.keys() & ours) - harmless - along.keys()}))


def _local_token(options: InstallOptions, settings: Settings, target: Target) -> str | None:
    """The one that was given, or is there already; otherwise the client asks for it, if it does such a thing, or we."""
    if options.sandbox:
        return None
    if options.ask:
        return ASKED
    if given := _given(settings):
        return given
    there = token_in(target.entry)
    if there and (is_filled_in(there) or not stands_for_one(there)):
        return there
    if target.client.asks:
        return ASKED
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
        say(f"That is no token. {why[0].upper()}{why[1:]}.")
    raise ConfigurationError(
        f"There is no API token. Put it into {TOKEN} (the environment, or .env here; {TOKEN_PAGE} has one for "
        "you), or try it out without one: --sandbox. Nothing was changed."
    )


def _asked() -> str:
    try:
        return getpass.getpass(f"AceDataCloud API token (from {TOKEN_PAGE}; it is not shown): ").strip()
    except EOFError:
        return ""
