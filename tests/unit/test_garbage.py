"""Failed calls are freed at once: their pictures of megabytes do not wait for the garbage collector."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest

from mcp_seedream.core.concurrency import run_in_thread
from mcp_seedream.core.errors import SeedreamError
from mcp_seedream.core.shutdown import Shutdown
from mcp_seedream.generation.attempts import Attempts
from mcp_seedream.upstream.streaming import read_stream
from mcp_seedream.upstream.types import StreamEvent

pytestmark = pytest.mark.anyio


class Picture:
    """Stands for megabytes in an argument of a call."""


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def refuse(_: Picture) -> None:
    raise SeedreamError("refused")


async def in_a_thread(picture: Picture) -> None:
    await run_in_thread(refuse, picture)


async def with_an_attempt(picture: Picture) -> None:
    async with Attempts().attempt():
        refuse(picture)


async def while_it_is_sent(picture: Picture) -> None:
    async with Attempts().attempt() as attempt, attempt.abandon_if_cancelled():
        refuse(picture)


async def in_a_stream(picture: Picture) -> None:
    async def events() -> AsyncGenerator[StreamEvent]:
        yield StreamEvent()
        refuse(picture)

    async def nothing(*_: Any, **__: Any) -> None: ...

    await read_stream(events(), nothing, accepted=nothing, shutdown=Shutdown())


@pytest.mark.parametrize("call", [in_a_thread, with_an_attempt, while_it_is_sent, in_a_stream])
async def test_a_failed_call_is_freed(call: Callable[[Picture], Awaitable[None]]) -> None:
    """No frame of an exception's traceback keeps the exception."""
    picture = Picture()
    freed = weakref.ref(picture)
    try:
        await call(picture)
    except SeedreamError:
        del picture
    with anyio.fail_after(5):
        while freed():  # noqa: ASYNC110  (a thread may still end)
            await anyio.sleep(0.01)
