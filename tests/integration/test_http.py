"""Streamable HTTP through a real uvicorn: protocol revisions, who is calling, limits."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import METHOD_NOT_FOUND
from mcp_types.version import KNOWN_PROTOCOL_VERSIONS
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.settings import Settings, read_settings
from mcp_seedream.hosting.app import bearer_token, build_app, wants_preview
from mcp_seedream.sandbox.app import Sandbox, running
from mcp_seedream.server.server import build_server
from mcp_seedream.server.tools import ToolDefaults
from mcp_seedream.upstream.client import SeedreamClient
from tests.conftest import answer, finish, look_ups, serving, submits, until, until_quiet

pytestmark = pytest.mark.anyio
OLD, LATEST = "2025-03-26", "2026-07-28"
HEADERS = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


@pytest.fixture
def settings() -> Settings:
    return read_settings(token="the-operators-own", max_body_mib=1)


@pytest.fixture
def endpoint(table: ModelTable, upstream: str, settings: Settings) -> Iterator[str]:
    server = build_server(
        table,
        lambda: SeedreamClient(upstream),
        token_of=bearer_token,
        defaults=ToolDefaults(20, wants_preview(False)),
        look_interval=0.1,
    )
    with serving(build_app(server, settings)) as address:
        yield f"{address}/mcp"


@asynccontextmanager
async def connected(endpoint: str, token: str = "alice", mode: str = "auto") -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as web,
        Client(streamable_http_client(endpoint, http_client=web), mode=mode) as client,
    ):
        yield client


def message(method: str, revision: str, params: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """A raw JSON-RPC request and its headers, as that protocol revision wants them."""
    headers = {**HEADERS, "authorization": "Bearer alice", "mcp-protocol-version": revision}
    params = dict(params or {})
    if revision == LATEST:
        meta = {"protocolVersion": revision, "clientInfo": {"name": "raw", "version": "1"}, "clientCapabilities": {}}
        params["_meta"] = {f"io.modelcontextprotocol/{key}": value for key, value in meta.items()}
        headers["mcp-method"] = method
        if method == "tools/call":
            headers["mcp-name"] = params["name"]
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, headers


def read(response: httpx.Response) -> list[dict[str, Any]]:
    """The messages of an answer, JSON or SSE."""
    if response.headers["content-type"].startswith("application/json"):
        return [response.json()]
    return [
        json.loads(line[5:]) for line in response.text.splitlines() if line.startswith("data:") and line[5:].strip()
    ]


@pytest.mark.parametrize("revision", KNOWN_PROTOCOL_VERSIONS)
async def test_raw_json_rpc_of_every_revision(endpoint: str, revision: str) -> None:
    """Start, list, and a picture with its progress, with nothing but an HTTP client."""
    async with httpx.AsyncClient(timeout=30) as web:
        if revision == LATEST:
            start = message("server/discover", revision)
        else:
            hello = {"protocolVersion": revision, "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
            start = message("initialize", revision, hello)
        [welcome] = read(await web.post(endpoint, json=start[0], headers=start[1]))
        assert welcome["result"].get("protocolVersion", revision) == revision
        body, headers = message("tools/list", revision)
        [listing] = read(await web.post(endpoint, json=body, headers=headers))
        names = [tool["name"] for tool in listing["result"]["tools"]]
        assert names == ["generate_image", "edit_image", "get_task"]
        call = {"name": "generate_image", "arguments": {"prompt": "a fox"}, "_meta": {"progressToken": "p"}}
        body, headers = message("tools/call", revision, call)
        body["params"]["_meta"]["progressToken"] = "p"
        *progress, result = read(await web.post(endpoint, json=body, headers=headers))
        assert result["result"]["structuredContent"]["status"] == "succeeded"
        assert progress[0]["params"]["message"].endswith("is accepted")


async def test_nobody_need_listen(endpoint: str) -> None:
    """What is offered never changes: nothing else is claimed, and no stream is held open for it."""
    async with httpx.AsyncClient(timeout=5) as web:
        body, headers = message("server/discover", LATEST)
        [found] = read(await web.post(endpoint, json=body, headers=headers))
        body, headers = message("subscriptions/listen", LATEST, {"notifications": {"toolsListChanged": True}})
        response = await web.post(endpoint, json=body, headers=headers)
    claimed = found["result"]["capabilities"]
    assert [claimed[kind].get("listChanged") for kind in ("tools", "prompts", "resources")] == [False] * 3
    assert claimed["resources"].get("subscribe") is False
    assert (response.status_code, read(response)[0]["error"]["code"]) == (404, METHOD_NOT_FOUND)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_the_official_client(endpoint: str, mode: str) -> None:
    """Old handshake and newest revision."""
    async with connected(endpoint, mode=mode) as client:
        result = await client.call_tool("generate_image", {"prompt": "a fox"})
        found = await client.call_tool("get_task", {"task_id": answer(result)["task_id"]})
    assert answer(found)["images"] == answer(result)["images"]


@pytest.mark.parametrize("prompt", ["a fox [sandbox:slow=60]", "a fox [sandbox:hang=2]"])
async def test_clients_of_older_revisions_give_up_in_a_request_of_its_own(
    endpoint: str, sandbox: Sandbox, prompt: str
) -> None:
    """Their connection stays open; the same call, made again, is not billed, whether the first was sent or not yet."""
    call = {"name": "generate_image", "arguments": {"prompt": prompt}}
    body, headers = message("tools/call", OLD, call)
    _, others = message("tools/list", OLD)
    others["authorization"] = "Bearer somebody-else"
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": body["id"]}}
    found: list[dict[str, Any]] = []

    async def ask(number: int) -> None:
        [*_, result] = read(await web.post(endpoint, json=body | {"id": number}, headers=headers))
        found.append(result["result"]["structuredContent"])

    async with httpx.AsyncClient(timeout=30) as web, anyio.create_task_group() as group:
        group.start_soon(ask, body["id"])
        await until(lambda: bool(look_ups(sandbox) if "slow" in prompt else submits(sandbox)))
        assert (await web.post(endpoint, json=cancelled, headers=others)).status_code == 202
        assert (await web.post(endpoint, json=cancelled, headers=headers)).status_code == 202
        group.start_soon(ask, 99)
        if "slow" in prompt:
            rounds = len(look_ups(sandbox)) + 5  # by then the server has read the new call
            await until(lambda: len(look_ups(sandbox)) > rounds)
            finish(sandbox)
    assert len(submits(sandbox)) == 1
    assert found[0]["task_id"] == found[1]["task_id"]
    assert sum("broken off" in str(each.get("notes")) for each in found) == 1


async def test_to_give_up_what_nobody_asked_for_changes_nothing(endpoint: str, sandbox: Sandbox) -> None:
    """Of somebody else's, of none, and of what is no id."""
    body, headers = message("tools/call", OLD, {"name": "generate_image", "arguments": {"prompt": "a fox"}})
    async with httpx.AsyncClient(timeout=30) as web, anyio.create_task_group() as group:
        group.start_soon(partial(web.post, endpoint, json=body, headers=headers))
        await until(lambda: bool(submits(sandbox)))
        for given, token in ((body["id"], "somebody-else"), (98, "alice"), (["x"], "alice"), (None, "alice")):
            cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": given}}
            await web.post(endpoint, json=cancelled, headers=headers | {"authorization": f"Bearer {token}"})
        await web.post(endpoint, json=body | {"id": 97}, headers=headers)
    assert len(submits(sandbox)) == 2


