"""The MCP server: its tools, resources, prompts and extensions, put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import anyio
import anyio.to_thread
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, GetPromptResult, Prompt
from pydantic_core import from_json

from mcp_seedream import __version__
from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.errors import InvalidArguments
from mcp_seedream.core.events import Observer
from mcp_seedream.core.shutdown import Shutdown
from mcp_seedream.generation.attempts import Attempts
from mcp_seedream.generation.background import Keeping
from mcp_seedream.generation.claims import Timing
from mcp_seedream.generation.journal import Journal
from mcp_seedream.generation.redis_attempts import RedisAttempts
from mcp_seedream.generation.refusal_memory import RefusalMemory
from mcp_seedream.generation.sqlite_attempts import SQLiteAttempts
from mcp_seedream.server import icons
from mcp_seedream.server.gallery import gallery
from mcp_seedream.server.prompts import Prompts, add_completions
from mcp_seedream.server.resources import add_guide, add_journal
from mcp_seedream.server.runtime import Runtime, RuntimeOptions, open_runtime
from mcp_seedream.server.tasks_extension import CallLimits, Tasks
from mcp_seedream.server.tools import ImageTools, TokenOf, ToolDefaults
from mcp_seedream.upstream.client import SeedreamClient

_NO_OBJECT = (
    '`arguments` must be a JSON object with the tool\'s arguments by their names, such as {"prompt": "a fox"}. '
    "Nothing was sent."
)
INSTRUCTIONS = """\
Seedream makes pictures; each generation is billed.
- generate_image: a picture, or a set, from words alone. edit_image: as soon as there is a picture to start from; \
task:ID in `image` is one made here.
- Leave `model` and `size` out unless somebody asked for certain ones: the first model that can do it is taken.
- A result whose status is pending has not failed: get_task with its task_id waits for it, at no cost. Making the \
picture again would be billed again.
- Resources: seedream://guide on wording prompts, seedream://models on models, sizes and parameters."""
NAME = "seedream"
"""What it calls itself to clients."""
LISTING = "\n- get_task without an id lists the newest tasks made on this machine: what was lost is found there."


class _Server(MCPServer[Runtime]):
    """With prompts of our own: the SDK's have no titles for arguments, and answer what is wrong with code 0."""

    prompts: Prompts

    async def list_prompts(self) -> list[Prompt]:
        return self.prompts.listed()

    async def get_prompt(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        context: Context[Runtime, Any] | None = None,  # noqa: ARG002  (the SDK gives it)
    ) -> GetPromptResult:
        try:
            # In a thread: a picture can be given as megabytes of base64.
            return await anyio.to_thread.run_sync(self.prompts.rendered, name, arguments or {})
        except InvalidArguments as error:
            raise MCPError(INVALID_PARAMS, error.message) from error


def build_server(
    table: ModelTable,
    connect: Callable[[], SeedreamClient],
    *,
    token_of: TokenOf,
    defaults: ToolDefaults | None = None,
    journal: Journal | None = None,
    shutdown: Shutdown | None = None,
    look_interval: float = 2,
    remark: str | None = None,
    image_hosts: Sequence[str] = (),
    limits: CallLimits | None = None,
    observer: Observer | None = None,
    redis: RedisAttempts | None = None,
    timing: Timing | None = None,
    keeping: Keeping | None = None,
) -> MCPServer[Runtime]:
    """The server, ready for any transport.

    Args:
        table: The capability table.
        connect: Makes the upstream's client, once for the server's life; the server closes it.
        token_of: Finds the API token of a caller.
        defaults: How the tools behave where a call does not say.
        journal: Records tasks on the caller's own machine.
        shutdown: Ends all waits once it is requested.
        look_interval: Seconds between two rounds of look-ups for one caller.
        remark: A note for every picture, if its upstream ends with this process.
        image_hosts: Origins from which the gallery may load pictures.
        limits: The limits of callers, if there are many.
        observer: Told of every call.
        redis: What replicas share; the server closes it.
        timing: When identical calls are one.
        keeping: How long results of background calls are kept.
    """
    defaults, shutdown, observer = defaults or ToolDefaults(), shutdown or Shutdown(), observer or Observer()
    store = redis or (SQLiteAttempts(journal, timing) if journal else None)
    options = RuntimeOptions(
        table,
        connect,
        attempts=Attempts(store, shutdown=shutdown, timing=timing),
        refusals=RefusalMemory(redis or journal, observer),
        shutdown=shutdown,
        set_images=defaults.set_images,
        local=defaults.local,
        journal=journal,
        redis=redis,
        limits=limits,
        remark=remark,
        look_interval=look_interval,
        keeping=keeping or Keeping(),
    )
    tools = ImageTools(table, token_of, defaults, journal=journal, observer=observer)
    server = _Server(
        NAME,
        title="Seedream",
        instructions=INSTRUCTIONS + (LISTING if journal else ""),
        icons=[icons.SERVER],
        version=__version__,
        tools=tools.listed(),
        lifespan=lambda _: open_runtime(options),
        extensions=[gallery(table, image_hosts), Tasks(tools, limits)],
        subscriptions=False,  # no list ever changes, and an open subscription would delay the shutdown
    )
    server.middleware.append(_arguments_by_name)
    server.prompts = Prompts(table, local=defaults.local is not None)
    _add_reading(server, table, journal)
    return server


def _add_reading(server: _Server, table: ModelTable, journal: Journal | None) -> None:
    """Register what a client reads and completes: resources, and the values of prompts' arguments."""
    add_completions(server, table, server.prompts)
    add_guide(server, table)
    if journal:
        add_journal(server, journal)


async def _arguments_by_name(ctx: ServerRequestContext[Runtime, Any], call_next: CallNext) -> HandlerResult:
    """Some models give a tool's arguments as JSON in text, or as no text at all, which the SDK refuses unread."""
    given = (ctx.params or {}).get("arguments")
    if ctx.method == "tools/call" and given is not None and not isinstance(given, dict):
        ctx = replace(ctx, params={**(ctx.params or {}), "arguments": _as_object(given)})
    return await call_next(ctx)


def _as_object(given: Any) -> dict[str, Any]:
    try:
        found = from_json(given.strip() or "{}") if isinstance(given, str) else given
    except ValueError:
        found = given
    if found is not None and not isinstance(found, dict):
        raise MCPError(INVALID_PARAMS, _NO_OBJECT)
    return found or {}
