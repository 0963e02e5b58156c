"""Sign-in at the vendor, AceDataCloud: a person signs in there, and this server gets an API key of theirs.

It is the authorization code flow with PKCE at the vendor's authorization server, followed by two requests to its
platform: the person's application for all services, and the credential with our name in it. Each is created if missing.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import anyio
import httpx

from mcp_seedream.core.errors import SignInFailed

CREDENTIAL = "mcp-seedream"
"""The name of the credential in the person's account. The person can see and delete it."""
_SCOPE = "profile platform"
_SECONDS = 30  # for all requests together; meanwhile the person's browser shows a blank page
_LONGEST_KEY = 512


@dataclass(frozen=True)
class Vendor:
    """The vendor's sign-in, and how this server is registered there.

    Args:
        client_id: This server's client id at the vendor.
        auth_url: The address of the authorization server.
        platform_url: The address of the platform that stores credentials.
        callback: The redirect URI at this server.
        seconds: Time-out of `key`.
    """

    client_id: str
    auth_url: str
    platform_url: str
    callback: str
    seconds: float = field(default=_SECONDS)

    def address(self, state: str, challenge: str) -> str:
        """The address at which a person signs in."""
        query = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": self.callback,
            "scope": _SCOPE,
            "state": state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return f"{self.auth_url}/oauth2/authorize?{urlencode(query)}"

    async def key(self, code: str, verifier: str) -> str:
        """Exchange an authorization code for the person's API key.

        Raises:
            SignInFailed: Its `code` selects the message of the consent page.
        """
        with anyio.move_on_after(self.seconds):
            async with _sign_in_errors(), httpx.AsyncClient(timeout=self.seconds) as http:
                token = await self._token(http, code, verifier)
                http.headers["Authorization"] = f"Bearer {token}"
                return await self._credential(http, await self._application(http, _user(token)))
        raise SignInFailed("The vendor's sign-in took too long.", code="vendor_slow")

    async def _token(self, http: httpx.AsyncClient, code: str, verifier: str) -> str:
        form = {
            "grant_type": "authorization_code",
            "client_id": self.client_id,
            "code": code,
            "redirect_uri": self.callback,
            "code_verifier": verifier,
        }
        reply = await http.post(f"{self.auth_url}/oauth2/token", data=form)
        if reply.status_code in (400, 401):
            raise SignInFailed("The vendor refused the code.", code="vendor_refused")
        return _text(_read(reply), "access_token")

    async def _application(self, http: httpx.AsyncClient, user: str | None) -> str:
        url = f"{self.platform_url}/api/v1/applications/"
        fields = {"type": "Usage", "scope": "Global"}
        query = {**fields, "limit": "10", "ordering": "-created_at", **({"user_id": user} if user else {})}
        for item in _items(_read(await http.get(url, params=query))):
            if item.get("id"):
                return str(item["id"])
        return _text(_read(await http.post(url, json=fields)), "id")

    async def _credential(self, http: httpx.AsyncClient, application: str) -> str:
        url = f"{self.platform_url}/api/v1/credentials/"
        fields = {"application_id": application, "name": CREDENTIAL}
        for item in _items(_read(await http.get(url, params=fields))):
            if item.get("token") and item.get("name", CREDENTIAL) == CREDENTIAL:
                return _key(item)
        return _key(_read(await http.post(url, json=fields)))


@asynccontextmanager
async def _sign_in_errors() -> AsyncIterator[None]:
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise SignInFailed(f"The vendor could not be reached ({type(error).__name__}).") from error


def _read(reply: httpx.Response) -> dict[str, Any]:
    """The JSON object of a response. Errors do not quote it: it may contain a key."""
    try:
        body = json.loads(reply.content)
    except (ValueError, RecursionError):
        body = None
    if not reply.is_success or not isinstance(body, dict):
        raise SignInFailed(f"The vendor's response can't be used (status {reply.status_code}).")
    return body


def _items(body: dict[str, Any]) -> list[dict[str, Any]]:
    items = body.get("items")
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str | int) or not str(value) or not f"{value}".isascii():
        raise SignInFailed(f"The vendor's response has no {name}.")
    return str(value)


def _key(credential: dict[str, Any]) -> str:
    key = _text(credential, "token")
    if len(key) > _LONGEST_KEY or any(not 33 <= ord(character) <= 126 for character in key):
        raise SignInFailed("The vendor's response has no valid token.")
    return key


def _user(token: str) -> str | None:
    """The `user_id` in a JWT, unverified: it only narrows a search that is authorized with the same token."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    user = claims.get("user_id") if isinstance(claims, dict) else None
    return str(user) if isinstance(user, str | int) and user else None
