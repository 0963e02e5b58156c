"""Calls whose clients got a task id, and fetch the result later. This module does not depend on MCP.

A client that has not polled its call for a while may be gone. From then on an identical call gets the task, as after
any call whose client left.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import time
from typing import Any

import anyio
from anyio.abc import TaskGroup

from mcp_seedream.generation.call_attempt import CallAttempt
from mcp_seedream.upstream.types import Task

logger = logging.getLogger(__name__)

Work = Callable[["BackgroundCall"], Awaitable[Any]]
"""The work of a call. It passes its accepted task to `BackgroundCall.accept`."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """How long calls are kept.

    Attributes:
        silence: Seconds without a poll after which a client may be gone; clients poll every few seconds.
        result: Seconds for which a result is kept after it was last fetched.
        max_bytes: Largest size of all kept results together, in bytes.
        overhead: Bytes that a call needs in addition to its result.
        tidying: Longest time in seconds between two runs of `tidy`.
    """

    silence: float = 30
    result: float = 1800
    max_bytes: int = 64 * 2**20
    overhead: int = 8 * 2**10
    tidying: float = 5


class BackgroundCall:
    """One call in the background.

    Attributes:
        caller: A hash of the caller.
        task_id: The id that the client knows; empty before a task is accepted.
        task: The first task that was accepted.
        started_here: Whether this process made the call; otherwise it follows a task of another process.
        attempt: The attempt that the call holds, if it makes a picture.
        message: The last progress message.
        result, error, cancelled: The outcome, once `over` is set. All are empty if the call was dropped.
        started, changed, fetched: Unix seconds of its start, its last change, and its client's last poll.
        size: Bytes of the result.
    """

    def __init__(self, caller: str, register: Callable[[BackgroundCall], None], task_id: str = "") -> None:
        self.caller = caller
        self.task_id = task_id
        self.task: Task | None = None
        self.started_here = not task_id
        self.attempt: CallAttempt | None = None
        self.message = ""
        self.result: Any = None
        self.error: Exception | None = None
        self.cancelled = False
        self.started = self.changed = self.fetched = time()
        self.size = 0
        self.accepted = anyio.Event()
        self.over = anyio.Event()
        self._register = register
        self._scope = anyio.CancelScope()

    def accept(self, task: Task) -> None:
        """Set the accepted task. The client's id stays that of the first task if another one replaces it."""
        if self.task is None and task.id:
            self.task, self.task_id = task, self.task_id or task.id
            self._register(self)
            self.accepted.set()

    async def report(self, _: float, /, *, message: str) -> None:
        """Store a progress message for the client's next poll."""
        self.message, self.changed = message, time()

    def cancel(self) -> None:
        """End the call because its client cancelled it; a call that is over does not change."""
        if not self.over.is_set():
            self.cancelled, self.changed = True, time()
            self.end()

    def end(self) -> None:
        """End the call as if its client had left."""
        self._scope.cancel()

    async def run(self, work: Work) -> None:
        """Run the work until it is finished or `end` is called."""
        try:
            with self._scope:
                self.result = await work(self)
        except Exception as error:  # the top of a background task: the client's next poll returns the error
            self.error = error
            if self.task:
                logger.exception("task %s failed", self.task.id)
                error.__traceback__ = None  # its frames would keep the caller's token and pictures in memory
        finally:
            self.changed = time()
            self.over.set()
            self.accepted.set()


