"""Sign-in for clients that cannot send a key, such as claude.ai's connectors and ChatGPT: OAuth 2.1.

This server is the authorization server of its own endpoint. Its tokens are bound to the endpoint and contain the
caller's API key encrypted, so that any replica can use them. Only codes, the current refresh token of each grant, and
revocations are stored, in a `Store` that replicas share.
"""

from __future__ import annotations

import base64
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import unquote, urlencode

from mcp.server.auth.handlers.authorize import AuthorizationHandler
from mcp.server.auth.handlers.metadata import MetadataHandler
from mcp.server.auth.handlers.token import TokenErrorResponse, TokenHandler
from mcp.server.auth.middleware.client_auth import AuthenticationError, ClientAuthenticator
from mcp.server.auth.routes import (
    build_metadata,
    build_resource_metadata_url,
    cors_middleware,
    create_auth_routes,
    create_protected_resource_routes,
)
from mcp.server.auth.settings import ClientRegistrationOptions, RevocationOptions
from mcp.server.transport_security import RequestBodyLimitMiddleware
from mcp.shared.auth import OAuthMetadata
from pydantic import AnyHttpUrl, ConfigDict, TypeAdapter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message

from mcp_seedream.core.credentials import KeyCheck
from mcp_seedream.core.errors import ConfigurationError, StoreUnavailable
from mcp_seedream.core.settings import Settings
from mcp_seedream.oauth.consent import CALLBACK, Consent, read_form
from mcp_seedream.oauth.pages import refusal_page
from mcp_seedream.oauth.provider import GrantProvider, Lifetimes
from mcp_seedream.oauth.registrations import AUTH_METHODS, SCOPE
from mcp_seedream.oauth.sealing import Sealer, is_sealed
from mcp_seedream.oauth.store import MemoryStore, Store, open_store
from mcp_seedream.oauth.transactions import PATH
from mcp_seedream.oauth.vendor import Vendor

_MAX_BODY_BYTES = 64 * 1024
_URL = TypeAdapter(AnyHttpUrl, config=ConfigDict(url_preserve_empty_path=True))
_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
_BAD_FORM = {"error": "invalid_request", "error_description": "The request's form cannot be read."}
_DOWN = {"error": "temporarily_unavailable", "error_description": "Sign-in is not available. Try again soon."}
_REGISTRATION, _REVOCATION = ClientRegistrationOptions(enabled=True), RevocationOptions(enabled=True)
_log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]


