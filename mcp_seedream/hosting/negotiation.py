"""Which form an answer of the endpoint has: JSON or an event stream, as the client accepts it.

The SDK answers only clients that accept both forms, and chooses one itself. For a request of revision 2026-07-28 it
sends nothing, not even response headers, until the result, a notification, or 15 seconds. Some proxies do not tell a
server that a client has left before the response headers were sent, so that the call would go on.
"""

from __future__ import annotations

import asyncio
import re
from typing import Literal

from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_seedream.hosting.middleware import ENDPOINT, route_path

_JSON, _EVENTS = "application/json", "text/event-stream"
_SOON = 0.1  # seconds: a request that is refused has its answer by then, with a status of its own
_NEVER = re.compile(r"q=0(\.0*)?")
_DATA = re.compile(rb"^data: ?([^\r\n]+)", re.MULTILINE)
_STREAM_HEAD: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", _EVENTS.encode()),
        (b"cache-control", b"no-cache, no-transform"),
        (b"x-accel-buffering", b"no"),
    ],
}


class Negotiate:
    """Answers in a form that the client accepts, and sends the response headers before a call has ended."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or route_path(scope) != ENDPOINT:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        accepts = _accepted(headers.getlist("accept"))
        posted = scope["method"] == "POST"
        if not accepts or (not posted and _EVENTS not in accepts):
            await self._app(scope, receive, send)  # refused there
            return
        scope = {**scope, "headers": list(scope["headers"])}
        MutableHeaders(scope=scope)["accept"] = f"{_JSON}, {_EVENTS}"
        if not posted:
            await self._app(scope, receive, send)
            return
        answer = _Answer(send, accepts)
        # The SDK has no option for when it sends the headers: `_SSE_PING_INTERVAL` is private, and is the pause between
        # pings as well. With such an option, `begin_soon` and all that `_early` is for would go.
        if _EVENTS in accepts and headers.get("mcp-protocol-version", "2025-03-26") not in HANDSHAKE_PROTOCOL_VERSIONS:
            scope["state"] = {**scope.get("state", {}), "begun": answer.begin_soon}
        try:
            await self._app(scope, receive, answer.send)
        finally:
            answer.close()


class _Answer:
    """An answer of the SDK on its way to the client."""

    def __init__(self, send: Send, accepts: set[str]) -> None:
        self._send = send
        self._accepts = accepts
        self._way: Literal["as it is", "without its head", "as events", "as JSON"] = "as it is"
        self._timer: asyncio.TimerHandle | None = None
        self._early: asyncio.Task[None] | None = None
        self._body = b""

    def begin_soon(self) -> None:
        """Send the headers of an event stream in a moment, unless the answer comes first."""
        self._timer = asyncio.get_running_loop().call_later(_SOON, self._begin)

    def _begin(self) -> None:
        self._early = asyncio.create_task(self._send_head())

    async def _send_head(self) -> None:
        await self._send(_STREAM_HEAD)
        # Some proxies wait for the first bytes of a body.
        await self._send({"type": "http.response.body", "body": b": waiting\r\n\r\n", "more_body": True})

    def close(self) -> None:
        """Send no headers before the answer any more."""
        if self._timer:
            self._timer.cancel()

    async def send(self, message: Message) -> None:
        """Pass on one ASGI message of the answer, or translate it."""
        if message["type"] == "http.response.start":
            self.close()
            if self._early:
                await self._early
            self._choose(message)
            if self._way == "as it is":
                await self._send(message)
        elif self._way in ("as it is", "without its head"):
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body"):
                await (self._finish_as_events() if self._way == "as events" else self._finish_as_json())

    def _choose(self, head: Message) -> None:
        comes_as = Headers(raw=head["headers"]).get("content-type", "").partition(";")[0]
        if self._early:
            self._way = "without its head" if comes_as == _EVENTS else "as events"
        elif comes_as == _EVENTS and _EVENTS not in self._accepts:
            self._way = "as JSON"
        elif comes_as == _JSON and head["status"] == 200 and _JSON not in self._accepts:
            self._way = "as events"

    async def _finish_as_events(self) -> None:
        if not self._early:
            await self._send(_STREAM_HEAD)
        event = b"event: message\r\ndata: " + self._body + b"\r\n\r\n"
        await self._send({"type": "http.response.body", "body": event})

    async def _finish_as_json(self) -> None:
        """Send the last event as the answer; those before it report progress. Without any, the process is ending."""
        events: list[bytes] = _DATA.findall(self._body)
        body = events[-1] if events else b""
        headers = [(b"content-type", _JSON.encode()), (b"content-length", str(len(body)).encode())]
        status = 200 if events else 503
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def _accepted(headers: list[str]) -> set[str]:
    """Which of the two forms a client accepts; without a header, or an empty one, both (RFC 9110, 12.5.1)."""
    named: dict[str, bool] = {}
    for each in ",".join(headers).lower().split(","):
        name, *parameters = (part.strip() for part in each.split(";"))
        if name:
            named[name] = not any(_NEVER.fullmatch(parameter) for parameter in parameters)
    forms = ((_JSON, "application/*"), (_EVENTS, "text/*"))
    if not named:
        return {_JSON, _EVENTS}
    return {form for form, family in forms if named.get(form, named.get(family, named.get("*/*", False)))}
