"""Remembers the models and sizes that the upstream refused in the last hours, so that the next call does not try them.

Replicas share refusals in Redis (`redis_attempts.RedisAttempts`), servers on one machine in the journal. `doctor`
reads both.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from time import time
from typing import Protocol

from mcp_seedream.catalog.selection import Refusal
from mcp_seedream.core.events import Observer

logger = logging.getLogger(__name__)
SECONDS = 3 * 3600
"""How long a refusal is remembered, in seconds."""
_READ_INTERVAL = 5  # seconds between two reads of the store
_MAX_REFUSALS = 200  # callers can name any number of sizes
_MAX_TASKS = 5000


class RefusalStore(Protocol):
    """Stores the refusals that processes share, each with its expiry as a Unix time."""

    async def refusals(self) -> dict[Refusal, float]: ...

    async def remember(self, refusal: Refusal, until: float) -> None: ...


class RefusalMemory:
    """The refusals that this process knows of.

    Args:
        store: Shares them with other processes; None if they are not shared.
        observer: Notified of each refusal.
        clock: Unix time in seconds.
    """

    def __init__(
        self, store: RefusalStore | None = None, observer: Observer | None = None, *, clock: Callable[[], float] = time
    ) -> None:
        self._store = store
        self._observer = observer or Observer()
        self._clock = clock
        self._until: dict[Refusal, float] = {}
        self._sent: OrderedDict[str, Refusal] = OrderedDict()
        self._read_at = float("-inf")

    async def known(self) -> frozenset[Refusal]:
        """The refusals of the last hours."""
        now = self._clock()
        if self._store and now - self._read_at >= _READ_INTERVAL:
            self._read_at = now
            self._until |= await self._store.refusals()
        self._until = {refusal: until for refusal, until in self._until.items() if until > now}
        return frozenset(self._until)

    def sent(self, task_id: str, model_id: str, size: str | None) -> None:
        """Remember the model and size of an accepted task, since look-ups do not always return them."""
        self._sent[task_id] = (model_id, size)
        while len(self._sent) > _MAX_TASKS:
            self._sent.popitem(last=False)

    def sent_for(self, task_id: str) -> Refusal | None:
        """The model and size of a task; None if another process sent it."""
        return self._sent.get(task_id)

    async def add(self, refusal: Refusal) -> None:
        """Remember a refusal, and share it with the other processes."""
        model, size = refusal
        logger.warning("the upstream refused %s", f"size {size} for {model}" if size else model)
        self._observer.on_choice_refused(model, "size" if size else "model")
        if len(self._until) < _MAX_REFUSALS or refusal in self._until:
            self._until[refusal] = self._clock() + SECONDS
            if self._store:
                await self._store.remember(refusal, self._until[refusal])
