"""Connections that send nothing, or too little, or are too many: with each event loop and HTTP parser."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from mcp_seedream.hosting import connections
from mcp_seedream.hosting.connections import BoundedProtocol, BoundedProtocolMixin, Connections
from tests.support.services import free_port, healthy, listens, replica_running

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits of files are POSIX's")
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
LONG = b"GET /long HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
SERVER = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]),) * 2)
if sys.argv[3] == "asyncio":
    sys.modules["uvloop"] = sys.modules["httptools"] = None
from mcp_seedream.cli import main
main(["--transport", "http", "--port", sys.argv[1]])
"""


class H11Bounded(BoundedProtocolMixin, H11Protocol):
    """As where httptools is not installed."""


@pytest.fixture(params=["h11", "httptools"])
def protocol(request: pytest.FixtureRequest) -> Any:
    """The class over one of the parsers."""
    if request.param == "httptools":
        pytest.importorskip("httptools")
        return BoundedProtocol
    return H11Bounded


class App:
    """Answers at once without reading the body; `/long` when it is told to."""

    def __init__(self) -> None:
        self.finish = threading.Event()

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        if scope["path"] == "/long":
            await anyio.to_thread.run_sync(self.finish.wait)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@contextmanager
def serving(protocol: Any, limits: Connections, app: App) -> Iterator[int]:
    options: dict[str, Any] = {"http": partial(protocol, connections=limits), "loop": "asyncio", "log_config": None}
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", timeout_graceful_shutdown=1, **options))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        app.finish.set()
        server.should_exit = True
        thread.join(60)


