"""Attempts as they are stored, the protocol of their stores, and the store in memory.

An attempt is one paid call, from before it is sent until its caller has the result:

    | from              | to        | when                                                          |
    |-------------------|-----------|---------------------------------------------------------------|
    |                   | QUEUED    | the call is about to be sent                                  |
    | QUEUED            | SENDING   | the client has a connection and writes the request            |
    | SENDING           | QUEUED    | the upstream did not accept it, and it is tried again         |
    | SENDING, QUEUED   | ACCEPTED  | the upstream returned a task                                  |
    | SENDING           | UNCERTAIN | the response was lost                                         |
    | SENDING, QUEUED   | WITHDRAWN | it was refused, or never sent                                 |
    | ACCEPTED          | QUEUED    | the upstream refused the accepted task, and another is sent   |
    | ACCEPTED          | DELIVERED | the caller has the result                                     |
    | ACCEPTED          | ABANDONED | the caller left; an identical call claims the task            |
    | ABANDONED         | ACCEPTED  | an identical call claimed it                                  |
    | UNCERTAIN         | DELIVERED | an identical call failed, and reported it                      |

Only the call that holds an attempt writes it; an identical call that claims it becomes its holder. A cancellation
notice marks that its caller left. DELIVERED and WITHDRAWN attempts are removed.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal, Protocol

from mcp_seedream.core.errors import StoreUnavailable

KEPT_SECONDS = 3600
"""How long shared stores keep an attempt: longer than any call and `claims.Timing.claimable`."""
MAX_ABANDONED = 10_000
"""Attempts that a process keeps for callers that left, and for a shared store that can't be used."""


class State(StrEnum):
    """The state of an attempt; see the table above."""

    QUEUED = "queued"
    SENDING = "sending"
    ACCEPTED = "accepted"
    DELIVERED = "delivered"
    ABANDONED = "abandoned"
    UNCERTAIN = "uncertain"
    WITHDRAWN = "withdrawn"


Outcome = Literal["saved", "left", "lost"]
"""Of a write: saved; saved, and the caller has left; not saved, since another call holds the attempt now."""


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
        left_at: Unix seconds at which the caller left; None if it still waits, or is not known to have left.
        may_have_left: Whether a cancellation notice may have been for this attempt or for another one.
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

    async def find(self, name: str) -> list[Stored]:
        """The attempts whose call or request has this hash."""

    async def save(self, attempt: Attempt, before: Attempt | None = None) -> Outcome:
        """Write an attempt, unless another call holds it, and renew the lease of its owner for `Timing.lease`.

        A departure that `mark_left` stored is kept, unless a claim clears it. A DELIVERED attempt is removed, unless
        its caller has left: then it is ABANDONED, or UNCERTAIN without a task. A WITHDRAWN one is always removed. A
        task is written even if an identical call has failed because the attempt was uncertain. A write may be repeated.

        Args:
            attempt: The attempt.
            before: The attempt before this write, if it must still be stored. For a claim, it has another holder.
        """

    async def mark_left(self, attempt: Attempt, left_at: float | None) -> None:
        """Store that the caller of an attempt left, and nothing else; ignored if another call holds it by now.

        Args:
            attempt: The attempt that `find` returned.
            left_at: Unix seconds; None: the caller may have left.
        """

    async def renew(self, owner: str, seconds: float) -> None:
        """Renew the lease of a process. 0 seconds end it: other processes may then claim its attempts."""


class MemoryAttempts:
    """The attempts of one process, in its memory. The owner is alive by definition."""

    def __init__(self) -> None:
        self._attempts: dict[str, Attempt] = {}
        self._by_name: defaultdict[str, set[str]] = defaultdict(set)
        self._abandoned: OrderedDict[str, None] = OrderedDict()

    async def find(self, name: str) -> list[Stored]:
        return [Stored(replace(self._attempts[id_]), "alive") for id_ in self._by_name.get(name, ())]

    async def save(self, attempt: Attempt, before: Attempt | None = None) -> Outcome:
        stored = self._attempts.get(attempt.id)
        if is_held_elsewhere(attempt, stored, before):
            return "lost"
        attempt = merged(attempt, stored, before)
        if stored:
            self._remove(stored)
        if not is_closed(attempt):
            self._add(attempt)
        return "saved" if attempt.left_at is None else "left"

    async def mark_left(self, attempt: Attempt, left_at: float | None) -> None:
        stored = self._attempts.get(attempt.id)
        if stored and stored.holder == attempt.holder:
            await self.save(with_departure(stored, left_at))

    async def renew(self, owner: str, seconds: float) -> None:
        pass

    def forget(self, id_: str) -> None:
        """Remove an attempt, if it is stored."""
        if stored := self._attempts.get(id_):
            self._remove(stored)

    def _add(self, attempt: Attempt) -> None:
        self._attempts[attempt.id] = attempt
        for name in (attempt.call, attempt.request):
            self._by_name[name].add(attempt.id)
        if attempt.left_at is not None:
            self._abandoned[attempt.id] = None
        if len(self._abandoned) > MAX_ABANDONED:
            self._remove(self._attempts[next(iter(self._abandoned))])

    def _remove(self, attempt: Attempt) -> None:
        del self._attempts[attempt.id]
        self._abandoned.pop(attempt.id, None)
        for name in (attempt.call, attempt.request):
            self._by_name[name].discard(attempt.id)
            if not self._by_name[name]:
                del self._by_name[name]