@pytest.mark.parametrize("header", ["", "Bearer", "Basic YTpi", "alice", "Bearer a b", "Bearer \u00e4"])
async def test_without_a_token_the_answer_is_401(endpoint: str, sandbox: Sandbox, header: str) -> None:
    """With WWW-Authenticate; the operator's own token is used for nobody."""
    body, headers = message("tools/list", OLD)
    del headers["authorization"]
    async with httpx.AsyncClient(headers=httpx.Headers({"authorization": header} if header else {}, "utf-8")) as web:
        response = await web.post(endpoint, json=body, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer ")
    assert "platform.acedata.cloud" in response.json()["error_description"]
    assert sandbox.requests == []


async def test_each_callers_token_is_used_for_that_caller_alone(endpoint: str, sandbox: Sandbox) -> None:
    """Three callers at once: upstream, each task is submitted and looked up with its owner's token only."""

    async def work(token: str) -> None:
        async with connected(endpoint, token) as client:
            for n in range(5):
                await client.call_tool("generate_image", {"prompt": f"{token} {n}"})

    async with anyio.create_task_group() as group:
        for token in ("alice", "bob", "carol"):
            group.start_soon(work, token)
    assert Counter(token for path, token, _ in sandbox.requests if path.endswith("images")) == dict.fromkeys(
        ("alice", "bob", "carol"), 5
    )
    owner = {job.id: job.token for job in sandbox.jobs.values()}
    for path, token, body in sandbox.requests:
        if path.endswith("tasks"):
            assert {owner[id_] for id_ in body.get("ids", [body.get("id")])} == {token}
        else:
            assert body["prompt"].startswith(token)


async def test_a_token_the_upstream_refuses(endpoint: str) -> None:
    """Is a tool's error, with where to get another."""
    async with connected(endpoint, "invalid") as client:
        result = await client.call_tool("generate_image", {"prompt": "a fox"})
    assert result.is_error
    assert answer(result)["error"]["code"] == "invalid_token"


async def test_three_hundred_waits_are_one_round_of_look_ups(table: ModelTable, settings: Settings) -> None:
    """A round looks up fifty tasks per request; all calls finish, and nothing is submitted twice."""
    sandbox, interval, started = Sandbox(table, record=True, seconds=600), 0.5, time.monotonic()
    with running(sandbox) as upstream:
        server = build_server(
            table,
            lambda: SeedreamClient(upstream),
            token_of=bearer_token,
            defaults=ToolDefaults(120),
            look_interval=interval,
        )
        with serving(build_app(server, settings)) as address:
            limits = httpx2.Limits(max_connections=400)
            done = 0

            async def one(client: Client, n: int) -> None:
                nonlocal done
                result = await client.call_tool("generate_image", {"prompt": f"picture {n}"})
                done += answer(result)["status"] == "succeeded"

            async with (
                httpx2.AsyncClient(headers={"Authorization": "Bearer alice"}, timeout=120, limits=limits) as web,
                Client(streamable_http_client(f"{address}/mcp", http_client=web)) as client,
                anyio.create_task_group() as group,
            ):
                for n in range(300):
                    group.start_soon(one, client, n)
                await until(lambda: len(sandbox.jobs) == 300)
                before = len(look_ups(sandbox))
                await until(lambda: len(look_ups(sandbox)) >= before + 3 * 6)
                finish(sandbox)
    assert done == 300
    assert len(submits(sandbox)) == 300
    asked = [len(body.get("ids", ["one"])) for body in look_ups(sandbox)]
    assert max(asked) == 50
    rounds = (time.monotonic() - started) / interval + 1
    assert len(asked) <= 6 * rounds  # 300 tasks are 6 requests


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example.com"}, 421),
        ({"origin": "https://evil.example.com"}, 403),
        ({"host": "localhost"}, 200),
        ({"host": "localhost:1234"}, 200),
        ({"origin": "http://localhost:6274"}, 200),
    ],
)
async def test_host_and_origin_are_checked(endpoint: str, headers: dict[str, str], status: int) -> None:
    """Local names only, unless the settings say otherwise."""
    body, standard = message("tools/list", OLD)
    async with httpx.AsyncClient() as web:
        assert (await web.post(endpoint, json=body, headers={**standard, **headers})).status_code == status


