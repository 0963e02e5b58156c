"""How processes end over stdio and HTTP, by signals, a closed stdin or a kill; and what the next process finds."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from mcp_seedream.sandbox.app import Sandbox
from tests.conftest import answer, finish, look_ups, submits, text, until
from tests.process.test_stdio import COMMAND, OLD, Process, hello

SLOW = {"prompt": "a fox [sandbox:slow=60]"}
GRACE = 60
"""Seconds that a server has to end: what ends much sooner did not wait for it."""


def environment(upstream: str, folder: Path) -> dict[str, str]:
    return {
        "ACEDATACLOUD_API_BASE_URL": upstream,
        "ACEDATACLOUD_API_TOKEN": "alice",
        "SEEDREAM_JOURNAL": str(folder / "tasks.sqlite3"),
        "SEEDREAM_PREVIEW": "off",
        "SEEDREAM_SHUTDOWN_SECONDS": str(GRACE),
    }


def begin(server: Process, tool: str = "generate_image", **arguments: Any) -> None:
    """Start a call, and return once the upstream has accepted it."""
    params = {"name": tool, "arguments": arguments, "_meta": {"progressToken": 1}}
    server.tell({"id": 2, "method": "tools/call", "params": params})
    assert server.process.stdout is not None
    assert "is accepted" in server.process.stdout.readline()


def left(server: Process) -> str:
    """The rest of the server's output, until it ends."""
    return server.process.communicate(timeout=60)[0]


