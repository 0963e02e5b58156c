"""Waiting: how often the upstream is asked, and what ends a wait."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import anyio
import pytest

from mcp_seedream.core.errors import RateLimited, TokenRefused, UnreadableReply, UpstreamError, UpstreamUnavailable
from mcp_seedream.upstream.client import LookUpKind, SeedreamClient
from mcp_seedream.upstream.poller import TaskWaiter, open_waiter
from mcp_seedream.upstream.types import Task
from tests.support.clocks import OWN_TIME

pytestmark = [pytest.mark.anyio, OWN_TIME]


class Upstream(SeedreamClient):
    """A client whose look-ups are answered here; what it is asked is kept."""

    def __init__(self) -> None:
        super().__init__("http://unused")
        self.ended: set[str] = set()
        self.asked: list[tuple[str, list[str]]] = []
        self.errors: list[Exception] = []
        self.times: list[float] = []
        self.delay = 0.0

    async def look_up(self, task_ids: Iterable[str], token: str, *, kind: LookUpKind = "look up") -> dict[str, Task]:  # noqa: ARG002
        ids = list(task_ids)
        self.asked.append((token, ids))
        self.times.append(anyio.current_time())
        await anyio.sleep(self.delay)
        if self.errors:
            raise self.errors.pop()
        return {id_: Task(id_, "failed" if id_ in self.ended else "pending") for id_ in ids}


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
async def waiter(upstream: Upstream) -> AsyncIterator[TaskWaiter]:
    async with open_waiter(upstream, interval=0.05, tick=0.03) as waiter:
        yield waiter


async def test_a_round_asks_for_everything_a_caller_waits_for(waiter: TaskWaiter, upstream: Upstream) -> None:
    """However many wait: one question a round, each task once."""
    async with anyio.create_task_group() as group:
        for n in range(40):
            group.start_soon(waiter.wait, [f"t{n % 20}"], "k", 5)
        await anyio.sleep(0.08)
        upstream.ended = {f"t{n}" for n in range(20)}
    assert len(upstream.asked) == 2
    assert all(len(ids) == 20 for _, ids in upstream.asked)


async def test_callers_are_asked_for_apart(waiter: TaskWaiter, upstream: Upstream) -> None:
    """No token is ever used for another caller's task."""
    upstream.ended = {"a", "b"}
    async with anyio.create_task_group() as group:
        group.start_soon(waiter.wait, ["a"], "alice", 5)
        group.start_soon(waiter.wait, ["b"], "bob", 5)
    assert sorted(upstream.asked) == [("alice", ["a"]), ("bob", ["b"])]


async def test_rounds_stop_when_nobody_waits(waiter: TaskWaiter, upstream: Upstream) -> None:
    """And begin again with the next wait."""
    upstream.ended = {"a"}
    await waiter.wait(["a"], "k", 5)
    await anyio.sleep(0.2)
    assert len(upstream.asked) == 1
    assert waiter._waits == {}
    await waiter.wait(["a"], "k", 5)
    assert len(upstream.asked) == 2


async def test_what_runs_on_is_not_in_the_answer(waiter: TaskWaiter, upstream: Upstream) -> None:
    """The time is up for one of two."""
    upstream.ended = {"a"}
    ended = await waiter.wait(["a", "b"], "k", 0.2)
    assert set(ended) == {"a"}


async def test_a_cancelled_wait_asks_no_more(waiter: TaskWaiter, upstream: Upstream) -> None:
    """The task goes on; only the asking stops."""
    with anyio.move_on_after(0.08):
        await waiter.wait(["a"], "k", 5)
    asked = len(upstream.asked)
    await anyio.sleep(0.2)
    assert len(upstream.asked) == asked
    assert waiter._waits == {}


async def test_ticks_tell_how_long_it_has_lasted(waiter: TaskWaiter) -> None:
    """Every `tick` seconds, and when the time is up."""
    told: list[tuple[float, str]] = []

    async def report(progress: float, *, message: str) -> None:
        told.append((progress, message))

    await waiter.wait(["a"], "k", 0.2, report)
    assert [elapsed for elapsed, _ in told] == pytest.approx([0.03, 0.06, 0.09, 0.12, 0.15, 0.18, 0.2])
    assert {message for _, message in told} == {"Task a: 0 s"}


async def test_a_refused_token_ends_the_wait(waiter: TaskWaiter, upstream: Upstream) -> None:
    """Nothing would change by waiting."""
    upstream.errors = [TokenRefused("no")]
    with pytest.raises(TokenRefused):
        await waiter.wait(["a"], "k", 5)


@pytest.mark.parametrize("error", [UpstreamUnavailable("down"), RateLimited("slow", retry_after=0.1)])
async def test_a_failed_look_up_does_not_end_the_wait(
    waiter: TaskWaiter, upstream: Upstream, error: UpstreamError
) -> None:
    """The task goes on upstream: it is asked for again, later."""
    upstream.errors = [error]
    upstream.ended = {"a"}
    assert set(await waiter.wait(["a"], "k", 5)) == {"a"}
    assert len(upstream.asked) == 2


