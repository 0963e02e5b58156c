"""Request bodies: limits of their time and size, and the memory for the bodies of tool calls.

A tool call may hold 64 MiB of pictures in base64, and 100 calls may arrive at once. So the endpoint reserves bytes of
the `BodyBudget` before it reads a body. It then cuts long strings out of the JSON: the SDK, which parses on the event
loop and keeps several copies until the response, gets a small message. The tools restore the strings.
"""

from __future__ import annotations

import codecs
import math
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, INVALID_REQUEST, ErrorData, JSONRPCError
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_seedream.core.concurrency import run_in_thread
from mcp_seedream.core.errors import LimitExceeded
from mcp_seedream.core.events import Observer
from mcp_seedream.hosting.body_budget import BodyBudget, BodyMemory
from mcp_seedream.hosting.middleware import replayed, route_path
from mcp_seedream.server.jsonrpc import CutJSON, JSONTooComplex, cut_long_strings

SMALL_BODY = 64 * 1024
"""Bytes. A body of up to this size is not cut if its structure is simple."""
_MIN_UPLOAD_RATE = 50_000  # bytes per second, on average; slower uploads time out
_SIMPLE = 1000  # brackets and commas
_COPIES = 2  # of the rest of a cut body
_TOKEN_BYTES = 128  # the most that a parser needs for a token
_TOO_LARGE = PlainTextResponse("Request body too large", 413)
_TOO_SLOW = JSONResponse(
    {"error": "timeout", "error_description": "The request did not come in time."}, 408, {"Connection": "close"}
)
_MAX_OTHER_STRINGS = 2**20  # characters, unless an image tool is called: responses may repeat them several times
_IMAGE_TOOLS = ("generate_image", "edit_image")


class IncompleteRequestMiddleware:
    """Ends requests whose body is cut off by a disconnect, arrives too slowly (408), or is too large (413).

    The SDK treats a disconnect in the body as an internal error and logs a traceback.

    Args:
        app: The app.
        body_seconds: The time for a body to arrive. Each 50 kB that have arrived extend it by a second.
        large_path: The path whose bodies have their own limit. All others are forms and metadata, up to 64 KiB.
    """

    def __init__(self, app: ASGIApp, *, body_seconds: float, large_path: str) -> None:
        self._app = app
        self._body_seconds = body_seconds
        self._large_path = large_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = math.inf if route_path(scope) == self._large_path else SMALL_BODY
        deadline, size, complete, responded = math.inf, 0, False, False
        refusal: Response | None = None

        async def receive_body() -> Message:
            nonlocal complete, refusal, deadline, size
            if complete:
                return await receive()
            if deadline == math.inf:
                deadline = anyio.current_time() + self._body_seconds
            with anyio.CancelScope(deadline=deadline):
                message = await receive()
                size += len(message.get("body", b""))
                if message["type"] != "http.disconnect" and size <= limit:
                    complete = not message.get("more_body", False)
                    deadline += len(message.get("body", b"")) / _MIN_UPLOAD_RATE
                    return message
            if size > limit:
                refusal = _TOO_LARGE
            elif anyio.current_time() >= deadline:
                refusal = _TOO_SLOW
            handling.cancel()
            await anyio.lowlevel.checkpoint()
            return {"type": "http.disconnect"}

        async def send_response(message: Message) -> None:
            nonlocal responded
            responded = True
            await send(message)

        with anyio.CancelScope() as handling:
            await self._app(scope, receive_body, send_response)
        if refusal and not responded:
            await refusal(scope, receive, send)


