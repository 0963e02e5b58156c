"""The client of AceDataCloud's Seedream endpoints: pooled connections for the process.

    submit    POST /seedream/images   a generation, answered at once with a task
    stream    POST /seedream/images   the same, with an answer line by line
    look_up   POST /seedream/tasks    `retrieve` for one, `retrieve_batch` for several, 50 a request

What is repeated, and what is not (`retries.Retries`: back-off with jitter, `Retry-After` honoured, bounded):

    | what happened                                | submit, stream    | look_up  | download |
    |----------------------------------------------|-------------------|----------|----------|
    | the connection was never made                | repeated          | repeated | repeated |
    | 429; 503 with `Retry-After`                  | repeated          | repeated | repeated |
    | another 5xx                                  | never: uncertain  | repeated | repeated |
    | time-out or reset after sending              | never: uncertain  | repeated | repeated |
    | an answer that can't be read                 | never: uncertain  | repeated | no       |
    | any other refusal (400, 401, 403, 404, 413)  | no                | no       | no       |

"Uncertain" is `SubmissionUncertain`: the generation may have been accepted and billed, so that only a person
can decide to pay for another. A caller that leaves cancels pauses, look-ups and streams, never a submit under way.

A caller's token is an argument of every call and is kept nowhere. Every failure leaves as one of
`errors.UpstreamError`'s kinds. No answer is waited for, or read, without end.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self

import anyio
import httpx

from mcp_seedream.core.errors import (
    ServerShuttingDown,
    SubmissionUncertain,
    TaskNotFound,
    UnreadableReply,
    UpstreamError,
    UpstreamUnavailable,
)
from mcp_seedream.core.events import Observer
from mcp_seedream.core.setting_rules import LOOPBACK
from mcp_seedream.upstream.connection_errors import NEVER_SENT, lost, unreached
from mcp_seedream.upstream.connections import ConnectionPools
from mcp_seedream.upstream.error_mapping import UNCERTAIN
from mcp_seedream.upstream.parsing import is_unknown, read_batch, read_event, read_task
from mcp_seedream.upstream.responses import at_most, decoded, exchange, raise_known, read_lines, read_whole
from mcp_seedream.upstream.retries import Retries
from mcp_seedream.upstream.types import ImageRequest, StreamEvent, Task

logger = logging.getLogger(__name__)
BATCH = 50  # ids in one look-up request
Look = Literal["look up", "round", "check", "probe"]
"""Somebody waits for it; one of many rounds; whether a stranger's key is good, and whether we are heard: asked once."""

