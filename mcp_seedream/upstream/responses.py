"""Reads HTTP responses: whole or line by line, limited in size and time; decodes JSON or raises `UpstreamError`."""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import httpx

from mcp_seedream.core.errors import UnreadableReply, UpstreamError
from mcp_seedream.upstream.error_mapping import refusal
from mcp_seedream.upstream.types import Failure, Task

_MAX_BYTES = 128 * 2**20  # of a decompressed response; a set as base64 takes tens of MiB
_PIECE = 2**16  # bytes that are decompressed in one step
_MAX_RATIO = 100  # of compression, checked above `_UNCHECKED` bytes; only a decompression bomb exceeds it
_UNCHECKED = 2**18

ENCODING = "gzip"
"""The only compression that requests accept."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete response."""

    status: int
    headers: httpx.Headers
    content: bytes


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """A time limit for a whole response; httpx limits only the time between two pieces.

    Raises:
        httpx.ReadTimeout: The time is up.
    """
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError as error:
        raise httpx.ReadTimeout(f"no complete response in {seconds:.0f} s") from error


async def exchange(http: httpx.AsyncClient, call: httpx.Request, within: float) -> Reply:
    """Send a request and read its response within `within` seconds.

    Raises:
        httpx.HTTPError: The response was not complete in time.
    """
    with time_limit(within):
        response = await http.send(call, stream=True)
        try:
            return await read_whole(response)
        finally:
            await response.aclose()


async def read_whole(response: httpx.Response) -> Reply:
    """Read a response to its end.

    Raises:
        httpx.HTTPError: The connection was lost, or the response is too large.
    """
    parts, size = [], 0
    async for part in _decompressed(response):
        size += len(part)
        _check_size(size)
        parts.append(part)
    return Reply(response.status_code, response.headers, b"".join(parts))


async def read_lines(response: httpx.Response) -> AsyncIterator[str]:
    """The lines of a response. Only a line feed ends a line, since JSON may contain other line separators.

    Blank lines are skipped, but an empty one is yielded before each piece, so that the reader can check the time.

    Raises:
        httpx.HTTPError: The connection was lost, or a line is too long.
    """
    rest = bytearray()
    async for piece in _decompressed(response):
        first, *others = piece.split(b"\n")
        rest += first
        _check_size(len(rest))
        yield ""
        for other in others:
            if rest:
                yield rest.decode("utf-8", "replace")
            rest = bytearray(other)
    if rest:
        yield rest.decode("utf-8", "replace")


async def _decompressed(response: httpx.Response) -> AsyncIterator[bytes]:
    """The body, decompressed in small pieces: httpx would decompress gigabytes before their size can be checked.

    Raises:
        httpx.HTTPError: The connection was lost, or the response has another compression or expands too much.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", ENCODING):
        raise httpx.DecodingError(f"compressed as {encoding[:100]}, which was not requested")
    inflate, received, size = zlib.decompressobj(zlib.MAX_WBITS | 16), 0, 0
    async for raw in response.aiter_raw():
        if encoding == "identity":
            yield raw
            continue
        received, rest = received + len(raw), raw
        while rest and not inflate.eof:
            try:
                piece = inflate.decompress(rest, _PIECE)
            except zlib.error as error:
                raise httpx.DecodingError(str(error)) from error
            rest, size = inflate.unconsumed_tail, size + len(piece)
            if size > max(_UNCHECKED, received * _MAX_RATIO):
                raise httpx.DecodingError(f"it expands more than {_MAX_RATIO} times")
            yield piece
            await anyio.lowlevel.checkpoint()  # one piece can expand to many: let other tasks run
    if encoding == ENCODING:
        yield inflate.flush()


def decoded(reply: Reply, *, submitting: bool) -> Any:
    """The JSON of a successful response.

    Args:
        reply: The response.
        submitting: As for `error_mapping.refusal`.

    Raises:
        UpstreamError: The status is not 2xx.
        UnreadableReply: The body is not JSON.
    """
    body = _json(reply.content)
    if reply.status >= httpx.codes.MULTIPLE_CHOICES:
        raise refusal(reply.status, body, reply.headers, submitting=submitting)
    if body is None:
        kind = reply.headers.get("content-type", "no content type")[:100]
        message = f"The upstream's response is not JSON ({kind}); it may come from a proxy in between."
        raise UnreadableReply(message, status=reply.status)
    return body


def raise_known(reply: Reply, task: Task) -> None:
    """Raise the error for a failed task that came with HTTP 200, if its code is known."""
    failure = task.error or Failure("api_error", "no reason given")
    body = {"error": {"code": failure.code, "message": failure.message}, "trace_id": task.trace_id}
    error = refusal(reply.status, body, reply.headers, submitting=True)
    if type(error) is not UpstreamError:
        raise error


def _check_size(size: int) -> None:
    if size > _MAX_BYTES:
        raise httpx.DecodingError(f"more than {_MAX_BYTES // 2**20} MiB")


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
