"""The ASGI app of the hosted server: the endpoint `/mcp` and its middleware, probes, metrics, and pages.

Callers authenticate with an AceDataCloud key as bearer token, or with a token of this server's sign-in, which
contains the key encrypted. The key is used for that caller's calls only; the operator's own token is never used.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_seedream import __version__
from mcp_seedream.core.concurrency import OnDemand
from mcp_seedream.core.events import Observer
from mcp_seedream.core.settings import Settings
from mcp_seedream.core.shutdown import Handler, Shutdown, exit_by_signal, shutdown_on_signals
from mcp_seedream.hosting.access import (
    METRICS,
    AddressKeyCheck,
    BearerKeyMiddleware,
    EndpointCorsMiddleware,
    HostAndOriginMiddleware,
    MetricsPortMiddleware,
)
from mcp_seedream.hosting.body_budget import BodyBudget
from mcp_seedream.hosting.key_verifier import KeyVerifier
from mcp_seedream.hosting.limits import AddressRateLimiter, CallerLimits, SignInLimitMiddleware
from mcp_seedream.hosting.middleware import (
    ENDPOINT,
    CallCountMiddleware,
    FairEntryMiddleware,
    NormalizeRequestMiddleware,
    RequestIdMiddleware,
)
from mcp_seedream.hosting.negotiation import ContentNegotiationMiddleware
from mcp_seedream.hosting.pages import CARD, not_found_handlers, server_card, welcome_page
from mcp_seedream.hosting.probes import Readiness
from mcp_seedream.hosting.request_bodies import (
    IncompleteRequestMiddleware,
    RequestBodyMiddleware,
    restore_long_strings,
)
from mcp_seedream.oauth.routes import SignIn
from mcp_seedream.server.runtime import Runtime
from mcp_seedream.server.sdk import lowlevel_server
from mcp_seedream.telemetry.metrics import CONTENT_TYPE, Metrics
from mcp_seedream.upstream.client import SeedreamClient

PROBES = ("/health", "/ready", METRICS)
_FEW_CALLS = 100  # in progress: a full collection then takes about 30 ms
_REFUSALS_A_SECOND = 50
_SIGN_IN_REQUESTS_A_SECOND = 100
_LAST_REQUEST_SECONDS = 0.5  # for requests that clients make before they accept a last result, such as tools/list


def bearer_token(call: Context[Any, Any]) -> str | None:
    """The caller's API key, from the HTTP request of a tool call."""
    request = call.request_context.request
    return getattr(request.state, "caller_key", None) if isinstance(request, Request) else None


def wants_preview(default: bool) -> Callable[[Context[Any, Any]], bool]:
    """A function that reads `?preview=on` or `off` from the endpoint's URL, with this default."""

    def preview(call: Context[Any, Any]) -> bool:
        request = call.request_context.request
        value = request.query_params.get("preview") if isinstance(request, Request) else None
        return {"on": True, "off": False}.get(value or "", default)

    return preview


def build_app(
    server: MCPServer[Any],
    settings: Settings,
    shutdown: Shutdown | None = None,
    *,
    upstream: SeedreamClient | None = None,
    key_verifier: KeyVerifier | None = None,
    limits: CallerLimits | None = None,
    metrics: Metrics | None = None,
    sign_in: SignIn | None = None,
    body_seconds: float = 60,
    bodies: BodyBudget | None = None,
) -> Starlette:
    """Build the ASGI app; the endpoint is stateless in every protocol revision.

    Args:
        server: A server whose tools get the caller's key from `bearer_token`.
        settings: The settings.
        shutdown: Ends the server's waits; requested by SIGTERM or SIGINT while the app runs.
        upstream: For the readiness probe and key checks; opened and closed by the app.
        key_verifier: Checks callers' keys; None to skip the check.
        limits: Limits of each caller.
        metrics: Served at `/metrics`.
        sign_in: OAuth, for clients that cannot send a key; closed by the app.
        body_seconds: The time for a request's body to arrive, beside what its size needs.
        bodies: The memory for bodies; by default, that of the settings.

    Returns:
        The app, with the server and the shutdown in its `state`.
    """
    shutdown, observer = shutdown or Shutdown(), metrics or Observer()
    server.middleware[:] = [restore_long_strings, *server.middleware, _run_start_callbacks, _abandon_cancelled_call]
    max_bytes = settings.max_body_mib * 2**20
    bodies = bodies or BodyBudget(settings.all_bodies_mib * 2**20)
    sessions = StreamableHTTPSessionManager(lowlevel_server(server), stateless=True, max_request_body_size=max_bytes)
    endpoint = Route(
        ENDPOINT,
        StreamableHTTPASGIApp(sessions),
        middleware=[
            _key_middleware(_key_check(key_verifier, upstream), limits, sign_in),
            # After the check of the key: waiting refusals do not delay a shutdown.
            Middleware(CallCountMiddleware, shutdown=shutdown),
            Middleware(RequestBodyMiddleware, max_bytes=max_bytes, budget=bodies, observer=observer),
            Middleware(FairEntryMiddleware, shutdown=shutdown),
            Middleware(ContentNegotiationMiddleware),
        ],
    )
    sign_in_routes = _limited_sign_in_routes(sign_in) if sign_in else []
    readiness = Readiness(shutdown, partial(upstream.look_up, kind="probe") if upstream else None, observer)
    app = Starlette(
        routes=[endpoint, *_public_routes(server, settings, readiness, metrics), *sign_in_routes],
        middleware=_middleware(settings, {CARD, *(route.path for route in sign_in_routes)}, body_seconds),
        exception_handlers=not_found_handlers(settings),
        lifespan=_lifespan(sessions, shutdown, readiness, upstream, sign_in),
    )
    app.router.redirect_slashes = False
    app.state.server, app.state.shutdown = server, shutdown
    return app


