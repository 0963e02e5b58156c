"""Bad clients: whatever bytes come over HTTP, there is no 5xx and no traceback, and the next client is served."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException, HTTPResponse
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_seedream.core.settings import read_settings
from mcp_seedream.hosting.app import bearer_token, build_app
from mcp_seedream.server.server import build_server
from mcp_seedream.server.tools import ToolDefaults
from mcp_seedream.upstream.client import SeedreamClient
from tests.conftest import serving
from tests.integration.test_http import LATEST, OLD, message
from tests.support.at_once import TABLE, AtOnce, examples
from tests.support.contract import faults

MOST = 2**20
"""Bytes of a body that the server takes: its limit is one MiB here."""
PATIENCE = 5
INTERNAL = (b'"code":-32603', b"internal_error", b"Error executing tool")
"""What the SDK, the tools and the SDK's masking say of what nobody foresaw."""


class Crashes(logging.Handler):
    """Keeps whatever a server logs that has a traceback, in whichever thread."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info or "Traceback" in text or record.levelno >= logging.ERROR:
            self.found.append(f"{record.name}: {text} {record.exc_info}")


@dataclass
class Endpoint:
    """A server over HTTP, what it logged of crashes, and what it sent upstream."""

    port: int
    upstream: AtOnce
    crashes: Crashes = field(default_factory=Crashes)

    def exchange(self, request: bytes, *, then: str = "wait") -> tuple[int | None, bytes]:
        """Send these bytes; the status, None where there was no answer, and the body.

        Args:
            request: Everything, or what comes before the connection is given up.
            then: "wait" for an answer, "half" close and wait for one, or "leave" at once.
        """
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            try:
                connection.sendall(request)
                if then == "leave":
                    return None, b""
                if then == "half":
                    connection.shutdown(socket.SHUT_WR)
                answer = HTTPResponse(connection)
                answer.begin()
                # A stream that a client only opens has no end: its head is all there is to see.
                body = b"" if request.startswith(b"GET") and is_stream(answer) else answer.read()
            except (HTTPException, ConnectionError):
                return None, b""
            return answer.status, body

    def check(self, request: bytes, *, then: str = "wait") -> tuple[int | None, bytes]:
        """What every answer must keep to; the answer."""
        status, body = self.exchange(request, then=then)
        assert status is None or status < 500, (status, body)
        assert not any(word in body for word in INTERNAL), body
        for sent in self.upstream.submits():
            assert faults(sent) == []
        assert self.healthy(), "the server answers nothing more"
        assert self.crashes.found == []
        return status, body

    def healthy(self) -> bool:
        listing, headers = message("tools/list", OLD)
        status, body = self.exchange(raw("POST", "/mcp", headers, json.dumps(listing).encode()))
        return status == 200 and b"generate_image" in body


def is_stream(answer: HTTPResponse) -> bool:
    return answer.getheader("content-type", "").startswith("text/event-stream")


def raw(method: str, target: str, headers: dict[str, str], body: bytes = b"", *, sized: bool = True) -> bytes:
    """A request as bytes; what a header may not hold is the server's to find."""
    lines = {"host": "localhost", **headers, "connection": "close"}
    if sized:
        lines.setdefault("content-length", str(len(body)))
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1", "replace") + body


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    upstream = AtOnce()
    with ExitStack() as stack:
        connect = partial(SeedreamClient, stack.enter_context(serving(upstream, lifespan="off")))
        server = build_server(TABLE, connect, token_of=bearer_token, defaults=ToolDefaults(0), look_interval=0.01)
        address = stack.enter_context(serving(build_app(server, read_settings(max_body_mib=MOST // 2**20))))
        endpoint = Endpoint(int(address.rsplit(":", 1)[1]), upstream)
        logging.getLogger().addHandler(endpoint.crashes)
        try:
            yield endpoint
        finally:
            logging.getLogger().removeHandler(endpoint.crashes)


@pytest.fixture(autouse=True)
def _forget(endpoint: Endpoint) -> None:
    endpoint.crashes.found.clear()
    endpoint.upstream.requests.clear()


HEADERS = message("tools/list", OLD)[1]
REVISIONS = [OLD, LATEST, "2025-11-25", "1999-01-01", "", "x" * 9000, "\x01", None]
LATIN = st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=20)
ODD_HEADERS = {
    "mcp-protocol-version": st.sampled_from(REVISIONS) | LATIN,
    "mcp-session-id": st.sampled_from(["", "0" * 32, "x" * 9000, "../.."]) | LATIN,
    "host": st.sampled_from(["", "[", "[::1", "localhost:x", "a b", "localhost:99999999", "evil.example"]) | LATIN,
    "origin": st.sampled_from(["", "null", "http://[", "http://localhost:5"]) | LATIN,
    "accept": st.sampled_from(["", "*/*", "text/html", "application/json;q=x", ",,;;", "a" * 9000, None]) | LATIN,
    "content-type": st.sampled_from(
        ["", "text/plain", "application/json; charset=utf-16", "application/json; charset=\xff", "a/json", None]
    )
    | LATIN,
    "authorization": LATIN | st.sampled_from(["", "Bearer ", "Bearer \7", f"Bearer {'x' * 10_240}", "B \xff", None]),
    "last-event-id": st.sampled_from(["1", "x" * 9000]) | LATIN,
    "mcp-method": st.sampled_from(["tools/call", "", "=?base64?!?="]) | LATIN,
    "mcp-name": st.sampled_from(["get_task", "=?base64?8J+m?=", ""]) | LATIN,
    "mcp-param-prompt": LATIN,
    "content-encoding": st.sampled_from(["gzip", "br", "x"]),
    "expect": st.sampled_from(["100-continue", "x"]),
    "upgrade": st.sampled_from(["websocket", "h2c"]),
}  # fmt: skip
METHODS = [
    "GET",
    "POST",
    "PUT",
    "DELETE",
    "OPTIONS",
    "HEAD",
    "TRACE",
    "PATCH",
    "CONNECT",
    "PRI",
    "get",
    "BREW",
    "x" * 99,
    "",
]
TARGETS = [
    "/mcp", "/mcp/", "/health", "/health/", "//", "/", "*", "/%2e", "/%2e%2e/mcp", "//mcp", "/mcp?preview=%ff",
    "/mcp;x", "/mcp%00", "/mcp%2f", "/" + "a" * 9000, "http://localhost/mcp", "http://[", "localhost:80", "/m\xe9",
    "/mcp#x", "a b", "", "/?" + "a=b&" * 2000,
]  # fmt: skip


def odd_headers() -> st.SearchStrategy[dict[str, str]]:
    """The usual headers, with a few of them replaced or left out."""
    few = st.lists(st.sampled_from(sorted(ODD_HEADERS)), unique=True, max_size=3)
    odd = few.flatmap(lambda names: st.fixed_dictionaries({name: ODD_HEADERS[name] for name in names}))
    return odd.map(lambda some: {k: v for k, v in {**HEADERS, **some}.items() if v is not None})


@examples(120)
@given(method=st.sampled_from(METHODS), target=st.sampled_from(TARGETS) | LATIN, headers=odd_headers())
def test_any_method_path_and_headers(endpoint: Endpoint, method: str, target: str, headers: dict[str, str]) -> None:
    """Around a body that is fine."""
    body = json.dumps(message("tools/list", OLD)[0]).encode()
    endpoint.check(raw(method, target, headers, body))
    assert endpoint.upstream.requests == []


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=9)
)
VALUES = st.recursive(
    LEAVES | st.sampled_from([10**400, "x" * 9000, "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
RPC = [
    *[
        "tools/list",
        "tools/call",
        "initialize",
        "ping",
        "server/discover",
        "resources/list",
        "resources/read",
        "resources/subscribe",
    ],
    *["prompts/get", "resources/templates/list", "completion/complete", "logging/setLevel", "notifications/cancelled"],
    *["notifications/x", "notifications/initialized", "tasks/get", "sampling/createMessage", "rpc.x"],
    "",
    "x" * 9000,
]
URIS = [
    "seedream://models", "seedream://models/%ff%00", "seedream://models/" + "x" * 9000, "seedream://guide", "seedream://",
    "file:///etc/hostname", "http://[", "",
]  # fmt: skip
REFERENCES = [
    *({"type": "ref/prompt", "name": name} for name in ("image_set", "x", "")),
    *({"type": "ref/resource", "uri": uri} for uri in ("seedream://models/{id}", "x", "")),
]
PARAMS = {
    "name": st.sampled_from(["generate_image", "get_task", "no_such_tool", "image_set", "", "\ud800"]) | VALUES,
    "arguments": VALUES,
    "uri": st.sampled_from(URIS) | VALUES,
    "cursor": VALUES,
    "requestId": VALUES,
    "protocolVersion": st.sampled_from(REVISIONS) | VALUES,
    "capabilities": VALUES,
    "clientInfo": VALUES,
    "ref": st.sampled_from(REFERENCES) | VALUES,
    "argument": st.fixed_dictionaries({"name": st.sampled_from(["model", "size", "id", ""]), "value": st.text()})
    | VALUES,
    "context": st.fixed_dictionaries({"arguments": VALUES}) | VALUES,
    "level": VALUES,
    "_meta": VALUES | st.fixed_dictionaries({"progressToken": VALUES}),
}
PART = {
    "jsonrpc": st.sampled_from(["1.0", "", None, 2.0]) | VALUES,
    "id": VALUES,
    "method": st.sampled_from(RPC) | VALUES,
    "params": VALUES | st.fixed_dictionaries({}, optional=PARAMS),
    "result": VALUES,
    "error": VALUES,
}


@st.composite
def messages(draw: st.DrawFn, revision: str) -> bytes:
    """JSON-RPC of some revision in which a few members are anything at all, alone or in a batch."""
    method = draw(st.sampled_from(RPC))
    sent, _ = message(method, revision, {"name": "get_task"} | draw(st.fixed_dictionaries({}, optional=PARAMS)))
    if draw(st.booleans()):
        names = draw(st.lists(st.sampled_from(sorted(PART)), unique=True, max_size=2))
        sent |= {name: draw(PART[name]) for name in names}
    if draw(st.booleans()):
        sent.pop(draw(st.sampled_from(sorted(sent))))
    whole: Any = draw(st.sampled_from([sent, sent, sent, [sent], [sent, sent], [], "x", None, 1]))
    return json.dumps(whole).encode()


@examples(150)
@given(revision=st.sampled_from([OLD, "2025-11-25", LATEST, "none"]), data=st.data())
def test_any_json_rpc(endpoint: Endpoint, revision: str, data: st.DataObject) -> None:
    """Of every revision; a tool is called only by what is a call."""
    body = data.draw(messages(revision))
    headers = {**HEADERS, "mcp-protocol-version": revision}
    headers["mcp-method"] = data.draw(st.sampled_from(RPC[:3]))
    headers["mcp-name"] = data.draw(st.sampled_from(["generate_image", "get_task"]))
    if revision == "none":
        del headers["mcp-protocol-version"]
    endpoint.check(raw("POST", "/mcp", headers, body))
    endpoint.upstream.requests.clear()


TOOL = message("tools/call", LATEST, {"name": "get_task", "arguments": {"task_id": 0}})[0]
CALL = json.dumps(TOOL).encode().replace(b'"task_id": 0', b'"task_id": %s')
DEPTHS = (50, 190, 300, 600, 900, 2000, 10_000)
NESTED = [
    *(b"[" * depth + b"]" * depth for depth in DEPTHS),
    *(b'{"a":' * depth + b"1" + b"}" * depth for depth in DEPTHS),
]
REQUESTS = [
    b'{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":%s}' % params
    for params in (
        b'{"name":"x"}', b'{"name":"image_set"}', b'{"name":"create_image","arguments":{"prompt":"x","size":"7K"}}',
        b'{"name":"image_set","arguments":{"prompt":"x","count":"%s"}}' % (b"9" * 5000),
        b'{"name":"edit_photo","arguments":{"prompt":"x","image":"\\u0000"}}',
    )
] + [
    b'{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":%s,"argument":{"name":"size","value":""}}}'
    % ref
    for ref in (b'{"type":"ref/prompt","name":"x"}', b'{"type":"ref/resource","uri":"x"}')
]  # fmt: skip
BODIES = [
    *REQUESTS, *(body.replace(b'"id":1,', b"") for body in REQUESTS),
    b"", b" ", b"null", b"{", b"[]", b"{}", b'"', b"\xff\xfe{", b'{"a": "\xed\xa0\x80"}', b"\xef\xbb\xbf{}",
    b"\x1f\x8b", '{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}'.encode("utf-16"), b"NaN", b"1e999", b"9" * 5000,
    b"\0" * 100, *NESTED, *(CALL % value for value in NESTED), CALL % b'{"\\ud800":1}', CALL % b"NaN",
    CALL % (b"9" * 5000), b"[" * 10_000, b'{"a":' * 10_000, b"[" * MOST, b"x" * (MOST - 1), b"x" * (MOST + 1),
    b'"' + b"x" * (MOST - 2) + b'"',
]  # fmt: skip


@pytest.mark.parametrize("revision", [OLD, LATEST])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: f"{body[:12]!r}{len(body)}")
def test_a_body_that_is_no_request(endpoint: Endpoint, body: bytes, revision: str) -> None:
    """Broken, nested, not UTF-8, too large."""
    meant = {**HEADERS, "mcp-protocol-version": revision, "mcp-method": "tools/call", "mcp-name": "get_task"}
    status, _ = endpoint.check(raw("POST", "/mcp", meant, body))
    assert status == 413 if len(body) > MOST else status in (200, 202, 400)
    assert endpoint.upstream.requests == []


@pytest.mark.parametrize("revision", [OLD, LATEST])
@pytest.mark.parametrize(
    ("method", "params", "told"),
    [
        ("prompts/get", {"name": "x"}, b"There is no prompt"),
        ("prompts/get", {"name": "image_set"}, b"`prompt` is missing"),
        ("resources/read", {"uri": "seedream://models/6.0"}, b"There is no model"),
        (
            "completion/complete",
            {"ref": {"type": "ref/prompt", "name": "x"}, "argument": {"name": "size", "value": ""}},
            b"There is no prompt",
        ),
    ],
)
def test_what_does_not_exist(
    endpoint: Endpoint, revision: str, method: str, params: dict[str, Any], told: bytes
) -> None:
    """A request is told so with the code for wrong parameters, a notification nothing; neither is a traceback."""
    sent, headers = message(method, revision, params)
    if revision == LATEST:
        headers["mcp-name"] = str(params.get("name") or params.get("uri", ""))
    _, body = endpoint.check(raw("POST", "/mcp", headers, json.dumps(sent).encode()))
    assert b'"code":-32602' in body
    assert told in body
    del sent["id"]
    status, body = endpoint.check(raw("POST", "/mcp", headers, json.dumps(sent).encode()))
    assert status in (202, 400)
    assert told not in body


@st.composite
def broken_off(draw: st.DrawFn) -> tuple[bytes, str]:
    """A request whose framing lies, and what the client does after it."""
    body = json.dumps(message("tools/list", OLD)[0]).encode()
    headers = {**HEADERS, "mcp-protocol-version": draw(st.sampled_from([OLD, LATEST]))}
    chunked = [
        b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), b"%x\r\n%s" % (len(body), body), b"ffffffffffffffffff\r\n",
        b"-1\r\n", b"%x\r\n%s\r\n" % (len(body), body), b"x\r\n", b"5\r\nab", b"", b"0\r\n",
        b"1;" + b"x" * 9000 + b"\r\na\r\n0\r\n\r\n",
    ]  # fmt: skip
    if draw(st.booleans()):
        length = draw(st.sampled_from(["0", "1", str(len(body) + 1), "-1", "+5", "1e3", "9" * 30, "", "5, 5", "x"]))
        request = raw("POST", "/mcp", {**headers, "content-length": length}, body)
    else:
        headers["transfer-encoding"] = draw(st.sampled_from(["chunked", "gzip, chunked", "x", "chunked, chunked"]))
        request = raw("POST", "/mcp", headers, draw(st.sampled_from(chunked)), sized=False)
    cut = draw(st.just(len(request)) | st.integers(0, len(request)))
    return request[:cut], draw(st.sampled_from(["half", "leave"]))


@examples(120)
@given(sent=broken_off())
def test_a_request_that_lies_about_its_length_or_breaks_off(endpoint: Endpoint, sent: tuple[bytes, str]) -> None:
    """Half a head, half a body, a chunk that never ends: whoever sent it is gone, and nobody else notices."""
    endpoint.check(sent[0], then=sent[1])
    assert endpoint.upstream.requests == []
