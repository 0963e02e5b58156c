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
    """A limit on the bytes of request bodies in memory. Requests above it wait, and are served round-robin by caller.

    A caller may hold at most as many bytes as remain free (dynamic thresholds, Choudhury and Hahne, 1998). One
    caller alone gets half, five callers get a sixth each, and a sixth of the bytes stays free for the next caller.
    While no bytes are held, a body of any size is accepted.

    Args:
        total: The limit in bytes.
        patience: The longest wait of a request, in seconds.
    """

    def __init__(self, total: int, *, patience: float = 20) -> None:
        self._total = total
        self._patience = patience
        self._used = 0
        self._by_caller: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[_Waiter]] = OrderedDict()
        self._releasable: dict[BodyMemory, Callable[[], None]] = {}

    async def acquire(self, caller: str, size: int) -> None:
        """Wait until bytes are free, and add them to those of the caller. `BodyMemory` calls this.

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
            self._remove_waiter(caller, waiter)
            raise
        if not waiter.served.is_set():
            self._remove_waiter(caller, waiter)
            raise self._exceeded()

    @staticmethod
    def _exceeded() -> LimitExceeded:
        return LimitExceeded("this server holds as many request bodies as it can", _RETRY_SECONDS)

    def _remove_waiter(self, caller: str, waiter: _Waiter) -> None:
        """Remove a request that no longer waits; free its bytes if it received them in the meantime."""
        if waiter.served.is_set():
            self.change(caller, -waiter.size)
            return
        queue = self._waiting[caller]
        queue.remove(waiter)
        if not queue:
            del self._waiting[caller]

    def change(self, caller: str, size: int) -> None:
        """Add bytes to those of a caller; a negative size subtracts them."""
        self._add(caller, size)
        if size < 0:
            self._serve()

    def release_when_short(self, memory: BodyMemory, release: Callable[[], None]) -> None:
        """Register a function that frees the bytes of a body early. It is called at once if requests wait."""
        self._releasable[memory] = release
        self._serve()

    def forget(self, memory: BodyMemory) -> None:
        """Remove the registered function of a body."""
        self._releasable.pop(memory, None)

    def _serve(self) -> None:
        """Serve the waiting requests that fit; for the others, free bytes with the registered functions."""
        while self._waiting:
            self._serve_fitting()
            if not self._waiting or not self._releasable:
                return
            memory = next(iter(self._releasable))
            self._releasable.pop(memory)()
            self._add(memory.caller, -memory.size)
            memory.size = 0

    def _serve_fitting(self) -> None:
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
class BodyMemory:
    """The bytes that the body of one request holds in the budget; none at first."""

    budget: BodyBudget
    caller: str
    size: int = 0

    async def acquire(self, size: int) -> None:
        """Release the held bytes, then wait for `size` bytes and hold them.

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
        """Register a function that frees the memory. It is called when other requests need the bytes."""
        self.budget.release_when_short(self, release)

    def free(self) -> None:
        """Release all bytes."""
        self.budget.forget(self)
        self.resize(0)
