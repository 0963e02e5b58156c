"""Streamed answers as upstreams give them, through the tool: what came is kept, ids are never lost."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.errors import CallInProgress
from mcp_seedream.core.shutdown import Shutdown
from mcp_seedream.upstream.streaming import read_stream
from mcp_seedream.upstream.types import Image, StreamEvent, Task
from tests.conftest import Session, Switch, answer, serving, text
from tests.support.clocks import OWN_TIME

pytestmark = pytest.mark.anyio
LINK = "https://cdn.example.com/{}.jpg"
KIND = "image_generation."


def picture(number: int, **fields: Any) -> str:
    return json.dumps({"type": f"{KIND}partial_succeeded", "url": LINK.format(number), **fields})


RED, BLUE = (
    base64.b64encode(b"GIF89a\x01\0\x01\0\x80\0\0" + colour * 2 + b"!\xf9\x04\0\0\0\0\0").decode()
    for colour in (b"\xff\0\0", b"\0\0\xff")
)
DONE = json.dumps({"type": f"{KIND}completed", "usage": {}})
STARTED = json.dumps({"type": f"{KIND}started", "task_id": "t1", "trace_id": "r1"})


class Streamer:
    """An upstream that answers with these pieces, as they are; `cut`: the connection then breaks."""

    def __init__(self, *pieces: str | bytes, cut: bool = False) -> None:
        self.pieces = pieces
        self.cut = cut
        self.requests = 0
        self.app = Starlette(routes=[Route("/{path:path}", self.answer, methods=["GET", "POST"])])

    async def answer(self, _: Request) -> Response:
        self.requests += 1
        return StreamingResponse(self.body(), media_type="application/x-ndjson")

    async def body(self) -> AsyncIterator[str | bytes]:
        for piece in self.pieces:
            yield piece
            await anyio.sleep(0.005)  # so that each is a chunk of its own
        if self.cut:
            raise ConnectionResetError


async def stream(table: ModelTable, *lines: str, cut: bool = False) -> Any:
    """The result of a call whose answer is these lines; `cut`: the connection then breaks."""
    streamer = Streamer(*(line + "\n" for line in lines), cut=cut)
    with serving(streamer.app, lifespan="off") as address:
        return await Session(table, address).call("generate_image", prompt="a", stream=True, wait_seconds=0)


async def streamed(session: Session, switch: Switch, streamer: Streamer, **arguments: Any) -> tuple[Any, list[str]]:
    """The result, and what was told on the way."""
    switch.app = streamer.app
    told: list[str] = []

    async def report(progress: float, total: float | None, message: str | None) -> None:
        told.append(message or "")

    async with session.open() as client:
        arguments = {"prompt": "a", "stream": True, **arguments}
        result = await client.call_tool("generate_image", arguments, progress_callback=report)
    return result, told


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


@OWN_TIME
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

    task = await read_stream(events(), report, accepted=accepted, shutdown=Shutdown(), tick=0.05)
    assert task.images
    assert known == ["t1"]
    assert [message for _, message in told] == ["Task t1: 0 s", "Task t1: 0 s", f"Image 1: {LINK.format(1)}"]
    assert told == sorted(told, key=lambda each: each[0])


@pytest.mark.parametrize("cut", [True, False])
async def test_an_id_is_never_lost(table: ModelTable, cut: bool) -> None:
    """The stream says who it is, then ends without a picture: it was accepted, so its task is waited for."""
    result = await stream(table, STARTED, cut=cut)
    assert answer(result)["status"] == "pending"
    assert "broke off before its first picture" in text(result)
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


@pytest.mark.parametrize("started", [[STARTED], []])
async def test_a_failed_picture_before_a_break_is_not_the_end(
    session: Session, switch: Switch, started: list[str]
) -> None:
    """Others of the set may still be made, and billed: even a refused size is not sent again."""
    error = {"code": "bad_request", "message": "the specified size is not supported for model"}
    streamer = Streamer("\n".join([*started, json.dumps({"type": f"{KIND}partial_failed", "error": error})]))
    result, _ = await streamed(session, switch, streamer, sequential_image_generation="auto", wait_seconds=0)
    assert streamer.requests == 1
    if started:
        assert answer(result)["status"] == "pending"
        assert "size is not supported" in text(result)
    else:
        assert answer(result)["error"]["code"] == "submission_uncertain"
        assert "size is not supported" in text(result)


@pytest.fixture
def session(table: ModelTable, switch: Switch) -> Session:
    return Session(table, switch.address)


async def test_a_line_ends_where_a_line_feed_stands(session: Session, switch: Switch) -> None:
    """Not at what else ends a line of text, which JSON may hold unescaped."""
    odd = "a\u2028b\u2029c\u0085d"
    line = json.dumps({"type": f"{KIND}partial_succeeded", "url": LINK.format(1), "name": odd}, ensure_ascii=False)
    result, _ = await streamed(session, switch, Streamer(f"{line}\r\n{DONE}\r\n".encode()))
    assert answer(result)["images"] == [{"url": LINK.format(1), "name": odd}]
    assert "notes" not in answer(result)


@pytest.mark.parametrize("junk", ["<html>", '{"type": "ima', "\x00\x01", "[" * 100_000, "5", '"text"', "null", "[]"])
async def test_junk_between_good_lines(session: Session, switch: Switch, junk: str) -> None:
    """Costs nothing but itself."""
    lines = [STARTED, picture(1), junk, picture(2), junk, DONE]
    result, _ = await streamed(session, switch, Streamer("\n".join(lines)))
    assert [image["url"] for image in answer(result)["images"]] == [LINK.format(1), LINK.format(2)]
    assert "notes" not in answer(result)


@pytest.mark.parametrize("pieces", [1, 7, 200])
async def test_chunks_break_anywhere(session: Session, switch: Switch, pieces: int) -> None:
    """In the middle of a line, of a character, or with several lines in one."""
    name = "\u72d0\u72f8 \U0001f98a"
    named = json.loads(picture(2)) | {"name": name}
    data = "\n".join(["data: " + STARTED, "", picture(1), json.dumps(named, ensure_ascii=False), DONE]).encode()
    size = -(-len(data) // pieces)
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    result, told = await streamed(session, switch, Streamer(*chunks))
    assert told == [f"Image {n}: {LINK.format(n)}" for n in (1, 2)]
    assert answer(result)["images"][1]["name"] == name
    assert answer(result)["task_id"] == "t1"


async def test_sse_with_events_nobody_knows(session: Session, switch: Switch) -> None:
    """Framing, comments, blank lines and other events say nothing; what they frame is read."""
    unknown = json.dumps({"type": f"{KIND}thinking", "thought": 1})
    events = [STARTED, unknown, picture(1), '{"type": null}', '{"event": 5}', picture(2), DONE]
    framed = "".join(f": ping\nevent: message\nid: 7\nretry: 9\ndata: {event}\n\n" for event in events)
    result, told = await streamed(session, switch, Streamer(framed, "data: [DONE]\n\n"))
    assert told == [f"Image {n}: {LINK.format(n)}" for n in (1, 2)]
    assert "notes" not in answer(result)


async def test_repeated_image_data_counts_once(session: Session, switch: Switch) -> None:
    """The last event may repeat every picture; data is told as such, not sent as progress."""
    events = [{"type": f"{KIND}partial_succeeded", "b64_json": data} for data in (RED, BLUE, RED)]
    last = {"type": f"{KIND}completed", "data": [{"b64_json": RED}, {"b64_json": BLUE}]}
    lines = "\n".join(map(json.dumps, [*events, last]))
    result, told = await streamed(session, switch, Streamer(lines), response_format="b64_json")
    assert told == ["Image 1: done", "Image 2: done"]
    assert [block.data for block in result.content if block.type == "image"] == [RED, BLUE]


async def test_a_failed_picture_is_told_as_it_fails(session: Session, switch: Switch) -> None:
    """Among the others, in order; and counted in the end, with what was used."""
    failed = json.dumps({"type": f"{KIND}partial_failed", "error": {"code": "c", "message": "refused"}})
    done = {"type": f"{KIND}completed", "usage": {"generated_images": 2, "output_tokens": 9, "tier": "x", "n": None}}
    lines = [STARTED, picture(1), failed, picture(2), json.dumps(done)]
    result, told = await streamed(session, switch, Streamer("\n".join(lines)))
    assert told == [f"Image 1: {LINK.format(1)}", "An image failed: refused", f"Image 2: {LINK.format(2)}"]
    assert answer(result)["notes"] == ["1 of 3 images failed: refused (c)."]
    assert answer(result)["usage"] == {"generated_images": 2, "output_tokens": 9}


@pytest.mark.parametrize("rest", [b"", picture(2).encode()[:40]])
async def test_a_break_in_the_middle(session: Session, switch: Switch, rest: bytes) -> None:
    """Between two lines, or in one: what came is kept, with the task's id, and nothing is sent again."""
    streamer = Streamer(f"{STARTED}\n{picture(1)}\n", rest, cut=True)
    result, _ = await streamed(session, switch, streamer)
    assert not result.is_error
    assert [image["url"] for image in answer(result)["images"]] == [LINK.format(1)]
    assert (answer(result)["task_id"], answer(result)["trace_id"]) == ("t1", "r1")
    assert 'get_task with task_id "t1" may have the others' in answer(result)["notes"][0]
    assert streamer.requests == 1


async def test_an_error_of_this_server_is_raised_as_it_is() -> None:
    """Clients are told its code, which an exception group would hide."""

    async def events() -> AsyncGenerator[StreamEvent]:
        yield StreamEvent()
        raise CallInProgress

    async def nothing(*_: Any, **__: Any) -> None: ...

    with pytest.raises(CallInProgress):
        await read_stream(events(), nothing, accepted=nothing, shutdown=Shutdown())
