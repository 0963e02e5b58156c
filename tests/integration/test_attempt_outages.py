"""Attempts while the shared store can't be used, and while it is slow: nothing is lost, and nothing is paid twice."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import anyio
import pytest

from mcp_seedream.core.errors import CallInProgress, StoreUnavailable
from mcp_seedream.generation.attempt_store import (
    MAX_ABANDONED,
    Attempt,
    FailoverAttempts,
    MemoryAttempts,
    Outcome,
    State,
    Stored,
)
from mcp_seedream.generation.attempts import Attempts
from mcp_seedream.generation.claims import Timing
from mcp_seedream.upstream.types import Task
from tests.support.attempts import CALL, OTHER, TASK, Clock, begun

pytestmark = pytest.mark.anyio
TIMING = Timing(poll=0.01, lease=5, renewal=0.01)
ALICE: dict[str, Any] = {"caller": "alice", "request_id": 1}


class Shared(MemoryAttempts):
    """A store of several processes, with the owners whose lease is over."""

    def __init__(self) -> None:
        super().__init__()
        self.gone: set[str] = set()


class Link:
    """One process's connection to the shared store, which can be broken or slow."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._renewals = itertools.count()
        self.is_broken = False
        self.seconds_to = self.seconds_back = 0.0

    async def find(self, name: str) -> list[Stored]:
        await self._travel(self.seconds_to)
        found = await self._shared.find(name)
        await self._travel(self.seconds_back)
        return [self._with_lease(stored) for stored in found]

    async def save(self, attempt: Attempt, before: Attempt | None = None) -> Outcome:
        await self._travel(self.seconds_to)
        return await self._shared.save(attempt, before)

    async def mark_left(self, attempt: Attempt, left_at: float | None) -> None:
        await self._travel(self.seconds_to)
        await self._shared.mark_left(attempt, left_at)

    async def renew(self, owner: str, seconds: float) -> None:
        await self._travel(self.seconds_to)
        (self._shared.gone.discard if seconds else self._shared.gone.add)(owner)

    def _with_lease(self, stored: Stored) -> Stored:
        is_gone = stored.attempt.owner in self._shared.gone
        return replace(stored, lease=None if is_gone else str(next(self._renewals)))

    async def _travel(self, seconds: float) -> None:
        if seconds:
            await anyio.sleep(seconds)
        if self.is_broken:
            raise StoreUnavailable("away")


