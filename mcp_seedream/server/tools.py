"""The three tools: raw arguments → checked call → task → result.

Schemas and checks are computed from the capability table. The tools receive their arguments unchecked, so that
`catalog.arguments` checks all rules and all errors look alike. `_errors_as_results` turns errors into results.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult

from mcp_seedream.catalog.arguments import CallOrigin, ImageCall, image_call, task_call
from mcp_seedream.catalog.held_pictures import HeldArguments, Pictures, Report, releasing
from mcp_seedream.catalog.schemas import MAX_WAIT_SECONDS, image_schema, task_schema
from mcp_seedream.catalog.table import ModelTable, Operation
from mcp_seedream.core import events
from mcp_seedream.core.concurrency import OnDemand, run_in_thread
from mcp_seedream.core.credentials import placeholder_reason
from mcp_seedream.core.errors import MissingToken, SeedreamError
from mcp_seedream.core.events import Observer
from mcp_seedream.generation.journal import IN_MEMORY, Journal
from mcp_seedream.media.local_files import LocalFiles
from mcp_seedream.media.outputs import (
    PREVIEW_ROOM,
    Delivered,
    DeliveryOptions,
    PictureTimes,
    within_budget,
)
from mcp_seedream.media.saved_files import check_target, save_target, saved_set
from mcp_seedream.server import results
from mcp_seedream.server.descriptions import LISTING, TOOLS
from mcp_seedream.server.gallery import TOOL_META
from mcp_seedream.server.sdk import unchecked_tool
from mcp_seedream.upstream.types import Task

if TYPE_CHECKING:
    from mcp_seedream.generation.background import BackgroundCall
    from mcp_seedream.server.runtime import Runtime

logger = logging.getLogger(__name__)
_CHECKS_AT_ONCE = 2  # calls with pictures; each may need several copies of them

INTERNAL = (
    "Unexpected error in this server; its log has the details. If a picture was generated, get_task returns it by its "
    "id, and the same call within 10 minutes returns it without another bill."
)
ToolContext: TypeAlias = "Context[OnDemand[Runtime], Any]"
TokenOf = Callable[[ToolContext], str | None]
"""Returns the API token of a call's caller."""


@dataclass(frozen=True, slots=True)
class ToolDefaults:
    """How the tools behave unless a call says otherwise.

    Attributes:
        wait_seconds: How long they wait for a result.
        preview: Decides whether the result of a call shows its pictures.
        local: The disk of this machine, if it is the caller's own.
        set_images: The number of pictures in a set.
        picture_times: The time limits for the pictures of a result.
    """

    wait_seconds: float = 45
    preview: Callable[[ToolContext], bool] = lambda _: False
    local: LocalFiles | None = None
    set_images: int = 4
    picture_times: PictureTimes = field(default_factory=PictureTimes)


