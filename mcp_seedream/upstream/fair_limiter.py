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
        newest_first: Serve new callers before those that wait, and the newest waiter of a caller first. While more
            arrive than can be served, those that arrive last do not have to wait.
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

    def has_share(self, caller: str, most: int) -> bool:
        """Whether one more waiter of this caller is within `most` for all, or within the caller's share of them.

        A caller without waiters always has a share.
        """
        total = sum(map(len, self._waiting.values()))
        own = len(self._waiting.get(caller, ()))
        return total < most or own < max(1, most // (len(self._waiting) + (own == 0)))

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
