"""The three tools: arguments → checked request → upstream → task → result.

The schemas are computed from the capability table. The methods take the raw arguments, so that every rule is checked in
one place with one kind of error. `_errors_as_results` turns all errors into results.
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

from mcp_seedream.catalog.arguments import CallOrigin, image_call, task_call
from mcp_seedream.catalog.schemas import MAX_WAIT_SECONDS, image_schema, task_schema
from mcp_seedream.catalog.table import ModelTable, Operation
from mcp_seedream.core import events
from mcp_seedream.core.credentials import placeholder_reason
from mcp_seedream.core.errors import MissingToken, SeedreamError
from mcp_seedream.core.events import Observer
from mcp_seedream.generation.background import BackgroundCall
from mcp_seedream.generation.journal import IN_MEMORY, Journal
from mcp_seedream.generation.service import CallContext
from mcp_seedream.media.local_files import LocalFiles, save_target, saved_set
from mcp_seedream.media.outputs import PREVIEW_ROOM, Delivered, DeliveryOptions, deliver, within_budget
from mcp_seedream.server import icons, results
from mcp_seedream.server.gallery import TOOL_META
from mcp_seedream.server.runtime import Runtime
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


ToolContext = Context[Runtime, Any]
TokenOf = Callable[[ToolContext], str | None]
"""Finds the API token of whoever makes a call."""


@dataclass(frozen=True, slots=True)
class ToolDefaults:
    """How a server's tools behave where a call does not say.

    Attributes:
        wait_seconds: How long they wait for a result.
        preview: Decides whether the result of a call shows its pictures.
        local: The disk of this machine, if it is the caller's own.
        set_images: The number of pictures in a set.
    """

    wait_seconds: float = 45
    preview: Callable[[ToolContext], bool] = lambda _: False
    local: LocalFiles | None = None
    set_images: int = 4


class ImageTools:
    """The three tools.

    Args:
        table: The capability table, from which schemas and checks are computed.
        token_of: Finds the caller's API token.
        defaults: See `ToolDefaults`.
        journal: The history of tasks, if there is one.
        observer: Told of every call.
    """

    def __init__(
        self,
        table: ModelTable,
        token_of: TokenOf,
        defaults: ToolDefaults,
        *,
        journal: Journal | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.table = table
        self.token_of = token_of
        self._defaults = defaults
        self._journal = journal
        self._observer = observer or Observer()
        self._origin: CallOrigin = "local" if defaults.local else "hosted"

    def listed(self) -> list[Tool]:
        """The tools as the SDK takes them."""
        table, seconds, local = self.table, self._defaults.wait_seconds, self._defaults.local is not None
        newest = LISTING if self._journal else ""
        return [
            _tool(
                self.generate_image, image_schema(table, "generate", seconds, local=local), results.IMAGE_RESULT, _PAID
            ),
            _tool(self.edit_image, image_schema(table, "edit", seconds, local=local), results.IMAGE_RESULT, _PAID),
            _tool(self.get_task, task_schema(seconds, local=local), results.TASK_RESULT, _LOOK, newest),
        ]

    async def generate_image(
        self, arguments: dict[str, Any], ctx: ToolContext, background: BackgroundCall | None = None
    ) -> CallToolResult:
        """Make a picture from text."""
        return await self._answer("generate_image", ctx, self._make("generate", arguments, ctx, background))

    async def edit_image(
        self, arguments: dict[str, Any], ctx: ToolContext, background: BackgroundCall | None = None
    ) -> CallToolResult:
        """Make a picture from pictures."""
        return await self._answer("edit_image", ctx, self._make("edit", arguments, ctx, background))

    async def get_task(
        self, arguments: dict[str, Any], ctx: ToolContext, background: BackgroundCall | None = None
    ) -> CallToolResult:
        """Look up tasks, and wait for those that still run."""
        return await self._answer("get_task", ctx, self._look_up(arguments, ctx, background))

    async def _make(
        self, operation: Operation, arguments: dict[str, Any], ctx: ToolContext, background: BackgroundCall | None
    ) -> CallToolResult:
        seconds = self._defaults.wait_seconds
        check = partial(image_call, self.table, operation, arguments, wait_seconds=seconds, origin=self._origin)
        # In a thread: decoding megabytes of base64 would hold up other callers.
        call = await anyio.to_thread.run_sync(check) if operation == "edit" else check()
        if background:
            call = replace(call, wait_seconds=MAX_WAIT_SECONDS)  # its client does not wait
        self._check_save_to(call.save_to)  # before anything is paid
        token = self._token(ctx)
        runtime, request_id = ctx.request_context.lifespan_context, ctx.request_context.request_id
        async with runtime.attempts.attempt(token, request_id, deliver_later=background is not None) as attempt:
            if background:
                background.attempt = attempt
            report = background.report if background else ctx.report_progress
            task = await runtime.images.make(call, CallContext(token, attempt, report, background))
            task = replace(task, prompt=call.spec.prompt or task.prompt)
            done = await self._deliver(task, call.save_to, ctx)
        return results.one(done.task, done.shown, done.caption)

    async def _look_up(
        self, arguments: dict[str, Any], ctx: ToolContext, background: BackgroundCall | None
    ) -> CallToolResult:
        runtime, seconds = ctx.request_context.lifespan_context, self._defaults.wait_seconds
        call = task_call(arguments, wait_seconds=seconds, origin=self._origin, listing=self._journal is not None)
        self._check_save_to(call.save_to)
        if not call.task_ids:
            token = self.token_of(ctx)
            return results.listing(await runtime.lookups.newest(None if token and placeholder_reason(token) else token))
        report = background.report if background else ctx.report_progress
        found = await runtime.lookups.get(call, self._token(ctx), report, background)
        if len(call.task_ids) == 1:
            done = await self._deliver(found[call.task_ids[0]], call.save_to, ctx)
            return results.one(done.task, done.shown, done.caption, known=_repeatable_arguments(self.table))
        tasks = [found[id_] for id_ in call.task_ids if id_ in found]
        there = await self._deliver_all(tasks, call.save_to, ctx)
        missing = [id_ for id_ in call.task_ids if id_ not in found]
        shown = within_budget(data for each in there for data in each.shown)
        return results.several(_with_missing_previews(there, len(shown)), missing, shown)

    async def _deliver_all(self, tasks: list[Task], save_to: str | None, ctx: ToolContext) -> list[Delivered]:
        """Deliver several tasks at once, without previews: they would not fit into one result."""
        done: dict[int, Delivered] = {}

        async def deliver_one(index: int, task: Task) -> None:
            done[index] = await self._deliver(task, save_to, ctx, preview=False, share=len(tasks))

        async with anyio.create_task_group() as group:
            for index, task in enumerate(tasks):
                group.start_soon(deliver_one, index, task)
        return [done[index] for index in range(len(tasks))]

    async def _deliver(
        self, task: Task, save_to: str | None, ctx: ToolContext, *, preview: bool = True, share: int = 1
    ) -> Delivered:
        """Save and preview the pictures of a task, as far as the call and the server want that."""
        local, journal, runtime = self._defaults.local, self._journal, ctx.request_context.lifespan_context
        folder = (save_target(save_to, local) if save_to else local.output) if local else None
        if save_to and task.state == "pending":
            note = f'Give get_task save_to "{save_to}" too: nothing is saved yet.'
            return Delivered(replace(task, notes=(*task.notes, note)))
        name = f"{(task.prompt or 'seedream')[:40]} {task.id[:8]}"
        files = await journal.files(task.id) if journal and local else ()
        kept = await anyio.to_thread.run_sync(saved_set, files, len(task.images), folder if save_to else None)
        options = DeliveryOptions(folder, name, preview and self._defaults.preview(ctx), PREVIEW_ROOM // share, kept)
        done = await deliver(task, options, runtime.downloads, local, runtime.decoding)
        if journal:
            await journal.ended(done.task)
        return done

    async def _answer(self, tool: str, ctx: ToolContext, work: Awaitable[CallToolResult]) -> CallToolResult:
        """The result of a call; the observer is told how it ended."""
        began = time.monotonic()
        content: dict[str, Any] = {"status": "left"}  # by its caller
        try:
            result = await _errors_as_results(tool, work)
            content = result.structured_content or content
            return result
        finally:
            self._observer.on_tool_call(_event(tool, ctx, content, time.monotonic() - began))

    def _check_save_to(self, save_to: str | None) -> None:
        if save_to and self._defaults.local:
            save_target(save_to, self._defaults.local)

    def _token(self, ctx: ToolContext) -> str:
        token = self.token_of(ctx)
        placeholder = placeholder_reason(token) if token else None
        if not token or placeholder:
            raise MissingToken(placeholder or "")
        return token


def make_tools(table: ModelTable, defaults: ToolDefaults, *, listing: bool = False) -> list[Tool]:
    """The three tools as clients see them, with or without a journal (`listing`), for documents and checks."""
    journal = Journal(IN_MEMORY) if listing else None
    return ImageTools(table, lambda _: None, defaults, journal=journal).listed()


class _RawArguments(FuncMetadata):
    """Passes a tool its arguments unchecked: the capability table checks them, not a signature."""

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


async def _errors_as_results(tool: str, work: Awaitable[CallToolResult]) -> CallToolResult:
    """Turn errors into results. This is the only place that does."""
    try:
        return await work
    except SeedreamError as error:
        trace = getattr(error, "trace_id", None)
        logger.info("%s failed: %s, trace_id %s", tool, error.code, trace)
        return results.failure(error)
    except Exception:  # the top of a call: the SDK would answer with nothing that an agent can work with
        logger.exception("%s failed", tool)
        return results.failure(SeedreamError(INTERNAL, code="internal_error"))


def _event(tool: str, ctx: ToolContext, content: dict[str, Any], seconds: float) -> events.ToolCall:
    """The event of a call for the operator, without the prompt and links."""
    state = getattr(ctx.request_context.request, "state", None)
    error = content.get("error") or {}
    generating = content.get("elapsed_seconds") if tool != "get_task" and content["status"] == "succeeded" else None
    return events.ToolCall(
        tool,
        error.get("code", content["status"]),
        seconds,
        model=content.get("model", ""),
        task_id=content.get("task_id", ""),
        generating=generating,
        caller=getattr(state, "caller_id", ""),
        request_id=getattr(state, "request_id", ""),
    )


def _with_missing_previews(done: list[Delivered], shown: int) -> list[Task]:
    """The tasks, with a note on each whose pictures are not all among the first `shown` previews."""
    note = "There is no room to show its picture here: ask for this task alone."
    tasks = []
    for each in done:
        shown -= len(each.shown)
        tasks.append(replace(each.task, notes=(*each.task.notes, note)) if each.shown and shown < 0 else each.task)
    return tasks


def _repeatable_arguments(table: ModelTable) -> tuple[str, ...]:
    """The arguments of a task with which its call can be made again."""
    return ("prompt", "image", "model", "size", *table.parameters)