class ImageTools:
    """The three tools.

    Args:
        table: The capability table.
        token_of: Returns the API token of a call's caller.
        defaults: See `ToolDefaults`.
        journal: The history of tasks, if there is one.
        observer: Receives an event for each call.
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
        self._checks = anyio.CapacityLimiter(_CHECKS_AT_ONCE)
        self._origin: CallOrigin = "local" if defaults.local else "hosted"

    def definitions(self) -> list[Tool]:
        """The tools in the SDK's form."""
        table, seconds, local = self.table, self._defaults.wait_seconds, self._defaults.local is not None
        generate = image_schema(table, "generate", seconds, local=local)
        edit = image_schema(table, "edit", seconds, local=local)
        look_up = task_schema(seconds, local=local)
        return [
            _tool(self.generate_image, generate, results.IMAGE_RESULT),
            _tool(self.edit_image, edit, results.IMAGE_RESULT),
            _tool(self.get_task, look_up, results.TASK_RESULT, LISTING if self._journal else ""),
        ]

    async def generate_image(
        self, arguments: dict[str, Any], ctx: ToolContext, background: BackgroundCall | None = None
    ) -> CallToolResult:
        """Make a picture from text."""
        return await self._run("generate_image", ctx, self._make("generate", arguments, ctx, background))

    async def edit_image(
        self, arguments: dict[str, Any], ctx: ToolContext, background: BackgroundCall | None = None
    ) -> CallToolResult:
        """Make a picture from pictures."""
        return await self._run("edit_image", ctx, self._make("edit", arguments, ctx, background))

    async def get_task(
        self, arguments: dict[str, Any], ctx: ToolContext, background: BackgroundCall | None = None
    ) -> CallToolResult:
        """Look up tasks, and wait for those that are still running."""
        return await self._run("get_task", ctx, self._look_up(arguments, ctx, background))

    async def _make(
        self, operation: Operation, arguments: dict[str, Any], ctx: ToolContext, background: BackgroundCall | None
    ) -> CallToolResult:
        from mcp_seedream.generation.service import CallContext  # noqa: PLC0415  (imports httpx: not before a call)

        held: HeldArguments | None = getattr(_request_state(ctx), "held_arguments", None)
        with held.in_use() if held else nullcontext():
            call = await self._checked(operation, arguments, held)
            if background:
                call = replace(call, wait_seconds=MAX_WAIT_SECONDS)  # the client fetches the result later
            self._check_save_to(call.save_to)  # before the call is billed
            token = self._token(ctx)
            runtime, request_id = await _runtime(ctx), ctx.request_context.request_id
            async with runtime.attempts.attempt(token, request_id, deliver_later=background is not None) as attempt:
                if background:
                    background.attempt = attempt
                report: Report = background.report if background else ctx.report_progress
                if held and not call.spec.options.get("stream"):  # a stream reports before the upstream has them
                    report = releasing(report, held, call.spec.images)
                task = await runtime.images.make(call, CallContext(token, attempt, report, background))
                task = replace(task, prompt=call.spec.prompt or task.prompt)
                delivered = await self._deliver(task, call.save_to, ctx)
        return results.task_result(delivered.task, delivered.shown, delivered.caption)

    async def _checked(self, operation: Operation, arguments: dict[str, Any], held: HeldArguments | None) -> ImageCall:
        """The checked call."""
        seconds = self._defaults.wait_seconds
        if held:
            arguments = held.take(arguments)
        check = partial(image_call, self.table, operation, arguments, wait_seconds=seconds, origin=self._origin)
        if operation == "generate" and not held:
            return check()
        # In a thread: decoding megabytes of base64 would block other callers.
        call = await run_in_thread(check, limiter=self._checks)
        return replace(call, spec=replace(call.spec, images=Pictures(call.spec.images))) if held else call

    async def _look_up(
        self, arguments: dict[str, Any], ctx: ToolContext, background: BackgroundCall | None
    ) -> CallToolResult:
        runtime, seconds = await _runtime(ctx), self._defaults.wait_seconds
        call = task_call(arguments, wait_seconds=seconds, origin=self._origin, listing=self._journal is not None)
        self._check_save_to(call.save_to)
        if not call.task_ids:
            token = self.token_of(ctx)
            entries = await runtime.lookups.newest(None if token and placeholder_reason(token) else token)
            return results.history_result(entries)
        report = background.report if background else ctx.report_progress
        tasks = await runtime.lookups.get(call, self._token(ctx), report, background)
        if len(call.task_ids) == 1:
            done = await self._deliver(tasks[call.task_ids[0]], call.save_to, ctx)
            known = _repeatable_arguments(self.table)
            return results.task_result(done.task, done.shown, done.caption, repeatable=known)
        delivered = await self._deliver_all([tasks[id_] for id_ in call.task_ids if id_ in tasks], call.save_to, ctx)
        shown = within_budget(data for each in delivered for data in each.shown)
        unknown = [id_ for id_ in call.task_ids if id_ not in tasks]
        return results.tasks_result(_with_missing_previews(delivered, len(shown)), unknown, shown)

    async def _deliver_all(self, tasks: list[Task], save_to: str | None, ctx: ToolContext) -> list[Delivered]:
        """Deliver several tasks at once, without previews: they would not fit into one result."""
        delivered: dict[int, Delivered] = {}

        async def deliver_one(index: int, task: Task) -> None:
            delivered[index] = await self._deliver(task, save_to, ctx, preview=False, share=len(tasks))

        async with anyio.create_task_group() as group:
            for index, task in enumerate(tasks):
                group.start_soon(deliver_one, index, task)
        return [delivered[index] for index in range(len(tasks))]

    async def _deliver(
        self, task: Task, save_to: str | None, ctx: ToolContext, *, preview: bool = True, share: int = 1
    ) -> Delivered:
        """Save and preview the pictures of a task, as the call and the server's defaults say."""
        local, journal, runtime = self._defaults.local, self._journal, await _runtime(ctx)
        folder = (save_target(save_to, local) if save_to else local.output) if local else None
        if save_to and task.state == "pending":
            note = f'Nothing is saved yet: call get_task with save_to "{save_to}" as well.'
            return Delivered(replace(task, notes=(*task.notes, note)))
        name = f"{(task.prompt or 'seedream')[:40]} {task.id[:8]}"
        files = await journal.files(task.id) if journal and local else ()
        target = folder if save_to else None
        saved = await run_in_thread(saved_set, files, len(task.images), target) if files else ()
        shows, room = preview and self._defaults.preview(ctx), PREVIEW_ROOM // share
        options = DeliveryOptions(folder, name, shows, room, saved, self.token_of(ctx) or "")
        delivered = await runtime.delivery.deliver(task, options)
        if journal:
            await journal.ended(delivered.task)
        return delivered

    async def _run(self, tool: str, ctx: ToolContext, work: Awaitable[CallToolResult]) -> CallToolResult:
        """The result of a call, whose outcome is sent to the observer."""
        began = time.monotonic()
        content: dict[str, Any] = {"status": "left"}  # without a result, the caller has left
        try:
            result = await _errors_as_results(tool, work)
            content = result.structured_content or content
            return result
        finally:
            self._observer.on_tool_call(_event(tool, ctx, content, time.monotonic() - began))

    def _check_save_to(self, save_to: str | None) -> None:
        if save_to and self._defaults.local:
            check_target(save_target(save_to, self._defaults.local), self._defaults.local)

    def _token(self, ctx: ToolContext) -> str:
        token = self.token_of(ctx)
        placeholder = placeholder_reason(token) if token else None
        if not token or placeholder:
            raise MissingToken(placeholder or "")
        return token


