"""Probes of an HTTP server: whether it can be reached, or the reason why not.

A probe uses the same proxy and the same certificates as every other request of this package. It recognises answers of
a proxy, a network with a sign-in page, or a virus scanner in between.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from functools import cached_property
from html import unescape
from typing import Any
from urllib.request import getproxies, getproxies_environment

import anyio
import httpx
import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from pydantic import ValidationError

from mcp_seedream.core.errors import ConfigurationError
from mcp_seedream.core.setting_rules import LOOPBACK
from mcp_seedream.doctor.findings import Finding, in_background
from mcp_seedream.upstream.connection_errors import diagnose
from mcp_seedream.upstream.connections import http_client, tls_context
from mcp_seedream.upstream.responses import read_whole, time_limit

_MAX_WAIT = 10  # seconds for an answer
_MAX_REASON = 200  # characters
_MAX_SKEW = 60  # seconds between two clocks
PRIVATE_STATUSES = (401, 403, 404)
"""Statuses of a proxy in front that keeps the probes private; see deploy/nginx.conf."""
_PORTAL = (
    "A proxy, or a network with a sign-in page (open any web page in a browser to see it), answers instead of the "
    "server. Or the address is wrong."
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer.

    Attributes:
        status: The HTTP status.
        headers: The headers.
        body: The whole body.
        at: When the headers arrived, in Unix seconds of this machine's clock.
        stages: Seconds of each stage of the request before that, by name.
        expires: When the certificate expires, in Unix seconds; None if there is none, or it is unknown.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    at: float
    stages: Mapping[str, float]
    expires: float | None = None

    @property
    def json_object(self) -> dict[str, Any]:
        """The body as a JSON object; empty if it is not one."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def page(self) -> str | None:
        """The title of a web page that was sent instead of data (empty if it has none); None for other answers."""
        start = self.body[:20_000].decode("utf-8", "replace").lstrip("\ufeff \r\n\t")
        if not start.startswith("<") and "html" not in self.headers.get("content-type", ""):
            return None
        title = re.search(r"<title[^>]*>(.*?)</title", start, re.IGNORECASE | re.DOTALL)
        return " ".join(unescape(title[1]).split())[:60] if title else ""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy; `source` is the variable that names it, or the system's settings."""

    url: httpx.URL
    source: str

    def __str__(self) -> str:
        port = f":{self.url.port}" if self.url.port else ""
        return f"{self.url.scheme}://{'***@' if self.url.userinfo else ''}{self.url.host}{port}"


class HttpProbe:
    """Probes one server.

    Args:
        url: The address of the server.
        connect: Time-out for a connection, in seconds.
        read: Time-out for an answer, in seconds; at most ten.
    """

    def __init__(self, url: str, *, connect: float, read: float) -> None:
        self.url = httpx.URL(url)
        self._timeout = httpx.Timeout(min(read, _MAX_WAIT), connect=connect)

    @property
    def is_local(self) -> bool:
        return self.url.host in LOOPBACK

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return tls_context()

    def proxy(self) -> Proxy | None:
        """The proxy that requests go through, if any.

        Raises:
            ConfigurationError: The proxy can't be used.
        """
        client = http_client("", self._tls)
        if client._transport_for_url(self.url) is client._transport:  # noqa: SLF001  (httpx decides which proxy applies)
            return None
        proxies = getproxies()
        kind = self.url.scheme if proxies.get(self.url.scheme) else "all"
        address = proxies[kind] if "://" in proxies[kind] else f"http://{proxies[kind]}"
        from_environment = kind in getproxies_environment()
        return Proxy(httpx.URL(address), f"{kind.upper()}_PROXY" if from_environment else "the system's settings")

    async def find_proxy(self) -> Finding:
        """Check which proxy is set, and whether it can be reached."""
        try:
            proxy = self.proxy()
        except ConfigurationError as error:
            return Finding("problem", error.message)
        except httpx.InvalidURL as error:
            return Finding("problem", f"The proxy's address is malformed: {error}")
        if proxy is None:
            unused = [f"{name.upper()}_PROXY" for name in ("https", "all") if getproxies().get(name)]
            return Finding("ok", f"none for {self.url.host}, though {unused[0]} is set" if unused else "none")
        port = proxy.url.port or {"https": 443, "socks5": 1080, "socks5h": 1080}.get(proxy.url.scheme, 80)
        try:
            with time_limit(self._timeout.connect or 0):
                await addresses(proxy.url.host, port)
                await (await anyio.connect_tcp(proxy.url.host, port)).aclose()
        except (OSError, httpx.ReadTimeout) as error:
            advice = f"Correct or remove {proxy.source}. NO_PROXY={self.url.host} bypasses it."
            return Finding(
                "problem", f"{proxy} ({proxy.source}): {connection_failure(error, proxy.url.host).found}", advice
            )
        return Finding("ok", f"{proxy} ({proxy.source})")

    async def exchange(self, method: str, url: httpx.URL | str = "", **request: Any) -> Answer | Finding:
        """Send one request; returns its answer, or a finding with the reason why there is none."""
        stages = _Stages()
        limit = (self._timeout.connect or 0) + (self._timeout.read or 0)
        proxied = None
        try:
            proxied = self.proxy()
            with time_limit(limit):
                if proxied is None:
                    stages.begin()
                    await addresses(self.url.host, self.url.port or 443)
                    stages.ended("name")
                return await self._send(method, self.url.join(url), stages, request)
        except ConfigurationError as error:
            return Finding("problem", error.message)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return self._failure(error, stages, proxied)

    async def _send(self, method: str, url: httpx.URL, stages: _Stages, request: dict[str, Any]) -> Answer:
        async with http_client("", self._tls, timeout=self._timeout) as http:
            stages.begin()
            built = http.build_request(method, url, extensions={"trace": stages.trace}, **request)
            response = await http.send(built, stream=True)
            at = time.time()
            stages.ended("answer")
            secured = response.extensions["network_stream"].get_extra_info("ssl_object")
            until = secured.getpeercert().get("notAfter") if secured else None
            expires = float(ssl.cert_time_to_seconds(until)) if until else None
            try:
                reply = await read_whole(response)
            finally:
                await response.aclose()
        return Answer(reply.status, reply.headers, reply.content, at, stages.seconds, expires)

    async def list_tools(self, token: str | None = None) -> list[str] | Finding:
        """The names of an MCP server's tools, or a finding with the reason why there are none."""
        failure: BaseException | None = None
        tools: list[str] = []
        try:
            async with self._mcp_client(token) as client:
                tools = [tool.name for tool in (await client.list_tools()).tools]
        except* (MCPError, ValidationError, httpx2.HTTPError, OSError) as errors:
            failure = errors
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
        if failure:
            reason = (str(failure) or type(failure).__name__).splitlines()[0][:_MAX_REASON]
            return Finding("problem", f"This is not the answer of an MCP server: {reason}")
        return tools or Finding("problem", "The server lists no tools.")

    @asynccontextmanager
    async def _mcp_client(self, token: str | None) -> AsyncIterator[Client]:
        """The SDK's client, connected through the same proxy and with the same certificates as `exchange`."""
        proxy = self.proxy()
        async with (
            httpx2.AsyncClient(
                headers={"Authorization": f"Bearer {token}"} if token else {},
                verify=self._tls,
                timeout=httpx2.Timeout(self._timeout.read, connect=self._timeout.connect),
                proxy=str(proxy.url) if proxy else None,
                trust_env=False,  # `proxy` was read from the environment
            ) as http,
            Client(streamable_http_client(str(self.url), http_client=http), mode="legacy") as client,
        ):
            yield client

    def _failure(self, error: Exception, stages: _Stages, proxy: Proxy | None) -> Finding:
        connected = "connection" in stages.seconds
        if isinstance(error, httpx.ProxyError):
            return self._refused_by_proxy(str(error), proxy)
        if proxy and not connected:
            return replace(connection_failure(error, proxy.url.host), advice=f"See {proxy.source}.")
        return connection_failure(error, self.url.host, connected=connected)

    def _refused_by_proxy(self, reason: str, proxy: Proxy | None) -> Finding:
        source = proxy.source if proxy else "HTTPS_PROXY"
        if reason.startswith("407"):
            advice = f"Set {source} to http://NAME:PASSWORD@HOST:PORT"
            return Finding("problem", f"The proxy {proxy} requires a user name and a password (407).", advice)
        advice = f"Ask the administrator of the proxy to allow {self.url.host}, or add it to NO_PROXY."
        return Finding("problem", f"The proxy {proxy} does not connect to {self.url.host}: {reason}", advice)