async def test_allowed_hosts_are_a_setting(table: ModelTable, upstream: str) -> None:
    """With and without a port."""
    settings = read_settings(allowed_hosts="mcp.example.com", allowed_origins="https://app.example.com")
    server = build_server(table, lambda: SeedreamClient(upstream), token_of=bearer_token)
    with serving(build_app(server, settings)) as address:
        async with httpx.AsyncClient() as web:
            for host, status in (("mcp.example.com", 200), ("mcp.example.com:8443", 200), ("localhost", 421)):
                body, headers = message("tools/list", OLD)
                extra = {"host": host, "origin": "https://app.example.com"}
                response = await web.post(f"{address}/mcp", json=body, headers={**headers, **extra})
                assert response.status_code == status


async def test_the_body_limit_is_a_setting(endpoint: str, sandbox: Sandbox) -> None:
    """One MiB here; 64 unless set."""
    assert read_settings().max_body_mib == 64
    call = {"name": "generate_image", "arguments": {"prompt": "x" * 2**20}}
    body, headers = message("tools/call", OLD, call)
    async with httpx.AsyncClient() as web:
        assert (await web.post(endpoint, json=body, headers=headers)).status_code == 413
    assert sandbox.requests == []


@pytest.mark.parametrize(("query", "blocks"), [("", 0), ("?preview=on", 1), ("?preview=off", 0), ("?preview=x", 0)])
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_previews_are_asked_for_in_the_address(endpoint: str, query: str, blocks: int, mode: str) -> None:
    """Off over HTTP unless the endpoint's URL says on."""
    async with connected(endpoint + query, mode=mode) as client:
        result = await client.call_tool("generate_image", {"prompt": "a fox", "size": "1K"})
    assert sum(block.type == "image" for block in result.content) == blocks


