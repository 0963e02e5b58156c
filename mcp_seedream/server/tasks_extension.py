"""The Tasks extension: clients that declare it get a task at once, and fetch its result later.

The task is the upstream's task, so `get_task` and all replicas accept its id. Its result is that of the tool call,
which continues in the background.

Facts: SEP-2663 (`io.modelcontextprotocol/tasks`), for protocol revision 2026-07-28.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

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
from mcp_seedream.server import results
from mcp_seedream.server.tools import ImageTools

if TYPE_CHECKING:
    from mcp_seedream.core.concurrency import OnDemand
    from mcp_seedream.generation.background import BackgroundCall, Work
    from mcp_seedream.server.runtime import Runtime

EXTENSION = "io.modelcontextprotocol/tasks"
_POLL_INTERVAL = 1000  # milliseconds: a poll costs little, and clients get the picture soon after it is made
_CANCELLED = (
    "This server no longer waits for it. The picture may still be made, and billed: get_task with this id returns it, "
    "and so does the same call within 10 minutes."
)
_DELIVERY_SECONDS = 5  # longest time that a poll waits for pictures to be downloaded and saved
ExtensionContext: TypeAlias = "ServerRequestContext[OnDemand[Runtime], Any]"


class CallLimits(Protocol):
    """The limits of callers; `generation.service.GenerationLimits` with those of background calls."""

    def generate(self, caller: str) -> None:
        """Count a generation."""

    def task(self, caller: str) -> AbstractContextManager[None]:
        """Count a background call while the context lasts.

        Raises:
            LimitExceeded: The caller has too many background calls.
        """


class TaskParams(RequestParams):
    """The params of a request about a task."""

    task_id: str = Field(alias="taskId", min_length=1, max_length=200)


class UpdateParams(TaskParams):
    """Responses to the input requests of a task."""

    input_responses: dict[str, Any] = Field(alias="inputResponses")


class Tasks(Extension):
    """Calls of `generate_image` and `edit_image` as tasks.

    Args:
        tools: The tools; `get_task` follows tasks of other processes.
        limits: The limits of callers, for a hosted server.
    """

    identifier = EXTENSION

    def __init__(self, tools: ImageTools, limits: CallLimits | None = None) -> None:
        self._tools = tools
        self._limits = limits
        self._calls: dict[str, Callable[..., Awaitable[HandlerResult]]] = {
            "generate_image": tools.generate_image,
            "edit_image": tools.edit_image,
        }
        self._ttl = int(tools.table.upstream_limits.link_hours * 3_600_000)

    def methods(self) -> Sequence[MethodBinding]:
        """The methods of the extension."""
        versions = frozenset(MODERN_PROTOCOL_VERSIONS)
        return [
            MethodBinding("tasks/get", TaskParams, self.get, versions),
            MethodBinding("tasks/update", UpdateParams, self.update, versions),
            MethodBinding("tasks/cancel", TaskParams, self.cancel, versions),
        ]

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ExtensionContext, call_next: CallNext
    ) -> HandlerResult:
        """Return a task as soon as the upstream has accepted one. Calls that fail earlier get the tool's usual result.

        So do calls with `wait_seconds` 0, which return at once: the gallery makes them through hosts that declare the
        extension, but the gallery itself does not support it.
        """
        tool = self._calls.get(params.name)
        arguments = params.arguments or {}
        if tool is None or not _declares_extension(ctx) or not is_waited_for(self._tools.table, arguments):
            return await call_next(ctx)
        caller = self._caller(ctx)

        async def work(call: BackgroundCall) -> HandlerResult:
            with self._limits.task(caller) if self._limits else nullcontext():
                return await tool(arguments, Context(request_context=ctx, input_params=params), call)

        try:
            background = (await ctx.lifespan_context.get()).background
            call = await background.start(caller, _in_progress(ctx, work))
        except LimitExceeded as error:
            return results.error_result(error)
        return call.result if call.task is None else {"resultType": "task", **self._task_fields(call)}

    async def get(self, ctx: ExtensionContext, params: TaskParams) -> HandlerResult:
        """The state of a task, with its result once it has ended.

        Raises:
            MCPError: The client did not declare the extension, the header names another task, or the task is unknown.
        """
        call = await self._find(ctx, params)
        outcome = _outcome(call)
        if outcome:
            await (await ctx.lifespan_context.get()).background.delivered(call)
        return {**self._task_fields(call), **outcome}

    async def cancel(self, ctx: ExtensionContext, params: TaskParams) -> HandlerResult:
        """Stop waiting for a task. The upstream can't cancel it.

        Tasks that have ended, and tasks that another process waits for, do not change.
        """
        call = await self._find(ctx, params)
        if call.started_here:
            call.cancel()
        return {}

    async def update(self, ctx: ExtensionContext, params: UpdateParams) -> HandlerResult:
        """Ignore the responses: tasks never request input."""
        await self._find(ctx, params)
        return {}

    async def _find(self, ctx: ExtensionContext, params: TaskParams) -> BackgroundCall:
        """The background call of a task; if this process has none, a new call that follows the task."""
        require_client_extension(ctx, EXTENSION)
        _check_name(ctx, params.task_id)
        runtime, caller = await ctx.lifespan_context.get(), self._caller(ctx)
        call = runtime.background.find(caller, params.task_id)
        if call is None or call.task is None or (_is_pending(call) and not runtime.shutdown.requested.is_set()):
            arguments = {"task_id": params.task_id, "wait_seconds": MAX_WAIT_SECONDS}

            async def work(call: BackgroundCall) -> HandlerResult:
                return await self._tools.get_task(arguments, Context(request_context=ctx), call)

            call = await runtime.background.follow(caller, params.task_id, _in_progress(ctx, work))
        if call.task is None:
            raise _as_error(call.result)
        if call.task.ended:
            with anyio.move_on_after(_DELIVERY_SECONDS):
                await call.over.wait()
        return call

    def _caller(self, ctx: ExtensionContext) -> str:
        """A hash of the caller's token, since results are stored longer than tokens should be."""
        token = self._tools.token_of(Context(request_context=ctx)) or ""
        return hashlib.sha256(token.encode()).hexdigest()

    def _task_fields(self, call: BackgroundCall) -> dict[str, Any]:
        """The fields of a task that all responses have."""
        status = _status(call)
        message = _CANCELLED if status == "cancelled" else call.message if status == "working" else ""
        task = call.task
        return {
            "taskId": call.task_id,
            "status": status,
            **({"statusMessage": message} if message else {}),
            "createdAt": _time(task.created_at if task and task.created_at else call.started),
            "lastUpdatedAt": _time(call.changed),
            "ttlMs": self._ttl,
            "pollIntervalMs": _POLL_INTERVAL,
        }


