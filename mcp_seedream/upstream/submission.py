"""Requests of generations, and whether they may have reached the upstream: only then can they be billed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

import httpx

from mcp_seedream.core.errors import SubmissionUncertain, UnreadableReply, UpstreamError, UpstreamUnavailable
from mcp_seedream.upstream.connection_errors import NEVER_SENT, lost_message, unreachable_message
from mcp_seedream.upstream.error_mapping import UNCERTAIN

_LARGE = 2**18  # characters of all pictures of a body
_PART = 2**18  # characters that are encoded together


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


def image_request(http: httpx.AsyncClient, path: str, body: Mapping[str, Any], **options: Any) -> httpx.Request:
    """The HTTP request of a generation. A large body is encoded while it is sent, so that no copy of it is held."""
    if sum(map(len, body.get("image", ()))) < _LARGE:
        return http.build_request("POST", path, content=b"".join(_encoded(body)), **options)

    async def parts() -> AsyncIterator[bytes]:
        for part in _encoded(body):
            yield part

    options["headers"] |= {"Content-Length": str(sum(map(len, _encoded(body))))}
    return http.build_request("POST", path, content=parts(), **options)


def _encoded(body: Mapping[str, Any]) -> Iterator[bytes]:
    """A body as JSON, in parts: pictures may be megabytes of text, of which no copy is made."""
    images = body.get("image", ())
    rest = json.dumps({name: value for name, value in body.items() if name != "image"})
    yield (f'{rest[:-1]}, "image": [' if images else rest).encode()
    for number, image in enumerate(images):
        yield b', "' if number else b'"'
        for start in range(0, len(image), _PART):
            yield json.dumps(image[start : start + _PART])[1:-1].encode()
        yield b'"'
    if images:
        yield b"]}"
