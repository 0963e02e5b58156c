"""The command line: parses arguments, and calls one function of a package.

The environment, the garbage collector and the log of the process are set up only here and in `assembly`.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mcp_seedream import __version__
from mcp_seedream.core.errors import ConfigurationError
from mcp_seedream.sandbox.options import SandboxOptions

logger = logging.getLogger(__name__)
_HOST, _PORT = "127.0.0.1", 8000
_HTTP_ONLY = ("host", "port", "workers")
MCP_CLIENTS = (
    *("claude-desktop", "claude-code", "cursor", "vscode", "vscode-insiders", "vscodium"),
    *("windsurf", "devin", "zed"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `mcp-seedream`; the exit status is 2 for unusable settings or arguments."""
    arguments = _parser().parse_args(argv)
    arguments.sandbox |= arguments.sandbox_as_documented
    run = {"try": _try, "doctor": _doctor, "install": _install, "uninstall": _uninstall}.get(arguments.command, _serve)
    if run is _serve:
        gc.disable()  # until the server is built: it would find little, in a tenth of the start
    try:
        _replace_unusable_propagators()
        return run(arguments)
    except ConfigurationError as error:
        print(f"mcp-seedream: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        if arguments.command == "try":
            print("Stopped before anything was sent: nothing is billed.", file=sys.stderr)  # noqa: T201
        return 130


def _replace_unusable_propagators() -> None:
    """Use OpenTelemetry's default if OTEL_PROPAGATORS names a propagator that is not installed."""
    from mcp_seedream.telemetry.tracing import unusable_propagators  # noqa: PLC0415  (--help does not need it)

    if reason := unusable_propagators():
        os.environ["OTEL_PROPAGATORS"] = "tracecontext,baggage"
        logger.warning("OTEL_PROPAGATORS is ignored: %s", reason)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 0xFFFF):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: 0 (any free one) to 65535")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mcp-seedream",
        description="MCP server that makes pictures with Seedream, through AceDataCloud. Without a command, start it.",
    )
    parser.add_argument("--version", action="version", version=f"mcp-seedream {__version__}")
    parser.add_argument("--transport", choices=["stdio", "http"], default="stdio", help="default: stdio")
    parser.add_argument("--host", help=f"address to listen on, over HTTP (default: {_HOST})")
    parser.add_argument("--port", type=_port, help=f"port to listen on, over HTTP (default: {_PORT})")
    parser.add_argument("--workers", type=int, metavar="N", help="number of processes, over HTTP (default: 1)")
    parser.add_argument("--sandbox", action="store_true", help="draw placeholder pictures on this machine, at no cost")
    parser.add_argument("--sandbox-seconds", type=float, metavar="S", help="seconds that a sandbox picture takes")
    parser.add_argument(
        "--sandbox-as-documented",
        action="store_true",
        help="like --sandbox, and accept all models and sizes of the vendor's page, even if the upstream refuses them",
    )
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"], help="default: info")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _add_try(commands)
    _add_install(commands)
    _add_doctor(commands)
    return parser


