"""So many at a time, and callers in turn: one who asks a thousand times keeps nobody else waiting."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio


class Turns:
    """A limit of what goes on at once, shared fairly: whoever waits is served in turn by caller, then by order.

    Args:
        most: How many go on at once.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: OrderedDict[str, deque[anyio.Event]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, caller: str) -> AsyncIterator[None]:
        """One turn of a caller, as soon as there is room, until the context ends."""
        await self.take(caller)
        try:
            yield
        finally:
            self.give()

    async def take(self, caller: str) -> None:
        """Begin a turn; `give` ends it."""
        if self._free:
            self._free -= 1
            return
        ready = anyio.Event()
        queue = self._waiting.setdefault(caller, deque())
        queue.append(ready)
        try:
            await ready.wait()
        except BaseException:
            if ready.is_set():
                self.give()  # it came too late for this one
            else:
                queue.remove(ready)
                if not queue:
                    del self._waiting[caller]
            raise

    def give(self) -> None:
        """End a turn: the next caller's first one begins."""
        if not self._waiting:
            self._free += 1
            return
        caller, queue = self._waiting.popitem(last=False)
        queue.popleft().set()
        if queue:
            self._waiting[caller] = queue  # behind everybody else