def close_input(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None  # communicate() would flush it


ENDS: list[tuple[Callable[[subprocess.Popen[str]], None], int]] = [
    (close_input, 0),
    (lambda process: process.send_signal(signal.SIGTERM), -signal.SIGTERM),
    (lambda process: process.send_signal(signal.SIGINT), -signal.SIGINT),
]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize(("end", "status"), ENDS, ids=["closed stdin", "SIGTERM", "SIGINT"])
def test_a_wait_over_stdio_ends_with_what_it_has(
    upstream: str, sandbox: Sandbox, tmp_path: Path, end: Callable[[subprocess.Popen[str]], None], status: int
) -> None:
    """The call ends at once with a pending result and no traceback; the next server claims its task."""
    server = Process(cwd=tmp_path, env=environment(upstream, tmp_path))
    hello(server, OLD)
    begin(server, **SLOW)
    end(server.process)
    said, errors = server.process.communicate(timeout=60)
    assert '"status":"pending"' in said.replace(" ", "")
    assert "Traceback" not in errors
    assert server.process.returncode == status
    again = Process(cwd=tmp_path, env=environment(upstream, tmp_path))
    hello(again, OLD)
    result = again.ask("tools/call", {"name": "generate_image", "arguments": {**SLOW, "wait_seconds": 0}})[-1]
    assert "nothing was billed again" in str(result)
    assert left(again) == ""
    assert len(submits(sandbox)) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_a_second_signal_ends_at_once(upstream: str, sandbox: Sandbox, tmp_path: Path) -> None:
    """A second signal ends the process, although a request is in progress."""
    server = Process(cwd=tmp_path, env=environment(upstream, tmp_path))
    hello(server, OLD)
    arguments = {"prompt": "a fox [sandbox:hang=30]"}
    server.tell({"id": 2, "method": "tools/call", "params": {"name": "generate_image", "arguments": arguments}})
    while not submits(sandbox):
        time.sleep(0.01)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.stderr is not None
    while "shutting down" not in server.process.stderr.readline():
        pass
    started = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert "Traceback" not in server.process.communicate(timeout=60)[1]
    assert server.process.returncode == -signal.SIGTERM
    assert time.monotonic() - started < GRACE / 2


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_a_request_that_hangs_is_given_up_in_time(upstream: str, sandbox: Sandbox, tmp_path: Path) -> None:
    """A submit without an answer is given up before the grace period ends, and reported as uncertain."""
    server = Process(cwd=tmp_path, env={**environment(upstream, tmp_path), "SEEDREAM_SHUTDOWN_SECONDS": "1"})
    hello(server, OLD)
    arguments = {"prompt": "a fox [sandbox:hang=30]"}
    server.tell({"id": 2, "method": "tools/call", "params": {"name": "generate_image", "arguments": arguments}})
    while not submits(sandbox):
        time.sleep(0.01)
    server.process.send_signal(signal.SIGTERM)
    said, errors = server.process.communicate(timeout=60)
    assert "submission_uncertain: The server was stopped before the upstream answered." in said
    assert "Traceback" not in errors
    assert server.process.returncode == -signal.SIGTERM


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_a_stream_is_broken_off_with_what_came(upstream: str, tmp_path: Path) -> None:
    """The result has the pictures so far, and the task's id for the others."""
    server = Process(cwd=tmp_path, env=environment(upstream, tmp_path))
    hello(server, OLD)
    arguments = {"prompt": "foxes", "stream": True, "sequential_image_generation": "auto"}
    params = {"name": "generate_image", "arguments": arguments, "_meta": {"progressToken": 1}}
    server.tell({"id": 2, "method": "tools/call", "params": params})
    assert server.process.stdout is not None
    assert "Image 1" in server.process.stdout.readline()
    server.process.send_signal(signal.SIGTERM)
    said, errors = server.process.communicate(timeout=60)
    assert "The stream broke off after 1 of the images: get_task with task_id" in said
    assert "Traceback" not in errors


@pytest.mark.parametrize("word", ["slow=60", "hang=60"])
def test_a_call_that_is_repeated_after_a_crash_is_not_billed_again(
    upstream: str, sandbox: Sandbox, tmp_path: Path, word: str
) -> None:
    """After `kill -9`, the repeated call claims an accepted task, and reports a submit in progress as uncertain."""
    call: dict[str, Any] = {"name": "generate_image", "arguments": {"prompt": f"a red fox [sandbox:{word}]"}}
    server = Process(cwd=tmp_path, env=environment(upstream, tmp_path))
    hello(server, OLD)
    if word == "slow=60":
        begin(server, **call["arguments"])
    else:
        server.tell({"id": 2, "method": "tools/call", "params": call})
        while not submits(sandbox):
            time.sleep(0.01)
    server.process.kill()
    server.process.communicate()
    finish(sandbox)
    again = Process(cwd=tmp_path, env=environment(upstream, tmp_path))
    hello(again, OLD)
    said = str(again.ask("tools/call", call)[-1])
    assert ("nothing was billed again" if word == "slow=60" else "submission_uncertain") in said
    assert left(again) == ""
    assert len(submits(sandbox)) == 1


def test_a_killed_server_loses_no_task(upstream: str, sandbox: Sandbox, tmp_path: Path) -> None:
    """After `kill -9` during a wait, get_task of the next server has the task, and lists it."""
    server = Process(cwd=tmp_path, env=environment(upstream, tmp_path))
    hello(server, OLD)
    begin(server, prompt="a red fox [sandbox:slow=1]")
    server.process.kill()
    server.process.communicate()
    again = Process(cwd=tmp_path, env=environment(upstream, tmp_path))
    hello(again, OLD)
    [task] = sandbox.jobs
    result = again.ask("tools/call", {"name": "get_task", "arguments": {"task_id": task}})[-1]["result"]
    assert result["structuredContent"]["status"] == "succeeded"
    listed = again.ask("tools/call", {"name": "get_task", "arguments": {}})[-1]["result"]
    assert listed["structuredContent"]["tasks"][0]["images"] == [
        {"url": result["structuredContent"]["images"][0]["url"]}
    ]
    assert left(again) == ""
    assert len(submits(sandbox)) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("word", ["slow=60", "hang=4"])
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_client_that_gives_up_and_repeats_pays_once(
    upstream: str, sandbox: Sandbox, tmp_path: Path, mode: str, word: str
) -> None:
    """A client that times out twice over stdio and repeats its call gets one task, accepted by then or not."""
    command, *arguments = COMMAND
    parameters = StdioServerParameters(command=command, args=arguments, env=environment(upstream, tmp_path))
    call = {"prompt": f"a fox [sandbox:{word}]"}
    async with Client(parameters, mode=mode) as client:
        for _ in range(2):
            with pytest.raises(MCPError):
                await client.call_tool("generate_image", call, read_timeout_seconds=1)
        assert len(submits(sandbox)) == 1
        finish(sandbox)
        result = await client.call_tool("generate_image", call)
    assert answer(result)["status"] == "succeeded"
    assert len(submits(sandbox)) == 1


@contextmanager
def hosted(upstream: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`mcp-seedream --transport http` as a process, and its endpoint."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()
    command = [*COMMAND, "--transport", "http", "--port", str(port)]
    env = {**os.environ, **environment(upstream, folder)}
    with subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "Uvicorn running" in line:
                break
        try:
            yield process, f"http://127.0.0.1:{port}/mcp"
        finally:
            process.kill()


@asynccontextmanager
async def connected(endpoint: str, mode: str, token: str = "alice") -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=60) as web,
        Client(streamable_http_client(endpoint, http_client=web), mode=mode) as client,
    ):
        yield client


