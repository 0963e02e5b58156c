"""Serves MCP clients in this process: over stdio, over HTTP, or as one of several processes over HTTP."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.errors import ConfigurationError
from mcp_seedream.core.settings import Settings, read_settings

if TYPE_CHECKING:
    from starlette.applications import Starlette

logger = logging.getLogger(__name__)
_SANDBOX_NOTE = "Drawn by the sandbox: a placeholder, not a generated picture."
_WAITING = (
    "Waiting for an MCP client, which usually starts this command. `mcp-seedream try PROMPT` makes a picture; "
    "Ctrl-C ends this."
)


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Options of the server that are not settings.

    Args:
        host: Address to listen on, over HTTP.
        port: Port to listen on, over HTTP.
        in_sandbox: Whether the upstream is a sandbox that ends with this process.
    """

    host: str
    port: int
    in_sandbox: bool

    @property
    def remark(self) -> str | None:
        """A note for every result."""
        return _SANDBOX_NOTE if self.in_sandbox else None


def serve_stdio(options: ServeOptions, settings: Settings, table: ModelTable) -> None:
    """Serve one client over stdin and stdout, until it closes them."""
    import anyio  # noqa: PLC0415  (HTTP needs none of these)

    from mcp_seedream.assembly import connecting, local_preview  # noqa: PLC0415
    from mcp_seedream.core.shutdown import Shutdown  # noqa: PLC0415
    from mcp_seedream.generation.journal import open_journal  # noqa: PLC0415
    from mcp_seedream.media.local_files import LocalFiles  # noqa: PLC0415
    from mcp_seedream.server.server import build_server  # noqa: PLC0415
    from mcp_seedream.server.stdio import serve_stdio as serve  # noqa: PLC0415
    from mcp_seedream.server.tools import ToolDefaults  # noqa: PLC0415

    shutdown = Shutdown(settings.shutdown_seconds)
    token = settings.token.get_secret_value() if settings.token else None
    local = LocalFiles(tuple(settings.allowed_dirs), settings.output_dir)
    defaults = ToolDefaults(settings.wait_seconds, local_preview(settings.preview), local, settings.set_images)
    server = build_server(
        table,
        connecting(settings),
        token_of=lambda _: token,
        defaults=defaults,
        journal=open_journal(settings.journal, in_memory=options.in_sandbox),
        shutdown=shutdown,
        remark=options.remark,
        image_hosts=settings.image_hosts,
    )
    if sys.stdin and sys.stdin.isatty():
        print(_WAITING, file=sys.stderr)  # noqa: T201
    anyio.run(serve, server, shutdown)


def serve_http(options: ServeOptions, settings: Settings, table: ModelTable) -> None:
    """Serve clients over HTTP, until a signal.

    Raises:
        ConfigurationError: The address can't be listened to.
    """
    from mcp_seedream.assembly import create_app, tune_garbage_collector  # noqa: PLC0415  (stdio starts faster without)
    from mcp_seedream.hosting.workers import serve_in_process  # noqa: PLC0415

    app = create_app(settings, table=table, remark=options.remark)
    tune_garbage_collector()
    logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)  # a sandbox in this process has silenced it
    serve_in_process(app, options.host, options.port)


def create_worker_app() -> Starlette:
    """The app of one process of several; the first process has logged the warnings about settings."""
    from uvicorn.config import STARTUP_FAILURE  # noqa: PLC0415

    from mcp_seedream.assembly import create_app, prepare, tune_garbage_collector  # noqa: PLC0415

    try:
        settings = read_settings()
        prepare(settings)
        app = create_app(settings)
    except ConfigurationError as error:
        logger.critical("%s", error)
        sys.exit(STARTUP_FAILURE)  # uvicorn starts no replacement then
    tune_garbage_collector()
    return app
