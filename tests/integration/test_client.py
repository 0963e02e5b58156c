"""The client against a real server that answers whatever a test says."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import anyio
import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mcp_seedream import __version__
from mcp_seedream.core import errors
from mcp_seedream.core.events import Observer, UpstreamRequest
from mcp_seedream.upstream.client import SeedreamClient, Timeouts
from mcp_seedream.upstream.submission import NO_PROGRESS
from mcp_seedream.upstream.types import ImageRequest
from tests.conftest import PATIENT, PERSISTENT, QUICK, Switch, serving, until

pytestmark = pytest.mark.anyio
REQUEST = ImageRequest("m", {"model": "m", "prompt": "p", "async": True})
ACCEPTED = b'{"task_id": "t"}'


@dataclass
class Upstream:
    """Gives every request the same answer, and records the requests."""

    status: int = 200
    body: bytes = ACCEPTED
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0
    requests: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    answered: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await request.body()
        port = {"x-port": str(request.client.port if request.client else 0)}
        self.requests.append((request.url.path, {**request.headers, **port}, json.loads(body) if body else None))
        await anyio.sleep(self.delay)
        kind = {"content-type": "application/json", **self.headers}
        self.answered += 1
        await Response(self.body, self.status, kind)(scope, receive, send)


@pytest.fixture
def server() -> Upstream:
    return Upstream()


@pytest.fixture
async def client(server: Upstream, switch: Switch) -> AsyncIterator[SeedreamClient]:
    switch.app = server
    async with SeedreamClient(switch.address, timeouts=PATIENT, retries=PERSISTENT) as client:
        yield client


@pytest.fixture
async def hasty(server: Upstream, switch: Switch, events: Events) -> AsyncIterator[SeedreamClient]:
    """A client that waits half a second for an answer."""
    switch.app = server
    timeouts = Timeouts(connect=60, read=0.5, look_up=0.5)
    async with SeedreamClient(switch.address, timeouts=timeouts, retries=QUICK, observer=events) as client:
        yield client


def error_body(code: str, message: str = "words of the upstream") -> bytes:
    return json.dumps({"error": {"code": code, "message": message}, "trace_id": "r1"}).encode()


ROWS = [
    (400, "bad_request", errors.RequestRefused, "will be refused again"),
    (400, "token_mismatched", errors.TokenRefused, "platform.acedata.cloud"),
    (400, "api_not_implemented", errors.RequestRefused, ""),
    (400, "no_token", errors.TokenRefused, "platform.acedata.cloud"),
    (400, "disabled", errors.RequestRefused, "support"),
    (401, "invalid_token", errors.TokenRefused, "platform.acedata.cloud"),
    (401, "token_expired", errors.TokenRefused, "platform.acedata.cloud"),
    (401, "token_mismatched", errors.TokenRefused, "platform.acedata.cloud"),
    (403, "used_up", errors.BalanceUsedUp, "top up at https://platform.acedata.cloud"),
    (404, "no_api", errors.RequestRefused, ""),
    (413, "request_too_large", errors.RequestRefused, "smaller pictures"),
    (429, "too_many_requests", errors.RateLimited, "Wait a minute"),
    (500, "api_error", errors.SubmissionUncertain, "may have been accepted and billed"),
    (502, "internal_error", errors.SubmissionUncertain, "may have been accepted and billed"),
    (503, "api_error", errors.SubmissionUncertain, "may have been accepted and billed"),
]


@pytest.mark.parametrize(("status", "code", "kind", "advice"), ROWS)
async def test_every_error_row_of_a_submit(
    client: SeedreamClient, server: Upstream, status: int, code: str, kind: type[errors.UpstreamError], advice: str
) -> None:
    """The error has its kind, code, the upstream's message, its trace_id and advice; the request is sent once."""
    server.status, server.body = status, error_body(code)
    with pytest.raises(errors.UpstreamError) as caught:
        await client.submit(REQUEST, "k")
    error = caught.value
    assert (type(error), error.code, error.status, error.trace_id) == (kind, code, status, "r1")
    assert error.message.startswith("words of the upstream. ")
    assert advice in error.message
    assert error.retryable is (kind is errors.RateLimited)
    assert len(server.requests) == (PERSISTENT.attempts if error.retryable else 1)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "invalid_token", errors.TokenRefused),
        (403, "used_up", errors.BalanceUsedUp),
        (429, "too_many_requests", errors.RateLimited),
        (500, "api_error", errors.UpstreamUnavailable),
        (404, "no_api", errors.RequestRefused),
    ],
)
async def test_error_rows_of_a_look_up(
    client: SeedreamClient, server: Upstream, status: int, code: str, kind: type[errors.UpstreamError]
) -> None:
    """A look-up fails with the kind of its row; a 5xx is not uncertain, since a look-up costs nothing."""
    server.status, server.body = status, error_body(code)
    for ids in (["a"], ["a", "b"]):
        with pytest.raises(errors.UpstreamError) as caught:
            await client.look_up(ids, "k")
        assert type(caught.value) is kind


