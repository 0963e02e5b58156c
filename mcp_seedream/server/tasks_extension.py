"""The Tasks extension: a client that declares it is given a task at once, and fetches the result when it is there.

The task is the upstream's: its id is the one that `get_task` takes, too, and any replica can answer for it. What a
task comes to is what waiting would have brought, since the call itself goes on as a job.

Facts: SEP-2663 (`io.modelcontextprotocol/tasks`), for protocol revision 2026-07-28.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeAlias

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import Context, require_client_extension
from mcp.server.mcpserver.tools import Tool
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
from mcp_seedream.generation.background import Job, Work
from mcp_seedream.generation.services import Services
from mcp_seedream.server import results
from mcp_seedream.server.tools import TokenOf

EXTENSION = "io.modelcontextprotocol/tasks"
_ASK_AGAIN = 1000  # milliseconds: asking is cheap, and a picture that is there is not left lying
_LEFT = (
    "Nobody waits for it here any more. The picture may still be made, and is billed then: get_task with this id "
    "finds it, and the same call, made again within 10 minutes, gets it."
)
_DELIVERING = 5  # seconds at most that a question waits for pictures to be fetched and saved
ExtensionContext: TypeAlias = ServerRequestContext[Services, Any]


class TaskParams(RequestParams):
    """Which task is meant."""

    task_id: str = Field(alias="taskId", min_length=1, max_length=200)


class UpdateParams(TaskParams):
    """Answers to what a task asked for."""

    input_responses: dict[str, Any] = Field(alias="inputResponses")


class Tasks(Extension):
    """Calls of some tools as tasks.

    Args:
        tools: The names of those tools.
        look: `get_task`, which finds a task that is not one of this process.
        token_of: Finds the token of whoever asks: a task is its caller's alone.
        hours: For which a task's links live.
    """

    identifier = EXTENSION

    def __init__(self, tools: Collection[str], look: Tool, token_of: TokenOf, hours: float) -> None:
        self._tools = frozenset(tools)
        self._look = look
        self._token_of = token_of
        self._ttl = int(hours * 3_600_000)

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
        """A task, as soon as the upstream has one; what is refused before that is answered as it always is.

        So is a call that says itself that it does not wait: it has its task's id at once, and no use for another form
        of it. Pages in the chat make such calls, through hosts which declare the extension for their own alone.
        """
        services = ctx.lifespan_context
        waits = params.name in self._tools and is_waited_for(services.table, params.arguments or {})
        if not waits or not _declared(ctx):
            return await call_next(ctx)
        caller = self._caller(ctx)

        async def call(asking: ExtensionContext) -> HandlerResult:
            with services.limits.task(caller) if services.limits else nullcontext():
                return await call_next(asking)

        try:
            job = await services.jobs.begin(caller, _work(ctx, call))
        except LimitExceeded as error:
            return results.failure(error)
        return job.result if job.task is None else {"resultType": "task", **self._described(job)}

    async def get(self, ctx: ExtensionContext, params: TaskParams) -> HandlerResult:
        """A task as it stands, with what it came to.

        Raises:
            MCPError: The client did not declare the extension, the header names another task, or nobody knows it.
        """
        job = await self._job(ctx, params)
        outcome = _outcome(job)
        if outcome:
            await ctx.lifespan_context.jobs.collected(job)
        return {**self._described(job), **outcome}

    async def cancel(self, ctx: ExtensionContext, params: TaskParams) -> HandlerResult:
        """Wait for it no longer: the upstream can't be stopped. One that has ended stays as it is.

        So does one that another process began: this one can't end it there, nor leave it to whoever makes its call.
        """
        job = await self._job(ctx, params)
        if job.begun_here:
            job.cancel()
        return {}

    async def update(self, ctx: ExtensionContext, params: UpdateParams) -> HandlerResult:
        """Take answers to what a task asked; none ever asks, so there is nothing to do with them."""
        await self._job(ctx, params)
        return {}

    async def _job(self, ctx: ExtensionContext, params: TaskParams) -> Job:
        """The job for a task; where this process has none, one that begins with looking the task up."""
        require_client_extension(ctx, EXTENSION)
        _check_name(ctx, params.task_id)
        services, caller = ctx.lifespan_context, self._caller(ctx)
        job = services.jobs.find(caller, params.task_id)
        if job is None or job.task is None or (_is_pending(job) and not services.shutdown.requested.is_set()):
            arguments = {"task_id": params.task_id, "wait_seconds": MAX_WAIT_SECONDS}
            work = _work(ctx, lambda asking: self._look.fn(arguments, Context(request_context=asking)))
            job = await services.jobs.follow(caller, params.task_id, work)
        if job.task is None:
            raise _as_error(job.result)
        if job.task.ended:
            with anyio.move_on_after(_DELIVERING):
                await job.over.wait()
        return job

    def _caller(self, ctx: ExtensionContext) -> str:
        """Whose a task is, by a hash: what a task came to is kept for longer than a token need be."""
        token = self._token_of(Context(request_context=ctx)) or ""
        return hashlib.sha256(token.encode()).hexdigest()

    def _described(self, job: Job) -> dict[str, Any]:
        """A task, flat, as all answers have it."""
        status = _status(job)
        message = _LEFT if status == "cancelled" else job.message if status == "working" else ""
        task = job.task
        return {
            "taskId": job.task_id,
            "status": status,
            **({"statusMessage": message} if message else {}),
            "createdAt": _time(task.created_at if task and task.created_at else job.begun),
            "lastUpdatedAt": _time(job.changed),
            "ttlMs": self._ttl,
            "pollIntervalMs": _ASK_AGAIN,
        }


def _work(ctx: ExtensionContext, call: Callable[[ExtensionContext], Awaitable[HandlerResult]]) -> Work:
    """A call as the work of a job, which it is told of."""

    async def work(job: Job) -> HandlerResult:
        services = replace(ctx.lifespan_context, job=job)
        with services.shutdown.call_in_progress():  # the process ends once its pictures are saved, as for any call
            result = await call(replace(ctx, lifespan_context=services))
        if isinstance(result, CallToolResult):
            job.size += len(result.model_dump_json())
        return result

    return work


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


def _is_pending(job: Job) -> bool:
    """It waited for as long as a job does, or was made to end before its task had."""
    found = job.result.structured_content if isinstance(job.result, CallToolResult) else None
    return isinstance(found, dict) and found.get("status") == "pending"


def _status(job: Job) -> str:
    if job.cancelled:
        return "cancelled"
    if job.error is not None:
        return "failed"
    return "working" if job.result is None or _is_pending(job) else "completed"


def _outcome(job: Job) -> dict[str, Any]:
    """What a task came to: a tool's error is a result like any other."""
    status = _status(job)
    if status == "completed" and isinstance(job.result, CallToolResult):
        return {"result": job.result.model_dump(by_alias=True, mode="json", exclude_none=True)}
    if status == "failed":
        error = job.error if isinstance(job.error, MCPError) else MCPError(INTERNAL_ERROR, "The call failed.")
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