def _middleware(settings: Settings, public_paths: Collection[str], body_seconds: float) -> list[Middleware]:
    """The middleware of all routes, the outermost first; the endpoint's own middleware follows."""
    public_origins = [settings.public_url] if settings.public_url else []
    web_origins = settings.cors_origins
    cors = Middleware(EndpointCorsMiddleware, origins=web_origins, public_paths={*PROBES, *public_paths})
    return [
        Middleware(NormalizeRequestMiddleware),
        *([Middleware(MetricsPortMiddleware, port=settings.metrics_port)] if settings.metrics_port else []),
        Middleware(IncompleteRequestMiddleware, body_seconds=body_seconds, large_path=ENDPOINT),
        Middleware(RequestIdMiddleware),
        *([cors] if web_origins else []),
        Middleware(
            HostAndOriginMiddleware,
            hosts=[*settings.allowed_hosts, *(url.partition("://")[2] for url in public_origins)],
            origins=["*"] if "*" in web_origins else [*settings.allowed_origins, *public_origins, *web_origins],
            probe_paths=PROBES,
            public_paths=public_paths,  # pages of sign-in are opened from anywhere and check the origin themselves
            max_header_bytes=settings.max_header_kib * 1024,
        ),
    ]


def _key_check(key_verifier: KeyVerifier | None, upstream: SeedreamClient | None) -> AddressKeyCheck | None:
    if key_verifier is None or upstream is None:
        return None

    async def check(key: str, address: str) -> bool:
        return await key_verifier.is_valid(key, partial(upstream.look_up, kind="check"), address)

    return check


def _key_middleware(
    check_key: AddressKeyCheck | None, limits: CallerLimits | None, sign_in: SignIn | None
) -> Middleware:
    return Middleware(
        BearerKeyMiddleware,
        check_key=check_key,
        limits=limits,
        challenge=sign_in.challenge if sign_in else "",
        key_of_token=sign_in.key_of_token if sign_in else None,
        refusals=AddressRateLimiter(_REFUSALS_A_SECOND, patience=30, waiting=2000),
    )


def _limited_sign_in_routes(sign_in: SignIn) -> list[Route]:
    limiter = AddressRateLimiter(_SIGN_IN_REQUESTS_A_SECOND, patience=10, waiting=1000)
    routes = sign_in.routes()
    for route in routes:
        if not route.path.startswith("/.well-known/"):
            route.app = SignInLimitMiddleware(route.app, limiter)
    return routes


def _public_routes(
    server: MCPServer[Any], settings: Settings, readiness: Readiness, metrics: Metrics | None
) -> list[Route]:
    """Routes that need no key: probes, metrics, the welcome page and the server card."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "version": __version__})

    async def ready(_: Request) -> Response:
        upstream, problem = await readiness.upstream(), readiness.problem
        return JSONResponse({"status": problem or "ready", "upstream": upstream}, 503 if problem else 200)

    async def metrics_page(_: Request) -> Response:
        return Response(metrics.page() if metrics else b"", media_type=CONTENT_TYPE)

    routes = [Route("/health", health), Route("/ready", ready)]
    if metrics:
        routes.append(Route(METRICS, metrics_page))
    return [*routes, welcome_page(server, settings), server_card(server, settings)]


def _lifespan(
    sessions: StreamableHTTPSessionManager,
    shutdown: Shutdown,
    readiness: Readiness,
    upstream: SeedreamClient | None,
    sign_in: SignIn | None,
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if upstream:
                await stack.enter_async_context(upstream)
            if sign_in:
                stack.push_async_callback(sign_in.aclose)
            group = await stack.enter_async_context(anyio.create_task_group())
            await stack.enter_async_context(shutdown_on_signals(shutdown, _stop_http_server))
            await stack.enter_async_context(sessions.run())
            group.start_soon(readiness.check_on_demand)
            group.start_soon(_collect_garbage_when_quiet, shutdown)
            yield
            shutdown.request()  # the HTTP server ended the app without a signal
            group.cancel_scope.cancel()

    return lifespan


async def _collect_garbage_when_quiet(shutdown: Shutdown) -> None:
    """Run a full collection once a minute if few calls are in progress, since each call makes it slower."""
    while True:
        await anyio.sleep(60)
        if shutdown.calls_in_progress < _FEW_CALLS:
            gc.collect()


async def _stop_http_server(number: int, handler: Handler | None) -> None:
    """Pass the signal to the HTTP server, which closes open streams, after all calls have ended."""
    await anyio.sleep(_LAST_REQUEST_SECONDS)
    if handler:
        handler(number, None)
    else:
        exit_by_signal(number)


async def _run_start_callbacks(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Call the functions that `add_start_callback` registered for the HTTP request."""
    for callback in getattr(getattr(ctx.request, "state", None), "start_callbacks", ()):
        callback()
    return await call_next(ctx)


async def _abandon_cancelled_call(
    ctx: ServerRequestContext[OnDemand[Runtime], Any], call_next: CallNext
) -> HandlerResult:
    """Abandon a call that its client cancelled; clients of older revisions do so in a separate HTTP request."""
    if ctx.method == "notifications/cancelled" and isinstance(ctx.request, Request):
        request_id = (ctx.params or {}).get("requestId")
        if isinstance(request_id, int | str):
            runtime = await ctx.lifespan_context.get()
            await runtime.attempts.cancel(ctx.request.state.caller_key, request_id)
    return await call_next(ctx)
