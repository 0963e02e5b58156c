"""Dynamic client registration (RFC 7591). Nothing is stored: a client's id is its registration, encrypted."""

from __future__ import annotations

import re
import secrets
import time
import unicodedata
from collections.abc import Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

from mcp.server.auth.provider import RegistrationError
from mcp.shared.auth import InvalidRedirectUriError, OAuthClientInformationFull
from pydantic import AnyUrl

from mcp_seedream.oauth.sealing import Sealer

SCOPE = "images"
"""The only scope. Clients get it whatever scope they request, and the response says so."""
AUTH_METHODS = ["none", "client_secret_post", "client_secret_basic"]
_MAX_URIS, _MAX_URI_LENGTH, _MAX_NAME_LENGTH = 10, 300, 60
_MAX_URIS_LENGTH = 1200  # characters of all redirect URIs: the id, which contains them, is sent in URLs
APP_SCHEMES = ("cursor", "vscode", "vscode-insiders", "windsurf", "zed")
"""URI schemes of known desktop apps. Any program could register another one."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HOST = re.compile(r"([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", re.IGNORECASE | re.ASCII)
_APP_HOST = re.compile(r"[a-z0-9._-]+(:[0-9]{1,5})?", re.IGNORECASE | re.ASCII)
_PORTS = {"https": 443, "http": 80}


class Client(OAuthClientInformationFull):
    """A registered client; its scopes and loopback redirect URIs are validated leniently."""

    def validate_scope(self, requested_scope: str | None) -> list[str]:  # noqa: ARG002
        """Ignore unknown scopes, as RFC 6749 (3.3) allows; the response names the granted one."""
        return [SCOPE]

    def validate_redirect_uri(self, redirect_uri: AnyUrl | None) -> AnyUrl:
        """Accept a registered URI, on loopback with any port: clients choose it after registration (RFC 8252, 7.3)."""
        if redirect_uri is None:
            redirect_uri = super().validate_redirect_uri(None)
        comparable = _comparable(str(redirect_uri))
        if uri_error(str(redirect_uri)) or comparable not in [
            _comparable(str(uri)) for uri in self.redirect_uris or []
        ]:
            raise InvalidRedirectUriError("This redirect_uri is not registered for the client")
        return redirect_uri


def register(sealer: Sealer, info: OAuthClientInformationFull) -> None:
    """Set the client's id, and its secret if it authenticates with one, in place.

    Raises:
        RegistrationError: A redirect URI or the authentication method is not accepted.
    """
    uris = [str(uri) for uri in info.redirect_uris or []]
    if not 0 < len(uris) <= _MAX_URIS or sum(len(uri) for uri in uris) > _MAX_URIS_LENGTH:
        raise RegistrationError("invalid_redirect_uri", f"1 to {_MAX_URIS} redirect URIs, not too long, are needed")
    for uri in uris:
        if message := uri_error(uri):
            raise RegistrationError("invalid_redirect_uri", message)
    if info.token_endpoint_auth_method not in AUTH_METHODS:
        raise RegistrationError("invalid_client_metadata", "token_endpoint_auth_method is not supported")
    info.client_name = printable(info.client_name)
    info.scope = SCOPE
    method = AUTH_METHODS.index(info.token_endpoint_auth_method)
    info.client_secret = secrets.token_urlsafe(24) if method else None
    registration: dict[str, Any] = {
        "u": uris,
        "n": info.client_name,
        "m": method,
        "s": info.client_secret,
        "r": int("refresh_token" in info.grant_types),
        "t": int(time.time()),
    }
    info.grant_types = _grants(registration)
    info.client_id = sealer.seal("client", {name: value for name, value in registration.items() if value})


def registered(sealer: Sealer, client_id: str) -> Client | None:
    """The client with this id; None if this server did not issue it."""
    registration = sealer.open("client", client_id)
    if registration is None:
        return None
    return build_client(
        client_id,
        redirect_uris=registration["u"],
        name=registration.get("n"),
        method=registration.get("m", 0),
        secret=registration.get("s"),
        grants=_grants(registration),
    )


def build_client(
    client_id: str,
    *,
    redirect_uris: list[str] | None = None,
    name: str | None = None,
    method: int = 0,
    secret: str | None = None,
    grants: Sequence[str] = ("authorization_code", "refresh_token"),
) -> Client:
    """A client; without redirect URIs, it is good for the token endpoint only.

    Args:
        client_id: Its id.
        redirect_uris: Its redirect URIs.
        name: Its name.
        method: How it authenticates, an index of `AUTH_METHODS`.
        secret: Its secret, if it authenticates with one.
        grants: Its grant types.
    """
    return Client.model_validate(
        {
            "client_id": client_id,
            "redirect_uris": redirect_uris,
            "client_name": name,
            "token_endpoint_auth_method": AUTH_METHODS[method],
            "client_secret": secret,
            "grant_types": list(grants),
            "scope": SCOPE,
        }
    )


def is_loopback(uri: str) -> bool:
    """Whether a redirect URI leads to a program on the person's own computer."""
    parts = urlsplit(uri)
    return parts.scheme == "http" and parts.hostname in _LOOPBACK


def same_endpoint(one: str, other: str) -> bool:
    """Whether two resource indicators (RFC 8707) name the same endpoint, with any query."""
    try:
        return _endpoint(one) == _endpoint(other)
    except ValueError:
        return False


def _endpoint(resource: str) -> tuple[str, str | None, int | None, str]:
    parts = urlsplit(resource)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme), parts.path.rstrip("/")


def _grants(registration: dict[str, Any]) -> list[str]:
    return ["authorization_code", *(["refresh_token"] if registration.get("r") else [])]


def uri_error(uri: str) -> str | None:
    """Why a redirect URI is not accepted; None if it is. Tokens are sent there, and they stand for a person's key."""
    parts = urlsplit(uri)
    if len(uri) > _MAX_URI_LENGTH or not uri.isascii() or any(c in uri for c in "\\\"'<> ") or not uri.isprintable():
        return f"A redirect URI has at most {_MAX_URI_LENGTH} characters, and none that must be escaped"
    if "#" in uri or "@" in parts.netloc or not parts.hostname:
        return "A redirect URI has a host, no fragment and no user name"
    # It is shown on the consent page and becomes part of that page's content security policy.
    if not (_APP_HOST if parts.scheme in APP_SCHEMES else _HOST).fullmatch(parts.netloc):
        return "A redirect URI's host is of letters, digits, dots and hyphens, or an IPv6 address"
    if parts.scheme != "https" and not is_loopback(uri) and parts.scheme not in APP_SCHEMES:
        return "A redirect URI starts with https://, with http:// on this machine, or with the scheme of a known app"
    return None


def _comparable(uri: str) -> tuple[str, str | None, int | None, str, str]:
    parts: SplitResult = urlsplit(uri)
    port = None if is_loopback(uri) else parts.port or _PORTS.get(parts.scheme)
    return parts.scheme, parts.hostname, port, parts.path or "/", parts.query


def printable(name: str | None) -> str | None:
    """A client's name for display, without control characters and characters that change the text direction."""
    printable = "".join(c for c in name or "" if unicodedata.category(c)[0] != "C" or c == " ")
    return " ".join(printable.split())[:_MAX_NAME_LENGTH].strip() or None