async def test_a_retired_model_has_an_error_of_its_own(client: SeedreamClient, server: Upstream) -> None:
    """A retired model is `ModelRefused`, with HTTP 400 and as a failure with HTTP 200."""
    server.status, server.body = 400, error_body("bad_request", "model is invalid.")
    with pytest.raises(errors.ModelRefused, match="Nothing was billed"):
        await client.submit(REQUEST, "k")
    server.status, server.body = 200, json.dumps({"success": False, **json.loads(server.body)}).encode()
    with pytest.raises(errors.ModelRefused):
        await client.submit(REQUEST, "k")


async def test_success_false_with_200_is_a_failure(client: SeedreamClient, server: Upstream) -> None:
    """HTTP 200 with `success: false` is a failed task, or an error that is known."""
    server.body = b'{"success": false, "error": {"code": "api_error", "message": "fetch failed"}, "trace_id": "r1"}'
    task = await client.submit(REQUEST, "k")
    assert (task.state, task.trace_id) == ("failed", "r1")
    assert task.error is not None
    assert task.error.message == "fetch failed"
    server.body = b'{"success": false, "error": {"code": "used_up", "message": "no balance"}, "trace_id": "r1"}'
    with pytest.raises(errors.BalanceUsedUp):
        await client.submit(REQUEST, "k")


@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b'{"task_id": "t', b"", b"\xff\xfe", b"[" * 100_000])
async def test_an_answer_that_is_no_json(client: SeedreamClient, server: Upstream, body: bytes) -> None:
    """A submit whose answer is not JSON is uncertain; a look-up is unreadable."""
    server.body, server.headers = body, {"content-type": "text/html"}
    with pytest.raises(errors.SubmissionUncertain, match=r"not JSON \(text/html\).*may have been accepted"):
        await client.submit(REQUEST, "k")
    with pytest.raises(errors.UnreadableReply, match="may come from a proxy in between"):
        await client.look_up(["t"], "k")


@pytest.mark.parametrize("body", [b"{}", b"[]", b"5", b'{"success": true, "data": null}', b'{"task_id": null}'])
async def test_a_submit_whose_answer_says_nothing_is_uncertain(
    client: SeedreamClient, server: Upstream, body: bytes
) -> None:
    """A JSON answer without an id or an outcome is uncertain: the submit may have been billed."""
    server.body = body
    with pytest.raises(errors.SubmissionUncertain, match="may have been accepted and billed"):
        await client.submit(REQUEST, "k")


async def test_ids_of_an_uncertain_submit_are_kept(client: SeedreamClient, server: Upstream) -> None:
    """The error keeps the task id of a 500; an id that is a number becomes text."""
    server.status, server.body = 500, b'{"task_id": "t9", "error": {"code": "api_error", "message": "x"}}'
    with pytest.raises(errors.SubmissionUncertain) as caught:
        await client.submit(REQUEST, "k")
    assert caught.value.task_id == "t9"
    server.status, server.body = 200, b'{"task_id": 12345}'
    assert (await client.submit(REQUEST, "k")).id == "12345"


async def test_a_404_page_is_not_an_unknown_task(client: SeedreamClient, server: Upstream) -> None:
    """A 404 page is a wrong address, and the error names the setting."""
    server.status, server.body = 404, b"<html>not here</html>"
    with pytest.raises(errors.RequestRefused, match="ACEDATACLOUD_API_BASE_URL"):
        await client.look_up(["t"], "k")


async def test_streams_do_not_keep_look_ups_waiting(server: Upstream) -> None:
    """Streams have connections of their own: a look-up is answered while a stream goes on."""
    with serving(server, lifespan="off") as address:
        async with SeedreamClient(address, timeouts=PATIENT, connections=1) as client:
            server.delay = 600

            async def stream() -> None:
                async for _ in client.stream(REQUEST, "k"):
                    pass

            async with anyio.create_task_group() as group:
                group.start_soon(stream)
                await until(lambda: bool(server.requests))
                server.delay = 0
                assert set(await client.look_up(["t"], "k")) == {"t"}
                group.cancel_scope.cancel()


