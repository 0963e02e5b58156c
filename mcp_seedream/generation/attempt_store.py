"""Attempts as they are stored, the protocol of their stores, and the store in memory.

An attempt is one paid call, from before it is sent until its caller has the result:

    | from              | to        | when                                                          |
    |-------------------|-----------|---------------------------------------------------------------|
    |                   | QUEUED    | the call is about to be sent                                  |
    | QUEUED            | SENDING   | the client has a connection and writes the request            |
    | SENDING           | QUEUED    | the upstream surely did not accept it, and it is tried again  |
    | SENDING, QUEUED   | ACCEPTED  | the upstream answered with a task                             |
    | SENDING           | UNCERTAIN | the answer was lost                                           |
    | SENDING, QUEUED   | WITHDRAWN | it was refused, or never sent                                 |
    | ACCEPTED          | QUEUED    | the upstream refused the accepted task, and another is sent   |
    | ACCEPTED          | DELIVERED | the caller has the result                                     |
    | ACCEPTED          | ABANDONED | the caller left; an identical call claims the task            |
    | ABANDONED         | ACCEPTED  | an identical call claimed it                                  |

The call moves its own attempt. Two others do: an identical call, which claims it, and a cancellation notice, which
sets `left_at`. DELIVERED and WITHDRAWN attempts are removed, and so is an UNCERTAIN one once an identical call was
told of it.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal, Protocol

from mcp_seedream.core.errors import StoreUnavailable

MAX_ABANDONED = 10_000
"""Attempts that the store in memory keeps for callers that left."""


class State(StrEnum):
    """The state of an attempt; see the table above."""

    QUEUED = "queued"
    SENDING = "sending"
    ACCEPTED = "accepted"
    DELIVERED = "delivered"
    ABANDONED = "abandoned"
    UNCERTAIN = "uncertain"
    WITHDRAWN = "withdrawn"


Outcome = Literal["saved", "left", "claimed", "missing"]
"""Of a write: saved; saved, and the caller has left; not saved, since another call holds the attempt, or it is gone."""


@dataclass(slots=True)
class Attempt:
    """One attempt.

    Attributes:
        id: A random id.
        call: The fingerprint of the call: identical calls of one caller have the same.
        request: A hash of the caller and the JSON-RPC request id, by which a cancellation notice finds it.
        holder: A random id of the tool call that holds it; a claim changes it.
        owner: The random id of the process of the holder.
        opened_at: Unix seconds at which the first call began.
        held_at: Unix seconds at which the holder began.
        left_at: Unix seconds at which the caller left; None: it waits, as far as is known.
        may_have_left: A notice may have meant this attempt or another one.
    """

    id: str
    call: str
    request: str
    holder: str
    owner: str
    opened_at: float
    held_at: float
    state: State = State.QUEUED
    task_id: str = ""
    model: str = ""
    left_at: float | None = None
    may_have_left: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """An attempt as a store has it.

    `lease` changes whenever the owner renews its lease; None: the lease expired, so the owner is gone.
    """

    attempt: Attempt
    lease: str | None


class AttemptStore(Protocol):
    """Keeps attempts. Every method raises `StoreUnavailable` if the store can't be used."""

    async def open(self, attempt: Attempt) -> None:
        """Add an attempt, and renew the lease of its owner."""

    async def find(self, name: str) -> list[Stored]:
        """The attempts whose call or request has this hash."""

    async def advance(self, attempt: Attempt, before: Attempt | None = None) -> Outcome:
        """Write an attempt, unless another call holds it. A stored `left_at` stays if the new one is None.

        Args:
            attempt: The attempt as it should be.
            before: The attempt as another call held it, which this one claims.
        """

    async def close(self, attempt: Attempt, *, only_if_heard: bool = False) -> Outcome:
        """Remove an attempt, unless another call holds it.

        Args:
            attempt: The attempt.
            only_if_heard: Keep it if its caller has left.
        """

    async def renew(self, owner: str) -> None:
        """Renew the lease of a process."""

    async def release(self, owner: str) -> None:
        """End the lease of a process: others may claim what it holds."""


