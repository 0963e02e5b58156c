"""What the conformance suite's scenarios of the Tasks extension call: tools that are tasks, for who declares it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import anyio
from mcp.server.mcpserver import Context, MCPServer, require_client_extension
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, ElicitRequest, ElicitRequestFormParams, InputRequiredResult, TextContent

from mcp_seedream.generation.background import BackgroundCall
from mcp_seedream.server.tasks_extension import EXTENSION, TaskParams, Tasks, UpdateParams
from mcp_seedream.upstream.types import Task

Caller = Context[Any, Any]
STRING = {"type": "string"}
CALL: ContextVar[BackgroundCall | None] = ContextVar("call", default=None)


class Asks:
    """What tasks wait for their callers to answer: our own tools' never do."""

    def __init__(self) -> None:
        self._open: dict[str, dict[str, ElicitRequest]] = {}
        self._answers: dict[str, dict[str, Any]] = {}

    async def ask(self, id_: str, **requests: ElicitRequest) -> dict[str, Any]:
        """Wait until all of it is answered."""
        self._open[id_] = requests
        while self._open[id_]:  # noqa: ASYNC110  (an answer may be a part of what was asked)
            await anyio.sleep(0.02)
        return self._answers[id_]

    def now(self, id_: str) -> dict[str, Any]:
        """What a task that waits for answers says of itself."""
        requests = {key: ask.model_dump(by_alias=True, mode="json") for key, ask in self._open.get(id_, {}).items()}
        return {"status": "input_required", "inputRequests": requests} if requests else {}

    def answer(self, id_: str, answers: Mapping[str, Any]) -> None:
        asked = self._open.get(id_, {})
        known = {key: answers[key] for key in answers if asked.pop(key, None)}
        self._answers.setdefault(id_, {}).update(known)


def add_tasks(server: MCPServer[Any]) -> None:
    """Tools for the scenarios, each under the name it has there, and questions that a task may ask."""
    asks = Asks()

    async def slow_compute(seconds: float, ctx: Caller, label: str = "") -> str:
        _begun()
        await anyio.sleep(seconds)
        return f"computed {label}"

    async def failing_job(ctx: Caller) -> str:
        require_client_extension(ctx.request_context, EXTENSION)
        _begun()
        await anyio.sleep(0.5)
        raise ToolError("This job fails.")

    async def protocol_error_job(ctx: Caller) -> str:
        _begun()
        await anyio.sleep(0.5)
        raise MCPError(-32603, "This job breaks.")

    async def confirm_delete(filename: str, ctx: Caller) -> str:
        answers = await asks.ask(_begun(), confirm=_form(f"Delete {filename}?", confirm={"type": "boolean"}))
        return f"{filename}: {answers['confirm']}"

    async def multi_input(ctx: Caller) -> str:
        who, sure = _form("Who?", name=STRING), _form("Sure?", confirm={"type": "boolean"})
        return str(await asks.ask(_begun(), who=who, sure=sure))

    async def test_tool_with_task(ctx: Caller) -> InputRequiredResult | CallToolResult:
        answers = ctx.input_responses or {}
        if "who" not in answers:
            return InputRequiredResult(input_requests={"who": _form("Who?", name=STRING)})
        _begun()
        return CallToolResult(content=[TextContent(type="text", text=str(answers["who"]))])

    jobs: list[Callable[..., Any]] = [slow_compute, failing_job, protocol_error_job, confirm_delete, multi_input]
    for job in (*jobs, test_tool_with_task):
        server.add_tool(job, description="For the conformance suite.", structured_output=False)
    server.add_tool(lambda name: f"Hello, {name}!", "greet", description="For the conformance suite.")
    extension = next(found for found in server._extensions if isinstance(found, Tasks))

    async def in_background(_: object, ctx: Caller, call: BackgroundCall | None) -> Any:
        CALL.set(call)
        return await server._handle_call_tool(ctx.request_context, ctx._input_params)  # type: ignore[arg-type]

    names = (job.__name__ for job in (*jobs, test_tool_with_task))
    extension._calls |= dict.fromkeys(names, in_background)
    _hear(server, extension, asks)


def _hear(server: MCPServer[Any], extension: Tasks, asks: Asks) -> None:
    """Tell of questions, and take answers, beside what the extension does."""
    inner = server._lowlevel_server

    async def get(ctx: Any, params: TaskParams) -> Any:
        found: Any = await extension.get(ctx, params)
        return {**found, **(asks.now(params.task_id) if found["status"] == "working" else {})}

    async def update(ctx: Any, params: UpdateParams) -> Any:
        acknowledged = await extension.update(ctx, params)
        asks.answer(params.task_id, params.input_responses)
        return acknowledged

    inner.add_request_handler("tasks/get", TaskParams, get)
    inner.add_request_handler("tasks/update", UpdateParams, update)


def _form(message: str, **fields: Any) -> ElicitRequest:
    schema = {"type": "object", "properties": fields, "required": list(fields)}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def _begun() -> str:
    """From here on it is a task, where its caller can follow one; its id."""
    id_ = uuid.uuid4().hex
    if call := CALL.get():
        call.accept(Task(id_))
    return id_
