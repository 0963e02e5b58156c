"""What stands between an HTTP request of the endpoint and the SDK: turns, and orderly ends."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from contextlib import ExitStack

import anyio
import anyio.lowlevel
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_seedream.errors import TooMuch
from mcp_seedream.limits import Limits
from mcp_seedream.stopping import Stopping
from mcp_seedream.turns import Turns

ENDPOINT = "/mcp"
_BEARER = re.compile(r"Bearer +([\x21-\x7e]{1,4096})", re.IGNORECASE)
_TOOL_CALL, _LOOK = b'"tools/call"', b'"get_task"'
_ENTERING = 1  # second at most, whatever holds a call up
_SMALL = 64 * 1024  # bytes of a request that is all there before its turn
_STOPPING = {"error": "stopping", "error_description": "The server is being stopped. Try again in a moment."}


class DropUnfinished:
    """Ends the work on a request whose client left before all of it had come: nobody waits for an answer.

    The SDK would take it for a failure of its own, and write a traceback into the log for every one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        whole = False

        async def watched() -> Message:
            nonlocal whole
            message = await receive()
            if message["type"] == "http.disconnect" and not whole:
                left.cancel()
                await anyio.lowlevel.checkpoint()
            whole = whole or not message.get("more_body", False)
            return message

        with anyio.CancelScope() as left:
            await self._app(scope, watched, send)


class StopInOrder:
    """Counts what is being answered; when the process is about to end, new tool calls are answered with 503.

    Whatever else a client asks is answered to the last: some look at the tools' schemas before they take a result.
    """

    def __init__(self, app: ASGIApp, stopping: Stopping) -> None:
        self._app = app
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_call(scope):
            await self._app(scope, receive, send)
            return
        with self._stopping.answering():
            if self._stopping.begun.is_set():
                receive, start = await _peek(receive)
                if _TOOL_CALL in start:
                    await JSONResponse(_STOPPING, 503, {"Retry-After": "2"})(scope, receive, send)
                    return
            await self._app(scope, receive, send)


class EnterInTurn:
    """Lets tool calls in one after the other, callers in turn: a thousand at once keep no other caller waiting.

    Up to where its tool begins, a call is work for the one processor; afterwards it waits, and the next may come in.
    Who only looks does not wait for those who generate. A large request goes past: it is busy being received, for
    longer than anybody should wait for.

    Args:
        limits: Of calls at once; over them, the answer is 429.
    """

    def __init__(self, app: ASGIApp, limits: Limits | None = None) -> None:
        self._app = app
        self._limits = limits
        self._looking, self._making = Turns(1), Turns(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_call(scope):
            await self._app(scope, receive, send)
            return
        receive, start = await _peek(receive)
        key = scope.get("state", {}).get("caller_key", "")
        call = _TOOL_CALL in start or len(start) > _SMALL
        with ExitStack() as counted, ExitStack() as stack:
            try:
                if call and self._limits:
                    counted.enter_context(self._limits.call(key))
            except TooMuch as error:
                body = {"error": error.code, "error_description": error.message}
                await JSONResponse(body, 429, {"Retry-After": str(error.retry_after)})(scope, receive, send)
                return
            if call and len(start) <= _SMALL:
                turns = self._looking if _LOOK in start else self._making
                await turns.take(key)
                stack.callback(turns.give)
                scope["state"] = {**scope.get("state", {}), "entered": stack.close}
                asyncio.get_running_loop().call_later(_ENTERING, stack.close)
            await self._app(scope, receive, send)


def _is_call(scope: Scope) -> bool:
    """Something is asked: a stream that a client opens to listen is none, and may last for ever."""
    return scope["type"] == "http" and scope["path"] == ENDPOINT and bool(scope["method"] == "POST")


async def _peek(receive: Receive) -> tuple[Receive, bytes]:
    """The start of a request's body, all of it where it is small, and a way to receive it all the same."""
    unread: deque[Message] = deque()
    start = b""
    while True:
        message = await receive()
        unread.append(message)
        start += message.get("body", b"")
        if not message.get("more_body") or len(start) > _SMALL:
            break

    async def again() -> Message:
        return unread.popleft() if unread else await receive()

    return again, start


def bearer(header: str | None) -> str | None:
    match = _BEARER.fullmatch(header.strip()) if header else None
    return match[1] if match else None
