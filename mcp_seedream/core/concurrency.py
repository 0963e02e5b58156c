"""Values that are opened when they are needed, and functions that run in threads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Generic, Self, TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")


class OnDemand(Generic[T]):
    """The value of an async context manager that is entered after its users have started.

    Args:
        manager: Makes the context manager. It is called in a thread if there is a delay, since it may import modules.
    """

    def __init__(self, manager: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self._manager = manager
        self._needed = anyio.Event()
        self._opened = anyio.Event()
        self._closing = False

    async def get(self) -> T:
        """Return the value, and open it first if necessary."""
        if not self._opened.is_set():
            self._needed.set()
            await self._opened.wait()
        return self._value

    @asynccontextmanager
    async def available(self, delay: float = 0) -> AsyncIterator[Self]:
        """Open the value within the context: after `delay` seconds, or with the first `get`. Close it at the end."""
        if delay == 0:
            async with self._manager() as self._value:
                self._opened.set()
                yield self
            return
        closed = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(self._open, delay, closed)
            yield self
            self._closing = True
            self._needed.set()
            closed.set()

    async def _open(self, delay: float, closed: anyio.Event) -> None:
        """Enter and leave the context manager in one task, as task groups require."""
        with anyio.move_on_after(delay):
            await self._needed.wait()
        if self._closing:
            return
        manager = await anyio.to_thread.run_sync(self._manager)
        async with manager as self._value:
            self._opened.set()
            await closed.wait()


async def run_in_thread(function: Callable[..., T], *args: Any, limiter: anyio.CapacityLimiter | None = None) -> T:
    """Run a function in a thread, as `anyio.to_thread.run_sync`, which also has a limiter.

    If the function raises, anyio keeps the exception in a frame of its own traceback. This cycle would keep all
    arguments, such as pictures of megabytes, in memory until the garbage collector runs.
    """
    result: T
    error: Exception | None
    result, error = await anyio.to_thread.run_sync(_outcome, partial(function, *args), limiter=limiter)
    if error is None:
        return result
    try:
        raise error
    finally:
        del error  # the same kind of cycle


def _outcome(function: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return function(), None
    except Exception as error:  # noqa: BLE001  (raised again by the caller)
        return None, error
