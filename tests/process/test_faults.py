"""The fault matrix: what goes wrong, where, over which transport: what the agent saw, and how often was submitted.

Real servers, real sockets, the official client. All cells run at once, and in one test: apart, each worker that got
some of them would have to start all servers.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, ImageContent

from tests.conftest import answer, text
from tests.support.faulty import FAULTS, Faulty

TRANSPORTS = ("stdio", "http")
Cell = tuple[str, str]
SECONDS = "2"
"""The servers' time-outs: time enough for an upstream that is merely slow."""
UNCERTAIN, PENDING = ("submission_uncertain", 1), ("pending", 1)
ONCE, AGAIN = ("picture", 1), ("picture", 2)
LOST = dict.fromkeys(
    ["silent", "half-open", "reset", "cut", "garbage", "html-200", "html-502", "truncated", "wrong-types", "endless",
     "gzip-bomb", "gzip-twice"], UNCERTAIN,
)  # fmt: skip
TOLD = {"slow": ONCE, "success-false": ("api_error", 1), "empty": ("empty_result", 1), "duplicates": ONCE,
        "clock-skew": ONCE}  # fmt: skip
# Surely not accepted, and so the only ones that are sent twice: 429, and 503 with Retry-After.
LATER = {"429": AGAIN, "503": AGAIN, "retry-date": AGAIN, "retry-far": ("too_many_requests", 1), "refused": ONCE}
LOOKED = {fault: (outcome, 0) for fault, (outcome, _) in {**TOLD, **LATER}.items()}
UNREACHED = ["silent", "half-open", "reset", "cut", "garbage", "html-502", "endless", "gzip-bomb", "gzip-twice"]

EXPECTED: dict[str, dict[str, tuple[str, int]]] = {
    # The code of a 500 is the upstream's own; the words are those of `submission_uncertain`.
    "submit": {**LOST, **TOLD, **LATER, "500": ("api_error", 1), "gzip": ONCE},
    "stream": {
        **LOST,
        **TOLD,
        **LATER,
        "500": ("api_error", 1),
        "gzip": ONCE,
        # It told who it is before it broke off: the task is waited for.
        **dict.fromkeys(["cut", "truncated", "endless", "heartbeats", "progress"], ONCE),
        "wrong-types": PENDING,  # a number is an id, too
        "events": ONCE,
    },
    # A look-up that fails costs the wait nothing but time.
    "wait": {
        **dict.fromkeys([*LOST, "429", "503", "500", "retry-date"], ONCE),
        **TOLD,
        **dict.fromkeys(["silent", "retry-far", "wrong-types"], PENDING),
    },
    "get_task": {
        **LOOKED,
        **dict.fromkeys(UNREACHED, ("unavailable", 0)),
        **dict.fromkeys(["html-200", "truncated"], ("unreadable_reply", 0)),
        "wrong-types": ("pending", 0),
        "500": ("picture", 0),
        "gzip": ("picture", 0),
    },
    # Whatever becomes of the preview, the link is there.
    "picture": {
        **dict.fromkeys(UNREACHED, ONCE),
        **dict.fromkeys(["html-200", "truncated", "empty", "retry-far"], ONCE),
        **dict.fromkeys(["slow", "429", "503", "500", "retry-date"], ("shown", 1)),
    },
    "saving": {
        **dict.fromkeys(["reset", "cut", "garbage", "html-200", "html-502", "empty", "gzip-bomb", "retry-far"], ONCE),
        **dict.fromkeys(["slow", "truncated", "429", "503", "500", "retry-date"], ("saved", 1)),
    },
}
"""By place and fault: an error's code, or what came; and how many submits the upstream counted."""
APART: list[list[Cell]] = [
    [("wait", fault) for fault in faults]
    for faults in (
        ["silent", "retry-far"],  # at every look-up
        ["500", "half-open", "reset"],
        ["429", "endless", "garbage"],
        ["503", "cut", "html-200"],
        ["retry-date", "gzip-bomb", "html-502"],
        ["truncated", "gzip-twice"],
    )
]
"""Waits by caller: those of one caller are looked up together, so that their faults come one after the other."""


