"""HTTP answers → JSON: whole or line by line, bounded in size, or one of our errors."""

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

_MOST_BYTES = 128 * 2**20  # of an answer, decoded: as image data, a set takes tens of them
_PIECE = 2**16  # bytes that are decompressed at a time
_MOST_FOLD = 100  # more than `_ANY_FOLD` bytes are never so much smaller, compressed, unless they are made to be
_ANY_FOLD = 2**18


ENCODING = "gzip"
"""The one compression that is asked for."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    status: int
    headers: httpx.Headers
    content: bytes


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """A limit for the whole of an answer: one that comes a byte at a time keeps within every other."""
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError as error:
        raise httpx.ReadTimeout(f"no complete answer in {seconds:.0f} s") from error


async def exchange(http: httpx.AsyncClient, call: httpx.Request, within: float) -> Reply:
    """Send a request and read its answer, all of it within so many seconds.

    Raises:
        httpx.HTTPError: There is no answer, or no end to it.
    """
    with at_most(within):
        response = await http.send(call, stream=True)
        try:
            return await read_whole(response)
        finally:
            await response.aclose()


async def read_whole(response: httpx.Response) -> Reply:
    """Read an answer to its end.

    Raises:
        httpx.HTTPError: It broke off, or is larger than any reply.
    """
    parts, size = [], 0
    async for part in _decompressed(response):
        size += len(part)
        _check_size(size)
        parts.append(part)
    return Reply(response.status_code, response.headers, b"".join(parts))


async def read_lines(response: httpx.Response) -> AsyncIterator[str]:
    """The lines of an answer as JSON has them: ended by a line feed alone, unlike those of text.

    Blank ones are left out, but for one before each piece: whoever reads can tell how long it has been.

    Raises:
        httpx.HTTPError: It broke off, or a line has no end.
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
    """The body, decompressed piece by piece: httpx would make gigabytes of a few bytes before anybody can count them.

    Raises:
        httpx.HTTPError: It broke off, is compressed in a way nobody asked for, or expands as no reply does.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", ENCODING):
        raise httpx.DecodingError(f"compressed as {encoding[:100]}, which was not asked for")
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
            if size > max(_ANY_FOLD, received * _MOST_FOLD):
                raise httpx.DecodingError(f"it expands more than {_MOST_FOLD} times")
            yield piece
            await anyio.lowlevel.checkpoint()  # much can come of one piece: others have their turn
    if encoding == ENCODING:
        yield inflate.flush()


def decoded(reply: Reply, *, submitting: bool) -> Any:
    """The JSON of a successful answer.

    Args:
        reply: The answer.
        submitting: As for `error_mapping.refusal`.

    Raises:
        UpstreamError: The status is a refusal.
        UnreadableReply: There is no JSON.
    """
    found = _json(reply.content)
    if reply.status >= httpx.codes.MULTIPLE_CHOICES:
        raise refusal(reply.status, found, reply.headers, submitting=submitting)
    if found is None:
        kind = reply.headers.get("content-type", "no content type")[:100]
        message = f"The upstream answered with something that is not JSON ({kind}); a proxy may stand in between."
        raise UnreadableReply(message, status=reply.status)
    return found


def raise_known(reply: Reply, task: Task) -> None:
    """A failure that came with HTTP 200: the codes that say why are raised as with any other status."""
    failed = task.error or Failure("api_error", "no reason given")
    body = {"error": {"code": failed.code, "message": failed.message}, "trace_id": task.trace_id}
    found = refusal(reply.status, body, reply.headers, submitting=True)
    if type(found) is not UpstreamError:
        raise found


def _check_size(size: int) -> None:
    if size > _MOST_BYTES:
        raise httpx.DecodingError(f"more than {_MOST_BYTES // 2**20} MiB")


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