class World:
    """Two processes, `a` and `b`, and their links to one store."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = Shared()
        self.link_a, self.link_b = Link(self.store), Link(self.store)
        self.a, self.b = self.process(self.link_a), self.process(self.link_b)

    def process(self, link: Link) -> Attempts:
        return Attempts(link, timing=TIMING, clock=self.clock)

    async def claimed(self) -> str | None:
        """The task that an identical call of the second process gets."""
        async with self.b.attempt() as attempt:
            claim = await attempt.claim(CALL, 0)
        return claim.task_id if claim else None


@pytest.fixture
def world() -> World:
    return World()


async def write_missed(process: Attempts) -> None:
    assert process._failover
    await process._failover.write_missed()


async def test_calls_that_go_on_are_seen_again_after_an_outage(world: World) -> None:
    """One that ended in the outage leaves nothing; a notice in the outage is heard."""
    async with world.a.open(), begun(world.a, State.QUEUED, **ALICE) as going_on:
        async with world.a.attempt() as ended:
            assert await ended.claim(OTHER, 0) is None
            world.link_a.is_broken = True
            await ended.accepted(Task("t2"))
        await going_on.accepted(TASK)
        await world.a.cancel("alice", 1)
        world.link_a.is_broken = False
        while world.a._failover and world.a._failover.is_behind:  # noqa: ASYNC110  (it is written in the background)
            await anyio.sleep(0.01)
        assert await world.store.find(OTHER) == []
        [found] = await world.store.find(CALL)
        assert (found.attempt.task_id, found.attempt.state) == ("t1", State.ABANDONED)
        assert await world.claimed() == "t1"
    assert await world.store.find(CALL) == []


async def test_a_result_for_a_caller_that_left_is_not_lost_in_an_outage(world: World) -> None:
    """Another process stored the notice; this one could not read it when its call ended."""
    async with begun(world.a, State.ACCEPTED, **ALICE):
        await world.b.cancel("alice", 1)
        world.link_a.is_broken = True
    world.link_a.is_broken = False
    await write_missed(world.a)
    assert await world.claimed() == "t1"


async def test_a_claim_in_an_outage_is_written_after_it(world: World) -> None:
    """The caller that claimed the task leaves, too."""
    async with begun(world.a, State.SENDING) as first:
        world.link_a.is_broken = True
        await first.accepted(TASK)
        await first.abandon()
        async with anyio.create_task_group() as group, world.a.attempt() as second:
            assert await second.claim(CALL, 0)
            world.link_a.is_broken = False
            await write_missed(world.a)
            group.cancel_scope.cancel()
    world.store.gone.add(world.a._owner.id)
    assert await world.claimed() == "t1"


async def test_a_call_in_the_place_of_another_is_written_after_an_outage(world: World) -> None:
    """It replaces a call that a process left queued; the write fails, and a third process must see it."""
    async with begun(world.a, State.QUEUED):
        world.store.gone.add(world.a._owner.id)
        async with world.b.attempt() as second:
            find = world.link_b.find

            async def find_and_break(name: str) -> list[Stored]:
                found = await find(name)
                world.link_b.is_broken = True
                return found

            world.link_b.find = find_and_break  # type: ignore[method-assign]
            assert await second.claim(CALL, 0) is None
            world.link_b.is_broken, world.link_b.find = False, find  # type: ignore[method-assign]
            await second.sending()
            await write_missed(world.b)
            await second.accepted(TASK)
            world.clock.now += 5
            async with world.process(Link(world.store)).attempt() as third:
                claim = await third.claim(CALL, 0)
                assert claim
                assert claim.joined


async def test_a_notice_during_the_first_write_is_heard(world: World) -> None:
    """The repeated call that arrives next waits for the task instead of being a variation."""
    world.link_a.seconds_to = 0.05
    async with anyio.create_task_group() as group, world.a.attempt("alice", 1) as attempt:

        async def notice() -> None:
            await anyio.sleep(0.03)
            await world.a.cancel("alice", 1)

        group.start_soon(notice)
        assert await attempt.claim(CALL, 0) is None
        await anyio.sleep(0.1)
        await attempt.sending()
        async with world.b.attempt("alice", 2) as again:
            with pytest.raises(CallInProgress):
                await again.claim(CALL, 0)


async def test_a_notice_that_looks_before_the_first_write_is_heard(world: World) -> None:
    """It finds nothing in the store; the call itself is known."""
    async with anyio.create_task_group() as group, world.a.attempt("alice", 1) as attempt:
        world.link_a.seconds_back = 0.05
        group.start_soon(world.a.cancel, "alice", 1)
        await anyio.sleep(0.01)
        world.link_a.seconds_back = 0
        assert await attempt.claim(CALL, 0) is None
        await anyio.sleep(0.1)
        await attempt.accepted(TASK)
    assert await world.claimed() == "t1"


async def test_a_notice_in_an_outage_is_heard(world: World) -> None:
    """By the process that has the call, which the store had before."""
    async with begun(world.a, State.ACCEPTED, **ALICE):
        world.link_a.is_broken = True
        await world.a.cancel("alice", 1)
        world.link_a.is_broken = False
    async with world.a.attempt() as again:
        assert await again.claim(CALL, 0)


async def test_a_delivery_while_the_client_is_presumed_gone_is_written(world: World) -> None:
    """The client asks for its result at the moment at which its attempt is abandoned."""
    async with world.a.attempt(deliver_later=True) as attempt:
        assert await attempt.claim(CALL, 0) is None
        await attempt.accepted(TASK)
    world.link_a.seconds_to = 0.05
    async with anyio.create_task_group() as group:
        group.start_soon(attempt.abandon)
        await anyio.sleep(0.01)
        await attempt.delivered()
    assert await world.claimed() is None


async def test_an_attempt_that_moves_between_the_stores_is_found(world: World) -> None:
    """A write fails while an identical call looks."""
    claims = []
    async with anyio.create_task_group() as group, begun(world.a, State.SENDING) as attempt:
        world.clock.now += 10
        world.link_a.seconds_back = 0.05

        async def again() -> None:
            async with world.a.attempt() as second:
                claims.append(await second.claim(CALL, 1))

        group.start_soon(again)
        await anyio.sleep(0.01)
        world.link_a.seconds_back = 0
        world.link_a.is_broken = True
        await attempt.accepted(TASK)
        world.link_a.is_broken = False
        await anyio.sleep(0.2)
    assert claims[0]


async def test_an_outage_does_not_fill_the_memory() -> None:
    """What could not be written is bounded, too."""
    link = Link(Shared())
    link.is_broken = True
    store = FailoverAttempts(link)
    for n in range(MAX_ABANDONED + 50):
        opened = Attempt(str(n), f"call {n}", "", "h", "o", 0, 0)
        await store.save(opened)
        await store.save(replace(opened, state=State.WITHDRAWN))
    assert len(store._missed) == MAX_ABANDONED
    assert store._memory._attempts == {}
