"""Attempts in every store: which call gets whose task, whatever becomes of callers and processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_seedream.core.errors import CallInProgress, SeedreamError, StoreUnavailable, SubmissionUncertain
from mcp_seedream.core.redis_client import connect
from mcp_seedream.generation.attempt_store import (
    MAX_ABANDONED,
    Attempt,
    AttemptStore,
    MemoryAttempts,
    State,
)
from mcp_seedream.generation.attempts import Attempts
from mcp_seedream.generation.call_attempt import Claim
from mcp_seedream.generation.claims import Timing
from mcp_seedream.generation.journal import Journal
from mcp_seedream.generation.redis_attempts import RedisAttempts
from mcp_seedream.generation.sqlite_attempts import SQLiteAttempts
from mcp_seedream.upstream.types import Task
from tests.support.attempts import CALL, OTHER, TASK, Clock, begun
from tests.support.services import free_port, redis_running

pytestmark = pytest.mark.anyio
TIMING = Timing(poll=0.01, lease=5, renewal=0.05)


@dataclass
class World:
    """Processes that share a store, and the time that they see."""

    clock: Clock
    new_store: Callable[[], AttemptStore] | None = None
    only: Attempts | None = None
    """The only process: the store in memory is not shared."""

    def process(self, timing: Timing = TIMING) -> Attempts:
        if self.only:
            return self.only
        assert self.new_store
        return Attempts(self.new_store(), timing=timing, clock=self.clock)


@pytest.fixture(params=["memory", "journal", "redis"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    clock = Clock()
    if request.param == "memory":
        yield World(clock, only=Attempts(timing=TIMING, clock=clock))
    elif request.param == "journal":
        yield World(clock, lambda: SQLiteAttempts(Journal(tmp_path / "tasks"), TIMING, clock=clock))
    else:
        url = request.getfixturevalue("redis_url")
        async with connect(url) as redis:
            await redis.flushdb()
            yield World(clock, lambda: RedisAttempts(redis, TIMING))


async def leave(process: Attempts, state: State, call: str = CALL) -> None:
    """A call whose caller leaves in a state."""
    async with anyio.create_task_group() as group, begun(process, state, call):
        group.cancel_scope.cancel()


async def claim(process: Attempts, call: str = CALL, patience: float = 0) -> Claim | None:
    """What an identical call gets, which then leaves nothing."""
    async with process.attempt() as attempt:
        return await attempt.claim(call, patience)


async def die(process: Attempts) -> None:
    """The lease of a process that was killed is over."""
    await process._owner.store.renew(process._owner.id, 0)


async def test_an_abandoned_task_is_claimed_once(world: World) -> None:
    """By the first identical call, in any process, with when its caller left."""
    await leave(world.process(), State.ACCEPTED)
    left_at = world.clock.now
    world.clock.now += 60
    assert await claim(world.process(), OTHER) is None
    assert await claim(world.process()) == Claim("t1", "m", left_at, joined=False)
    assert await claim(world.process()) is None


async def test_of_many_identical_calls_one_claims_the_task(world: World) -> None:
    """The others are sent."""
    await leave(world.process(), State.ACCEPTED)
    claims: list[Claim | None] = []

    async def call() -> None:
        async with world.process().attempt() as attempt:
            claims.append(await attempt.claim(CALL, 0))
            await anyio.sleep(0.3)

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(call)
    assert sum(each is not None for each in claims) == 1


async def test_the_first_abandoned_task_is_claimed_first(world: World) -> None:
    """Of several of the same call."""
    for id_ in ("first", "second"):
        async with anyio.create_task_group() as group, world.process().attempt() as attempt:
            await attempt._open(CALL)
            await attempt.accepted(Task(id_))
            group.cancel_scope.cancel()
        world.clock.now += 1
    found = [await claim(world.process()) for _ in range(3)]
    assert [each and each.task_id for each in found] == ["first", "second", None]


async def test_an_abandoned_task_can_be_claimed_for_ten_minutes(world: World) -> None:
    """Later an identical call is a new one."""
    await leave(world.process(), State.ACCEPTED)
    world.clock.now += 601
    assert await claim(world.process()) is None


@pytest.mark.parametrize("failure", [None, ValueError("a bug"), SeedreamError("told")])
async def test_what_a_call_leaves_that_ended(world: World, failure: Exception | None) -> None:
    """A result that was delivered leaves nothing. After an error, an identical call gets the task."""
    with pytest.raises(type(failure)) if failure else anyio.CancelScope():
        async with begun(world.process(), State.ACCEPTED):
            if failure:
                raise failure
    assert bool(await claim(world.process())) is (failure is not None)
    assert await claim(world.process()) is None


async def test_an_uncertain_attempt_is_told_once(world: World) -> None:
    """The caller left while the request was sent, and nobody knows what became of it."""
    await leave(world.process(), State.SENDING)
    with pytest.raises(SubmissionUncertain, match="The same call was broken off 0 s ago"):
        await claim(world.process())
    assert await claim(world.process()) is None


@pytest.mark.parametrize("state", [State.QUEUED, State.SENDING])
async def test_what_was_refused_or_never_sent_leaves_nothing(world: World, state: State) -> None:
    """Whether the caller heard of the refusal, or left before anything was sent."""
    with pytest.raises(SeedreamError):
        async with begun(world.process(), state):
            raise SeedreamError("refused")
    await leave(world.process(), State.QUEUED)
    assert await claim(world.process()) is None


async def test_a_request_that_was_not_accepted_is_not_uncertain(world: World) -> None:
    """It backs off, and its caller leaves."""
    async with anyio.create_task_group() as group, begun(world.process(), State.SENDING) as attempt:
        await attempt.not_sent()
        group.cancel_scope.cancel()
    assert await claim(world.process()) is None


async def test_a_killed_process_loses_no_call(world: World) -> None:
    """Its tasks are claimed, what it was sending is told, and what it had queued is sent again."""
    if world.only:
        return  # the memory ends with its process
    killed = world.process()
    async with (
        begun(killed, State.ACCEPTED, "accepted"),
        begun(killed, State.SENDING, "sending"),
        begun(killed, State.QUEUED, "queued"),
    ):
        await die(killed)
        other = world.process()
        assert (await claim(other, "accepted")) == Claim("t1", "m", world.clock.now, joined=False)
        with pytest.raises(SubmissionUncertain):
            await claim(other, "sending")
        for call in ("accepted", "sending", "queued"):
            assert await claim(other, call) is None


async def test_a_process_that_may_be_dead_is_waited_for(world: World) -> None:
    """Until its lease is over, or was renewed: then it lives, and an identical call is a variation."""
    if world.only:
        return  # the memory has one process
    process, results = world.process(), []

    async def call() -> None:
        results.append(await claim(world.process()))

    async with begun(process, State.ACCEPTED):
        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await anyio.sleep(0.2)
            assert results == []
            while not results:
                world.clock.now += 0.1
                await process._owner.store.renew(process._owner.id, TIMING.lease)
                await anyio.sleep(0.05)
        assert results == [None]
        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await anyio.sleep(0.2)
            await die(process)
    assert results[1] is not None


async def test_a_running_process_renews_its_lease(world: World) -> None:
    """For as long as it holds attempts: nobody claims them, although more time passes than a lease has."""
    if world.only:
        return  # the memory has one process
    timing = replace(TIMING, join_after=600)
    process = world.process(timing)

    async def tick() -> None:
        while True:
            await anyio.sleep(0.01)
            world.clock.now += 0.01

    async with process.open(), begun(process, State.ACCEPTED), anyio.create_task_group() as group:
        group.start_soon(tick)  # a renewal at the same time as the last one would look like none
        for _ in range(4):
            await anyio.sleep(0.1)
            world.clock.now += 2
            assert await claim(world.process(timing), patience=1) is None
        group.cancel_scope.cancel()


async def test_an_attempt_may_come_to_its_end_after_it_was_claimed(world: World) -> None:
    """Its process was only slow: the claiming call keeps the task."""
    slow, other = world.process(), world.process()
    async with other.attempt() as attempt:
        async with begun(slow, State.ACCEPTED):
            world.clock.now += 4
            found = await attempt.claim(CALL, 0)
            assert found
            assert found.joined
        assert await attempt.withdraw_task()
        await attempt.accepted(Task("t2"))
        world.clock.now += 4
        found = await claim(world.process())
        assert found
        assert found.task_id == "t2"


async def test_a_call_that_still_waits_is_joined_after_three_seconds(world: World) -> None:
    """Many clients time out in silence. Within three seconds an identical call is a variation."""
    async with begun(process := world.process(), State.ACCEPTED), process.open():
        world.clock.now += 2.9
        assert await claim(process) is None
        world.clock.now += 0.2
        assert await claim(process) == Claim("t1", "m", world.clock.now - 3.1, joined=True)


async def test_calls_that_repeat_variations_join_one_each(world: World) -> None:
    """A client that timed out on three calls at once gets three pictures."""
    process, found = world.process(), set()
    async with process.open(), anyio.create_task_group() as group:

        async def call(id_: str) -> None:
            async with process.attempt() as attempt:
                await attempt.claim(CALL, 0)
                await attempt.accepted(Task(id_))
                await anyio.sleep_forever()

        for n in range(3):
            group.start_soon(call, f"t{n}")
        await anyio.sleep(0.5)
        world.clock.now += 30
        for _ in range(3):
            world.clock.now += 0.1
            async with process.attempt() as attempt:
                claimed = await attempt.claim(CALL, 0)
                assert claimed
                found.add(claimed.task_id)
        group.cancel_scope.cancel()
    assert found == {"t0", "t1", "t2"}


@pytest.mark.parametrize("state", [State.QUEUED, State.SENDING])
async def test_a_call_without_a_task_is_waited_for(world: World, state: State) -> None:
    """An identical call waits as long as its own patience; then it raises `CallInProgress`."""
    process = world.process()
    async with begun(process, state) as attempt:
        world.clock.now += 4
        for _ in range(2):
            with pytest.raises(CallInProgress):
                await claim(process)
        await attempt.accepted(TASK)
        found = await claim(process)
        assert found
        assert found.task_id == "t1"


async def test_the_task_of_a_request_in_progress_is_claimed_when_it_comes(world: World) -> None:
    """The caller left while the request was sent, and its call came again at once."""
    process = world.process()
    claims: list[Claim | None] = []

    async def again() -> None:
        claims.append(await claim(process, patience=10))

    async with anyio.create_task_group() as group, begun(process, State.SENDING) as attempt:
        await attempt.abandon()
        group.start_soon(again)
        await anyio.sleep(0.2)
        assert claims == []
        await attempt.accepted(TASK)
        while not claims:  # noqa: ASYNC110  (the call polls)
            await anyio.sleep(0.01)
    assert claims[0]
    assert claims[0].task_id == "t1"


async def test_a_notice_abandons_a_call_that_goes_on(world: World) -> None:
    """An identical call gets the task at once, or when the call has ended."""
    process = world.process()
    for ended in (False, True):
        async with begun(process, State.ACCEPTED, caller="alice", request_id=7):
            await world.process().cancel("bob", 7)
            await world.process().cancel("alice", 8)
            await world.process().cancel("alice", 7)
            if not ended:
                assert await claim(process)
        assert bool(await claim(process)) is ended


async def test_a_notice_for_one_of_two_calls_abandons_neither(world: World) -> None:
    """Two clients of one caller use the same request id."""
    process, who = world.process(), {"caller": "alice", "request_id": 7}
    async with begun(process, State.ACCEPTED, CALL, **who), begun(process, State.ACCEPTED, OTHER, **who):
        await process.cancel("alice", 7)
        found = await claim(process)
        assert found
        assert found.joined
    for call in (CALL, OTHER):
        assert await claim(process, call) is None


async def test_a_notice_is_for_the_call_that_waits(world: World) -> None:
    """An abandoned one with the same request id, of a client that was started again, does not make it ambiguous."""
    process, who = world.process(), {"caller": "alice", "request_id": 1}
    with pytest.raises(ValueError, match="a bug"):
        async with begun(process, State.ACCEPTED, OTHER, **who):
            raise ValueError("a bug")
    async with begun(process, State.ACCEPTED, CALL, **who):
        await process.cancel("alice", 1)
    assert await claim(process)


async def test_a_refused_task_is_not_withdrawn_from_whoever_claimed_it(world: World) -> None:
    """The identical call sends again; the first one does not."""
    process = world.process()
    async with begun(process, State.ACCEPTED) as first:
        world.clock.now += 5
        async with process.attempt() as second:
            assert await second.claim(CALL, 0)
            assert not await first.withdraw_task()
            assert await second.withdraw_task()


async def test_a_late_delivery_takes_the_task_back(world: World) -> None:
    """A client that fetches its result was slow, not gone: nothing is left to claim."""
    process = world.process()
    async with begun(process, State.ACCEPTED, deliver_later=True) as attempt:
        pass
    await attempt.abandon()
    await attempt.delivered()
    assert await claim(process) is None


async def test_a_notice_changes_nothing_else(world: World) -> None:
    """The call has moved on since the notice found it; a notice for a call that was claimed is ignored."""
    process = world.process()
    async with begun(process, State.QUEUED) as attempt:
        store = process._owner.store
        [found] = await store.find(CALL)
        await attempt.accepted(TASK)
        await store.mark_left(found.attempt, world.clock.now)
        [after] = await store.find(CALL)
        assert (after.attempt.state, after.attempt.left_at) == (State.ACCEPTED, world.clock.now)
        async with process.attempt() as second:
            assert await second.claim(CALL, 0)
            await store.mark_left(found.attempt, world.clock.now)
            [after] = await store.find(CALL)
            assert after.attempt.left_at is None


async def test_a_call_that_may_have_left_may_have_left_later(world: World) -> None:
    """Its own next write does not remove what a notice said."""
    process, who = world.process(), {"caller": "alice", "request_id": 7}
    async with begun(process, State.QUEUED, CALL, **who) as attempt, begun(process, State.QUEUED, OTHER, **who):
        await process.cancel("alice", 7)
        await attempt.accepted(TASK)
        found = await claim(process)
        assert found
        assert found.joined


async def test_a_notice_before_the_attempt_is_heard(world: World) -> None:
    """The call still waits for an identical one, or for its pictures: its task is left to the next call."""
    process = world.process()
    async with process.attempt("alice", 7) as attempt:
        await process.cancel("alice", 7)
        assert await attempt.claim(CALL, 0) is None
        await attempt.accepted(TASK)
    assert await claim(process)


async def test_a_queued_call_is_not_sent_after_another_took_its_place(world: World) -> None:
    """Its process was suspended for longer than its lease, and an identical call is sent."""
    if world.only:
        return  # the memory has one process
    suspended = world.process()
    async with begun(suspended, State.QUEUED) as late:
        await die(suspended)
        async with begun(world.process(), State.ACCEPTED):
            with pytest.raises(CallInProgress):
                await late.sending()
        with pytest.raises(CallInProgress):
            await late.sending()
    assert await claim(world.process()) is None


async def test_a_queued_call_is_not_sent_after_the_one_in_its_place_has_ended(world: World) -> None:
    """The attempt is removed by then."""
    if world.only:
        return  # the memory has one process
    suspended = world.process()
    async with begun(suspended, State.QUEUED) as late:
        await die(suspended)
        async with begun(world.process(), State.ACCEPTED):
            pass
        with pytest.raises(CallInProgress):
            await late.sending()


async def test_a_task_that_arrives_late_is_not_lost(world: World) -> None:
    """Its process was suspended while it sent, and another call, whose caller left, was told that it is uncertain."""
    if world.only:
        return  # the memory has one process
    suspended, other = world.process(), world.process()
    async with anyio.create_task_group() as group, begun(suspended, State.SENDING) as late:
        await die(suspended)
        async with other.attempt() as told:
            told.caller_left = True
            with pytest.raises(SubmissionUncertain) as uncertain:
                await told.claim(CALL, 0)
            await told.settle(uncertain.value)
        await late.accepted(TASK)
        group.cancel_scope.cancel()
    assert await claim(other)


async def test_a_write_may_be_repeated(world: World) -> None:
    """A client of Redis sends a command again if the answer to it was lost."""
    store = world.process()._owner.store
    first = Attempt("1", CALL, "", "first", "o", 0, 0, State.ABANDONED, "t1", left_at=1.0)
    second = replace(first, holder="second", state=State.ACCEPTED, left_at=None)
    for _ in range(2):
        assert await store.save(first) == "left"
    for _ in range(2):
        assert await store.save(second, first) == "saved"
    assert await store.save(replace(first, holder="third"), first) == "lost"


async def test_the_memory_is_bounded() -> None:
    """Callers that always leave can't fill it: the oldest abandoned attempts go."""
    store = MemoryAttempts()
    for n in range(MAX_ABANDONED + 50):
        await store.save(Attempt(str(n), f"call {n}", "", "h", "o", 0, 0, State.ABANDONED, f"t{n}", left_at=n + 1.0))
    assert len(store._attempts) == MAX_ABANDONED
    assert await store.find("call 0") == []
    assert await store.find(f"call {MAX_ABANDONED + 49}") != []


