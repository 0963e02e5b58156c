"""FairLimiter: so many at a time, callers one after the other, and nothing lost when somebody leaves the queue."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from mcp_seedream.upstream.fair_limiter import FairLimiter

pytestmark = pytest.mark.anyio


async def test_so_many_at_a_time() -> None:
    """The others wait."""
    turns, most, now = FairLimiter(3), 0, 0

    async def work(caller: str) -> None:
        nonlocal most, now
        async with turns.slot(caller):
            now += 1
            most = max(most, now)
            await anyio.sleep(0.01)
            now -= 1

    async with anyio.create_task_group() as group:
        for n in range(20):
            group.start_soon(work, f"caller-{n % 4}")
    assert (most, now, turns._free, dict(turns._waiting)) == (3, 0, 3, {})


async def test_callers_take_turns() -> None:
    """One with many requests does not keep one with a single request waiting for all of them."""
    turns, order = FairLimiter(1), []

    async def work(caller: str) -> None:
        async with turns.slot(caller):
            order.append(caller)
            await anyio.lowlevel.checkpoint()

    await turns.acquire("nobody")
    async with anyio.create_task_group() as group:
        for caller in ["alice"] * 5 + ["bob"] + ["carol"] * 2:
            group.start_soon(work, caller)
            await anyio.lowlevel.checkpoint()
        turns.release()
    assert order.index("bob") <= 2
    assert order.index("carol") <= 3


@pytest.mark.parametrize("late", [False, True])
async def test_who_leaves_the_queue_takes_no_turn(late: bool) -> None:
    """Before the turn came, or in the moment it did."""
    turns = FairLimiter(1)

    async def work() -> None:
        async with turns.slot("bob"):
            await anyio.lowlevel.checkpoint()

    await turns.acquire("alice")
    async with anyio.create_task_group() as group:
        group.start_soon(work)
        await anyio.sleep(0.01)
        if late:
            turns.release()
        group.cancel_scope.cancel()
    if not late:
        turns.release()
    assert (turns._free, dict(turns._waiting)) == (1, {})


async def test_the_newest_first() -> None:
    """New callers come before those that wait, and the newest request of a caller before its others."""
    limiter, order = FairLimiter(1, newest_first=True), list[str]()

    async def work(caller: str, number: int) -> None:
        async with limiter.slot(caller):
            order.append(f"{caller}{number}")
            await anyio.lowlevel.checkpoint()

    await limiter.acquire("first")
    async with anyio.create_task_group() as group:
        for caller, number in (("a", 1), ("a", 2), ("a", 3), ("b", 1)):
            group.start_soon(work, caller, number)
            await anyio.wait_all_tasks_blocked()
        limiter.release()
    assert order == ["b1", "a3", "a2", "a1"]


async def test_a_share_of_the_queue() -> None:
    """A caller may fill a queue that is empty; a full one takes callers that have less than their share."""
    limiter = FairLimiter(1)
    async with anyio.create_task_group() as group:
        await limiter.acquire("a")
        for _ in range(6):
            assert limiter.may_wait("a", 6)
            group.start_soon(limiter.acquire, "a")
            await anyio.wait_all_tasks_blocked()
        assert not limiter.may_wait("a", 6)
        for _ in range(3):
            assert limiter.may_wait("b", 6)
            group.start_soon(limiter.acquire, "b")
            await anyio.wait_all_tasks_blocked()
        assert [limiter.may_wait(caller, 6) for caller in "abc"] == [False, False, True]
        group.cancel_scope.cancel()
