"""What stands between an HTTP request of the endpoint and the SDK: turns, and orderly ends."""

from __future__ import annotations

import asyncio
import codecs
import math
import re
from collections import deque
from contextlib import ExitStack
from typing import Any

import anyio
import anyio.lowlevel
from mcp_types import JSONRPCError
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_seedream.core.shutdown import Shutdown
from mcp_seedream.server import jsonrpc
from mcp_seedream.upstream.fair_limiter import FairLimiter

ENDPOINT = "/mcp"
_BEARER = re.compile(r"Bearer +([\x21-\x7e]{1,4096})", re.IGNORECASE)
_LOOK = "get_task"
_BODY_SECONDS = 60  # for a body to come, and more for a large one
_SLOWEST = 50_000  # bytes a second of a line that is still waited for
_ENTERING = 1  # second at most, whatever holds a call up
_REVISION, _OLDEST = "mcp-protocol-version", "2025-03-26"
_SMALL = 64 * 1024  # bytes of a request that is all there before its turn
_STOPPING = {"error": "stopping", "error_description": "The server is being stopped. Try again in a moment."}


class DropUnfinished:
    """Ends the work on a request whose client left before all of it had come, or that does not come to its end.

    The SDK would take it for a failure of its own, and write a traceback into the log for every one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        whole, begun, late = False, False, False
        deadline = math.inf

        async def watched() -> Message:
            nonlocal whole, late, deadline
            if whole:
                return await receive()
            if deadline == math.inf:
                deadline = anyio.current_time() + _patience(scope)
            with anyio.CancelScope(deadline=deadline):
                message = await receive()
                if message["type"] != "http.disconnect":
                    whole = not message.get("more_body", False)
                    return message
            late = anyio.current_time() >= deadline  # who sends so slowly holds room that others need
            left.cancel()
            await anyio.lowlevel.checkpoint()
            return {"type": "http.disconnect"}

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        with anyio.CancelScope() as left:
            await self._app(scope, watched, noted)
        if late and not begun:
            body = {"error": "timeout", "error_description": "The request did not come in time."}
            await JSONResponse(body, 408, {"Connection": "close"})(scope, receive, send)


class StopInOrder:
    """Counts what is being answered; when the process is about to end, new tool calls are answered with 503.

    Whatever else a client asks is answered to the last: some look at the tools' schemas before they take a result.
    """

    def __init__(self, app: ASGIApp, shutdown: Shutdown) -> None:
        self._app = app
        self._shutdown = shutdown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_call(scope):
            await self._app(scope, receive, send)
            return
        with self._shutdown.call_in_progress():
            if self._shutdown.requested.is_set():
                receive, start = await _peek(receive)
                if _called(_read(start)) is not None:
                    await JSONResponse(_STOPPING, 503, {"Retry-After": "2"})(scope, receive, send)
                    return
            await self._app(scope, receive, send)


class EnterInTurn:
    """Lets tool calls in one after the other, callers in turn: a thousand at once keep no other caller waiting.

    Up to where its tool begins, a call is work for the one processor; afterwards it waits, and the next may come in.
    Who only looks does not wait for those who generate. A large request goes past: it is busy being received, for
    longer than anybody should wait for.

    What is no message is answered here, as over stdio. A client of revision 2026-07-28 is left to the SDK, which does
    it by that revision's rules; of older ones it would take a request with a wrong id for a notification.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._looking, self._making = FairLimiter(1), FairLimiter(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_call(scope):
            await self._app(scope, receive, send)
            return
        receive, start = await _peek(receive)
        found = _read(start)
        if isinstance(found, list) and Headers(scope=scope).get(_REVISION, _OLDEST) in HANDSHAKE_PROTOCOL_VERSIONS:
            body = found[0].model_dump(mode="json", exclude_unset=True)
            await JSONResponse(body, 400)(scope, receive, send)
            return
        key = scope.get("state", {}).get("caller_key", "")
        tool = _called(found)
        with ExitStack() as stack:
            if tool is not None and found is not None:
                turns = self._looking if tool == _LOOK else self._making
                await turns.acquire(key)
                stack.callback(turns.release)
                scope["state"] = {**scope.get("state", {}), "entered": stack.close}
                asyncio.get_running_loop().call_later(_ENTERING, stack.close)
            await self._app(scope, receive, send)


def _patience(scope: Scope) -> float:
    """Seconds for a body to come in: as long as a slow line needs."""
    size = Headers(scope=scope).get("content-length", "")
    return _BODY_SECONDS + (int(size) if size.isdecimal() else 0) / _SLOWEST


def route_path(scope: Scope) -> str:
    """A request's path within this app, wherever it is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _is_call(scope: Scope) -> bool:
    """Something is asked: a stream that a client opens to listen is none, and may last for ever."""
    return scope["type"] == "http" and route_path(scope) == ENDPOINT and bool(scope["method"] == "POST")


def _read(start: bytes) -> dict[str, Any] | list[JSONRPCError] | None:
    """The message of a request, or what is wrong with it; None where it is too large to be looked at."""
    return jsonrpc.read(start) if len(start) <= _SMALL else None


def _called(found: dict[str, Any] | list[JSONRPCError] | None) -> str | None:
    """The tool that a request calls ("" where that can't be told), or None: it calls none.

    JSON can write a word in many ways, so that it has to be read; what is large, or no message, counts as a call.
    """
    if not isinstance(found, dict):
        return ""
    if found.get("method") != "tools/call":
        return None
    params = found.get("params")
    return str(params.get("name", "")) if isinstance(params, dict) else ""


async def _peek(receive: Receive) -> tuple[Receive, bytes]:
    """The start of a request's body, all of it where it is small, and a way to receive it all the same.

    A byte order mark is left out: it means nothing.
    """
    unread: deque[Message] = deque()
    start = b""
    while True:
        message = await receive()
        if not start and (body := message.get("body", b"")).startswith(codecs.BOM_UTF8):
            message = {**message, "body": body.removeprefix(codecs.BOM_UTF8)}
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
