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
from mcp_seedream.generation.attempt_store import AttemptStore, FailoverAttempts, MemoryAttempts
from mcp_seedream.generation.call_attempt import CallAttempt, Owner
from mcp_seedream.generation.claims import Timing

RequestId = int | str | None


class Attempts:
    """The attempts of this process.

    Args:
        shared: A store that other processes use too; None for the memory of this process.
        shutdown: Once requested, callers may not receive their results.
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
        self._failover = FailoverAttempts(shared) if shared else None
        store = self._failover or MemoryAttempts()
        self._owner = Owner(store, shutdown or Shutdown(), timing or Timing(), clock)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Self]:
        """Renew the lease of this process while the context lasts, and release it at the end."""
        async with anyio.create_task_group() as group:
            if self._failover:
                group.start_soon(self._renew_lease, self._failover)
                group.start_soon(self._write_missed, self._failover)
            try:
                yield self
            finally:
                group.cancel_scope.cancel()
                if self._failover and self._owner.has_lease:  # a server that made nothing creates no journal
                    with anyio.CancelScope(shield=True):
                        await self._failover.write_missed()
                        await self._failover.renew(self._owner.id, 0)

    async def _renew_lease(self, store: FailoverAttempts) -> None:
        while True:
            await anyio.sleep(self._owner.timing.renewal)
            if self._owner.open_calls or store.is_behind:
                await store.renew(self._owner.id, self._owner.timing.lease)

    async def _write_missed(self, store: FailoverAttempts) -> None:
        """Write missed attempts. Separate from the renewal, which thousands of them must not delay."""
        while True:
            await anyio.sleep(self._owner.timing.renewal)
            await store.write_missed()

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
        more than one attempt abandons none of them; an identical call of either then joins at once.
        """
        request, store = _request_hash(caller, request_id), self._owner.store
        # The calls of this process first: one that is opened meanwhile is then seen here or there.
        own = {call.id: call for call in self._calls if call.request == request and not call.caller_left}
        attempts = [stored.attempt for stored in await store.find(request)]
        waiting = {each.holder: each for each in attempts if each.request == request and each.left_at is None}
        is_clear = len(own.keys() | waiting.keys()) == 1
        for holder, attempt in waiting.items():
            if not is_clear or holder not in own:
                await store.mark_left(attempt, self._owner.clock() if is_clear else None)
        for call in own.values():
            if is_clear and call in self._calls:
                await call.abandon()


def _request_hash(caller: str, request_id: RequestId) -> str:
    return hashlib.sha256(json.dumps([caller, request_id]).encode()).hexdigest()
