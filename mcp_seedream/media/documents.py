"""Downloads small JSON documents from untrusted URLs, with the protection against SSRF that pictures have.

Only https, to public addresses; no redirects; limits for time and size.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from ssl import SSLContext
from typing import Any

import anyio
import httpx

from mcp_seedream import __version__
from mcp_seedream.core.errors import UnreadableReply, UpstreamUnavailable
from mcp_seedream.media.downloads import PublicTransport, Resolve, is_private, proxy_for

_RESOLVERS = 4
"""Threads that resolve names. They are not shared, so that slow name servers delay no other requests."""
_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "User-Agent": f"mcp-seedream/{__version__}",
}
_JSON = re.compile(r"application/(?:[a-z0-9.+_-]+\+)?json", re.ASCII)
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=([0-9]{1,9})(?:$|[\s,])", re.ASCII)


class Documents:
    """Downloads JSON documents.

    Args:
        seconds: Time limit of one document.
        max_bytes: Size limit of one document.
        resolve: Resolves names, with the signature of `anyio.getaddrinfo`.
    """

    def __init__(self, *, seconds: float = 5, max_bytes: int = 5 * 1024, resolve: Resolve | None = None) -> None:
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._resolve = resolve or self._resolve_in_own_threads
        self._threads = ThreadPoolExecutor(_RESOLVERS, "documents")

    async def fetch(self, url: str) -> tuple[bytes, float | None]:
        """Download a document.

        Returns:
            The document, which may not be valid JSON, and the seconds for which its server allows caching; None if it
            does not say.

        Raises:
            UpstreamUnavailable: The download failed or timed out, and may work later.
            UnreadableReply: The URL is not allowed, or its response is no document.
        """
        try:
            with anyio.fail_after(self._seconds):
                return await self._request(httpx.URL(url))
        except TimeoutError as error:
            raise UpstreamUnavailable(f"It took longer than {self._seconds:g} s to fetch.") from error
        except httpx.HTTPError as error:
            raise UpstreamUnavailable(f"It could not be fetched ({type(error).__name__}).") from error
        except (httpx.InvalidURL, ValueError) as error:
            raise UnreadableReply("Its URL is not valid.") from error

    async def _request(self, url: httpx.URL) -> tuple[bytes, float | None]:
        transport = self._transport(url)
        async with httpx.AsyncClient(transport=transport, timeout=self._seconds, trust_env=False) as client:
            try:
                response = await client.send(httpx.Request("GET", url, headers=_HEADERS), stream=True)
            except UpstreamUnavailable as error:
                raise UpstreamUnavailable("Its host is unknown.") from error
            except UnreadableReply as error:
                raise UnreadableReply("Its URL leads to a private address.") from error
            try:
                return await self._read(response)
            finally:
                await response.aclose()

    async def _read(self, response: httpx.Response) -> tuple[bytes, float | None]:
        if response.status_code != httpx.codes.OK:
            failure = UpstreamUnavailable if response.is_server_error else UnreadableReply
            raise failure(f"Its URL returned HTTP {response.status_code}.")
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not _JSON.fullmatch(kind) or response.headers.get("content-encoding", "identity") != "identity":
            raise UnreadableReply("Its URL did not return JSON.")
        content = b""
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > self._max_bytes:
                raise UnreadableReply(f"It is larger than {self._max_bytes} bytes.")
        return content, _max_age(response.headers.get("cache-control", ""))

    def _transport(self, url: httpx.URL) -> httpx.AsyncHTTPTransport:
        """The transport for a URL; a proxy resolves names itself, so only names that are private are refused there."""
        if url.scheme != "https" or not url.host or not (url.port is None or 0 < url.port < 2**16):
            raise UnreadableReply("Its URL is not valid.")
        proxy = proxy_for(url.host)
        if proxy and is_private(url.host):
            raise UnreadableReply("Its URL leads to a private address.")
        return (
            httpx.AsyncHTTPTransport(verify=self._tls, proxy=proxy)
            if proxy
            else PublicTransport(self._tls, self._resolve)
        )

    async def _resolve_in_own_threads(self, *host: Any, **options: Any) -> Sequence[Any]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(socket.getaddrinfo, *host, **options))

    @cached_property
    def _tls(self) -> SSLContext:
        return httpx.create_ssl_context()


def _max_age(cache_control: str) -> float | None:
    """The seconds for which a response may be cached; None if its header does not say."""
    if re.search(r"no-(?:store|cache)", cache_control, re.IGNORECASE):
        return 0
    match = _MAX_AGE.search(cache_control.lower())
    return float(match[1]) if match else None