def connect(port: int, *sent: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    for part in sent:
        client.sendall(part)
    return client


def rest(client: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    got = b""
    with suppress(ConnectionResetError):
        while part := client.recv(4096):
            got += part
    return got


def answer(client: socket.socket) -> bytes:
    """The answer of `App`."""
    got = b""
    while not got.endswith(b"ok"):
        part = client.recv(4096)
        assert part, got
        got += part
    return got


@pytest.mark.parametrize(
    ("sent", "answers"),
    [((), 0), ((b"GET / HT",), 0), ((REQUEST, b"GET / HTTP/1.1\r\nHo"), 1), ((HEAD, b"x"), 1)],
    ids=["nothing", "half a line", "half of the second request", "a body without an end"],
)
def test_a_connection_without_a_request_is_closed(protocol: Any, sent: tuple[bytes, ...], answers: int) -> None:
    """After a time; a request that was sent is answered."""
    limits, app = Connections(10, head_seconds=0.3, unread_body_seconds=0.5), App()
    with serving(protocol, limits, app) as port, connect(port, *sent[:1]) as client:
        got = answer(client) if answers else b""
        for part in sent[1:]:
            client.sendall(part)
        got += rest(client)
        assert got.count(b"HTTP/1.1 200") == answers
    assert not limits._all
    assert not limits._idle


def test_a_long_request_is_not_closed(protocol: Any) -> None:
    """Its time is not limited here, and a slow head has its time from the first byte."""
    limits, app = Connections(10, head_seconds=0.2), App()
    with serving(protocol, limits, app) as port, connect(port, LONG) as client:
        threading.Timer(0.6, app.finish.set).start()
        answer(client)
        client.sendall(REQUEST)
        answer(client)


def test_the_connection_that_is_idle_longest_makes_room(protocol: Any) -> None:
    """Those with requests in progress stay; if there are no others, a new one gets 503."""
    limits, app = Connections(3), App()
    with serving(protocol, limits, app) as port, ExitStack() as stack:
        busy = stack.enter_context(connect(port, LONG))
        first, second = [stack.enter_context(connect(port)) for _ in range(2)]
        first.sendall(REQUEST)
        answer(first)  # now the second is idle longest
        third = stack.enter_context(connect(port, LONG))
        assert rest(second) == b""
        fourth = stack.enter_context(connect(port, LONG))
        assert rest(first) == b""
        with connect(port) as refused:
            got = rest(refused)
            assert got.startswith(b"HTTP/1.1 503")
            assert b"Retry-After: 5\r\n" in got
        app.finish.set()
        for client in (busy, third, fourth):
            answer(client)


CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("start", "repeated"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"a: b\r\n"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\na: ", b"a"),
        (b"GET /", b"a"),
        (CHUNKED.replace(b"POST /", b"POST /long") + b"1\r\nx\r\n0\r\n", b"a: b\r\n"),
        (CHUNKED.replace(b"POST /", b"POST /long") + b"1;a=", b"a"),
    ],
    ids=["headers", "a header", "a path", "trailers", "a chunk extension"],
)
def test_headers_without_an_end_close_the_connection(start: bytes, repeated: bytes) -> None:
    """After about 64 KiB."""
    pytest.importorskip("httptools")
    app, sent = App(), 0
    with (
        serving(BoundedProtocol, Connections(10), app) as port,
        connect(port, start) as client,
        suppress(ConnectionError),
    ):
        while sent < 20_000_000:
            client.sendall(repeated * (8192 // len(repeated)))
            sent += 8192
    assert sent < 10_000_000  # what the buffers of both sides hold


def test_many_pipelined_requests_close_the_connection() -> None:
    """A few are answered in order; the memory of more would have no limit."""
    pytest.importorskip("httptools")
    app = App()
    with serving(BoundedProtocol, Connections(10), app) as port:
        with connect(port, REQUEST * 10) as client:
            got = b""
            while got.count(b"ok") < 10 and (part := client.recv(4096)):
                got += part
            assert got.count(b"HTTP/1.1 200") == 10
        with connect(port, LONG + REQUEST * 1000) as client:
            assert b"HTTP/1.1 400" in rest(client)


def test_trailers_are_no_headers() -> None:
    """RFC 9110, 6.5.1."""
    pytest.importorskip("httptools")
    seen: list[Any] = []

    class Noting(App):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            seen.append(dict(scope["headers"]))
            await super().__call__(scope, receive, send)

    sent = CHUNKED + b"1\r\nx\r\n0\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n"
    with serving(BoundedProtocol, Connections(10), Noting()) as port, connect(port, sent) as client:
        answer(client)
    assert seen == [{b"host": b"localhost", b"transfer-encoding": b"chunked"}]


class LargeApp(App):
    """Answers with 20 MB."""

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        size = 20_000_000 if scope["path"] == "/" else 2
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": bytes(size)})


def test_a_response_that_is_not_read_is_freed(protocol: Any) -> None:
    """After a time; a client that reads slowly gets all of it."""
    limits = Connections(10, stalled_seconds=0.5)
    with serving(protocol, limits, LargeApp()) as port:
        with connect(port, REQUEST) as client:
            wait_until(lambda: limits._all_unread > 1_000_000)
            wait_until(lambda: not limits._all)
            assert len(rest(client)) < 20_000_000
        with connect(port, REQUEST) as client:
            got = 0
            while got < 20_000_000:
                got += len(client.recv(2_000_000))
                time.sleep(0.05)
    assert limits._all_unread == 0


def test_responses_that_are_not_read_have_a_limit(protocol: Any) -> None:
    """Of memory, of all together: the connection that has been stalled longest is closed."""
    limits = Connections(10, unread_bytes=30_000_000)
    with serving(protocol, limits, LargeApp()) as port, ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(connect(port, REQUEST))
            wait_until(lambda: limits._all_unread > 1_000_000)
            time.sleep(0.1)
        assert limits._all_unread <= 30_000_000
        wait_until(lambda: len(limits._all) == len(limits._unread) == 1)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_process_with_few_files(loop: str, tmp_path: Path) -> None:
    """Idle clients take no more than it has; others are served, and neither its log nor its CPU time grows."""
    port, log = free_port(), tmp_path / "log"
    command = [sys.executable, "-c", SERVER, str(port), "100", loop]
    env = {**os.environ, "ACEDATACLOUD_API_BASE_URL": "http://127.0.0.1:9"}
    with log.open("wb") as errors, subprocess.Popen(command, env=env, stderr=errors) as process, ExitStack() as stack:
        stack.callback(process.kill)
        end = time.monotonic() + 60
        while not (listens(port) and healthy(port)):
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        before = cpu_seconds(process.pid)
        for _ in range(400):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
        answered = 0
        until = time.monotonic() + 5
        while time.monotonic() < until:
            with suppress(httpx.TransportError):  # refused, as all that waited in that moment
                answered += httpx.get(f"http://127.0.0.1:{port}/health", timeout=10).status_code == 200
            time.sleep(0.1)
        assert answered > 10
        assert cpu_seconds(process.pid) - before < 3
        assert log.stat().st_size < 20_000, log.read_text()[:2000]
        assert "connections are open, which is the maximum" in log.read_text()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_without_files_connections_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    """By asyncio's loop: all that wait are closed, with one line; other errors go the usual way."""
    refuse, loop = connections.RefuseConnections(), FakeLoop()
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:
        listener.setblocking(False)
        clients = [stack.enter_context(connect(listener.getsockname()[1])) for _ in range(5)]
        context = {"message": "x", "exception": OSError(24, "Too many open files"), "socket": listener}
        refuse(loop, context)  # type: ignore[arg-type]
        assert [rest(client) for client in clients] == [b""] * 5
        assert len(caplog.records) == 1
        with connect(listener.getsockname()[1]):
            refuse(loop, context)  # type: ignore[arg-type]
        assert listener.fileno() > 0
    assert loop.contexts == []
    other = {"message": "y", "exception": OSError(9, "Bad file")}
    refuse(loop, other)  # type: ignore[arg-type]
    assert loop.contexts == [other]


class FakeLoop:
    def __init__(self) -> None:
        self.contexts: list[dict[str, Any]] = []

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.contexts.append(context)


def test_metrics_at_a_port_of_their_own(tmp_path: Path) -> None:
    """Nothing else is there, and they are nowhere else; with several processes too."""
    port, metrics = free_port(), free_port()
    settings = {"SEEDREAM_METRICS_PORT": str(metrics), "TMPDIR": str(tmp_path)}
    for processes in ("1", "2"):
        with replica_running(
            port, **settings, WEB_CONCURRENCY=processes, ACEDATACLOUD_API_BASE_URL="http://127.0.0.1:9"
        ):
            statuses = {
                (number, path): httpx.get(f"http://127.0.0.1:{number}{path}").status_code
                for number in (port, metrics)
                for path in ("/metrics", "/health", "/")
            }
        assert statuses == {
            (port, "/metrics"): 404,
            (port, "/health"): 200,
            (port, "/"): 200,
            (metrics, "/metrics"): 200,
            (metrics, "/health"): 404,
            (metrics, "/"): 404,
        }
