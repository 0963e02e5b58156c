"""What is sent again and what is not, against a real server that fails as often as a test says."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from tenacity import RetryCallState

from mcp_seedream.core.errors import (
    RateLimited,
    SubmissionUncertain,
    UnreadableReply,
    UpstreamError,
    UpstreamUnavailable,
)
from mcp_seedream.media.downloads import Downloads
from mcp_seedream.upstream.client import SeedreamClient
from mcp_seedream.upstream.retries import Retries
from mcp_seedream.upstream.types import ImageRequest
from tests.conftest import PATIENT, PERSISTENT, QUICK, Switch, download, until

pytestmark = pytest.mark.anyio
REQUEST = ImageRequest("m", {"model": "m", "prompt": "p", "async": True})
FINE = b'{"task_id": "t"}'
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


@dataclass
class Failing:
    """Gives each of `answers` (status, headers, body) in turn, then the right one; counts the requests."""

    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    right: bytes = FINE
    asked: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).body()
        self.asked += 1
        status, headers, body = self.answers.pop(0) if self.answers else (200, {}, self.right)
        await Response(body, status, headers)(scope, receive, send)


@pytest.fixture
def server(switch: Switch) -> Failing:
    switch.app = failing = Failing()
    return failing


@pytest.fixture
async def client(server: Failing, switch: Switch) -> AsyncIterator[SeedreamClient]:
    async with SeedreamClient(switch.address, timeouts=PATIENT, retries=PERSISTENT) as client:
        yield client


Answer = tuple[int, dict[str, str], bytes]


def refused(status: int, **headers: str) -> Answer:
    return status, headers, json.dumps({"error": {"code": "c", "message": "m"}}).encode()


LIMITED, LATER = refused(429, **{"retry-after": "0"}), refused(503, **{"retry-after": "0"})
BROKEN = refused(500)
HTML: Answer = (502, {}, b"<html>")
CUT: Answer = (200, {}, b'{"task_id": "t')


@pytest.mark.parametrize("answers", [[LIMITED], [LATER], [LIMITED, LATER, LIMITED]])
async def test_a_submit_that_surely_was_not_accepted_is_sent_again(
    client: SeedreamClient, server: Failing, answers: list[Any]
) -> None:
    """A submit is sent again after a 429, and after a 503 with `Retry-After`."""
    server.answers = list(answers)
    assert (await client.submit(REQUEST, "k")).id == "t"
    assert server.asked == len(answers) + 1


@pytest.mark.parametrize("answers", [[LIMITED], [LATER]])
async def test_a_stream_is_opened_again_as_a_submit_is(
    client: SeedreamClient, server: Failing, answers: list[Any]
) -> None:
    """A stream is opened again after the same answers, as long as no event has arrived."""
    server.answers = list(answers)
    server.right = b'{"task_id": "t", "type": "image_generation.completed"}\n'
    assert [event.task_id async for event in client.stream(REQUEST, "k")] == ["t"]
    assert server.asked == 2


@pytest.mark.parametrize("answer", [BROKEN, HTML, CUT, refused(503)])
async def test_a_submit_that_may_have_been_accepted_is_sent_once(
    client: SeedreamClient, server: Failing, answer: Any
) -> None:
    """The submit is sent once, and the error says that it may have been billed and where to see it."""
    server.answers = [answer]
    with pytest.raises(SubmissionUncertain, match=r"may have been accepted and billed.*usage at https://"):
        await client.submit(REQUEST, "k")
    assert server.asked == 1


@pytest.mark.parametrize("answer", [BROKEN, HTML, refused(503)])
async def test_so_is_a_stream(client: SeedreamClient, server: Failing, answer: Any) -> None:
    """A stream that may have been accepted is opened once."""
    server.answers = [answer]
    with pytest.raises(SubmissionUncertain):
        _ = [event async for event in client.stream(REQUEST, "k")]
    assert server.asked == 1


@pytest.mark.parametrize("answer", [LIMITED, LATER, BROKEN, HTML, CUT, refused(503)])
async def test_a_look_up_is_made_again(client: SeedreamClient, server: Failing, answer: Any) -> None:
    """A look-up is made again after every transient failure: it costs nothing."""
    server.answers = [answer, answer]
    assert set(await client.look_up(["t"], "k")) == {"t"}
    assert server.asked == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413])
async def test_a_refusal_is_final(client: SeedreamClient, server: Failing, status: int) -> None:
    """A refused request is sent once, whether it is a submit or a look-up."""
    for request in (client.submit(REQUEST, "k"), client.look_up(["t"], "k")):
        server.answers, server.asked = [refused(status)] * 2, 0
        with pytest.raises(UpstreamError):
            await request
        assert server.asked == 1


async def test_what_never_passes_ends(client: SeedreamClient, server: Failing) -> None:
    """A failure that does not pass is raised after the policy's number of attempts."""
    server.answers = [LIMITED] * 9
    with pytest.raises(RateLimited):
        await client.submit(REQUEST, "k")
    assert server.asked == PERSISTENT.attempts