TOLD_AND_LOST = (
    "wait.silent",
    "wait.retry-far",
    "stream.cut",
    "stream.truncated",
    "stream.endless",
    "stream.heartbeats",
)
"""What broke off after the upstream had told the task's id."""


def cells(transport: str) -> list[Cell]:
    """All of a transport; nothing is saved for a caller over HTTP."""
    places = [place for place in EXPECTED if (transport, place) != ("http", "saving")]
    return [(place, fault) for place in places for fault in EXPECTED[place]]


def together(transport: str) -> list[Cell]:
    """The cells of one caller that do not stand in each other's way."""
    return [cell for cell in cells(transport) if not any(cell in faults for faults in APART)]


SLOW_PLACES, SLOW_FAULTS = ("get_task", "picture", "wait"), ("silent", "half-open", "endless")
APART_SECONDS = 0.06
"""Between two calls of a caller: a hundred at once would be late by themselves, on a busy machine."""
SERVER = ["-c", 'ulimit -v 4000000; exec "$0" -m mcp_seedream "$@"', sys.executable]
"""What takes more than 4 GB of addresses fails in the server, and not this machine."""


@dataclass
class Matrix:
    """What every cell came to, by name (`stdio:wait.reset`)."""

    upstream: Faulty
    folder: Path
    results: dict[str, CallToolResult] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def seen(self, name: str) -> tuple[str, int]:
        found = answer(self.results[name])
        outcome = found["error"]["code"] if found["status"] == "failed" else found["status"]
        if outcome == "succeeded":
            shown = any(isinstance(block, ImageContent) for block in self.results[name].content)
            outcome = "saved" if any("path" in image for image in found["images"]) else "shown" if shown else "picture"
        return outcome, self.upstream.submits[name]

    @property
    def log(self) -> Path:
        return self.folder / "http.log"

    @property
    def env(self) -> dict[str, str]:
        return {
            "ACEDATACLOUD_API_BASE_URL": self.upstream.address,
            "ACEDATACLOUD_API_TOKEN": "t",
            "SEEDREAM_JOURNAL": str(self.folder / "tasks.sqlite3"),
            "SEEDREAM_PREVIEW": "on",
            "SEEDREAM_CHECK_SECONDS": "0",  # one exchange with the upstream, not two
            "SEEDREAM_CONNECT_TIMEOUT": SECONDS,
            "SEEDREAM_READ_TIMEOUT": SECONDS,
            "SEEDREAM_STREAM_TIMEOUT": SECONDS,
        }

    @asynccontextmanager
    async def client(self, transport: str, caller: str) -> AsyncIterator[Client]:
        """Over stdio a caller is a process of its own, over HTTP a token."""
        if transport == "stdio":
            async with Client(StdioServerParameters(command="/bin/sh", args=SERVER, env=self.env)) as client:
                yield client
            return
        headers = {"Authorization": f"Bearer {caller}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=60) as web,
            Client(streamable_http_client(await self.endpoint(), http_client=web)) as client,
        ):
            yield client

    async def endpoint(self) -> str:
        """Of the HTTP server, as its log tells it."""
        while not (found := re.search(r"running on (http://\S+)", self.log.read_text("utf-8"))):  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # another process's file can only be looked at again
        return f"{found[1]}/mcp"

    async def call(self, client: Client, transport: str, cell: Cell) -> None:
        place, fault = cell
        name = f"{transport}:{place}.{fault}"
        started = time.monotonic()
        if place == "get_task":
            work = client.call_tool("get_task", {"task_id": name, "wait_seconds": 0})
        else:
            seconds = 10 if EXPECTED[place][fault] == PENDING else 30
            arguments: dict[str, Any] = {"prompt": name, "wait_seconds": seconds}
            arguments |= {"stream": True} if place == "stream" else {}
            arguments |= {"save_to": str(self.folder)} if place == "saving" else {}
            work = client.call_tool("generate_image", arguments)
        with anyio.fail_after(45):
            self.results[name] = await work
        self.seconds[name] = time.monotonic() - started

    async def run(self, transport: str, mine: list[Cell], ready: asyncio.Barrier, serving: asyncio.Event) -> None:
        """One caller's calls, all at once; only those that are to be refused begin before anybody serves."""
        async with self.client(transport, "-".join(mine[0])) as client:

            async def one(place: str, fault: str, after: float) -> None:
                if fault != "refused":
                    await serving.wait()
                    await asyncio.sleep(after)
                await self.call(client, transport, (place, fault))
                if fault in FAULTS and not self.upstream.faults[f"{transport}:{place}.{fault}"]:
                    # It timed out before it came to the upstream: the machine was late, which says nothing.
                    await self.call(client, transport, (place, fault))

            await ready.wait()
            slowest_first = sorted(mine, key=lambda cell: (cell[1] not in SLOW_FAULTS, cell[0] not in SLOW_PLACES))
            await asyncio.gather(*(one(*cell, after=n * APART_SECONDS) for n, cell in enumerate(slowest_first)))