@pytest.mark.parametrize("status", [502, 403, 404, 301])
async def test_html_with_an_error_status(client: SeedreamClient, server: Upstream, status: int) -> None:
    """The status alone decides the error; the page's text is not in it."""
    server.status, server.body = status, b"<html><h1>sorry</h1></html>"
    with pytest.raises(errors.UpstreamError) as caught:
        await client.submit(REQUEST, "k")
    assert caught.value.status == status
    assert "html" not in caught.value.message


@pytest.mark.parametrize(("header", "seconds"), [("70", 70), ("in a minute", 60), ("soon", None)])
async def test_retry_after(client: SeedreamClient, server: Upstream, header: str, seconds: float | None) -> None:
    """`Retry-After` is read as seconds or as a date; an invalid value is ignored."""
    if header == "in a minute":
        header = format_datetime(datetime.now(UTC) + timedelta(minutes=1), usegmt=True)
    server.status, server.body, server.headers = 429, error_body("too_many_requests"), {"retry-after": header}
    with pytest.raises(errors.RateLimited) as caught:
        await client.submit(REQUEST, "k")
    if seconds is None:
        assert caught.value.retry_after is None
    else:
        assert caught.value.retry_after == pytest.approx(seconds, abs=5)
        assert "Wait " in caught.value.message


async def test_503_with_retry_after_was_surely_not_accepted(client: SeedreamClient, server: Upstream) -> None:
    """A 503 with `Retry-After` was not accepted: it is not uncertain."""
    server.status, server.body, server.headers = 503, error_body("api_error"), {"retry-after": "40"}
    with pytest.raises(errors.UpstreamUnavailable, match=r"Nothing was accepted\. Wait 40 s"):
        await client.submit(REQUEST, "k")


async def test_no_answer_in_time(hasty: SeedreamClient, server: Upstream) -> None:
    """A submit without an answer is uncertain and not sent again; for a look-up, the upstream is unavailable."""
    server.delay = 600
    with pytest.raises(
        errors.SubmissionUncertain, match=r"does not answer in time\. The generation may have been accepted and billed"
    ):
        await hasty.submit(REQUEST, "k")
    assert len(server.requests) == 1
    with pytest.raises(
        errors.UpstreamUnavailable, match=r"127\.0\.0\.1 accepts the connection, but does not answer in time"
    ):
        await hasty.look_up(["t"], "k")


@contextmanager
def closed_port() -> Iterator[str]:
    """An address whose port is closed."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


async def test_a_closed_port() -> None:
    """A request without a connection was not sent, and the error says so."""
    with closed_port() as address:
        async with SeedreamClient(address, retries=QUICK) as client:
            with pytest.raises(errors.UpstreamUnavailable, match="Nothing was sent"):
                await client.submit(REQUEST, "k")
            with pytest.raises(errors.UpstreamUnavailable, match="could not be reached"):
                await client.look_up(["t"], "k")


@pytest.mark.parametrize(
    ("proxy", "says"),
    [
        (None, "could not be reached. The host name no-such-host.invalid is unknown ("),
        ("http://127.0.0.1:9", "could not be reached through the proxy. 127.0.0.1 refuses the connection"),
    ],
)
async def test_an_unreachable_host_is_explained(monkeypatch: pytest.MonkeyPatch, proxy: str | None, says: str) -> None:
    """The error names the host or the proxy and the reason, and no exception class."""
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    if proxy:
        monkeypatch.setenv("http_proxy", proxy)
    async with SeedreamClient("http://no-such-host.invalid", retries=QUICK) as client:
        for ask in (lambda: client.submit(REQUEST, "k"), lambda: client.look_up(["t"], "k")):
            with pytest.raises(errors.UpstreamUnavailable, match=re.escape(says)) as caught:
                await ask()
            assert caught.value.retryable
            assert "`mcp-seedream doctor` finds more." in caught.value.message
            assert "Error" not in caught.value.message


async def test_a_connection_cut_before_the_answer_is_uncertain() -> None:
    """A connection that breaks after the request was read leaves the submit uncertain; it is sent once."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    seen = 0

    async def cut(stream: anyio.abc.SocketStream) -> None:
        nonlocal seen
        seen += 1
        async with stream:
            await stream.receive()

    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve, cut)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610  (not Django)
        async with SeedreamClient(f"http://127.0.0.1:{port}") as client:
            with pytest.raises(errors.SubmissionUncertain):
                await client.submit(REQUEST, "k")
        group.cancel_scope.cancel()
    await listener.aclose()
    assert seen == 1


