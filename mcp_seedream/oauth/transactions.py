"""Transactions: authorization requests between the client's redirect and the person's decision.

They are not stored. A transaction is encrypted in the address of the consent page, in its form, and in a cookie while
the person signs in at the vendor.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlencode

from mcp_seedream.oauth.sealing import Sealer

PATH = "/consent"
"""The path of the consent page."""
SECONDS = 1800  # time for a person to create an account first


@dataclass(frozen=True)
class Transaction:
    """An authorization request of a client.

    Args:
        client: The fingerprint of the client's id.
        name: The name it registered.
        redirect_uri: Where the response is sent; one of its registered URIs.
        explicit: Whether the request named that URI.
        challenge: The PKCE challenge, S256.
        state: The client's own value, returned to it.
        until: When it expires, in Unix seconds.
        client_host: The host of the client's metadata document; None for a client that registered at this server.
    """

    client: str
    name: str | None
    redirect_uri: str
    explicit: bool
    challenge: str
    state: str | None
    until: int
    client_host: str | None = None

    def fields(self) -> dict[str, Any]:
        """The fields for `valid_transaction`, without the last one if it is None: older versions do not know it."""
        fields = asdict(self)
        return fields if self.client_host else {name: fields[name] for name in fields if name != "client_host"}

    def response_uri(self, issuer: str, **values: str) -> str:
        """The redirect URI with the parameters of a response."""
        query = {**values, **({} if self.state is None else {"state": self.state}), "iss": issuer}
        return f"{self.redirect_uri}{'&' if '?' in self.redirect_uri else '?'}{urlencode(query)}"


def consent_address(sealer: Sealer, issuer: str, transaction: Transaction, problem: str | None = None) -> str:
    """The address of the consent page; `problem` is the code of a message to show."""
    query = {"transaction": sealer.seal("consent", transaction.fields())}
    return f"{issuer}{PATH}?{urlencode(query | ({'problem': problem} if problem else {}))}"


def transaction_end() -> int:
    """When a transaction that starts now expires, in Unix seconds."""
    return int(time.time()) + SECONDS


def valid_transaction(fields: Any) -> Transaction | None:
    """The transaction with these fields; None if it has expired."""
    return Transaction(**fields) if fields and fields["until"] > time.time() else None