class BackgroundCalls:
    """The background calls of a process, by caller and task; `open_background_calls` makes it.

    Args:
        group: The task group that runs them.
        keeping: See `Keeping`.
    """

    def __init__(self, group: TaskGroup, keeping: Keeping) -> None:
        self._group = group
        self._keeping = keeping
        self._calls: dict[tuple[str, str], BackgroundCall] = {}

    async def start(self, caller: str, work: Work) -> BackgroundCall:
        """Start a call; returns once its task is accepted, or the call is over without a task.

        Args:
            caller: A hash of the caller.
            work: The call. If this method is cancelled, so is the work: the client left before it had the task.

        Raises:
            Exception: An error of the work before a task was accepted.
        """
        call = BackgroundCall(caller, self._register)
        self._group.start_soon(self._run, call, work)
        try:
            await call.accepted.wait()
        except anyio.get_cancelled_exc_class():
            call.end()
            with anyio.CancelScope(shield=True):
                await call.over.wait()
                await self._abandon(call)
            raise
        if call.task is None and call.error:
            raise call.error
        return call

    async def follow(self, caller: str, task_id: str, work: Work) -> BackgroundCall:
        """Follow a task of another process; returns once it was looked up.

        Args:
            caller: A hash of the caller.
            task_id: The task.
            work: Looks up the task and waits for it. All polls of the task share it.

        Raises:
            Exception: An error of the work before the task was found.
        """
        call = self._calls.get((caller, task_id))
        if call is None or call.over.is_set():
            call = self._calls[caller, task_id] = BackgroundCall(caller, self._register, task_id)
            self._group.start_soon(self._run, call, work)
        await call.accepted.wait()
        if call.task is None and call.error:
            raise call.error
        return call

    def find(self, caller: str, task_id: str) -> BackgroundCall | None:
        """The call for a caller's task, if this process has one. Counts as a poll of its client."""
        if call := self._calls.get((caller, task_id)):
            call.fetched = time()
        return call

    async def delivered(self, call: BackgroundCall) -> None:
        """Mark the result as delivered: from now on an identical call makes another picture."""
        attempt, call.attempt = call.attempt, None
        if attempt and attempt.deliver_later:
            await attempt.delivered()

    async def tidy(self) -> None:
        """Abandon the tasks of clients that may be gone, and drop results that were not fetched for a long time."""
        while True:
            await anyio.sleep(min(self._keeping.tidying, self._keeping.silence / 3))
            now = time()
            for call in list(self._calls.values()):
                if now - call.fetched >= self._keeping.silence:
                    await self._abandon(call)
                if call.over.is_set() and now - max(call.fetched, call.changed) >= self._keeping.result:
                    self._drop(call)

    def _register(self, call: BackgroundCall) -> None:
        before = self._calls.get((call.caller, call.task_id))
        self._calls[call.caller, call.task_id] = call
        if before and before is not call:
            before.end()  # an identical call claimed its task: two calls would save its pictures twice
            self._group.start_soon(self._abandon, before)

    async def _run(self, call: BackgroundCall, work: Work) -> None:
        await call.run(work)
        if call.cancelled:
            call.result = None  # the work may have finished after the client got the status `cancelled`
            await self._abandon(call)
        if call.task is None or (call.result is None and call.error is None and not call.cancelled):
            self._drop(call)
        await self._drop_oldest()

    async def _abandon(self, call: BackgroundCall) -> None:
        if call.attempt:
            await call.attempt.abandon()

    def _drop(self, call: BackgroundCall) -> None:
        if self._calls.get((call.caller, call.task_id)) is call:
            del self._calls[call.caller, call.task_id]

    async def _drop_oldest(self) -> None:
        """Drop the oldest results until the others fit into `max_bytes`."""
        over = sorted((call for call in self._calls.values() if call.over.is_set()), key=lambda call: call.changed)
        excess = sum(call.size + self._keeping.overhead for call in over) - self._keeping.max_bytes
        for call in over:
            if excess <= 0:
                return
            excess -= call.size + self._keeping.overhead
            self._drop(call)
            await self._abandon(call)  # an identical call gets the task


@asynccontextmanager
async def open_background_calls(keeping: Keeping | None = None) -> AsyncIterator[BackgroundCalls]:
    """The background calls of a process; calls that still run when the context ends are abandoned."""
    async with anyio.create_task_group() as group:
        calls = BackgroundCalls(group, keeping or Keeping())
        group.start_soon(calls.tidy)
        yield calls
        group.cancel_scope.cancel()