async def test_a_reply_that_nobody_foresaw_ends_one_callers_waits_only(
    waiter: TaskWaiter, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    """Not the server, nor anybody else's wait; it is logged, and the next wait begins anew."""
    upstream.errors = [OverflowError("a number beyond all bounds")]
    with pytest.raises(UnreadableReply):
        await waiter.wait(["a"], "evil", 5)
    upstream.ended = {"a"}
    assert set(await waiter.wait(["a"], "alice", 5)) == {"a"}
    assert set(await waiter.wait(["a"], "evil", 5)) == {"a"}
    assert "OverflowError" in caplog.text


async def test_each_wait_gets_an_error_of_its_own(waiter: TaskWaiter, upstream: Upstream) -> None:
    """One object raised in two places would mix their tracebacks and ids."""
    upstream.errors = [TokenRefused("no", trace_id="r")]
    caught: list[UpstreamError] = []

    async def wait() -> None:
        with pytest.raises(TokenRefused) as error:
            await waiter.wait(["a"], "k", 5)
        caught.append(error.value)

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        group.start_soon(wait)
    assert caught[0] is not caught[1]
    assert [(error.message, error.trace_id) for error in caught] == [("no", "r")] * 2


async def test_retry_after_is_kept_in_full(upstream: Upstream) -> None:
    """Where the upstream asks to be left alone for up to a minute."""
    upstream.errors = [RateLimited("slow", retry_after=0.5)]
    upstream.ended = {"a"}
    async with open_waiter(upstream, interval=0.02) as waiter:
        started = anyio.current_time()
        await waiter.wait(["a"], "k", 5)
    assert anyio.current_time() - started == pytest.approx(0.5, abs=0.1)


async def test_a_retry_after_of_years_does_not_end_the_look_ups(upstream: Upstream) -> None:
    """Neither those of this wait nor those of the caller's next ones, which join them."""
    upstream.errors = [RateLimited("slow", retry_after=1e9)]
    upstream.ended = {"a"}
    async with open_waiter(upstream, interval=0.02) as waiter:
        assert set(await waiter.wait(["a"], "k", 100)) == {"a"}
    assert anyio.current_time() < 70


async def test_a_wait_with_no_time_returns_at_once(waiter: TaskWaiter, upstream: Upstream) -> None:
    """Without asking."""
    assert await waiter.wait(["a"], "k", 0) == {}
    assert upstream.asked == []


async def test_a_report_says_how_far_a_picture_is(waiter: TaskWaiter) -> None:
    """By what such pictures usually take, and by how long this one has run already."""
    told: list[str] = []

    async def report(_: float, /, *, message: str) -> None:
        told.append(message)

    await waiter.wait(["t"], "k", 0.05, report, typical=120, ran=40)
    await waiter.wait(["t"], "k", 0.05, report, typical=25, ran=40)
    await waiter.wait(["t"], "k", 0.05, report)
    assert list(dict.fromkeys(told)) == ["Task t: about 40 s of 120 s", "Task t: 40 s", "Task t: 0 s"]


@pytest.mark.parametrize("count", [1, 1000, 2000])
async def test_idle_waits_do_not_slow_the_rounds(upstream: Upstream, count: int) -> None:
    """However many calls wait for tasks that still run, a round starts every `interval` seconds."""
    async with open_waiter(upstream, interval=0.5) as waiter, anyio.create_task_group() as group:
        for n in range(count):
            group.start_soon(waiter.wait, [f"t{n}"], "k", 10.1)
    assert upstream.times == pytest.approx([0.5 * n for n in range(1, 21)])


async def test_slow_look_ups_do_not_stretch_the_interval(upstream: Upstream) -> None:
    """The interval is from start to start; a look-up that takes longer is followed by the next one at once."""
    async with open_waiter(upstream, interval=0.5) as waiter:
        upstream.delay = 0.3
        await waiter.wait(["t"], "k", 2.1)
        assert upstream.times == pytest.approx([0.5, 1.0, 1.5, 2.0])
        upstream.times.clear()
        upstream.delay = 0.7
        await anyio.sleep(1)
        started = anyio.current_time()
        await waiter.wait(["t"], "k", 2.1)
        assert [at - started for at in upstream.times] == pytest.approx([0.5, 1.2, 1.9])


async def test_a_thousand_tasks_that_end_at_once_leave_time_for_others(upstream: Upstream) -> None:
    """Their waits wake one after the other; another caller's wait does not queue behind them, nor do rounds."""
    upstream.ended = {f"t{n}" for n in range(1000)} | {"other"}
    woken: dict[str, float] = {}

    async with open_waiter(upstream, interval=0.5) as waiter, anyio.create_task_group() as group:

        async def wait(task_id: str, token: str) -> None:
            await waiter.wait([task_id], token, 5.1)
            woken[task_id] = anyio.current_time()

        for n in range(1000):
            group.start_soon(wait, f"t{n}", "busy")
        group.start_soon(wait, "running", "busy")
        group.start_soon(wait, "other", "bob")
    assert len(set(woken.values())) >= 1000
    assert woken["other"] < 0.51
    assert [at for at, (token, _) in zip(upstream.times, upstream.asked, strict=True) if token == "busy"] == (
        pytest.approx([0.5 * n for n in range(1, 11)], abs=0.01)
    )
