"""Builds a process from its settings: the server over stdio, the hosted server, and the app for ASGI servers.

`local` and `hosted` have no effects on the process. `set_up_process` and the functions for the garbage
collector change it; only entry
points call them: the command line, and the factories of this module.

    uvicorn --factory mcp_seedream.assembly:create_app --workers 4
"""

from __future__ import annotations

import gc
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp import StdioServerParameters
from mcp_types.methods import SPEC_CLIENT_METHODS, SPEC_CLIENT_NOTIFICATION_METHODS

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.catalog.table_file import read_table
from mcp_seedream.core.errors import ConfigurationError
from mcp_seedream.core.events import Observer
from mcp_seedream.core.settings import Settings, name_of, sources
from mcp_seedream.core.shutdown import Shutdown
from mcp_seedream.generation.journal import open_journal
from mcp_seedream.media.local_files import LocalFiles
from mcp_seedream.server.descriptions import TOOLS
from mcp_seedream.server.server import build_server
from mcp_seedream.server.tools import ToolContext, ToolDefaults
from mcp_seedream.telemetry.logs import log_to_stderr

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer
    from starlette.applications import Starlette

    from mcp_seedream.oauth.routes import SignIn
    from mcp_seedream.upstream.client import SeedreamClient

logger = logging.getLogger(__name__)
_SANDBOX_NOTE = "Drawn by the sandbox: a placeholder, not a generated picture."
_IMAGES_AS_TEXT = r"(?i)autogen|semantic[\W_]?kernel|llama[\W_]?index|(?<![a-z])adk(?![a-z])"
"""Names of frameworks that pass images to a model as base64 text."""
_LISTING_SECONDS = 1  # in which a client over stdio has usually listed the tools
_STARTUP_FAILURE = 3
"""The exit status after which uvicorn and gunicorn do not restart a process."""


def local(
    settings: Settings, table: ModelTable | None = None, *, in_sandbox: bool = False
) -> tuple[MCPServer[Any], Shutdown]:
    """Build the server for one client over stdio, and the shutdown that ends its waits.

    Args:
        settings: The settings.
        table: The capability table; None for the table of the settings.
        in_sandbox: Whether the upstream is a sandbox that ends with this process.
    """
    token = settings.token.get_secret_value() if settings.token else None
    shutdown = Shutdown(settings.shutdown_seconds)
    server = build_server(
        table or read_table(settings.models_file),
        partial(upstream_client, settings),
        token_of=lambda _: token,
        defaults=ToolDefaults(
            settings.wait_seconds,
            _local_preview(settings.preview),
            LocalFiles(tuple(settings.allowed_dirs), settings.output_dir),
            settings.set_images,
        ),
        journal=open_journal(settings.journal, in_memory=in_sandbox),
        shutdown=shutdown,
        sandbox_note=_SANDBOX_NOTE if in_sandbox else None,
        image_hosts=settings.image_hosts,
        open_after=_LISTING_SECONDS,
    )
    return server, shutdown


