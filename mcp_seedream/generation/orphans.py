"""Tasks whose caller went away: the same call, made again, gets them instead of paying for another.

A client that gives up after 45 seconds and tries again would otherwise be billed twice. Two identical calls that
are both alive are two pictures: that is what an agent asks for when it wants variations.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import time
from typing import TypeVar

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from mcp_seedream.catalog.fingerprint import RequestId, request_name
from mcp_seedream.core.errors import SeedreamError, SubmissionUncertain
from mcp_seedream.core.shutdown import Shutdown
from mcp_seedream.generation.journal import Journal, Orphan
from mcp_seedream.generation.peers import Found, Peers
from mcp_seedream.generation.watch import Watch
from mcp_seedream.upstream.error_mapping import UNCERTAIN

logger = logging.getLogger(__name__)

T = TypeVar("T")
SECONDS = 600
"""How long an orphan waits for its call to come again."""
_MOST = 10_000
_NEWS = 0.25  # seconds for a connection that is closed to be noticed


class Orphans:
    """The orphans of a process, with a journal those of the servers before it, and with peers those of its replicas.

    Args:
        journal: Where they are kept; None: in memory.
        peers: Other processes of the same server.
        seconds: For how long.
        shutdown: Once it has begun, nobody may be there to hear an answer.
    """

    def __init__(
        self,
        journal: Journal | None = None,
        peers: Peers | None = None,
        *,
        seconds: float = SECONDS,
        shutdown: Shutdown | None = None,
    ) -> None:
        self._journal = journal
        self._peers = peers
        self._shutdown = shutdown or Shutdown()
        self._seconds = seconds
        self._left: OrderedDict[str, list[Orphan]] = OrderedDict()
        self._expected: dict[str, list[Watch]] = {}
        self._alive: Counter[str] = Counter()
        self._asked: dict[tuple[str, RequestId], list[Watch]] = {}

    @property
    def outlast(self) -> bool:
        """The server that comes next knows of them."""
        return self._journal is not None or self._peers is not None

    @asynccontextmanager
    async def watching(
        self, asked: tuple[str, RequestId] | None = None, *, fetched_later: bool = False
    ) -> AsyncIterator[Watch]:
        """Watch over a call: if it does not come to its end, or nobody is there to hear it, the task is an orphan.

        Args:
            asked: The caller's token and the request's id, by which `given_up` finds it.
            fetched_later: Its answer is fetched later: `answered` says that it was, and `abandon` that it may never be.
        """
        watch = Watch(self, fetched_later)
        if asked:
            watch.request = request_name(asked)
            self._asked.setdefault(asked, []).append(watch)
        try:
            try:
                yield watch
            except SubmissionUncertain:
                watch.uncertain = True
                await checkpoint_if_cancelled()
                raise
            await checkpoint_if_cancelled()
        except SubmissionUncertain:
            watch.unanswered = self._shutdown.requested.is_set()
            raise  # the caller hears it, and decides
        except BaseException as error:
            watch.unanswered = True
            watch.fetched_later = False  # an error is told, not fetched: its task is left, whoever hears it
            watch.uncertain &= not isinstance(error, SeedreamError)  # a refusal leaves no doubt
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await self._settle(watch)
                await self._come(watch)
                if self._peers and watch.key:
                    await self._peers.end(watch.key)  # now that it is left: else the same call could come in between
            self._no_longer_expected(watch)
            if asked:
                _remove(self._asked, asked, watch)
            if watch.key:
                self._alive[watch.key] -= 1
                if not self._alive[watch.key]:
                    del self._alive[watch.key]
            watch.settled.set()

    async def _settle(self, watch: Watch) -> None:
        """Leave what the call had, if nobody heard its answer, and nothing if somebody did."""
        if self._peers and watch.key and not await self._peers.answered(watch.request, watch.name):
            watch.unanswered = True  # said another process, which has left the task if there was one
            watch.expected = watch.expected or watch.task is None
            watch.abandoned = watch.abandoned or watch.task is not None
        if orphan := watch.orphan:
            await self._leave(watch, orphan)
            return
        if self._journal:
            await self._journal.settled(watch.doubt)
        if not watch.fetched_later:
            await self.answered(watch)

    async def answered(self, watch: Watch) -> None:
        """Its caller has what the call came to: the same call is another one from now on."""
        if watch.abandoned and watch.task:
            there = [orphan for orphan in self._left.pop(watch.key, []) if orphan.id != watch.task.id]
            if there:
                self._left[watch.key] = there
            if self._peers:
                await self._peers.fetched(watch.key, watch.task.id)
        if self._journal and watch.task and watch.task.id:
            await self._journal.answered(watch.task.id)

    async def replaced(self, watch: Watch) -> bool:
        """Detach a refused task from its call; returns whether the call may submit another.

        A call whose caller has left may not: the same call, made again, may have adopted the task and submits itself.
        """
        if watch.unanswered:
            return False
        task, watch.task, watch.doubt, watch.uncertain = watch.task, None, None, False
        if self._peers and watch.key and not await self._peers.replaced(watch.key, watch.request, watch.name):
            watch.task, watch.unanswered, watch.abandoned = task, True, True  # another process has left it
        elif self._journal and task:
            await self._journal.answered(task.id)
        return not watch.unanswered

    async def given_up(self, caller: str, request_id: RequestId) -> None:
        """A caller says that it waits no longer: whoever makes the same call gets the task.

        The call itself goes on, since ids are small numbers, and another client of the same caller may mean its own.
        """
        asked = (caller, request_id)
        left = await self._peers.give_up(request_name(asked)) if self._peers else frozenset()
        for watch in list(self._asked.get(asked, [])):
            watch.unanswered = True
            if watch.task and watch.task.id in left:
                watch.abandoned = True
            elif watch.task:
                await self.abandon(watch)
            elif watch.key:
                watch.expected = self._peers is not None  # they heard of it just now
                await self.expect(watch)

    async def accepted(self, watch: Watch) -> None:
        """A call has a task: other processes can leave it for its caller."""
        if self._peers and watch.task and watch.task.id and watch.key and not watch.abandoned:
            asked = await self._peers.accepted(watch.key, watch.request, watch.name, watch.task)
            if not asked:
                watch.expected = True
                await self.abandon(watch)
                await self._come(watch)

    async def abandon(self, watch: Watch) -> None:
        """Its caller may never fetch the answer: whoever makes the same call gets the task."""
        watch.unanswered = True
        if orphan := watch.orphan:
            await self._leave(watch, orphan)

    async def doubt(self, key: str) -> int | None:
        """Where it is written down that a call is sent."""
        return await self._journal.sending(key) if self._journal else None

    async def expect(self, watch: Watch) -> None:
        """A caller left while its request is under way: there will be an orphan."""
        self._expected.setdefault(watch.key, []).append(watch)
        if self._peers and not watch.expected:
            watch.expected = True
            await self._peers.expect(watch.key)

    async def _come(self, watch: Watch) -> None:
        """What others were told to expect is left now, or will not be."""
        if self._peers and watch.expected:
            watch.expected = False
            await self._peers.come(watch.key)

    async def adopt(self, key: str, watch: Watch) -> Orphan | None:
        """The first orphan left under a key in time, or the one that will be; nobody else gets it.

        Args:
            key: The call's identity.
            watch: Of the call that would adopt; it is alive under this key from now on.

        Raises:
            SubmissionUncertain: What was left is a call that may have been accepted; it is told once.
        """
        found = await self._left_under(key)
        if found.orphan is None and found.alive:
            # It may be over for its caller, whose new call can be here sooner than the news that the old one is gone.
            await anyio.sleep(_NEWS)
            found = await self._left_under(key)
        while found.orphan is None and found.coming and not self._shutdown.requested.is_set():
            await anyio.sleep(_NEWS)
            found = await self._left_under(key)
        orphan = found.orphan
        watch.key = key
        self._alive[key] += 1
        if self._peers:
            await self._peers.begin(key, watch.request, watch.name)
        if orphan is None and (before := next(iter(self._expected.get(key, [])), None)):
            self._no_longer_expected(before)
            try:
                await before.settled.wait()
            except BaseException:
                if not before.settled.is_set():
                    self._expected.setdefault(key, []).append(before)
                raise
            orphan = (await self._left_under(key)).orphan
        if orphan and not orphan.id:
            ago = time() - orphan.left_at
            raise SubmissionUncertain(f"The same call was broken off {ago:.0f} s ago, and its answer lost. {UNCERTAIN}")
        return orphan

    async def _left_under(self, key: str) -> Found:
        since = time() - self._seconds
        there = [orphan for orphan in self._left.pop(key, []) if orphan.left_at >= since]
        if there[1:]:
            self._left[key] = there[1:]
        alive = self._alive[key] > 0
        if there:
            return Found(there[0], alive)
        if self._journal and (orphan := await self._journal.adopt(key, since)):
            return Found(orphan, alive)
        if self._peers:
            found = await self._peers.take(key)
            return found._replace(alive=found.alive or alive)
        return Found(None, alive)

    async def _leave(self, watch: Watch, orphan: Orphan) -> None:
        if watch.abandoned:
            return
        watch.abandoned = True
        logger.info("%s was left by its caller", f"task {orphan.id}" if orphan.id else "a call of uncertain fate")
        if self._journal and await self._journal.leave(watch.key, orphan, watch.doubt):
            return
        if self._peers and await self._peers.leave(watch.key, orphan):
            return
        self._left.setdefault(watch.key, []).append(orphan)
        self._left.move_to_end(watch.key)
        while len(self._left) > _MOST:
            self._left.popitem(last=False)

    def _no_longer_expected(self, watch: Watch) -> None:
        _remove(self._expected, watch.key, watch)


def _remove(watches: dict[T, list[Watch]], key: T, watch: Watch) -> None:
    there = watches.get(key, [])
    if watch in there:
        there.remove(watch)
    if not there:
        watches.pop(key, None)
