"""The command `mcp-seedream` without a subcommand: serves MCP clients over stdio or HTTP."""

from __future__ import annotations

import logging
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import anyio

from mcp_seedream.assembly import (
    hosted,
    local,
    set_up_process,
    set_worker_environment,
    start_garbage_collector,
    tune_garbage_collector,
)
from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.catalog.table_file import read_table
from mcp_seedream.core.errors import ConfigurationError
from mcp_seedream.core.settings import Settings, sources
from mcp_seedream.sandbox.options import SandboxOptions
from mcp_seedream.server.stdio import serve_stdio

_WAITING = (
    "Waiting for an MCP client, which usually starts this command. `mcp-seedream try PROMPT` makes a picture; "
    "Ctrl-C ends the server."
)


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Options of the server.

    Args:
        http: Whether it serves over HTTP; otherwise over stdio.
        host: Address to listen on, over HTTP.
        port: Port to listen on, over HTTP.
        workers: Number of processes, over HTTP; None for the number of the settings.
        log_level: Lowest level that is logged; None for the level of the settings.
        sandbox: The sandbox, which a setting may also enable.
        ignored: Names of options that were given but have no effect over stdio.
    """

    http: bool
    host: str
    port: int
    workers: int | None
    log_level: str | None
    sandbox: SandboxOptions
    ignored: tuple[str, ...]


def serve(options: ServeOptions) -> int:
    """Serve until the client closes stdin, or a signal arrives; returns the exit status.

    Raises:
        ConfigurationError: The settings are invalid, or the address can't be bound.
    """
    setting_sources = sources("hosted" if options.http else "local")
    settings = setting_sources.settings(log_level=options.log_level, workers=options.workers)
    warnings = [
        *setting_sources.warnings(),
        *(f"--{name} has no effect without --transport http." for name in options.ignored),
    ]
    set_up_process(settings, warnings, local=not options.http)
    table = read_table(settings.models_file)
    in_sandbox = options.sandbox.enabled or settings.sandbox
    if options.http and settings.workers > 1:
        if in_sandbox:
            raise ConfigurationError("A sandbox serves one process: remove it, or --workers and WEB_CONCURRENCY.")
        return _serve_in_workers(options, settings)
    with (
        _sandbox_settings(options.sandbox, settings, table) if in_sandbox else nullcontext(settings) as settings_in_use
    ):
        if options.http:
            _serve_http(options, settings_in_use, table, in_sandbox=in_sandbox)
        else:
            _serve_stdio(settings_in_use, table, in_sandbox=in_sandbox)
    return 0


def _sandbox_settings(
    sandbox: SandboxOptions, settings: Settings, table: ModelTable
) -> AbstractContextManager[Settings]:
    from mcp_seedream.sandbox.app import settings_with_sandbox  # noqa: PLC0415  (slow to import)

    return settings_with_sandbox(sandbox, settings, table)


def _serve_stdio(settings: Settings, table: ModelTable, *, in_sandbox: bool) -> None:
    server, shutdown = local(settings, table, in_sandbox=in_sandbox)
    start_garbage_collector()
    if sys.stdin and sys.stdin.isatty():
        print(_WAITING, file=sys.stderr)  # noqa: T201
    anyio.run(serve_stdio, server, shutdown)


def _serve_http(options: ServeOptions, settings: Settings, table: ModelTable, *, in_sandbox: bool) -> None:
    from mcp_seedream.hosting.workers import serve_in_process  # noqa: PLC0415  (stdio starts faster without it)

    app = hosted(settings, table, in_sandbox=in_sandbox)
    tune_garbage_collector()
    logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)  # a sandbox in this process has silenced it
    proxies = settings.trusted_proxies
    serve_in_process(app, options.host, options.port, metrics_port=settings.metrics_port, trusted_proxies=proxies)


def _serve_in_workers(options: ServeOptions, settings: Settings) -> int:
    from mcp_seedream.hosting.workers import metrics_folder, open_listeners, serve_in_workers  # noqa: PLC0415

    # Before emptying a folder that another server may be using.
    sockets = open_listeners(options.host, options.port, settings.metrics_port)
    start_garbage_collector()
    with metrics_folder(settings.metrics_dir) as folder:
        set_worker_environment(settings, folder)
        factory = "mcp_seedream.assembly:create_worker_app"
        return serve_in_workers(factory, settings.workers, sockets, trusted_proxies=settings.trusted_proxies)