async def filled(matrix: Matrix) -> None:
    """Start the servers while connections to the upstream are refused; then let everything go wrong at once."""
    callers = [(transport, mine) for transport in TRANSPORTS for mine in (together(transport), *APART)]
    ready, serving = asyncio.Barrier(len(callers) + 1), asyncio.Event()

    async def serve() -> None:
        await ready.wait()
        await asyncio.sleep(1)  # the first attempts
        await matrix.upstream.serve()
        serving.set()

    with matrix.upstream.bound():
        async with http_server(matrix), asyncio.timeout(100):
            await asyncio.gather(serve(), *(matrix.run(*caller, ready, serving) for caller in callers))


@asynccontextmanager
async def http_server(matrix: Matrix) -> AsyncIterator[None]:
    """`mcp-seedream --transport http`, on a port of its choice."""
    arguments = [*SERVER, "--transport", "http", "--port", "0"]
    with matrix.log.open("wb") as log:
        process = await asyncio.create_subprocess_exec("/bin/sh", *arguments, env=matrix.env, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


def test_every_fault_everywhere_over_both_transports(tmp_path: Path) -> None:
    """The agent gets what it can work with; twice is submitted only what was surely not accepted."""
    matrix = Matrix(Faulty(), tmp_path)
    asyncio.run(filled(matrix))
    expected = {
        f"{transport}:{place}.{fault}": EXPECTED[place][fault]
        for transport in TRANSPORTS
        for place, fault in cells(transport)
    }
    seen = {name: matrix.seen(name) for name in expected}
    assert not [f"{name}: {seen[name]}, not {cell}" for name, cell in expected.items() if seen[name] != cell]
    # A cell whose fault never came about would say nothing.
    assert {name for name in expected if name.rpartition(".")[2] in FAULTS} <= (+matrix.upstream.faults).keys()
    check_words(matrix)


def check_words(matrix: Matrix) -> None:
    """No error is masked, no task that is known goes unnamed, no link is promised to live for years."""
    for name, result in matrix.results.items():
        assert "Error executing tool" not in text(result), name
        assert "internal_error" not in text(result), name
        assert result.is_error is (answer(result)["status"] == "failed"), name
    for transport in TRANSPORTS:
        for cell in TOLD_AND_LOST:
            assert answer(matrix.results[f"{transport}:{cell}"])["task_id"] == f"{transport}:{cell}"
        until = answer(matrix.results[f"{transport}:wait.clock-skew"])["links_until"]
        assert datetime.fromisoformat(until) < datetime.now(UTC) + timedelta(days=2)
