"""Whether an address can be reached, the way this server goes there, and if not, in which way not.

One request tells: through the proxy of the environment or without, with the certificates that all requests are checked
with. Whatever stands in between (a proxy, a network that wants a sign-in, a virus scanner) has words of its own.
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
from mcp_seedream.upstream.connection_errors import why
from mcp_seedream.upstream.connections import http_client, tls_context
from mcp_seedream.upstream.responses import at_most, read_whole

_MOST_WAIT = 10  # seconds for an answer that is no work
_LONGEST_REASON = 200  # characters
_MOST_SKEW = 60  # seconds that clocks may be apart
KEPT_BACK = (401, 403, 404)
"""What a proxy in front answers where it keeps probes from the public; see deploy/nginx.conf."""
_PORTAL = (
    "Something stands in between: a network that wants a sign-in (open a web page in a browser and see), or a proxy. "
    "Or the address is wrong."
)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, whole; `at` is when it began, by our clock, `stages` what took how long until then, in seconds."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    at: float
    stages: Mapping[str, float]
    expires: float | None = None
    """When the certificate does, in Unix seconds."""

    @property
    def json_object(self) -> dict[str, Any]:
        """The body as a JSON object; empty where it is none."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def page(self) -> str | None:
        """The title of a web page that came instead of data ("" where it has none); None: it is no page."""
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


class Way:
    """The way to one server.

    Args:
        url: Its address.
        connect: Seconds for a connection.
        read: Seconds for an answer; ten at the most.
    """

    def __init__(self, url: str, *, connect: float, read: float) -> None:
        self.url = httpx.URL(url)
        self._timeout = httpx.Timeout(min(read, _MOST_WAIT), connect=connect)

    @property
    def is_local(self) -> bool:
        return self.url.host in LOOPBACK

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return tls_context()

    def proxy(self) -> Proxy | None:
        """The proxy that requests go through.

        Raises:
            ConfigurationError: There is one that can't be used.
        """
        client = http_client("", self._tls)
        if client._transport_for_url(self.url) is client._transport:  # noqa: SLF001  (what httpx would do, it knows)
            return None
        known = getproxies()
        kind = self.url.scheme if known.get(self.url.scheme) else "all"
        address = known[kind] if "://" in known[kind] else f"http://{known[kind]}"
        named = kind in getproxies_environment()
        return Proxy(httpx.URL(address), f"{kind.upper()}_PROXY" if named else "the system's settings")

    async def find_proxy(self) -> Finding:
        """A finding: which proxy there is, and whether it is there."""
        try:
            proxy = self.proxy()
        except ConfigurationError as error:
            return Finding("problem", error.message)
        except httpx.InvalidURL as error:
            return Finding("problem", f"The proxy's address is none: {error}")
        if proxy is None:
            unused = [f"{name.upper()}_PROXY" for name in ("https", "all") if getproxies().get(name)]
            left_out = f"none for {self.url.host}, though {unused[0]} is set" if unused else "none"
            return Finding("ok", left_out)
        port = proxy.url.port or {"https": 443, "socks5": 1080, "socks5h": 1080}.get(proxy.url.scheme, 80)
        try:
            with at_most(self._timeout.connect or 0):
                await addresses(proxy.url.host, port)
                await (await anyio.connect_tcp(proxy.url.host, port)).aclose()
        except (OSError, httpx.ReadTimeout) as error:
            advice = f"Correct or remove {proxy.source}; NO_PROXY={self.url.host} goes past it."
            return Finding("problem", f"{proxy} ({proxy.source}): {obstacle(error, proxy.url.host).found}", advice)
        return Finding("ok", f"{proxy} ({proxy.source})")

    async def exchange(self, method: str, url: httpx.URL | str = "", **request: Any) -> Answer | Finding:
        """Send one request, and read its answer, or find out why there is none."""
        stages = _Stages()
        limit = (self._timeout.connect or 0) + (self._timeout.read or 0)
        proxied = None
        try:
            proxied = self.proxy()
            with at_most(limit):
                if proxied is None:
                    stages.begin()
                    await addresses(self.url.host, self.url.port or 443)
                    stages.ended("name")
                return await self._sent(method, self.url.join(url), stages, request)
        except ConfigurationError as error:
            return Finding("problem", error.message)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return self._unreached(error, stages, proxied)

    async def _sent(self, method: str, url: httpx.URL, stages: _Stages, request: dict[str, Any]) -> Answer:
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
        """The names of an MCP server's tools, or a finding: why there are none."""
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
            reason = (str(failure) or type(failure).__name__).splitlines()[0][:_LONGEST_REASON]
            return Finding("problem", f"The answer is not that of an MCP server: {reason}")
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
                trust_env=False,  # `proxy` is already the environment's
            ) as http,
            Client(streamable_http_client(str(self.url), http_client=http), mode="legacy") as client,
        ):
            yield client

    def _unreached(self, error: Exception, stages: _Stages, proxy: Proxy | None) -> Finding:
        connected = "connection" in stages.seconds
        if isinstance(error, httpx.ProxyError):
            return self._refused_by_proxy(str(error), proxy)
        if proxy and not connected:
            return replace(obstacle(error, proxy.url.host), advice=f"See {proxy.source}.")
        return obstacle(error, self.url.host, connected=connected)

    def _refused_by_proxy(self, said: str, proxy: Proxy | None) -> Finding:
        source = proxy.source if proxy else "HTTPS_PROXY"
        if said.startswith("407"):
            advice = f"Put them into {source}: http://NAME:PASSWORD@HOST:PORT"
            return Finding("problem", f"The proxy {proxy} wants a user name and a password (407).", advice)
        advice = f"Ask whoever runs the proxy to let {self.url.host} through, or put it into NO_PROXY."
        return Finding("problem", f"The proxy {proxy} does not connect to {self.url.host}: {said}", advice)


