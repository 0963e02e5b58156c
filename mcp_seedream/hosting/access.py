"""Middleware that restricts requests: to allowed hosts and origins, by CORS, and to callers with a valid key."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import ExitStack
from ipaddress import ip_address
from typing import Any

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_seedream.core.credentials import placeholder_reason
from mcp_seedream.core.errors import TOKEN_PAGE, LimitExceeded
from mcp_seedream.core.events import caller_id
from mcp_seedream.hosting.key_verifier import KeyNotChecked
from mcp_seedream.hosting.limits import AddressRateLimiter, CallerLimits, network_address
from mcp_seedream.hosting.middleware import route_path

logger = logging.getLogger(__name__)

_BEARER = re.compile(r"Bearer +([\x21-\x7e]{1,4096})", re.IGNORECASE)
METRICS = "/metrics"
_EXPOSED_HEADERS = ("Mcp-Session-Id", "WWW-Authenticate", "Retry-After", "X-Request-ID")
_SHOWN = 100  # characters of a refused name
_MAX_WAITING_BODY = 64 * 1024

AddressKeyCheck = Callable[[str, str], Awaitable[bool]]
"""Returns whether the upstream accepts an API key that came from a network address; raises `KeyNotChecked`."""


class EndpointCorsMiddleware:
    """CORS for the endpoint. Public paths set their own CORS headers.

    Args:
        origins: Origins of web pages that may call the endpoint, or `*`.
        public_paths: Paths that are passed through.
    """

    def __init__(self, app: ASGIApp, *, origins: Sequence[str], public_paths: Collection[str]) -> None:
        self._app = app
        self._public_paths = public_paths
        self._cors = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=_EXPOSED_HEADERS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_public = scope["type"] == "http" and route_path(scope) in self._public_paths
        await (self._app if is_public else self._cors)(scope, receive, send)


class MetricsPortMiddleware:
    """Serves `/metrics` on a separate port. That port has no other path, and other ports have no `/metrics` (404).

    Args:
        port: The port of `/metrics`, compared with the port of the socket that received the request.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            is_metrics_port = (scope.get("server") or ("", None))[1] == self._port
            if is_metrics_port != (route_path(scope) == METRICS):
                await _error(404, "not_found", "There is nothing at this address.")(scope, receive, send)
                return
        await self._app(scope, receive, send)


