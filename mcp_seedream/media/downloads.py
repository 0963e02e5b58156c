"""Downloads pictures from untrusted URLs, with protection against server-side request forgery (SSRF).

- Only https; http only to the sandbox on this machine.
- Each connection resolves the host, requires all of its addresses to be public, and connects to a checked address.
- The certificate must match the URL's host.
- At most three redirects, a time limit and a size limit; the body is streamed to a temporary file.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import cached_property, partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Any, Self
from urllib.parse import urljoin
from urllib.request import getproxies, proxy_bypass

import anyio
import httpcore
import httpx

from mcp_seedream import __version__
from mcp_seedream.catalog.picture_kinds import kind
from mcp_seedream.core.errors import UnreadableReply, UpstreamUnavailable
from mcp_seedream.media.temporary_files import TemporaryFile
from mcp_seedream.upstream.error_mapping import retry_after_seconds
from mcp_seedream.upstream.retries import Retries

Resolve = Callable[..., Awaitable[Sequence[Any]]]
MAX_BYTES = 64 * 2**20
"""Default size limit of one picture, well above a 4K PNG."""
_MAX_REDIRECTS = 3
_PRIVATE_TLDS = ("local", "localhost", "localdomain", "arpa", "internal", "intranet", "private", "lan", "home", "corp")
"""Top-level names of private hosts: RFC 6761, RFC 6762 (appendix G), RFC 8375, and Linux's `localdomain`."""
# Ranges that embed an IPv4 address or are translated to one, which `ipaddress` reports as global.
_NON_PUBLIC_NETWORKS = [
    ipaddress.ip_network(net)
    for net in ("192.0.0.0/24", "::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "fec0::/10")
]
_ATTEMPT_DELAY = 0.25  # seconds before the next address is tried in parallel ("Happy Eyeballs", RFC 8305)
_MAX_PORT = 65535
_HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": f"mcp-seedream/{__version__}"}
_PRIVATE_MESSAGE = "The picture's link leads to a private address, so it was not followed."


class Downloads:
    """Downloads pictures. Use one instance per process, as an async context manager.

    Args:
        sandbox: Base URL of a sandbox on this machine. Http and loopback addresses are allowed only for the sandbox.
        seconds: Time limit of one picture, including redirects and retries.
        max_bytes: Size limit of one picture.
        retries: How to retry connection errors, time-outs, HTTP 429 and HTTP 5xx.
    """

    def __init__(
        self,
        *,
        sandbox: str | None = None,
        seconds: float = 30,
        max_bytes: int = MAX_BYTES,
        retries: Retries | None = None,
    ) -> None:
        self._sandbox = httpx.URL(sandbox) if sandbox else None
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._retries = retries or Retries(seconds=seconds)
        self._clients: dict[str, httpx.AsyncClient] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._clients:
            await self._clients.popitem()[1].aclose()

    async def fetch(self, url: str, file: TemporaryFile) -> None:
        """Download a picture to a file. It waits until there is room for it.

        Raises:
            UpstreamUnavailable: The download failed or timed out, and may work later.
            UnreadableReply: The URL is not allowed or has expired, or the response is too large or not a picture.
            OSError: The file can't be written.
        """
        try:
            with anyio.fail_after(self._seconds):
                await self._retries(partial(self._follow, url, file), lambda error: error.retryable)
                if kind(file.head()) is None:  # error pages can have status 200 as well
                    raise UnreadableReply("The link did not return a picture.")
        except TimeoutError as error:
            raise UpstreamUnavailable(f"The picture took longer than {self._seconds:.0f} s to fetch.") from error

    async def _follow(self, url: str, file: TemporaryFile) -> None:
        """Download a picture, following redirects."""
        try:
            for _ in range(_MAX_REDIRECTS + 1):
                location = await self._request(url, file)
                if location is None:
                    return
                url = location
        except httpx.HTTPError as error:
            raise UpstreamUnavailable(f"The picture could not be fetched ({type(error).__name__}).") from error
        except (httpx.InvalidURL, ValueError) as error:
            raise UnreadableReply(f"The picture could not be fetched ({type(error).__name__}).") from error
        raise UnreadableReply(f"The picture's link was redirected more than {_MAX_REDIRECTS} times.")

    async def _request(self, url: str, file: TemporaryFile) -> str | None:
        """Send one request; return the URL of a redirect, or None after writing the picture to the file."""
        target = httpx.URL(url)
        client = self._client(self._route(target))
        response = await client.send(httpx.Request("GET", target, headers=_HEADERS), stream=True)
        try:
            if response.has_redirect_location:
                return urljoin(url, response.headers["location"])
            if response.headers.get("content-encoding", "identity") != "identity":
                raise UnreadableReply("The picture was sent with an unsupported Content-Encoding.")
            if response.status_code != httpx.codes.OK:
                is_temporary = response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error
                failure = UpstreamUnavailable if is_temporary else UnreadableReply
                pause = retry_after_seconds(response.headers)
                raise failure(f"The picture's link returned HTTP {response.status_code}.", retry_after=pause)
            length = response.headers.get("content-length", "")
            declared = int(length) if length.isdecimal() else self._max_bytes
            self._check_length(declared)
            await file.restart(declared)
            received = 0
            async for chunk in response.aiter_raw():
                received += len(chunk)
                self._check_length(received)
                await file.write(chunk)
            return None
        finally:
            await response.aclose()

    def _check_length(self, length: int) -> None:
        if length > self._max_bytes:
            raise UnreadableReply(f"The picture is larger than {self._max_bytes // 2**20} MiB.")

    def _route(self, url: httpx.URL) -> str:
        """Return the route to a URL: "sandbox", "direct", or the URL of a proxy.

        Raises:
            UnreadableReply: The URL is not allowed.
        """
        sandbox = self._sandbox
        if sandbox and (url.scheme, url.host, url.port) == (sandbox.scheme, sandbox.host, sandbox.port):
            return "sandbox"
        if url.scheme != "https" or not url.host:
            raise UnreadableReply("The picture's link is not https, so it was not followed.")
        if url.port is not None and not 0 < url.port <= _MAX_PORT:
            raise UnreadableReply("The picture's link has an invalid port, so it was not followed.")
        proxy = proxy_for(url.host)
        # A proxy resolves names itself, so only hosts that are private by their name can be rejected here.
        if proxy and is_private(url.host):
            raise UnreadableReply(_PRIVATE_MESSAGE)
        return proxy or "direct"

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()  # reads SSL_CERT_FILE, which trust_env=False would ignore

    def _client(self, route: str) -> httpx.AsyncClient:
        """Return the client of a route. Clients ignore proxies in the environment, since `_route` chooses the proxy."""
        if route not in self._clients:
            if route == "sandbox":
                transport = httpx.AsyncHTTPTransport(verify=self._tls)
            elif route == "direct":
                transport = PublicTransport(self._tls)
            else:
                transport = httpx.AsyncHTTPTransport(verify=self._tls, proxy=route)
            self._clients[route] = httpx.AsyncClient(
                transport=transport,
                timeout=self._seconds / 3,  # leaves time for retries
                trust_env=False,
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            )
        return self._clients[route]


class PublicTransport(httpx.AsyncHTTPTransport):
    """A transport that connects to public addresses only.

    Addresses are checked below the HTTP layer, so that connections are pooled and certificates verified by host name.

    Args:
        tls: The TLS settings.
        resolve: Resolves names, with the signature of `anyio.getaddrinfo`; None: that function.
    """

    def __init__(self, tls: ssl.SSLContext, resolve: Resolve | None = None) -> None:
        super().__init__(verify=tls)
        # httpx has no argument for the pool's network backend. If it gets one (like httpcore's `network_backend`),
        # this class can be removed.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            network_backend=_PublicNetwork(resolve),
            max_connections=100,  # the limits are the defaults of httpx
            max_keepalive_connections=20,
            keepalive_expiry=5,
        )