async def test_a_pause_that_is_too_long_is_the_callers(client: SeedreamClient, server: Failing) -> None:
    """A `Retry-After` that is longer than the policy allows is not waited for; the error says how long it is."""
    server.answers = [refused(429, **{"retry-after": "60"})]
    with anyio.fail_after(30):
        with pytest.raises(RateLimited, match="Wait 60 s"):
            await client.submit(REQUEST, "k")
    assert server.asked == 1


async def test_a_port_that_is_closed_at_first(server: Failing, caplog: pytest.LogCaptureFixture) -> None:
    """A submit whose connection is refused was not sent, so it is tried again until the port is open."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()
    retries = Retries(attempts=3000, first=0.02, longest=0.02, seconds=60)

    async def answer(reader: Any, writer: Any) -> None:
        server.asked += 1
        await reader.read(1)
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(FINE), FINE))
        writer.close()

    async with (
        SeedreamClient(f"http://127.0.0.1:{port}", retries=retries) as client,
        anyio.create_task_group() as group,
    ):
        group.start_soon(client.submit, REQUEST, "k")
        await until(lambda: "retrying in" in caplog.text)
        serving = await asyncio.start_server(answer, "127.0.0.1", port)
    serving.close()
    assert server.asked == 1


async def test_a_call_that_is_cancelled_in_a_pause_sends_nothing_more(
    client: SeedreamClient, server: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    """An attempt is finished although the call is cancelled; a pause between two attempts is not."""
    server.answers = [refused(429, **{"retry-after": "1"})] * 3
    async with anyio.create_task_group() as group:
        group.start_soon(client.submit, REQUEST, "k")
        await until(lambda: "retrying in" in caplog.text)
        group.cancel_scope.cancel()
    await anyio.sleep(1.2)
    assert server.asked == 1


@pytest.mark.parametrize(
    ("answer", "asked"), [(refused(404), 1), (refused(503), 2), (LIMITED, 2), ((200, {}, b"<html>"), 1)]
)
async def test_downloads(server: Failing, switch: Switch, tmp_path: Path, answer: Any, asked: int) -> None:
    """A download is repeated after a transient failure, not after a 404 or a page instead of a picture."""
    server.answers, server.right = [answer], PNG
    async with Downloads(sandbox=switch.address, retries=QUICK) as downloads:
        if asked == 1:
            with pytest.raises(UnreadableReply):
                await download(downloads, f"{switch.address}/a.png", tmp_path / "a")
        else:
            await download(downloads, f"{switch.address}/a.png", tmp_path / "a")
            assert (tmp_path / "a").read_bytes() == PNG
    assert server.asked == asked


@given(st.integers(1, 10), st.floats(0.1, 5), st.one_of(st.none(), st.floats(0, 1000)))
def test_pauses_grow_with_jitter_and_honour_the_upstream(attempt: int, first: float, asked: float | None) -> None:
    """A pause is at least the back-off or `Retry-After`, and at most `first` longer."""
    retries = Retries(first=first, longest=8)
    state = RetryCallState(None, None, (), {})  # type: ignore[arg-type]
    state.attempt_number = attempt
    state.set_exception((UpstreamUnavailable, UpstreamUnavailable("x", retry_after=asked), None))
    least = min(first * 2 ** (attempt - 1), 8) if asked is None else asked
    assert least <= retries._pause(state) <= least + first