def make_tools(table: ModelTable, defaults: ToolDefaults, *, listing: bool = False) -> list[Tool]:
    """The three tools as clients see them, with or without a journal (`listing`). For documents and checks."""
    journal = Journal(IN_MEMORY) if listing else None
    return ImageTools(table, lambda _: None, defaults, journal=journal).definitions()


def _tool(
    function: Callable[..., Awaitable[CallToolResult]], schema: dict[str, Any], output: dict[str, Any], more: str = ""
) -> Tool:
    fields = TOOLS[function.__name__]
    fields = {**fields, "description": fields["description"] + more}
    return unchecked_tool(function, schema, output, meta=TOOL_META, **fields)


async def _runtime(ctx: ToolContext) -> Runtime:
    return await ctx.request_context.lifespan_context.get()


async def _errors_as_results(tool: str, work: Awaitable[CallToolResult]) -> CallToolResult:
    """Turn errors into results. No other function does this."""
    try:
        return await work
    except SeedreamError as error:
        trace = getattr(error, "trace_id", None)
        logger.info("%s failed: %s, trace_id %s", tool, error.code, trace)
        return results.error_result(error)
    except Exception:  # the top of a call: the SDK's error would not help an agent
        logger.exception("%s failed", tool)
        return results.error_result(SeedreamError(INTERNAL, code="internal_error"))


def _request_state(ctx: ToolContext) -> object:
    """What the hosted server has stored about the HTTP request of a call; None over stdio."""
    return getattr(ctx.request_context.request, "state", None)


def _event(tool: str, ctx: ToolContext, content: dict[str, Any], seconds: float) -> events.ToolCall:
    """The event of a call for logs and metrics, without the prompt and links."""
    state = _request_state(ctx)
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
    """The tasks. A task gets a note if one of its pictures is not among the first `shown` pictures."""
    note = "Its picture does not fit into this result: get this task alone."
    tasks = []
    for each in done:
        shown -= len(each.shown)
        tasks.append(replace(each.task, notes=(*each.task.notes, note)) if each.shown and shown < 0 else each.task)
    return tasks


def _repeatable_arguments(table: ModelTable) -> tuple[str, ...]:
    """The arguments with which the call of a task can be repeated."""
    return ("prompt", "image", "model", "size", *table.parameters)
