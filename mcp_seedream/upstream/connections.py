"""Connections to the upstream: for each kind of request a pool of its own, which callers use in turn."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import cached_property
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import anyio
import httpx
from opentelemetry.propagate import inject
from opentelemetry.trace import SpanKind, StatusCode, get_tracer

from mcp_seedream import DISTRIBUTION, __version__
from mcp_seedream.core.errors import ConfigurationError, UpstreamUnavailable
from mcp_seedream.core.events import Observer, UpstreamRequest
from mcp_seedream.core.setting_rules import LOOPBACK
from mcp_seedream.upstream.fair_limiter import FairLimiter
from mcp_seedream.upstream.responses import ENCODING

_ANSWERS: ContextVar[list[httpx.Response] | None] = ContextVar("answers", default=None)
"""The answers of the turn that is being taken."""


class ConnectionPools:
    """The pools of one upstream, each made at its first use: a TLS context costs more than listing the tools does.

    Args:
        base_url: Where the upstream is.
        connections: Open at once in each pool, at most. Not one request waits within httpx's own queue, which is
            slow to search when it is long, and serves who came first.
        patience: Seconds to wait for a turn.
        observer: Told of every exchange.
    """

    def __init__(self, base_url: str, *, connections: int, patience: float, observer: Observer | None = None) -> None:
        self._base_url = base_url
        self._connections = connections
        self._patience = patience
        self._observer = observer or Observer()
        self._tracer = get_tracer(__name__)  # does nothing, unless the process has an exporter
        self._pools: dict[str, tuple[httpx.AsyncClient, FairLimiter]] = {}

    @asynccontextmanager
    async def connection(self, kind: str, caller: str) -> AsyncIterator[httpx.AsyncClient]:
        """A client that has a connection free, for one request of this caller.

        Raises:
            UpstreamUnavailable: There was none in time.
        """
        if kind not in self._pools:
            self._pools[kind] = self._client(), FairLimiter(self._connections)
        client, limiter = self._pools[kind]
        with anyio.move_on_after(self._patience) as scope:
            await limiter.acquire(caller)
        if scope.cancelled_caught:
            raise UpstreamUnavailable("All connections to the upstream are in use, so nothing was sent. Try later.")
        try:
            with self._observed(kind, caller):
                yield client
        finally:
            limiter.release()

    @contextmanager
    def _observed(self, kind: str, caller: str) -> Iterator[None]:
        """A span, and what is told of it: how long it took to the end of the answer, with which status, how much."""
        began = time.perf_counter()
        answers: list[httpx.Response] = []
        before = _ANSWERS.get()
        _ANSWERS.set(answers)
        status = None
        try:
            with self._tracer.start_as_current_span(f"seedream {kind}", kind=SpanKind.CLIENT) as span:
                try:
                    yield
                finally:
                    status = answers[-1].status_code if answers else None
                    if status is not None:
                        span.set_attribute("http.response.status_code", status)
                    if status is None or status >= httpx.codes.BAD_REQUEST:
                        span.set_status(StatusCode.ERROR)
        finally:
            _ANSWERS.set(before)
            self._observer.on_upstream_request(
                UpstreamRequest(
                    kind,
                    str(status or "error"),
                    time.perf_counter() - began,
                    sum(int(answer.request.headers.get("content-length", 0)) for answer in answers),
                    sum(answer.num_bytes_downloaded for answer in answers),
                )
            )
            if any(answer.status_code == httpx.codes.UNAUTHORIZED for answer in answers):
                self._observer.on_key_refused(caller)

    async def aclose(self) -> None:
        """Close every connection."""
        while self._pools:
            await self._pools.popitem()[1][0].aclose()

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return tls_context()

    def _client(self) -> httpx.AsyncClient:
        return http_client(
            self._base_url,
            self._tls,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=self._connections),
            event_hooks={"request": [_traced], "response": [_answered]},
        )


def tls_context() -> ssl.SSLContext:
    """What certificates are checked with.

    Raises:
        ConfigurationError: The file of SSL_CERT_FILE can't be used.
    """
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        reason = "it has no certificates" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigurationError(f"The file of SSL_CERT_FILE can't be used: {reason}.") from error


def http_client(base_url: str, tls: ssl.SSLContext, **options: Any) -> httpx.AsyncClient:
    """A client for one upstream, through the proxy of the environment where there is one.

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
            # One caller's cookies must not reach the upstream with another's call.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            mounts=dict.fromkeys(f"all://[{host}]" if ":" in host else f"all://{host}" for host in LOOPBACK),
            **options,
        )
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise ConfigurationError(
            f"The proxy of HTTPS_PROXY, HTTP_PROXY or ALL_PROXY can't be used: {error} "
            f"For a SOCKS proxy install {DISTRIBUTION}[socks]."
        ) from error


async def _traced(request: httpx.Request) -> None:
    """Let the upstream carry the span on, where there is one."""
    inject(request.headers)


async def _answered(response: httpx.Response) -> None:
    if (answers := _ANSWERS.get()) is not None:
        answers.append(response)
