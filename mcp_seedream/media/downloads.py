"""Fetches generated pictures: the one guarded way out for links that somebody else wrote.

A link comes from the upstream's answer, and an answer may be wrong or forged. So: https only (http only to
the sandbox on this machine); every host is resolved, for each connection, and refused unless all of its addresses
are public; the connection goes to an address that was checked, and its certificate must be for the link's host; at
most three redirects; a limit of bytes and of time; streamed to disk.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from collections.abc import Iterable
from functools import cached_property, partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urljoin
from urllib.request import getproxies, proxy_bypass

import anyio
import httpcore
import httpx

from mcp_seedream import __version__
from mcp_seedream.catalog.picture_kinds import kind
from mcp_seedream.core.errors import UnreadableReply, UpstreamUnavailable
from mcp_seedream.upstream.error_mapping import retry_after_seconds
from mcp_seedream.upstream.retries import Retries

MAX_BYTES = 64 * 2**20
"""Of one picture: a 4K PNG is well below."""
_REDIRECTS = 3
_INSIDE = ("local", "localhost", "localdomain", "arpa", "internal", "intranet", "private", "lan", "home", "corp")
"""Top-level names that no public host has: RFC 6761, 6762 (appendix G), 8375, and what Linux calls itself."""
# Beside what the standard library knows: ranges that carry a private address within, or lead to one.
_NOT_PUBLIC = [
    ipaddress.ip_network(net)
    for net in ("192.0.0.0/24", "::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "fec0::/10")
]
_NEXT_ADDRESS = 0.25  # seconds until the next address is tried beside one that does not answer (RFC 8305)
_LAST_PORT = 65535
_HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": f"mcp-seedream/{__version__}"}
_PRIVATE = "The picture's link leads to a private address, so it was not followed."


class Downloads:
    """Fetches pictures. Use as an async context manager, once for the process.

    Args:
        sandbox: Address of a sandbox on this machine, the only place that http and a loopback address are
            taken from.
        seconds: For one picture, redirects and repetitions included.
        most_bytes: Of one picture.
        retries: For what may pass: no connection, no answer in time, 429, 5xx.
    """

    def __init__(
        self,
        *,
        sandbox: str | None = None,
        seconds: float = 30,
        most_bytes: int = MAX_BYTES,
        retries: Retries | None = None,
    ) -> None:
        self._sandbox = httpx.URL(sandbox) if sandbox else None
        self._seconds = seconds
        self._most_bytes = most_bytes
        self._retries = retries or Retries(seconds=seconds)
        self._clients: dict[str, httpx.AsyncClient] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._clients:
            await self._clients.popitem()[1].aclose()

    async def fetch(self, url: str, path: Path) -> None:
        """Fetch a picture into a file.

        Raises:
            UpstreamUnavailable: It did not come, or not in time; nothing of use is in the file.
            UnreadableReply: It is refused, dead, too large or no picture.
            OSError: The file can't be written.
        """
        try:
            with anyio.fail_after(self._seconds):
                await self._retries(partial(self._follow, url, path), lambda error: error.retryable)
                await _check(path)
        except TimeoutError as error:
            raise UpstreamUnavailable(f"The picture took longer than {self._seconds:.0f} s to fetch.") from error

    async def _follow(self, url: str, path: Path) -> None:
        try:
            for _ in range(_REDIRECTS + 1):
                moved = await self._hop(url, path)
                if moved is None:
                    return
                url = moved
        except httpx.HTTPError as error:
            raise UpstreamUnavailable(f"The picture could not be fetched ({type(error).__name__}).") from error
        except (httpx.InvalidURL, ValueError) as error:
            raise UnreadableReply(f"The picture could not be fetched ({type(error).__name__}).") from error
        raise UnreadableReply(f"The picture's link was redirected more than {_REDIRECTS} times.")

    async def _hop(self, url: str, path: Path) -> str | None:
        """One request: the address of the next one, or None where the picture is in the file."""
        target = httpx.URL(url)
        client = self._client(self._route(target))
        response = await client.send(httpx.Request("GET", target, headers=_HEADERS), stream=True)
        try:
            if response.has_redirect_location:
                return urljoin(url, response.headers["location"])
            if response.headers.get("content-encoding", "identity") != "identity":
                raise UnreadableReply("The picture came compressed, which was not asked for.")
            if response.status_code != httpx.codes.OK:
                passes = response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error
                failure = UpstreamUnavailable if passes else UnreadableReply
                pause = retry_after_seconds(response.headers)
                raise failure(f"The picture's link answered HTTP {response.status_code}.", retry_after=pause)
            received = 0
            async with await anyio.open_file(path, "wb") as file:
                async for chunk in response.aiter_raw():
                    received += len(chunk)
                    if received > self._most_bytes:
                        raise UnreadableReply(f"The picture is larger than {self._most_bytes // 2**20} MiB.")
                    await file.write(chunk)
            return None
        finally:
            await response.aclose()

    def _route(self, url: httpx.URL) -> str:
        """How a link is fetched: "sandbox", "direct", or through the proxy of this address.

        Raises:
            UnreadableReply: It may not be followed.
        """
        here = self._sandbox
        if here and (url.scheme, url.host, url.port) == (here.scheme, here.host, here.port):
            return "sandbox"
        if url.scheme != "https" or not url.host:
            raise UnreadableReply("The picture's link is not https, so it was not followed.")
        if url.port is not None and not 0 < url.port <= _LAST_PORT:
            raise UnreadableReply("The picture's link has a port that does not exist, so it was not followed.")
        proxy = _proxy(url.host)
        # A proxy resolves the name, and decides what it reaches; only what is plainly inside is refused here.
        if proxy and is_inside(url.host):
            raise UnreadableReply(_PRIVATE)
        return proxy or "direct"

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()  # with what SSL_CERT_FILE says, whether there is a proxy or not

    def _client(self, route: str) -> httpx.AsyncClient:
        """The client of a route. None reads proxies from the environment: `_route` alone decides."""
        if route not in self._clients:
            if route == "sandbox":
                transport = httpx.AsyncHTTPTransport(verify=self._tls)
            elif route == "direct":
                transport = _PublicTransport(self._tls)
            else:
                transport = httpx.AsyncHTTPTransport(verify=self._tls, proxy=route)
            self._clients[route] = httpx.AsyncClient(
                transport=transport,
                timeout=self._seconds / 3,  # a silent host leaves time for another attempt
                trust_env=False,
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            )
        return self._clients[route]


class _PublicTransport(httpx.AsyncHTTPTransport):
    """Connects to public addresses only.

    The URL keeps its host, so that connections are pooled, and certificates checked, by name and not by address.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(verify=tls)
        # httpx has no argument for the network back-end of its pool. With one (`network_backend=`, as httpcore's
        # pools have), this class would go.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            network_backend=_PublicNetwork(),
            max_connections=100,  # these three as httpx has them
            max_keepalive_connections=20,
            keepalive_expiry=5,
        )


