"""How much callers may ask for, over HTTP: calls at once and generations a minute for each, calls at once for all."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mcp_seedream.core.errors import LimitExceeded
from mcp_seedream.core.events import Observer

_MINUTE = 60
_CALLERS = 1000  # that are remembered before anybody looks who is gone


@dataclass(slots=True)
class _Room:
    """What is taken of it now, by each caller and by all."""

    taken: Counter[str] = field(default_factory=Counter)
    all: int = 0


class CallerLimits:
    """The limits of one process, and what is asked for now.

    Args:
        calls: Requests of one caller that are answered at once; tasks of one caller that go on, likewise.
        all_calls: Requests of all callers that are answered at once; tasks of all, likewise.
        generations: Of one caller, in any minute; 0: as many as the upstream takes.
        observer: Told of every limit that is hit.
    """

    def __init__(self, *, calls: int, all_calls: int, generations: int, observer: Observer) -> None:
        self._calls = calls
        self._all_calls = all_calls
        self._generations = generations
        self._observer = observer
        self._answered, self._going_on = _Room(), _Room()
        self._made: dict[str, deque[float]] = {}

    @contextmanager
    def call(self, caller: str) -> Iterator[None]:
        """A request of a caller is answered while the context lasts.

        Raises:
            LimitExceeded: Too many are, of this caller or of all.
        """
        with self._counted(self._answered, caller, "calls", "being answered"):
            yield

    @contextmanager
    def task(self, caller: str) -> Iterator[None]:
        """A task of a caller goes on while the context lasts, although no request waits for it.

        It takes no room from requests: those that ask how far it is must always be answered.

        Raises:
            LimitExceeded: Too many do, of this caller or of all.
        """
        with self._counted(self._going_on, caller, "tasks", "going on"):
            yield

    @contextmanager
    def _counted(self, now: _Room, caller: str, what: str, how: str) -> Iterator[None]:
        if now.taken[caller] >= self._calls:
            raise self._too_much(what, f"{self._calls} of your {what} are {how} at this moment", 5)
        if now.all >= self._all_calls:
            raise self._too_much(f"all_{what}", f"this server has as many {what} as it takes", 5)
        now.taken[caller] += 1
        now.all += 1
        try:
            yield
        finally:
            now.all -= 1
            now.taken[caller] -= 1
            if not now.taken[caller]:
                del now.taken[caller]

    def generate(self, caller: str) -> None:
        """A caller is about to pay for a generation.

        Raises:
            LimitExceeded: It has had its share of this minute.
        """
        if not self._generations:
            return
        now = time.monotonic()
        if len(self._made) > _CALLERS:
            for other in list(self._made):
                self._forget(other, now)
        self._forget(caller, now)
        made = self._made.setdefault(caller, deque())
        if len(made) >= self._generations:
            wait = made[0] + _MINUTE - now
            raise self._too_much("generations", f"{self._generations} generations a minute are what you may make", wait)
        made.append(now)

    def _forget(self, caller: str, now: float) -> None:
        """What is longer ago than a minute."""
        made = self._made.get(caller, deque())
        while made and made[0] <= now - _MINUTE:
            made.popleft()
        if not made:
            self._made.pop(caller, None)

    def _too_much(self, name: str, why: str, seconds: float) -> LimitExceeded:
        self._observer.on_limit_reached(name)
        return LimitExceeded(why, seconds)