def _add_try(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    try_ = commands.add_parser(
        "try",
        help="make one picture, as an MCP client would",
        description="Start the server, request a picture over MCP, and save it. Without a token, use the sandbox.",
    )
    try_.add_argument("prompt", help="description of the picture, or with --edit of the change")
    try_.add_argument(
        "--edit", nargs="+", metavar="FILE", help="pictures to edit (files or URLs); put the prompt before this option"
    )
    try_.add_argument(
        "--set",
        nargs="+",
        action="extend",
        metavar="NAME=VALUE",
        default=[],
        dest="settings",
        help="further arguments of the tool, such as size=2K watermark=false",
    )
    try_.add_argument(
        "--output", type=Path, default=Path(), metavar="PATH", help="folder or file (default: current folder)"
    )
    try_.add_argument(
        "--sandbox", action="store_true", default=argparse.SUPPRESS, help="use the sandbox even if a token is set"
    )
    try_.add_argument("--sandbox-seconds", type=float, default=argparse.SUPPRESS, metavar="S", help=argparse.SUPPRESS)
    try_.add_argument("--sandbox-as-documented", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def _add_install(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    install = commands.add_parser(
        "install",
        help="add this server to the settings of an MCP client",
        description=(
            "Add this server to the settings of an MCP client. The settings file is backed up first, and nothing else "
            "in it changes. The token is taken from ACEDATACLOUD_API_TOKEN. If that is not set, VS Code asks you for "
            "the token when it starts the server; for other clients, this command asks you now."
        ),
    )
    install.add_argument("client", choices=MCP_CLIENTS, help="the MCP client")
    install.add_argument("--hosted", action="store_true", help="add the server that AceDataCloud hosts, not this one")
    install.add_argument("--url", metavar="URL", help="add the hosted server at this address")
    install.add_argument(
        "--sandbox", action="store_true", default=argparse.SUPPRESS, help="use the sandbox, which needs no token"
    )
    install.add_argument("--ask", action="store_true", help="let VS Code ask for the token, even if one is set here")
    install.add_argument("--link", action="store_true", help="only print links that add it (cursor, vscode)")
    uninstall = commands.add_parser(
        "uninstall",
        help="remove this server from the settings of an MCP client",
        description="Remove this server from the settings of an MCP client.",
    )
    uninstall.add_argument("client", choices=MCP_CLIENTS, help="the MCP client")
    for parser in (install, uninstall):
        parser.add_argument("--name", default="seedream", help="name of the server in the client (default: seedream)")
        parser.add_argument(
            "--config", type=Path, metavar="PATH", help="settings file, if it is not the client's usual one"
        )
        parser.add_argument("--dry-run", action="store_true", help="show the changes without making them")


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="find out why pictures can't be made",
        description="Check this machine, the network and the token, or a hosted endpoint. Checks cost nothing.",
    )
    doctor.add_argument(
        "url", nargs="?", metavar="URL", help="hosted endpoint to check from outside, with your token if one is set"
    )
    doctor.add_argument("--json", action="store_true", help="print the results as JSON")
    doctor.add_argument(
        "--sandbox", action="store_true", default=argparse.SUPPRESS, help="check against the sandbox, not AceDataCloud"
    )


# Each command imports its modules when it runs, so that the server starts faster.


def _try(arguments: argparse.Namespace) -> int:
    from mcp_seedream.core.settings import read_settings  # noqa: PLC0415
    from mcp_seedream.try_command import TryOptions, run_try  # noqa: PLC0415

    settings = read_settings("local")
    options = TryOptions(
        prompt=arguments.prompt,
        images=tuple(arguments.edit or ()),
        arguments=tuple(arguments.settings),
        output=arguments.output,
        sandbox=_sandbox(arguments, by_setting=settings.sandbox),
    )
    return run_try(options, settings)


def _install(arguments: argparse.Namespace) -> int:
    from mcp_seedream.core.settings import sources  # noqa: PLC0415
    from mcp_seedream.install.commands import install  # noqa: PLC0415
    from mcp_seedream.install.targets import InstallOptions  # noqa: PLC0415

    setting_sources = sources("local")
    settings = setting_sources.settings()
    is_remote = arguments.hosted or arguments.url
    options = InstallOptions(
        client=arguments.client,
        name=arguments.name,
        config=arguments.config,
        dry_run=arguments.dry_run,
        hosted=arguments.hosted,
        url=arguments.url,
        sandbox=arguments.sandbox or (settings.sandbox and not is_remote),
        ask=arguments.ask,
        link=arguments.link,
    )
    return install(options, settings, setting_sources)


def _uninstall(arguments: argparse.Namespace) -> int:
    from mcp_seedream.install.targets import EntryOptions  # noqa: PLC0415
    from mcp_seedream.install.uninstall import uninstall  # noqa: PLC0415

    return uninstall(EntryOptions(arguments.client, arguments.name, arguments.config, arguments.dry_run))


def _doctor(arguments: argparse.Namespace) -> int:
    from mcp_seedream.catalog.table_file import read_table  # noqa: PLC0415
    from mcp_seedream.core.settings_report import read_report  # noqa: PLC0415
    from mcp_seedream.doctor.command import DoctorOptions, doctor  # noqa: PLC0415
    from mcp_seedream.telemetry.logs import log_to_stderr  # noqa: PLC0415

    if arguments.log_level:
        log_to_stderr(arguments.log_level)
    else:
        logging.getLogger().addHandler(logging.NullHandler())  # the findings report all errors
    report = read_report()
    sandbox = _sandbox(arguments, by_setting=report.settings.sandbox)
    options = DoctorOptions(arguments.url, arguments.json, sandbox.enabled)
    if options.url or not sandbox.enabled:
        return doctor(options, report)
    from mcp_seedream.sandbox.app import settings_with_sandbox  # noqa: PLC0415  (slow to import)

    with settings_with_sandbox(sandbox, report.settings, read_table()) as settings:
        return doctor(options, report.with_sandbox(settings))


def _serve(arguments: argparse.Namespace) -> int:
    from mcp_seedream.serve_command import ServeOptions, serve  # noqa: PLC0415

    http = arguments.transport == "http"
    options = ServeOptions(
        http=http,
        host=arguments.host or _HOST,
        port=_PORT if arguments.port is None else arguments.port,
        workers=arguments.workers,
        log_level=arguments.log_level,
        sandbox=_sandbox(arguments),
        ignored=() if http else tuple(name for name in _HTTP_ONLY if getattr(arguments, name) is not None),
    )
    return serve(options)


def _sandbox(arguments: argparse.Namespace, *, by_setting: bool = False) -> SandboxOptions:
    enabled = arguments.sandbox or by_setting
    return SandboxOptions(enabled, arguments.sandbox_seconds, arguments.sandbox_as_documented)
