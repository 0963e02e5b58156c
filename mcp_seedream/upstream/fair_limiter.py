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
        newest_first: Serve the caller that began to wait last first, and the newest waiter of a caller first. So the
            newest waiters are served quickly during an overload.
    """

    def __init__(self, capacity: int, *, newest_first: bool = False) -> None:
        self._free = capacity
        self._newest_first = newest_first
        self._waiting: OrderedDict[str, deque[anyio.Event]] = OrderedDict()

    @asynccontextmanager
    async def slot(self, caller: str) -> AsyncIterator[None]:
        """Hold one slot for a caller while the context lasts."""
        await self.acquire(caller)
        try:
            yield
        finally:
            self.release()

    def may_wait(self, caller: str, max_waiting: int) -> bool:
        """Whether one more waiter of this caller is allowed: within `max_waiting` in total or its share.

        The share is an equal part of `max_waiting` for each waiting caller. A caller without waiters may always wait.
        """
        total = sum(map(len, self._waiting.values()))
        own = len(self._waiting.get(caller, ()))
        return total < max_waiting or own < max(1, max_waiting // (len(self._waiting) + (own == 0)))

    async def acquire(self, caller: str) -> None:
        """Wait for a slot and occupy it until `release`."""
        if self._free:
            self._free -= 1
            return
        ready = anyio.Event()
        queue = self._waiting.setdefault(caller, deque())
        if self._newest_first and not queue:
            self._waiting.move_to_end(caller, last=False)
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
        (queue.pop() if self._newest_first else queue.popleft()).set()
        if queue:
            self._waiting[caller] = queue  # this caller goes to the end of the queue
