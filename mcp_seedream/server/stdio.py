"""Serving over stdio, to the one client that started the process; the end of its input is the end."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any, BinaryIO, Self

import anyio
import anyio.to_thread
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.server.runner import serve_dual_era_loop
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCError, JSONRPCRequest, JSONRPCResponse, jsonrpc_message_adapter
from pydantic import ValidationError

from mcp_seedream.core.shutdown import Shutdown, die, shutdown_on_signals
from mcp_seedream.server import jsonrpc

logger = logging.getLogger(__name__)
_LAST_CALLS = 0.2  # seconds for calls that came just before the input's end to begin
_PROBE = "server/discover"


async def serve_stdio(server: MCPServer[Any], shutdown: Shutdown) -> None:
    """Serve until stdin is closed or a signal comes; calls that are being answered get their answers first.

    Args:
        server: The server, whose waits end with `shutdown`.
        shutdown: Begun by the end of the input, or by a signal.
    """
    server.middleware.append(partial(_counted, shutdown))
    # `run_stdio_async`, but for three things: the SDK drops lines that it can't read, a probe decides for it which
    # protocol a client speaks, and at the input's end it cancels every call, and their answers with them.
    lowlevel = server._lowlevel_server  # noqa: SLF001
    nothing = anyio.wrap_file(io.StringIO())  # stdin is read here: the SDK only writes
    async with stdio_server(stdin=nothing) as (_, write):

        async def written() -> None:
            """Wait until the last answer has left; the client may be slow to read it."""
            await anyio.sleep(0.02)
            with anyio.move_on_after(shutdown.grace):
                while not write._inner.statistics().tasks_waiting_receive:  # noqa: ASYNC110, SLF001
                    await anyio.sleep(0.02)

        async def end(number: int, _: object) -> None:
            await written()
            die(number)

        async def ended() -> None:
            """The input has ended: let what came before it be answered."""
            await anyio.sleep(_LAST_CALLS)
            shutdown.request()
            await shutdown.wait_until_idle()
            await written()

        async with (
            shutdown_on_signals(shutdown, end),
            lowlevel.lifespan(lowlevel) as state,
            anyio.create_task_group() as probes,
        ):
            options = lowlevel.create_initialization_options()
            serve = partial(serve_dual_era_loop, lowlevel, lifespan_state=state, init_options=options)

            async def answer(probe: JSONRPCRequest) -> None:
                """Serve one request as if its client had asked nothing else."""
                send, receive = anyio.create_memory_object_stream[SessionMessage | Exception](1)
                await send.send(SessionMessage(probe))
                await serve(receive, _OneAnswer(write, send.aclose))

            await serve(_Input(_stdin(), write, lambda probe: probes.start_soon(answer, probe), ended), write)
            probes.cancel_scope.cancel()


async def _counted(shutdown: Shutdown, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    with shutdown.call_in_progress():
        return await call_next(ctx)


def _stdin() -> BinaryIO:
    """Standard input, by a descriptor of its own: Python waits for a thread that reads the usual one when it ends."""
    try:
        return os.fdopen(os.dup(sys.stdin.fileno()), "rb", closefd=False)
    except (OSError, ValueError):
        return sys.stdin.buffer


class _Stream:
    """What the streams of the SDK have in common."""

    async def aclose(self) -> None:
        """Nothing: the process's own streams end with it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class _Input(_Stream):
    """The stream of what the client sends, whose end waits for the calls that are being answered.

    Lines that are no message are answered here. So is `server/discover` as long as nothing else was asked: the SDK
    takes the protocol of a client's first request for that of all others, but clients that wait in vain for the
    answer to this one go on with `initialize`.
    """

    def __init__(
        self,
        file: BinaryIO,
        write: Any,
        answer_probe: Callable[[JSONRPCRequest], object],
        ended: Callable[[], Awaitable[None]],
    ) -> None:
        self._file = file
        self._write = write
        self._answer_probe = answer_probe
        self._ended = ended
        self._asked = False

    async def receive(self) -> SessionMessage | Exception:
        """The next message.

        Raises:
            anyio.EndOfStream: There is none any more, and all that came before it is answered.
        """
        while line := await anyio.to_thread.run_sync(self._file.readline, abandon_on_cancel=True):
            if line.strip() and (message := await self._read(line)) and not self._is_probe(message):
                return SessionMessage(message)
        await self._ended()
        raise anyio.EndOfStream

    async def _read(self, line: bytes) -> Any:
        """The message of a line; None for what is none, and is answered."""
        found = jsonrpc.read(line)
        if isinstance(found, dict):
            try:
                return jsonrpc_message_adapter.validate_python(found, by_name=False)
            except ValidationError:
                logger.warning("the client sent an answer that can't be read")
                return None
        logger.warning("the client sent a line that is no message: %s", found[0].error.message)
        for error in found:
            await self._write.send(SessionMessage(error))
        return None

    def _is_probe(self, message: Any) -> bool:
        """Whether a message only asks which protocols there are; it is being answered then."""
        if self._asked or not isinstance(message, JSONRPCRequest):
            return False
        self._asked = message.method != _PROBE
        if not self._asked:
            self._answer_probe(message)
        return not self._asked

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None


class _OneAnswer(_Stream):
    """Writes for a loop that ends with its first answer."""

    def __init__(self, write: Any, end: Callable[[], Awaitable[None]]) -> None:
        self._write = write
        self._end = end

    async def send(self, message: SessionMessage) -> None:
        await self._write.send(message)
        if isinstance(message.message, JSONRPCResponse | JSONRPCError):
            await self._end()