async def test_requests_carry_the_callers_token_and_our_name(client: SeedreamClient, server: Upstream) -> None:
    """Each request has its own call's token, and the name and version of this package."""
    await client.submit(REQUEST, "alice")
    await client.submit(REQUEST, "bob")
    await client.look_up(["t"], "carol")
    assert [headers["authorization"] for _, headers, _ in server.requests] == [
        "Bearer alice",
        "Bearer bob",
        "Bearer carol",
    ]
    assert {headers["user-agent"] for _, headers, _ in server.requests} == {f"mcp-seedream/{__version__}"}


async def test_a_cookie_of_one_call_is_not_sent_with_the_next(client: SeedreamClient, server: Upstream) -> None:
    """Cookies are not stored: they could be another caller's."""
    server.headers = {"set-cookie": "session=alice"}
    await client.submit(REQUEST, "alice")
    await client.submit(REQUEST, "bob")
    assert "cookie" not in server.requests[1][1]


async def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    client: SeedreamClient, server: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests to loopback ignore the proxies of the environment."""
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await client.submit(REQUEST, "k")).id == "t"


async def test_a_proxy_is_used_for_the_world_outside(server: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other requests use the proxy of the environment."""
    with serving(server, lifespan="off") as address:
        monkeypatch.setenv("HTTP_PROXY", address)
        async with SeedreamClient("http://api.example.com") as client:
            assert (await client.submit(REQUEST, "k")).id == "t"
    assert server.requests[0][1]["host"] == "api.example.com"