class SignIn:
    """The routes of sign-in, and the keys of its tokens.

    Args:
        public_url: The public origin of this server.
        endpoint: The endpoint's path.
        seal_keys: Secrets: the first encrypts, all decrypt.
        check_key: Checks a pasted key.
        store: State that replicas share; in memory by default.
        vendor: Lets people sign in there instead of pasting a key.
        lifetimes: Of codes and tokens.
        clock: Returns the Unix time in seconds.
    """

    def __init__(
        self,
        public_url: str,
        endpoint: str,
        *,
        seal_keys: Sequence[str],
        check_key: KeyCheck,
        store: Store | None = None,
        vendor: Vendor | None = None,
        lifetimes: Lifetimes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._issuer, self._resource = public_url, f"{public_url}{endpoint}"
        self._store = store or MemoryStore()
        sealer = Sealer(seal_keys, self._resource)
        self._provider = GrantProvider(
            sealer, self._store, public_url, self._resource, lifetimes=lifetimes or Lifetimes(), clock=clock
        )
        self._consent = Consent(
            sealer, public_url, check_key=check_key, issue_code=self._provider.issue_code, vendor=vendor
        )

    @property
    def metadata_url(self) -> str:
        """The address of the protected resource metadata (RFC 9728)."""
        return str(build_resource_metadata_url(_URL.validate_python(self._resource)))

    @property
    def challenge(self) -> str:
        """The parameter of `WWW-Authenticate` that tells clients where the metadata is."""
        return f'resource_metadata="{self.metadata_url}"'

    async def key_of_token(self, token: str) -> str | None:
        """The API key for a bearer token: the key in an access token of this server, or the token itself.

        None for an access token that is expired, revoked, tampered with, or for another endpoint.
        """
        if not is_sealed(token):
            return token
        access = await self._provider.load_access_token(token)
        return access.key.get_secret_value() if access else None

    def routes(self) -> list[Route]:
        """The SDK's OAuth routes, some of them replaced, and those of the consent page."""
        issuer, resource = _URL.validate_python(self._issuer), _URL.validate_python(self._resource)
        authenticator = ClientAuthenticator(self._provider)
        own_routes = [
            _cross_origin("/.well-known/oauth-authorization-server", MetadataHandler(self._metadata()).handle, "GET"),
            _client_form("/token", _TokenHandler(self._provider, authenticator).handle),
            _client_form("/revoke", _RevocationHandler(self._provider, authenticator).handle),
            Route("/authorize", _AuthorizationHandler(self._provider, self._issuer).handle, methods=["GET", "POST"]),
        ]
        sdk_routes = create_auth_routes(
            self._provider, issuer, client_registration_options=_REGISTRATION, revocation_options=_REVOCATION
        )
        routes = [
            *{route.path: route for route in [*sdk_routes, *own_routes]}.values(),
            *create_protected_resource_routes(resource, [issuer], [SCOPE], "Seedream"),
            *self._consent.routes(),
        ]
        for route in routes:
            route.app = RequestBodyLimitMiddleware(route.app, _MAX_BODY_BYTES)
        return routes

    async def aclose(self) -> None:
        await self._store.aclose()

    def _metadata(self) -> OAuthMetadata:
        """The SDK's metadata, completed: the scope, public clients, and the `iss` parameter of responses."""
        metadata = build_metadata(_URL.validate_python(self._issuer), None, _REGISTRATION, _REVOCATION)
        metadata.scopes_supported = [SCOPE]
        metadata.token_endpoint_auth_methods_supported = AUTH_METHODS
        metadata.revocation_endpoint_auth_methods_supported = AUTH_METHODS
        metadata.authorization_response_iss_parameter_supported = True
        return metadata


def open_sign_in(settings: Settings, endpoint: str, check_key: KeyCheck) -> SignIn | None:
    """Build sign-in from the settings; None without a public address.

    Raises:
        ConfigurationError: Replicas could not read each other's tokens, or the address of Redis is invalid.
    """
    if not settings.public_url:
        return None
    keys = [key.get_secret_value() for key in settings.seal_keys]
    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
    if not keys:
        if redis_url:
            raise ConfigurationError(
                "SEEDREAM_REDIS_URL is for several replicas: give them all the same SEEDREAM_SEAL_KEYS."
            )
        _log.warning("SEEDREAM_SEAL_KEYS is not set: all sign-ins become invalid when this process ends.")
        keys = [secrets.token_urlsafe(32)]
    vendor = None
    if settings.vendor_client_id:
        callback = f"{settings.public_url}{CALLBACK}"
        vendor = Vendor(settings.vendor_client_id, settings.vendor_auth_url, settings.vendor_platform_url, callback)
    return SignIn(
        settings.public_url,
        endpoint,
        seal_keys=keys,
        check_key=check_key,
        store=open_store(redis_url),
        vendor=vendor,
        lifetimes=Lifetimes(settings.access_seconds, settings.refresh_seconds),
    )


class _AuthorizationHandler(AuthorizationHandler):
    """Shows a page for errors, which has the response with the issuer (RFC 9207) as a link, instead of a redirect."""

    def __init__(self, provider: GrantProvider, issuer: str) -> None:
        super().__init__(provider)
        self._issuer = issuer

    async def handle(self, request: Request) -> Response:
        if request.method == "POST" and await read_form(request) is None:
            return JSONResponse(_BAD_FORM, 400, _NO_STORE)
        response = await super().handle(request)
        location = response.headers.get("location", "")
        if location and not location.startswith(f"{self._issuer}{PATH}?"):
            return refusal_page(f"{location}&{urlencode({'iss': self._issuer})}")
        return response


class _TokenHandler(TokenHandler):
    """Refuses requests for another resource (RFC 8707), which the SDK's handler ignores."""

    def __init__(self, provider: GrantProvider, authenticator: ClientAuthenticator) -> None:
        super().__init__(provider, authenticator)
        self._is_own_resource = provider.is_own_resource

    async def handle(self, request: Request) -> Response:
        form = await request.form()
        if not all(isinstance(value, str) and self._is_own_resource(value) for value in form.getlist("resource")):
            message = "This server gives access to its own endpoint only"
            refusal: Response = self.response(TokenErrorResponse(error="invalid_target", error_description=message))
            return refusal
        answer: Response = await super().handle(request)
        return answer


class _RevocationHandler:
    """Token revocation (RFC 7009). The SDK's handler requires a secret of public clients."""

    def __init__(self, grants: GrantProvider, authenticator: ClientAuthenticator) -> None:
        self._provider, self._authenticator = grants, authenticator

    async def handle(self, request: Request) -> Response:
        try:
            client = await self._authenticator.authenticate_request(request)
        except AuthenticationError as error:
            return JSONResponse({"error": "invalid_client", "error_description": error.message}, 401, _NO_STORE)
        token = (await request.form()).get("token")
        if not isinstance(token, str):
            return JSONResponse({"error": "invalid_request", "error_description": "token is missing"}, 400, _NO_STORE)
        await self._provider.revoke(client, token)
        return Response(status_code=200, headers=_NO_STORE)


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


def _client_form(path: str, handler: Handler) -> Route:
    """A route for forms of authenticated clients."""

    async def answer(request: Request) -> Response:
        with_id = await _with_client_id(request)
        return await handler(with_id) if with_id else JSONResponse(_BAD_FORM, 400, _NO_STORE)

    return _cross_origin(path, answer, "POST")


def _cross_origin(path: str, handler: Handler, method: str) -> Route:
    """A route with CORS, for clients in a browser; 503 while the store is down."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except StoreUnavailable as error:
            _log.warning("sign-in: %s", error.message)
            return JSONResponse(_DOWN, 503, {"Retry-After": "5", **_NO_STORE})

    methods = [method, "OPTIONS"]
    return Route(path, cors_middleware(answer, methods), methods=methods)