def _in_progress(ctx: ExtensionContext, work: Work) -> Work:
    """The work, counted as a call in progress, so that a shutdown waits until its pictures are saved."""

    async def work_in_progress(call: BackgroundCall) -> HandlerResult:
        with (await ctx.lifespan_context.get()).shutdown.call_in_progress():
            result: HandlerResult = await work(call)
        if isinstance(result, CallToolResult):
            call.size = len(result.model_dump_json())
        return result

    return work_in_progress


def _declares_extension(ctx: ExtensionContext) -> bool:
    """Whether the client declares the extension, in a protocol revision that supports it."""
    if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        return False
    capabilities = ctx.session.client_capabilities
    return EXTENSION in ((capabilities.extensions if capabilities else None) or {})


def _check_name(ctx: ExtensionContext, task_id: str) -> None:
    """Check that the header by which proxies route names the same task. Clients may leave it out."""
    header = ctx.request.headers.get(MCP_NAME_HEADER) if isinstance(ctx.request, Request) else None
    if header is not None and decode_header_value(header) != task_id:
        raise MCPError(HEADER_MISMATCH, f"The header {MCP_NAME_HEADER} and taskId name different tasks.")


def _is_pending(call: BackgroundCall) -> bool:
    """Whether the call ended before its task, because its time was up or the server shuts down."""
    content = call.result.structured_content if isinstance(call.result, CallToolResult) else None
    return isinstance(content, dict) and content.get("status") == "pending"


def _status(call: BackgroundCall) -> str:
    if call.cancelled:
        return "cancelled"
    if call.error is not None:
        return "failed"
    return "working" if call.result is None or _is_pending(call) else "completed"


def _outcome(call: BackgroundCall) -> dict[str, Any]:
    """The result or error of a task that has ended; a tool's error is a result as well."""
    status = _status(call)
    if status == "completed" and isinstance(call.result, CallToolResult):
        return {"result": call.result.model_dump(by_alias=True, mode="json", exclude_none=True)}
    if status == "failed":
        error = call.error if isinstance(call.error, MCPError) else MCPError(INTERNAL_ERROR, "The call failed.")
        return {"error": error.error.model_dump(by_alias=True, mode="json", exclude_none=True)}
    return {}


def _as_error(result: object) -> MCPError:
    """The error of a task whose look-up failed."""
    content = result.structured_content if isinstance(result, CallToolResult) else {}
    error = content.get("error") or {"code": "", "message": "The task could not be looked up."}
    is_client_error = error["code"] in (TaskNotFound.code, InvalidArguments.code)
    return MCPError(INVALID_PARAMS if is_client_error else INTERNAL_ERROR, error["message"])


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