def hosted(settings: Settings, table: ModelTable | None = None, *, in_sandbox: bool = False) -> Starlette:
    """Build the hosted server, for many callers over HTTP, as an ASGI app.

    Args:
        settings: The settings.
        table: The capability table; None for the table of the settings.
        in_sandbox: Whether the upstream is a sandbox that ends with this process.

    Raises:
        ConfigurationError: Settings contradict each other, or require a sandbox that is not running.
    """
    _check_hosted(settings, in_sandbox=in_sandbox)
    # A server over stdio starts faster without these modules.
    from mcp_seedream.core.redis_client import connect as connect_redis  # noqa: PLC0415
    from mcp_seedream.generation.redis_attempts import RedisAttempts  # noqa: PLC0415
    from mcp_seedream.hosting.app import bearer_token, build_app, wants_preview  # noqa: PLC0415
    from mcp_seedream.hosting.key_verifier import KeyVerifier  # noqa: PLC0415
    from mcp_seedream.hosting.limits import CallerLimits  # noqa: PLC0415
    from mcp_seedream.telemetry.metrics import Metrics  # noqa: PLC0415

    table = table or read_table(settings.models_file)
    key_verifier = KeyVerifier(seconds=settings.check_seconds) if settings.check_seconds else None
    on_key_refused = key_verifier.forget if key_verifier else lambda _: None
    metrics = Metrics(table.by_id, on_key_refused=on_key_refused, folder=settings.metrics_dir)
    shutdown = Shutdown(settings.shutdown_seconds, metrics.on_calls_in_progress)
    limits = CallerLimits(
        calls=settings.calls_at_once,
        all_calls=settings.all_calls_at_once,
        generations=settings.generations_a_minute,
        observer=metrics,
    )
    preview = wants_preview(settings.preview == "on")
    server = build_server(
        table,
        partial(upstream_client, settings, metrics),
        token_of=bearer_token,
        defaults=ToolDefaults(settings.wait_seconds, preview, set_images=settings.set_images),
        shutdown=shutdown,
        sandbox_note=_SANDBOX_NOTE if in_sandbox else None,
        image_hosts=settings.image_hosts,
        limits=limits,
        observer=metrics,
        redis=RedisAttempts(connect_redis(settings.redis_url.get_secret_value())) if settings.redis_url else None,
    )
    upstream = upstream_client(settings, metrics)
    return build_app(
        server,
        settings,
        shutdown,
        upstream=upstream,
        key_verifier=key_verifier,
        limits=limits,
        metrics=metrics,
        sign_in=_sign_in(settings, upstream),
    )


def _check_hosted(settings: Settings, *, in_sandbox: bool) -> None:
    if settings.sandbox and not in_sandbox:  # calls would be billed
        raise ConfigurationError(f"{name_of('sandbox')} needs the command mcp-seedream: start the server with it.")
    if settings.public_url and settings.metrics_dir and not settings.redis_url:
        name = name_of("redis_url")
        raise ConfigurationError(f"Sign-in with several processes needs a shared store: set {name}.")


def _sign_in(settings: Settings, upstream: SeedreamClient) -> SignIn | None:
    from mcp_seedream.hosting.key_verifier import uncached_check  # noqa: PLC0415
    from mcp_seedream.hosting.middleware import ENDPOINT  # noqa: PLC0415
    from mcp_seedream.media.documents import Documents  # noqa: PLC0415
    from mcp_seedream.oauth.routes import open_sign_in  # noqa: PLC0415

    return open_sign_in(settings, ENDPOINT, uncached_check(partial(upstream.look_up, kind="check")), Documents().fetch)


def upstream_client(settings: Settings, observer: Observer | None = None) -> SeedreamClient:
    """A client of the upstream, with the address and time-outs of the settings."""
    from mcp_seedream.upstream.client import SeedreamClient, Timeouts  # noqa: PLC0415  (imports httpx)

    timeouts = Timeouts(
        settings.connect_timeout,
        settings.read_timeout,
        min(settings.read_timeout, 10),
        settings.stream_timeout,
    )
    return SeedreamClient(settings.base_url, timeouts=timeouts, connections=settings.connections, observer=observer)


def _local_preview(setting: str | None) -> Callable[[ToolContext], bool]:
    """A function that decides whether the results of a call over stdio have previews.

    Without a setting, all results have previews, except for clients whose name (`clientInfo`) matches
    `_IMAGES_AS_TEXT`. Of these frameworks, only google-adk 2.13 sends its own name; the others send `mcp`, the name of
    the Python SDK.
    """

    def preview(call: ToolContext) -> bool:
        client = call.session.client_params
        is_unfit = client and re.search(_IMAGES_AS_TEXT, client.client_info.name)
        return setting != "off" and (setting == "on" or not is_unfit)

    return preview


