"""Requests in other forms than the SDK's: media types, addresses, arguments."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx
import pytest
from mcp_types import INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, PARSE_ERROR

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.sandbox.app import Sandbox
from tests.conftest import submits
from tests.integration.test_access import asked, hosted
from tests.integration.test_http import LATEST, OLD, endpoint, message, read, settings

pytestmark = pytest.mark.anyio
__all__ = ["endpoint", "settings"]
REVISIONS = [OLD, "2025-11-25", LATEST]
JSON, EVENTS = "application/json", "text/event-stream"
FOX = {"name": "generate_image", "arguments": {"prompt": "a fox"}, "_meta": {"progressToken": 1}}


async def posted(
    address: str, body: Any, headers: dict[str, str], *, without: tuple[str, ...] = (), **others: str
) -> httpx.Response:
    """The response to a request with other headers, or without headers that httpx would add."""
    async with httpx.AsyncClient(timeout=30) as web:
        for name in without:
            web.headers.pop(name, None)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        others = {name.replace("_", "-"): value for name, value in others.items()}
        sent = {name: value for name, value in {**headers, **others}.items() if name not in without}
        return await web.post(address, content=content, headers=sent)


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("*/*", None),
        ("", None),
        (None, None),
        (f"{JSON}, {EVENTS}", None),
        ("application/*;q=0.5, text/*", None),
        (JSON, JSON),
        ("Application/JSON; charset=utf-8", JSON),
        (f"{JSON}, {EVENTS};q=0", JSON),
        (f"*/*, {EVENTS};q=0.0", JSON),
        ("application/json, text/plain", JSON),
        (EVENTS, EVENTS),
        (f"text/html, {EVENTS};q=0.1", EVENTS),
    ],
)
async def test_whatever_form_a_client_accepts(
    endpoint: str, revision: str, accept: str | None, form: str | None
) -> None:
    """The response has an accepted form; progress is omitted if only JSON is accepted."""
    without = ("accept",) if accept is None else ()
    for method, params in (("tools/list", {}), ("tools/call", FOX)):
        body, headers = message(method, revision, params)
        if method == "tools/call":
            body["params"]["_meta"]["progressToken"] = 1
        response = await posted(endpoint, body, headers, without=without, accept=accept or "")
        kind = response.headers["content-type"].partition(";")[0]
        assert (response.status_code, kind) == (200, form or kind)
        result = read(response)[-1]
        assert result["id"] == 1
        assert "tools" in result["result"] or result["result"]["structuredContent"]["status"] == "succeeded"


@pytest.mark.parametrize("revision", REVISIONS)
async def test_a_form_that_there_is_not(endpoint: str, revision: str) -> None:
    """The request is refused as before, and no call starts."""
    body, headers = message("tools/call", revision, FOX)
    assert (await posted(endpoint, body, headers, accept="text/html, image/png")).status_code == 406


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize(
    "kind", ["Application/JSON", "application/json; charset=utf-8", "APPLICATION/JSON;charset=UTF-8"]
)
async def test_a_media_type_in_other_letters(endpoint: str, revision: str, kind: str) -> None:
    """The media type is not case-sensitive. Other types are refused, since web pages of any site may send them."""
    body, headers = message("tools/list", revision)
    assert (await posted(endpoint, body, headers, content_type=kind)).status_code == 200
    for other in ("text/plain", "application/x-www-form-urlencoded", ""):
        assert (await posted(endpoint, body, headers, content_type=other)).status_code in (400, 415)


@pytest.mark.parametrize("accept", [f"{JSON}, {EVENTS}", JSON, EVENTS, ""])
@pytest.mark.parametrize("revision", REVISIONS)
async def test_notifications_and_errors_keep_their_status(endpoint: str, revision: str, accept: str) -> None:
    """For any `Accept` header: 202 without a body, 4xx as JSON."""
    body, headers = message("notifications/initialized", revision)
    del body["id"]
    response = await posted(endpoint, body, headers, accept=accept)
    assert (response.status_code, response.content) == (202, b"")
    body, headers = message("no/such/method", LATEST)
    response = await posted(endpoint, body, headers, accept=accept)
    assert (response.status_code, response.json()["error"]["code"]) == (404, METHOD_NOT_FOUND)
    body, headers = message("tools/call", LATEST, {"name": "get_task", "arguments": "x"})
    response = await posted(endpoint, body, headers, accept=accept)
    assert (response.status_code, response.json()["error"]["code"]) == (400, INVALID_PARAMS)


async def test_other_methods(endpoint: str) -> None:
    """There are no streams and no sessions: only POST is allowed."""
    _, headers = message("tools/list", OLD)
    async with httpx.AsyncClient(timeout=5) as web:
        for path in (endpoint, f"{endpoint}/"):
            for accept in (EVENTS, JSON):
                async with web.stream("GET", path, headers={**headers, "accept": accept}) as response:
                    assert (response.status_code, response.headers["allow"]) == (405, "POST")
            for method in ("DELETE", "HEAD", "OPTIONS", "PUT"):
                assert (await web.request(method, path, headers=headers)).status_code == 405
            _, newest = message("tools/list", LATEST)
            response = await web.get(path, headers=newest)
            assert (response.status_code, response.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("accept", [f"{JSON}, {EVENTS}", EVENTS, "*/*"])
async def test_the_head_of_an_answer_comes_before_its_result(endpoint: str, sandbox: Sandbox, accept: str) -> None:
    """Even without a progress token, so that a proxy can report that the client left, which ends the wait."""
    call = {"name": "generate_image", "arguments": {"prompt": "slow [sandbox:slow=2]"}}
    body, headers = message("tools/call", LATEST, call)
    async with httpx.AsyncClient(timeout=30) as web:
        began = anyio.current_time()
        async with web.stream("POST", endpoint, json=body, headers={**headers, "accept": accept}) as response:
            assert anyio.current_time() - began < 1.5
            assert (response.status_code, response.headers["content-type"]) == (200, EVENTS)
            await response.aread()
    [result] = read(response)
    assert result["result"]["structuredContent"]["status"] == "succeeded"


async def test_an_answer_at_once_is_json_as_before(endpoint: str) -> None:
    """In revision 2026-07-28, and errors have their own status."""
    body, headers = message("tools/call", LATEST, {"name": "get_task", "arguments": {}})
    response = await posted(endpoint, body, headers)
    assert (response.status_code, response.headers["content-type"]) == (200, JSON)


@pytest.mark.parametrize("revision", REVISIONS)
async def test_a_slash_at_the_end_of_the_address(endpoint: str, revision: str) -> None:
    """It is the same endpoint, without a redirect."""
    body, headers = message("tools/list", revision)
    for end in ("/", "//", "/?preview=off"):
        response = await posted(endpoint + end, body, headers)
        assert response.status_code == 200
        assert len(read(response)[-1]["result"]["tools"]) == 3


async def test_a_slash_passes_no_guard(table: ModelTable, upstream: str) -> None:
    """Token, host, origin, body size and the limit of calls are checked as for the address without a slash."""
    with hosted(table, upstream, max_body_mib=1, cors_origins=["https://app.example.com"]) as address:
        body, headers = message("tools/list", OLD)
        slashed = f"{address}/mcp/"
        assert (await posted(slashed, body, headers, without=("authorization",))).status_code == 401
        assert (await posted(slashed, body, headers, host="evil.example.com")).status_code == 421
        assert (await posted(slashed, body, headers, origin="https://evil.example.com")).status_code == 403
        assert (await posted(slashed, b" " * 2**21, headers)).status_code == 413
        async with httpx.AsyncClient() as web:
            preflight = {"origin": "https://app.example.com", "access-control-request-method": "POST"}
            response = await web.options(slashed, headers=preflight)
        assert response.headers["access-control-allow-origin"] == "https://app.example.com"


@pytest.mark.parametrize("path", ["/", "/sse", "/messages", "/messages/", "/mcp/v1", "/v1/mcp", "/api", "/MCP"])
async def test_an_address_that_is_not_the_endpoints(table: ModelTable, upstream: str, path: str) -> None:
    """The response has the endpoint's address, but only for allowed hosts."""
    with hosted(table, upstream) as address:
        body, headers = message("initialize", OLD)
        response = await posted(address + path, body, headers)
        assert response.status_code in (404, 405)
        assert f" {address}/mcp," in response.json()["error_description"]
        assert (await posted(address + path, body, headers, host="evil.example.com")).status_code == 421
    with hosted(table, upstream, public_url="https://mcp.example.com") as address:
        response = await posted(address + path, body, headers)
        assert " https://mcp.example.com/mcp," in response.json()["error_description"]
        assert (await asked(address, "/nothing")).status_code == 404


