"""The attempt of one call: its writes reach the store in the order in which they were made."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest
from anyio.lowlevel import checkpoint

from mcp_seedream.core.errors import ModelRefused
from mcp_seedream.generation.attempt_store import Attempt, MemoryAttempts, Outcome
from mcp_seedream.generation.attempts import Attempts
from mcp_seedream.generation.call_attempt import CallAttempt
from mcp_seedream.upstream.types import Task
from tests.support.clocks import OWN_TIME

pytestmark = [pytest.mark.anyio, OWN_TIME]


class SlowStore(MemoryAttempts):
    """A store in which the next writes take `delays` seconds, as on connections of which one is slower."""

    def __init__(self) -> None:
        super().__init__()
        self.delays: list[float] = []

    async def save(self, attempt: Attempt, before: Attempt | None = None) -> Outcome:
        written = replace(attempt)
        with anyio.CancelScope(shield=True):
            await anyio.sleep(self.delays.pop(0) if self.delays else 0)
        return await super().save(written, before)


async def test_a_caller_that_leaves_as_the_answer_arrives_loses_no_task() -> None:
    """The write that the caller left takes longer than the write of the task; the next call claims the task."""
    store = SlowStore()
    async with Attempts(store).open() as attempts:
        async with attempts.attempt() as first, anyio.create_task_group() as group:
            await first.claim("call", 0)
            await first.sending()
            store.delays = [1]
            group.start_soon(first.abandon)
            await checkpoint()
            await first.accepted(Task("t1", "pending"))
        async with attempts.attempt() as second:
            claim = await second.claim("call", 0)
    assert claim is not None
    assert claim.task_id == "t1"


async def test_a_refusal_that_arrives_as_the_caller_leaves_is_not_uncertain() -> None:
    """The client tells of it before the cancellation is raised: nothing was billed, so the next call is sent."""
    store = SlowStore()
    caller = anyio.CancelScope()

    async def refused(attempt: CallAttempt) -> None:
        async with attempt.abandon_if_cancelled():
            with anyio.CancelScope(shield=True):
                caller.cancel()
                await anyio.sleep(0.5)
                await attempt.not_sent()
            raise ModelRefused("model is invalid")

    async with Attempts(store).open() as attempts:
        with caller:
            async with attempts.attempt() as first:
                await first.claim("call", 0)
                await first.sending()
                store.delays = [1]
                await refused(first)
        async with attempts.attempt() as second:
            assert await second.claim("call", 0) is None