async def test_a_lease_expires_in_redis(redis: Any) -> None:
    """By the clock of Redis, since those of replicas differ."""
    store = RedisAttempts(redis, Timing(lease=0.05))
    await store.save(Attempt("1", CALL, "", "h", "o", 0, 0))
    await anyio.sleep(0.2)
    assert [stored.lease for stored in await store.find(CALL)] == [None]


async def test_redis_goes_and_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Meanwhile the memory of the process keeps the attempts; it is logged once each time."""
    port = free_port()
    async with connect(f"redis://127.0.0.1:{port}/0") as client:
        process = Attempts(RedisAttempts(client, TIMING, pause=0), timing=TIMING)
        await leave(process, State.ACCEPTED)
        assert await claim(process)
        with redis_running(tmp_path, port):
            await leave(process, State.ACCEPTED)
            assert len(await client.keys("seedream:attempt:*")) == 1
        assert await claim(process) is None
    assert [record.message.split(".")[0] for record in caplog.records if record.levelname != "INFO"] == [
        "Redis can't be used (ConnectionError)",
        "Redis can be used again",
        "Redis can't be used (ConnectionError)",
    ]


async def test_a_lease_is_renewed_as_soon_as_redis_is_back(tmp_path: Path) -> None:
    """Redis is left alone for a while after a failure, but not for longer than a lease."""
    port = free_port()
    async with connect(f"redis://127.0.0.1:{port}/0") as client:
        store = RedisAttempts(client, TIMING, pause=600)
        attempt = Attempt("1", CALL, "", "h", "o", 0, 0)
        with pytest.raises(StoreUnavailable):
            await store.save(attempt)
        with redis_running(tmp_path, port):
            with pytest.raises(StoreUnavailable):
                await store.save(attempt)
            await store.renew("o", 5)
            assert await store.save(attempt) == "saved"


async def test_attempts_of_another_version_are_ignored(redis: Any, caplog: pytest.LogCaptureFixture) -> None:
    """While replicas are updated one by one."""
    store = RedisAttempts(redis)
    for id_ in ("1", "2", "3"):
        await store.save(Attempt(id_, CALL, "", "h", "o", 0, 0))
    await redis.hset("seedream:attempt:1", "json", '{"id": "1", "state": "queued", "later": 1}')
    await redis.hset("seedream:attempt:2", "json", "[")
    assert [stored.attempt.id for stored in await store.find(CALL)] == ["3"]
    assert "can't be read" in caplog.text
