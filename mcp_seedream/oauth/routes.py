"""Sign-in for clients that have no place for a key: OAuth 2.1, as claude.ai's connectors and ChatGPT want it.

This server is the authorization server of its own endpoint. What a client gets is a token of this server, bound to
the endpoint, with the caller's API key sealed in it: any replica can serve it, and nothing has to be stored. What is
remembered, and shared in a `Store`, is which codes there are, which refresh token is next, and what was revoked.
"""

from __future__ import annotations

import base64
import logging
import secrets
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
from mcp_seedream.oauth.consent import CALLBACK, PATH, Consent, posted
from mcp_seedream.oauth.provider import Grants, Lifetimes
from mcp_seedream.oauth.registrations import AUTH_METHODS, SCOPE
from mcp_seedream.oauth.sealing import Sealer, is_sealed
from mcp_seedream.oauth.store import MemoryStore, Store, open_store
from mcp_seedream.oauth.vendor import Vendor

_MOST_BYTES = 64 * 1024
_URL = TypeAdapter(AnyHttpUrl, config=ConfigDict(url_preserve_empty_path=True))
_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
_BAD_FORM = {"error": "invalid_request", "error_description": "The request's form can't be read."}
_DOWN = {"error": "temporarily_unavailable", "error_description": "Signing in does not work just now. Try again soon."}
_REGISTRATION, _REVOCATION = ClientRegistrationOptions(enabled=True), RevocationOptions(enabled=True)
_log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]


class SignIn:
    """Everything that sign-in adds to the app.

    Args:
        public_url: The origin that the endpoint is reached at from outside.
        endpoint: The endpoint's path.
        seal_keys: Secrets: the first seals, all open.
        check_key: Asked before a pasted key is accepted.
        store: What replicas share.
        vendor: Where people can sign in instead of pasting a key.
        lifetimes: Of what is given out.
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
    ) -> None:
        self._issuer, self._resource = public_url, f"{public_url}{endpoint}"
        self._store = store or MemoryStore()
        sealer = Sealer(seal_keys, self._resource)
        self._grants = Grants(sealer, self._store, public_url, self._resource, lifetimes or Lifetimes())
        self._consent = Consent(sealer, public_url, check_key=check_key, grant=self._grants.code_for, vendor=vendor)

    @property
    def metadata_url(self) -> str:
        """Where a client that was refused learns how to sign in (RFC 9728)."""
        return str(build_resource_metadata_url(_URL.validate_python(self._resource)))

    @property
    def challenge(self) -> str:
        """What a refusal says to clients: where they learn how to sign in."""
        return f'resource_metadata="{self.metadata_url}"'

    async def key_of_token(self, token: str) -> str | None:
        """The API key for a bearer token: the key in an access token of this server, or the token itself.

        None for an access token that is expired, revoked, tampered with, or for another endpoint.
        """
        if not is_sealed(token):
            return token
        access = await self._grants.load_access_token(token)
        return access.key.get_secret_value() if access else None

    def routes(self) -> list[Route]:
        """The SDK's, of which some are replaced, and the consent page's."""
        issuer, resource = _URL.validate_python(self._issuer), _URL.validate_python(self._resource)
        authenticator = ClientAuthenticator(self._grants)
        ours = [
            _open("/.well-known/oauth-authorization-server", MetadataHandler(self._metadata()).handle, "GET"),
            _form("/token", _Token(self._grants, authenticator).handle),
            _form("/revoke", _Revocation(self._grants, authenticator).handle),
            Route("/authorize", _Authorization(self._grants, self._issuer).handle, methods=["GET", "POST"]),
        ]
        given = create_auth_routes(
            self._grants, issuer, client_registration_options=_REGISTRATION, revocation_options=_REVOCATION
        )
        routes = [
            *{route.path: route for route in [*given, *ours]}.values(),
            *create_protected_resource_routes(resource, [issuer], [SCOPE], "Seedream"),
            *self._consent.routes(),
        ]
        for route in routes:
            route.app = RequestBodyLimitMiddleware(route.app, _MOST_BYTES)
        return routes

    async def aclose(self) -> None:
        await self._store.aclose()

    def _metadata(self) -> OAuthMetadata:
        """The SDK's, with what it leaves out: public clients, the scope, and that answers name their issuer."""
        found = build_metadata(_URL.validate_python(self._issuer), None, _REGISTRATION, _REVOCATION)
        found.scopes_supported = [SCOPE]
        found.token_endpoint_auth_methods_supported = AUTH_METHODS
        found.revocation_endpoint_auth_methods_supported = AUTH_METHODS
        found.authorization_response_iss_parameter_supported = True
        return found


