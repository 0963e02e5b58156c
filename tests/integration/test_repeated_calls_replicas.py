"""Several processes of one server: what was left at one is found at another, over a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any

import anyio
import httpx
import pytest
from mcp_types import CallToolResult

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.redis_client import connect
from mcp_seedream.core.settings import read_settings
from mcp_seedream.core.shutdown import Shutdown
from mcp_seedream.generation.redis_attempts import RedisAttempts
from mcp_seedream.hosting.app import bearer_token, build_app
from mcp_seedream.sandbox.app import Sandbox
from tests.conftest import Session, answer, serving, submits, text
from tests.integration.test_http import LATEST, OLD, message, read
from tests.support.services import free_port

pytestmark = pytest.mark.anyio
SLOW = "a fox [sandbox:slow=2]"


@pytest.fixture
def replicas(table: ModelTable, upstream: str, redis: Any, redis_url: str) -> Iterator[tuple[str, str]]:
    """The endpoints of two servers that know of each other."""
    with ExitStack() as stack:
        yield tuple(stack.enter_context(replica(table, upstream, redis_url)) for _ in range(2))


def replica(table: ModelTable, upstream: str, url: str, *, pause: float = 30) -> Any:
    session = Session(table, upstream, token_of=bearer_token, redis=RedisAttempts(connect(url), pause=pause))
    return serving(build_app(session.server, read_settings()))


async def called(
    endpoint: str, prompt: str = SLOW, *, revision: str = OLD, id_: int = 1, **more: Any
) -> dict[str, Any]:
    """The structured content of a call's result."""
    body, headers = message("tools/call", revision, {"name": "generate_image", "arguments": {"prompt": prompt, **more}})
    async with httpx.AsyncClient(timeout=30) as web:
        [*_, result] = read(await web.post(f"{endpoint}/mcp", json=body | {"id": id_}, headers=headers))
    found: dict[str, Any] = result["result"]["structuredContent"]
    return found


async def give_up(endpoint: str, id_: int) -> None:
    """As a client of an older revision does: in a request of its own."""
    body, headers = message("notifications/cancelled", OLD, {"requestId": id_})
    del body["id"]
    async with httpx.AsyncClient() as web:
        assert (await web.post(f"{endpoint}/mcp", json=body, headers=headers)).status_code == 202


async def accepted(redis: Any) -> None:
    """Until a request has a task that all know of."""

    async def states() -> list[str]:
        return [await redis.hget(key, "state") for key in await redis.keys("seedream:attempt:*")]

    with anyio.fail_after(20):
        while "accepted" not in await states():  # noqa: ASYNC110
            await anyio.sleep(0.02)


async def true(condition: Callable[[], bool]) -> None:
    """Until it is, in another thread."""
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.02)


@asynccontextmanager
async def waiting(redis: Any, endpoint: str, **more: Any) -> AsyncIterator[Callable[[], None]]:
    """A call that has a task, as long as the context lasts; yields what closes its connection."""
    async with anyio.create_task_group() as group:
        group.start_soon(partial(called, endpoint, **more))
        await accepted(redis)
        yield group.cancel_scope.cancel


@pytest.mark.parametrize("revision", [OLD, LATEST])
async def test_a_call_that_was_left_gets_its_task_elsewhere(
    replicas: tuple[str, str], redis: Any, sandbox: Sandbox, revision: str
) -> None:
    """Its client closed the connection, and came at once: one picture is paid for."""
    async with waiting(redis, replicas[0], revision=revision) as close:
        close()
    found = await called(replicas[1], revision=revision)
    assert found["status"] == "succeeded"
    assert "nothing was billed again" in str(found["notes"])
    assert len(submits(sandbox)) == 1


@pytest.mark.parametrize("again", [0, 1])
async def test_a_notice_that_comes_elsewhere_is_heard(
    replicas: tuple[str, str], redis: Any, sandbox: Sandbox, again: int
) -> None:
    """Older clients' connections stay open; the same call gets the task, wherever it comes, and the next does not."""
    async with waiting(redis, replicas[0], id_=7):
        await give_up(replicas[1], 7)
        found = await called(replicas[again], id_=8)
        other = await called(replicas[1 - again], id_=9)
    assert "nothing was billed again" in str(found["notes"])
    assert other["task_id"] != found["task_id"]
    assert len(submits(sandbox)) == 2


