"""Connections to the upstream: one pool for each kind of request, shared by callers round-robin."""

from __future__ import annotations

import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cached_property
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import anyio
import httpx
from opentelemetry.propagate import inject
from opentelemetry.trace import SpanKind, StatusCode, get_tracer, set_span_in_context

from mcp_seedream import DISTRIBUTION, __version__
from mcp_seedream.core.errors import ConfigurationError, UpstreamUnavailable
from mcp_seedream.core.events import Observer, UpstreamRequest
from mcp_seedream.core.setting_rules import LOOPBACK
from mcp_seedream.upstream.fair_limiter import FairLimiter
from mcp_seedream.upstream.responses import ENCODING

CHECK_CONNECTIONS = 64
"""The largest number of connections for checks of keys. Any client can cause such checks."""
_REUSE_SECONDS = 4
"""Idle connections are not reused after this time: many servers close them after 5 seconds, and a request that is sent
at that moment may or may not be billed."""
_IDLE_SECONDS = 30  # after which unused connections are closed


class ConnectionPools:
    """One connection pool for each kind of request, created when it is first used.

    Creating a TLS context takes longer than listing the tools, so it is created with the first pool.

    Args:
        base_url: The upstream's address.
        connections: The largest number of open connections in each pool; for checks of keys at most
            `CHECK_CONNECTIONS`. Requests wait here and not in httpx's queue, which serves them in their order of
            arrival and becomes slow when it is long.
        patience: Seconds to wait for a free connection.
        observer: Notified of each request.
    """

    def __init__(self, base_url: str, *, connections: int, patience: float, observer: Observer | None = None) -> None:
        self._base_url = base_url
        self._connections = connections
        self._patience = patience
        self._observer = observer or Observer()
        self._pools: dict[str, tuple[httpx.AsyncClient, FairLimiter]] = {}

    @asynccontextmanager
    async def connection(self, kind: str, caller: str) -> AsyncIterator[httpx.AsyncClient]:
        """A client with a free connection, for one request of this caller.

        Requests carry the caller's token as `extensions={"caller": token}`.

        Raises:
            UpstreamUnavailable: No connection became free in time.
        """
        if kind not in self._pools:
            size = min(self._connections, CHECK_CONNECTIONS) if kind == "check" else self._connections
            self._pools[kind] = self._client(kind), FairLimiter(size)
        client, limiter = self._pools[kind]
        with anyio.move_on_after(self._patience) as scope:
            await limiter.acquire(caller)
        if scope.cancelled_caught:
            raise UpstreamUnavailable("All connections to the upstream are in use, so nothing was sent. Try later.")
        try:
            yield client
        finally:
            limiter.release()

    async def aclose(self) -> None:
        """Close every connection."""
        while self._pools:
            await self._pools.popitem()[1][0].aclose()

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return tls_context()

    def _client(self, kind: str) -> httpx.AsyncClient:
        transport = ObservingTransport(self._transport, kind, self._observer)
        return http_client(self._base_url, self._tls, transport=transport)

    def _transport(self) -> httpx.AsyncBaseTransport:
        plain = http_client(self._base_url, self._tls, limits=httpx.Limits(keepalive_expiry=_REUSE_SECONDS))
        # httpx reads proxies from the environment only for clients without a transport, and has no public function that
        # returns the transport it would use.
        return plain._transport_for_url(plain.base_url)  # noqa: SLF001


class ObservingTransport(httpx.AsyncBaseTransport):
    """Sends requests: each gets a span, trace headers, and an `UpstreamRequest` event at its response's end.

    Each request in progress has its own transport. The most recently used idle transport is used first. A single pool
    of httpcore would examine all connections several times for each request, which takes 10 ms with 100 of them.

    `extensions["caller"]` of a request is the key that `on_key_refused` receives after a 401.

    Args:
        create: Creates a transport.
        kind: The purpose of the requests.
        observer: Notified of each request.
    """

    def __init__(self, create: Callable[[], httpx.AsyncBaseTransport], kind: str, observer: Observer) -> None:
        self._create = create
        self._kind = kind
        self._observer = observer
        self._tracer = get_tracer(__name__)  # does nothing unless the process has an exporter
        self._idle: deque[tuple[httpx.AsyncBaseTransport, float]] = deque()  # with the end of the last request

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        started = time.perf_counter()
        if self._idle and self._idle[0][1] < started - _IDLE_SECONDS:
            await self._idle.popleft()[0].aclose()
        transport = self._idle.pop()[0] if self._idle else self._create()
        span = self._tracer.start_span(f"seedream {self._kind}", kind=SpanKind.CLIENT)
        inject(request.headers, set_span_in_context(span))

        def end(response: httpx.Response | None = None, received: int = 0) -> None:
            self._idle.append((transport, time.perf_counter()))
            status = response.status_code if response else None
            if status is not None:
                span.set_attribute("http.response.status_code", status)
            if status is None or status >= httpx.codes.BAD_REQUEST:
                span.set_status(StatusCode.ERROR)
            span.end()
            sent = int(request.headers.get("content-length", 0)) if response else 0
            seconds = time.perf_counter() - started
            self._observer.on_upstream_request(
                UpstreamRequest(self._kind, str(status or "error"), seconds, sent, received)
            )
            if status == httpx.codes.UNAUTHORIZED:
                self._observer.on_key_refused(request.extensions["caller"])

        try:
            response = await transport.handle_async_request(request)
        except BaseException as error:
            span.record_exception(error)
            end()
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _ObservedStream(response.stream, lambda received: end(response, received))
        return response

    async def aclose(self) -> None:
        while self._idle:
            await self._idle.pop()[0].aclose()


class _ObservedStream(httpx.AsyncByteStream):
    """The body of a response. At its end, `on_close` is called with the number of bytes that were read."""

    def __init__(self, stream: httpx.AsyncByteStream, on_close: Callable[[int], None]) -> None:
        self._stream = stream
        self._on_close = on_close
        self._received = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            self._received += len(part)
            yield part

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._on_close(self._received)


def tls_context() -> ssl.SSLContext:
    """The TLS context for all requests, with the authorities of SSL_CERT_FILE if it is set.

    Raises:
        ConfigurationError: SSL_CERT_FILE can't be used.
    """
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        reason = "it has no certificates" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigurationError(f"The file of SSL_CERT_FILE can't be used: {reason}.") from error


def http_client(base_url: str, tls: ssl.SSLContext, **options: Any) -> httpx.AsyncClient:
    """A client for one upstream. It uses the proxy of the environment, except for addresses of this machine.

    Raises:
        ConfigurationError: The proxy can't be used.
    """
    try:
        return httpx.AsyncClient(
            base_url=base_url,
            verify=tls,
            headers={
                "User-Agent": f"mcp-seedream/{__version__}",
                "Content-Type": "application/json",
                "Accept-Encoding": ENCODING,
            },
            # One caller's cookies must not be sent with another caller's request.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            mounts=dict.fromkeys(f"all://[{host}]" if ":" in host else f"all://{host}" for host in LOOPBACK),
            **options,
        )
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise ConfigurationError(
            f"The proxy of HTTPS_PROXY, HTTP_PROXY or ALL_PROXY can't be used: {error} "
            f"For a SOCKS proxy install {DISTRIBUTION}[socks]."
        ) from error
