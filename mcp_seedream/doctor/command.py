"""The command `mcp-seedream doctor`: selects the checks, runs them, and prints the results."""

from __future__ import annotations

import io
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
from mcp_seedream.assembly import stdio_parameters
from mcp_seedream.core.errors import ConfigurationError
from mcp_seedream.core.settings import Settings, name_of
from mcp_seedream.core.settings_report import SettingsReport, coloured
from mcp_seedream.doctor.endpoint_checks import EndpointChecks
from mcp_seedream.doctor.findings import Check, Finding, Result, as_json, as_text, count, run_checks
from mcp_seedream.doctor.hosting_checks import HostingChecks
from mcp_seedream.doctor.machine import MachineChecks, client_entries, invalid_setting
from mcp_seedream.doctor.refusal_checks import recent_refusals
from mcp_seedream.doctor.upstream_checks import UpstreamChecks
from mcp_seedream.install.discovery import Installed, find_installed, folders_here
from mcp_seedream.sandbox.options import SandboxOptions

_SLOW_START = 15  # seconds, after which some clients give up
_MAX_WIDTH = 110


@dataclass(frozen=True, slots=True)
class DoctorOptions:
    """Options of `doctor`.

    Args:
        url: The hosted endpoint to check instead of this machine.
        json: Whether the results are printed as JSON.
        sandbox: Whether the sandbox is the upstream.
    """

    url: str | None
    json: bool
    sandbox: bool


def doctor(options: DoctorOptions, report: SettingsReport) -> int:
    """Check this machine and the upstream, or a hosted endpoint; 1 if there is a problem.

    Args:
        options: The options of the command line.
        report: The settings and their sources.

    Raises:
        ConfigurationError: The URL is not an http(s) address.
    """
    if options.url:
        checks = _endpoint(options.url, report.settings).checks()
    else:
        installed = _installed()
        report = report if options.sandbox else _with_client_token(report, installed)
        checks = [
            *MachineChecks(report).checks(),
            Check("clients", partial(_client_entries, installed)),
            *HostingChecks(report).checks(),
            *UpstreamChecks(report).checks(),
            Check("refusals", partial(recent_refusals, report.settings), needs=("settings",)),
            _server(report, sandbox=options.sandbox),
        ]
    results = anyio.run(run_checks, checks, _ignore if options.json else _printer(checks, sys.stdout))
    problems, warnings = count(results, "problem"), count(results, "warning")
    if options.json:
        _say(as_json(results, version=__version__))
    else:
        counts = f"{_counted(problems, 'problem')}, {_counted(warnings, 'warning')}."
        _say(f"\n{counts if problems or warnings else 'No problems found.'}")
    return 1 if problems else 0


def _printer(checks: Sequence[Check], stream: TextIO) -> Callable[[Result], None]:
    """A function that prints a result as text, wrapped to the width of the terminal."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")  # names of servers and folders may be in any script
    names = max(len(check.name) for check in checks)
    width = min(shutil.get_terminal_size((_MAX_WIDTH, 0)).columns, _MAX_WIDTH)
    in_colours = coloured(stream)
    return lambda result: _say(as_text(result, width, names=names, coloured=in_colours))


def _ignore(_: Result) -> None:
    """Print nothing: JSON is printed at the end."""


def _say(text: str) -> None:
    try:
        print(text, flush=True)  # noqa: T201
    except BrokenPipeError:  # the reader has closed its end, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _counted(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def _endpoint(url: str, settings: Settings) -> EndpointChecks:
    token = settings.token.get_secret_value() if settings.token else None
    return EndpointChecks(url, token, connect=settings.connect_timeout, read=settings.read_timeout)


def _installed() -> Installed:
    try:
        return find_installed(folders_here())
    except ConfigurationError as error:
        return Installed((), {"all clients": error.message})


async def _client_entries(installed: Installed) -> Finding:
    return client_entries(installed)


def _with_client_token(report: SettingsReport, installed: Installed) -> SettingsReport:
    """The report with the token of a client, if the environment and `.env` have none."""
    if report.settings.token or name_of("token") in report.invalid:
        return report
    for entry in installed.entries:
        if entry.own_token:
            return report.with_token(entry.own_token, f"{entry.title}'s settings")
    titles = " and ".join(dict.fromkeys(entry.title for entry in installed.entries if entry.provides_token))
    return replace(report, token_provider=titles)


def _server(report: SettingsReport, *, sandbox: bool) -> Check:
    """A check that starts the server as a client would, and makes a picture if the sandbox is used."""

    async def start() -> Finding:
        if finding := invalid_setting(report, "token"):
            return finding
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            log = Path(folder) / "log"
            try:
                with log.open("w") as file:
                    return await _start_server(file, Path(folder), sandbox=sandbox)
            except* (OSError, MCPError) as errors:
                lines = log.read_text("utf-8", "replace").splitlines()
                reason = lines[-1] if lines else str(errors.exceptions[0])
            return Finding(
                "problem", f"It does not start: {reason}", f"Run {sys.executable} -m mcp_seedream for more output."
            )

    return Check("server", start, needs=("packages", "settings", "models"), seconds=60)


async def _start_server(log: TextIO, folder: Path, *, sandbox: bool) -> Finding:
    began = time.perf_counter()
    options = SandboxOptions(seconds=0.2).arguments if sandbox else []
    async with Client(stdio_client(stdio_parameters(options), errlog=log), mode="legacy") as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        seconds = time.perf_counter() - began
        text = f"starts in {seconds:.1f} s, with {', '.join(tools)}"
        if sandbox:
            arguments = {"prompt": "a red fox in the snow", "save_to": str(folder / "fox.jpg")}
            began = time.perf_counter()
            result = await client.call_tool("generate_image", arguments)
            if not (folder / "fox.jpg").is_file():
                reason = (result.structured_content or {}).get("error") or result.content
                return Finding("problem", f"It did not make a picture in the sandbox: {reason}")
            text += f"; a sandbox picture took {time.perf_counter() - began:.1f} s"
    if seconds > _SLOW_START:
        advice = "Some clients wait for at most 15 s. A slow disk or a virus scanner may be the cause."
        return Finding("warning", text, advice)
    return Finding("ok", text)