@pytest.mark.parametrize("way", ["notice here", "notice elsewhere", "closed"])
async def test_a_call_that_is_left_before_it_has_a_task(
    replicas: tuple[str, str], redis: Any, sandbox: Sandbox, way: str
) -> None:
    """Its task is waited for where the call comes again; nothing is expected afterwards."""
    prompt = "a fox [sandbox:hang=1]"
    async with anyio.create_task_group() as group:
        group.start_soon(partial(called, replicas[0], prompt, id_=7, revision=LATEST if way == "closed" else OLD))
        await true(lambda: bool(submits(sandbox)))
        if way == "closed":
            group.cancel_scope.cancel()
        else:
            await give_up(replicas[way == "notice elsewhere"], 7)
            found = await called(replicas[1], prompt, id_=8)
    if way == "closed":
        found = await called(replicas[1], prompt, revision=LATEST)
    assert "nothing was billed again" in str(found["notes"])
    assert len(submits(sandbox)) == 1
    assert await redis.keys("seedream:attempt*") == []


async def test_calls_that_are_alive_are_two_pictures(replicas: tuple[str, str], redis: Any, sandbox: Sandbox) -> None:
    """Nobody takes a task away from whoever waits for it; nobody's notice is for somebody else's request."""
    async with waiting(redis, replicas[0], id_=7):
        await give_up(replicas[1], 6)
        assert (await called(replicas[1], id_=8))["status"] == "succeeded"
    assert len(submits(sandbox)) == 2


async def test_nothing_is_left_of_calls_that_were_answered(replicas: tuple[str, str], redis: Any) -> None:
    """Nor is what is there meanwhile anybody's token or prompt; and all of it is for a time."""
    async with waiting(redis, replicas[0], prompt="a vixen [sandbox:slow=1]"):
        keys = await redis.keys("*")
        read = {"hash": redis.hvals, "set": redis.smembers, "string": redis.get}
        said = [str(await read[await redis.type(key)](key)) for key in keys]
        assert len(keys) == 4
        assert not any(word in " ".join([*keys, *said]) for word in ("alice", "vixen"))
        assert all([0 < await redis.pttl(key) < 4_000_000 for key in keys])
    assert await redis.keys("seedream:attempt*") == []


async def test_what_redis_forgot_is_not_left(replicas: tuple[str, str], redis: Any, sandbox: Sandbox) -> None:
    """A call whose client waits stays its own, and leaves nothing, though Redis began anew meanwhile."""
    async with waiting(redis, replicas[0]):
        await redis.flushdb()
    async with anyio.create_task_group() as group:
        group.start_soon(partial(called, replicas[0], "a fox [sandbox:hang=0.5]"))
        await true(lambda: len(submits(sandbox)) == 2)
        await redis.flushdb()
    assert await redis.keys("seedream:attempt*") == []


async def test_notices_may_come_twice(replicas: tuple[str, str], redis: Any, sandbox: Sandbox) -> None:
    """A task that is left is left once."""
    async with waiting(redis, replicas[0], id_=7):
        for _ in range(2):
            await give_up(replicas[1], 7)
    [attempt] = await redis.keys("seedream:attempt:*")
    assert await redis.hget(attempt, "state") == "abandoned"
    assert len(submits(sandbox)) == 1


async def test_a_server_that_stops_leaves_its_tasks_to_the_others(
    table: ModelTable, upstream: str, redis: Any, redis_url: str, sandbox: Sandbox
) -> None:
    """Whoever waits is told so; the same call gets the task."""
    shutdown = Shutdown(2)
    found: list[CallToolResult] = []

    async def call(**more: Any) -> None:
        session = Session(table, upstream, redis=RedisAttempts(connect(redis_url)), **more)
        found.append(await session.call("generate_image", prompt=SLOW))

    async with anyio.create_task_group() as group:
        group.start_soon(partial(call, shutdown=shutdown))
        await accepted(redis)
        shutdown.request()
    await call()
    assert "the same call gets this task if it is repeated" in text(found[0])
    assert answer(found[0])["task_id"] == answer(found[1])["task_id"]
    assert len(submits(sandbox)) == 1


async def test_without_redis_each_is_on_its_own(
    table: ModelTable,
    upstream: str,
    sandbox: Sandbox,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is said from the beginning, once, without a password; and again when it is there."""
    port = free_port()
    with replica(table, upstream, f"redis://:the-password@127.0.0.1:{port}/0", pause=0) as address:
        await true(lambda: "Redis can't be used" in caplog.text)
        with anyio.move_on_after(0.5):
            await called(address, revision=LATEST)
        found = await called(address, revision=LATEST)
    assert "nothing was billed again" in str(found["notes"])
    assert len(submits(sandbox)) == 1
    assert caplog.text.count("Redis can't be used") == 1
    assert "the-password" not in caplog.text
