"""Limits over HTTP, for each caller and for all: concurrent calls and tasks, and generations per minute."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mcp_seedream.core.errors import LimitExceeded
from mcp_seedream.core.events import Observer

_MINUTE = 60
_MAX_CALLERS = 1000  # with recorded generations; above this, old ones are removed for all callers


@dataclass(slots=True)
class _Usage:
    """The number of calls or tasks in progress, by caller and in total."""

    by_caller: Counter[str] = field(default_factory=Counter)
    total: int = 0


class CallerLimits:
    """The limits of one process, and their current use.

    Args:
        calls: Largest number of concurrent requests of one caller, and of its tasks.
        all_calls: Largest number of concurrent requests of all callers, and of their tasks.
        generations: Largest number of generations of one caller in any minute; 0 for no limit.
        observer: Notified of every exceeded limit.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        *,
        calls: int,
        all_calls: int,
        generations: int,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._calls = calls
        self._all_calls = all_calls
        self._generations = generations
        self._observer = observer
        self._clock = clock
        self._calls_in_progress, self._tasks_in_progress = _Usage(), _Usage()
        self._generation_times: dict[str, deque[float]] = {}

    @contextmanager
    def call(self, caller: str) -> Iterator[None]:
        """Count a request of a caller as in progress while the context lasts.

        Raises:
            LimitExceeded: Too many are in progress, of this caller or of all.
        """
        with self._counted(self._calls_in_progress, caller, "calls"):
            yield

    @contextmanager
    def task(self, caller: str) -> Iterator[None]:
        """Count a task that runs without a waiting request as in progress while the context lasts.

        Tasks are counted separately from requests, so that a caller with many tasks can still poll them.

        Raises:
            LimitExceeded: Too many are in progress, of this caller or of all.
        """
        with self._counted(self._tasks_in_progress, caller, "tasks"):
            yield

    @contextmanager
    def _counted(self, usage: _Usage, caller: str, noun: str) -> Iterator[None]:
        if usage.by_caller[caller] >= self._calls:
            raise self._exceeded(noun, f"{self._calls} of your {noun} are in progress", 5)
        if usage.total >= self._all_calls:
            raise self._exceeded(f"all_{noun}", f"this server has reached its limit of {noun}", 5)
        usage.by_caller[caller] += 1
        usage.total += 1
        try:
            yield
        finally:
            usage.total -= 1
            usage.by_caller[caller] -= 1
            if not usage.by_caller[caller]:
                del usage.by_caller[caller]

    def generate(self, caller: str) -> None:
        """Count a generation of a caller, before it is sent.

        Raises:
            LimitExceeded: The caller has reached its limit of generations per minute.
        """
        if not self._generations:
            return
        now = self._clock()
        if len(self._generation_times) > _MAX_CALLERS:
            for other in list(self._generation_times):
                self._remove_old(other, now)
        self._remove_old(caller, now)
        times = self._generation_times.setdefault(caller, deque())
        if len(times) >= self._generations:
            wait = times[0] + _MINUTE - now
            raise self._exceeded("generations", f"the limit is {self._generations} generations per minute", wait)
        times.append(now)

    def _remove_old(self, caller: str, now: float) -> None:
        """Remove a caller's generations that are older than a minute."""
        times = self._generation_times.get(caller, deque())
        while times and times[0] <= now - _MINUTE:
            times.popleft()
        if not times:
            self._generation_times.pop(caller, None)

    def _exceeded(self, limit: str, reason: str, seconds: float) -> LimitExceeded:
        self._observer.on_limit_reached(limit)
        return LimitExceeded(reason, seconds)
