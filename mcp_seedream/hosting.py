"""Serving over HTTP: the endpoint, who is calling, health.

A caller brings an own API token as `Authorization: Bearer`, or one of this server's sign-in, in which such a token is
sealed; it is used upstream for that request and for nothing else. Without one the answer is 401: the operator's token
is never used for a caller.
"""

from __future__ import annotations

import gc
import re
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, nullcontext
from typing import Any
from urllib.parse import urlsplit

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mcp_seedream import __version__
from mcp_seedream.client import SeedreamClient
from mcp_seedream.consent import KeyCheck
from mcp_seedream.errors import TokenRefused, UpstreamUnavailable
from mcp_seedream.middleware import ENDPOINT, DropUnfinished, EnterInTurn, RequireToken, StopInOrder, bearer
from mcp_seedream.oauth import SignIn
from mcp_seedream.settings import Settings
from mcp_seedream.stopping import Handler, Stopping, die, stopped_by_signals

_FEW = 100  # calls, which a full collection looks through in some 30 ms
_CHECKING = 15  # seconds at most, while a person looks at the consent page
_LAST_QUESTIONS = 0.5  # seconds in which a client may ask what it needs to understand its last answer


def bearer_token(call: Context[Any, Any]) -> str | None:
    """The API token that came with this HTTP request, or was sealed in the one that came."""
    request = call.request_context.request
    if isinstance(request, Request) and (key := getattr(request.state, "caller_key", None)):
        return str(key)
    return bearer((call.headers or {}).get("authorization"))


def wants_preview(default: bool) -> Callable[[Context[Any, Any]], bool]:
    """Reads `?preview=on` or `off` from the endpoint's URL; the default holds where it says nothing."""

    def preview(call: Context[Any, Any]) -> bool:
        request = call.request_context.request
        asked = request.query_params.get("preview") if isinstance(request, Request) else None
        return {"on": True, "off": False}.get(asked or "", default)

    return preview


def key_check(connect: Callable[[], SeedreamClient]) -> KeyCheck:
    """Asks for a task that there is not: an answer that costs nothing, and that only a good key gets."""

    async def check(key: str) -> bool:
        with anyio.move_on_after(_CHECKING):
            try:
                async with connect() as client:
                    await client.look_up([str(uuid.uuid4())], key)
            except TokenRefused:
                return False
            return True
        raise UpstreamUnavailable("The upstream took too long to answer.")

    return check


def build_app(
    server: MCPServer[Any], settings: Settings, stopping: Stopping | None = None, sign_in: SignIn | None = None
) -> Starlette:
    """The ASGI app: `/mcp` for every protocol revision (older ones stateless), and `/health`.

    Args:
        server: A server whose tools take the caller's token from `bearer_token`.
        settings: Allowed hosts and origins, and the limit of a request's body.
        stopping: What the server's waits end with; begun by SIGTERM or SIGINT while the app runs.
        sign_in: For clients that have no token to send.
    """
    stopping = stopping or Stopping()
    public = [urlsplit(settings.public_url).netloc] if settings.public_url else []
    app = server.streamable_http_app(
        streamable_http_path=ENDPOINT,
        stateless_http=True,
        max_request_body_size=settings.max_body_mib * 2**20,
        transport_security=TransportSecuritySettings(
            enable_dns_rebinding_protection=True,
            allowed_hosts=_with_ports([*settings.allowed_hosts, *public]),
            allowed_origins=_with_ports(settings.allowed_origins),
        ),
    )
    app.user_middleware[:0] = [
        Middleware(DropUnfinished),
        Middleware(StopInOrder, stopping=stopping),
        Middleware(RequireToken, sign_in=sign_in),
        Middleware(EnterInTurn),
    ]
    server.middleware.append(_entered)
    app.routes.extend([Route("/health", _health), *(sign_in.routes() if sign_in else [])])
    serve = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(served: Starlette) -> AsyncIterator[Any]:
        async with (
            aclosing(sign_in) if sign_in else nullcontext(),
            anyio.create_task_group() as group,
            stopped_by_signals(stopping, _hand_on),
            serve(served) as state,
        ):
            group.start_soon(_collect_when_quiet, stopping)
            yield state
            stopping.begin()  # whoever told the app to end, if no signal did
            group.cancel_scope.cancel()

    app.router.lifespan_context = lifespan
    return app


async def _collect_when_quiet(stopping: Stopping) -> None:
    """Collect garbage once a minute, when few wait: a full collection takes as long as there are waiting calls."""
    while True:
        await anyio.sleep(60)
        if stopping.calls < _FEW:
            gc.collect()


async def _hand_on(number: int, handler: Handler | None) -> None:
    """Tell the HTTP server to stop, once nothing is left to be answered: it would cut older clients' streams off."""
    await anyio.sleep(_LAST_QUESTIONS)
    if handler:
        handler(number, None)
    else:
        die(number)


async def _health(_: Request) -> JSONResponse:
    return JSONResponse({"status": "ok", "version": __version__})


async def _entered(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """What was asked begins: the next one may come in."""
    if isinstance(ctx.request, Request) and (done := getattr(ctx.request.state, "entered", None)):
        done()
    return await call_next(ctx)


def _with_ports(names: list[str]) -> list[str]:
    """Each name as it is, and with any port where it has none."""
    bare = [name for name in names if not re.search(r":(\d+|\*)$", name)]
    return [*names, *(f"{name}:*" for name in bare)]
