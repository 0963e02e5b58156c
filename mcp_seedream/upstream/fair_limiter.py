"""A concurrency limit that serves callers round-robin, so that one caller's backlog delays no other caller."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio


class FairLimiter:
    """A semaphore whose waiters are served round-robin by caller, and in order within a caller.

    Args:
        capacity: The number of slots.
    """

    def __init__(self, capacity: int) -> None:
        self._free = capacity
        self._waiting: OrderedDict[str, deque[anyio.Event]] = OrderedDict()

    @asynccontextmanager
    async def slot(self, caller: str) -> AsyncIterator[None]:
        """Hold one slot for a caller while the context lasts."""
        await self.acquire(caller)
        try:
            yield
        finally:
            self.release()

    async def acquire(self, caller: str) -> None:
        """Wait for a slot and occupy it until `release`."""
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
                self.release()  # the slot was granted, but this waiter was cancelled
            else:
                queue.remove(ready)
                if not queue:
                    del self._waiting[caller]
            raise

    def release(self) -> None:
        """Free a slot; the next caller's first waiter gets it."""
        if not self._waiting:
            self._free += 1
            return
        caller, queue = self._waiting.popitem(last=False)
        queue.popleft().set()
        if queue:
            self._waiting[caller] = queue  # this caller goes to the end of the queue
