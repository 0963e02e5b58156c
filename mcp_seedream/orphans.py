"""Tasks whose caller went away: the same call, made again, gets them instead of paying for another.

A client that gives up after 45 seconds and tries again would otherwise be billed twice. Two identical calls that
are both alive are two pictures: that is what an agent asks for when it wants variations.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import time

import anyio

from mcp_seedream.arguments import ImageCall
from mcp_seedream.journal import Journal, Orphan
from mcp_seedream.wire import Task

logger = logging.getLogger(__name__)

SECONDS = 600
"""How long an orphan waits for its call to come again."""
_MOST = 10_000


def identity(call: ImageCall, token: str) -> str:
    """Who asks, and for what, as one word: how long to wait and where to save make no difference."""
    wish = call.wish
    asked = [token, wish.operation, wish.prompt, wish.size, call.model, sorted(wish.options.items())]
    digest = hashlib.sha256(json.dumps(asked).encode())
    for image in wish.images:
        digest.update(hashlib.sha256(image.encode()).digest())
    return digest.hexdigest()


@dataclass(slots=True)
class Watch:
    """One call and the task it has, from the moment that the upstream accepts it.

    `unanswered` is set where the caller may not have got its answer although the call came to an end.
    """

    key: str = ""
    task: Task | None = None
    unanswered: bool = False


class Orphans:
    """The orphans of a process, and with a journal those of the servers before it.

    Args:
        journal: Where they are kept; None: in memory.
        seconds: For how long.
    """

    def __init__(self, journal: Journal | None = None, *, seconds: float = SECONDS) -> None:
        self._journal = journal
        self._seconds = seconds
        self._left: OrderedDict[str, list[Orphan]] = OrderedDict()

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[Watch]:
        """Watch over a call: if it does not come to its end, the task it had is an orphan."""
        watch = Watch()
        try:
            yield watch
        except BaseException:
            watch.unanswered = True
            raise
        finally:
            if watch.task and watch.task.id and watch.key and watch.unanswered:
                with anyio.CancelScope(shield=True):
                    await self._leave(watch.key, Orphan(watch.task.id, watch.task.model or "", time()))

    async def adopt(self, key: str) -> Orphan | None:
        """The first task left under a key in time; nobody else gets it."""
        since = time() - self._seconds
        if self._journal and self._journal.works:
            return await self._journal.adopt(key, since)
        there = [orphan for orphan in self._left.pop(key, []) if orphan.left_at >= since]
        if there[1:]:
            self._left[key] = there[1:]
        return there[0] if there else None

    async def _leave(self, key: str, orphan: Orphan) -> None:
        logger.info("task %s was left by its caller", orphan.id)
        if self._journal and self._journal.works:
            await self._journal.leave(key, orphan)
            return
        self._left.setdefault(key, []).append(orphan)
        self._left.move_to_end(key)
        while len(self._left) > _MOST:
            self._left.popitem(last=False)
