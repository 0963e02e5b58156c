"""Connections to the upstream: for each kind of request a pool of its own, which callers use in turn."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property
from http.cookiejar import CookieJar, DefaultCookiePolicy

import anyio
import httpx

from mcp_seedream import __version__
from mcp_seedream.answers import ENCODING
from mcp_seedream.errors import ConfigurationError, UpstreamUnavailable
from mcp_seedream.turns import Turns

# A proxy of the environment is for the world outside: a sandbox on this machine is reached without.
_LOOPBACK = ("all://127.0.0.1", "all://localhost", "all://[::1]")


class Pools:
    """The pools of one upstream, each made at its first use: a TLS context costs more than listing the tools does.

    Args:
        base_url: Where the upstream is.
        connections: Open at once in each pool, at most. Not one request waits within httpx's own queue, which is
            slow to search when it is long, and serves who came first.
        patience: Seconds to wait for a turn.
    """

    def __init__(self, base_url: str, *, connections: int, patience: float) -> None:
        self._base_url = base_url
        self._connections = connections
        self._patience = patience
        self._pools: dict[str, tuple[httpx.AsyncClient, Turns]] = {}

    @asynccontextmanager
    async def turn(self, kind: str, caller: str) -> AsyncIterator[httpx.AsyncClient]:
        """A client that has a connection free, for one request of this caller.

        Raises:
            UpstreamUnavailable: There was none in time.
        """
        if kind not in self._pools:
            self._pools[kind] = self._client(), Turns(self._connections)
        client, turns = self._pools[kind]
        with anyio.move_on_after(self._patience) as scope:
            await turns.take(caller)
        if scope.cancelled_caught:
            raise UpstreamUnavailable("All connections to the upstream are in use, so nothing was sent. Try later.")
        try:
            yield client
        finally:
            turns.give()

    async def aclose(self) -> None:
        """Close every connection."""
        while self._pools:
            await self._pools.popitem()[1][0].aclose()

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()

    def _client(self) -> httpx.AsyncClient:
        try:
            return httpx.AsyncClient(
                base_url=self._base_url,
                verify=self._tls,
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=self._connections),
                headers={
                    "User-Agent": f"mcp-seedream/{__version__}",
                    "Content-Type": "application/json",
                    "Accept-Encoding": ENCODING,
                },
                # One caller's cookies must not reach the upstream with another's call.
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                mounts=dict.fromkeys(_LOOPBACK),
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise ConfigurationError(
                f"The proxy of HTTPS_PROXY, HTTP_PROXY or ALL_PROXY can't be used: {error} "
                "For a SOCKS proxy install mcp-seedream[socks]."
            ) from error
