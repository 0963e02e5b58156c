"""Makes sure that a paid call is neither lost nor paid for twice: each tool call holds an attempt until it is over.

A client that gives up and repeats its call gets the task of the first call: at once if the client is known to have
left, and otherwise, since many clients time out in silence, once the first call is older than three seconds. Two
identical calls within three seconds are two pictures: agents ask for variations that way.

`attempt_store` has the states of an attempt, `claims` what an identical call does in each of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import time
from typing import Self

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from mcp_seedream.core.shutdown import Shutdown
from mcp_seedream.generation.attempt_store import AttemptStore, FailoverAttempts
from mcp_seedream.generation.call_attempt import CallAttempt, Owner
from mcp_seedream.generation.claims import Timing

RequestId = int | str | None


class Attempts:
    """The attempts of this process.

    Args:
        shared: A store that other processes use too; None: the memory of this process.
        shutdown: Once requested, callers may not receive their answers.
        timing: See `claims.Timing`.
        clock: Unix seconds.
    """

    def __init__(
        self,
        shared: AttemptStore | None = None,
        *,
        shutdown: Shutdown | None = None,
        timing: Timing | None = None,
        clock: Callable[[], float] = time,
    ) -> None:
        self.outlast_process = shared is not None
        self._calls: set[CallAttempt] = set()
        self._store = FailoverAttempts(shared)
        self._owner = Owner(self._store, shutdown or Shutdown(), timing or Timing(), clock)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Self]:
        """Renew the lease of this process while the context lasts, and release it at the end."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._renew_lease)
            try:
                yield self
            finally:
                group.cancel_scope.cancel()
                if self._owner.has_lease:  # a server that made nothing creates no journal
                    with anyio.CancelScope(shield=True):
                        await self._store.write_again()
                        await self._store.renew(self._owner.id, 0)

    async def _renew_lease(self) -> None:
        while True:
            await anyio.sleep(self._owner.timing.renewal)
            if self._owner.open_calls:
                await self._store.renew(self._owner.id, self._owner.timing.lease)
            await self._store.write_again()

    @asynccontextmanager
    async def attempt(
        self, caller: str = "", request_id: RequestId = None, *, deliver_later: bool = False
    ) -> AsyncIterator[CallAttempt]:
        """Hold the attempt of one tool call, from its checks to its result.

        Args:
            caller: The caller's token.
            request_id: The id of the JSON-RPC request.
            deliver_later: The client fetches the result later, and `CallAttempt.delivered` is called then.
        """
        attempt = CallAttempt(self._owner, _request_hash(caller, request_id), deliver_later=deliver_later)
        failure: BaseException | None = None
        self._calls.add(attempt)
        try:
            try:
                yield attempt
            finally:
                await checkpoint_if_cancelled()
        except BaseException as error:
            failure = error
            raise
        finally:
            self._calls.discard(attempt)
            with anyio.CancelScope(shield=True):
                await attempt.settle(failure)

    async def cancel(self, caller: str, request_id: RequestId) -> None:
        """Handle a client's cancellation notice: the call goes on, but an identical call may claim its task.

        Request ids are small numbers, so several clients with one token may use the same one. A notice that may mean
        more than one attempt abandons none of them; an identical call joins at once, whichever it was.
        """
        request = _request_hash(caller, request_id)
        found = [stored.attempt for stored in await self._store.find(request)]
        waiting = [attempt for attempt in found if attempt.request == request and attempt.left_at is None]
        starting = [call for call in self._calls if call.waits_to_start(request)]
        is_clear = len(waiting) + len(starting) == 1
        for attempt in waiting:
            await self._store.mark_left(attempt, self._owner.clock() if is_clear else None)
        for call in starting:
            call.caller_left |= is_clear


def _request_hash(caller: str, request_id: RequestId) -> str:
    return hashlib.sha256(json.dumps([caller, request_id]).encode()).hexdigest()
