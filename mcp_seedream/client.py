"""The client of AceDataCloud's Seedream endpoints: pooled connections for the process.

    submit    POST /seedream/images   sent once; a lost answer is reported as uncertain, never repeated
    stream    POST /seedream/images   the same, with an answer line by line
    look_up   POST /seedream/tasks    `retrieve` for one, `retrieve_batch` for several, 50 a request

A caller's token is an argument of every call and is kept nowhere. Every failure leaves as one of
`errors.UpstreamError`'s kinds, with the upstream's code, message and trace_id and what to do about it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Any, Self

import anyio
import httpx

from mcp_seedream import __version__
from mcp_seedream.errors import (
    ConfigurationError,
    SubmissionUncertain,
    TaskNotFound,
    UnreadableReply,
    UpstreamError,
    UpstreamUnavailable,
)
from mcp_seedream.refusals import UNCERTAIN, refusal
from mcp_seedream.replies import read_batch, read_event, read_task
from mcp_seedream.wire import Failure, ImageRequest, StreamEvent, Task

logger = logging.getLogger(__name__)

BATCH = 50
"""Ids in one look-up request."""

# A proxy of the environment is for the world outside: a sandbox on this machine is reached without.
_LOOPBACK = ("all://127.0.0.1", "all://localhost", "all://[::1]")

_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect; between bytes of an ordinary answer; between bytes of a streamed one."""

    connect: float = 10
    read: float = 60
    stream: float = 300