@pytest.mark.parametrize("image", ["/etc/hostname", "file:///etc/hostname", "~/a.png", "C:\\a.png"])
async def test_no_file_is_read_for_a_caller(endpoint: str, sandbox: Sandbox, image: str) -> None:
    """Over HTTP, whatever the spelling."""
    async with connected(endpoint) as client:
        result = await client.call_tool("edit_image", {"prompt": "a", "image": image})
    assert "A hosted server reads no files" in str(result.content)
    assert sandbox.requests == []


async def test_half_a_character_from_the_upstream(table: ModelTable, settings: Settings) -> None:
    """Reaches the caller as a replacement sign, not as no answer at all."""

    async def refuse(_: Request) -> Response:
        return Response('{"error": {"code": "bad_request", "message": "no \\ud83e"}}', 400)

    routes = [Route("/seedream/images", refuse, methods=["POST"])]
    with serving(Starlette(routes=routes), lifespan="off") as upstream:
        server = build_server(table, lambda: SeedreamClient(upstream), token_of=bearer_token)
        with serving(build_app(server, settings)) as address:
            async with connected(f"{address}/mcp") as client:
                result = await client.call_tool("generate_image", {"prompt": "a"})
    assert answer(result)["error"]["message"].startswith("no ?")


async def test_health_needs_no_token(endpoint: str) -> None:
    """For probes."""
    async with httpx.AsyncClient() as web:
        response = await web.get(endpoint.replace("/mcp", "/health"))
    assert (response.status_code, response.json()["status"]) == (200, "ok")


async def test_a_client_that_disconnects_stops_the_asking(endpoint: str, sandbox: Sandbox) -> None:
    """The server stops looking up the task of a client that disconnects; the task goes on upstream."""
    call = {"name": "generate_image", "arguments": {"prompt": "slow [sandbox:slow=30]"}}
    body, headers = message("tools/call", LATEST, call)
    async with httpx.AsyncClient(timeout=60) as web, anyio.create_task_group() as group:
        group.start_soon(partial(web.post, endpoint, json=body, headers=headers))
        await until(lambda: bool(look_ups(sandbox)))
        group.cancel_scope.cancel()
    await until_quiet(sandbox)
    assert len(sandbox.jobs) == 1
