"""Waits for tasks: however many calls wait, a caller's tasks are looked up together, once a round.

One round of look-ups per caller every `interval` seconds asks for all tasks that anybody waits for. A wait
that is cancelled, or whose time is up, just stops asking: the task itself goes on upstream.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from copy import copy
from typing import Protocol

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from mcp_seedream.core.errors import TokenRefused, UnreadableReply, UpstreamError
from mcp_seedream.core.shutdown import Shutdown
from mcp_seedream.upstream.client import SeedreamClient
from mcp_seedream.upstream.types import Task

logger = logging.getLogger(__name__)


class Report(Protocol):
    """Tells the caller how far it is: a number that grows, and words."""

    def __call__(self, progress: float, /, *, message: str) -> Awaitable[None]: ...


_BREATH = 0.001  # seconds between two answers that become known at once
_LONGEST_PAUSE = 10.0
_LONGEST_ASKED = 60.0  # a Retry-After by a clock that is years off would end a caller's look-ups for good


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
        self._waits: dict[str, set[_Wait]] = {}
        self._handing_out = anyio.Lock()

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
        """Wait until all tasks have ended, for at most `seconds`; not at all where the process is about to end.

        Args:
            task_ids: Tasks that the upstream has accepted.
            token: The caller's.
            seconds: How long, at most.
            report: Called about every five seconds.
            typical: Seconds that such a picture usually takes, for the report.
            ran: Seconds that the task has run already, for the report.

        Returns:
            The tasks that have ended, by id; one that still runs is not in it.

        Raises:
            TokenRefused: The upstream refuses the caller's token.
        """
        wait = _Wait(set(task_ids))
        waits = self._waits_of(token)
        waits.add(wait)
        started = anyio.current_time()
        try:
            while wait.goes_on(self._shutdown) and (left := started + seconds - anyio.current_time()) > 0:
                with anyio.move_on_after(min(left, self._tick)) as pause:
                    await wait.done.wait()
                if pause.cancelled_caught and report is not None:
                    elapsed = anyio.current_time() - started
                    await report(elapsed, message=f"{wait.what}: {_progress(ran + elapsed, typical)}")
        finally:
            waits.discard(wait)
        if wait.error is not None:
            raise copy(wait.error)  # each call its own, with its own traceback
        return wait.ended

    def _waits_of(self, token: str) -> set[_Wait]:
        if token not in self._waits:
            self._waits[token] = set()
            self._group.start_soon(self._look, token, self._waits[token])
        return self._waits[token]

    def end(self) -> None:
        """End all waits: the process is about to end."""
        for waits in self._waits.values():
            for wait in waits:
                wait.done.set()

    async def _look(self, token: str, waits: set[_Wait]) -> None:
        """One caller's rounds, for as long as somebody waits."""
        pause = self._interval
        try:
            while True:
                await anyio.sleep(pause)
                wanted = {id_ for wait in waits for id_ in wait.running}
                if not wanted:
                    return
                pause = await self._round(sorted(wanted), token, waits, pause)
        except Exception:  # the top of a task of its own: one caller's reply must not end everybody's server
            logger.exception("the look-ups of one caller failed")
            _fail(waits, UnreadableReply("The upstream's answer to a look-up could not be understood."))
        finally:
            del self._waits[token]

    async def _round(self, wanted: list[str], token: str, waits: set[_Wait], pause: float) -> float:
        """Look once, hand out what has ended; the seconds to the next round."""
        try:
            found = await self._client.look_up(wanted, token, kind="round")
        except TokenRefused as error:
            _fail(waits, error)
        except UpstreamError as error:
            # A look-up costs nothing and the task goes on: the wait's own deadline decides, not this.
            logger.warning("look-up of %d tasks failed: %s", len(wanted), error.code)
            if error.retry_after is not None:
                return min(max(error.retry_after, self._interval), _LONGEST_ASKED)
            return min(pause * 2, _LONGEST_PAUSE)
        else:
            ended = {id_: task for id_, task in found.items() if task.ended}
            for wait in list(waits):
                # One after the other: a thousand that end at once must not keep everybody else from being heard.
                async with self._handing_out:
                    wait.take(ended)
                    await anyio.sleep(_BREATH)
        return self._interval


@asynccontextmanager
async def open_waiter(
    client: SeedreamClient, *, interval: float = 2, tick: float = 5, shutdown: Shutdown | None = None
) -> AsyncIterator[TaskWaiter]:
    """A waiter, for as long as the context lasts.

    Args:
        client: For the look-ups.
        interval: Seconds between a caller's rounds of look-ups.
        tick: Seconds between two reports.
        shutdown: Once it has begun, nobody waits.
    """
    shutdown = shutdown or Shutdown()
    async with anyio.create_task_group() as group:
        yield TaskWaiter(client, group, shutdown, interval=interval, tick=tick)
        group.cancel_scope.cancel()


def _progress(elapsed: float, typical: float | None) -> str:
    """How far a picture is: "about 40 s of 120 s", or "130 s" once it takes longer than usual."""
    return f"about {elapsed:.0f} s of {typical:.0f} s" if typical and elapsed < typical else f"{elapsed:.0f} s"


def _fail(waits: Iterable[_Wait], error: UpstreamError) -> None:
    for wait in waits:
        wait.error = error
        wait.done.set()


class _Wait:
    """One call's wait for one task or more."""

    def __init__(self, running: set[str]) -> None:
        self.running = running
        self.what = f"Task {next(iter(running))}" if len(running) == 1 else f"{len(running)} tasks"
        self.ended: dict[str, Task] = {}
        self.error: UpstreamError | None = None
        self.done = anyio.Event()

    def goes_on(self, shutdown: Shutdown) -> bool:
        return bool(self.running) and self.error is None and not shutdown.requested.is_set()

    def take(self, ended: dict[str, Task]) -> None:
        for id_ in self.running & ended.keys():
            self.ended[id_] = ended[id_]
            self.running.discard(id_)
        if not self.running:
            self.done.set()
