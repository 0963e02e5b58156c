"""How much callers may ask for, over HTTP: calls at once and generations a minute for each, calls at once for all."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

from mcp_seedream.errors import TooMuch
from mcp_seedream.observing import Observer

_MINUTE = 60
_CALLERS = 1000  # that are remembered before anybody looks who is gone


class Limits:
    """The limits of one process, and what is asked for now.

    Args:
        calls: Requests of one caller that are answered at once.
        all_calls: Requests of all callers that are answered at once.
        generations: Of one caller, in any minute; 0: as many as the upstream takes.
        observer: Told of every limit that is hit.
    """

    def __init__(self, *, calls: int, all_calls: int, generations: int, observer: Observer) -> None:
        self._calls = calls
        self._all_calls = all_calls
        self._generations = generations
        self._observer = observer
        self._now: Counter[str] = Counter()
        self._all_now = 0
        self._made: dict[str, deque[float]] = {}

    @contextmanager
    def call(self, caller: str) -> Iterator[None]:
        """A request of a caller is answered while the context lasts.

        Raises:
            TooMuch: Too many are, of this caller or of all.
        """
        if self._now[caller] >= self._calls:
            raise self._too_much("calls", f"{self._calls} of your calls are being answered at this moment", 5)
        if self._all_now >= self._all_calls:
            raise self._too_much("all_calls", "this server has as many calls as it takes", 5)
        self._now[caller] += 1
        self._all_now += 1
        try:
            yield
        finally:
            self._all_now -= 1
            self._now[caller] -= 1
            if not self._now[caller]:
                del self._now[caller]

    def generate(self, caller: str) -> None:
        """A caller is about to pay for a generation.

        Raises:
            TooMuch: It has had its share of this minute.
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

    def _too_much(self, name: str, why: str, seconds: float) -> TooMuch:
        self._observer.limit(name)
        return TooMuch(why, seconds)