def create_app() -> Starlette:
    """A factory for ASGI servers: the hosted server with the settings of the environment.

    Raises:
        SystemExit: The settings are invalid; the log has the reason.
    """
    return _app_from_environment(log_warnings=True)


def create_worker_app() -> Starlette:
    """The app of one of several worker processes. The first process has logged the warnings about settings."""
    return _app_from_environment(log_warnings=False)


def _app_from_environment(*, log_warnings: bool) -> Starlette:
    try:
        setting_sources = sources("hosted")
        settings = setting_sources.settings()
        set_up_process(settings, setting_sources.warnings() if log_warnings else ())
        app = hosted(settings)
    except ConfigurationError as error:
        logger.critical("%s", error)
        sys.exit(_STARTUP_FAILURE)
    tune_garbage_collector()
    return app


def set_up_process(settings: Settings, warnings: Iterable[str] = (), *, local: bool = False) -> None:
    """Set up the log of the process, the folder of its metrics, and the export of its spans.

    Args:
        settings: The settings.
        warnings: Warnings about the settings, to be logged.
        local: Whether the process serves over stdio. Such a process has no metrics. If it can't export spans, it only
            logs a warning: the variable is often meant for another program, and clients do not show why a start failed.

    Raises:
        ConfigurationError: Spans can't be exported, or the metrics folder can't be written to.
    """
    log_to_stderr(settings.log_level, settings.log_format)
    if not local:
        _set_metrics_folder(settings)
    if settings.otlp_endpoint:
        from mcp_seedream.telemetry.tracing import export_spans  # noqa: PLC0415  (slow to import, and rarely needed)

        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = settings.otlp_endpoint  # the exporter reads only the environment
        try:
            export_spans(
                [*SPEC_CLIENT_METHODS, *SPEC_CLIENT_NOTIFICATION_METHODS, *(f"tools/call {name}" for name in TOOLS)]
            )
        except ConfigurationError as error:
            if not local:
                raise
            logger.warning("No spans are exported: %s", error)
    for warning in warnings:
        logger.warning("%s", warning)


def _set_metrics_folder(settings: Settings) -> None:
    """Set the variable from which the metrics library reads the folder that several processes share.

    Raises:
        ConfigurationError: The folder can't be written to. It is created only for a server with several processes.
    """
    name, folder = name_of("metrics_dir"), settings.metrics_dir
    if folder is None:
        os.environ.pop(name, None)  # the library interprets an empty value as the working folder
        return
    os.environ[name] = folder
    try:
        if settings.workers > 1:
            Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"The setting {name} is wrong: nothing can be written to the folder {folder} ({error.strerror}). "
            "Create it, set another one, or remove the setting."
        ) from error


def set_worker_environment(settings: Settings, metrics_folder: str) -> None:
    """Store options of the command line in the environment, from which worker processes read their settings."""
    os.environ[name_of("log_level")] = settings.log_level
    os.environ[name_of("metrics_dir")] = metrics_folder


def start_garbage_collector() -> None:
    """Turn on the garbage collector, which skips everything that exists so far: modules are never freed."""
    gc.freeze()
    gc.enable()


def tune_garbage_collector() -> None:
    """Make full garbage collections rare in a process that only serves the app: each takes 0.3 s with 1,000 calls.

    The app runs a full collection once a minute if few calls are in progress.
    """
    gc.collect()
    start_garbage_collector()
    gc.set_threshold(10_000, 20, 50)


def stdio_parameters(options: Iterable[str] = ()) -> StdioServerParameters:
    """Parameters for an MCP client that starts this server as a subprocess, with the environment of this process.

    Args:
        options: Options of the command line.
    """
    arguments = ["-P", "-m", "mcp_seedream", "--log-level", "warning", *options]
    return StdioServerParameters(command=sys.executable, args=arguments, env=dict(os.environ))
