"""A client for AceDataCloud's Seedream endpoints, with one set of connection pools for the process.

    submit    POST /seedream/images   a generation; the response names a task
    stream    POST /seedream/images   a generation; the response is a stream of lines
    look_up   POST /seedream/tasks    `retrieve` for one task, `retrieve_batch` for several, 50 per request

Which requests are retried (`retries`: limited attempts, exponential back-off with jitter, `Retry-After`):

    | failure                                      | submit, stream    | look_up  | download |
    |----------------------------------------------|-------------------|----------|----------|
    | no connection was made                       | retried           | retried  | retried  |
    | 429; 503 with `Retry-After`                  | retried           | retried  | retried  |
    | any other 5xx                                | never: uncertain  | retried  | retried  |
    | time-out or reset after sending              | never: uncertain  | retried  | retried  |
    | unreadable response                          | never: uncertain  | retried  | no       |
    | any other status (400, 401, 403, 404, 413)   | no                | no       | no       |

"Uncertain" means `SubmissionUncertain`: the generation may have been accepted and billed, so only a person can decide
to pay for another one. Cancelling a call cancels its pauses, look-ups and streams, but never a submit in progress.

A caller's token is an argument of every method and is never stored. Every failure is raised as an
`errors.UpstreamError`. Every response is limited in time and size.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
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
from mcp_seedream.upstream.connection_errors import unreachable_message
from mcp_seedream.upstream.connections import ConnectionPools
from mcp_seedream.upstream.error_mapping import UNCERTAIN
from mcp_seedream.upstream.parsing import is_unknown, read_batch, read_event, read_task
from mcp_seedream.upstream.responses import decoded, exchange, raise_known, read_lines, read_whole, time_limit
from mcp_seedream.upstream.retries import Retries, look_up_may_be_retried, submit_may_be_retried
from mcp_seedream.upstream.submission import NO_PROGRESS, SendProgress, image_request, submission, trace_extension
from mcp_seedream.upstream.types import ImageRequest, StreamEvent, Task

logger = logging.getLogger(__name__)
_IMAGES = "/seedream/images"
BATCH = 50  # ids in one look-up request
LookUpKind = Literal["look up", "round", "check", "probe"]
"""The purpose of a look-up: a caller's request, a round of the poller, a key check, or a readiness probe.

Key checks and probes are not retried.
"""

_SLOWEST_UPLOAD = 50_000  # bytes per second
_MAX_EVENTS = 100  # of a stream; a set has at most 15 pictures


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect, for a whole response, for a look-up's response to begin, and between two stream events.

    A submit with pictures has extra time in proportion to its size.
    """

    connect: float = 10
    read: float = 60
    look_up: float = 10
    stream: float = 300


