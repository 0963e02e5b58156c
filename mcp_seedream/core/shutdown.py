"""The end of a process: waits end at once with what they have, what was begun is answered, then it stops.

The first SIGTERM or SIGINT begins it; a second one ends the process there and then. One of several workers lets a
second one pass: whoever signals the whole group reaches it once by itself, and once through its parent.
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


class Stopping:
    """Whether the process is about to end, and how many calls are still being answered.

    Args:
        grace: Seconds that calls have to be answered in, once it has begun.
        changed: Told how many calls are being answered, whenever that changes.
    """

    def __init__(self, grace: float = 6, changed: Callable[[int], None] = lambda _: None) -> None:
        self.begun = anyio.Event()
        self.grace = grace
        self._changed = changed
        self._answering = 0
        self._idle = anyio.Event()

    def begin(self) -> None:
        """From now on nothing new is begun, and nobody waits."""
        if not self.begun.is_set():
            logger.info("stopping; %d calls are being answered", self._answering)
            self.begun.set()
            self._tell_if_idle()

    @property
    def calls(self) -> int:
        """How many are being answered now."""
        return self._answering

    @contextmanager
    def answering(self) -> Iterator[None]:
        """A call is being answered, as long as the context lasts."""
        self._answering += 1
        self._changed(self._answering)
        try:
            yield
        finally:
            self._answering -= 1
            self._changed(self._answering)
            self._tell_if_idle()

    async def answered(self) -> None:
        """Wait until no call is being answered any more, for as long as the grace lasts."""
        with anyio.move_on_after(self.grace) as scope:
            await self._idle.wait()
        if scope.cancelled_caught:
            logger.warning("%d calls could not be answered in time", self._answering)

    def _tell_if_idle(self) -> None:
        if self.begun.is_set() and not self._answering:
            self._idle.set()


def die(number: int) -> NoReturn:
    """End by a signal, there and then: a thread that blocks on stdin outlives any end that Python would begin."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    os._exit(128 + number)  # the first process of a container does not die by a signal


@asynccontextmanager
async def stopped_by_signals(
    stopping: Stopping, then: Callable[[int, Handler | None], Awaitable[None]]
) -> AsyncIterator[None]:
    """While the context lasts, the first signal begins the end, and the second is the end.

    Args:
        stopping: Begun by the first signal.
        then: Called once all calls are answered, with the signal, and its handler of before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread hears signals
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    asked: asyncio.Queue[int] = asyncio.Queue()

    def end(number: int, _: FrameType | None) -> None:
        die(number)

    def pass_over(_: int, __: FrameType | None) -> None:
        _listen(end)

    def hear(number: int, _: FrameType | None) -> None:
        _listen(pass_over if multiprocessing.parent_process() else end)
        loop.call_soon_threadsafe(asked.put_nowait, number)

    async def obey() -> None:
        number = await asked.get()
        stopping.begin()
        await stopping.answered()
        handler = before[signal.Signals(number)]
        await then(number, handler if callable(handler) else None)

    _listen(hear)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(obey)
            yield
            group.cancel_scope.cancel()
    finally:
        for number in _SIGNALS:
            if signal.getsignal(number) is hear:
                signal.signal(number, before[number])


def _listen(handler: Handler) -> None:
    for number in _SIGNALS:
        signal.signal(number, handler)
