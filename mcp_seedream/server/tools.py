"""The three tools: arguments → checked request → upstream → task → result.

Each tool is a value: its schema is computed from the capability table, and its function takes the raw
arguments, so that every rule is checked in one place with one kind of error. Errors bubble to `_answered`,
whose `_with_words` is the only formatter.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp_types import CallToolResult, ToolAnnotations

from mcp_seedream.catalog import arguments
from mcp_seedream.catalog.arguments import ImageCall, TaskCall
from mcp_seedream.catalog.schemas import MAX_WAIT_SECONDS, image_schema, task_schema
from mcp_seedream.catalog.table import ModelTable, Operation
from mcp_seedream.core import events
from mcp_seedream.core.credentials import stands_for_one
from mcp_seedream.core.errors import MissingToken, SeedreamError
from mcp_seedream.generation.lookups import get_tasks, newest_tasks
from mcp_seedream.generation.service import make_images
from mcp_seedream.generation.services import Services
from mcp_seedream.media.local_files import LocalFiles, save_target, saved_set
from mcp_seedream.media.outputs import PREVIEW_ROOM, Delivered, DeliveryOptions, deliver, within_budget
from mcp_seedream.server import icons, results
from mcp_seedream.server.gallery import TOOL_META
from mcp_seedream.upstream.poller import Report
from mcp_seedream.upstream.types import Task

logger = logging.getLogger(__name__)

DESCRIPTIONS = {
    "generate_image": (
        "Make a picture from text with Seedream. Leave model and size out unless asked for. Waits and returns links; "
        "if it takes longer, a task id for get_task. Each call is billed."
    ),
    "edit_image": (
        "Change, combine or extend given pictures with Seedream, or split one into layers. "
        "Leave model and size out unless asked for. Waits like generate_image. Each call is billed."
    ),
    "get_task": "Result of an earlier call by its task id, waiting for it if it still runs. Free.",
}
LISTING = " Without an id: the newest tasks."
INTERNAL = (
    "The server failed in a way that nobody foresaw; its log has the details. If something was generated, get_task "
    "finds it by its id, and the same call made again within 10 minutes gets it without paying again."
)
_PAID = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True)
_LOOK = ToolAnnotations(read_only_hint=True, open_world_hint=True)
_TITLES = {"generate_image": "Generate an image", "edit_image": "Edit images", "get_task": "Get a task's result"}


ToolContext = Context[Services, Any]
TokenOf = Callable[[ToolContext], str | None]
"""Finds the API token of whoever makes a call."""


@dataclass(frozen=True, slots=True)
class ToolDefaults:
    """How a server's tools behave where a call says nothing.

    `wait_seconds` is how long they wait; `preview` decides whether a call's result shows its pictures; `local` is what
    they may do with this machine's disk, None where it is not the caller's; `set_images` is the size of a set.
    """

    wait_seconds: float = 45
    preview: Callable[[ToolContext], bool] = lambda _: False
    local: LocalFiles | None = None
    set_images: int = 4


def make_tools(table: ModelTable, token_of: TokenOf, defaults: ToolDefaults, *, listing: bool = False) -> list[Tool]:
    """The three tools.

    Args:
        table: The capability table their schemas and checks come from.
        token_of: Finds the caller's token.
        defaults: See `ToolDefaults`.
        listing: There is a journal to list tasks from.
    """
    seconds, local = defaults.wait_seconds, defaults.local is not None
    origin: arguments.CallOrigin = "local" if local else "hosted"

    async def images(operation: Operation, raw: dict[str, Any], ctx: ToolContext) -> CallToolResult:
        # In a thread: megabytes of base64 are decoded, while other callers wait for their answers.
        check = partial(arguments.image_call, table, operation, raw, wait_seconds=seconds, origin=origin)
        call = await anyio.to_thread.run_sync(check) if operation == "edit" else check()
        _check_save_to(defaults, call.save_to)  # before anything is paid
        done = await _made(defaults, call, _token(token_of, ctx), ctx)
        return results.one(done.task, done.shown, done.caption)

    async def generate_image(arguments: dict[str, Any], ctx: ToolContext) -> CallToolResult:
        return await _answered("generate_image", ctx, images("generate", arguments, ctx))

    async def edit_image(arguments: dict[str, Any], ctx: ToolContext) -> CallToolResult:
        return await _answered("edit_image", ctx, images("edit", arguments, ctx))

    async def tasks(raw: dict[str, Any], ctx: ToolContext) -> CallToolResult:
        services = ctx.request_context.lifespan_context
        call = arguments.task_call(raw, wait_seconds=seconds, origin=origin, listing=services.journal is not None)
        _check_save_to(defaults, call.save_to)
        if not call.task_ids:
            token = token_of(ctx)
            known = None if token and stands_for_one(token) else token
            return results.listing(await newest_tasks(services, known))
        found = await get_tasks(services, call, _token(token_of, ctx), _report(ctx))
        if len(call.task_ids) == 1:
            done = await _delivered(defaults, found[call.task_ids[0]], call.save_to, ctx)
            return results.one(done.task, done.shown, done.caption, known=_known(services.table))
        return await _several(defaults, call, found, ctx)

    async def get_task(arguments: dict[str, Any], ctx: ToolContext) -> CallToolResult:
        return await _answered("get_task", ctx, tasks(arguments, ctx))

    return [
        _tool(generate_image, image_schema(table, "generate", seconds, local=local), results.IMAGE_RESULT, _PAID),
        _tool(edit_image, image_schema(table, "edit", seconds, local=local), results.IMAGE_RESULT, _PAID),
        _tool(get_task, task_schema(seconds, local=local), results.TASK_RESULT, _LOOK, LISTING if listing else ""),
    ]


async def _made(defaults: ToolDefaults, call: ImageCall, token: str, ctx: ToolContext) -> Delivered:
    services = ctx.request_context.lifespan_context
    asked = (token, ctx.request_context.request_id)
    async with services.orphans.watching(asked, fetched_later=services.job is not None) as watch:
        if services.job:
            services.job.watch = watch
            call = replace(call, wait_seconds=MAX_WAIT_SECONDS)  # nobody's time is up meanwhile
        task = await make_images(services, call, token, _report(ctx), watch)
        return await _delivered(defaults, replace(task, prompt=call.spec.prompt or task.prompt), call.save_to, ctx)


def _known(table: ModelTable) -> tuple[str, ...]:
    """The arguments of a call that can be made again."""
    return ("prompt", "image", "model", "size", *table.parameters)


class _RawArguments(FuncMetadata):
    """Hands a tool its arguments as they came: the table checks them, not a signature."""

    def validate_arguments(self, arguments_to_validate: dict[str, Any]) -> dict[str, Any]:
        return {"arguments": arguments_to_validate}


def _tool(
    function: Callable[..., Awaitable[CallToolResult]],
    schema: dict[str, Any],
    output: dict[str, Any],
    annotations: ToolAnnotations,
    more: str = "",
) -> Tool:
    name = function.__name__
    return Tool(
        fn=function,
        name=name,
        title=_TITLES[name],
        description=DESCRIPTIONS[name] + more,
        parameters=schema,
        fn_metadata=_RawArguments(arg_model=ArgModelBase, output_schema=output),
        is_async=True,
        context_kwarg="ctx",
        annotations=annotations,
        icons=[icons.TOOLS[name]],
        meta=TOOL_META,
    )


async def _answered(tool: str, ctx: ToolContext, work: Awaitable[CallToolResult]) -> CallToolResult:
    """The result of a call, and word of how it ended for the operator."""
    began = time.monotonic()
    found: dict[str, Any] = {"status": "left"}  # by its caller
    try:
        result = await _with_words(tool, work)
        found = result.structured_content or found
        return result
    finally:
        ctx.request_context.lifespan_context.observer.call(_observed(tool, ctx, found, time.monotonic() - began))


async def _with_words(tool: str, work: Awaitable[CallToolResult]) -> CallToolResult:
    """The one place where an error becomes a result."""
    try:
        return await work
    except SeedreamError as error:
        trace = getattr(error, "trace_id", None)
        logger.info("%s failed: %s, trace_id %s", tool, error.code, trace)
        return results.failure(error)
    except Exception:  # the top of a call: the SDK would answer with nothing that an agent can work with
        logger.exception("%s failed", tool)
        return results.failure(SeedreamError(INTERNAL, code="internal_error"))


def _observed(tool: str, ctx: ToolContext, found: dict[str, Any], seconds: float) -> events.ToolCall:
    """A call as the operator sees it: no prompt, no link."""
    state = getattr(ctx.request_context.request, "state", None)
    error = found.get("error") or {}
    generating = found.get("elapsed_seconds") if tool != "get_task" and found["status"] == "succeeded" else None
    return events.ToolCall(
        tool,
        error.get("code", found["status"]),
        seconds,
        model=found.get("model", ""),
        task_id=found.get("task_id", ""),
        generating=generating,
        caller=getattr(state, "caller_id", ""),
        request_id=getattr(state, "request_id", ""),
    )


async def _several(defaults: ToolDefaults, call: TaskCall, found: dict[str, Task], ctx: ToolContext) -> CallToolResult:
    there = await _all_delivered(defaults, [found[id_] for id_ in call.task_ids if id_ in found], call.save_to, ctx)
    missing = [id_ for id_ in call.task_ids if id_ not in found]
    shown = within_budget(data for each in there for data in each.shown)
    return results.several(_told(there, len(shown)), missing, shown)


async def _all_delivered(
    defaults: ToolDefaults, tasks: list[Task], save_to: str | None, ctx: ToolContext
) -> list[Delivered]:
    """Several tasks at once, without previews: they would not fit into one result."""
    done: dict[int, Delivered] = {}
    unseen = replace(defaults, preview=lambda _: False)

    async def deliver_one(index: int, task: Task) -> None:
        done[index] = await _delivered(unseen, task, save_to, ctx, share=len(tasks))

    async with anyio.create_task_group() as group:
        for index, task in enumerate(tasks):
            group.start_soon(deliver_one, index, task)
    return [done[index] for index in range(len(tasks))]


def _told(done: list[Delivered], shown: int) -> list[Task]:
    """The tasks; one whose pictures are not all among the first `shown` of them says so."""
    note = "There is no room to show its picture here: ask for this task alone."
    tasks = []
    for each in done:
        shown -= len(each.shown)
        tasks.append(replace(each.task, notes=(*each.task.notes, note)) if each.shown and shown < 0 else each.task)
    return tasks


async def _delivered(
    defaults: ToolDefaults, task: Task, save_to: str | None, ctx: ToolContext, *, share: int = 1
) -> Delivered:
    local = defaults.local
    folder = (save_target(save_to, local) if save_to else local.output) if local else None
    if save_to and task.state == "pending":
        return Delivered(
            replace(task, notes=(*task.notes, f'Give get_task save_to "{save_to}" too: nothing is saved yet.'))
        )
    services = ctx.request_context.lifespan_context
    name = f"{(task.prompt or 'seedream')[:40]} {task.id[:8]}"
    files = await services.journal.files(task.id) if services.journal and local else ()
    kept = await anyio.to_thread.run_sync(saved_set, files, len(task.images), folder if save_to else None)
    options = DeliveryOptions(folder, name, defaults.preview(ctx), PREVIEW_ROOM // share, kept)
    done = await deliver(task, options, services.downloads, local, services.decoding)
    if services.journal:
        await services.journal.ended(done.task)
    return done


def _report(ctx: ToolContext) -> Report:
    """To whoever waits for this call, or asks for it now and then."""
    job = ctx.request_context.lifespan_context.job
    return job.report if job else ctx.report_progress


def _check_save_to(defaults: ToolDefaults, save_to: str | None) -> None:
    if save_to and defaults.local:
        save_target(save_to, defaults.local)


def _token(token_of: TokenOf, ctx: ToolContext) -> str:
    token = token_of(ctx)
    why = stands_for_one(token) if token else None
    if not token or why:
        raise MissingToken(why or "")
    return token