_SLOWEST = 50_000  # bytes a second of a line that a request is still sent on
_MOST_EVENTS = 100  # of a stream: a set has 15 pictures


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect; for a whole answer; for a look-up to begin its answer; between two events of a stream.

    A request with pictures has longer, by the time a slow line needs to send them.
    """

    connect: float = 10
    read: float = 60
    look_up: float = 10
    stream: float = 300


class SeedreamClient:
    """The upstream as three verbs. Use as an async context manager, once for the process.

    Args:
        base_url: Where the upstream is, without a trailing slash.
        timeouts: See `Timeouts`.
        retries: For requests that surely were not accepted, and for look-ups.
        connections: Open at once, at most, for each kind of request: neither submits nor streamed answers can
            keep a look-up waiting. KeyVerifier who want more than that take turns.
        observer: Told of every request.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeouts: Timeouts | None = None,
        retries: Retries | None = None,
        connections: int = 100,
        observer: Observer | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._timeouts = timeouts or Timeouts()
        self._retries = retries or Retries()
        patience = self._timeouts.read
        self._pools = ConnectionPools(self.base_url, connections=connections, patience=patience, observer=observer)
        self._submits: set[anyio.CancelScope] = set()
        self._ending = False

    @property
    def is_local(self) -> bool:
        """The upstream is a sandbox on this machine."""
        return httpx.URL(self.base_url).host in LOOPBACK

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pools.aclose()

    async def submit(self, request: ImageRequest, token: str) -> Task:
        """Send one generation. The task is usually pending; a quick upstream may have ended it.

        Raises:
            SubmissionUncertain: It may have been accepted (and billed): the answer was lost or is unreadable.
            UpstreamError: It was refused, or never sent.
        """
        return await self._retries(partial(self._submit, request, token), _surely_not_accepted)

    async def _submit(self, request: ImageRequest, token: str) -> Task:
        content = json.dumps(request.body).encode()
        within = self._timeouts.connect + self._timeouts.read + len(content) / _SLOWEST
        async with self._pools.connection("submit", token) as http:
            self._check_ending()
            # A caller that leaves while the request is under way must not turn a paid task into a lost one.
            with anyio.CancelScope(shield=True) as scope, self._under_way(scope):
                async with _submitting(self.base_url):
                    call = http.build_request(
                        "POST",
                        "/seedream/images",
                        content=content,
                        headers=_bearer(token),
                        timeout=self._timeout(),
                        extensions={"caller": token},
                    )
                    reply = await exchange(http, call, within)
                    task = read_task(decoded(reply, submitting=True))
                if task.state == "failed" and task.error:
                    raise_known(reply, task)
                if task.id:
                    _accepted(task.id, task.trace_id)
                return task
        raise SubmissionUncertain(f"The server was stopped before the upstream answered. {UNCERTAIN}")

    def end(self) -> None:
        """Send no more submits, not even again: the process is about to end."""
        self._ending = True

    def give_up(self) -> None:
        """Wait no longer for the answers to submits."""
        for scope in self._submits:
            scope.cancel()

    def _check_ending(self) -> None:
        if self._ending:
            raise ServerShuttingDown

    @contextmanager
    def _under_way(self, scope: anyio.CancelScope) -> Iterator[None]:
        self._submits.add(scope)
        try:
            yield
        finally:
            self._submits.discard(scope)

    async def stream(self, request: ImageRequest, token: str) -> AsyncGenerator[StreamEvent]:
        """Send one generation and yield what its streamed answer tells, as it comes.

        Raises:
            SubmissionUncertain: The stream could not be read to its end.
            UpstreamError: The request was refused, or never sent.
        """
        async with self._opened(request, token) as response:
            known, said, since = False, 0, anyio.current_time()
            unread: UnreadableReply | None = None
            async for line in read_lines(response):
                try:
                    event = read_event(line)
                except UnreadableReply as error:
                    logger.warning("a line of a streamed answer is not JSON")
                    unread, event = error, None
                if event:
                    said, since = said + 1, anyio.current_time()
                    if event.task_id and not known:
                        known = True
                        _accepted(event.task_id, event.trace_id)
                    yield event
                if said == _MOST_EVENTS or anyio.current_time() - since > self._timeouts.stream:
                    raise UnreadableReply("The upstream's stream has no end.")
            if unread and not said:
                raise unread

    @asynccontextmanager
    async def _opened(self, request: ImageRequest, token: str) -> AsyncIterator[httpx.Response]:
        """A streamed answer whose status is fine. Up to there it can be tried again; what breaks later is uncertain."""
        headers = {**_bearer(token), "Accept": "application/x-ndjson"}
        timeout = self._timeout(self._timeouts.stream)

        async def attempt(http: httpx.AsyncClient) -> httpx.Response:
            self._check_ending()
            async with _submitting(self.base_url):
                call = http.build_request(
                    "POST",
                    "/seedream/images",
                    json=request.body,
                    headers=headers,
                    timeout=timeout,
                    extensions={"caller": token},
                )
                with at_most(self._timeouts.stream):
                    response = await http.send(call, stream=True)
                    if response.status_code == httpx.codes.OK:
                        return response
                    try:
                        reply = await read_whole(response)
                    finally:
                        await response.aclose()
                decoded(reply, submitting=True)
                raise UnreadableReply("The upstream's answer is no stream.", status=reply.status)

        async with self._pools.connection("stream", token) as http:
            response = await self._retries(partial(attempt, http), _surely_not_accepted)
            try:
                async with _submitting(self.base_url):
                    yield response
            finally:
                with anyio.CancelScope(shield=True):
                    await response.aclose()

    async def look_up(self, task_ids: Iterable[str], token: str, *, kind: Look = "look up") -> dict[str, Task]:
        """Look up tasks; one the upstream does not know for this token is not in the answer.

        Args:
            task_ids: Any number.
            token: The caller's.
            kind: What for; each kind has connections of its own.

        Raises:
            UpstreamError: A request was refused, failed or could not be made.
        """
        ids = list(task_ids)
        found: dict[str, Task] = {}

        async def look(chunk: list[str]) -> None:
            found.update(await self._retrieve(chunk, token, kind))

        try:
            async with anyio.create_task_group() as group:
                for start in range(0, len(ids), BATCH):
                    group.start_soon(look, ids[start : start + BATCH])
        except* UpstreamError as errors:
            raise _leaf(errors) from None
        return found

    async def _retrieve(self, ids: list[str], token: str, kind: Look) -> dict[str, Task]:
        single = len(ids) == 1
        body = {"action": "retrieve", "id": ids[0]} if single else {"action": "retrieve_batch", "ids": ids}
        content = json.dumps(body).encode()
        timeout = self._timeout(self._timeouts.look_up)
        caller = "" if kind == "check" else token  # unknown callers share one place in the queue

        async def attempt() -> Any:
            async with self._pools.connection(kind, caller) as http:
                call = http.build_request(
                    "POST",
                    "/seedream/tasks",
                    content=content,
                    headers=_bearer(token),
                    timeout=timeout,
                    extensions={"caller": caller},
                )
                try:
                    reply = await exchange(http, call, self._timeouts.read)
                except httpx.HTTPError as error:
                    raise UpstreamUnavailable(unreached(error, self.base_url)) from error
            return decoded(reply, submitting=False)

        try:
            found = await (attempt() if kind in ("check", "probe") else self._retries(attempt, _may_pass))
        except TaskNotFound:
            return {}
        if not single:
            return read_batch(found)
        return {} if is_unknown(found) else {ids[0]: read_task(found, ids[0])}

    def _timeout(self, pause: float | None = None) -> httpx.Timeout:
        """Time-outs of one request, whose answer may pause so many seconds."""
        return httpx.Timeout(self._timeouts.read, connect=self._timeouts.connect, read=pause or self._timeouts.read)


def _surely_not_accepted(error: UpstreamError) -> bool:
    """429, 503 with `Retry-After`, or never sent; whatever else can pass is `SubmissionUncertain`."""
    return error.retryable


def _may_pass(error: UpstreamError) -> bool:
    return error.retryable or isinstance(error, UnreadableReply)


@asynccontextmanager
async def _submitting(url: str) -> AsyncIterator[None]:
    """Tell a submit that was never sent from one whose fate is unknown."""
    try:
        yield
    except NEVER_SENT as error:
        raise UpstreamUnavailable(f"{unreached(error, url)} Nothing was sent: the call can be repeated.") from error
    except httpx.HTTPError as error:
        raise SubmissionUncertain(f"The answer was lost. {lost(error, url)} {UNCERTAIN}") from error
    except UnreadableReply as error:
        raise SubmissionUncertain(f"{error.message} {UNCERTAIN}", status=error.status) from error


def _accepted(task_id: str, trace_id: str | None) -> None:
    logger.info("task %s accepted, trace_id %s", task_id, trace_id)


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _leaf(errors: BaseExceptionGroup[UpstreamError]) -> UpstreamError:
    first = errors.exceptions[0]
    return _leaf(first) if isinstance(first, BaseExceptionGroup) else first
