"""Streamed answers as upstreams give them, through the tool: what came is kept, ids are never lost."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from mcp_seedream.capabilities import ModelTable
from mcp_seedream.stopping import Stopping
from mcp_seedream.streaming import read_stream
from mcp_seedream.wire import Image, StreamEvent, Task
from tests.conftest import Session, answer, serving, text

pytestmark = pytest.mark.anyio
LINK = "https://cdn.example.com/{}.jpg"
KIND = "image_generation."


def picture(number: int, **fields: Any) -> str:
    return json.dumps({"type": f"{KIND}partial_succeeded", "url": LINK.format(number), **fields})


DONE = json.dumps({"type": f"{KIND}completed", "usage": {}})
STARTED = json.dumps({"type": f"{KIND}started", "task_id": "t1", "trace_id": "r1"})


async def stream(table: ModelTable, *lines: str, cut: bool = False) -> Any:
    """The result of a call whose answer is these lines; `cut`: the connection then breaks."""

    async def images(_: Request) -> Response:
        async def body() -> AsyncIterator[str]:
            for line in lines:
                yield line + "\n"
            if cut:
                raise ConnectionResetError

        return StreamingResponse(body(), media_type="application/x-ndjson")

    with serving(Starlette(routes=[Route("/seedream/images", images, methods=["POST"])]), lifespan="off") as address:
        return await Session(table, address).call("generate_image", prompt="a", stream=True)


@pytest.mark.parametrize(
    ("lines", "images"),
    [
        ([STARTED, picture(1), picture(2), DONE], [1, 2]),
        (["", ": ping", "event: x", "data: " + picture(1), "", "data: [DONE]"], [1]),
        ([picture(1), '{"type": "image_generation.progress", "percent": 5}', picture(2), DONE], [1, 2]),
        ([json.dumps({"type": f"{KIND}completed", "data": [{"url": LINK.format(n)} for n in (1, 2)]})], [1, 2]),
        ([picture(1), json.dumps({"type": f"{KIND}completed", "data": [{"url": LINK.format(1)}]})], [1]),
        ([json.dumps({"type": f"{KIND}completed", "image_url": LINK.format(1)})], [1]),
        ([json.dumps({"success": True, "task_id": "t1", "data": [{"image_url": LINK.format(1)}]})], [1]),
        ([json.dumps({"success": True, "data": {"status": "succeeded", "image_url": LINK.format(1)}})], [1]),
        ([picture(1)], [1]),
    ],
)
async def test_pictures_are_found_wherever_they_stand(table: ModelTable, lines: list[str], images: list[int]) -> None:
    """In events of their own, in the last one, or in an answer that came whole; none twice."""
    result = await stream(table, *lines)
    assert [image["url"] for image in answer(result)["images"]] == [LINK.format(n) for n in images]


async def test_the_time_is_told_between_pictures() -> None:
    """So that a client that waits for a sign of life gets one; the numbers grow."""
    told: list[tuple[float, str]] = []

    async def report(progress: float, *, message: str) -> None:
        told.append((progress, message))

    async def events() -> AsyncGenerator[StreamEvent]:
        yield StreamEvent(task_id="t1")
        await anyio.sleep(0.12)
        yield StreamEvent((Image(LINK.format(1)),), completed=True)

    known: list[str] = []

    async def accepted(task: Task) -> None:
        known.append(task.id)

    task = await read_stream(events(), report, accepted=accepted, stopping=Stopping(), tick=0.05)
    assert task.images
    assert known == ["t1"]
    assert [message for _, message in told] == ["Task t1: 0 s", "Task t1: 0 s", f"Image 1: {LINK.format(1)}"]
    assert told == sorted(told, key=lambda each: each[0])


@pytest.mark.parametrize("cut", [True, False])
async def test_an_id_is_never_lost(table: ModelTable, cut: bool) -> None:
    """The stream says who it is, then ends without a picture: the error names the task."""
    result = await stream(table, STARTED, cut=cut)
    assert result.is_error
    assert answer(result)["error"]["code"] == "submission_uncertain"
    assert (answer(result)["task_id"], answer(result)["trace_id"]) == ("t1", "r1")
    assert "t1" in text(result)


async def test_a_stream_that_turns_into_html(table: ModelTable) -> None:
    """Before any picture it is uncertain; after one, the one is kept."""
    result = await stream(table, "<html>")
    assert answer(result)["error"]["code"] == "submission_uncertain"
    assert "may have been accepted and billed" in text(result)
    result = await stream(table, picture(1), "<html>")
    assert answer(result)["status"] == "succeeded"
    assert "broke off" in answer(result)["notes"][0]


async def test_failed_pictures_are_counted(table: ModelTable) -> None:
    """Some: notes. All: an error with the first one's words."""
    failed = json.dumps({"type": f"{KIND}partial_failed", "error": {"code": "c", "message": "refused"}})
    result = await stream(table, picture(1), failed, DONE)
    assert answer(result)["notes"] == ["1 of 2 images failed: refused (c)."]
    result = await stream(table, failed, DONE)
    assert result.is_error
    assert answer(result)["error"]["code"] == "c"