class _PublicNetwork(httpcore.AnyIOBackend):
    """Resolves a host, checks all of its addresses, and connects to the first one that answers."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  (httpcore's signature)
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect; each next address is tried once the one before has failed, or has not answered for a while.

        Raises:
            httpcore.ConnectError: No address took the connection.
            httpcore.ConnectTimeout: None did in time.
            UpstreamUnavailable: The name can't be resolved.
            UnreadableReply: The host is not public.
        """
        connected: list[httpcore.AsyncNetworkStream] = []
        failures: list[httpcore.ConnectError] = []
        connect = super().connect_tcp

        async def attempt(address: str, over: anyio.Event) -> None:
            try:
                stream = await connect(address, port, None, local_address, socket_options)
            except httpcore.ConnectError as error:
                failures.append(error)
                over.set()
                return
            connected.append(stream)
            group.cancel_scope.cancel()

        with anyio.move_on_after(timeout):
            addresses = await _public_addresses(host, port)
            async with anyio.create_task_group() as group:
                for address in addresses:
                    over = anyio.Event()
                    group.start_soon(attempt, address, over)
                    with anyio.move_on_after(_NEXT_ADDRESS):
                        await over.wait()
        for stream in connected[1:]:
            await stream.aclose()
        if connected:
            return connected[0]
        raise failures[-1] if failures else httpcore.ConnectTimeout


async def _check(path: Path) -> None:
    """What was fetched must be a picture: a page that says sorry comes with 200, too."""
    async with await anyio.open_file(path, "rb") as file:
        if kind(await file.read(16)) is None:
            raise UnreadableReply("The link did not answer with a picture.")


def _proxy(host: str) -> str | None:
    """The address of the proxy for https requests to a host; None where they go directly."""
    proxies = getproxies()
    found = proxies.get("https") or proxies.get("all")
    if not found or proxy_bypass(host):
        return None
    return found if "://" in found else f"http://{found}"


def is_inside(host: str) -> bool:
    """A name or address that can only be on a private network."""
    host = host.strip("[]").rstrip(".")  # a name that ends in a dot is the same name
    try:
        return not is_public(host)
    except ValueError:
        # No public name ends in a number: one that does is an address, spelled so that only a resolver knows it.
        last = host.rpartition(".")[2]
        spelled = re.fullmatch(r"[0-9]+|0x[0-9a-f]*", last) is not None
        return spelled or last == host or last in _INSIDE


async def _public_addresses(host: str, port: int) -> list[str]:
    """A host's addresses, when all of them are public.

    Raises:
        UpstreamUnavailable: The name can't be resolved.
        UnreadableReply: It has none, or one that is private, link-local, loopback or reserved.
    """
    try:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UpstreamUnavailable("The host of the picture's link is unknown.") from error
    addresses = list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))
    if not addresses or not all(is_public(address) for address in addresses):
        raise UnreadableReply(_PRIVATE)
    return addresses


def is_public(address: str) -> bool:
    """An address of the open internet."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and (ip.ipv4_mapped or ip.sixtofour):
        return is_public(str(ip.ipv4_mapped or ip.sixtofour))
    return (
        ip.is_global and not ip.is_multicast and not any(ip in net for net in _NOT_PUBLIC if net.version == ip.version)
    )