CALL = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"get_task","arguments":{"task_id":%s}}}'


@pytest.mark.parametrize(
    ("body", "code", "id_"),
    [
        (CALL % b'"\\ud83d"', PARSE_ERROR, 7),
        (CALL % b'"a\tb"', PARSE_ERROR, 7),
        (CALL % (b"[" * 300 + b"]" * 300), PARSE_ERROR, 7),
        (CALL % b'"\xe9"', PARSE_ERROR, 7),
        (b"hello", PARSE_ERROR, None),
        (b"", PARSE_ERROR, None),
        (b"[" + CALL % b'"x"' + b"]", INVALID_REQUEST, 7),
        (b"5", INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","id":7}', INVALID_REQUEST, 7),
        (b'{"jsonrpc":"2.0","id":null,"method":"tools/list"}', INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","id":7.0,"method":"tools/list"}', INVALID_REQUEST, 7),
        (b'{"jsonrpc":"2.0","id":7.5,"method":"tools/list"}', INVALID_REQUEST, None),
    ],
    ids=lambda value: repr(value)[:24],
)
async def test_a_body_that_is_no_message(endpoint: str, body: bytes, code: int, id_: int | None) -> None:
    """It gets the same error as over stdio, for clients of older revisions."""
    _, headers = message("tools/list", OLD)
    response = await posted(endpoint, body, headers)
    assert response.status_code == 400
    assert (response.json()["id"], response.json()["error"]["code"]) == (id_, code)


@pytest.mark.parametrize("revision", REVISIONS)
async def test_a_byte_order_mark_means_nothing(endpoint: str, revision: str) -> None:
    """It is ignored, as over stdio."""
    body, headers = message("tools/list", revision)
    response = await posted(endpoint, b"\xef\xbb\xbf" + json.dumps(body).encode(), headers)
    assert (response.status_code, read(response)[-1]["id"]) == (200, 1)


GIVEN: list[tuple[Any, str]] = [
    (json.dumps({"prompt": "a fox", "wait_seconds": 0}), "pending"),
    (' {"prompt": "a fox", "wait_seconds": 0}\n', "pending"),
    ("", "`prompt` is empty"),
    ("  ", "`prompt` is empty"),
    ("null", "`prompt` is empty"),
    (None, "`prompt` is empty"),
    ("a fox", "`arguments` must be a JSON object"),
    ('["a fox"]', "`arguments` must be a JSON object"),
    ("[" * 5000, "`arguments` must be a JSON object"),
    ('{"prompt": "\\ud83d"}', "`arguments` must be a JSON object"),
    ([], "`arguments` must be a JSON object"),
    (5, "`arguments` must be a JSON object"),
    (False, "`arguments` must be a JSON object"),
]


@pytest.mark.parametrize("revision", [OLD, LATEST])
@pytest.mark.parametrize(("given", "told"), GIVEN, ids=lambda value: repr(value)[:20])
async def test_arguments_that_are_no_object(
    endpoint: str, sandbox: Sandbox, revision: str, given: Any, told: str
) -> None:
    """JSON in a string is parsed, empty values count as no arguments, and others get an error; nothing is sent."""
    body, headers = message("tools/call", revision, {"name": "generate_image", "arguments": given})
    found = json.dumps(read(await posted(endpoint, body, headers))[-1], ensure_ascii=False)
    assert told in found
    assert len(submits(sandbox)) == (told == "pending")