@pytest.mark.anyio
@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_waits_over_http_return_their_ids(upstream: str, sandbox: Sandbox, tmp_path: Path, mode: str) -> None:
    """Calls end with pending results within the grace period; new calls get 503 with `Retry-After`."""
    results = []

    async def wait(endpoint: str, token: str) -> None:
        async with connected(endpoint, mode, token) as client:
            results.append(await client.call_tool("generate_image", SLOW))

    with hosted(upstream, tmp_path) as (process, endpoint):
        async with anyio.create_task_group() as group:
            for n in range(3):
                group.start_soon(wait, endpoint, f"caller-{n}")
            await until(
                lambda: {body.get("id") for body in look_ups(sandbox)} >= set(sandbox.jobs) and len(sandbox.jobs) == 3
            )
            headers = {"Authorization": "Bearer alice", "Accept": "text/event-stream"}
            port = httpx.URL(endpoint).port
            async with (
                httpx.AsyncClient(headers=headers) as web,
                await anyio.connect_tcp("127.0.0.1", port or 0) as idle,  # does not delay the end
            ):
                await idle.send(b"GET / HTTP/1.1\r\nHost")
                process.send_signal(signal.SIGTERM)
                started = time.monotonic()
                body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {}}
                while (new := await web.post(endpoint, json=body)).status_code != 503:  # noqa: ASYNC110
                    await anyio.sleep(0.02)
        assert (new.status_code, new.headers["retry-after"]) == (503, "2")
        assert await anyio.to_thread.run_sync(process.wait, GRACE) == -signal.SIGTERM
        assert time.monotonic() - started < GRACE / 2
        assert process.stderr is not None
        log = process.stderr.read()
        assert "Traceback" not in log
        assert "could not be answered" not in log
    assert [answer(result)["status"] for result in results] == ["pending"] * 3
    assert {answer(result)["task_id"] for result in results} == set(sandbox.jobs)
    assert all("is still running" in text(result) for result in results)


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_client_that_leaves_over_http_and_comes_back_pays_once(
    upstream: str, sandbox: Sandbox, tmp_path: Path, mode: str
) -> None:
    """A client that closes its connection and repeats the call gets one task; another caller gets its own."""
    call = {"prompt": "a fox [sandbox:slow=60]"}
    with hosted(upstream, tmp_path) as (_, endpoint):
        async with connected(endpoint, mode) as client, anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "generate_image", call)
            await until(lambda: bool(sandbox.jobs))
            group.cancel_scope.cancel()
        assert len(submits(sandbox)) == 1
        async with connected(endpoint, mode, "bob") as client:
            await client.call_tool("generate_image", {**call, "wait_seconds": 0})
        assert len(submits(sandbox)) == 2
        finish(sandbox)
        async with connected(endpoint, mode) as client:
            result = await client.call_tool("generate_image", call)
    assert answer(result)["status"] == "succeeded"
    assert len(submits(sandbox)) == 2
