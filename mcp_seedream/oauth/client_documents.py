"""Client ID metadata documents: clients whose id is the https URL of a JSON document with their registration.

The rules are those of draft-ietf-oauth-client-id-metadata-document-02. Documents are fetched when a person is sent to
`/authorize`. The token endpoint needs none: codes and refresh tokens are bound to the id of a public client.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import anyio

from mcp_seedream.core.errors import ClientDocumentError, SeedreamError
from mcp_seedream.oauth.registrations import Client, build_client, printable, uri_error

Fetch = Callable[[str], Awaitable[tuple[bytes, float | None]]]
"""Downloads a document; returns it, and the seconds for which its server allows caching, or None.

It must limit time and size, refuse private addresses, and follow no redirects. It raises `SeedreamError`.
"""
_MIN_SECONDS, _DEFAULT_SECONDS, _MAX_SECONDS = 60.0, 600.0, 3600.0  # in the cache
_STALE_SECONDS = 24 * 3600.0  # after which a document that can't be fetched again is no longer used
_MAX_FETCHES, _MAX_FETCHES_PER_HOST = 16, 4  # at the same time
_BUSY = "Too many documents of clients are being fetched."


@dataclass(frozen=True)
class _Document:
    client: Client
    fetched: float
    fresh_until: float


@dataclass
class _Pending:
    """A fetch in progress, and its outcome."""

    host: str | None
    done: anyio.Event = field(default_factory=anyio.Event)
    client: Client | None = None
    error: ClientDocumentError | None = None


class ClientDocuments:
    """Fetches and caches documents of clients.

    Args:
        fetch: Downloads a document.
        max_documents: The size of the cache, from which the least recently used document is removed.
        clock: Returns the time in seconds.
    """

    def __init__(self, fetch: Fetch, *, max_documents: int = 1000, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._max_documents = max_documents
        self._clock = clock
        self._documents: OrderedDict[str, _Document] = OrderedDict()
        self._pending: dict[str, _Pending] = {}

    async def client(self, url: str) -> Client:
        """The client with this id, from the cache or its URL.

        Raises:
            ClientDocumentError: Its document can't be fetched, or is not accepted.
        """
        document = self._documents.get(url)
        now = self._clock()
        if document and now < document.fresh_until:
            self._documents.move_to_end(url)
            return document.client
        try:
            return await self._fetch_once(url)
        except ClientDocumentError as error:
            if document and error.retryable and now < document.fetched + _STALE_SECONDS:
                return document.client
            self._documents.pop(url, None)
            raise

    async def _fetch_once(self, url: str) -> Client:
        """Fetch a document; concurrent calls for it share one request."""
        pending = self._pending.get(url)
        if pending:
            await pending.done.wait()
        else:
            pending = self._begin(url)
            try:
                pending.client = await self._load(url)
            except ClientDocumentError as error:
                pending.error = error
            finally:
                del self._pending[url]
                pending.done.set()
        if pending.client is None:
            raise pending.error or ClientDocumentError(_BUSY, retryable=True)
        return pending.client

    def _begin(self, url: str) -> _Pending:
        if error := _url_error(url):
            raise ClientDocumentError(error)
        host = urlsplit(url).hostname
        of_host = sum(pending.host == host for pending in self._pending.values())
        if len(self._pending) >= _MAX_FETCHES or of_host >= _MAX_FETCHES_PER_HOST:
            raise ClientDocumentError(_BUSY, retryable=True)
        self._pending[url] = _Pending(host)
        return self._pending[url]

    async def _load(self, url: str) -> Client:
        try:
            content, max_age = await self._fetch(url)
        except SeedreamError as error:
            raise ClientDocumentError(error.message, retryable=error.retryable) from error
        client = _read(url, content)
        now = self._clock()
        seconds = min(max(_DEFAULT_SECONDS if max_age is None else max_age, _MIN_SECONDS), _MAX_SECONDS)
        self._documents.pop(url, None)
        self._documents[url] = _Document(client, now, now + seconds)
        while len(self._documents) > self._max_documents:
            self._documents.popitem(last=False)
        return client


def is_document_url(client_id: str) -> bool:
    """Whether a client id is a URL; ids that this server issues are not."""
    return client_id.startswith("https://")


def document_host(client_id: str) -> str | None:
    """The host of a client's document; None if the id is not a valid URL."""
    try:
        return urlsplit(client_id).netloc if is_document_url(client_id) else None
    except ValueError:
        return None


def _url_error(url: str) -> str | None:
    """Why a URL can't be the id of a client; None if it can."""
    try:
        parts = urlsplit(url)
        if error := uri_error(url):
            return error.replace("redirect URI", "client id")
        if parts.path in ("", "/") or {".", ".."} & {unquote(segment) for segment in parts.path.split("/")}:
            return "A client id that is a URL has a path, without dot segments."
    except ValueError:
        return "The client id is not a valid URL."
    return None


def _read(url: str, content: bytes) -> Client:
    """The client that a document describes.

    Redirect URIs that this server does not accept are left out: a document is for many servers.

    Raises:
        ClientDocumentError: It is not the document of a public client at this URL.
    """
    try:
        document: Any = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ClientDocumentError("It is not a JSON object.")
    if document.get("client_id") != url:
        raise ClientDocumentError("Its client_id is not its URL.")
    if {"client_secret", "client_secret_expires_at"} & document.keys():
        raise ClientDocumentError("It contains a client secret, which would be public.")
    if document.get("token_endpoint_auth_method", "none") != "none":
        raise ClientDocumentError("Its token_endpoint_auth_method is not none, the only one that is supported.")
    for field_name, needed in (("grant_types", "authorization_code"), ("response_types", "code")):
        if needed not in _texts(document.get(field_name, [needed])):
            raise ClientDocumentError(f"Its {field_name} do not contain {needed}.")
    client_name = document.get("client_name")
    name = printable(client_name) if isinstance(client_name, str) else None
    if name is None:
        raise ClientDocumentError("It has no client_name.")
    try:
        uris = [uri for uri in _texts(document.get("redirect_uris")) if not uri_error(uri)]
        client = build_client(url, redirect_uris=uris, name=name) if uris else None
    except ValueError:
        client = None
    if client is None:
        raise ClientDocumentError("It has no redirect URI that this server accepts.")
    return client


def _texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