def open_sign_in(settings: Settings, endpoint: str, check_key: KeyCheck) -> SignIn | None:
    """Sign-in as the settings have it; None where there is no public address.

    Raises:
        ConfigurationError: Replicas would not understand each other, or Redis' address is unusable.
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
        _log.warning("SEEDREAM_SEAL_KEYS is not set: whoever signs in has to do it again when this process ends.")
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


class _Authorization(AuthorizationHandler):
    """Errors, too, name the issuer they come from (RFC 9207)."""

    def __init__(self, provider: Grants, issuer: str) -> None:
        super().__init__(provider)
        self._issuer = issuer

    async def handle(self, request: Request) -> Response:
        if request.method == "POST" and await posted(request) is None:
            return JSONResponse(_BAD_FORM, 400, _NO_STORE)
        response = await super().handle(request)
        location = response.headers.get("location", "")
        if location and not location.startswith(f"{self._issuer}{PATH}?"):
            response.headers["location"] = f"{location}&{urlencode({'iss': self._issuer})}"
        return response


class _Token(TokenHandler):
    """Refuses tokens for another resource (RFC 8707), of which the SDK's handler does not speak."""

    def __init__(self, provider: Grants, authenticator: ClientAuthenticator) -> None:
        super().__init__(provider, authenticator)
        self._is_for_us = provider.is_for_us

    async def handle(self, request: Request) -> Response:
        form = await request.form()
        if not all(isinstance(asked, str) and self._is_for_us(asked) for asked in form.getlist("resource")):
            words = "This server gives access to its own endpoint only"
            refusal: Response = self.response(TokenErrorResponse(error="invalid_target", error_description=words))
            return refusal
        answer: Response = await super().handle(request)
        return answer


class _Revocation:
    """RFC 7009; the SDK's own handler wants a secret of clients that have none."""

    def __init__(self, grants: Grants, authenticator: ClientAuthenticator) -> None:
        self._grants, self._authenticator = grants, authenticator

    async def handle(self, request: Request) -> Response:
        try:
            client = await self._authenticator.authenticate_request(request)
        except AuthenticationError as error:
            return JSONResponse({"error": "invalid_client", "error_description": error.message}, 401, _NO_STORE)
        token = (await request.form()).get("token")
        if not isinstance(token, str):
            return JSONResponse({"error": "invalid_request", "error_description": "token is missing"}, 400, _NO_STORE)
        await self._grants.revoke(client, token)
        return Response(status_code=200, headers=_NO_STORE)


async def _identified(request: Request) -> Request | None:
    """The request with its client's id in the form; None if that can't be read.

    The id may be in the header alone (RFC 6749, 2.3.1), where the SDK does not look for it.
    """
    form = await posted(request)
    if form is None or "client_id" in form:
        return None if form is None else request
    scheme, _, coded = request.headers.get("authorization", "").partition(" ")
    try:
        client_id, colon, _ = base64.b64decode(coded).decode().partition(":")
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


def _form(path: str, handler: Handler) -> Route:
    """Takes a form from a client that says who it is."""

    async def answer(request: Request) -> Response:
        identified = await _identified(request)
        return await handler(identified) if identified else JSONResponse(_BAD_FORM, 400, _NO_STORE)

    return _open(path, answer, "POST")


def _open(path: str, handler: Handler, method: str) -> Route:
    """For clients in a browser too (CORS); 503 while the store is down."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except StoreUnavailable as error:
            _log.warning("sign-in: %s", error.message)
            return JSONResponse(_DOWN, 503, {"Retry-After": "5", **_NO_STORE})

    methods = [method, "OPTIONS"]
    return Route(path, cors_middleware(answer, methods), methods=methods)