def obstacle(error: Exception, host: str, *, connected: bool = False) -> Finding:
    """A finding: why there is no answer; see `why`."""
    return Finding("problem", *why(error, host, connected=connected))


class _Stages:
    """Takes the time of each stage of a request, from the one before it."""

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
        OSError: It has none.
    """
    # Not by the event loop's own threads: they would hold up the end of the process for as long as DNS is silent.
    found = await in_background(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def unexpected(answer: Answer) -> Finding | None:
    """What is wrong with an answer that should be a server's own: it is somebody else's."""
    if answer.status == httpx.codes.PROXY_AUTHENTICATION_REQUIRED:
        return Finding("problem", "A proxy wants a user name and a password (407).", "Put them into HTTP_PROXY.")
    if 300 <= answer.status < 400:
        to = httpx.URL(answer.headers.get("location", "")).host or "another address"
        return Finding("problem", f"The answer is a redirect to {to} (HTTP {answer.status}).", _PORTAL)
    if (title := answer.page) is not None:
        named = f' ("{title}")' if title else ""
        return Finding("problem", f"A web page answers{named}, HTTP {answer.status}.", _PORTAL)
    return None


def clock(answer: Answer, host: str) -> Finding:
    """How far this machine's clock is from that of a host which answered."""
    try:
        theirs = parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError):
        return Finding("not checked", f"{host} does not say what time it is")
    skew = answer.at - theirs
    if abs(skew) <= _MOST_SKEW:
        return Finding("ok", f"{abs(skew):.0f} s from that of {host}")
    ahead = "ahead of" if skew > 0 else "behind"
    found = f"This machine's clock is {_span(abs(skew))} {ahead} that of {host}."
    return Finding("warning", found, "Let the system set it: links, certificates and sign-in depend on it.")


def timing(answer: Answer) -> str:
    """How long an answer took, and its stages."""
    parts = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in answer.stages.items())
    return f"{sum(answer.stages.values()):.2f} s ({parts})"


def _span(seconds: float) -> str:
    """A length of time in the two largest units."""
    units = [("day", 86400), ("h", 3600), ("min", 60), ("s", 1)]
    parts, rest = [], round(seconds)
    for name, size in units:
        amount, rest = divmod(rest, size)
        if amount:
            parts.append(f"{amount} {name}{'s' if name == 'day' and amount > 1 else ''}")
    return " ".join(parts[:2])