class HostAndOriginMiddleware:
    """Refuses requests for a `Host` (421) or from an `Origin` (403) that is not allowed, and oversized headers (431).

    It prevents DNS rebinding, where a web page calls a server on the visitor's machine. The response and the log
    name the setting that allows a host or an origin.

    Args:
        hosts: Allowed names; a name without a port allows every port.
        origins: Allowed origins, likewise.
        public_paths: Paths that are passed through, such as pages of sign-in.
        probe_paths: Paths that accept any origin, and also a host that is an IP address or a name without a dot: probes
            and monitoring use the address of a pod or the name of a service. DNS rebinding needs a name with a dot.
        max_header_bytes: Largest size of all headers of one request.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Sequence[str],
        origins: Sequence[str],
        public_paths: Collection[str] = (),
        probe_paths: Collection[str] = (),
        max_header_bytes: int = 32 * 1024,
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._origins = origins
        self._public_paths = public_paths
        self._probe_paths = probe_paths
        self._max_header_bytes = max_header_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and route_path(scope) not in self._public_paths and (error := self._error(scope)):
            await error(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _error(self, scope: Scope) -> JSONResponse | None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > self._max_header_bytes:
            return _error(431, "headers_too_large", f"The headers are more than {self._max_header_bytes} bytes.")
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        is_probe = route_path(scope) in self._probe_paths
        if not (_is_allowed(host, self._hosts) or (is_probe and _is_internal(host))):
            return _not_allowed(421, "host", host, "SEEDREAM_ALLOWED_HOSTS")
        if origin is not None and not is_probe and not _is_allowed(origin, self._origins):
            return _not_allowed(403, "origin", origin, "SEEDREAM_ALLOWED_ORIGINS")
        return None


def _is_allowed(name: str, allowed: Sequence[str]) -> bool:
    """Whether a name, with or without a port, is in the list."""
    name = name.lower()
    return "*" in allowed or any(
        name == one or (not _has_port(one) and re.fullmatch(rf"{re.escape(one)}:\d+", name)) for one in allowed
    )


def _has_port(name: str) -> bool:
    return bool(re.search(r":\d+$", name))


def _is_internal(host: str) -> bool:
    """Whether a host is an IP address, or a name without a dot, with or without a port."""
    name = host.rpartition(":")[0] if _has_port(host) else host
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return "." not in name
    return True


def _not_allowed(status: int, header: str, name: str, setting: str) -> JSONResponse:
    shown = json.dumps(name[:_SHOWN])
    logger.warning("refused with %d: the %s %s is not in %s", status, header, shown, setting)
    message = f"This server does not accept the {header} {shown}. Its operator can add it to {setting}."
    return _error(status, f"{header}_not_allowed", message)


class BearerKeyMiddleware:
    """Requires a valid API key as bearer token; other requests get 401 before their body is read.

    The key and the caller's id are stored in the request's state as `caller_key` and `caller_id`. A key that can't be
    checked in time gets 503.

    Other methods than POST get 405, without a check of their key. A `GET` would open a stream for messages outside
    of calls. A stateless server has no such messages, and the specification requires 405 from it.

    Args:
        check_key: Returns whether the upstream accepts a key that came from a network address; None to skip the check.
        limits: Limits requests in progress, from before the body is read to the end of the response (429).
        challenge: A parameter for `WWW-Authenticate` that tells clients where to sign in.
        key_of_token: Returns the key for a bearer token, None for an invalid one. By default the token is the key.
        refusals: Limits the rate of 401 and 503 responses. It slows down a client that waits for each response before
            its next request, and does not delay callers with a valid key at the same address.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        check_key: AddressKeyCheck | None = None,
        limits: CallerLimits | None = None,
        challenge: str = "",
        key_of_token: Callable[[str], Awaitable[str | None]] | None = None,
        refusals: AddressRateLimiter | None = None,
    ) -> None:
        self._app = app
        self._check_key = check_key
        self._limits = limits
        self._challenge = challenge
        self._key_of_token = key_of_token
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = _bearer_token(scope)
        if scope["method"] != "POST" and token:
            not_allowed = _error(405, "method_not_allowed", "Send MCP messages with POST.", {"Allow": "POST"})
            await not_allowed(scope, receive, send)
            return
        key = await self._key_of_token(token) if token and self._key_of_token else token
        if refusal := await self._refusal(token, key, scope):
            await refusal(scope, receive, send)
            return
        assert key is not None
        with ExitStack() as stack:
            try:
                if self._limits:
                    stack.enter_context(self._limits.call(key))
            except LimitExceeded as error:
                headers = {"Retry-After": str(error.retry_after)}
                await _error(429, error.code, error.message, headers)(scope, receive, send)
                return
            scope["state"] = {**scope.get("state", {}), "caller_key": key, "caller_id": caller_id(key)}
            await self._app(scope, receive, send)

    async def _refusal(self, token: str | None, key: str | None, scope: Scope) -> JSONResponse | None:
        address, has_waited = network_address(scope), False
        placeholder = placeholder_reason(token) if token else None
        try:
            if key and not placeholder and (not self._check_key or await self._check_key(key, address)):
                return None
            refusal = self._unauthorized(has_token=token is not None, placeholder=placeholder)
        except KeyNotChecked as error:
            has_waited = error.has_waited
            refusal = _error(503, error.code, error.message, {"Retry-After": str(error.retry_after)})
        if self._refusals and not has_waited and _has_small_body(scope):
            await self._refusals.wait(address)
        return refusal

    def _unauthorized(self, *, has_token: bool, placeholder: str | None) -> JSONResponse:
        if placeholder:
            error, why = "invalid_token", f"This is only a placeholder for a token: {placeholder}. Nothing was sent."
        elif has_token:
            error, why = "invalid_token", "AceDataCloud does not know this token, or it has expired."
        else:
            error, why = "unauthorized", "Send your AceDataCloud API token as Authorization: Bearer."
        parts = ['realm="mcp-seedream"', 'error="invalid_token"' if has_token else "", self._challenge]
        challenge = f"Bearer {', '.join(part for part in parts if part)}"
        return _error(401, error, f"{why} Get one at {TOKEN_PAGE}.", {"WWW-Authenticate": challenge})


def _bearer_token(scope: Scope) -> str | None:
    match = _BEARER.fullmatch(Headers(scope=scope).get("authorization", "").strip())
    return match[1] if match else None


def _has_small_body(scope: Scope) -> bool:
    """Whether the body is small. The HTTP server buffers the start of the body while a refusal waits."""
    headers = Headers(scope=scope)
    length = headers.get("content-length", "0")
    return "transfer-encoding" not in headers and length.isdecimal() and int(length) <= _MAX_WAITING_BODY


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    body: dict[str, Any] = {"error": code, "error_description": message}
    return JSONResponse(body, status, headers)
