"""A process, put together from its settings: for the command line, and for ASGI servers that take a factory.

uvicorn --factory mcp_seedream.assembly:create_app --workers 4
"""

from __future__ import annotations

import gc
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.catalog.table_file import read_table
from mcp_seedream.core.errors import ConfigurationError
from mcp_seedream.core.events import Observer
from mcp_seedream.core.settings import Settings, name_of, sources
from mcp_seedream.core.shutdown import Shutdown
from mcp_seedream.server.tools import ToolContext, ToolDefaults
from mcp_seedream.telemetry.logs import log_to_stderr
from mcp_seedream.upstream.client import SeedreamClient, Timeouts

if TYPE_CHECKING:
    from mcp import StdioServerParameters
    from starlette.applications import Starlette

    from mcp_seedream.hosting.limits import CallerLimits
    from mcp_seedream.oauth.routes import SignIn

logger = logging.getLogger(__name__)
_AS_TEXT = re.compile(r"autogen|semantic[\W_]?kernel|llama[\W_]?index|(?<![a-z])adk(?![a-z])", re.IGNORECASE)
_HOPELESS = 3
"""The exit status that makes uvicorn and gunicorn give up."""


def connecting(settings: Settings, observer: Observer | None = None) -> Callable[[], SeedreamClient]:
    """What makes a client of the upstream that the settings name."""
    timeouts = Timeouts(
        settings.connect_timeout,
        settings.read_timeout,
        min(settings.read_timeout, 10),
        settings.stream_timeout,
    )
    return lambda: SeedreamClient(
        settings.base_url, timeouts=timeouts, connections=settings.connections, observer=observer
    )


def local_preview(setting: str | None) -> Callable[[ToolContext], bool]:
    """Decides over stdio whether a call's result shows its pictures; without a setting it is on.

    It is off for clients whose name (`clientInfo`) is that of a framework that gives a model pictures as base64 text.
    Of those, google-adk 2.13 alone names itself; the others use the Python SDK's name, `mcp`.
    """

    def preview(call: ToolContext) -> bool:
        client = call.session.client_params
        return setting != "off" and (setting == "on" or not (client and _AS_TEXT.search(client.client_info.name)))

    return preview


def prepare(settings: Settings, *, local: bool = False) -> None:
    """What a process has before it serves anything: its log, and a collector for its spans where there is one.

    Args:
        settings: How it logs, and where spans and figures go.
        local: Over stdio. Spans that can't be sent are only a warning there: the variable is often another program's,
            and clients show no reason for a server that ended.

    Raises:
        ConfigurationError: Spans can't be sent, or there is no folder for figures.
    """
    log_to_stderr(settings.log_level, settings.log_format)
    if not local:
        _place_figures(settings)
    if not settings.otlp_endpoint:
        return
    from mcp_seedream.telemetry.tracing import export_spans  # noqa: PLC0415  (slow to import, and seldom wanted)

    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = settings.otlp_endpoint  # the exporter reads the environment alone
    try:
        export_spans()
    except ConfigurationError as error:
        if not local:
            raise
        logger.warning("No spans are sent: %s", error)


def _place_figures(settings: Settings) -> None:
    """Name the folder for figures of several processes where the library looks for it: in the environment.

    Raises:
        ConfigurationError: Nothing can be written there. Only a server of several processes makes the folder.
    """
    name, folder = name_of("metrics_dir"), settings.metrics_dir
    if folder is None:
        os.environ.pop(name, None)  # an empty one would be the working directory to the library
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
            "Make it, name another, or leave the setting out."
        ) from error


