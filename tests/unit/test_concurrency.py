"""OnDemand: a value is opened after a delay or with the first use, and closed at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from mcp_seedream.core.concurrency import OnDemand

pytestmark = pytest.mark.anyio


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture
def manager(events: list[str]) -> Callable[[], AbstractAsyncContextManager[str]]:
    """Makes a context manager that records what happens to it."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[str]:
        async with anyio.create_task_group():
            events.append("opened")
            yield "value"
            events.append("closed")

    return opened


async def test_opens_with_the_first_use(
    manager: Callable[[], AbstractAsyncContextManager[str]], events: list[str]
) -> None:
    """A call that comes before the delay has passed does not wait for it, and several share the value."""
    values = []

    async def use() -> None:
        values.append(await value.get())

    with anyio.fail_after(30):
        async with OnDemand(manager).available(3600) as value:
            assert events == []
            async with anyio.create_task_group() as group:
                group.start_soon(use)
                group.start_soon(use)
            assert events == ["opened"]
            assert await value.get() == "value"
    assert (values, events) == (["value", "value"], ["opened", "closed"])


async def test_opens_by_itself(manager: Callable[[], AbstractAsyncContextManager[str]], events: list[str]) -> None:
    """After the delay it is opened without a use, so that the first use need not wait."""
    has_opened = anyio.Event()

    @asynccontextmanager
    async def signalling() -> AsyncIterator[str]:
        async with manager() as value:
            has_opened.set()
            yield value

    with anyio.fail_after(30):
        async with OnDemand(signalling).available(0.01):
            await has_opened.wait()
    assert events == ["opened", "closed"]


async def test_without_a_use_nothing_is_opened(
    manager: Callable[[], AbstractAsyncContextManager[str]], events: list[str]
) -> None:
    """A client that only lists the tools ends the server before the delay has passed, and does not wait for it."""
    with anyio.fail_after(30):
        async with OnDemand(manager).available(3600):
            await anyio.lowlevel.checkpoint()
    assert events == []


async def test_without_delay_it_is_open_at_once(
    manager: Callable[[], AbstractAsyncContextManager[str]], events: list[str]
) -> None:
    async with OnDemand(manager).available() as value:
        assert events == ["opened"]
        assert await value.get() == "value"
    assert events == ["opened", "closed"]


async def test_a_failure_ends_its_users() -> None:
    """A use does not wait forever for a value that can't be opened."""

    def fail() -> AbstractAsyncContextManager[str]:
        raise ImportError

    with anyio.fail_after(30), pytest.raises(ExceptionGroup) as raised:
        async with OnDemand(fail).available(3600) as value:
            await value.get()
    assert raised.group_contains(ImportError)
