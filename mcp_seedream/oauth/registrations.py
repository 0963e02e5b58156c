"""Clients that register themselves (RFC 7591). Nothing is stored: a client's id is its registration, sealed."""

from __future__ import annotations

import re
import secrets
import time
import unicodedata
from typing import Any
from urllib.parse import SplitResult, urlsplit

from mcp.server.auth.provider import RegistrationError
from mcp.shared.auth import InvalidRedirectUriError, OAuthClientInformationFull
from pydantic import AnyUrl

from mcp_seedream.oauth.sealing import Sealer

SCOPE = "images"
"""The one thing there is to allow. Whatever a client asks for, this is what it gets, and is told so."""
AUTH_METHODS = ["none", "client_secret_post", "client_secret_basic"]
_MOST_URIS, _LONGEST_URI, _LONGEST_NAME = 10, 300, 60
_MOST_TOGETHER = 1200  # characters of redirect URIs: the id goes into addresses
APPS = ("cursor", "vscode", "vscode-insiders", "windsurf", "zed")
"""Schemes of their own that apps on a person's machine come back by; another one could be any program's."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HOST = re.compile(r"([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", re.IGNORECASE | re.ASCII)
_APPS_HOST = re.compile(r"[a-z0-9._-]+(:[0-9]{1,5})?", re.IGNORECASE | re.ASCII)
_PORTS = {"https": 443, "http": 80}


class Client(OAuthClientInformationFull):
    """A registered client, with the tolerance that clients need."""

    def validate_scope(self, requested_scope: str | None) -> list[str]:  # noqa: ARG002
        """Unknown scopes are left out, as RFC 6749 (3.3) allows: the answer says which one there is."""
        return [SCOPE]

    def validate_redirect_uri(self, redirect_uri: AnyUrl | None) -> AnyUrl:
        """A registered one; on loopback any port, which a client may not know before (RFC 8252, 7.3)."""
        if redirect_uri is None:
            redirect_uri = super().validate_redirect_uri(None)
        asked = _comparable(str(redirect_uri))
        if _complaint(str(redirect_uri)) or asked not in [_comparable(str(uri)) for uri in self.redirect_uris or []]:
            raise InvalidRedirectUriError("This redirect_uri is not registered for the client")
        return redirect_uri


def register(sealer: Sealer, info: OAuthClientInformationFull) -> None:
    """Make the client's id (and secret, if it wants one) out of its registration, in place.

    Raises:
        RegistrationError: A redirect URI will not do.
    """
    uris = [str(uri) for uri in info.redirect_uris or []]
    if not 0 < len(uris) <= _MOST_URIS or sum(len(uri) for uri in uris) > _MOST_TOGETHER:
        raise RegistrationError("invalid_redirect_uri", f"1 to {_MOST_URIS} redirect URIs, not too long, are needed")
    for uri in uris:
        if complaint := _complaint(uri):
            raise RegistrationError("invalid_redirect_uri", complaint)
    if info.token_endpoint_auth_method not in AUTH_METHODS:
        raise RegistrationError("invalid_client_metadata", "token_endpoint_auth_method is not supported")
    info.client_name = _printable(info.client_name)
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
    """The client whose id this is; None if it is not one of ours."""
    registration = sealer.open("client", client_id)
    if registration is None:
        return None
    return Client(
        client_id=client_id,
        redirect_uris=registration["u"],
        client_name=registration.get("n"),
        token_endpoint_auth_method=AUTH_METHODS[registration.get("m", 0)],
        client_secret=registration.get("s"),
        grant_types=_grants(registration),
        client_id_issued_at=registration["t"],
        scope=SCOPE,
    )


def _grants(registration: dict[str, Any]) -> list[str]:
    return ["authorization_code", *(["refresh_token"] if registration.get("r") else [])]


def _complaint(uri: str) -> str | None:
    """What is wrong with a redirect URI: somebody's key is worth as much as the place its token is sent to."""
    parts = urlsplit(uri)
    if len(uri) > _LONGEST_URI or not uri.isascii() or any(c in uri for c in "\\\"'<> ") or not uri.isprintable():
        return f"A redirect URI has at most {_LONGEST_URI} characters, and none that must be escaped"
    if "#" in uri or "@" in parts.netloc or not parts.hostname:
        return "A redirect URI has a host, no fragment and no user name"
    # It is shown to people, and goes into the policy of the page that asks them.
    if not (_APPS_HOST if parts.scheme in APPS else _HOST).fullmatch(parts.netloc):
        return "A redirect URI's host is of letters, digits, dots and hyphens, or an IPv6 address"
    local = parts.scheme == "http" and parts.hostname in _LOOPBACK
    if parts.scheme != "https" and not local and parts.scheme not in APPS:
        return "A redirect URI starts with https://, with http:// on this machine, or with the scheme of a known app"
    return None


def _comparable(uri: str) -> tuple[str, str | None, int | None, str, str]:
    parts: SplitResult = urlsplit(uri)
    loopback = parts.scheme == "http" and parts.hostname in _LOOPBACK
    port = None if loopback else parts.port or _PORTS.get(parts.scheme)
    return parts.scheme, parts.hostname, port, parts.path or "/", parts.query


def _printable(name: str | None) -> str | None:
    """A client's name as it can be shown: no control characters, and none that turn the text around."""
    kept = "".join(c for c in name or "" if unicodedata.category(c)[0] != "C" or c == " ")
    return " ".join(kept.split())[:_LONGEST_NAME].strip() or None
