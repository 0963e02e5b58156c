"""Codes and tokens: what a client gets once a person has said yes, and when that is over.

A grant is one yes. Its id is random, is in every code and token that comes of it, and is all that has to be known to
end it. A code or a refresh token is good once; a second time means that somebody else has it, and ends the grant.

Of a grant that was ever refreshed the store has one entry, which says what became of it: the refresh token that is
next, or that it was ended. While there is none, any of its refresh tokens is good: it is the first refresh, or the
store has lost its memory, and then a token that was used before gets through once, and whoever comes after that with
another one ends the grant.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from dataclasses import dataclass
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
from mcp_seedream.oauth.consent import Transaction, consent_address, transaction_end
from mcp_seedream.oauth.registrations import SCOPE, Client, register, registered
from mcp_seedream.oauth.sealing import Sealer, fingerprint
from mcp_seedream.oauth.store import Store

_CHALLENGE = re.compile(r"[\w-]{43}", re.ASCII)  # what S256 makes
_LONGEST_STATE = 1000  # bytes, as they are sealed: it goes into an address, twice encoded, and into a cookie
_ENDED = "ended"  # instead of a refresh token's serial, which is longer
_UNASKED = 10  # seconds in which a store that failed is not asked whether a token is revoked
_PORTS = {"https": 443, "http": 80}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lifetimes:
    """In seconds; a refresh token's begins anew with each refresh."""

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


