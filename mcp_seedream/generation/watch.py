"""One call, watched from before it is sent until its answer is on its way: what is left of it if nobody hears that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import time
from typing import Protocol
from uuid import uuid4

import anyio

from mcp_seedream.core.errors import SeedreamError, SubmissionUncertain
from mcp_seedream.generation.journal import Orphan
from mcp_seedream.upstream.types import Task


class Keeper(Protocol):
    """Who is told how a call goes: `orphans.Orphans`."""

    async def doubt(self, key: str) -> int | None: ...

    async def accepted(self, watch: Watch) -> None: ...

    async def expect(self, watch: Watch) -> None: ...


@dataclass(slots=True, eq=False)
class Watch:
    """One call, from before it is sent until its answer is on its way.

    `unanswered` is set where the caller may not have got its answer although the call came to an end, `uncertain`
    where nobody knows whether a task was accepted, `doubt` is where the journal has that. `fetched_later` is a call
    whose answer, if it comes to one, its client fetches: whoever keeps it says whether it was. `abandoned` is set once
    there is an orphan, `expected` while other processes wait for one. These know it by `request` and `name`.
    """

    orphans: Keeper
    fetched_later: bool = False
    request: str = ""
    name: str = field(default_factory=lambda: uuid4().hex)
    key: str = ""
    task: Task | None = None
    unanswered: bool = False
    uncertain: bool = False
    doubt: int | None = None
    abandoned: bool = False
    expected: bool = False
    settled: anyio.Event = field(default_factory=anyio.Event)

    @property
    def orphan(self) -> Orphan | None:
        """What is left when nobody hears the answer: the task, or the doubt whether there is one."""
        if not self.unanswered or not self.key:
            return None
        if self.task and self.task.id:
            return Orphan(self.task.id, self.task.model or "", time())
        return Orphan("", "", time()) if self.uncertain else None

    async def accepted(self, task: Task) -> None:
        """It has a task from here on."""
        self.task = task
        await self.orphans.accepted(self)

    async def doubted(self) -> None:
        """It is about to be sent: from here on there may be a task that nobody knows of."""
        self.doubt = self.doubt or await self.orphans.doubt(self.key)

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """While a request is under way that is finished although its caller leaves: the same call waits for it."""

        async def notice() -> None:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                if not done:
                    with anyio.CancelScope(shield=True):
                        await self.orphans.expect(self)
                raise

        await self.doubted()
        done, failure = False, None
        async with anyio.create_task_group() as group:
            group.start_soon(notice)
            try:
                yield
            except Exception as error:  # noqa: BLE001  (raised below: a group would wrap it)
                failure = error
                # Whatever else went wrong after it was sent, nobody knows whether there is a task.
                self.uncertain = isinstance(error, SubmissionUncertain) or not isinstance(error, SeedreamError)
            done = True
            group.cancel_scope.cancel()
        if failure:
            raise failure
