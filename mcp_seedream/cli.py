"""The command line, and the only place that puts a process together."""

from __future__ import annotations

import argparse
import gc
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_seedream import __version__
from mcp_seedream.core.errors import ConfigurationError

if TYPE_CHECKING:
    from mcp_seedream.catalog.table import ModelTable
    from mcp_seedream.core.settings import Settings

SANDBOXED = "Drawn by the sandbox: a placeholder, not a generated picture."
_WAITING = (
    "Waiting for an MCP client, which usually starts this. `mcp-seedream try WORDS` makes a picture; Ctrl-C ends this."
)
SANDBOX_TOKEN = "sandbox"  # noqa: S105  (the sandbox takes any word)
_HOST, _PORT = "127.0.0.1", 8000
_HTTP_ONLY = ("host", "port", "workers")
MCP_CLIENTS = (
    "claude-desktop",
    "claude-code",
    "cursor",
    "vscode",
    "vscode-insiders",
    "vscodium",
    "windsurf",
    "devin",
    "zed",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `mcp-seedream`; the exit status is 2 for unusable settings or arguments."""
    options = _parser().parse_args(argv)
    options.sandbox |= options.sandbox_as_documented
    try:
        from mcp_seedream.telemetry.tracing import replace_unknown_propagators  # noqa: PLC0415  (--help needs none of it)

        replace_unknown_propagators()
        if options.command == "try":
            from mcp_seedream.core.settings import read_settings  # noqa: PLC0415  (--help needs none of it)
            from mcp_seedream.try_command import try_out  # noqa: PLC0415  (a client: the server has no use for it)

            settings = read_settings("local")
            options.sandbox |= settings.sandbox
            return try_out(options, settings)
        if options.command == "doctor":
            return _examine(options)
        if options.command in ("install", "uninstall"):
            return _install(options)
        return _serve(options)
    except ConfigurationError as error:
        print(f"mcp-seedream: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        if options.command == "try":
            print("Stopped before anything was sent: nothing is billed.", file=sys.stderr)  # noqa: T201
        return 130


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 0xFFFF):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: 0 (any that is free) to 65535")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mcp-seedream",
        description="MCP server for Seedream: pictures from text and from pictures, through AceDataCloud.",
    )
    parser.add_argument("--version", action="version", version=f"mcp-seedream {__version__}")
    parser.add_argument("--transport", choices=["stdio", "http"], default="stdio", help="default: stdio")
    parser.add_argument("--host", help=f"address to bind, over HTTP (default: {_HOST})")
    parser.add_argument("--port", type=_port, help=f"port, over HTTP (default: {_PORT})")
    parser.add_argument("--workers", type=int, metavar="N", help="processes, over HTTP (default: 1)")
    parser.add_argument("--sandbox", action="store_true", help="work against an emulation with drawn pictures")
    parser.add_argument("--sandbox-seconds", type=float, metavar="S", help="how long a sandbox picture takes")
    parser.add_argument(
        "--sandbox-as-documented",
        action="store_true",
        help="a sandbox that takes all models and sizes of the vendor's page, those that production refuses as well",
    )
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"], help="default: info")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands, instead of serving")
    _add_trial(commands)
    _add_install(commands)
    _add_doctor(commands)
    return parser


def _add_trial(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    trial = commands.add_parser(
        "try",
        help="make one picture, as an MCP client would",
        description=(
            "Start the server, ask it for a picture over MCP, save what comes. "
            "Without an API token it uses the sandbox."
        ),
    )
    trial.add_argument("prompt", help="what the picture shows, or with --edit what to change")
    trial.add_argument(
        "--edit", nargs="+", metavar="FILE", help="edit these pictures (files or URLs); the prompt stands before"
    )
    trial.add_argument(
        "--set",
        nargs="+",
        action="extend",
        metavar="NAME=VALUE",
        default=[],
        dest="settings",
        help="other arguments of the tool, such as size=2K watermark=false",
    )
    trial.add_argument("--output", type=Path, default=Path(), metavar="PATH", help="folder or file (default: here)")
    trial.add_argument("--sandbox", action="store_true", default=argparse.SUPPRESS, help="even if there is a token")
    trial.add_argument("--sandbox-seconds", type=float, default=argparse.SUPPRESS, metavar="S", help=argparse.SUPPRESS)
    trial.add_argument(
        "--sandbox-as-documented", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )


def _add_install(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    install = commands.add_parser(
        "install",
        help="put this server into the settings of an MCP client",
        description=(
            "Put this server into the settings of an MCP client. The file is backed up, and all else in it stays as "
            "it is. The token comes from ACEDATACLOUD_API_TOKEN; without one, VS Code asks for it, and keeps it out of "
            "the file, and for the others you are asked here."
        ),
    )
    install.add_argument("client", choices=MCP_CLIENTS, help="which one")
    install.add_argument("--hosted", action="store_true", help="the server that AceDataCloud runs, instead of this one")
    install.add_argument("--url", metavar="URL", help="another hosted server")
    install.add_argument("--sandbox", action="store_true", default=argparse.SUPPRESS, help="no token: drawn pictures")
    install.add_argument("--ask", action="store_true", help="have VS Code ask, even if there is a token here")
    install.add_argument("--link", action="store_true", help="print links that do it when clicked (cursor, vscode)")
    uninstall = commands.add_parser("uninstall", help="take it out again", description="Take the entry out again.")
    uninstall.add_argument("client", choices=MCP_CLIENTS, help="which one")
    for parser in (install, uninstall):
        parser.add_argument("--name", default="seedream", help="what the client calls the server (default: seedream)")
        parser.add_argument("--config", type=Path, metavar="PATH", help="another settings file than the usual one")
        parser.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    examination = commands.add_parser(
        "doctor",
        help="look for what is wrong, if no pictures come",
        description="Look at this machine, the network and the token, or at a hosted endpoint. It costs nothing.",
    )
    examination.add_argument(
        "url", nargs="?", metavar="URL", help="of a hosted endpoint, to look at from outside, with your token"
    )
    examination.add_argument("--json", action="store_true", help="for machines")
    examination.add_argument(
        "--sandbox", action="store_true", default=argparse.SUPPRESS, help="with the sandbox as the upstream"
    )


def _install(options: argparse.Namespace) -> int:
    from mcp_seedream.core.settings import sources  # noqa: PLC0415
    from mcp_seedream.install.commands import install  # noqa: PLC0415  (the server has no use for it)
    from mcp_seedream.install.uninstall import uninstall  # noqa: PLC0415

    if options.command == "uninstall":
        return uninstall(options)
    found = sources("local")
    settings = found.settings()
    options.sandbox |= settings.sandbox and not (options.hosted or options.url)
    return install(options, settings, found)


def _examine(options: argparse.Namespace) -> int:
    from mcp_seedream.catalog.table_file import read_table  # noqa: PLC0415
    from mcp_seedream.core.settings_report import survey  # noqa: PLC0415
    from mcp_seedream.doctor.command import doctor  # noqa: PLC0415  (the server has no use for it)

    found = survey()
    options.sandbox |= found.settings.sandbox
    if not options.sandbox or options.url:
        return doctor(options, found)
    with _upstream(options, found.settings, read_table()) as settings:
        return doctor(options, found.with_sandbox(settings))


def _serve(options: argparse.Namespace) -> int:
    with _no_garbage():
        from mcp_seedream.assembly import prepare  # noqa: PLC0415
        from mcp_seedream.catalog.table_file import read_table  # noqa: PLC0415  (`try` and --help need none of it)
        from mcp_seedream.core.settings import sources  # noqa: PLC0415

        found = sources("hosted" if options.transport == "http" else "local")
        settings = found.settings(log_level=options.log_level, workers=options.workers)
        options.sandbox |= settings.sandbox
        prepare(settings, local=found.use == "local")
        for words in found.warnings():
            logging.getLogger(__name__).warning("%s", words)
        table = read_table(settings.models_file)
    if options.transport != "http":
        for name in _HTTP_ONLY:
            if getattr(options, name) is not None:
                logging.getLogger(__name__).warning("--%s does nothing without --transport http.", name)
    with _upstream(options, settings, table) as settings_in_use:
        serve = _serve_http if options.transport == "http" else _serve_stdio
        return serve(options, settings_in_use, table)


@contextmanager
def _no_garbage() -> Iterator[None]:
    """While modules are loaded there is hardly any garbage: to look for it is a tenth of the time a start takes."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # what is there now stays: nobody need look at it again
        gc.enable()


def _serve_stdio(options: argparse.Namespace, settings: Settings, table: ModelTable) -> int:
    import anyio  # noqa: PLC0415  (`try` and --help need none of it)

    from mcp_seedream.assembly import connecting, local_preview  # noqa: PLC0415
    from mcp_seedream.core.shutdown import Shutdown  # noqa: PLC0415
    from mcp_seedream.generation.journal import open_journal  # noqa: PLC0415
    from mcp_seedream.media.local_files import LocalFiles  # noqa: PLC0415
    from mcp_seedream.server.server import build_server  # noqa: PLC0415
    from mcp_seedream.server.stdio import serve_stdio  # noqa: PLC0415
    from mcp_seedream.server.tools import ToolDefaults  # noqa: PLC0415

    shutdown = Shutdown(settings.shutdown_seconds)
    token = settings.token.get_secret_value() if settings.token else None
    local = LocalFiles(tuple(settings.allowed_dirs), settings.output_dir)
    defaults = ToolDefaults(settings.wait_seconds, local_preview(settings.preview), local, settings.set_images)
    journal = open_journal(settings.journal, in_memory=options.sandbox)
    server = build_server(
        table,
        connecting(settings),
        token_of=lambda _: token,
        defaults=defaults,
        journal=journal,
        shutdown=shutdown,
        remark=_remark(options),
        image_hosts=settings.image_hosts,
    )
    if sys.stdin and sys.stdin.isatty():
        print(_WAITING, file=sys.stderr)  # noqa: T201
    anyio.run(serve_stdio, server, shutdown)
    return 0


def _serve_http(options: argparse.Namespace, settings: Settings, table: ModelTable) -> int:
    from mcp_seedream.assembly import create_app, tune_garbage_collector  # noqa: PLC0415  (stdio starts faster without)
    from mcp_seedream.hosting.workers import serve_in_process, serve_in_workers  # noqa: PLC0415

    if settings.workers > 1 and options.sandbox:
        raise ConfigurationError("A sandbox serves one process: leave it out, or --workers and WEB_CONCURRENCY.")
    host, port = options.host or _HOST, _PORT if options.port is None else options.port
    if settings.workers > 1:
        return serve_in_workers(settings, host, port)
    app = create_app(settings, table=table, remark=_remark(options))
    tune_garbage_collector()
    logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)  # a sandbox in this process keeps its own quiet
    serve_in_process(app, host, port)
    return 0


def _remark(options: argparse.Namespace) -> str | None:
    return SANDBOXED if options.sandbox else None


@contextmanager
def _upstream(options: argparse.Namespace, settings: Settings, table: ModelTable) -> Iterator[Settings]:
    """The settings with the upstream they name, or with a sandbox that runs as long as the context."""
    if not options.sandbox:
        yield settings
        return
    from pydantic import SecretStr  # noqa: PLC0415

    from mcp_seedream.sandbox.app import Sandbox, running  # noqa: PLC0415  (draws: only where it is asked for)
    from mcp_seedream.sandbox.vendor_sign_in import CLIENT_ID  # noqa: PLC0415

    sandbox = Sandbox(table, seconds=options.sandbox_seconds, as_documented=options.sandbox_as_documented)
    with running(sandbox) as address:
        logging.getLogger(__name__).info("sandbox at %s", address)
        in_use = {"base_url": address, "token": SecretStr(SANDBOX_TOKEN), "image_hosts": [address]}
        vendor = {"vendor_client_id": CLIENT_ID, "vendor_auth_url": address, "vendor_platform_url": address}
        yield settings.model_copy(update=in_use | vendor)
