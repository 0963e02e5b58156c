"""Serving over HTTP: the endpoint, who is calling, health.

A caller brings an own API token as `Authorization: Bearer`; it is used upstream for that request and for
nothing else. Without one the answer is 401: the operator's token is never used for a caller.
"""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_seedream import __version__
from mcp_seedream.errors import TOKEN_PAGE
from mcp_seedream.settings import Settings
from mcp_seedream.stopping import Handler, Stopping, stopped_by_signals

ENDPOINT = "/mcp"
_LAST_QUESTIONS = 0.5  # seconds in which a client may ask what it needs to understand its last answer
_STOPPING = {"error": "stopping", "error_description": "The server is being stopped. Try again in a moment."}
_BEARER = re.compile(r"Bearer +([\x21-\x7e]{1,4096})", re.IGNORECASE)


def bearer_token(call: Context[Any, Any]) -> str | None:
    """The token that came with this HTTP request."""
    return _bearer((call.headers or {}).get("authorization"))


def wants_preview(default: bool) -> Callable[[Context[Any, Any]], bool]:
    """Reads `?preview=on` or `off` from the endpoint's URL; the default holds where it says nothing."""

    def preview(call: Context[Any, Any]) -> bool:
        request = call.request_context.request
        asked = request.query_params.get("preview") if isinstance(request, Request) else None
        return {"on": True, "off": False}.get(asked or "", default)

    return preview


def build_app(server: MCPServer[Any], settings: Settings, stopping: Stopping | None = None) -> Starlette:
    """The ASGI app: `/mcp` for every protocol revision (older ones stateless), and `/health`.

    Args:
        server: A server whose tools take the caller's token from `bearer_token`.
        settings: Allowed hosts and origins, and the limit of a request's body.
        stopping: What the server's waits end with; begun by SIGTERM or SIGINT while the app runs.
    """
    stopping = stopping or Stopping()
    app = server.streamable_http_app(
        streamable_http_path=ENDPOINT,
        stateless_http=True,
        max_request_body_size=settings.max_body_mib * 2**20,
        transport_security=TransportSecuritySettings(
            enable_dns_rebinding_protection=True,
            allowed_hosts=_with_ports(settings.allowed_hosts),
            allowed_origins=_with_ports(settings.allowed_origins),
        ),
    )
    app.user_middleware[:0] = [Middleware(StopInOrder, stopping=stopping), Middleware(RequireToken)]
    app.user_middleware.insert(0, Middleware(DropUnfinished))
    app.routes.append(Route("/health", _health))
    serve = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(served: Starlette) -> AsyncIterator[Any]:
        async with stopped_by_signals(stopping, _hand_on), serve(served) as state:
            yield state

    app.router.lifespan_context = lifespan
    return app


async def _hand_on(number: int, handler: Handler | None) -> None:
    """Tell the HTTP server to stop, once nothing is left to be answered: it would cut older clients' streams off."""
    await anyio.sleep(_LAST_QUESTIONS)
    if handler:
        handler(number, None)
    else:
        signal.raise_signal(number)


async def _health(_: Request) -> JSONResponse:
    return JSONResponse({"status": "ok", "version": __version__})


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
        if scope["type"] != "http" or scope["path"] != ENDPOINT:
            await self._app(scope, receive, send)
            return
        with self._stopping.answering():
            if self._stopping.begun.is_set():
                receive, start = await _peek(receive)
                if b'"tools/call"' in start:
                    await JSONResponse(_STOPPING, 503, {"Retry-After": "2"})(scope, receive, send)
                    return
            await self._app(scope, receive, send)


async def _peek(receive: Receive) -> tuple[Receive, bytes]:
    """The request's first part, with a way to receive it all the same."""
    message = await receive()
    unread = [message]

    async def again() -> Message:
        return unread.pop() if unread else await receive()

    return again, message.get("body", b"")


class RequireToken:
    """Answers 401 to a request of the endpoint that brings no token, before its body is read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "http"
            and scope["path"] == ENDPOINT
            and not _bearer(Headers(scope=scope).get("authorization"))
        ):
            message = f"Send your AceDataCloud API token as Authorization: Bearer. Get one at {TOKEN_PAGE}."
            body = {"error": "unauthorized", "error_description": message}
            await JSONResponse(body, 401, {"WWW-Authenticate": 'Bearer realm="mcp-seedream"'})(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _bearer(header: str | None) -> str | None:
    match = _BEARER.fullmatch(header.strip()) if header else None
    return match[1] if match else None


def _with_ports(names: list[str]) -> list[str]:
    """Each name as it is, and with any port where it has none."""
    bare = [name for name in names if not re.search(r":(\d+|\*)$", name)]
    return [*names, *(f"{name}:*" for name in bare)]