class _PublicNetwork(httpcore.AnyIOBackend):
    """A network backend that checks all addresses of a host, then connects to the first that answers."""

    def __init__(self, resolve: Resolve | None) -> None:
        super().__init__()
        self._resolve = resolve or anyio.getaddrinfo

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  (httpcore's signature)
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to a host; try the next address when one fails or does not answer within `_ATTEMPT_DELAY`.

        Raises:
            httpcore.ConnectError: All addresses failed.
            httpcore.ConnectTimeout: No address answered in time.
            UpstreamUnavailable: The name can't be resolved.
            UnreadableReply: The host is not public.
        """
        connected: list[httpcore.AsyncNetworkStream] = []
        failures: list[httpcore.ConnectError] = []
        connect = super().connect_tcp

        async def attempt(address: str, failed: anyio.Event) -> None:
            try:
                stream = await connect(address, port, None, local_address, socket_options)
            except httpcore.ConnectError as error:
                failures.append(error)
                failed.set()
                return
            connected.append(stream)
            group.cancel_scope.cancel()

        with anyio.move_on_after(timeout):
            addresses = await _public_addresses(host, port, self._resolve)
            async with anyio.create_task_group() as group:
                for address in addresses:
                    failed = anyio.Event()
                    group.start_soon(attempt, address, failed)
                    with anyio.move_on_after(_ATTEMPT_DELAY):
                        await failed.wait()
        for stream in connected[1:]:
            await stream.aclose()
        if connected:
            return connected[0]
        raise failures[-1] if failures else httpcore.ConnectTimeout


def proxy_for(host: str) -> str | None:
    """Return the URL of the system's proxy for https requests to a host; None if there is none."""
    proxies = getproxies()
    proxy = proxies.get("https") or proxies.get("all")
    if not proxy or proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def is_private(host: str) -> bool:
    """Whether a host name or address can only belong to a private network. Does not resolve names."""
    host = host.strip("[]").rstrip(".")  # a trailing dot marks a fully qualified name
    try:
        return not is_public(host)
    except ValueError:
        # Resolvers read a name that ends in a number as an IPv4 address ("127.1", "0x7f000001").
        tld = host.rpartition(".")[2]
        is_numeric = re.fullmatch(r"[0-9]+|0x[0-9a-f]*", tld) is not None
        return is_numeric or tld == host or tld in _PRIVATE_TLDS


async def _public_addresses(host: str, port: int, resolve: Resolve) -> list[str]:
    """Resolve a host and return its addresses.

    Raises:
        UpstreamUnavailable: The name can't be resolved.
        UnreadableReply: It has no addresses, or one that is not public.
    """
    try:
        infos = await resolve(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UpstreamUnavailable("The host of the picture's link is unknown.") from error
    addresses = list(dict.fromkeys(str(info[4][0]).partition("%")[0] for info in infos))
    if not addresses or not all(is_public(address) for address in addresses):
        raise UnreadableReply(_PRIVATE_MESSAGE)
    return addresses


def is_public(address: str) -> bool:
    """Whether an IP address is public: not private, link-local, loopback, multicast or reserved.

    Raises:
        ValueError: It is not an IP address.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and (ip.ipv4_mapped or ip.sixtofour):
        return is_public(str(ip.ipv4_mapped or ip.sixtofour))
    is_listed = any(ip in net for net in _NON_PUBLIC_NETWORKS if net.version == ip.version)
    return ip.is_global and not ip.is_multicast and not is_listed
