"""Authorization codes, access tokens and refresh tokens: how they are issued, used and revoked.

A grant is one consent of a person. Its random id is in every code and token issued from it, and is enough to revoke
them all. Codes and refresh tokens are used once; a second use means that somebody has a stolen copy, and revokes the
grant. Clients may refresh concurrently, or again after a lost response: for 30 seconds, until the new refresh token is
used, the old one gives the same tokens again. They are not stored: encryption with a nonce derived from their content
makes the same tokens at each replica.

The store has one entry for each grant that was refreshed or revoked: the serial of the current refresh token, or that
the grant was revoked. Without an entry, any refresh token of the grant is accepted: it is the first refresh, or the
store was lost. After a loss, a used token is accepted once; the next one that differs revokes the grant.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from mcp.server.auth.provider import (
    AccessToken,
    AuthorizationCode,
    AuthorizationParams,
    AuthorizeError,
    OAuthAuthorizationServerProvider,
    RefreshToken,
    TokenError,
)
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from pydantic import AnyUrl, SecretStr

from mcp_seedream.core.errors import StoreUnavailable
from mcp_seedream.oauth.client_documents import document_host, is_document_url
from mcp_seedream.oauth.registrations import (
    AUTH_METHODS,
    SCOPE,
    Client,
    build_client,
    register,
    registered,
    same_endpoint,
)
from mcp_seedream.oauth.sealing import Sealer, fingerprint
from mcp_seedream.oauth.store import Store
from mcp_seedream.oauth.transactions import Transaction, consent_address, transaction_end

_CHALLENGE = re.compile(r"[\w-]{43}", re.ASCII)  # the length of S256
_MAX_STATE_BYTES = 1000  # it is encrypted into a URL and a cookie, encoded twice
_REVOKED = "ended"  # stored instead of a refresh token's serial, which is longer
_REPEAT_SECONDS = 30  # a used refresh token returns its successor again for this time
_RETRY_SECONDS = 10  # after a failure of the store, access tokens are not checked for revocation for this time
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lifetimes:
    """In seconds. Each refresh issues a new refresh token with the full lifetime."""

    access: int = 3600
    refresh: int = 30 * 24 * 3600
    code: int = 90


class Code(AuthorizationCode):
    grant: str
    key: SecretStr


class Access(AccessToken):
    grant: str
    key: SecretStr


class Refresh(RefreshToken):
    grant: str
    key: SecretStr
    serial: str


class GrantProvider(OAuthAuthorizationServerProvider[Code, Refresh, Access]):
    """The provider behind the SDK's OAuth handlers.

    Args:
        sealer: Bound to `resource`.
        store: Holds codes and the state of grants.
        issuer: This server's origin.
        resource: The URL of the endpoint that tokens are for.
        lifetimes: Of codes and tokens.
        clock: Returns the Unix time in seconds.
    """

    def __init__(
        self,
        sealer: Sealer,
        store: Store,
        issuer: str,
        resource: str,
        *,
        lifetimes: Lifetimes,
        clock: Callable[[], float],
    ) -> None:
        self._sealer, self._store = sealer, store
        self._issuer, self._resource = issuer, resource
        self._lifetimes = lifetimes
        self._clock = clock
        self._unchecked_until = 0.0

    def is_own_resource(self, resource: str) -> bool:
        """Whether a resource indicator (RFC 8707) names this endpoint, with any query."""
        return same_endpoint(resource, self._resource)

    async def get_client(self, client_id: str) -> Client | None:
        """A client that registered here."""
        return registered(self._sealer, client_id)

    def client_of_token(self, client_id: str, refresh_token: str) -> Client | None:
        """The client of a request to the token endpoint, whose codes and tokens are bound to its id.

        Nothing is fetched for an id that is a URL. A refresh token names the client's secret: a registration may be
        encrypted with a seal key that was removed since.
        """
        if is_document_url(client_id):
            return build_client(client_id)
        if client := registered(self._sealer, client_id):
            return client
        claims = self._sealer.open("refresh", refresh_token)
        if claims is None or claims["c"] != fingerprint(client_id) or "m" not in claims:
            return None
        return build_client(client_id, method=claims["m"], secret=claims["s"])

    async def register_client(self, client_info: OAuthClientInformationFull) -> None:
        register(self._sealer, client_info)

    async def authorize(self, client: OAuthClientInformationFull, params: AuthorizationParams) -> str:
        """The address of the consent page."""
        if params.resource and not self.is_own_resource(params.resource):
            raise AuthorizeError("invalid_target", "This server gives access to its own endpoint only")
        if not _CHALLENGE.fullmatch(params.code_challenge):
            raise AuthorizeError("invalid_request", "code_challenge is not one of S256")
        if len(json.dumps(params.state or "", ensure_ascii=False).encode()) - 2 > _MAX_STATE_BYTES:
            raise AuthorizeError("invalid_request", f"state has more than {_MAX_STATE_BYTES} bytes")
        transaction = Transaction(
            client=fingerprint(client.client_id),
            name=client.client_name,
            redirect_uri=str(params.redirect_uri),
            explicit=params.redirect_uri_provided_explicitly,
            challenge=params.code_challenge,
            state=params.state,
            until=transaction_end(),
            client_host=document_host(client.client_id),
        )
        return consent_address(self._sealer, self._issuer, transaction)

    async def issue_code(self, transaction: Transaction, key: str) -> str:
        """Issue a code for a transaction. Its record, with the key encrypted, is in the store."""
        grant = secrets.token_urlsafe(16)
        record = {
            "c": transaction.client,
            "r": transaction.redirect_uri,
            "x": transaction.explicit,
            "p": transaction.challenge,
            "k": key,
            "e": self._clock() + self._lifetimes.code,
        }
        await self._store.put(f"code:{grant}", self._sealer.seal("record", record), self._lifetimes.code)
        _log.info("sign-in: access for a client at %s", urlsplit(transaction.redirect_uri).netloc)
        return self._sealer.seal("code", grant)

    async def load_authorization_code(self, client: OAuthClientInformationFull, authorization_code: str) -> Code | None:
        """Load a code and use it up, even if the request turns out to be invalid."""
        grant = self._sealer.open("code", authorization_code)
        if grant is None:
            return None
        record = self._sealer.open("record", await self._store.pop(f"code:{grant}") or "")
        if record is None:  # used twice or expired: the code may have been stolen
            await self._revoke(grant)
            return None
        if record["c"] != fingerprint(client.client_id):
            return None
        return Code(
            code=authorization_code,
            scopes=[SCOPE],
            expires_at=record["e"],
            client_id=client.client_id,
            code_challenge=record["p"],
            redirect_uri=AnyUrl(record["r"]),
            redirect_uri_provided_explicitly=record["x"],
            resource=self._resource,
            grant=grant,
            key=record["k"],
        )

    async def exchange_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: Code
    ) -> OAuthToken:
        return self._tokens(client, authorization_code, secrets.token_urlsafe(12), int(self._clock()))

    async def load_refresh_token(self, client: OAuthClientInformationFull, refresh_token: str) -> Refresh | None:
        claims = self._sealer.open("refresh", refresh_token)
        if claims is None or claims["c"] != fingerprint(client.client_id):
            return None
        if await self._store.get(f"grant:{claims['g']}") == _REVOKED:
            return None
        return Refresh(
            token=refresh_token,
            client_id=client.client_id,
            scopes=[SCOPE],
            expires_at=claims["e"],
            resource=self._resource,
            grant=claims["g"],
            key=claims["k"],
            serial=claims["i"],
        )

    async def exchange_refresh_token(
        self,
        client: OAuthClientInformationFull,
        refresh_token: Refresh,
        scopes: list[str],  # noqa: ARG002  (there is only one)
    ) -> OAuthToken:
        now, grant = int(self._clock()), f"grant:{refresh_token.grant}"
        serial = _successor(refresh_token.serial, now)
        if not await self._store.swap(grant, refresh_token.serial, serial, self._lifetimes.refresh + 60):
            serial = await self._store.get(grant) or ""
        issued = _issued(serial, refresh_token.serial)
        if issued is None or now - issued > _REPEAT_SECONDS:
            _log.warning("sign-in: a refresh token was used twice; its grant is revoked")
            await self._revoke(refresh_token.grant)
            raise TokenError("invalid_grant", "This refresh token was used before; sign in again")
        return self._tokens(client, refresh_token, serial, issued)

    async def load_access_token(self, token: str) -> Access | None:
        """A valid access token. While the store is down, a revoked one is accepted until it expires."""
        claims = self._sealer.open("access", token)
        if claims is None or claims["e"] <= self._clock() or await self._is_revoked(claims["g"]):
            return None
        return Access(
            token=token,
            client_id=claims["c"],
            scopes=[SCOPE],
            expires_at=claims["e"],
            resource=self._resource,
            grant=claims["g"],
            key=claims["k"],
        )

    async def revoke(self, client: OAuthClientInformationFull, token: str) -> None:
        """Revoke the grant of an access or refresh token if this client owns it, even if the token has expired."""
        claims = self._sealer.open("access", token) or self._sealer.open("refresh", token)
        if claims and claims["c"] == fingerprint(client.client_id):
            await self._revoke(claims["g"])

    async def revoke_token(self, token: Access | Refresh) -> None:
        await self._revoke(token.grant)

    async def _revoke(self, grant: str) -> None:
        """Store the revocation for as long as a token of the grant could be valid."""
        seconds = max(self._lifetimes.refresh, self._lifetimes.access) + 60
        await self._store.put(f"grant:{grant}", _REVOKED, seconds, must_store=True)

    async def _is_revoked(self, grant: str) -> bool:
        if time.monotonic() < self._unchecked_until:
            return False
        try:
            return await self._store.get(f"grant:{grant}") == _REVOKED
        except StoreUnavailable as error:
            self._unchecked_until = time.monotonic() + _RETRY_SECONDS
            _log.warning("sign-in: %s Revoked access tokens are accepted until it is back.", error.message)
            return False

    def _tokens(
        self, client: OAuthClientInformationFull, source: Code | Refresh, serial: str, issued: int
    ) -> OAuthToken:
        """The tokens of a grant. The same arguments give the same tokens, while the first seal key is the same."""
        claims: dict[str, Any] = {
            "g": source.grant,
            "c": fingerprint(client.client_id),
            "k": source.key.get_secret_value(),
            "i": serial,
        }
        access = {**claims, "e": issued + self._lifetimes.access}
        refresh = {
            **claims,
            "e": issued + self._lifetimes.refresh,
            "m": AUTH_METHODS.index(client.token_endpoint_auth_method or "none"),
            "s": client.client_secret,
        }
        seal = partial(self._sealer.seal, repeatable=True)
        return OAuthToken(
            access_token=seal("access", access),
            expires_in=max(0, access["e"] - int(self._clock())),
            refresh_token=seal("refresh", refresh) if "refresh_token" in client.grant_types else None,
            scope=SCOPE,
        )


def _successor(serial: str, issued: int) -> str:
    """A new serial that names the one before and the Unix time of the refresh, in seconds."""
    return f"{issued}.{secrets.token_urlsafe(6)}.{fingerprint(serial)}"


def _issued(serial: str, previous: str) -> int | None:
    """When a serial was issued as the successor of another one; None if it was not."""
    issued, _, rest = serial.partition(".")
    return int(issued) if rest.endswith(f".{fingerprint(previous)}") else None
