"""Middleware that receives requests: normalization, request ids, incomplete requests, fairness, shutdown."""

from __future__ import annotations

import asyncio
import codecs
import math
import re
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import anyio
import anyio.lowlevel
from mcp_types import JSONRPCError
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_seedream.core.shutdown import Shutdown
from mcp_seedream.server import jsonrpc
from mcp_seedream.telemetry.logs import REQUEST_ID
from mcp_seedream.upstream.fair_limiter import FairLimiter

ENDPOINT = "/mcp"
_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_MIN_UPLOAD_RATE = 50_000  # bytes per second; slower uploads time out
_MAX_START_SECONDS = 1  # after which the next call may start, even if this call has not
_VERSION_HEADER, _DEFAULT_VERSION = "mcp-protocol-version", "2025-03-26"
_PEEK_BYTES = 64 * 1024  # of a body that are read to find out which tool is called
_STOPPING = {"error": "stopping", "error_description": "The server is being stopped. Try again in a moment."}


def route_path(scope: Scope) -> str:
    """The path of a request relative to the path at which this app is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def add_start_callback(scope: Scope, callback: Callable[[], None]) -> None:
    """Register a function that is called once the MCP server starts to handle the request."""
    state = scope.get("state", {})
    scope["state"] = {**state, "start_callbacks": [*state.get("start_callbacks", ()), callback]}


class NormalizeRequestMiddleware:
    """Normalizes equivalent forms of a request for the following middleware.

    It strips whitespace at the end of header values (RFC 9110, 5.5), which httptools keeps, lowercases the media type
    (8.3.1), and removes slashes at the end of the endpoint's path.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "headers": [(name, _normalized(name, value)) for name, value in scope["headers"]]}
            if scope["path"].endswith("/") and route_path(scope).rstrip("/") == ENDPOINT:
                scope["path"] = scope["path"].rstrip("/")
                scope["raw_path"] = scope["path"].encode()
        await self._app(scope, receive, send)


def _normalized(name: bytes, value: bytes) -> bytes:
    value = value.strip(b" \t")
    if name != b"content-type":
        return value
    media_type, semicolon, parameters = value.partition(b";")
    return media_type.lower() + semicolon + parameters


class RequestIdMiddleware:
    """Gives each request an id: a well-formed `X-Request-ID` of the client, or a new id. Logs and responses have it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex[:16]
        scope["state"] = {**scope.get("state", {}), "request_id": request_id}
        REQUEST_ID.set(request_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


class IncompleteRequestMiddleware:
    """Ends requests whose client disconnects before the whole body has arrived, or sends it too slowly (408).

    The SDK treats a disconnect in the body as an internal error and logs a traceback.

    Args:
        app: The app.
        body_seconds: Time-out for a body in seconds; large bodies get more.
    """

    def __init__(self, app: ASGIApp, body_seconds: float) -> None:
        self._app = app
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        complete, responded, timed_out = False, False, False
        deadline = math.inf

        async def receive_body() -> Message:
            nonlocal complete, timed_out, deadline
            if complete:
                return await receive()
            if deadline == math.inf:
                deadline = anyio.current_time() + self._body_seconds + _upload_seconds(scope)
            with anyio.CancelScope(deadline=deadline):
                message = await receive()
                if message["type"] != "http.disconnect":
                    complete = not message.get("more_body", False)
                    return message
            timed_out = anyio.current_time() >= deadline
            handling.cancel()
            await anyio.lowlevel.checkpoint()
            return {"type": "http.disconnect"}

        async def tracking_send(message: Message) -> None:
            nonlocal responded
            responded = True
            await send(message)

        with anyio.CancelScope() as handling:
            await self._app(scope, receive_body, tracking_send)
        if timed_out and not responded:
            body = {"error": "timeout", "error_description": "The request did not arrive in time."}
            await JSONResponse(body, 408, {"Connection": "close"})(scope, receive, send)


def _upload_seconds(scope: Scope) -> float:
    """The seconds that the slowest accepted connection needs for the request's body."""
    size = Headers(scope=scope).get("content-length", "")
    return (int(size) if size.isdecimal() else 0) / _MIN_UPLOAD_RATE


class GracefulShutdownMiddleware:
    """Counts requests in progress. After a shutdown was requested, it answers tool calls with 503.

    Other requests are still answered: some clients read the tools' schemas before they accept a result.
    """

    def __init__(self, app: ASGIApp, shutdown: Shutdown) -> None:
        self._app = app
        self._shutdown = shutdown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":  # a GET stream may stay open for ever
            await self._app(scope, receive, send)
            return
        with self._shutdown.call_in_progress():
            if self._shutdown.requested.is_set():
                receive, start = await _peek(receive)
                if _called_tool(_parse(start)) is not None:
                    await JSONResponse(_STOPPING, 503, {"Retry-After": "2"})(scope, receive, send)
                    return
            await self._app(scope, receive, send)


class FairEntryMiddleware:
    """Starts one tool call at a time, callers round-robin, so that a burst of one caller does not delay the others.

    Only the start is limited: once its tool runs, a call mostly waits for the network. `get_task` has its own queue, so
    that it never waits behind generations. Requests above 64 KiB skip it: receiving them could delay other calls.

    In protocol versions before 2026-07-28, bodies that are not a JSON-RPC message are refused with the same error as
    over stdio: the SDK would treat a request with an invalid id as a notification.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._task_lookups, self._generations = FairLimiter(1), FairLimiter(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        receive, start = await _peek(receive)
        message = _parse(start)
        revision = Headers(scope=scope).get(_VERSION_HEADER, _DEFAULT_VERSION)
        if isinstance(message, list) and revision in HANDSHAKE_PROTOCOL_VERSIONS:
            body = message[0].model_dump(mode="json", exclude_unset=True)
            await JSONResponse(body, 400)(scope, receive, send)
            return
        tool = _called_tool(message)
        with ExitStack() as stack:
            if tool is not None and message is not None:
                limiter = self._task_lookups if tool == "get_task" else self._generations
                await limiter.acquire(scope.get("state", {}).get("caller_key", ""))
                stack.callback(limiter.release)
                add_start_callback(scope, stack.close)
                asyncio.get_running_loop().call_later(_MAX_START_SECONDS, stack.close)
            await self._app(scope, receive, send)


def _parse(start: bytes) -> dict[str, Any] | list[JSONRPCError] | None:
    """The message in a body, or the errors in it; None if the body is too large to be parsed here."""
    return jsonrpc.parse(start) if len(start) <= _PEEK_BYTES else None


def _called_tool(message: dict[str, Any] | list[JSONRPCError] | None) -> str | None:
    """The tool that a message calls; "" if that is unknown (a large or invalid body); None if it calls no tool."""
    if not isinstance(message, dict):
        return ""
    if message.get("method") != "tools/call":
        return None
    params = message.get("params")
    return str(params.get("name", "")) if isinstance(params, dict) else ""


async def _peek(receive: Receive) -> tuple[Receive, bytes]:
    """Read the start of a body, or all of it if it is small, without a byte order mark.

    Returns:
        A receive function that yields the same body again, and the bytes that were read.
    """
    unread: deque[Message] = deque()
    start = b""
    while True:
        message = await receive()
        if not start and (body := message.get("body", b"")).startswith(codecs.BOM_UTF8):
            message = {**message, "body": body.removeprefix(codecs.BOM_UTF8)}
        unread.append(message)
        start += message.get("body", b"")
        if not message.get("more_body") or len(start) > _PEEK_BYTES:
            break

    async def receive_again() -> Message:
        return unread.popleft() if unread else await receive()

    return receive_again, start
