"""Requests of generations, and whether they may have reached the upstream: only then can they be billed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import httpx

from mcp_seedream.core.errors import SubmissionUncertain, UnreadableReply, UpstreamError, UpstreamUnavailable
from mcp_seedream.upstream.connection_errors import NEVER_SENT, lost_message, unreachable_message
from mcp_seedream.upstream.error_mapping import UNCERTAIN
from mcp_seedream.upstream.types import ImageRequest

_LARGE = 2**18  # bytes of a body


class SendProgress(Protocol):
    """Receives the progress of sending a generation."""

    async def sending(self) -> None:
        """The connection exists, and the request is about to be written."""

    async def not_sent(self) -> None:
        """The request was certainly not accepted: it was refused, or never sent."""


class _NoProgress:
    async def sending(self) -> None: ...

    async def not_sent(self) -> None: ...


NO_PROGRESS = _NoProgress()


def trace_extension(progress: SendProgress) -> dict[str, Any]:
    """A request extension that calls `progress.sending` before the request's headers are written.

    Fact: `trace` of httpcore. For a proxy, a separate request (CONNECT) opens a tunnel first.
    """

    async def trace(event: str, info: dict[str, Any]) -> None:
        if event.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
            await progress.sending()

    return {"trace": trace}


@asynccontextmanager
async def submission(url: str, progress: SendProgress) -> AsyncIterator[None]:
    """Translate errors of a submit: `UpstreamUnavailable` if it was not sent, else `SubmissionUncertain`."""
    try:
        yield
    except UnreadableReply as error:
        raise SubmissionUncertain(f"{error.message} {UNCERTAIN}", status=error.status) from error
    except UpstreamError as error:
        if not isinstance(error, SubmissionUncertain):
            await progress.not_sent()
        raise
    except NEVER_SENT as error:
        raise UpstreamUnavailable(
            f"{unreachable_message(error, url)} Nothing was sent: the call can be repeated."
        ) from error
    except httpx.HTTPError as error:
        raise SubmissionUncertain(f"The response was lost. {lost_message(error, url)} {UNCERTAIN}") from error


def image_request(
    http: httpx.AsyncClient, path: str, request: ImageRequest, size: int, **options: Any
) -> httpx.Request:
    """The HTTP request of a generation; it reads a large body while it is sent."""

    async def body() -> AsyncIterator[bytes]:
        for part in request.parts():
            yield part

    content = b"".join(request.parts()) if size < _LARGE else body()
    options["headers"] |= {"Content-Length": str(size)}
    return http.build_request("POST", path, content=content, **options)
