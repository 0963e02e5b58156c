"""The handlers of the OAuth endpoints, which extend those of the SDK.

They look up the client themselves, which depends on the endpoint: `/authorize` needs its redirect URIs, `/token` and
`/revoke` need its secret.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote, urlencode

from mcp.server.auth.handlers.authorize import AuthorizationHandler
from mcp.server.auth.handlers.token import TokenErrorResponse, TokenHandler
from mcp.server.auth.middleware.client_auth import AuthenticationError, ClientAuthenticator
from mcp.server.auth.routes import cors_middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message

from mcp_seedream.core.errors import ClientDocumentError, StoreUnavailable
from mcp_seedream.oauth.client_documents import ClientDocuments, document_host, is_document_url
from mcp_seedream.oauth.consent import read_form
from mcp_seedream.oauth.pages import error_page, refusal_page
from mcp_seedream.oauth.provider import GrantProvider
from mcp_seedream.oauth.registrations import Client
from mcp_seedream.oauth.transactions import PATH

_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
_BAD_FORM = {"error": "invalid_request", "error_description": "The request's form cannot be read."}
_DOWN = {"error": "temporarily_unavailable", "error_description": "Sign-in is not available. Try again soon."}
_log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]


class _ClientLookup:
    """The part of a provider with which the SDK's handlers look up the client of one request."""

    def __init__(self, provider: GrantProvider, client: Client | None) -> None:
        self._client = client
        self.authorize = provider.authorize

    async def get_client(self, client_id: str) -> Client | None:  # noqa: ARG002  (there is only one client)
        return self._client


class Authorization:
    """The authorization endpoint.

    Args:
        provider: Has the clients that registered at this server.
        documents: Has the clients whose id is a URL; None to accept no such clients.
        issuer: This server's origin.
    """

    def __init__(self, provider: GrantProvider, documents: ClientDocuments | None, issuer: str) -> None:
        self._provider, self._documents, self._issuer = provider, documents, issuer

    async def handle(self, request: Request) -> Response:
        """Redirect to the consent page, or show a page with the error and a link to the client.

        The link is the error response, with the issuer (RFC 9207).
        """
        parameters = request.query_params if request.method == "GET" else await read_form(request)
        if parameters is None:
            return JSONResponse(_BAD_FORM, 400, _NO_STORE)
        client_id = str(parameters.get("client_id", ""))
        try:
            client = await self._client(client_id)
        except ClientDocumentError as error:
            host = document_host(client_id) or "an unknown host"
            message = f"The document of the application at {host} can't be used. {error.message}"
            return error_page(message, 503 if error.retryable else 400)
        lookup: Any = _ClientLookup(self._provider, client)
        response: Response = await AuthorizationHandler(lookup).handle(request)
        location = response.headers.get("location", "")
        if location and not location.startswith(f"{self._issuer}{PATH}?"):
            return refusal_page(f"{location}&{urlencode({'iss': self._issuer})}")
        return response

    async def _client(self, client_id: str) -> Client | None:
        if self._documents and is_document_url(client_id):
            return await self._documents.client(client_id)
        return await self._provider.get_client(client_id)


class Tokens:
    """The token endpoint. It refuses requests for another resource (RFC 8707), which the SDK's handler ignores."""

    def __init__(self, provider: GrantProvider) -> None:
        self._provider = provider

    async def handle(self, request: Request) -> Response:
        form = await request.form()
        handler = TokenHandler(self._provider, await _authenticator(self._provider, request))
        is_own = self._provider.is_own_resource
        if not all(isinstance(value, str) and is_own(value) for value in form.getlist("resource")):
            message = "This server gives access to its own endpoint only"
            refusal: Response = handler.response(TokenErrorResponse(error="invalid_target", error_description=message))
            return refusal
        response: Response = await handler.handle(request)
        return response


class Revocation:
    """Token revocation (RFC 7009). The SDK's handler requires a secret of public clients."""

    def __init__(self, provider: GrantProvider) -> None:
        self._provider = provider

    async def handle(self, request: Request) -> Response:
        authenticator = await _authenticator(self._provider, request)
        try:
            client = await authenticator.authenticate_request(request)
        except AuthenticationError as error:
            return JSONResponse({"error": "invalid_client", "error_description": error.message}, 401, _NO_STORE)
        token = (await request.form()).get("token")
        if not isinstance(token, str):
            return JSONResponse({"error": "invalid_request", "error_description": "token is missing"}, 400, _NO_STORE)
        await self._provider.revoke(client, token)
        return Response(status_code=200, headers=_NO_STORE)


async def _authenticator(provider: GrantProvider, request: Request) -> ClientAuthenticator:
    """The authenticator for the client of a request to the token or revocation endpoint."""
    form = await request.form()
    client_id, token = (form.get(name) for name in ("client_id", "refresh_token"))
    token = token or form.get("token")
    client = provider.client_of_token(str(client_id), token if isinstance(token, str) else "") if client_id else None
    lookup: Any = _ClientLookup(provider, client)
    return ClientAuthenticator(lookup)


async def _with_client_id(request: Request) -> Request | None:
    """The request with `client_id` in its form; None if the form cannot be read.

    With HTTP Basic authentication the id is in the header alone (RFC 6749, 2.3.1), where the SDK does not read it.
    """
    form = await read_form(request)
    if form is None or "client_id" in form:
        return None if form is None else request
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    try:
        client_id, colon, _ = base64.b64decode(credentials).decode().partition(":")
    except ValueError:
        return request
    if scheme.lower() != "basic" or not colon:
        return request
    body = urlencode([*form.multi_items(), ("client_id", unquote(client_id))]).encode()
    headers = [pair for pair in request.scope["headers"] if pair[0] not in (b"content-type", b"content-length")]
    headers.append((b"content-type", b"application/x-www-form-urlencoded"))

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({**request.scope, "headers": headers}, receive)


def client_form(path: str, handler: Handler) -> Route:
    """A route for forms of authenticated clients."""

    async def respond(request: Request) -> Response:
        with_id = await _with_client_id(request)
        return await handler(with_id) if with_id else JSONResponse(_BAD_FORM, 400, _NO_STORE)

    return cross_origin(path, respond, "POST")


def cross_origin(path: str, handler: Handler, method: str) -> Route:
    """A route with CORS, for clients in a browser; 503 while the store is down."""

    async def respond(request: Request) -> Response:
        try:
            return await handler(request)
        except StoreUnavailable as error:
            _log.warning("sign-in: %s", error.message)
            return JSONResponse(_DOWN, 503, {"Retry-After": "5", **_NO_STORE})

    methods = [method, "OPTIONS"]
    return Route(path, cors_middleware(respond, methods), methods=methods)
