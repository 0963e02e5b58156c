"""Sign-in for clients that cannot send a key, such as claude.ai's connectors and ChatGPT: OAuth 2.1.

This server is the authorization server for its endpoint. Its tokens are bound to the endpoint and contain the
caller's API key encrypted, so that any replica can use them. Only codes, the current refresh token of each grant, and
revocations are stored, in a `Store` that replicas share.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Sequence

from mcp.server.auth.handlers.metadata import MetadataHandler
from mcp.server.auth.routes import (
    build_metadata,
    build_resource_metadata_url,
    create_auth_routes,
    create_protected_resource_routes,
)
from mcp.server.auth.settings import ClientRegistrationOptions, RevocationOptions
from mcp.server.transport_security import RequestBodyLimitMiddleware
from mcp.shared.auth import OAuthMetadata
from pydantic import AnyHttpUrl, ConfigDict, TypeAdapter
from starlette.routing import Route

from mcp_seedream.core.credentials import KeyCheck
from mcp_seedream.core.errors import ConfigurationError
from mcp_seedream.core.settings import Settings
from mcp_seedream.oauth.client_documents import ClientDocuments, Fetch
from mcp_seedream.oauth.consent import CALLBACK, Consent
from mcp_seedream.oauth.handlers import Authorization, Revocation, Tokens, client_form, cross_origin
from mcp_seedream.oauth.provider import GrantProvider, Lifetimes
from mcp_seedream.oauth.registrations import AUTH_METHODS, SCOPE
from mcp_seedream.oauth.sealing import Sealer, is_sealed, rotation_state
from mcp_seedream.oauth.store import MemoryStore, Store, open_store
from mcp_seedream.oauth.vendor import Vendor

_MAX_BODY_BYTES = 64 * 1024
_URL = TypeAdapter(AnyHttpUrl, config=ConfigDict(url_preserve_empty_path=True))
_REGISTRATION, _REVOCATION = ClientRegistrationOptions(enabled=True), RevocationOptions(enabled=True)
_log = logging.getLogger(__name__)


class SignIn:
    """The routes of sign-in, and the keys of its tokens.

    Args:
        public_url: The public origin of this server.
        endpoint: The endpoint's path.
        seal_keys: Secrets: the first encrypts, all decrypt.
        check_key: Checks a pasted key.
        store: State that replicas share; in memory by default.
        vendor: The vendor's sign-in, as an alternative to pasting a key.
        lifetimes: The lifetimes of codes and tokens.
        fetch_document: Downloads metadata documents of clients; None: ids of clients can't be URLs.
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
        fetch_document: Fetch | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._issuer, self._resource = public_url, f"{public_url}{endpoint}"
        self._store = store or MemoryStore()
        self._documents = ClientDocuments(fetch_document, clock=clock) if fetch_document else None
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
        """The parameter of `WWW-Authenticate` with the address of the metadata."""
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
        authorization = Authorization(self._provider, self._documents, self._issuer)
        own_routes = [
            cross_origin("/.well-known/oauth-authorization-server", MetadataHandler(self._metadata()).handle, "GET"),
            client_form("/token", Tokens(self._provider).handle),
            client_form("/revoke", Revocation(self._provider).handle),
            Route("/authorize", authorization.handle, methods=["GET", "POST"]),
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
        """The SDK's metadata, and the scope, public clients and the `iss` parameter of responses."""
        metadata = build_metadata(_URL.validate_python(self._issuer), None, _REGISTRATION, _REVOCATION)
        metadata.scopes_supported = [SCOPE]
        metadata.token_endpoint_auth_methods_supported = AUTH_METHODS
        metadata.revocation_endpoint_auth_methods_supported = AUTH_METHODS
        metadata.authorization_response_iss_parameter_supported = True
        metadata.client_id_metadata_document_supported = self._documents is not None
        return metadata


def open_sign_in(
    settings: Settings, endpoint: str, check_key: KeyCheck, fetch_document: Fetch | None = None
) -> SignIn | None:
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
    _log.info("sign-in: %s", rotation_state(keys))
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
        fetch_document=fetch_document,
    )
