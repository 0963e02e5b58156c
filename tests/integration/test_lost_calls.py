"""Calls that a client, a process or a time-out broke off, seen from outside: nothing is paid for twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from mcp import Client
from mcp_types import CallToolResult

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.generation.claims import Timing
from mcp_seedream.hosting.app import bearer_token
from mcp_seedream.sandbox.app import Sandbox
from mcp_seedream.server.server import build_server
from mcp_seedream.server.tools import ToolDefaults
from mcp_seedream.upstream.client import SeedreamClient
from mcp_seedream.upstream.retries import Retries
from tests.conftest import TOKEN, Session, answer, serving, submits, text
from tests.integration.test_repeated_calls import given_up
from tests.integration.test_repeated_calls_replicas import called, give_up
from tests.support.services import free_port, replica_running

pytestmark = pytest.mark.anyio
STREAM: dict[str, Any] = {"stream": True, "sequential_image_generation": "auto"}


@pytest.mark.parametrize("why", ["connection", "back-off"])
async def test_a_stream_that_was_not_sent_is_sent_when_it_is_repeated(
    table: ModelTable, upstream: str, sandbox: Sandbox, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    """It waited for a connection or backed off when its client cancelled it: it can't have been billed."""
    retries = Retries(first=20, seconds=60)
    server = build_server(
        table,
        lambda: SeedreamClient(upstream, retries=retries, connections=1),
        token_of=lambda _: TOKEN,
        defaults=ToolDefaults(20),
        look_interval=0.05,
    )
    prompt = "a fox [sandbox:rate_limited]" if why == "back-off" else "a fox"
    async with Client(server) as client, anyio.create_task_group() as group:
        if why == "connection":
            group.start_soon(client.call_tool, "generate_image", {"prompt": "foxes [sandbox:slow=0.5]", **STREAM})
            while not submits(sandbox):  # noqa: ASYNC110  (the sandbox is a thread)
                await anyio.sleep(0.01)
        before = len(submits(sandbox))
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(client.call_tool, "generate_image", {"prompt": prompt, **STREAM})
            if why == "back-off":
                while "retrying" not in caplog.text:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
            await anyio.sleep(0.2)
            waiting.cancel_scope.cancel()
        await anyio.sleep(0.2)
        sent = len(submits(sandbox))
        assert sent == before + (why == "back-off")
        results: list[CallToolResult] = []

        async def repeat() -> None:
            results.append(await client.call_tool("generate_image", {"prompt": prompt, **STREAM}))

        async with anyio.create_task_group() as repeating:
            repeating.start_soon(repeat)
            while len(submits(sandbox)) == sent and not results:  # noqa: ASYNC110
                await anyio.sleep(0.01)
            if why == "back-off":
                repeating.cancel_scope.cancel()
        assert not any("uncertain" in text(result) for result in results)
        assert len(submits(sandbox)) == sent + 1


async def test_a_repeated_call_waits_no_longer_than_it_says(table: ModelTable, upstream: str, sandbox: Sandbox) -> None:
    """The first call is still being sent. With `wait_seconds` 0 the second is answered before that is over."""
    server = build_server(
        table,
        lambda: SeedreamClient(upstream),
        token_of=lambda _: TOKEN,
        defaults=ToolDefaults(20),
        look_interval=0.05,
    )
    prompt = "a fox [sandbox:hang=3]"
    async with Client(server, mode="legacy") as client:
        await given_up(client, sandbox, "generate_image", {"prompt": prompt})
        result = await client.call_tool("generate_image", {"prompt": prompt, "wait_seconds": 0})
        assert answer(result)["error"]["code"] == "in_progress"
        assert answer(result)["error"]["retryable"]
        result = await client.call_tool("generate_image", {"prompt": prompt})
    assert "nothing was billed again" in text(result)
    assert len(submits(sandbox)) == 1


@pytest.fixture
def replicas(upstream: str, redis_url: str, tmp_path: Path) -> Iterator[tuple[Any, list[str]]]:
    """The processes of two replicas: the one that is to be killed, and the addresses of both."""
    settings = {
        "ACEDATACLOUD_API_BASE_URL": upstream,
        "SEEDREAM_REDIS_URL": redis_url,
        "SEEDREAM_CHECK_SECONDS": "0",
        "HOME": str(tmp_path),
    }
    ports = [free_port(), free_port()]
    with ExitStack() as stack:
        first, _ = [stack.enter_context(replica_running(port, **settings)) for port in ports]
        yield first, [f"http://127.0.0.1:{port}" for port in ports]