def create_app(
    settings: Settings | None = None, *, table: ModelTable | None = None, remark: str | None = None
) -> Starlette:
    """The hosted server as an ASGI app.

    Args:
        settings: None: those of the environment, and the log is set up by them.
        table: None: the one that the settings name.
        remark: A note to go with every picture, where the upstream ends with this process, and its links with it.
    """
    if settings is None:
        app = _of_the_environment(table, remark)
        tune_garbage_collector()
        return app
    # These are slow to import, and stdio has no use for them.
    from mcp_seedream.core.redis_client import connect as connect_redis  # noqa: PLC0415
    from mcp_seedream.generation.redis_attempts import RedisAttempts  # noqa: PLC0415
    from mcp_seedream.hosting.app import bearer_token, build_app, wants_preview  # noqa: PLC0415
    from mcp_seedream.hosting.key_verifier import KeyVerifier  # noqa: PLC0415
    from mcp_seedream.server.server import build_server  # noqa: PLC0415
    from mcp_seedream.telemetry.metrics import Metrics  # noqa: PLC0415

    table = table or read_table(settings.models_file)
    key_verifier = KeyVerifier(seconds=settings.check_seconds) if settings.check_seconds else None
    metrics = Metrics(
        table.by_id,
        on_key_refused=key_verifier.forget if key_verifier else lambda _: None,
        folder=settings.metrics_dir,
    )
    shutdown = Shutdown(settings.shutdown_seconds, metrics.on_calls_in_progress)
    limits = _limits(settings, metrics)
    connect = connecting(settings, metrics)
    server = build_server(
        table,
        connect,
        token_of=bearer_token,
        defaults=ToolDefaults(
            settings.wait_seconds, wants_preview(settings.preview == "on"), set_images=settings.set_images
        ),
        shutdown=shutdown,
        remark=remark,
        image_hosts=settings.image_hosts,
        limits=limits,
        observer=metrics,
        redis=RedisAttempts(connect_redis(settings.redis_url.get_secret_value())) if settings.redis_url else None,
    )
    upstream = connect()
    sign_in = _sign_in(settings, upstream)
    options: dict[str, Any] = {"key_verifier": key_verifier, "limits": limits, "metrics": metrics, "sign_in": sign_in}
    return build_app(server, settings, shutdown, upstream=upstream, **options)


def _of_the_environment(table: ModelTable | None, remark: str | None) -> Starlette:
    """For a process that an ASGI server starts, and starts again as long as it does not know that there is no use."""
    try:
        found = sources("hosted")
        settings = found.settings()
        _check_sandbox(settings)
        prepare(settings)
        for words in found.warnings():
            logger.warning("%s", words)
        return create_app(settings, table=table, remark=remark)
    except ConfigurationError as error:
        logger.critical("%s", error)
        sys.exit(_HOPELESS)


def _check_sandbox(settings: Settings) -> None:
    """Only the command has one: whoever believes to be in it must not be billed."""
    if settings.sandbox:
        raise ConfigurationError(f"{name_of('sandbox')} is for the command mcp-seedream: serve with that.")


def _limits(settings: Settings, observer: Observer) -> CallerLimits:
    from mcp_seedream.hosting.limits import CallerLimits  # noqa: PLC0415

    return CallerLimits(
        calls=settings.calls_at_once,
        all_calls=settings.all_calls_at_once,
        generations=settings.generations_a_minute,
        observer=observer,
    )


def _sign_in(settings: Settings, upstream: SeedreamClient) -> SignIn | None:
    from mcp_seedream.hosting.key_verifier import uncached_check  # noqa: PLC0415
    from mcp_seedream.hosting.middleware import ENDPOINT  # noqa: PLC0415
    from mcp_seedream.oauth.routes import open_sign_in  # noqa: PLC0415

    if settings.public_url and settings.metrics_dir and not settings.redis_url:
        raise ConfigurationError(
            "Several processes that people sign in at have to share what they know: set SEEDREAM_REDIS_URL."
        )
    return open_sign_in(settings, ENDPOINT, uncached_check(upstream.look_up))


def tune_garbage_collector() -> None:
    """Make full garbage collections rare in a process that only serves the app: one takes 0.3 s with 1,000 calls.

    The app itself runs one once a minute if few calls are in progress.
    """
    gc.collect()
    gc.freeze()  # collections skip all that exists once the app is built
    gc.set_threshold(10_000, 20, 50)


def as_subprocess(switches: list[str]) -> StdioServerParameters:
    """This server as a subprocess of its client. The environment goes on whole: proxies and settings are for it."""
    from mcp import StdioServerParameters  # noqa: PLC0415  (a server has no use for a client)

    arguments = ["-P", "-m", "mcp_seedream", "--log-level", "warning", *switches]
    return StdioServerParameters(command=sys.executable, args=arguments, env=dict(os.environ))