class Grants(OAuthAuthorizationServerProvider[Code, Refresh, Access]):
    """What the SDK's OAuth endpoints ask.

    Args:
        sealer: Bound to `resource`.
        store: Codes, and what became of grants.
        issuer: This server's origin.
        resource: The endpoint that tokens are for.
        lifetimes: Of what is given out.
    """

    def __init__(self, sealer: Sealer, store: Store, issuer: str, resource: str, lifetimes: Lifetimes) -> None:
        self._sealer, self._store = sealer, store
        self._issuer, self._resource = issuer, resource
        self._lifetimes = lifetimes
        self._unasked_until = 0.0

    def is_for_us(self, resource: str) -> bool:
        """A resource indicator (RFC 8707) names this endpoint, with whatever query the client was configured with."""
        return _canonical(resource) == _canonical(self._resource)

    async def get_client(self, client_id: str) -> Client | None:
        return registered(self._sealer, client_id)

    async def register_client(self, client_info: OAuthClientInformationFull) -> None:
        register(self._sealer, client_info)

    async def authorize(self, client: OAuthClientInformationFull, params: AuthorizationParams) -> str:
        """The consent page's address."""
        if params.resource and not self.is_for_us(params.resource):
            raise AuthorizeError("invalid_target", "This server gives access to its own endpoint only")
        if not _CHALLENGE.fullmatch(params.code_challenge):
            raise AuthorizeError("invalid_request", "code_challenge is not one of S256")
        if len(json.dumps(params.state or "", ensure_ascii=False).encode()) - 2 > _LONGEST_STATE:
            raise AuthorizeError("invalid_request", f"state has more than {_LONGEST_STATE} bytes")
        transaction = Transaction(
            client=fingerprint(client.client_id),
            name=client.client_name,
            redirect_uri=str(params.redirect_uri),
            explicit=params.redirect_uri_provided_explicitly,
            challenge=params.code_challenge,
            state=params.state,
            until=transaction_end(),
        )
        return consent_address(self._sealer, self._issuer, transaction)

    async def code_for(self, transaction: Transaction, key: str) -> str:
        """A code that is good once, for what the transaction asked. What it stands for waits in the store, sealed."""
        grant = secrets.token_urlsafe(16)
        record = {
            "c": transaction.client,
            "r": transaction.redirect_uri,
            "x": transaction.explicit,
            "p": transaction.challenge,
            "k": key,
            "e": time.time() + self._lifetimes.code,
        }
        await self._store.put(f"code:{grant}", self._sealer.seal("record", record), self._lifetimes.code)
        _log.info("sign-in: access for a client at %s", urlsplit(transaction.redirect_uri).netloc)
        return self._sealer.seal("code", grant)

    async def load_authorization_code(self, client: OAuthClientInformationFull, authorization_code: str) -> Code | None:
        """Taken: whatever is wrong with the request, the code is used up."""
        grant = self._sealer.open("code", authorization_code)
        if grant is None:
            return None
        record = self._sealer.open("record", await self._store.take(f"code:{grant}") or "")
        if record is None:  # for a second time, or too late: who else has the code is not known
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
        return self._tokens(client, authorization_code, secrets.token_urlsafe(12))

    async def load_refresh_token(self, client: OAuthClientInformationFull, refresh_token: str) -> Refresh | None:
        found = self._sealer.open("refresh", refresh_token)
        if found is None or found["c"] != fingerprint(client.client_id):
            return None
        if await self._store.get(f"grant:{found['g']}") == _ENDED:
            return None
        return Refresh(
            token=refresh_token,
            client_id=client.client_id,
            scopes=[SCOPE],
            expires_at=found["e"],
            resource=self._resource,
            grant=found["g"],
            key=found["k"],
            serial=found["i"],
        )

    async def exchange_refresh_token(
        self,
        client: OAuthClientInformationFull,
        refresh_token: Refresh,
        scopes: list[str],  # noqa: ARG002  (there is one)
    ) -> OAuthToken:
        serial, grant = secrets.token_urlsafe(12), f"grant:{refresh_token.grant}"
        if not await self._store.swap(grant, refresh_token.serial, serial, self._lifetimes.refresh + 60):
            _log.warning("sign-in: a refresh token came a second time; its grant is revoked")
            await self._revoke(refresh_token.grant)
            raise TokenError("invalid_grant", "This refresh token was used before; sign in again")
        return self._tokens(client, refresh_token, serial)

    async def load_access_token(self, token: str) -> Access | None:
        """An access token that is good now. While the store can't be asked, a revoked one is good until it expires."""
        found = self._sealer.open("access", token)
        if found is None or found["e"] <= time.time() or await self._is_revoked(found["g"]):
            return None
        return Access(
            token=token,
            client_id=found["c"],
            scopes=[SCOPE],
            expires_at=found["e"],
            resource=self._resource,
            grant=found["g"],
            key=found["k"],
        )

    async def revoke(self, client: OAuthClientInformationFull, token: str) -> None:
        """End the grant of an access or refresh token of this client's, whatever state that is in; else nothing."""
        found = self._sealer.open("access", token) or self._sealer.open("refresh", token)
        if found and found["c"] == fingerprint(client.client_id):
            await self._revoke(found["g"])

    async def revoke_token(self, token: Access | Refresh) -> None:
        await self._revoke(token.grant)

    async def _revoke(self, grant: str) -> None:
        """For as long as a token of it could be good: none is given any more."""
        seconds = max(self._lifetimes.refresh, self._lifetimes.access) + 60
        await self._store.put(f"grant:{grant}", _ENDED, seconds, vital=True)

    async def _is_revoked(self, grant: str) -> bool:
        if time.monotonic() < self._unasked_until:
            return False
        try:
            return await self._store.get(f"grant:{grant}") == _ENDED
        except StoreUnavailable as error:
            self._unasked_until = time.monotonic() + _UNASKED
            _log.warning("sign-in: %s Revoked access tokens are taken until it is back.", error.message)
            return False

    def _tokens(self, client: OAuthClientInformationFull, of: Code | Refresh, serial: str) -> OAuthToken:
        now = int(time.time())
        held: dict[str, Any] = {"g": of.grant, "c": fingerprint(client.client_id), "k": of.key.get_secret_value()}
        refresh = {**held, "e": now + self._lifetimes.refresh, "i": serial}
        return OAuthToken(
            access_token=self._sealer.seal("access", {**held, "e": now + self._lifetimes.access}),
            expires_in=self._lifetimes.access,
            refresh_token=self._sealer.seal("refresh", refresh) if "refresh_token" in client.grant_types else None,
            scope=SCOPE,
        )


def _canonical(resource: str) -> tuple[str, str | None, int | None, str]:
    try:
        parts = urlsplit(resource)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return "", None, None, ""
    return parts.scheme, parts.hostname, port, parts.path.rstrip("/")