class SeedreamClient:
    """Submits, streams and looks up generations. Use it as an async context manager, once per process.

    Args:
        base_url: The upstream's address.
        timeouts: See `Timeouts`.
        retries: The retry policy for look-ups, and for submits that were not accepted.
        connections: The largest number of open connections for each kind of request, so that submits and streams can't
            delay look-ups. Callers share them round-robin.
        observer: Notified of every request.
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
        self._refusing = False

    @property
    def is_local(self) -> bool:
        """Whether the upstream is a sandbox on this machine."""
        return httpx.URL(self.base_url).host in LOOPBACK

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pools.aclose()

    async def submit(self, request: ImageRequest, token: str, progress: SendProgress = NO_PROGRESS) -> Task:
        """Send one generation. The returned task is usually pending, but may have ended already.

        Args:
            request: The generation.
            token: The caller's API token.
            progress: Notified when the request is about to be written.

        Raises:
            SubmissionUncertain: The response was lost or is unreadable: it may have been accepted and billed.
            UpstreamError: It was refused, or not sent.
        """
        return await self._retries(partial(self._submit, request, token, progress), submit_may_be_retried)

    async def _submit(self, request: ImageRequest, token: str, progress: SendProgress) -> Task:
        async with self._pools.connection("submit", token) as http:
            self._check_shutdown()
            # Cancelling the call while the request is in progress would lose a task that is paid for.
            with anyio.CancelScope(shield=True) as scope, self._in_progress(scope):
                async with submission(self.base_url, progress):
                    options = _request_options(token, progress)
                    call = image_request(http, _IMAGES, request.body, timeout=self._timeout(), **options)
                    upload = int(call.headers["Content-Length"]) / _SLOWEST_UPLOAD
                    reply = await exchange(http, call, self._timeouts.connect + self._timeouts.read + upload)
                    task = read_task(decoded(reply, submitting=True))
                    if task.state == "failed" and task.error:
                        raise_known(reply, task)
                if task.id:
                    _log_accepted(task.id, task.trace_id)
                return task
        raise SubmissionUncertain(f"The server was stopped before the upstream answered. {UNCERTAIN}")

    def refuse_submits(self) -> None:
        """Refuse new submits and retries of submits, because the process is about to exit."""
        self._refusing = True

    def cancel_submits(self) -> None:
        """Cancel the submits in progress."""
        for scope in self._submits:
            scope.cancel()

    def _check_shutdown(self) -> None:
        if self._refusing:
            raise ServerShuttingDown

    @contextmanager
    def _in_progress(self, scope: anyio.CancelScope) -> Iterator[None]:
        self._submits.add(scope)
        try:
            yield
        finally:
            self._submits.discard(scope)

    async def stream(
        self, request: ImageRequest, token: str, progress: SendProgress = NO_PROGRESS
    ) -> AsyncGenerator[StreamEvent]:
        """Send one generation and yield the events of its streamed response as they arrive.

        Args:
            request: The generation.
            token: The caller's API token.
            progress: Notified when the request is about to be written.

        Raises:
            SubmissionUncertain: The stream could not be read to its end.
            UpstreamError: The request was refused, or not sent.
        """
        async with self._open_stream(request, token, progress) as response:
            is_accepted, count, last_event = False, 0, anyio.current_time()
            unreadable: UnreadableReply | None = None
            async for line in read_lines(response):
                try:
                    event = read_event(line)
                except UnreadableReply as error:
                    logger.warning("a line of a streamed response is not JSON")
                    unreadable, event = error, None
                if event:
                    count, last_event = count + 1, anyio.current_time()
                    if event.task_id and not is_accepted:
                        is_accepted = True
                        _log_accepted(event.task_id, event.trace_id)
                    yield event
                if count == _MAX_EVENTS or anyio.current_time() - last_event > self._timeouts.stream:
                    raise UnreadableReply("The upstream's stream has no end.")
            if unreadable and not count:
                raise unreadable

    @asynccontextmanager
    async def _open_stream(
        self, request: ImageRequest, token: str, progress: SendProgress
    ) -> AsyncIterator[httpx.Response]:
        """A streamed response with status 200. Failures before it may be retried; failures after it are uncertain."""
        options = _request_options(token, progress, Accept="application/x-ndjson")
        timeout = self._timeout(self._timeouts.stream)

        async def attempt(http: httpx.AsyncClient) -> httpx.Response:
            self._check_shutdown()
            async with submission(self.base_url, progress):
                call = image_request(http, _IMAGES, request.body, timeout=timeout, **options)
                with time_limit(self._timeouts.stream):
                    response = await http.send(call, stream=True)
                    if response.status_code == httpx.codes.OK:
                        return response
                    try:
                        reply = await read_whole(response)
                    finally:
                        await response.aclose()
                decoded(reply, submitting=True)
                raise UnreadableReply("The upstream's response is not a stream.", status=reply.status)

        async with self._pools.connection("stream", token) as http:
            response = await self._retries(partial(attempt, http), submit_may_be_retried)
            try:
                async with submission(self.base_url, progress):
                    yield response
            finally:
                with anyio.CancelScope(shield=True):
                    await response.aclose()

    async def look_up(self, task_ids: Iterable[str], token: str, *, kind: LookUpKind = "look up") -> dict[str, Task]:
        """Look up tasks, by id. Tasks that the upstream does not know for this token are left out.

        Args:
            task_ids: Any number of ids.
            token: The caller's API token.
            kind: The purpose; each purpose has its own connection pool.

        Raises:
            UpstreamError: A request was refused, failed or could not be sent.
        """
        ids = list(task_ids)
        tasks: dict[str, Task] = {}

        async def look(chunk: list[str]) -> None:
            tasks.update(await self._retrieve(chunk, token, kind))

        try:
            async with anyio.create_task_group() as group:
                for start in range(0, len(ids), BATCH):
                    group.start_soon(look, ids[start : start + BATCH])
        except* UpstreamError as errors:
            raise errors.exceptions[0] from None
        return tasks

    async def _retrieve(self, ids: list[str], token: str, kind: LookUpKind) -> dict[str, Task]:
        single = len(ids) == 1
        body = {"action": "retrieve", "id": ids[0]} if single else {"action": "retrieve_batch", "ids": ids}
        content = json.dumps(body).encode()
        timeout = self._timeout(self._timeouts.look_up)
        caller = "" if kind == "check" else token  # unknown callers share one place in the queue
        options = _request_options(token)

        async def attempt() -> Any:
            async with self._pools.connection(kind, caller) as http:
                call = http.build_request("POST", "/seedream/tasks", content=content, timeout=timeout, **options)
                try:
                    response = await exchange(http, call, self._timeouts.read)
                except httpx.HTTPError as error:
                    raise UpstreamUnavailable(unreachable_message(error, self.base_url)) from error
            return decoded(response, submitting=False)

        try:
            reply = await (attempt() if kind in ("check", "probe") else self._retries(attempt, look_up_may_be_retried))
        except TaskNotFound:
            return {}
        if not single:
            return read_batch(reply)
        return {} if is_unknown(reply) else {ids[0]: read_task(reply, ids[0])}

    def _timeout(self, pause: float | None = None) -> httpx.Timeout:
        """The time-outs of one request; `pause` is the longest pause within its response, in seconds."""
        return httpx.Timeout(self._timeouts.read, connect=self._timeouts.connect, read=pause or self._timeouts.read)


def _log_accepted(task_id: str, trace_id: str | None) -> None:
    logger.info("task %s accepted, trace_id %s", task_id, trace_id)


def _request_options(token: str, progress: SendProgress = NO_PROGRESS, **headers: str) -> dict[str, Any]:
    """Arguments of `build_request`: headers with the token, and the caller for `ObservingTransport`."""
    return {
        "headers": {"Authorization": f"Bearer {token}", **headers},
        "extensions": {"caller": token} | trace_extension(progress),
    }
