"""The MCP server: tools, resources, prompts and what lives as long as the process, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, nullcontext
from dataclasses import replace
from functools import partial
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
from mcp_seedream.generation.background import open_jobs
from mcp_seedream.generation.journal import Journal
from mcp_seedream.generation.orphans import Orphans
from mcp_seedream.generation.peers import Peers
from mcp_seedream.generation.refusal_memory import RefusalMemory
from mcp_seedream.generation.services import GenerationLimits, Services
from mcp_seedream.media.downloads import Downloads
from mcp_seedream.server import icons
from mcp_seedream.server.gallery import gallery
from mcp_seedream.server.prompts import Prompts, add_completions
from mcp_seedream.server.resources import add_guide, add_journal
from mcp_seedream.server.tasks_extension import Tasks
from mcp_seedream.server.tools import TokenOf, ToolDefaults, make_tools
from mcp_seedream.upstream.client import SeedreamClient
from mcp_seedream.upstream.poller import TaskWaiter, open_waiter

_NO_OBJECT = (
    '`arguments` must be a JSON object with the tool\'s arguments by their names, such as {"prompt": "a fox"}. '
    "Nothing was sent."
)
_HANGING = 0.75  # of the grace, after which nobody hopes for an answer any more
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


class _Server(MCPServer[Services]):
    """With prompts of our own: the SDK's have no titles for arguments, and answer what is wrong with code 0."""

    prompts: Prompts

    async def list_prompts(self) -> list[Prompt]:
        return self.prompts.listed()

    async def get_prompt(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        context: Context[Services, Any] | None = None,  # noqa: ARG002  (the SDK gives it)
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
    limits: GenerationLimits | None = None,
    observer: Observer | None = None,
    peers: Peers | None = None,
) -> MCPServer[Services]:
    """The server, ready for any transport.

    Args:
        table: What the models can do.
        connect: Makes the upstream's client: once for the server's life, which also closes it.
        token_of: Finds the API token of whoever makes a call.
        defaults: How the tools behave where a call says nothing.
        journal: Where tasks are written down, on the caller's own machine.
        shutdown: Ends all waits once it has begun.
        look_interval: Seconds between two rounds of look-ups for one caller.
        remark: A note to go with every picture, where the upstream ends with this process, and its links with it.
        image_hosts: Origins that pictures come from: the gallery may load them from there.
        limits: For each caller and for all, where there are many.
        observer: Told of every call.
        peers: Other processes of the same server; closed with it.
    """
    defaults = defaults or ToolDefaults()
    shutdown = shutdown or Shutdown()
    observer = observer or Observer()
    kept: dict[str, Any] = {
        "table": table,
        "journal": journal,
        "remark": remark,
        "limits": limits,
        "observer": observer,
    }
    memory = RefusalMemory(peers or journal, observer)
    services = partial(Services, **kept, local=defaults.local, set_images=defaults.set_images, refusals=memory)
    tools = {tool.name: tool for tool in make_tools(table, token_of, defaults, listing=journal is not None)}
    tasks = Tasks(tools.keys() - {"get_task"}, tools["get_task"], token_of, table.upstream_limits.link_hours)
    orphans = Orphans(journal, peers, shutdown=shutdown)
    server = _Server(
        NAME,
        title="Seedream",
        instructions=INSTRUCTIONS + (LISTING if journal else ""),
        icons=[icons.SERVER],
        version=__version__,
        tools=list(tools.values()),
        lifespan=lambda _: _living(connect, services, look_interval, shutdown, orphans=orphans, peers=peers),
        extensions=[gallery(table, image_hosts), tasks],
        subscriptions=False,  # no list ever changes: who listened would wait in vain, and hold up the server's end
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


async def _arguments_by_name(ctx: ServerRequestContext[Services, Any], call_next: CallNext) -> HandlerResult:
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


@asynccontextmanager
async def _living(
    connect: Callable[[], SeedreamClient],
    services: Callable[..., Services],
    look_interval: float,
    shutdown: Shutdown,
    *,
    orphans: Orphans,
    peers: Peers | None,
) -> AsyncIterator[Services]:
    """What lives as long as the server: connections, the waiter, what callers left and what they will ask for."""
    async with (
        aclosing(peers) if peers else nullcontext(),
        connect() as client,
        open_waiter(client, interval=look_interval, shutdown=shutdown) as waiter,
        Downloads(sandbox=client.base_url if client.is_local else None) as downloads,
        anyio.create_task_group() as group,
        open_jobs(orphans) as jobs,
    ):
        if peers:
            group.start_soon(peers.greet)
        group.start_soon(_end_in_order, shutdown, waiter, client)
        yield services(client=client, waiter=waiter, downloads=downloads, shutdown=shutdown, orphans=orphans, jobs=jobs)
        group.cancel_scope.cancel()


async def _end_in_order(shutdown: Shutdown, waiter: TaskWaiter, client: SeedreamClient) -> None:
    """Once the process is about to end: nothing new, no waits, and in the end no hopes."""
    await shutdown.requested.wait()
    client.end()
    waiter.end()
    await anyio.sleep(shutdown.grace * _HANGING)
    client.give_up()
