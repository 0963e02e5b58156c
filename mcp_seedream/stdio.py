"""Serving over stdio, to the one client that started the process; the end of its input is the end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage

from mcp_seedream.stopping import Stopping, die, stopped_by_signals

_LAST_CALLS = 0.2  # seconds for calls that came just before the input's end to begin


async def serve_stdio(server: MCPServer[Any], stopping: Stopping) -> None:
    """Serve until stdin is closed or a signal comes; calls that are being answered get their answers first.

    Args:
        server: The server, whose waits end with `stopping`.
        stopping: Begun by the end of the input, or by a signal.
    """

    async def counted(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        with stopping.answering():
            return await call_next(ctx)

    server.middleware.append(counted)
    # `run_stdio_async`, but for the input's end: the SDK cancels every call there, and their answers with them.
    lowlevel = server._lowlevel_server  # noqa: SLF001
    async with stdio_server() as (read, write):

        async def written() -> None:
            """Wait until the last answer has left; the client may be slow to read it."""
            await anyio.sleep(0.02)
            with anyio.move_on_after(stopping.grace):
                while not write._inner.statistics().tasks_waiting_receive:  # noqa: ASYNC110, SLF001
                    await anyio.sleep(0.02)

        async def end(number: int, _: object) -> None:
            await written()
            die(number)

        async with stopped_by_signals(stopping, end):
            until_answered = _UntilAnswered(read, stopping, written)
            await lowlevel.run(until_answered, write, lowlevel.create_initialization_options())


class _UntilAnswered:
    """The stream of what the client sends, whose end waits for the calls that are being answered."""

    def __init__(self, inner: Any, stopping: Stopping, written: Callable[[], Awaitable[None]]) -> None:
        self._inner = inner
        self._stopping = stopping
        self._written = written

    @property
    def last_context(self) -> Any:
        return self._inner.last_context

    async def receive(self) -> SessionMessage | Exception:
        try:
            message: SessionMessage | Exception = await self._inner.receive()
        except anyio.EndOfStream:
            await anyio.sleep(_LAST_CALLS)
            self._stopping.begin()
            await self._stopping.answered()
            await self._written()
            raise
        return message

    async def aclose(self) -> None:
        await self._inner.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
