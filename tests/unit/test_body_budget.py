"""BodyBudget: bytes in flight have a limit, and callers share them."""

from __future__ import annotations

import anyio
import pytest

from mcp_seedream.core.errors import LimitExceeded
from mcp_seedream.hosting.body_budget import BodyBudget, BodyMemory

pytestmark = pytest.mark.anyio
QUIET = 0.05


async def acquire(budget: BodyBudget, caller: str, size: int) -> BodyMemory:
    share = BodyMemory(budget, caller)
    await share.acquire(size)
    return share


async def held(budget: BodyBudget, caller: str, size: int) -> list[BodyMemory]:
    """Take shares of a size until the next one would have to wait."""
    shares = []
    while True:
        with anyio.move_on_after(QUIET):
            shares.append(await acquire(budget, caller, size))
            continue
        return shares


def used(budget: BodyBudget) -> int:
    assert budget._used == sum(budget._by_caller.values())
    assert all(budget._by_caller.values())
    return budget._used


async def test_one_caller_gets_half() -> None:
    assert len(await held(BodyBudget(100), "alice", 5)) == 10


async def test_five_greedy_callers_leave_a_share_for_the_sixth() -> None:
    """Whatever they hold, and for however long."""
    budget = BodyBudget(600)
    for round_ in range(50):
        for number in range(5):
            with anyio.move_on_after(0.001):
                await acquire(budget, f"key-{number}", 10 if round_ else 40)
    assert used(budget) <= 510
    await acquire(budget, "victim", 40)


async def test_a_body_of_any_size_is_taken_when_nothing_else_is_held() -> None:
    """Even above the budget: one body has a limit of its own."""
    budget = BodyBudget(100)
    share = await acquire(budget, "alice", 150)
    share.free()
    assert used(budget) == 0


async def test_who_waits_too_long_hears_of_it() -> None:
    budget = BodyBudget(100, patience=QUIET)
    share = await acquire(budget, "alice", 60)
    with pytest.raises(LimitExceeded) as caught:
        await acquire(budget, "bob", 60)
    assert caught.value.retry_after == 5
    share.free()
    assert used(budget) == 0
    assert not budget._waiting


async def test_the_queue_of_a_caller_is_limited() -> None:
    """Each request that waits needs memory as well; other callers have queues of their own."""
    budget = BodyBudget(100)
    await acquire(budget, "alice", 50)
    async with anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(acquire, budget, "alice", 50)
        await anyio.sleep(QUIET)
        with pytest.raises(LimitExceeded):
            await acquire(budget, "alice", 50)
        with anyio.fail_after(5):
            await acquire(budget, "bob", 10)
        group.cancel_scope.cancel()


async def test_callers_take_turns() -> None:
    """One with many bodies does not keep one with a single body waiting for all of them."""
    budget, order = BodyBudget(100), []
    first = await acquire(budget, "nobody", 60)

    async def work(caller: str) -> None:
        share = await acquire(budget, caller, 45)
        order.append(caller)
        await anyio.sleep(0.001)
        share.free()

    async with anyio.create_task_group() as group:
        for caller in ["alice"] * 5 + ["bob"] + ["carol"]:
            group.start_soon(work, caller)
            await anyio.lowlevel.checkpoint()
        first.free()
    assert sorted(order[:3]) == ["alice", "bob", "carol"]
    assert used(budget) == 0


@pytest.mark.parametrize("late", [False, True])
async def test_who_leaves_takes_nothing_along(late: bool) -> None:
    """Before the bytes came, or in the moment they did."""
    budget = BodyBudget(100)
    share = await acquire(budget, "alice", 90)

    async def work() -> None:
        (await acquire(budget, "bob", 40)).free()

    async with anyio.create_task_group() as group:
        group.start_soon(work)
        await anyio.sleep(0.01)
        if late:
            share.free()
        group.cancel_scope.cancel()
    if not late:
        share.free()
    assert (used(budget), dict(budget._waiting)) == (0, {})


async def test_small_bodies_pass_large_ones_that_wait() -> None:
    budget = BodyBudget(100)
    await acquire(budget, "alice", 60)
    async with anyio.create_task_group() as group:
        group.start_soon(acquire, budget, "bob", 60)
        await anyio.sleep(QUIET)
        with anyio.fail_after(5):
            await acquire(budget, "carol", 1)
        group.cancel_scope.cancel()


@pytest.mark.parametrize("early", [False, True])
async def test_bytes_that_are_only_kept_in_case_are_freed_for_others(early: bool) -> None:
    """The oldest first, whether another request waits already or comes later; and not if there is room."""
    budget, released = BodyBudget(100), []
    shares = [await acquire(budget, caller, 25) for caller in ("alice", "bob")]

    def release_when_short() -> None:
        for number, share in enumerate(shares):
            share.release_when_short(lambda number=number: released.append(number))  # type: ignore[misc]

    if early:
        release_when_short()
        await anyio.sleep(QUIET)
        assert released == []
    async with anyio.create_task_group() as group:
        group.start_soon(acquire, budget, "carol", 40)
        await anyio.sleep(QUIET)
        if not early:
            release_when_short()
    assert released == [0, 1] if not early else released
    assert released[0] == 0
    for share in shares:
        share.free()
    assert used(budget) == 40


async def test_a_share_that_is_over_is_not_released() -> None:
    budget = BodyBudget(100)
    share = await acquire(budget, "alice", 50)
    share.release_when_short(lambda: pytest.fail("it is over"))
    share.free()
    await acquire(budget, "bob", 50)


async def test_shares_change() -> None:
    """Once it is known what a body costs; more is taken without a wait."""
    budget = BodyBudget(100)
    share = await acquire(budget, "alice", 10)
    share.resize(70)
    assert used(budget) == 70
    async with anyio.create_task_group() as group:
        group.start_soon(acquire, budget, "bob", 40)
        await anyio.sleep(QUIET)
        share.resize(20)
    assert used(budget) == 60
