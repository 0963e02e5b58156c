"""Who may come in over HTTP: the names that this server answers to, and callers with a key."""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import ExitStack
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_seedream.core.credentials import KeyCheck, stands_for_one
from mcp_seedream.core.errors import TOKEN_PAGE, LimitExceeded
from mcp_seedream.core.events import caller_id
from mcp_seedream.hosting.limits import CallerLimits
from mcp_seedream.hosting.middleware import ENDPOINT, bearer, route_path
from mcp_seedream.telemetry.logs import REQUEST_ID

logger = logging.getLogger(__name__)

_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_SHOWN = 100


class PlainRequests:
    """Takes off a request what means nothing, so that all that follows knows one spelling.

    Blanks at the end of header values (RFC 9110, 5.5), which httptools leaves on; capitals in a media type (8.3.1);
    and slashes at the end of the endpoint's address, which people copy into their clients.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "headers": [(name, _plain(name, value)) for name, value in scope["headers"]]}
            if scope["path"].endswith("/") and route_path(scope).rstrip("/") == ENDPOINT:
                scope["path"] = scope["path"].rstrip("/")
                scope["raw_path"] = scope["path"].encode()
        await self._app(scope, receive, send)


def _plain(name: bytes, value: bytes) -> bytes:
    value = value.strip(b" \t")
    if name != b"content-type":
        return value
    kind, semicolon, parameters = value.partition(b";")
    return kind.lower() + semicolon + parameters


class Identified:
    """Gives each request an id, its client's own where that is a plain one; log lines and the answer have it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        id_ = given if _ID.fullmatch(given) else uuid.uuid4().hex[:16]
        scope["state"] = {**scope.get("state", {}), "request_id": id_}
        REQUEST_ID.set(id_)

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-ID"] = id_
            await send(message)

        await self._app(scope, receive, named)


class KnownNames:
    """Refuses what comes for a host, or from an origin, that is not allowed, and says which setting allows it.

    A page in somebody's browser could otherwise talk to a server on their own machine (DNS rebinding).

    Args:
        hosts: Names with or without a port; without one, any port is meant.
        origins: Likewise.
        open_paths: Probes come by whatever name.
        most_header_bytes: Of all headers of one request.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Sequence[str],
        origins: Sequence[str],
        open_paths: Collection[str] = (),
        most_header_bytes: int = 32 * 1024,
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._origins = origins
        self._open = open_paths
        self._most = most_header_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and route_path(scope) not in self._open and (refusal := self._refusal(scope)):
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > self._most:
            return _answer(431, "headers_too_large", f"The headers are more than {self._most} bytes.")
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not _among(host, self._hosts):
            return _refused(421, "host", host, "SEEDREAM_ALLOWED_HOSTS")
        if origin is not None and not _among(origin, self._origins):
            return _refused(403, "origin", origin, "SEEDREAM_ALLOWED_ORIGINS")
        return None


class RequireCaller:
    """Answers 401 to a request that brings no key, or one that the upstream refuses, before its body is read.

    Args:
        check: Whether the upstream takes a key; None: it is left to the call.
        limits: Of requests at once, from before their bodies are read to the end of their answers.
        challenge: What `WWW-Authenticate` says beside the error: where clients can sign in.
        opened: The key in a token of this server's own; None for one that is worth nothing, and a token that is
            somebody's own key comes back as it is.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        check: KeyCheck | None = None,
        limits: CallerLimits | None = None,
        challenge: str = "",
        opened: Callable[[str], Awaitable[str | None]] | None = None,
    ) -> None:
        self._app = app
        self._check = check
        self._limits = limits
        self._challenge = challenge
        self._opened = opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or route_path(scope) != ENDPOINT:
            await self._app(scope, receive, send)
            return
        token = bearer(Headers(scope=scope).get("authorization"))
        key = await self._opened(token) if token and self._opened else token
        with ExitStack() as counted:
            try:
                placeholder = stands_for_one(token) if token else None
                if key is None or placeholder or (self._check and not await self._check(key)):
                    refusal = self._unauthorised(given=token is not None, placeholder=placeholder)
                    await refusal(scope, receive, send)
                    return
                if self._limits:
                    counted.enter_context(self._limits.call(key))
            except LimitExceeded as error:
                headers = {"Retry-After": str(error.retry_after)}
                await _answer(429, error.code, error.message, headers)(scope, receive, send)
                return
            scope["state"] = {**scope.get("state", {}), "caller_key": key, "caller_id": caller_id(key)}
            await self._app(scope, receive, send)

    def _unauthorised(self, *, given: bool, placeholder: str | None) -> JSONResponse:
        if placeholder:
            error, why = "invalid_token", f"This is only a placeholder for a token: {placeholder}. Nothing was sent."
        elif given:
            error, why = "invalid_token", "AceDataCloud does not know this token, or it has ended."
        else:
            error, why = "unauthorized", "Send your AceDataCloud API token as Authorization: Bearer."
        parts = ['realm="mcp-seedream"', 'error="invalid_token"' if given else "", self._challenge]
        challenge = f"Bearer {', '.join(part for part in parts if part)}"
        return _answer(401, error, f"{why} Get one at {TOKEN_PAGE}.", {"WWW-Authenticate": challenge})


def _among(name: str, allowed: Sequence[str]) -> bool:
    """A name is one of those, or one of those with a port."""
    name = name.lower()
    return "*" in allowed or any(
        name == one or (not _has_port(one) and re.fullmatch(rf"{re.escape(one)}:\d+", name)) for one in allowed
    )


def _has_port(name: str) -> bool:
    return bool(re.search(r":\d+$", name))


def _refused(status: int, what: str, name: str, setting: str) -> JSONResponse:
    """The setting is named to whoever runs the server: they see it in the answer, and in the log."""
    shown = json.dumps(name[:_SHOWN])
    logger.warning("the %s %s is not allowed: refused with %d; %s lists what is", what, shown, status, setting)
    message = f"This server does not answer to the {what} {shown}. Whoever runs it can add it to {setting}."
    return _answer(status, f"{what}_not_allowed", message)


def _answer(status: int, error: str, words: str, headers: dict[str, str] | None = None) -> JSONResponse:
    body: dict[str, Any] = {"error": error, "error_description": words}
    return JSONResponse(body, status, headers)