def connection_failure(error: Exception, host: str, *, connected: bool = False) -> Finding:
    """A finding with the reason why there is no answer."""
    return Finding("problem", *diagnose(error, host, connected=connected))


class _Stages:
    """Measures the stages of a request."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = 0.0

    def begin(self) -> None:
        self._since = time.perf_counter()

    def ended(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._since
        self._since = now

    async def trace(self, event: str, _: object) -> None:
        if event.endswith("connect_tcp.complete"):
            self.ended("connection")
        elif event.endswith("start_tls.complete"):
            self.ended("TLS")


async def addresses(host: str, port: int) -> list[str]:
    """The addresses of a host.

    Raises:
        OSError: It has no address.
    """
    # Not in the event loop's own threads, which would delay the end of the process until DNS answers.
    entries = await in_background(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


def foreign_answer(answer: Answer) -> Finding | None:
    """A finding if the answer is not from the server but from a system in between; None if it is from the server."""
    if answer.status == httpx.codes.PROXY_AUTHENTICATION_REQUIRED:
        return Finding("problem", "A proxy requires a user name and a password (407).", "Set them in HTTP_PROXY.")
    if 300 <= answer.status < 400:
        to = httpx.URL(answer.headers.get("location", "")).host or "another address"
        return Finding("problem", f"The answer is a redirect to {to} (HTTP {answer.status}).", _PORTAL)
    if (title := answer.page) is not None:
        named = f' ("{title}")' if title else ""
        return Finding("problem", f"A web page answers{named}, HTTP {answer.status}.", _PORTAL)
    return None


def clock_finding(answer: Answer, host: str) -> Finding:
    """A finding about the difference between this machine's clock and that of a host that answered."""
    try:
        server_time = parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError):
        return Finding("not checked", f"{host} sends no date")
    skew = answer.at - server_time
    if abs(skew) <= _MAX_SKEW:
        return Finding("ok", f"differs from that of {host} by {abs(skew):.0f} s")
    ahead = "ahead of" if skew > 0 else "behind"
    text = f"This machine's clock is {_duration(abs(skew))} {ahead} that of {host}."
    return Finding("warning", text, "Let the system set the time. Links, certificates and sign-in depend on it.")


def timing(answer: Answer) -> str:
    """The time of an answer as text, in total and by stage."""
    parts = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in answer.stages.items())
    return f"{sum(answer.stages.values()):.2f} s ({parts})"


def _duration(seconds: float) -> str:
    """A duration in its two largest units."""
    units = [("day", 86400), ("h", 3600), ("min", 60), ("s", 1)]
    parts, rest = [], round(seconds)
    for name, size in units:
        amount, rest = divmod(rest, size)
        if amount:
            parts.append(f"{amount} {name}{'s' if name == 'day' and amount > 1 else ''}")
    return " ".join(parts[:2])
