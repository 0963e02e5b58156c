"""Limits of concurrent decoding in one process."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from mcp import Client
from PIL import Image

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.media import outputs, pixels, previews
from mcp_seedream.sandbox.app import Sandbox
from mcp_seedream.server.tools import ToolDefaults
from tests.conftest import Session, answer, huge_png, submits, text

pytestmark = pytest.mark.anyio


class Counter:
    """Counts concurrent uses, and their maximum."""

    def __init__(self) -> None:
        self.now = self.most = self.all = 0

    def __enter__(self) -> None:
        self.now += 1
        self.all += 1
        self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        self.now -= 1


@pytest.fixture
def session(table: ModelTable, upstream: str) -> Session:
    return Session(table, upstream, defaults=ToolDefaults(5, lambda _: True))


def webp() -> str:
    """Return a small picture in a format that is decoded only in a subprocess."""
    file = io.BytesIO()
    Image.new("RGB", (50, 50), "red").save(file, "WEBP")
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


async def together(session: Session, count: int, call: Callable[[Client], Any]) -> list[Any]:
    """Return the results of concurrent calls to one server."""
    results = []

    async def one(client: Client) -> None:
        results.append(await call(client))

    async with session.open() as client, anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(one, client)
    return results


async def test_two_processes_decode_at_a_time(
    session: Session, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All callers get their results."""
    workers, run = Counter(), anyio.run_process

    async def counted(*arguments: Any, **options: Any) -> Any:
        with workers:
            return await run(*arguments, **options)

    monkeypatch.setattr(anyio, "run_process", counted)
    arguments = {"prompt": "a", "image": webp(), "wait_seconds": 0}
    results = await together(session, 5, lambda client: client.call_tool("edit_image", arguments))
    assert [answer(result)["status"] for result in results] == ["pending"] * 5
    assert (workers.most, workers.all, workers.now) == (2, 5, 0)
    assert [body["image"] for body in submits(sandbox)] == [[webp()]] * 5


async def test_two_previews_are_made_at_a_time(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Previews share the limit with large inputs."""
    threads, make = Counter(), previews.thumbnail

    def counted(source: pixels.Source) -> bytes:
        with threads:
            time.sleep(0.1)  # long enough for all to come
            return make(source)

    monkeypatch.setattr(outputs, "_PREVIEW_SECONDS", 30)
    monkeypatch.setattr(previews, "thumbnail", counted)
    results = await together(session, 6, lambda client: client.call_tool("generate_image", {"prompt": "a"}))
    assert [block.type for result in results for block in result.content] == ["text", "image"] * 6
    assert (threads.most <= 2, threads.all) == (True, 6)


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ((10_000, 10_000), "has 10000x10000 pixels, more than can be handled"),
        ((40_000, 40_000), "has more pixels than can be handled"),
        ((2**31 - 1, 2**31 - 1), "has more pixels than can be handled"),
        ((7000, 7000), "can't be decoded"),
    ],
)
async def test_a_few_bytes_that_claim_to_be_a_huge_picture(
    session: Session, sandbox: Sandbox, size: tuple[int, int], says: str
) -> None:
    """Rejected because of the size in the header, before pixels are allocated."""
    image = base64.b64encode(huge_png(*size)).decode()
    result = await session.call("edit_image", prompt="a", image=image)
    assert result.is_error
    assert says in text(result)
    assert sandbox.requests == []
