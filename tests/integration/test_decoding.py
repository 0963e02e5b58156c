"""Limits of concurrent decoding in one process."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import anyio
import pytest
from mcp import Client
from PIL import Image

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.media.outputs import PictureTimes
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
    return Session(table, upstream, defaults=ToolDefaults(5, lambda _: True, picture_times=PictureTimes(60)))


@pytest.fixture
def decoders(monkeypatch: pytest.MonkeyPatch) -> dict[str, Counter]:
    """Counts the decoder's subprocesses: of small jobs, of others, and of those that run alone."""
    counters, run = {"small": Counter(), "medium": Counter(), "large": Counter()}, anyio.run_process

    async def counted(command: list[str], **options: Any) -> Any:
        job = json.loads(command[-1])
        size = "large" if job["is_last"] else "small" if job["memory"] < 100e6 else "medium"
        with counters[size]:
            return await run(command, **options)

    monkeypatch.setattr(anyio, "run_process", counted)
    return counters


def encoded(kind: str, size: tuple[int, int] = (50, 50)) -> str:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


async def together(session: Session, count: int, tool: str, **arguments: Any) -> list[Any]:
    """Return the results of concurrent calls to one server, with different prompts."""
    results = []

    async def one(client: Client, number: int) -> None:
        results.append(await client.call_tool(tool, {"prompt": f"a fox {number}", **arguments}))

    async with session.open() as client, anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(one, client, number)
    return results


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
async def test_two_processes_read_headers_at_a_time(
    session: Session, sandbox: Sandbox, decoders: dict[str, Counter], kind: str
) -> None:
    """No kind is read in the server's process. All callers get their results."""
    image = encoded(kind)
    results = await together(session, 5, "edit_image", image=image, wait_seconds=0)
    assert [answer(result)["status"] for result in results] == ["pending"] * 5
    assert (decoders["small"].most, decoders["small"].all, decoders["small"].now) == (2, 5, 0)
    assert (decoders["medium"].all, decoders["large"].all) == (0, 0)
    assert [body["image"] for body in submits(sandbox)] == [[image]] * 5


async def test_a_very_large_picture_is_converted_alone(session: Session, decoders: dict[str, Counter]) -> None:
    """It needs the memory of the two processes that run otherwise."""
    large = encoded("PNG", (8000, 5000))
    results = await together(session, 2, "edit_image", image=large, wait_seconds=0)
    assert ["was made to fit" in text(result) for result in results] == [True, True]
    assert (decoders["large"].most, decoders["large"].all, decoders["medium"].all) == (1, 2, 0)


async def test_two_previews_are_made_at_a_time(session: Session, decoders: dict[str, Counter]) -> None:
    """Previews share the limit with large inputs."""
    results = await together(session, 6, "generate_image")
    assert [block.type for result in results for block in result.content] == ["text", "image"] * 6
    assert (decoders["medium"].most, decoders["medium"].all) == (2, 6)


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
