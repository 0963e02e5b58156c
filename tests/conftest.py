"""What the tests share: the built-in table, a sandbox on a real port, and servers that work against it."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvicorn
from hypothesis import settings
from mcp import Client
from mcp_types import CallToolResult, TextContent
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.catalog.table_file import read_table
from mcp_seedream.core.shutdown import Shutdown
from mcp_seedream.generation.background import Keeping
from mcp_seedream.generation.claims import Timing
from mcp_seedream.generation.journal import Journal
from mcp_seedream.generation.redis_attempts import RedisAttempts
from mcp_seedream.hosting.limits import CallerLimits
from mcp_seedream.media.downloads import Downloads
from mcp_seedream.media.temporary_files import TemporaryFiles, reopened
from mcp_seedream.sandbox.app import Sandbox
from mcp_seedream.server.server import build_server
from mcp_seedream.server.tools import TokenOf, ToolDefaults
from mcp_seedream.upstream.client import SeedreamClient, Timeouts
from mcp_seedream.upstream.retries import Retries

TOKEN = "a-token"
QUICK = Retries(first=0.01, seconds=1.5)
"""Short pauses between attempts. An upstream that asks for a pause of 2 s or more gets no second attempt."""
PERSISTENT = Retries(first=0.01, seconds=30)
"""Retries for tests that count attempts: four, unless the upstream asks for a pause of 30 s or more."""
PATIENT = Timeouts(connect=60, read=60, look_up=60, stream=60)
"""Time-outs that only keep a test from hanging: a busy machine does not reach them."""
INTERVAL = 0.05
"""Seconds between rounds of look-ups in tests that need not wait for real ones."""
# How long an example takes is the machine's business, which may be busy with others.
settings.register_profile("default", deadline=None)
LONG = "long"
# `.venv/bin/pytest -k fuzz --hypothesis-profile=long` looks for minutes.
settings.register_profile(LONG, max_examples=5000, deadline=None)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def table() -> ModelTable:
    return read_table()


@pytest.fixture
def sandbox(table: ModelTable) -> Sandbox:
    return Sandbox(table, record=True, seconds=0.2)


class Switch:
    """One server for all tests: each puts its own app in. Starting one for each would take longer than the tests."""

    def __init__(self) -> None:
        self.app: ASGIApp = JSONResponse({})
        self.address = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


@pytest.fixture(scope="session")
def switch() -> Iterator[Switch]:
    switch = Switch()
    with serving(switch, lifespan="off") as switch.address:
        yield switch


@pytest.fixture
def upstream(sandbox: Sandbox, switch: Switch) -> str:
    """The address of the running sandbox."""
    switch.app = sandbox.app
    return switch.address


@pytest.fixture
def session(table: ModelTable, upstream: str) -> Session:
    return Session(table, upstream)


@pytest.fixture(params=["legacy", "auto"])
def mode(request: pytest.FixtureRequest) -> str:
    """How the client greets: with the handshake of older protocol revisions, or as it finds the server."""
    return str(request.param)


class Session:
    """An in-memory MCP client of a server that works against `upstream`."""

    def __init__(
        self,
        table: ModelTable,
        upstream: str,
        *,
        token: str | None = TOKEN,
        token_of: TokenOf | None = None,
        defaults: ToolDefaults | None = None,
        journal: Journal | None = None,
        shutdown: Shutdown | None = None,
        image_hosts: Sequence[str] = (),
        limits: CallerLimits | None = None,
        redis: RedisAttempts | None = None,
        timing: Timing | None = None,
        keeping: Keeping | None = None,
    ) -> None:
        self.server = build_server(
            table,
            lambda: SeedreamClient(upstream, timeouts=PATIENT, retries=QUICK),
            token_of=token_of or (lambda _: token),
            defaults=defaults or ToolDefaults(20),
            journal=journal,
            shutdown=shutdown,
            look_interval=INTERVAL,
            image_hosts=image_hosts,
            limits=limits,
            redis=redis,
            timing=timing,
            keeping=keeping,
        )

    @asynccontextmanager
    async def open(self, mode: str = "auto") -> AsyncIterator[Client]:
        async with Client(self.server, mode=mode) as client:
            yield client

    async def call(self, tool: str, /, **arguments: Any) -> CallToolResult:
        async with self.open() as client:
            return await client.call_tool(tool, arguments)


def answer(result: CallToolResult) -> dict[str, Any]:
    """The structured content, which every result has."""
    found: dict[str, Any] | None = result.structured_content
    assert found is not None
    return found


def text(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def submits(sandbox: Sandbox) -> list[dict[str, Any]]:
    """The bodies of the generations that reached the upstream."""
    return [body for path, _, body in sandbox.requests if path == "/seedream/images"]


def look_ups(sandbox: Sandbox) -> list[dict[str, Any]]:
    return [body for path, _, body in sandbox.requests if path == "/seedream/tasks"]


def finish(sandbox: Sandbox) -> None:
    """End all tasks of the sandbox that are still running."""
    for job in list(sandbox.jobs.values()):
        job.created_at -= 3600


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true, in another thread or process."""
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def until_quiet(sandbox: Sandbox) -> None:
    """Wait until nothing is looked up for half a second."""
    with anyio.fail_after(60):
        count = -1
        while count < len(look_ups(sandbox)):
            count = len(look_ups(sandbox))
            await anyio.sleep(0.5)


def only(table: ModelTable, *ids: str) -> ModelTable:
    """The table with these models and no others."""
    models = [table.by_id[id_] for id_ in ids]
    fields = {field.alias or name: getattr(table, name) for name, field in ModelTable.model_fields.items()}
    return ModelTable(**fields | {"models": models})


async def download(downloads: Downloads, url: str, path: Path) -> None:
    """Download a picture to a path."""
    async with TemporaryFiles().open("") as file:
        await downloads.fetch(url, file)
        with reopened(file.content) as content:
            path.write_bytes(content.read())


def huge_png(width: int, height: int) -> bytes:
    """A PNG file of a few bytes that claims to have so many pixels, in RGBA; there is no data for them."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(99))))
    made = [(struct.pack(">I", len(d)) + kind + d, zlib.crc32(kind + d)) for kind, d in (*chunks, (b"IEND", b""))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk + struct.pack(">I", crc) for chunk, crc in made)


@contextmanager
def serving(app: ASGIApp, *, lifespan: str = "on", listener: socket.socket | None = None) -> Iterator[str]:
    """Any ASGI app behind a real uvicorn on a loopback port, in a thread; yields its address.

    An app that has to know its address before it runs brings a listening socket of its own.
    """
    # As people run it without `hosted`; servers that tests start as processes have it.
    plain: dict[str, Any] = {"loop": "asyncio", "http": "h11", "log_config": None, "lifespan": lifespan}
    config = uvicorn.Config(app, port=0, timeout_graceful_shutdown=1, **plain)
    server = uvicorn.Server(config)
    sockets = [listener] if listener else None
    thread = threading.Thread(target=server.run, kwargs={"sockets": sockets}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(60)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--snapshots", action="store_true", help="write the tools' snapshots anew")
    parser.addoption("--frameworks", action="store_true", help="run the examples, each with its framework (minutes)")
    parser.addoption("--image", action="store_true", help="build the image without Docker, and try it (root; minutes)")


def pytest_xdist_auto_num_workers() -> int:
    """Two for each processor: most of the time, half of the tests wait for something."""
    return 2 * (os.cpu_count() or 1)