class MemoryAttempts:
    """The attempts of one process, in its memory. The owner is alive by definition."""

    def __init__(self) -> None:
        self._attempts: dict[str, Attempt] = {}
        self._abandoned: OrderedDict[str, None] = OrderedDict()
        self._by_name: defaultdict[str, set[str]] = defaultdict(set)

    async def open(self, attempt: Attempt) -> None:
        self._attempts[attempt.id] = replace(attempt)
        for name in (attempt.call, attempt.request):
            self._by_name[name].add(attempt.id)
        if attempt.left_at is not None:
            self._abandoned[attempt.id] = None
            while len(self._abandoned) > MAX_ABANDONED:
                self._remove(self._attempts[next(iter(self._abandoned))])

    async def find(self, name: str) -> list[Stored]:
        return [Stored(replace(self._attempts[id_]), "alive") for id_ in self._by_name.get(name, ())]

    async def advance(self, attempt: Attempt, before: Attempt | None = None) -> Outcome:
        stored = self._attempts.get(attempt.id)
        if stored is None:
            return "missing"
        if stored.holder != (before or attempt).holder:
            return "claimed"
        left_at = attempt.left_at if before else attempt.left_at or stored.left_at
        self._remove(stored)
        await self.open(replace(attempt, left_at=left_at))
        return "saved" if left_at is None else "left"

    async def close(self, attempt: Attempt, *, only_if_heard: bool = False) -> Outcome:
        stored = self._attempts.get(attempt.id)
        if stored is None:
            return "missing"
        if stored.holder != attempt.holder:
            return "claimed"
        if only_if_heard and stored.left_at is not None:
            return "left"
        self._remove(stored)
        return "saved"

    async def renew(self, owner: str) -> None:
        """Nothing to do."""

    async def release(self, owner: str) -> None:
        """Nothing to do."""

    def __contains__(self, attempt: Attempt) -> bool:
        return attempt.id in self._attempts

    def _remove(self, attempt: Attempt) -> None:
        del self._attempts[attempt.id]
        self._abandoned.pop(attempt.id, None)
        for name in (attempt.call, attempt.request):
            self._by_name[name].discard(attempt.id)
            if not self._by_name[name]:
                del self._by_name[name]


class FailoverAttempts:
    """A shared store, with the memory of this process for as long as that store can't be used. Raises nothing.

    Args:
        shared: The store that other processes use too; None: memory alone.
    """

    def __init__(self, shared: AttemptStore | None) -> None:
        self._shared = shared
        self._memory = MemoryAttempts()

    async def open(self, attempt: Attempt) -> None:
        try:
            await (self._shared or self._memory).open(attempt)
        except StoreUnavailable:
            await self._memory.open(attempt)

    async def find(self, name: str) -> list[Stored]:
        found = await self._memory.find(name)
        try:
            return [*found, *await self._shared.find(name)] if self._shared else found
        except StoreUnavailable:
            return found

    async def advance(self, attempt: Attempt, before: Attempt | None = None) -> Outcome:
        if self._shared is None or attempt in self._memory:
            return await self._memory.advance(attempt, before)
        try:
            return await self._shared.advance(attempt, before)
        except StoreUnavailable:
            await self._memory.open(attempt)
            return "missing"

    async def close(self, attempt: Attempt, *, only_if_heard: bool = False) -> Outcome:
        if self._shared is None or attempt in self._memory:
            return await self._memory.close(attempt, only_if_heard=only_if_heard)
        try:
            return await self._shared.close(attempt, only_if_heard=only_if_heard)
        except StoreUnavailable:
            return "missing"

    async def renew(self, owner: str) -> None:
        with suppress(StoreUnavailable):
            await (self._shared or self._memory).renew(owner)

    async def release(self, owner: str) -> None:
        with suppress(StoreUnavailable):
            await (self._shared or self._memory).release(owner)
