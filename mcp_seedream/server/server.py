"""Builds the MCP server: tools, resources, prompts, completions, and extensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS
from pydantic_core import from_json

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.concurrency import OnDemand
from mcp_seedream.core.events import Observer
from mcp_seedream.core.shutdown import Shutdown
from mcp_seedream.generation.journal import Journal
from mcp_seedream.server.descriptions import server_description
from mcp_seedream.server.gallery import gallery
from mcp_seedream.server.prompts import Prompts
from mcp_seedream.server.resources import add_resources
from mcp_seedream.server.sdk import PromptServer
from mcp_seedream.server.tasks_extension import CallLimits, Tasks
from mcp_seedream.server.tools import ImageTools, TokenOf, ToolDefaults

if TYPE_CHECKING:
    from mcp_seedream.generation.background import Keeping
    from mcp_seedream.generation.claims import Timing
    from mcp_seedream.generation.redis_attempts import RedisAttempts
    from mcp_seedream.server.runtime import Runtime
    from mcp_seedream.upstream.client import SeedreamClient

_NOT_AN_OBJECT = (
    '`arguments` must be a JSON object with the tool\'s arguments by their names, such as {"prompt": "a fox"}. '
    "Nothing was sent."
)


def build_server(
    table: ModelTable,
    connect: Callable[[], SeedreamClient],
    *,
    token_of: TokenOf,
    defaults: ToolDefaults | None = None,
    journal: Journal | None = None,
    shutdown: Shutdown | None = None,
    look_interval: float = 2,
    sandbox_note: str | None = None,
    image_hosts: Sequence[str] = (),
    limits: CallLimits | None = None,
    observer: Observer | None = None,
    redis: RedisAttempts | None = None,
    timing: Timing | None = None,
    keeping: Keeping | None = None,
    open_after: float = 0,
) -> MCPServer[OnDemand[Runtime]]:
    """Build the server for any transport.

    Args:
        table: The capability table.
        connect: Makes the upstream's client when the server starts; the server closes it.
        token_of: Returns the API token of a call's caller.
        defaults: How the tools behave unless a call says otherwise.
        journal: Records tasks on the caller's own machine.
        shutdown: Ends all waits once it is requested.
        look_interval: Seconds between two rounds of look-ups for one caller.
        sandbox_note: A note for pictures, if the upstream is a sandbox that ends with this process.
        image_hosts: Origins from which the gallery may load pictures.
        limits: The limits of callers, for a hosted server.
        observer: Receives an event for each call.
        redis: The attempts and refusals that replicas share; the server closes it.
        timing: The time limits for identical calls.
        keeping: The limits for results of background calls.
        open_after: Seconds after the start at which the runtime is opened, unless a call comes earlier.
    """
    defaults, shutdown, observer = defaults or ToolDefaults(), shutdown or Shutdown(), observer or Observer()
    tools = ImageTools(table, token_of, defaults, journal=journal, observer=observer)
    runtime = partial(
        _open_runtime, table, connect, shutdown=shutdown, set_images=defaults.set_images, local=defaults.local,
        journal=journal, redis=redis, limits=limits, observer=observer, sandbox_note=sandbox_note,
        look_interval=look_interval, timing=timing, keeping=keeping, picture_times=defaults.picture_times,
    )  # fmt: skip
    server = PromptServer(
        Prompts(table, local=defaults.local is not None),
        **server_description(with_journal=journal is not None),
        tools=tools.definitions(),
        lifespan=lambda _: OnDemand(runtime).available(open_after),
        extensions=[gallery(table, image_hosts), Tasks(tools, limits)],
        subscriptions=False,  # the lists never change, and an open subscription would delay the shutdown
        middleware=[_parse_arguments],
    )
    add_resources(server, table, journal)
    return server


def _open_runtime(*args: Any, **options: Any) -> AbstractAsyncContextManager[Runtime]:
    """As `runtime.open_runtime`, imported when it is called: the import is slow, and the lists do not need it."""
    from mcp_seedream.server.runtime import open_runtime  # noqa: PLC0415

    return open_runtime(*args, **options)


async def _parse_arguments(ctx: ServerRequestContext[OnDemand[Runtime], Any], call_next: CallNext) -> HandlerResult:
    """Parse arguments of a tool call that are JSON in a string, or empty, as some models send them."""
    arguments = (ctx.params or {}).get("arguments")
    is_call = ctx.method == "tools/call" and ctx.request_id is not None  # not a notification, which gets no response
    if is_call and arguments is not None and not isinstance(arguments, dict):
        ctx = replace(ctx, params={**(ctx.params or {}), "arguments": _as_object(arguments)})
    return await call_next(ctx)


def _as_object(arguments: Any) -> dict[str, Any]:
    try:
        value = from_json(arguments.strip() or "{}") if isinstance(arguments, str) else arguments
    except ValueError:
        value = arguments
    if value is not None and not isinstance(value, dict):
        raise MCPError(INVALID_PARAMS, _NOT_AN_OBJECT)
    return value or {}
