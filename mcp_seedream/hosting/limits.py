"""Limits of each caller over HTTP: calls and tasks at once, generations a minute; and of all callers together."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mcp_seedream.core.errors import LimitExceeded
from mcp_seedream.core.events import Observer

_MINUTE = 60
_MAX_CALLERS = 1000  # with recent generations, above which old ones are removed for all callers


@dataclass(slots=True)
class _Usage:
    """What is in progress, by caller and in total."""

    by_caller: Counter[str] = field(default_factory=Counter)
    total: int = 0


class CallerLimits:
    """The limits of one process, and how much of them is used.

    Args:
        calls: Requests of one caller in progress at once; also tasks of one caller.
        all_calls: Requests of all callers in progress at once; also tasks of all callers.
        generations: Generations of one caller in any minute; 0: not limited.
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
        with self._counted(self._calls_in_progress, caller, "calls", "being answered"):
            yield

    @contextmanager
    def task(self, caller: str) -> Iterator[None]:
        """Count a task that runs without a waiting request as in progress while the context lasts.

        Tasks are counted apart from requests, so that a caller with many tasks can still ask for their state.

        Raises:
            LimitExceeded: Too many are in progress, of this caller or of all.
        """
        with self._counted(self._tasks_in_progress, caller, "tasks", "going on"):
            yield

    @contextmanager
    def _counted(self, usage: _Usage, caller: str, what: str, state: str) -> Iterator[None]:
        if usage.by_caller[caller] >= self._calls:
            raise self._exceeded(what, f"{self._calls} of your {what} are {state} at this moment", 5)
        if usage.total >= self._all_calls:
            raise self._exceeded(f"all_{what}", f"this server has as many {what} as it takes", 5)
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
            LimitExceeded: The caller has used its generations of this minute.
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
            raise self._exceeded("generations", f"you may make {self._generations} generations a minute", wait)
        times.append(now)

    def _remove_old(self, caller: str, now: float) -> None:
        """Remove a caller's generations that are more than a minute ago."""
        times = self._generation_times.get(caller, deque())
        while times and times[0] <= now - _MINUTE:
            times.popleft()
        if not times:
            self._generation_times.pop(caller, None)

    def _exceeded(self, limit: str, reason: str, seconds: float) -> LimitExceeded:
        self._observer.on_limit_reached(limit)
        return LimitExceeded(reason, seconds)
