"""The memory for request bodies of one process, shared fairly between callers."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from mcp_seedream.core.errors import LimitExceeded

_RETRY_SECONDS = 5
_MAX_WAITING = 100  # requests of one caller


class BodyBudget:
    """A limit of bytes in flight. Over it, requests wait for their turn, callers round-robin.

    A caller may hold as many bytes as would then still be free (dynamic thresholds, Choudhury and Hahne, 1998). One
    caller alone gets half, five callers get a sixth each, and a sixth of the bytes stays free for the next caller.
    While nothing is held, a body of any size is taken.

    Args:
        total: Bytes.
        patience: Seconds that a request waits for its turn.
    """

    def __init__(self, total: int, *, patience: float = 20) -> None:
        self._total = total
        self._patience = patience
        self._used = 0
        self._by_caller: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[_Waiter]] = OrderedDict()
        self._releasable: dict[BodyShare, Callable[[], None]] = {}

    async def acquire(self, caller: str, size: int) -> None:
        """Wait for bytes and take them, for a `BodyShare`.

        Raises:
                LimitExceeded: They did not become free in time, or too many requests of this caller wait.
        """
        if caller not in self._waiting and self._fits(caller, size):
            self._add(caller, size)
            return
        waiter, queue = _Waiter(size), self._waiting.setdefault(caller, deque())
        if len(queue) >= _MAX_WAITING:  # the HTTP server may have read 64 KiB for each of them
            raise self._exceeded()
        queue.append(waiter)
        self._serve()
        try:
            with anyio.move_on_after(self._patience):
                await waiter.served.wait()
        except BaseException:
            self._leave(caller, waiter)
            raise
        if not waiter.served.is_set():
            self._leave(caller, waiter)
            raise self._exceeded()

    @staticmethod
    def _exceeded() -> LimitExceeded:
        return LimitExceeded("this server holds as many request bodies as it can", _RETRY_SECONDS)

    def _leave(self, caller: str, waiter: _Waiter) -> None:
        """Remove a request that no longer waits, or free what it was given meanwhile."""
        if waiter.served.is_set():
            self.change(caller, -waiter.size)
            return
        queue = self._waiting[caller]
        queue.remove(waiter)
        if not queue:
            del self._waiting[caller]

    def change(self, caller: str, size: int) -> None:
        """Add bytes to what a caller holds, or subtract them."""
        self._add(caller, size)
        if size < 0:
            self._serve()

    def release_when_short(self, share: BodyShare, release: Callable[[], None]) -> None:
        """Register how the bytes of a share can be freed early; at once if requests wait."""
        self._releasable[share] = release
        self._serve()

    def forget(self, share: BodyShare) -> None:
        """Remove the registration of a share."""
        self._releasable.pop(share, None)

    def _serve(self) -> None:
        """Give bytes to the requests that wait, as far as they fit, and free releasable ones for the others."""
        while self._waiting:
            self._serve_those_that_fit()
            if not self._waiting or not self._releasable:
                return
            share = next(iter(self._releasable))
            self._releasable.pop(share)()
            self._add(share.caller, -share.size)
            share.size = 0

    def _serve_those_that_fit(self) -> None:
        for caller in list(self._waiting):
            queue = self._waiting[caller]
            if not self._fits(caller, queue[0].size):
                continue
            waiter = queue.popleft()
            self._add(caller, waiter.size)
            waiter.served.set()
            if queue:
                self._waiting.move_to_end(caller)
            else:
                del self._waiting[caller]

    def _add(self, caller: str, size: int) -> None:
        self._used += size
        self._by_caller[caller] += size
        if not self._by_caller[caller]:
            del self._by_caller[caller]

    def _fits(self, caller: str, size: int) -> bool:
        free = self._total - self._used - size
        return self._by_caller[caller] + size <= free or self._used == 0


@dataclass(slots=True, eq=False)
class _Waiter:
    size: int
    served: anyio.Event = field(default_factory=anyio.Event)


@dataclass(slots=True, eq=False)
class BodyShare:
    """The bytes that one request holds; none at first."""

    budget: BodyBudget
    caller: str
    size: int = 0

    async def acquire(self, size: int) -> None:
        """Wait for bytes, and hold them in place of those that are held now.

        Raises:
            LimitExceeded: They did not become free in time.
        """
        self.resize(0)
        await self.budget.acquire(self.caller, size)
        self.size = size

    def resize(self, size: int) -> None:
        """Hold more or fewer bytes; never waits."""
        change, self.size = size - self.size, size
        self.budget.change(self.caller, change)

    def release_when_short(self, release: Callable[[], None]) -> None:
        """Register a function that frees the memory, for when other requests need the bytes."""
        self.budget.release_when_short(self, release)

    def free(self) -> None:
        """Give all bytes back."""
        self.budget.forget(self)
        self.resize(0)
