"""Serving over HTTP: the endpoint, who may use it, what probes and operators see.

A caller brings an own API token as `Authorization: Bearer`, or one of this server's sign-in, in which such a token is
sealed; it is used upstream for that request and for nothing else. Without one the answer is 401: the operator's token
is never used for a caller.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_seedream import __version__
from mcp_seedream.core.credentials import KeyCheck
from mcp_seedream.core.settings import Settings
from mcp_seedream.core.shutdown import Handler, Shutdown, die, shutdown_on_signals
from mcp_seedream.generation.services import Services
from mcp_seedream.hosting.access import Identified, KnownNames, PlainRequests, RequireCaller
from mcp_seedream.hosting.key_verifier import KeyVerifier
from mcp_seedream.hosting.limits import CallerLimits
from mcp_seedream.hosting.middleware import ENDPOINT, DropUnfinished, EnterInTurn, StopInOrder, route_path
from mcp_seedream.hosting.negotiation import Negotiate
from mcp_seedream.hosting.pages import CARD, elsewhere, server_card, welcome
from mcp_seedream.hosting.probes import Readiness
from mcp_seedream.oauth.routes import SignIn
from mcp_seedream.server.sdk import lowlevel_server
from mcp_seedream.telemetry.metrics import CONTENT_TYPE, Metrics
from mcp_seedream.upstream.client import SeedreamClient

PROBES = ("/health", "/ready", "/metrics")
_FEW = 100  # calls, which a full collection looks through in some 30 ms
_LAST_QUESTIONS = 0.5  # seconds in which a client may ask what it needs to understand its last answer
_EXPOSED = ("Mcp-Session-Id", "WWW-Authenticate", "Retry-After", "X-Request-ID")


def bearer_token(call: Context[Any, Any]) -> str | None:
    """The key of whoever made this HTTP request."""
    request = call.request_context.request
    return getattr(request.state, "caller_key", None) if isinstance(request, Request) else None


def wants_preview(default: bool) -> Callable[[Context[Any, Any]], bool]:
    """Reads `?preview=on` or `off` from the endpoint's URL; the default holds where it says nothing."""

    def preview(call: Context[Any, Any]) -> bool:
        request = call.request_context.request
        asked = request.query_params.get("preview") if isinstance(request, Request) else None
        return {"on": True, "off": False}.get(asked or "", default)

    return preview


def build_app(
    server: MCPServer[Any],
    settings: Settings,
    shutdown: Shutdown | None = None,
    *,
    upstream: SeedreamClient | None = None,
    callers: KeyVerifier | None = None,
    limits: CallerLimits | None = None,
    metrics: Metrics | None = None,
    sign_in: SignIn | None = None,
) -> Starlette:
    """The ASGI app: `/mcp` for every protocol revision (older ones stateless), probes, and pages for people.

    Args:
        server: A server whose tools take the caller's token from `bearer_token`.
        settings: Allowed hosts and origins, and limits of a request.
        shutdown: What the server's waits end with; begun by SIGTERM or SIGINT while the app runs.
        upstream: Asked whether it can be reached, and whether it takes a key; opened and closed by the app.
        callers: Remembers whose key is good; None: the call itself finds out.
        limits: How much callers may ask for.
        metrics: For `/metrics`.
        sign_in: For clients that have no token to send; closed by the app.

    Returns:
        The app, which has the server and what stops it in its `state`.
    """
    shutdown = shutdown or Shutdown()
    server.middleware.extend([_entered, _given_up])
    sessions = StreamableHTTPSessionManager(
        lowlevel_server(server), stateless=True, max_request_body_size=settings.max_body_mib * 2**20
    )
    signing_in = sign_in.routes() if sign_in else []
    # Sign-in is done from anywhere; what comes from a browser is told apart by its pages themselves.
    open_paths = {*PROBES, CARD, *(route.path for route in signing_in)}
    caller = Middleware(
        RequireCaller,
        check=_key_check(callers, upstream),
        limits=limits,
        challenge=sign_in.challenge if sign_in else "",
        opened=sign_in.opened if sign_in else None,
    )
    app = Starlette(
        routes=[
            Route(ENDPOINT, StreamableHTTPASGIApp(sessions)),
            *_pages(server, settings, shutdown, upstream, metrics),
            *signing_in,
        ],
        middleware=_doors(settings, shutdown, open_paths, caller),
        exception_handlers=elsewhere(settings),
        lifespan=_lifespan(sessions, shutdown, upstream, sign_in),
    )
    app.router.redirect_slashes = False
    app.state.server, app.state.shutdown = server, shutdown
    return app


