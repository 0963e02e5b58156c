"""Middleware that receives requests: normalization, request ids, fairness, shutdown."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

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
_MAX_START_SECONDS = 1  # after which the next call may start, even if this call has not
_VERSION_HEADER, _DEFAULT_VERSION = "mcp-protocol-version", "2025-03-26"
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


class CallCountMiddleware:
    """Counts requests to the endpoint in progress, for a graceful shutdown."""

    def __init__(self, app: ASGIApp, shutdown: Shutdown) -> None:
        self._app = app
        self._shutdown = shutdown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._shutdown.call_in_progress():
            await self._app(scope, receive, send)


class FairEntryMiddleware:
    """Starts tool calls one after the other, round-robin by caller, so that one caller's burst does not delay others.

    Only the start is limited: once its tool runs, a call mostly waits for the network. `get_task` has its own queue, so
    that it never waits behind generations.

    After a shutdown was requested, tool calls get 503. Other requests are still handled: some clients read the tools'
    schemas before they accept a result.

    In protocol versions before 2026-07-28, bodies that are not a JSON-RPC message are refused with the same error as
    over stdio: the SDK would treat a request with an invalid id as a notification.
    """

    def __init__(self, app: ASGIApp, shutdown: Shutdown) -> None:
        self._app = app
        self._shutdown = shutdown
        self._task_lookups, self._generations = FairLimiter(1), FairLimiter(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive()).get("body", b"")
        message = jsonrpc.parse(body)
        tool = _called_tool(message)
        if tool is not None and self._shutdown.requested.is_set():
            await JSONResponse(_STOPPING, 503, {"Retry-After": "2"})(scope, receive, send)
            return
        revision = Headers(scope=scope).get(_VERSION_HEADER, _DEFAULT_VERSION)
        if isinstance(message, list) and revision in HANDSHAKE_PROTOCOL_VERSIONS:
            error = message[0].model_dump(mode="json", exclude_unset=True)
            await JSONResponse(error, 400)(scope, receive, send)
            return
        with ExitStack() as stack:
            if tool is not None and isinstance(message, dict):
                limiter = self._task_lookups if tool == "get_task" else self._generations
                await limiter.acquire(scope.get("state", {}).get("caller_key", ""))
                stack.callback(limiter.release)
                add_start_callback(scope, stack.close)
                asyncio.get_running_loop().call_later(_MAX_START_SECONDS, stack.close)
            del message
            await self._app(scope, replayed(body, receive), send)


def _called_tool(message: dict[str, Any] | list[JSONRPCError]) -> str | None:
    """The tool that a message calls; "" if it is invalid; None if it calls no tool."""
    if not isinstance(message, dict):
        return ""
    if message.get("method") != "tools/call":
        return None
    params = message.get("params")
    return str(params.get("name", "")) if isinstance(params, dict) else ""


def replayed(body: bytes, receive: Receive) -> Receive:
    """A receive function that returns the whole body first, and then the messages of `receive`."""
    unread = deque[Message]([{"type": "http.request", "body": body, "more_body": False}])

    async def receive_again() -> Message:
        return unread.popleft() if unread else await receive()

    return receive_again
