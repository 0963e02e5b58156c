"""HTTP answers → JSON: whole or line by line, bounded in size, or one of our errors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import httpx

from mcp_seedream.errors import UnreadableReply, UpstreamError
from mcp_seedream.refusals import refusal
from mcp_seedream.wire import Failure, Task

_MOST_BYTES = 128 * 2**20  # of an answer, decoded: as image data, a set takes tens of them


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


async def read_whole(response: httpx.Response) -> Reply:
    """Read an answer to its end.

    Raises:
        httpx.HTTPError: It broke off, or is larger than any reply: a little that is compressed can become a lot.
    """
    parts, size = [], 0
    async for part in response.aiter_bytes():
        size += len(part)
        _check_size(size)
        parts.append(part)
    return Reply(response.status_code, response.headers, b"".join(parts))


async def read_lines(response: httpx.Response) -> AsyncIterator[str]:
    """The lines of an answer as JSON has them: ended by a line feed alone, unlike those of text.

    Yields an empty one for a piece that ends none, so that whoever reads can tell how long it has been.

    Raises:
        httpx.HTTPError: It broke off, or a line has no end.
    """
    rest = bytearray()
    async for piece in response.aiter_bytes():
        first, *others = piece.split(b"\n")
        rest += first
        _check_size(len(rest))
        if not others:
            yield ""
        for other in others:
            yield rest.decode("utf-8", "replace")
            rest = bytearray(other)
    if rest:
        yield rest.decode("utf-8", "replace")


def decoded(reply: Reply, *, submitting: bool) -> Any:
    """The JSON of a successful answer.

    Args:
        reply: The answer.
        submitting: As for `refusals.refusal`.

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
