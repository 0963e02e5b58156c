"""The Tasks extension: a client that declares it is given a task at once, and fetches the result when it is there.

The task is the upstream's: its id is the one that `get_task` takes, too, and any replica can answer for it. What a
task comes to is what waiting would have brought, since the call itself goes on as a call.

Facts: SEP-2663 (`io.modelcontextprotocol/tasks`), for protocol revision 2026-07-28.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any, Protocol, TypeAlias

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import Context, require_client_extension
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp_types import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    RequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import Field
from starlette.requests import Request

from mcp_seedream.catalog.arguments import is_waited_for
from mcp_seedream.catalog.schemas import MAX_WAIT_SECONDS
from mcp_seedream.core.errors import InvalidArguments, LimitExceeded, TaskNotFound
from mcp_seedream.generation.background import BackgroundCall, Work
from mcp_seedream.generation.service import GenerationLimits
from mcp_seedream.server import results
from mcp_seedream.server.runtime import Runtime
from mcp_seedream.server.tools import ImageTools

EXTENSION = "io.modelcontextprotocol/tasks"
_ASK_AGAIN = 1000  # milliseconds: asking is cheap, and a picture that is there is not left lying
_LEFT = (
    "Nobody waits for it here any more. The picture may still be made, and is billed then: get_task with this id "
    "finds it, and the same call, made again within 10 minutes, gets it."
)
_DELIVERING = 5  # seconds at most that a question waits for pictures to be fetched and saved
ExtensionContext: TypeAlias = ServerRequestContext[Runtime, Any]


class CallLimits(GenerationLimits, Protocol):
    """The limits of callers."""

    def task(self, caller: str) -> AbstractContextManager[None]:
        """Count a task that goes on in the background.

        Raises:
            LimitExceeded: Too many do.
        """


class TaskParams(RequestParams):
    """Which task is meant."""

    task_id: str = Field(alias="taskId", min_length=1, max_length=200)


class UpdateParams(TaskParams):
    """Answers to what a task asked for."""

    input_responses: dict[str, Any] = Field(alias="inputResponses")


class Tasks(Extension):
    """Calls of `generate_image` and `edit_image` as tasks.

    Args:
        tools: The tools; `get_task` finds a task that another process made.
        limits: The limits of callers, if there are many.
    """

    identifier = EXTENSION

    def __init__(self, tools: ImageTools, limits: CallLimits | None = None) -> None:
        self._tools = tools
        self._limits = limits
        self._calls = {"generate_image": tools.generate_image, "edit_image": tools.edit_image}
        self._ttl = int(tools.table.upstream_limits.link_hours * 3_600_000)

    def methods(self) -> Sequence[MethodBinding]:
        """What a client may ask about a task."""
        versions = frozenset(MODERN_PROTOCOL_VERSIONS)
        return [
            MethodBinding("tasks/get", TaskParams, self.get, versions),
            MethodBinding("tasks/update", UpdateParams, self.update, versions),
            MethodBinding("tasks/cancel", TaskParams, self.cancel, versions),
        ]

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ExtensionContext, call_next: CallNext
    ) -> HandlerResult:
        """Answer with a task as soon as the upstream has one; what is refused before that is answered as always.

        So is a call with `wait_seconds` 0, which gets the id of its task at once. Pages in the chat make such calls,
        through hosts that declare the extension for their own use.
        """
        make = self._calls.get(params.name)
        arguments = params.arguments or {}
        if make is None or not _declared(ctx) or not is_waited_for(self._tools.table, arguments):
            return await call_next(ctx)
        caller = self._caller(ctx)

        async def work(call: BackgroundCall) -> HandlerResult:
            with self._limits.task(caller) if self._limits else nullcontext():
                return await make(arguments, Context(request_context=ctx, input_params=params), call)

        try:
            call = await ctx.lifespan_context.background.start(caller, _in_progress(ctx, work))
        except LimitExceeded as error:
            return results.failure(error)
        return call.result if call.task is None else {"resultType": "task", **self._described(call)}

    async def get(self, ctx: ExtensionContext, params: TaskParams) -> HandlerResult:
        """A task as it stands, with what it came to.

        Raises:
            MCPError: The client did not declare the extension, the header names another task, or nobody knows it.
        """
        call = await self._find(ctx, params)
        outcome = _outcome(call)
        if outcome:
            await ctx.lifespan_context.background.delivered(call)
        return {**self._described(call), **outcome}

    async def cancel(self, ctx: ExtensionContext, params: TaskParams) -> HandlerResult:
        """Wait for it no longer: the upstream can't be stopped. One that has ended stays as it is.

        So does one that another process began: this one can't end it there, nor leave it to whoever makes its call.
        """
        call = await self._find(ctx, params)
        if call.started_here:
            call.cancel()
        return {}

    async def update(self, ctx: ExtensionContext, params: UpdateParams) -> HandlerResult:
        """Take answers to what a task asked; none ever asks, so there is nothing to do with them."""
        await self._find(ctx, params)
        return {}

    async def _find(self, ctx: ExtensionContext, params: TaskParams) -> BackgroundCall:
        """The background call of a task; if this process has none, one that looks the task up."""
        require_client_extension(ctx, EXTENSION)
        _check_name(ctx, params.task_id)
        runtime, caller = ctx.lifespan_context, self._caller(ctx)
        call = runtime.background.find(caller, params.task_id)
        if call is None or call.task is None or (_is_pending(call) and not runtime.shutdown.requested.is_set()):
            arguments = {"task_id": params.task_id, "wait_seconds": MAX_WAIT_SECONDS}

            async def work(call: BackgroundCall) -> HandlerResult:
                return await self._tools.get_task(arguments, Context(request_context=ctx), call)

            call = await runtime.background.follow(caller, params.task_id, _in_progress(ctx, work))
        if call.task is None:
            raise _as_error(call.result)
        if call.task.ended:
            with anyio.move_on_after(_DELIVERING):
                await call.over.wait()
        return call

    def _caller(self, ctx: ExtensionContext) -> str:
        """Whose a task is, by a hash: what a task came to is kept for longer than a token need be."""
        token = self._tools.token_of(Context(request_context=ctx)) or ""
        return hashlib.sha256(token.encode()).hexdigest()

    def _described(self, call: BackgroundCall) -> dict[str, Any]:
        """A task, flat, as all answers have it."""
        status = _status(call)
        message = _LEFT if status == "cancelled" else call.message if status == "working" else ""
        task = call.task
        return {
            "taskId": call.task_id,
            "status": status,
            **({"statusMessage": message} if message else {}),
            "createdAt": _time(task.created_at if task and task.created_at else call.started),
            "lastUpdatedAt": _time(call.changed),
            "ttlMs": self._ttl,
            "pollIntervalMs": _ASK_AGAIN,
        }


def _in_progress(ctx: ExtensionContext, work: Work) -> Work:
    """The work as a call in progress: a shutdown lets it save its pictures."""

    async def counted(call: BackgroundCall) -> HandlerResult:
        with ctx.lifespan_context.shutdown.call_in_progress():
            result: HandlerResult = await work(call)
        if isinstance(result, CallToolResult):
            call.size = len(result.model_dump_json())
        return result

    return counted


def _declared(ctx: ExtensionContext) -> bool:
    """Older revisions have no such results, whatever a client declares there."""
    if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        return False
    capabilities = ctx.session.client_capabilities
    return EXTENSION in ((capabilities.extensions if capabilities else None) or {})


def _check_name(ctx: ExtensionContext, task_id: str) -> None:
    """The header that proxies route by must name the same task; not every client sends it."""
    header = ctx.request.headers.get(MCP_NAME_HEADER) if isinstance(ctx.request, Request) else None
    if header is not None and decode_header_value(header) != task_id:
        raise MCPError(HEADER_MISMATCH, f"The header {MCP_NAME_HEADER} names another task than taskId does.")


def _is_pending(call: BackgroundCall) -> bool:
    """It waited for as long as a call does, or was made to end before its task had."""
    found = call.result.structured_content if isinstance(call.result, CallToolResult) else None
    return isinstance(found, dict) and found.get("status") == "pending"


def _status(call: BackgroundCall) -> str:
    if call.cancelled:
        return "cancelled"
    if call.error is not None:
        return "failed"
    return "working" if call.result is None or _is_pending(call) else "completed"


def _outcome(call: BackgroundCall) -> dict[str, Any]:
    """What a task came to: a tool's error is a result like any other."""
    status = _status(call)
    if status == "completed" and isinstance(call.result, CallToolResult):
        return {"result": call.result.model_dump(by_alias=True, mode="json", exclude_none=True)}
    if status == "failed":
        error = call.error if isinstance(call.error, MCPError) else MCPError(INTERNAL_ERROR, "The call failed.")
        return {"error": error.error.model_dump(by_alias=True, mode="json", exclude_none=True)}
    return {}


def _as_error(result: object) -> MCPError:
    """Why a task can't be told of."""
    found = result.structured_content if isinstance(result, CallToolResult) else {}
    error = found.get("error") or {"code": "", "message": "The task could not be looked up."}
    asked_wrong = error["code"] in (TaskNotFound.code, InvalidArguments.code)
    return MCPError(INVALID_PARAMS if asked_wrong else INTERNAL_ERROR, error["message"])


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