@dataclass(slots=True)
class RequestBody:
    """The body of a request to the endpoint, from when it is read until it is no longer used.

    Attributes:
        memory: Its bytes in the budget.
        strings: Long strings that were cut out of its JSON, by the names that replace them there.
    """

    memory: BodyMemory
    strings: dict[str, str] = field(default_factory=dict)
    _users: int = 0

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the memory while the context lasts. The end of the last such context frees it."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self.memory.free()

    def release_when_short(self, release: Callable[[], None]) -> None:
        """Register a function that frees the long strings. It is called when other requests need the memory."""
        self.memory.release_when_short(release)

    def take(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments with their long strings, and remove the strings from this object."""
        strings, self.strings = self.strings, {}
        return {name: _restored(value, strings) for name, value in arguments.items()}


class RequestBodyMiddleware:
    """Reads bodies within the budget, refuses complex JSON (400), and cuts long strings out of large bodies.

    Long strings are in the request's state as `held_arguments`. A body above the limit is refused (413), if possible
    before a byte of it is read. A request that waits too long for memory gets 503.

    Args:
        app: The app.
        max_bytes: The size limit of one body.
        budget: The memory for all bodies.
        observer: Notified when the budget is exceeded.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, budget: BodyBudget, observer: Observer) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._budget = budget
        self._observer = observer
        self._cutting = anyio.CapacityLimiter(1)  # while a body is cut, there are two copies of it

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = RequestBody(BodyMemory(self._budget, scope.get("state", {}).get("caller_id", "")))
        with body.in_use():
            refusal: Response | None = None
            try:
                message = await self._small_message(await self._read(scope, receive, body), body)
            except LimitExceeded as error:
                self._observer.on_limit_reached("request_bodies")
                content = {"error": error.code, "error_description": error.message}
                refusal = JSONResponse(content, 503, {"Retry-After": str(error.retry_after)})
            except JSONTooComplex as error:
                fault = JSONRPCError(jsonrpc="2.0", id=None, error=ErrorData(code=INVALID_REQUEST, message=str(error)))
                refusal = JSONResponse(fault.model_dump(mode="json", exclude_unset=True), 400)
            except _TooLarge:
                refusal = _TOO_LARGE
            if refusal:
                await refusal(scope, receive, send)
                return
            if body.strings:
                scope["state"] = {**scope.get("state", {}), "held_arguments": body}
            await self._app(scope, replayed(message, receive), send)

    async def _read(self, scope: Scope, receive: Receive, body: RequestBody) -> bytearray:
        """Read the whole body. One without a declared length reserves the memory of the largest, unless it is small.

        Raises:
            LimitExceeded: There is not enough memory.
            _TooLarge: It is above the limit.
        """
        size = Headers(scope=scope).get("content-length", "")
        declared = int(size) if size.isdecimal() else None
        limit: float = SMALL_BODY if declared is None else declared
        text, complete = bytearray(), False
        while not complete:
            if limit > self._max_bytes:
                raise _TooLarge
            await body.memory.acquire(int(limit))
            while not complete and len(text) <= limit:
                message = await receive()
                text += message.get("body", b"")
                complete = not message.get("more_body", False)
            limit = self._max_bytes if limit < self._max_bytes else math.inf
        return text

    async def _small_message(self, text: bytearray, body: RequestBody) -> bytes:
        """Cut the long strings out of the JSON, and keep them in `body`; return the rest.

        Raises:
            JSONTooComplex: It has too many tokens, or is too deep.
        """
        if text.startswith(codecs.BOM_UTF8):
            del text[: len(codecs.BOM_UTF8)]
        items = text.count(b",") + text.count(b"[") + text.count(b"{") if len(text) <= SMALL_BODY else math.inf
        if items <= _SIMPLE:
            message, tokens = bytes(text), int(items)
        else:
            cut = await self._cut(text)
            message, tokens, body.strings = cut.rest, cut.tokens, cut.strings
        held = sum(map(len, body.strings.values()))
        body.memory.resize(held + _COPIES * len(message) + _TOKEN_BYTES * tokens)
        return message

    async def _cut(self, text: bytearray) -> CutJSON:
        cut = partial(cut_long_strings, text, secrets.token_hex(16))
        return cut() if len(text) <= SMALL_BODY else await run_in_thread(cut, limiter=self._cutting)


class _TooLarge(Exception):
    """A body is above the limit."""


def _restored(value: Any, strings: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _restored(each, strings) for key, each in value.items()}
    if isinstance(value, list):
        return [_restored(each, strings) for each in value]
    return strings.get(value, value) if isinstance(value, str) else value


async def restore_long_strings(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Middleware of the MCP server: restores long strings in params. The image tools restore their own."""
    body = getattr(getattr(ctx.request, "state", None), "held_arguments", None)
    if isinstance(body, RequestBody):
        params = dict(ctx.params or {})
        arguments = params.get("arguments")
        if isinstance(arguments, str) and arguments in body.strings:
            params["arguments"] = await _cut_again(arguments, body)
        if ctx.method != "tools/call" or params.get("name") not in _IMAGE_TOOLS:
            if sum(map(len, body.strings.values())) > _MAX_OTHER_STRINGS:
                raise MCPError(INVALID_PARAMS, f"Only {' and '.join(_IMAGE_TOOLS)} accept more than 1 MiB.")
            params = body.take(params)
        ctx = replace(ctx, params=params)
    return await call_next(ctx)


async def _cut_again(name: str, body: RequestBody) -> str:
    """JSON in a long string, without the long strings in it."""
    text = body.strings.pop(name).encode()
    try:
        cut = await run_in_thread(cut_long_strings, text, secrets.token_hex(16))
    except JSONTooComplex:
        return "[]"  # refused by the server like any value that is not an object
    body.strings |= cut.strings
    return cut.rest.decode("utf-8", "replace")