async def test_a_proxy_that_can_not_be_used_is_named(client: SeedreamClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable, and the extra that SOCKS needs."""
    monkeypatch.setenv("ALL_PROXY", "nonsense://127.0.0.1:9")
    with pytest.raises(errors.ConfigurationError, match=r"ALL_PROXY can't be used.*mcp-seedream-acedatacloud\[socks\]"):
        await client.submit(REQUEST, "k")


async def test_look_ups_go_in_requests_of_fifty(client: SeedreamClient, server: Upstream) -> None:
    """One id is sent as `retrieve`, several as `retrieve_batch`, fifty in each request."""
    server.body = b'{"items": [], "count": 0}'
    await client.look_up([str(n) for n in range(120)], "k")
    assert sorted(len(body["ids"]) for _, _, body in server.requests) == [20, 50, 50]
    assert {body["action"] for _, _, body in server.requests} == {"retrieve_batch"}
    server.requests.clear()
    server.body = ACCEPTED
    await client.look_up(["t"], "k")
    assert server.requests[0][2] == {"action": "retrieve", "id": "t"}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, '{"error": {"code": "not_found", "message": "m"}}'),
        (200, "{}"),
        (200, '{"trace_id": "r1"}'),
        (200, '{"id": null, "response": null}'),
    ],
)
async def test_an_unknown_task_is_not_in_the_answer(
    client: SeedreamClient, server: Upstream, status: int, body: str
) -> None:
    """A 404, or an answer about no task, means that the task is unknown."""
    server.status, server.body = status, body.encode()
    assert await client.look_up(["t"], "k") == {}


@pytest.mark.parametrize(
    "body", ['{"task_id": "t"}', '{"request": {"model": "m"}, "response": {}}', '{"state": "queued"}']
)
async def test_a_task_that_runs_is_in_the_answer(client: SeedreamClient, server: Upstream, body: str) -> None:
    """A task whose answer has no outcome is pending."""
    server.body = body.encode()
    assert (await client.look_up(["t"], "k"))["t"].state == "pending"


async def test_a_cancelled_submit_is_finished_all_the_same(
    client: SeedreamClient, server: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    """A call that is cancelled while its request is in progress still reads the answer, and logs the task."""
    caplog.set_level("INFO")
    server.delay = 0.3
    async with anyio.create_task_group() as group:
        group.start_soon(client.submit, REQUEST, "k")
        await until(lambda: bool(server.requests))
        group.cancel_scope.cancel()
    assert server.answered == 1
    assert "task t accepted" in caplog.text


async def test_one_connection_serves_many_calls(client: SeedreamClient, server: Upstream) -> None:
    """Five submits use one connection."""
    for _ in range(5):
        await client.submit(REQUEST, "k")
    assert len({headers["x-port"] for _, headers, _ in server.requests}) == 1


class Events(Observer):
    """Records upstream requests and refused keys."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        super().__init__(self.keys.append)
        self.requests: list[UpstreamRequest] = []

    def on_upstream_request(self, request: UpstreamRequest) -> None:
        self.requests.append(request)


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
async def observed(server: Upstream, switch: Switch, events: Events) -> AsyncIterator[SeedreamClient]:
    switch.app = server
    async with SeedreamClient(switch.address, timeouts=PATIENT, retries=PERSISTENT, observer=events) as client:
        yield client


async def test_each_request_is_an_event(observed: SeedreamClient, server: Upstream, events: Events) -> None:
    """The event has the kind, the status, the seconds until the answer's end, and the sizes of both bodies."""
    await observed.submit(REQUEST, "k")
    await observed.look_up(["t"], "k")
    sent = [int(headers["content-length"]) for _, headers, _ in server.requests]
    assert [(each.kind, each.status, each.sent, each.received) for each in events.requests] == [
        ("submit", "200", sent[0], len(ACCEPTED)),
        ("look up", "200", sent[1], len(ACCEPTED)),
    ]
    server.delay = 0.2
    await observed.look_up(["t"], "k")
    assert 0.2 <= events.requests[-1].seconds < 60


async def test_each_attempt_is_an_event(
    observed: SeedreamClient, hasty: SeedreamClient, server: Upstream, events: Events
) -> None:
    """Each attempt of a refused stream is an event; a request without an answer has the status "error"."""
    server.status, server.body, server.headers = 429, error_body("too_many_requests"), {"retry-after": "0"}
    with pytest.raises(errors.RateLimited):
        [_ async for _ in observed.stream(REQUEST, "k")]
    assert [(each.kind, each.status) for each in events.requests] == [("stream", "429")] * PERSISTENT.attempts
    assert {each.received for each in events.requests} == {len(server.body)}
    events.requests.clear()
    server.delay = 600
    with pytest.raises(errors.SubmissionUncertain):
        await hasty.submit(REQUEST, "k")
    assert [(each.kind, each.status, each.received) for each in events.requests] == [("submit", "error", 0)]


async def test_a_streamed_answer_is_an_event_at_its_end(
    observed: SeedreamClient, server: Upstream, events: Events
) -> None:
    """A streamed answer is an event at its end, or when it is closed unread."""
    server.body = b'{"type": "image_generation.partial_succeeded", "url": "https://a/b.png"}\n' * 2
    stream = observed.stream(REQUEST, "k")
    await anext(stream)
    assert events.requests == []
    async for _ in stream:
        pass
    assert [(each.kind, each.received) for each in events.requests] == [("stream", len(server.body))]
    async with observed._open_stream(REQUEST, "k", NO_PROGRESS):
        pass
    assert [(each.kind, each.status, each.received) for each in events.requests[1:]] == [("stream", "200", 0)]


async def test_a_refused_key_is_an_event(observed: SeedreamClient, server: Upstream, events: Events) -> None:
    """A key that submits, streams or look-ups refuse is an event; a 403 is not about the key."""
    server.status, server.body = 401, error_body("invalid_token")
    for key, request in (("a", observed.submit(REQUEST, "a")), ("b", observed.look_up(["t"], "b"))):
        with pytest.raises(errors.TokenRefused):
            await request
        assert events.keys[-1] == key
    with pytest.raises(errors.TokenRefused):
        await anext(observed.stream(REQUEST, "c"))
    assert events.keys == ["a", "b", "c"]
    server.status, server.body = 403, error_body("used_up")
    with pytest.raises(errors.BalanceUsedUp):
        await observed.submit(REQUEST, "d")
    assert len(events.keys) == 3


@pytest.mark.parametrize("proxied", [False, True])
async def test_requests_carry_the_trace(
    server: Upstream, events: Events, monkeypatch: pytest.MonkeyPatch, *, proxied: bool
) -> None:
    """Requests have a `traceparent`; requests through a proxy of the environment are events too."""
    span = NonRecordingSpan(SpanContext(0xA1, 0xB2, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)))
    with serving(server, lifespan="off") as address, use_span(span):
        if proxied:
            monkeypatch.setenv("HTTP_PROXY", address)
        async with SeedreamClient("http://api.example.com" if proxied else address, observer=events) as client:
            await client.submit(REQUEST, "k")
    assert f"{0xA1:032x}" in server.requests[0][1]["traceparent"]
    assert [each.status for each in events.requests] == ["200"]
