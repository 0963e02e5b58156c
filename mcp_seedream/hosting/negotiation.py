"""Content negotiation at the endpoint: responds with JSON or an event stream, as the client accepts.

The SDK only answers clients that accept both, and chooses one itself. For a request of revision 2026-07-28 it sends
nothing, not even response headers, before the result, a notification, or 15 seconds. Some proxies do not report to the
server that a client disconnected before the response headers, so that the call would continue.
"""

from __future__ import annotations

import asyncio
import re
from typing import Literal

from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_seedream.hosting.middleware import add_start_callback

_JSON, _EVENTS = "application/json", "text/event-stream"
_HEAD_SECONDS = 0.1  # after which the headers are sent; refusals have another status, and are sent earlier
_ZERO_QUALITY = re.compile(r"q=0(\.0*)?")
_Mode = Literal["unchanged", "without head", "to events", "to JSON"]
"""How a response of the SDK is passed on to the client."""
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


class ContentNegotiationMiddleware:
    """Responds in a media type that the client accepts, and sends the response headers before a call has ended."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        accepts = _accepted(headers.getlist("accept"))
        if not accepts:
            await self._app(scope, receive, send)  # the SDK refuses the request
            return
        scope = {**scope, "headers": list(scope["headers"])}
        MutableHeaders(scope=scope)["accept"] = f"{_JSON}, {_EVENTS}"
        response = _Response(send, accepts)
        # The SDK has no option for the time at which it sends the headers: `_SSE_PING_INTERVAL` is private, and is the
        # interval of pings as well. Such an option would replace `send_head_soon` and `_head_task`.
        if _EVENTS in accepts and headers.get("mcp-protocol-version", "2025-03-26") not in HANDSHAKE_PROTOCOL_VERSIONS:
            add_start_callback(scope, response.send_head_soon)
        try:
            await self._app(scope, receive, response.send)
        finally:
            response.close()


class _Response:
    """A response of the SDK, sent to the client in a media type that it accepts."""

    def __init__(self, send: Send, accepts: set[str]) -> None:
        self._send = send
        self._accepts = accepts
        self._mode: _Mode = "unchanged"
        self._timer: asyncio.TimerHandle | None = None
        self._head_task: asyncio.Task[None] | None = None
        self._body = b""

    def send_head_soon(self) -> None:
        """Send the headers of an event stream after 0.1 s, unless the response starts first."""
        self._timer = asyncio.get_running_loop().call_later(_HEAD_SECONDS, self._start_head_task)

    def _start_head_task(self) -> None:
        self._head_task = asyncio.create_task(self._send_head())

    async def _send_head(self) -> None:
        await self._send(_STREAM_HEAD)
        # Some proxies wait for the first bytes of a body.
        await self._send({"type": "http.response.body", "body": b": waiting\r\n\r\n", "more_body": True})

    def close(self) -> None:
        """Cancel the timer of `send_head_soon`."""
        if self._timer:
            self._timer.cancel()

    async def send(self, message: Message) -> None:
        """Send one ASGI message of the response, translated if necessary."""
        if message["type"] == "http.response.start":
            self.close()
            if self._head_task:
                await self._head_task
            self._mode = self._mode_for(message)
            if self._mode == "unchanged":
                await self._send(message)
        elif self._mode in ("unchanged", "without head"):
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body"):
                await (self._send_as_events() if self._mode == "to events" else self._send_as_json())

    def _mode_for(self, head: Message) -> _Mode:
        media_type = Headers(raw=head["headers"]).get("content-type", "").partition(";")[0]
        if self._head_task:
            return "without head" if media_type == _EVENTS else "to events"
        if media_type == _EVENTS and _EVENTS not in self._accepts:
            return "to JSON"
        if media_type == _JSON and head["status"] == 200 and _JSON not in self._accepts:
            return "to events"
        return "unchanged"

    async def _send_as_events(self) -> None:
        if not self._head_task:
            await self._send(_STREAM_HEAD)
        event = b"event: message\r\ndata: " + self._body + b"\r\n\r\n"
        await self._send({"type": "http.response.body", "body": event})

    async def _send_as_json(self) -> None:
        """Send the last event, which is the result; earlier events are progress. No event means a shutdown: 503."""
        events: list[bytes] = _DATA.findall(self._body)
        body = events[-1] if events else b""
        headers = [(b"content-type", _JSON.encode()), (b"content-length", str(len(body)).encode())]
        status = 200 if events else 503
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def _accepted(headers: list[str]) -> set[str]:
    """Which of the two media types a client accepts; both if the header is missing or empty (RFC 9110, 12.5.1)."""
    ranges: dict[str, bool] = {}
    for each in ",".join(headers).lower().split(","):
        name, *parameters = (part.strip() for part in each.split(";"))
        if name:
            ranges[name] = not any(_ZERO_QUALITY.fullmatch(parameter) for parameter in parameters)
    types = ((_JSON, "application/*"), (_EVENTS, "text/*"))
    if not ranges:
        return {_JSON, _EVENTS}
    return {exact for exact, family in types if ranges.get(exact, ranges.get(family, ranges.get("*/*", False)))}