@dataclass(frozen=True, slots=True)
class _Missed:
    """An attempt, open or closed, whose write the shared store missed, and the holder that this store has."""

    attempt: Attempt
    known_holder: str


class FailoverAttempts:
    """A shared store, with the memory of this process while that store can't be used. Raises nothing.

    Args:
        shared: The store that other processes use too.
    """

    def __init__(self, shared: AttemptStore) -> None:
        self._shared = shared
        self._memory = MemoryAttempts()
        self._missed: OrderedDict[str, _Missed] = OrderedDict()

    @property
    def is_behind(self) -> bool:
        """Whether the shared store missed writes."""
        return bool(self._missed)

    async def find(self, name: str) -> list[Stored]:
        by_id = {stored.attempt.id: stored for stored in await self._memory.find(name)}
        with suppress(StoreUnavailable):
            shared = await self._shared.find(name)
            by_id |= {stored.attempt.id: stored for stored in shared if stored.attempt.id not in self._missed}
        # Attempts may have moved to the memory meanwhile.
        by_id |= {stored.attempt.id: stored for stored in await self._memory.find(name)}
        return list(by_id.values())

    async def save(self, attempt: Attempt, before: Attempt | None = None) -> Outcome:
        missed = self._missed.get(attempt.id)
        if missed is None:
            with suppress(StoreUnavailable):
                return await self._shared.save(attempt, before)
            known_holder = (before or attempt).holder
            before = None  # the claim may have been stored, and must not be paid for again
        else:
            known_holder = missed.known_holder
        outcome = await self._memory.save(attempt, before)
        if outcome != "lost":
            self._missed[attempt.id] = _Missed(replace(attempt), known_holder)
            if len(self._missed) > MAX_ABANDONED:
                self._forget(next(iter(self._missed)))
        return outcome

    async def mark_left(self, attempt: Attempt, left_at: float | None) -> None:
        await self._memory.mark_left(attempt, left_at)
        if (missed := self._missed.get(attempt.id)) is None:
            with suppress(StoreUnavailable):
                await self._shared.mark_left(attempt, left_at)
        elif missed.attempt.holder == attempt.holder:
            self._missed[attempt.id] = replace(missed, attempt=with_departure(missed.attempt, left_at))

    async def renew(self, owner: str, seconds: float) -> None:
        with suppress(StoreUnavailable):
            await self._shared.renew(owner, seconds)

    async def write_missed(self) -> None:
        """Write to the shared store what it missed, if it can be used again."""
        with suppress(StoreUnavailable):
            for id_, missed in list(self._missed.items()):
                attempt = missed.attempt
                if await self._shared.save(attempt) == "lost" and missed.known_holder != attempt.holder:
                    await self._shared.save(attempt, replace(attempt, holder=missed.known_holder))
                if self._missed.get(id_) is missed:  # otherwise it has changed meanwhile
                    self._forget(id_)

    def _forget(self, id_: str) -> None:
        del self._missed[id_]
        self._memory.forget(id_)


def is_held_elsewhere(attempt: Attempt, stored: Attempt | None, before: Attempt | None) -> bool:
    """Whether a write is refused: another call holds the attempt, or it was removed although it must exist."""
    if stored is None:
        return before is not None
    if stored.state is State.UNCERTAIN and attempt.task_id:
        return False
    return stored.holder not in (attempt.holder, (before or attempt).holder)


def merged(attempt: Attempt, stored: Attempt | None, before: Attempt | None) -> Attempt:
    """The attempt to store: with the stored departure of its caller, unless a claim clears it."""
    new = replace(attempt)
    if stored and (before or attempt).holder == attempt.holder:
        new.left_at = stored.left_at if attempt.left_at is None else attempt.left_at
        new.may_have_left |= stored.may_have_left
    if new.state is State.DELIVERED and new.left_at is not None:
        new.state = undelivered(new)
    return new


def undelivered(attempt: Attempt) -> State:
    """The state of an attempt whose result went to a caller that had left."""
    return State.ABANDONED if attempt.task_id else State.UNCERTAIN


def with_departure(attempt: Attempt, left_at: float | None) -> Attempt:
    """The attempt after `AttemptStore.mark_left`."""
    if left_at is None:
        return replace(attempt, may_have_left=True)
    return replace(attempt, left_at=left_at if attempt.left_at is None else attempt.left_at)


def is_closed(attempt: Attempt) -> bool:
    """Whether an attempt has ended, so that it is removed from the store."""
    return attempt.state in (State.WITHDRAWN, State.DELIVERED)
