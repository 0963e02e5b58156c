"""Calls whose attempts have come to a state, and the time that they see."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mcp_seedream.generation.attempt_store import State
from mcp_seedream.generation.attempts import Attempts
from mcp_seedream.generation.call_attempt import CallAttempt
from mcp_seedream.upstream.types import Task

CALL, OTHER = "a call", "another call"
TASK = Task("t1", model="m")


class Clock:
    """Unix seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def begun(process: Attempts, state: State, call: str = CALL, **more: Any) -> AsyncIterator[CallAttempt]:
    """A call whose attempt has come to a state."""
    async with process.attempt(**more) as attempt:
        assert await attempt.claim(call, 0) is None
        if state is not State.QUEUED:
            await attempt.sending()
        if state is State.ACCEPTED:
            await attempt.accepted(TASK)
        yield attempt