def _doors(settings: Settings, shutdown: Shutdown, open_paths: Collection[str], caller: Middleware) -> list[Middleware]:
    """What a request passes on its way in, in this order."""
    own = [settings.public_url] if settings.public_url else []
    web = settings.cors_origins
    origins = ["*"] if "*" in web else [*settings.allowed_origins, *own, *web]
    names = [*settings.allowed_hosts, *(url.partition("://")[2] for url in own)]
    plain = Middleware(PlainRequests)
    doors = [plain, Middleware(DropUnfinished), Middleware(Identified)]
    if web:
        doors.append(Middleware(_Cors, elsewhere=open_paths, web=web))
    most = settings.max_header_kib * 1024
    return [
        *doors,
        Middleware(KnownNames, hosts=names, origins=origins, open_paths=open_paths, most_header_bytes=most),
        Middleware(StopInOrder, shutdown=shutdown),
        caller,
        Middleware(EnterInTurn),
        Middleware(Negotiate),
    ]


def _key_check(callers: KeyVerifier | None, upstream: SeedreamClient | None) -> KeyCheck | None:
    if callers is None or upstream is None:
        return None

    async def check(key: str) -> bool:
        return await callers.good(key, partial(upstream.look_up, kind="check"))

    return check


def _pages(
    server: MCPServer[Any],
    settings: Settings,
    shutdown: Shutdown,
    upstream: SeedreamClient | None,
    metrics: Metrics | None,
) -> list[Route]:
    """What anybody may see: pages for people and clients, probes, figures."""
    readiness = Readiness(shutdown, partial(upstream.look_up, kind="probe") if upstream else None)

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "version": __version__})

    async def ready(_: Request) -> Response:
        trouble = await readiness.trouble()
        return JSONResponse({"status": trouble or "ready"}, 503 if trouble else 200)

    async def figures(_: Request) -> Response:
        return Response(metrics.page() if metrics else b"", media_type=CONTENT_TYPE)

    routes = [Route("/health", health), Route("/ready", ready)]
    if metrics:
        routes.append(Route("/metrics", figures))
    return [*routes, *welcome(server, settings), *server_card(server, settings)]


def _lifespan(
    sessions: StreamableHTTPSessionManager, shutdown: Shutdown, upstream: SeedreamClient | None, sign_in: SignIn | None
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if upstream:
                await stack.enter_async_context(upstream)
            if sign_in:
                stack.push_async_callback(sign_in.aclose)
            group = await stack.enter_async_context(anyio.create_task_group())
            await stack.enter_async_context(shutdown_on_signals(shutdown, _hand_on))
            await stack.enter_async_context(sessions.run())
            group.start_soon(_collect_when_quiet, shutdown)
            yield
            shutdown.request()  # whoever told the app to end, if no signal did
            group.cancel_scope.cancel()

    return lifespan


async def _collect_when_quiet(shutdown: Shutdown) -> None:
    """Collect garbage once a minute, when few wait: a full collection takes as long as there are waiting calls."""
    while True:
        await anyio.sleep(60)
        if shutdown.calls_in_progress < _FEW:
            gc.collect()


async def _hand_on(number: int, handler: Handler | None) -> None:
    """Tell the HTTP server to stop, once nothing is left to be answered: it would cut older clients' streams off."""
    await anyio.sleep(_LAST_QUESTIONS)
    if handler:
        handler(number, None)
    else:
        die(number)


async def _entered(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """What was asked begins: the next one may come in."""
    state = getattr(ctx.request, "state", None)
    for told in ("entered", "begun"):
        if tell := getattr(state, told, None):
            tell()
    return await call_next(ctx)


async def _given_up(ctx: ServerRequestContext[Services, Any], call_next: CallNext) -> HandlerResult:
    """A client of an older revision says that it waits no longer, in a request that knows nothing of the other."""
    if ctx.method == "notifications/cancelled" and isinstance(ctx.request, Request):
        request_id = (ctx.params or {}).get("requestId")
        if isinstance(request_id, int | str):
            await ctx.lifespan_context.orphans.given_up(ctx.request.state.caller_key, request_id)
    return await call_next(ctx)


class _Cors:
    """For the endpoint: what anybody may read says so itself."""

    def __init__(self, app: ASGIApp, *, elsewhere: Collection[str], web: Sequence[str]) -> None:
        self._app = app
        self._elsewhere = elsewhere
        self._cors = CORSMiddleware(
            app,
            allow_origins=web,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        open_to_all = scope["type"] == "http" and route_path(scope) in self._elsewhere
        await (self._app if open_to_all else self._cors)(scope, receive, send)
