"""Polls tasks: one round of look-ups per caller covers all tasks that the caller's calls wait for.

A round starts every `interval` seconds. Its cost depends on the number of tasks, not on the number of waits. A wait
that is cancelled or times out only stops polling: the task continues upstream.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from copy import copy
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from mcp_seedream.core.errors import TokenRefused, UnreadableReply, UpstreamError
from mcp_seedream.core.shutdown import Shutdown
from mcp_seedream.upstream.client import SeedreamClient
from mcp_seedream.upstream.types import Task

logger = logging.getLogger(__name__)

_WAKE_INTERVAL = 0.001  # seconds between two waits that end in the same round
_LONGEST_PAUSE = 10.0
_LONGEST_RETRY_AFTER = 60.0  # a date from a wrong clock could stop a caller's look-ups for years


class Report(Protocol):
    """Reports progress to the caller: a number that grows, and a message."""

    def __call__(self, progress: float, /, *, message: str) -> Awaitable[None]: ...


class TaskWaiter:
    """Waits for tasks of many callers; `open_waiter` makes one for the process."""

    def __init__(
        self, client: SeedreamClient, group: TaskGroup, shutdown: Shutdown, *, interval: float, tick: float
    ) -> None:
        self._client = client
        self._group = group
        self._shutdown = shutdown
        self._interval = interval
        self._tick = tick
        self._waits: dict[str, _WaitsByTask] = {}
        self._waking = anyio.Lock()

    async def wait(
        self,
        task_ids: Iterable[str],
        token: str,
        seconds: float,
        report: Report | None = None,
        *,
        typical: float | None = None,
        ran: float = 0,
    ) -> dict[str, Task]:
        """Wait until all tasks have ended, the time is up, or a shutdown is requested.

        Args:
            task_ids: Tasks that the upstream has accepted.
            token: The caller's API token.
            seconds: The longest time to wait.
            report: Called about every five seconds.
            typical: Seconds that a picture of this model usually takes, for the report.
            ran: Seconds that the task has already run, for the report.

        Returns:
            The tasks that have ended, by id. Running tasks are left out.

        Raises:
            TokenRefused: The upstream refuses the caller's token.
        """
        wait = _Wait(set(task_ids))
        waits = self._waits_of(token)
        waits.add(wait)
        started = anyio.current_time()
        try:
            while wait.continues(self._shutdown) and (left := started + seconds - anyio.current_time()) > 0:
                with anyio.move_on_after(min(left, self._tick)) as pause:
                    await wait.wake_up.wait()
                if pause.cancelled_caught and report is not None:
                    elapsed = anyio.current_time() - started
                    await report(elapsed, message=f"{wait.label}: {_progress(ran + elapsed, typical)}")
        finally:
            waits.remove(wait)
        if wait.error is not None:
            raise copy(wait.error)  # each call gets its own object, with its own traceback
        return wait.ended

    def end_waits(self) -> None:
        """End all waits, because the process is about to exit."""
        for waits in self._waits.values():
            for wait in waits.all():
                wait.wake_up.set()

    def _waits_of(self, token: str) -> _WaitsByTask:
        if token not in self._waits:
            self._waits[token] = _WaitsByTask()
            self._group.start_soon(self._poll, token, self._waits[token])
        return self._waits[token]

    async def _poll(self, token: str, waits: _WaitsByTask) -> None:
        """Run rounds of look-ups for one caller until none of its calls is waiting."""
        pause = self._interval
        due = anyio.current_time() + pause
        try:
            while True:
                await anyio.sleep_until(due)
                if not waits.by_task:
                    return
                if error := await self._round(token, waits):
                    pause = self._pause_after(error, pause)
                    due = anyio.current_time() + pause
                else:
                    pause = self._interval
                    due = max(due + pause, anyio.current_time())
        except Exception:  # the top of a background task: one caller's response must not end the server
            logger.exception("the look-ups of one caller failed")
            self._wake(waits.fail(UnreadableReply("The upstream's response to a look-up could not be read.")))
        finally:
            del self._waits[token]

    async def _round(self, token: str, waits: _WaitsByTask) -> UpstreamError | None:
        """Look up all tasks once and wake the waits that are over; returns a transient failure.

        A failed look-up ends no wait: it costs nothing and the tasks continue, so each wait ends at its own time limit.
        """
        task_ids = sorted(waits.by_task)
        try:
            tasks = await self._client.look_up(task_ids, token, kind="round")
        except TokenRefused as error:
            self._wake(waits.fail(error))
        except UpstreamError as error:
            logger.warning("look-up of %d tasks failed: %s", len(task_ids), error.code)
            return error
        else:
            self._wake(waits.finish(task for task in tasks.values() if task.ended))
        return None

    def _pause_after(self, error: UpstreamError, pause: float) -> float:
        """The seconds until the round after a failed one: `Retry-After`, or twice the last pause."""
        if error.retry_after is not None:
            return min(max(error.retry_after, self._interval), _LONGEST_RETRY_AFTER)
        return min(pause * 2, _LONGEST_PAUSE)

    def _wake(self, waits: list[_Wait]) -> None:
        if waits:
            self._group.start_soon(self._wake_in_turn, waits)

    async def _wake_in_turn(self, waits: list[_Wait]) -> None:
        """Wake waits one at a time, so that other work runs in between when a thousand tasks end at once.

        The lock serves its waiters in order, so callers whose tasks end at the same time alternate.
        """
        for wait in waits:
            async with self._waking:
                wait.wake_up.set()
                await anyio.sleep(_WAKE_INTERVAL)


@asynccontextmanager
async def open_waiter(
    client: SeedreamClient, *, interval: float = 2, tick: float = 5, shutdown: Shutdown | None = None
) -> AsyncIterator[TaskWaiter]:
    """A waiter that polls while the context lasts.

    Args:
        client: For the look-ups.
        interval: Seconds between the starts of two rounds of look-ups for a caller.
        tick: Seconds between two progress reports.
        shutdown: Ends every wait once it is requested.
    """
    shutdown = shutdown or Shutdown()
    async with anyio.create_task_group() as group:
        yield TaskWaiter(client, group, shutdown, interval=interval, tick=tick)
        group.cancel_scope.cancel()


def _progress(elapsed: float, typical: float | None) -> str:
    """The progress of a picture: "about 40 s of 120 s", or "130 s" once it takes longer than usual."""
    return f"about {elapsed:.0f} s of {typical:.0f} s" if typical and elapsed < typical else f"{elapsed:.0f} s"


class _Wait:
    """One call's wait for one or more tasks."""

    def __init__(self, running: set[str]) -> None:
        self.running = running
        self.label = f"Task {next(iter(running))}" if len(running) == 1 else f"{len(running)} tasks"
        self.ended: dict[str, Task] = {}
        self.error: UpstreamError | None = None
        self.wake_up = anyio.Event()

    def continues(self, shutdown: Shutdown) -> bool:
        return bool(self.running) and self.error is None and not shutdown.requested.is_set()


class _WaitsByTask:
    """One caller's waits, indexed by the ids of their running tasks."""

    def __init__(self) -> None:
        self.by_task: dict[str, set[_Wait]] = {}

    def add(self, wait: _Wait) -> None:
        for task_id in wait.running:
            self.by_task.setdefault(task_id, set()).add(wait)

    def remove(self, wait: _Wait) -> None:
        for task_id in wait.running & self.by_task.keys():
            self.by_task[task_id].discard(wait)
            if not self.by_task[task_id]:
                del self.by_task[task_id]

    def finish(self, ended: Iterable[Task]) -> list[_Wait]:
        """Add ended tasks to their waits; returns the waits that have no running tasks any more."""
        finished = []
        for task in ended:
            for wait in self.by_task.pop(task.id, ()):
                wait.ended[task.id] = task
                wait.running.discard(task.id)
                if not wait.running:
                    finished.append(wait)
        return finished

    def fail(self, error: UpstreamError) -> list[_Wait]:
        """End all waits with an error; returns them."""
        failed = list(self.all())
        self.by_task.clear()
        for wait in failed:
            wait.error = error
        return failed

    def all(self) -> set[_Wait]:
        return set[_Wait]().union(*self.by_task.values())
