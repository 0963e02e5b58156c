"""Serves one client over stdin and stdout. The server shuts down when stdin ends."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, BinaryIO

import anyio
import anyio.to_thread
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.server.runner import serve_dual_era_loop
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCRequest, jsonrpc_message_adapter
from pydantic import ValidationError

from mcp_seedream.core.shutdown import Shutdown, exit_by_signal, shutdown_on_signals
from mcp_seedream.server import jsonrpc
from mcp_seedream.server.sdk import (
    OneResponseStream,
    ReadStream,
    lowlevel_server,
    wait_until_written,
    wait_while_unread,
)

logger = logging.getLogger(__name__)
_LAST_CALLS = 0.2  # seconds for the last calls before the end of stdin to start
_MAX_UNREAD = 100  # responses that wait for the client to read them
_PROBE = "server/discover"


async def serve_stdio(server: MCPServer[Any], shutdown: Shutdown) -> None:
    """Serve until stdin is closed or a signal arrives; calls in progress are answered first.

    It replaces `MCPServer.run_stdio_async`, which drops lines that it cannot parse, assumes that the client uses the
    protocol of its first probe, and cancels all calls when stdin ends.

    Args:
        server: The server; its waits end with `shutdown`.
        shutdown: The shutdown, requested at the end of stdin or by a signal.
    """
    server.middleware.append(partial(_count_call, shutdown))
    lowlevel = lowlevel_server(server)
    no_input = anyio.wrap_file(io.StringIO())  # `_Input` reads stdin: the SDK only writes
    async with stdio_server(stdin=no_input) as (_, write):

        async def finish_writing() -> None:
            with anyio.move_on_after(shutdown.grace):  # the client may be slow to read
                await wait_until_written(write)

        async def end_process(number: int, _: object) -> None:
            await finish_writing()
            exit_by_signal(number)

        async def finish_calls() -> None:
            await anyio.sleep(_LAST_CALLS)
            shutdown.request()
            await shutdown.wait_until_idle()
            await finish_writing()

        async with (
            shutdown_on_signals(shutdown, end_process),
            lowlevel.lifespan(lowlevel) as state,
            anyio.create_task_group() as probes,
        ):
            options = lowlevel.create_initialization_options()
            serve = partial(serve_dual_era_loop, lowlevel, lifespan_state=state, init_options=options)

            async def answer_probe(probe: JSONRPCRequest) -> None:
                """Serve one request in a separate session."""
                send, receive = anyio.create_memory_object_stream[SessionMessage | Exception](1)
                await send.send(SessionMessage(probe))
                await serve(receive, OneResponseStream(write, send.aclose))

            messages = _Input(_stdin(), write, lambda probe: probes.start_soon(answer_probe, probe), finish_calls)
            await serve(messages, write)
            probes.cancel_scope.cancel()


async def _count_call(shutdown: Shutdown, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    with shutdown.call_in_progress():
        return await call_next(ctx)


def _stdin() -> BinaryIO:
    """Standard input with a second descriptor: at exit, Python would wait for a thread that reads `sys.stdin`."""
    try:
        return os.fdopen(os.dup(sys.stdin.fileno()), "rb", closefd=False)
    except (OSError, ValueError):
        return sys.stdin.buffer


class _Input(ReadStream):
    """The messages that a client sends over stdin.

    It answers invalid lines itself, and `server/discover` until another request arrives: the SDK assumes that all
    requests use the protocol of the first one, but clients that get no response to a probe continue with `initialize`.

    Args:
        file: Standard input.
        write: The stream for errors about invalid lines.
        answer_probe: Starts the response to a probe.
        finish_calls: Called at the end of stdin; returns once the calls in progress are answered.
    """

    def __init__(
        self,
        file: BinaryIO,
        write: Any,
        answer_probe: Callable[[JSONRPCRequest], object],
        finish_calls: Callable[[], Awaitable[None]],
    ) -> None:
        self._file = file
        self._write = write
        self._answer_probe = answer_probe
        self._finish_calls = finish_calls
        self._only_probes = True

    async def receive(self) -> SessionMessage | Exception:
        while line := await self._line():
            if not line.strip() or (message := await self._parse(line)) is None:
                continue
            if self._is_probe(message):
                self._answer_probe(message)
            else:
                return SessionMessage(message)
        await self._finish_calls()
        raise anyio.EndOfStream

    async def _line(self) -> bytes:
        """The next line; b"" at the end. None is read while the client reads no responses."""
        await wait_while_unread(self._write, _MAX_UNREAD)
        return await anyio.to_thread.run_sync(self._file.readline, abandon_on_cancel=True)

    async def _parse(self, line: bytes) -> Any:
        """The message in a line; None for an invalid one, whose errors are sent to the client."""
        message = jsonrpc.parse(line)
        if isinstance(message, dict):
            try:
                return jsonrpc_message_adapter.validate_python(message, by_name=False)
            except ValidationError:
                logger.warning("the client sent an invalid response")
                return None
        logger.warning("the client sent an invalid message: %s", message[0].error.message)
        for error in message:
            await self._write.send(SessionMessage(error))
        return None

    def _is_probe(self, message: Any) -> bool:
        """Whether a message is a probe that arrived before all other requests."""
        if isinstance(message, JSONRPCRequest) and message.method != _PROBE:
            self._only_probes = False
        return self._only_probes and isinstance(message, JSONRPCRequest)
