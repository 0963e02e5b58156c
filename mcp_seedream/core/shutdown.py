"""Graceful shutdown: waits end early, calls in progress are answered, then the process exits.

The first SIGTERM or SIGINT requests the shutdown; the second one ends the process at once. A worker process ignores
one repeated signal: a signal to the process group reaches it directly and again through its parent.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import NoReturn

import anyio

logger = logging.getLogger(__name__)

Handler = Callable[[int, FrameType | None], object]
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Shutdown:
    """The state of a shutdown: whether it was requested, and how many calls are in progress.

    Args:
        grace: Seconds for calls in progress to finish after the request.
        changed: Called with the number of calls in progress whenever it changes.
    """

    def __init__(self, grace: float = 6, changed: Callable[[int], None] = lambda _: None) -> None:
        self.requested = anyio.Event()
        self.grace = grace
        self._changed = changed
        self._in_progress = 0
        self._idle = anyio.Event()

    def request(self) -> None:
        """Request the shutdown: no new call starts, and every wait ends."""
        if not self.requested.is_set():
            logger.info("shutting down; %d calls in progress", self._in_progress)
            self.requested.set()
            self._check_idle()

    @property
    def calls_in_progress(self) -> int:
        """The number of calls in progress."""
        return self._in_progress

    @contextmanager
    def call_in_progress(self) -> Iterator[None]:
        """Count a call as in progress while the context lasts."""
        self._in_progress += 1
        self._changed(self._in_progress)
        try:
            yield
        finally:
            self._in_progress -= 1
            self._changed(self._in_progress)
            self._check_idle()

    async def wait_until_idle(self) -> None:
        """Wait until no call is in progress, but no longer than the grace period."""
        with anyio.move_on_after(self.grace) as scope:
            await self._idle.wait()
        if scope.cancelled_caught:
            logger.warning("%d calls did not finish within the grace period", self._in_progress)

    def _check_idle(self) -> None:
        if self.requested.is_set() and not self._in_progress:
            self._idle.set()


def exit_by_signal(number: int) -> NoReturn:
    """End the process by a signal at once: a thread that is blocked on stdin would delay Python's normal exit."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    os._exit(128 + number)  # the kernel ignores default signal actions for a container's first process


@asynccontextmanager
async def shutdown_on_signals(
    shutdown: Shutdown, then: Callable[[int, Handler | None], Awaitable[None]]
) -> AsyncIterator[None]:
    """Handle signals while the context lasts: the first requests the shutdown, the second ends the process.

    Args:
        shutdown: The shutdown, which the first signal requests.
        then: Called once no call is in progress, with the signal and its previous handler.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals only in the main thread
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    received: asyncio.Queue[int] = asyncio.Queue()

    def end(number: int, _: FrameType | None) -> None:
        exit_by_signal(number)

    def ignore_once(_: int, __: FrameType | None) -> None:
        _set_handlers(end)

    def receive(number: int, _: FrameType | None) -> None:
        _set_handlers(ignore_once if multiprocessing.parent_process() else end)
        loop.call_soon_threadsafe(received.put_nowait, number)

    async def shut_down() -> None:
        number = await received.get()
        shutdown.request()
        await shutdown.wait_until_idle()
        handler = before[signal.Signals(number)]
        await then(number, handler if callable(handler) else None)

    _set_handlers(receive)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(shut_down)
            yield
            group.cancel_scope.cancel()
    finally:
        for number in _SIGNALS:
            if signal.getsignal(number) is receive:
                signal.signal(number, before[number])


def _set_handlers(handler: Handler) -> None:
    for number in _SIGNALS:
        signal.signal(number, handler)