async def test_the_calls_of_a_killed_process_are_not_paid_twice(
    replicas: tuple[Any, list[str]], redis: Any, sandbox: Sandbox
) -> None:
    """`kill -9` with twenty waiting calls, which their clients repeat at once at another replica."""
    process, (first, second) = replicas
    prompts = [f"fox {n} [sandbox:slow=4]" for n in range(20)]
    lost: list[str] = []

    async def call(prompt: str) -> None:
        try:
            await called(first, prompt)
        except httpx.TransportError:
            lost.append(prompt)

    async with anyio.create_task_group() as group:
        for prompt in prompts:
            group.start_soon(call, prompt)
        with anyio.fail_after(30):
            while len(sandbox.jobs) < len(prompts):  # noqa: ASYNC110
                await anyio.sleep(0.02)
        await anyio.sleep(0.3)
        os.kill(process.pid, signal.SIGKILL)
    assert sorted(lost) == sorted(prompts)
    found: list[dict[str, Any]] = []

    async def again(prompt: str) -> None:
        found.append(await called(second, prompt))

    async with anyio.create_task_group() as group:
        for prompt in prompts:
            group.start_soon(again, prompt)
    assert [each["status"] for each in found] == ["succeeded"] * len(prompts)
    assert len(submits(sandbox)) == len(prompts)


async def test_a_notice_for_one_client_leaves_the_other_its_call(
    table: ModelTable, upstream: str, sandbox: Sandbox
) -> None:
    """Two clients of one key use the same request id, and one cancels."""
    from mcp_seedream.core.settings import read_settings  # noqa: PLC0415
    from mcp_seedream.hosting.app import build_app  # noqa: PLC0415

    session = Session(table, upstream, token_of=bearer_token)
    with serving(build_app(session.server, read_settings())) as address:
        async with anyio.create_task_group() as group:
            group.start_soon(partial(called, address, "a fox [sandbox:slow=1]", id_=7))
            group.start_soon(partial(called, address, "a cat [sandbox:slow=1]", id_=7))
            while len(sandbox.jobs) < 2:  # noqa: ASYNC110
                await anyio.sleep(0.02)
            await anyio.sleep(0.2)
            await give_up(address, 7)
            again = await called(address, "a fox [sandbox:slow=1]", id_=8)
            assert "nothing was billed again" in str(again["notes"])
            assert len(submits(sandbox)) == 2
        for prompt in ("a cat [sandbox:slow=1]", "a fox [sandbox:slow=1]"):
            new = await called(address, prompt, id_=9)
            assert "nothing was billed again" not in str(new.get("notes", ""))
    assert len(submits(sandbox)) == 4


async def test_a_silent_client_does_not_pay_twice(table: ModelTable, upstream: str, sandbox: Sandbox) -> None:
    """It times out without a notice and keeps its connection: five tries are one task, and each says so."""
    session = Session(table, upstream, timing=Timing(join_after=0.3))
    results: list[CallToolResult] = []
    async with session.open() as client, anyio.create_task_group() as group:

        async def call() -> None:
            results.append(await client.call_tool("generate_image", {"prompt": "a fox [sandbox:slow=4]"}))

        for _ in range(5):
            group.start_soon(call)
            await anyio.sleep(0.6)
    assert len(submits(sandbox)) == 1
    assert len({answer(result)["task_id"] for result in results}) == 1
    assert all(answer(result)["status"] == "succeeded" for result in results)
    assert sum("The same call began" in text(result) for result in results) == 4
    assert sum("change the prompt" in text(result) for result in results) == 4


async def test_calls_at_the_same_time_are_variations(table: ModelTable, upstream: str, sandbox: Sandbox) -> None:
    """Within three seconds, as agents ask for several pictures; once they are there, the next is a new one, too."""
    session = Session(table, upstream, timing=Timing(join_after=3))
    async with session.open() as client:
        for _ in range(2):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(client.call_tool, "generate_image", {"prompt": "a fox"})
    assert len(submits(sandbox)) == 6
