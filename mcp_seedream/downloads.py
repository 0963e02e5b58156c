"""Fetches generated pictures: the one guarded way out for links that somebody else wrote.

A link comes from the upstream's answer, and an answer may be wrong or forged. So: https only (http only to
the sandbox on this machine); every host is resolved, at each hop, and refused unless all of its addresses are
public; the connection goes to the address that was checked; at most three redirects; a limit of bytes and of
time; streamed to disk.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from functools import cached_property, partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urljoin
from urllib.request import getproxies, proxy_bypass

import anyio
import httpx

from mcp_seedream import __version__
from mcp_seedream.errors import UnreadableReply, UpstreamUnavailable
from mcp_seedream.kinds import kind
from mcp_seedream.refusals import asked_pause
from mcp_seedream.retries import Retries

MAX_BYTES = 64 * 2**20
"""Of one picture: a 4K PNG is well below."""
_REDIRECTS = 3
# Beside what the standard library knows: ranges that carry a private address within, or lead to one.
_NOT_PUBLIC = [
    ipaddress.ip_network(net)
    for net in ("192.0.0.0/24", "::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "fec0::/10")
]
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
        self._clients: dict[bool, httpx.AsyncClient] = {}

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
        proxied = target.scheme == "https" and _proxied(target.host)
        request = await self._checked(target, proxied=proxied)
        response = await self._client(proxied=proxied).send(request, stream=True)
        try:
            if response.has_redirect_location:
                return urljoin(url, response.headers["location"])
            if response.headers.get("content-encoding", "identity") != "identity":
                raise UnreadableReply("The picture came compressed, which was not asked for.")
            if response.status_code != httpx.codes.OK:
                passes = response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error
                failure = UpstreamUnavailable if passes else UnreadableReply
                pause = asked_pause(response.headers)
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

    async def _checked(self, url: httpx.URL, *, proxied: bool) -> httpx.Request:
        """The request for a link that may be followed, addressed to the IP address that was checked."""
        headers = {
            "Accept": "image/*",
            "Accept-Encoding": "identity",
            "Host": url.netloc.decode("ascii"),
            "User-Agent": f"mcp-seedream/{__version__}",
        }
        if self._sandbox and (url.scheme, url.host, url.port) == (
            self._sandbox.scheme,
            self._sandbox.host,
            self._sandbox.port,
        ):
            return httpx.Request("GET", url, headers=headers)
        if url.scheme != "https" or not url.host:
            raise UnreadableReply("The picture's link is not https, so it was not followed.")
        if proxied:
            # The proxy resolves the name, and decides what it reaches; only what is plainly inside is refused here.
            if is_inside(url.host):
                raise UnreadableReply(_PRIVATE)
            return httpx.Request("GET", url, headers=headers)
        address = await _public_address(url.host, url.port or 443)
        pinned = url.copy_with(host=address)
        return httpx.Request("GET", pinned, headers=headers, extensions={"sni_hostname": url.host})

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()  # with what SSL_CERT_FILE says, whether there is a proxy or not

    def _client(self, *, proxied: bool) -> httpx.AsyncClient:
        """One for requests to an address that was checked, which no proxy may resolve anew, and one for the proxy."""
        if proxied not in self._clients:
            self._clients[proxied] = httpx.AsyncClient(
                timeout=self._seconds / 3,  # a silent host leaves time for another attempt
                trust_env=proxied,
                verify=self._tls,
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            )
        return self._clients[proxied]


async def _check(path: Path) -> None:
    """What was fetched must be a picture: a page that says sorry comes with 200, too."""
    async with await anyio.open_file(path, "rb") as file:
        if kind(await file.read(16)) is None:
            raise UnreadableReply("The link did not answer with a picture.")


def _proxied(host: str) -> bool:
    return any(getproxies().get(kind) for kind in ("https", "all")) and not proxy_bypass(host)


def is_inside(host: str) -> bool:
    """A name or address that can only be on a private network."""
    host = host.strip("[]").rstrip(".")  # a name that ends in a dot is the same name
    try:
        return not is_public(host)
    except ValueError:
        # No public name ends in a number: one that does is an address, spelled so that only a resolver knows it.
        last = host.rpartition(".")[2]
        spelled = re.fullmatch(r"[0-9]+|0x[0-9a-f]*", last) is not None
        return spelled or last == host or last in ("local", "internal", "localhost", "lan", "home", "corp", "arpa")


async def _public_address(host: str, port: int) -> str:
    """The first of a host's addresses, when all of them are public.

    Raises:
        UpstreamUnavailable: The name can't be resolved.
        UnreadableReply: It has none, or one that is private, link-local, loopback or reserved.
    """
    try:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UpstreamUnavailable("The host of the picture's link is unknown.") from error
    addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
    if not addresses or not all(is_public(address) for address in addresses):
        raise UnreadableReply(_PRIVATE)
    return addresses[0]


def is_public(address: str) -> bool:
    """An address of the open internet."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and (ip.ipv4_mapped or ip.sixtofour):
        return is_public(str(ip.ipv4_mapped or ip.sixtofour))
    return (
        ip.is_global and not ip.is_multicast and not any(ip in net for net in _NOT_PUBLIC if net.version == ip.version)
    )
