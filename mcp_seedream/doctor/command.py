"""The command `mcp-seedream doctor`: looks for what keeps pictures from coming, and says what to do about it.

It costs nothing, changes nothing, and shows no more of a token than its end.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TextIO

import anyio
from mcp import Client, MCPError
from mcp.client.stdio import stdio_client

from mcp_seedream import __version__
from mcp_seedream.assembly import as_subprocess
from mcp_seedream.core.errors import ConfigurationError
from mcp_seedream.core.settings import Settings, name_of
from mcp_seedream.core.settings_report import Survey, coloured
from mcp_seedream.doctor.endpoint_checks import Endpoint
from mcp_seedream.doctor.findings import Check, Finding, Result, as_json, as_text, count, examine
from mcp_seedream.doctor.hosting_checks import Host
from mcp_seedream.doctor.machine import Machine, in_clients, unusable
from mcp_seedream.doctor.refusal_checks import refused_lately
from mcp_seedream.doctor.upstream_checks import Upstream
from mcp_seedream.install.discovery import Installed, folders_here, installed
from mcp_seedream.telemetry.logs import log_to_stderr

_SLOW_START = 15  # seconds, after which impatient clients may give up
_WIDEST = 110


@dataclass(frozen=True, slots=True)
class DoctorOptions:
    """Options of `doctor`.

    Args:
        url: The hosted endpoint to check instead of this machine.
        json: Whether the results are printed as JSON.
        sandbox: Whether the sandbox is the upstream.
        log_level: Lowest level that is logged; None: nothing is.
    """

    url: str | None
    json: bool
    sandbox: bool
    log_level: str | None


def doctor(options: DoctorOptions, found: Survey) -> int:
    """Look at this machine and the upstream, or at a hosted endpoint; 1 if there is a problem.

    Args:
        options: The command line's.
        found: The settings.

    Raises:
        ConfigurationError: The URL is none.
    """
    if options.log_level:
        log_to_stderr(options.log_level)
    else:
        logging.getLogger().addHandler(logging.NullHandler())  # what goes wrong is told by the checks
    if options.url:
        checks = _endpoint(options.url, found.settings).checks()
    else:
        places = _places()
        found = found if options.sandbox else _with_a_token(found, places)
        checks = [
            *Machine(found).checks(),
            Check("clients", partial(_in_clients, places)),
            *Host(found).checks(),
            *Upstream(found).checks(),
            Check("refusals", partial(refused_lately, found.settings), needs=("settings",)),
            _server(found, sandbox=options.sandbox),
        ]
    results = anyio.run(examine, checks, _silent if options.json else _printer(checks, sys.stdout))
    problems, warnings = count(results, "problem"), count(results, "warning")
    if options.json:
        _say(as_json(results, version=__version__))
    else:
        _say(
            f"\n{_counted(problems, 'problem')}, {_counted(warnings, 'warning')}."
            if problems or warnings
            else "\nAll is well."
        )
    return 1 if problems else 0


def _printer(checks: Sequence[Check], stream: TextIO) -> Callable[[Result], None]:
    """Prints results for people, as wide as the terminal is."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")  # what servers and folders are called may be in any script
    names = max(len(check.name) for check in checks)
    width = min(shutil.get_terminal_size((_WIDEST, 0)).columns, _WIDEST)
    in_colours = coloured(stream)
    return lambda result: _say(as_text(result, width, names=names, coloured=in_colours))


def _silent(_: Result) -> None:
    """Machines get all at the end."""


def _say(text: str) -> None:
    try:
        print(text, flush=True)  # noqa: T201
    except BrokenPipeError:  # whoever reads has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _counted(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def _endpoint(url: str, settings: Settings) -> Endpoint:
    token = settings.token.get_secret_value() if settings.token else None
    return Endpoint(url, token, connect=settings.connect_timeout, read=settings.read_timeout)


def _places() -> Installed:
    try:
        return installed(folders_here())
    except ConfigurationError as error:
        return Installed((), {"all clients": error.message})


async def _in_clients(places: Installed) -> Finding:
    return in_clients(places)


def _with_a_token(found: Survey, places: Installed) -> Survey:
    """Where none is set here: that of a client, which is the one that counts there."""
    if found.settings.token or name_of("token") in found.wrong:
        return found
    for each in places.entries:
        if each.own_token:
            return found.with_token(each.own_token, f"{each.title}'s settings")
    titles = " and ".join(dict.fromkeys(each.title for each in places.entries if each.sees_to_a_token))
    return replace(found, elsewhere=f"{titles} is to see to it" if titles else "")


def _server(found: Survey, *, sandbox: bool) -> Check:
    """The server, started the way clients start it; from the sandbox it brings a picture."""

    async def start() -> Finding:
        if wrong := unusable(found, "token"):
            return wrong
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            log = Path(folder) / "log"
            try:
                with log.open("w") as file:
                    return await _asked(file, Path(folder), sandbox=sandbox)
            except* (OSError, MCPError) as errors:
                lines = log.read_text("utf-8", "replace").splitlines()
                why = lines[-1] if lines else str(errors.exceptions[0])
            return Finding("problem", f"It does not start: {why}", f"Run {sys.executable} -m mcp_seedream to see more.")

    return Check("server", start, needs=("packages", "settings", "models"), seconds=60)


async def _asked(log: TextIO, folder: Path, *, sandbox: bool) -> Finding:
    began = time.perf_counter()
    switches = ["--sandbox", "--sandbox-seconds", "0.2"] if sandbox else []
    async with Client(stdio_client(as_subprocess(switches), errlog=log), mode="legacy") as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        seconds = time.perf_counter() - began
        told = f"starts in {seconds:.1f} s, with {', '.join(tools)}"
        if sandbox:
            arguments = {"prompt": "a red fox in the snow", "save_to": str(folder / "fox.jpg")}
            began = time.perf_counter()
            result = await client.call_tool("generate_image", arguments)
            if not (folder / "fox.jpg").is_file():
                said = (result.structured_content or {}).get("error") or result.content
                return Finding("problem", f"It made no picture in the sandbox: {said}")
            told += f"; a picture of the sandbox took {time.perf_counter() - began:.1f} s"
    if seconds > _SLOW_START:
        return Finding("warning", told, "Some clients wait no longer than 15 s: a slow disk or a virus scanner?")
    return Finding("ok", told)