class SeedreamClient:
    """The upstream as three verbs. Use as an async context manager, once for the process.

    Args:
        base_url: Where the upstream is, without a trailing slash.
        timeouts: See `Timeouts`.
        connections: Connections open at once, at most; streamed answers have as many of their own, so that
            they can't keep a look-up waiting.
    """

    def __init__(self, base_url: str, *, timeouts: Timeouts | None = None, connections: int = 100) -> None:
        self.base_url = base_url.rstrip("/")
        self._timeouts = timeouts or Timeouts()
        self._connections = connections

    @property
    def is_local(self) -> bool:
        """The upstream is a sandbox on this machine."""
        return httpx.URL(self.base_url).host in ("127.0.0.1", "localhost", "::1")

    # Made at the first call: a TLS context costs more than listing the tools does.
    @cached_property
    def _http(self) -> httpx.AsyncClient:
        return self._pool(self._timeouts.read)

    @cached_property
    def _streams(self) -> httpx.AsyncClient:
        return self._pool(self._timeouts.stream)

    def _pool(self, seconds: float) -> httpx.AsyncClient:
        try:
            return httpx.AsyncClient(
                base_url=self.base_url,
                timeout=httpx.Timeout(seconds, connect=self._timeouts.connect),
                limits=httpx.Limits(max_connections=self._connections, max_keepalive_connections=self._connections),
                headers={"User-Agent": f"mcp-seedream/{__version__}", "Accept": "application/json"},
                # One caller's cookies must not reach the upstream with another's call.
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                mounts=dict.fromkeys(_LOOPBACK),
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise ConfigurationError(
                f"The proxy of HTTPS_PROXY, HTTP_PROXY or ALL_PROXY can't be used: {error} "
                "For a SOCKS proxy install mcp-seedream[socks]."
            ) from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in ("_http", "_streams"):
            if pool in self.__dict__:
                await self.__dict__.pop(pool).aclose()

    async def submit(self, request: ImageRequest, token: str) -> Task:
        """Send one generation. The task is usually pending; a quick upstream may have ended it.

        Raises:
            SubmissionUncertain: It may have been accepted (and billed): the answer was lost or is unreadable.
            UpstreamError: It was refused, or never sent.
        """
        # A caller that leaves while the request is under way must not turn a paid task into a lost one.
        with anyio.CancelScope(shield=True):
            async with _submitting():
                response = await self._http.post("/seedream/images", json=request.body, headers=_bearer(token))
                task = read_task(_decoded(response, submitting=True))
            if task.state == "failed" and task.error:
                _raise_known(response, task)
            _accepted(task.id, task.trace_id)
        return task

    async def stream(self, request: ImageRequest, token: str) -> AsyncIterator[StreamEvent]:
        """Send one generation and yield what its streamed answer tells, as it comes.

        Raises:
            SubmissionUncertain: The stream could not be read to its end.
            UpstreamError: The request was refused, or never sent.
        """
        headers = {**_bearer(token), "Accept": "application/x-ndjson"}
        known = readable = False
        broken: UnreadableReply | None = None
        async with (
            _submitting(),
            self._streams.stream("POST", "/seedream/images", json=request.body, headers=headers) as response,
        ):
            if response.status_code != httpx.codes.OK:
                await response.aread()
                raise refusal(response.status_code, _json(response), response.headers, submitting=True)
            async for line in _lines(response):
                try:
                    event = read_event(line)
                except UnreadableReply as error:
                    logger.warning("a line of a streamed answer is not JSON")
                    broken = error
                    continue
                if event:
                    readable = True
                    if event.task_id and not known:
                        known = True
                        _accepted(event.task_id, event.trace_id)
                    yield event
            if broken and not readable:
                raise broken

    async def look_up(self, task_ids: Iterable[str], token: str) -> dict[str, Task]:
        """Look up tasks; one the upstream does not know for this token is not in the answer.

        Raises:
            UpstreamError: A request was refused, failed or could not be made.
        """
        ids = list(task_ids)
        found: dict[str, Task] = {}

        async def look(chunk: list[str]) -> None:
            found.update(await self._retrieve(chunk, token))

        try:
            async with anyio.create_task_group() as group:
                for start in range(0, len(ids), BATCH):
                    group.start_soon(look, ids[start : start + BATCH])
        except* UpstreamError as errors:
            raise _leaf(errors) from None
        return found

    async def _retrieve(self, ids: list[str], token: str) -> dict[str, Task]:
        single = len(ids) == 1
        body = {"action": "retrieve", "id": ids[0]} if single else {"action": "retrieve_batch", "ids": ids}
        try:
            response = await self._http.post("/seedream/tasks", json=body, headers=_bearer(token))
            reply = _decoded(response, submitting=False)
        except httpx.HTTPError as error:
            raise UpstreamUnavailable(f"{self.base_url} could not be reached ({_reason(error)}).") from error
        except TaskNotFound:
            return {}
        return {ids[0]: read_task(reply, ids[0])} if single else read_batch(reply)


@asynccontextmanager
async def _submitting() -> AsyncIterator[None]:
    """Tell a submit that was never sent from one whose fate is unknown."""
    try:
        yield
    except _NEVER_SENT as error:
        raise UpstreamUnavailable(
            f"The upstream could not be reached ({_reason(error)}). Nothing was sent: the call can be repeated."
        ) from error
    except httpx.HTTPError as error:
        raise SubmissionUncertain(f"The upstream's answer was lost ({_reason(error)}). {UNCERTAIN}") from error
    except UnreadableReply as error:
        raise SubmissionUncertain(f"{error.message} {UNCERTAIN}", status=error.status) from error


async def _lines(response: httpx.Response) -> AsyncIterator[str]:
    """The lines of an answer as JSON has them: ended by a line feed alone, unlike those of text."""
    rest = b""
    async for chunk in response.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace")
    if rest:
        yield rest.decode("utf-8", "replace")


def _decoded(response: httpx.Response, *, submitting: bool) -> Any:
    """The JSON of a successful answer.

    Raises:
        UpstreamError: The status is a refusal.
        UnreadableReply: There is no JSON.
    """
    reply = _json(response)
    if response.status_code >= httpx.codes.MULTIPLE_CHOICES:
        raise refusal(response.status_code, reply, response.headers, submitting=submitting)
    if reply is None:
        kind = response.headers.get("content-type", "no content type")
        message = f"The upstream answered with something that is not JSON ({kind}); a proxy may stand in between."
        raise UnreadableReply(message, status=response.status_code)
    return reply


def _accepted(task_id: str, trace_id: str | None) -> None:
    logger.info("task %s accepted, trace_id %s", task_id, trace_id)


def _raise_known(response: httpx.Response, task: Task) -> None:
    """A failure that came with HTTP 200: the codes that say why are raised as with any other status."""
    failed = task.error or Failure("api_error", "no reason given")
    reply = {"error": {"code": failed.code, "message": failed.message}, "trace_id": task.trace_id}
    found = refusal(response.status_code, reply, response.headers, submitting=True)
    if type(found) is not UpstreamError:
        raise found


def _json(response: httpx.Response) -> Any:
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        return None


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _leaf(errors: BaseExceptionGroup[UpstreamError]) -> UpstreamError:
    first = errors.exceptions[0]
    return _leaf(first) if isinstance(first, BaseExceptionGroup) else first
