"""Who may come in over HTTP, how much they may ask for, and what the operator sees of it."""

from __future__ import annotations

import gc
import io
import json
import logging
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types.version import KNOWN_PROTOCOL_VERSIONS
from starlette.applications import Starlette
from starlette.routing import Mount

from mcp_seedream import assembly
from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.errors import ConfigurationError, LimitExceeded, UpstreamUnavailable
from mcp_seedream.core.events import Observer, caller_id
from mcp_seedream.core.settings import Settings, read_settings
from mcp_seedream.core.shutdown import Shutdown
from mcp_seedream.hosting.app import bearer_token, build_app
from mcp_seedream.hosting.key_verifier import UNKNOWN_TASK, KeyNotChecked, KeyVerifier
from mcp_seedream.hosting.limits import CallerLimits, _Usage
from mcp_seedream.hosting.probes import Readiness
from mcp_seedream.sandbox.app import Sandbox
from mcp_seedream.telemetry.logs import log_to_stderr
from tests.conftest import Session, answer, finish, look_ups, serving, submits, until

pytestmark = pytest.mark.anyio
HEADERS = {"accept": "application/json, text/event-stream", "authorization": "Bearer alice"}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


@contextmanager
def hosted(table: ModelTable, upstream: str, **given: Any) -> Iterator[str]:
    """The whole hosted server, as the command line and ASGI servers start it."""
    with serving(assembly.hosted(read_settings(base_url=upstream, **given), table=table)) as address:
        yield address


@asynccontextmanager
async def connected(address: str, token: str = "alice") -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=60) as web,
        Client(streamable_http_client(f"{address}/mcp", http_client=web), mode="legacy") as client,
    ):
        yield client


async def asked(address: str, path: str = "/mcp", **headers: str) -> httpx.Response:
    """One request: `tools/list` of the endpoint, or a page."""
    async with httpx.AsyncClient(base_url=address) as web:
        if path == "/mcp":
            return await web.post(path, json=LIST, headers={**HEADERS, **headers})
        return await web.get(path, headers=headers)


async def called(
    address: str, tool: str = "get_task", method: str = "tools/call", key: str = "alice", **arguments: Any
) -> httpx.Response:
    """One tool call in one request; its method may be written in another way that JSON has."""
    params = json.dumps({"name": tool, "arguments": arguments or {"task_id": "x", "wait_seconds": 0}})
    body = f'{{"jsonrpc": "2.0", "id": 1, "method": "{method}", "params": {params}}}'
    headers = {**HEADERS, "authorization": f"Bearer {key}", "content-type": "application/json"}
    async with httpx.AsyncClient(base_url=address, timeout=60) as web:
        return await web.post("/mcp", content=body, headers=headers)


async def test_a_bad_key_is_found_out(table: ModelTable, upstream: str, sandbox: Sandbox) -> None:
    """With 401 and a challenge, so that clients ask anew; the upstream is asked once for each key."""
    with hosted(table, upstream) as address:
        for _ in range(3):
            refused = await asked(address, authorization="Bearer invalid")
            assert refused.status_code == 401
            assert 'error="invalid_token"' in refused.headers["www-authenticate"]
            assert (await asked(address)).status_code == 200
    assert [body["id"] for body in look_ups(sandbox)] == [UNKNOWN_TASK] * 2
    assert "invalid" not in refused.text.replace("invalid_token", "")


@pytest.mark.parametrize("seconds", [300, 0])
@pytest.mark.parametrize("token", ["your-token", "${ACEDATACLOUD_API_TOKEN}", "<token>", "$TOKEN"])
async def test_a_placeholder_is_no_key(
    table: ModelTable, upstream: str, sandbox: Sandbox, token: str, seconds: float
) -> None:
    """It is refused with what it is, and not sent, even where keys are not checked."""
    with hosted(table, upstream, check_seconds=seconds) as address:
        refused = await asked(address, authorization=f"Bearer {token}")
    assert refused.status_code == 401
    assert "only a placeholder" in refused.json()["error_description"]
    assert sandbox.requests == []


async def test_who_comes_with_a_new_key_a_hundred_times(table: ModelTable, upstream: str, sandbox: Sandbox) -> None:
    """One of them asks, and the others wait for it."""
    with hosted(table, upstream) as address:
        async with anyio.create_task_group() as group:
            for _ in range(30):
                group.start_soon(asked, address)
    assert len(look_ups(sandbox)) == 1


async def test_a_key_that_is_revoked_is_asked_for_anew(table: ModelTable, upstream: str, sandbox: Sandbox) -> None:
    """The upstream refuses a call: the next request finds out, long before what was known is old."""
    with hosted(table, upstream) as address:
        async with connected(address) as client:
            await client.list_tools()
            sandbox.revoked.add("alice")
            result = await client.call_tool("generate_image", {"prompt": "a"})
            assert answer(result)["error"]["code"] == "invalid_token"
        assert (await asked(address)).status_code == 401


async def test_an_upstream_that_is_away(table: ModelTable) -> None:
    """A new key can't be checked, so it is not let in; what was not found out is not remembered."""
    with hosted(table, "http://127.0.0.1:9", connect_timeout=0.5) as address:
        assert (await asked(address)).status_code == 503
        ready = await asked(address, "/ready")
        assert (ready.status_code, ready.json()) == (200, {"status": "ready", "upstream": "unreachable"})
        assert "seedream_upstream_unreachable 1.0" in (await asked(address, "/metrics")).text
        assert (await asked(address, "/health")).json()["status"] == "ok"


async def test_what_is_known_grows_old() -> None:
    """Good keys after a while, bad ones sooner; at most ten thousand are remembered."""
    looked: list[str] = []

    async def look_up(_: list[str], key: str) -> None:
        looked.append(key)
        if len(looked) == 3:
            raise UpstreamUnavailable("away")

    now = 0.0
    verifier = KeyVerifier(seconds=300, clock=lambda: now)
    for _ in range(2):
        assert await verifier.is_valid("a", look_up)
    now = 301.0
    assert await verifier.is_valid("a", look_up)
    now = 602.0
    for _ in range(2):
        assert await verifier.is_valid("a", look_up)
    assert looked == ["a", "a", "a"]  # the upstream is away: for a while, nobody asks again
    for number in range(10_050):
        await verifier.is_valid(str(number), look_up)
    assert len(verifier._valid_until) == 10_000


@pytest.mark.parametrize(
    ("headers", "status", "setting"),
    [
        ({"host": "mcp.example.com"}, 421, "SEEDREAM_ALLOWED_HOSTS"),
        ({"host": "localhost.example.com:80"}, 421, "SEEDREAM_ALLOWED_HOSTS"),
        ({"host": "127.0.0.1.example.com"}, 421, "SEEDREAM_ALLOWED_HOSTS"),
        ({"origin": "https://evil.example"}, 403, "SEEDREAM_ALLOWED_ORIGINS"),
        ({"origin": "null"}, 403, "SEEDREAM_ALLOWED_ORIGINS"),
    ],
)
async def test_a_name_that_is_not_allowed(
    table: ModelTable,
    upstream: str,
    caplog: pytest.LogCaptureFixture,
    headers: dict[str, str],
    status: int,
    setting: str,
) -> None:
    """The answer and the log name the setting; the probes answer to any origin."""
    with hosted(table, upstream) as address, caplog.at_level(logging.WARNING):
        refused = await asked(address, **headers)
        assert refused.status_code == status
        assert setting in refused.json()["error_description"]
        assert setting in caplog.text
        for path in ("/health", "/ready", "/metrics"):
            assert (await asked(address, path, **headers)).status_code == (421 if "host" in headers else 200)


@pytest.mark.parametrize(
    "host", ["10.0.0.7", "10.0.0.7:8000", "[fd00::7]:8000", "server", "server:8000", "localhost", "mcp.example.com", ""]
)
async def test_probes_come_by_address(table: ModelTable, upstream: str, host: str) -> None:
    """Of a pod, by the name of a service, or by an allowed name; the endpoint answers only to allowed names."""
    with hosted(table, upstream, allowed_hosts=["mcp.example.com"]) as address:
        for path in ("/health", "/ready", "/metrics"):
            assert (await asked(address, path, host=host)).status_code == 200
        assert (await asked(address, host=host)).status_code == (200 if host == "mcp.example.com" else 421)


async def test_blanks_around_a_header_mean_nothing(table: ModelTable, upstream: str) -> None:
    """Some HTTP servers leave those at its end on."""
    app = assembly.hosted(read_settings(base_url=upstream), table=table)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as web:
        response = await web.post("/mcp", json=LIST, headers={"host": "127.0.0.1 \t", "x-request-id": "mine "})
    assert (response.status_code, response.headers["x-request-id"]) == (401, "mine")


async def test_names_that_are_allowed(table: ModelTable, upstream: str) -> None:
    """Local ones by default, with any port; the public name; the origins that pages may call from."""
    given = {"public_url": "https://mcp.example.com", "cors_origins": ["https://app.example.com"]}
    with hosted(table, upstream, **given) as address:
        for host in ("localhost", "localhost:8123", "127.0.0.1", "[::1]:80", "mcp.example.com", "MCP.example.com:443"):
            assert (await asked(address, host=host)).status_code == 200
        for origin in ("http://localhost:5173", "https://mcp.example.com", "https://app.example.com"):
            assert (await asked(address, origin=origin)).status_code == 200


async def test_pages_in_a_browser(table: ModelTable, upstream: str) -> None:
    """CORS for those that are allowed, errors and the headers that clients need included; for no others."""
    with hosted(table, upstream, cors_origins=["https://app.example.com"]) as address:
        origin = {"origin": "https://app.example.com"}
        found = await asked(address, **origin)
        assert found.headers["access-control-allow-origin"] == "https://app.example.com"
        assert "mcp-session-id" in found.headers["access-control-expose-headers"].lower()
        refused = await asked(address, authorization="", **origin)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, origin["origin"])
        async with httpx.AsyncClient(base_url=address) as web:
            preflight = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
            assert (await web.options("/mcp", headers={**origin, **preflight})).status_code == 200
            other = await web.options("/mcp", headers={"origin": "https://evil.example", **preflight})
            assert "access-control-allow-origin" not in other.headers


async def test_a_body_that_does_not_arrive(table: ModelTable, upstream: str) -> None:
    """The request ends with 408 after a time, and no longer counts as a call in progress."""
    session = Session(table, upstream, token_of=bearer_token)
    limits = CallerLimits(calls=1, all_calls=1, generations=0, observer=Observer())
    with serving(build_app(session.server, read_settings(), limits=limits, body_seconds=1)) as address:
        host, port = address.removeprefix("http://").split(":")
        head = "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer alice\r\nContent-Length: 100\r\n\r\n{"
        async with await anyio.connect_tcp(host, int(port)) as stream:
            await stream.send(head.encode())
            with anyio.fail_after(60):
                assert (await stream.receive()).startswith(b"HTTP/1.1 408")
        assert (await asked(address)).status_code == 200


async def test_under_a_prefix(table: ModelTable, upstream: str, sandbox: Sandbox) -> None:
    """The doors are where the app is mounted."""
    inner = assembly.hosted(read_settings(base_url=upstream), table=table)
    app = Starlette(routes=[Mount("/seedream", inner)], lifespan=inner.router.lifespan_context)
    with serving(app) as address:
        async with httpx.AsyncClient(base_url=address) as web:
            refused = await web.post("/seedream/mcp", json=LIST, headers={**HEADERS, "authorization": ""})
            taken = await web.post("/seedream/mcp", json=LIST, headers=HEADERS)
    assert (refused.status_code, taken.status_code) == (401, 200)


async def test_an_upstream_that_is_down_is_not_waited_for_by_turns(table: ModelTable) -> None:
    """Who comes with the same key hears what the first one heard."""
    looked: list[str] = []

    async def look_up(_: list[str], key: str) -> None:
        looked.append(key)
        await anyio.sleep(0.1)
        raise UpstreamUnavailable("down")

    verifier, refused = KeyVerifier(), 0

    async def come() -> None:
        nonlocal refused
        with pytest.raises(KeyNotChecked):
            await verifier.is_valid("key", look_up)
        refused += 1

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(come)
    assert (looked, refused) == (["key"], 20)


def test_several_processes_share_what_they_know(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """People could sign in at one, and be unknown to the other."""
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    with pytest.raises(ConfigurationError, match="SEEDREAM_REDIS_URL"):
        assembly.hosted(read_settings(public_url="https://a.example", metrics_dir=str(tmp_path)))


def test_building_the_app_changes_nothing_process_wide(table: ModelTable, upstream: str) -> None:
    """The garbage collector and the environment belong to the entry points."""

    def process_wide() -> tuple[object, ...]:
        return gc.get_threshold(), gc.get_freeze_count(), dict(os.environ)

    before = process_wide()
    assembly.hosted(read_settings(base_url=upstream), table=table)
    assert process_wide() == before


async def test_headers_have_a_limit(table: ModelTable, upstream: str) -> None:
    """431, before anything is made of them."""
    with hosted(table, upstream, max_header_kib=1) as address:
        assert (await asked(address, **{"x-large": "x" * 2000})).status_code == 431


async def test_calls_at_once_have_a_limit(table: ModelTable, upstream: str, sandbox: Sandbox) -> None:
    """For each caller: 429 and when to come again, while others are served."""
    with hosted(table, upstream, calls_at_once=3) as address:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(partial(called, address, "generate_image", prompt="a [sandbox:slow=60]"))
            await until(lambda: len(sandbox.jobs) == 3)
            for method in ("tools/call", "tools\\/call", "tools\\u002fcall", "tools/list"):
                refused = await called(address, method=method)
                assert refused.status_code == 429
            assert refused.json()["error"] == "too_many_requests"
            assert int(refused.headers["retry-after"]) > 0
            assert (await called(address, key="bob")).status_code == 200
            finish(sandbox)
        assert (await called(address)).status_code == 200
        assert 'seedream_limits_hit_total{limit="calls"}' in (await asked(address, "/metrics")).text


async def test_generations_a_minute_have_a_limit(table: ModelTable, upstream: str, sandbox: Sandbox) -> None:
    """A tool error says when to try again; look-ups and other callers are not limited."""
    generation = {"prompt": "a", "wait_seconds": 0}
    with hosted(table, upstream, generations_a_minute=2) as address:
        async with connected(address) as client:
            for _ in range(2):
                made = await client.call_tool("generate_image", generation)
            result = await client.call_tool("generate_image", generation)
            assert answer(result)["error"]["code"] == "too_many_requests"
            assert answer(result)["error"]["retryable"] is True
            assert re.search(r"try again in \d+ s", answer(result)["error"]["message"])
            assert not (await client.call_tool("get_task", {"task_id": answer(made)["task_id"]})).is_error
        async with connected(address, "bob") as client:
            assert not (await client.call_tool("generate_image", generation)).is_error
    assert len(submits(sandbox)) == 3


async def test_a_minute_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Afterwards there is room again, and nothing is kept of callers that are gone."""
    now = [1000.0]
    limits = CallerLimits(calls=1, all_calls=2, generations=1, observer=Observer(), clock=lambda: now[0])
    for caller in ("a", "b"):
        limits.generate(caller)
        with pytest.raises(LimitExceeded, match="try again in 60 s"):
            limits.generate(caller)
    now[0] += 61
    limits.generate("a")
    monkeypatch.setattr("mcp_seedream.hosting.limits._MAX_CALLERS", 1)
    limits.generate("c")
    assert list(limits._generation_times) == ["a", "c"]
    with limits.call("a"), pytest.raises(LimitExceeded, match="of your calls"), limits.call("a"):
        pass
    with limits.call("a"), limits.task("a"), pytest.raises(LimitExceeded, match="of your tasks"), limits.task("a"):
        pass
    with limits.call("a"), limits.call("b"), pytest.raises(LimitExceeded, match="this server"), limits.call("c"):
        pass
    assert limits._calls_in_progress == limits._tasks_in_progress == _Usage()


async def test_what_the_operator_sees(table: ModelTable, upstream: str, caplog: pytest.LogCaptureFixture) -> None:
    """Figures and log lines of each call: with ids, without prompts and keys."""
    prompt = "a very secret prompt"
    with hosted(table, upstream) as address, caplog.at_level(logging.INFO):
        async with connected(address, "alices-secret-key") as client:
            made = await client.call_tool("generate_image", {"prompt": prompt})
            await client.call_tool("generate_image", {"prompt": f"{prompt} [sandbox:failed]"})
            await client.call_tool("generate_image", {"prompt": "a", "model": "x"})
        page = (await asked(address, "/metrics")).text
        [line] = [record for record in caplog.records if record.__dict__.get("task_id") == answer(made)["task_id"]]
    known = line.__dict__
    assert (known["outcome"], known["caller"]) == ("succeeded", caller_id("alices-secret-key"))
    assert known["model"] == answer(made)["model"]
    assert known["request_id"]
    assert known["seconds"] > 0
    model = answer(made)["model"]
    assert f'seedream_calls_total{{model="{model}",outcome="succeeded",tool="generate_image"}} 1.0' in page
    assert 'outcome="invalid_arguments"' in page
    assert f'seedream_generation_seconds_count{{model="{model}"}} 1.0' in page
    assert 'seedream_upstream_seconds_count{kind="submit",status="200"}' in page
    for name in (
        "seedream_waiting_calls 0.0",
        'seedream_upstream_bytes_total{direction="sent"}',
    ):
        assert name in page
    for secret in (prompt, "alices-secret-key"):
        assert secret not in caplog.text
        assert secret not in page


async def test_each_request_to_the_upstream_is_one_figure(table: ModelTable, upstream: str, sandbox: Sandbox) -> None:
    """Submits, rounds, look-ups and checks, by kind; none of them is counted anywhere else."""
    with hosted(table, upstream) as address:
        async with connected(address, "a-key") as client:
            made = await client.call_tool("generate_image", {"prompt": "a fox"})
            await client.call_tool("get_task", {"task_id": answer(made)["task_id"]})
        page = (await asked(address, "/metrics")).text
    figures = {name: float(value) for name, value in re.findall(r"^(\w+(?:\{[^}]*\})?) (\S+)$", page, re.MULTILINE)}
    counts = {name: value for name, value in figures.items() if name.startswith("seedream_upstream_seconds_count")}
    assert sum(counts.values()) == len(sandbox.requests)
    assert 'seedream_upstream_seconds_count{kind="look_up",status="200"}' in counts
    counted = {re.sub(r"_(bucket|sum|count|total|created)?(\{.*)?$", "", name) for name in figures}
    assert {name for name in counted if re.search("look|upstream|round", name)} == {
        "seedream_upstream_seconds",
        "seedream_upstream_bytes",
        "seedream_upstream_unreachable",
    }


async def test_requests_have_an_id(table: ModelTable, upstream: str) -> None:
    """Their own where it is a plain one."""
    with hosted(table, upstream) as address:
        assert (await asked(address, **{"x-request-id": "abc-1"})).headers["x-request-id"] == "abc-1"
        for odd in ("", "a b", "x" * 100, '"><b>'):
            assert re.fullmatch(
                r"[0-9a-f]{16}", (await asked(address, **{"x-request-id": odd})).headers["x-request-id"]
            )


@pytest.mark.parametrize("form", ["text", "json"])
def test_log_lines(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As text, or as one JSON object a line with what is known as fields of its own."""
    stream, root = io.StringIO(), logging.getLogger()
    before = root.handlers[:], root.level
    monkeypatch.setattr("sys.stderr", stream)
    try:
        log_to_stderr("info", form)
        logging.getLogger("mcp_seedream.x").info(
            "two\nlines %s", "\u2028", extra={"task_id": "t1", "color_message": "2"}
        )
    finally:
        root.handlers[:], root.level = before
    if form == "json":
        [line] = stream.getvalue().splitlines()
        found = json.loads(line)
        assert (found["message"], found["task_id"], found["level"]) == ("two\nlines \u2028", "t1", "INFO")
        assert "color_message" not in found
    else:
        assert stream.getvalue().endswith("INFO mcp_seedream.x: two\\nlines \\u2028\n")


async def test_pages_for_people_and_clients(table: ModelTable, upstream: str) -> None:
    """What this is, and how to connect; the card is made from the registered tools."""
    with hosted(table, upstream, public_url="https://mcp.example.com") as address:
        page = await asked(address, "/")
        card = (await asked(address, "/.well-known/mcp/server-card.json")).json()
        async with connected(address) as client:
            tools = (await client.list_tools()).tools
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "https://mcp.example.com/mcp" in page.text
    assert all(tool.name in page.text for tool in tools)
    assert card["transport"]["endpoint"] == "https://mcp.example.com/mcp"
    assert [tool["name"] for tool in card["tools"]] == [tool.name for tool in tools]
    assert card["tools"][0]["inputSchema"] == tools[0].input_schema
    assert card["protocolVersions"] == list(KNOWN_PROTOCOL_VERSIONS)  # test_http.py makes calls in each of them


async def test_a_page_takes_no_markup_from_its_request(table: ModelTable, upstream: str) -> None:
    """The address is what the request says, where no public one is set."""
    with hosted(table, upstream, allowed_hosts=["*"]) as address:
        page = await asked(address, "/", host='x"><script>alert(1)</script>')
    assert "<script>" not in page.text


async def test_the_log_says_when_calls_can_not_be_served(caplog: pytest.LogCaptureFixture) -> None:
    """Once, and once more when they can."""
    away = True

    async def look_up(_: list[str], __: str) -> None:
        if away:
            raise UpstreamUnavailable("gone")

    readiness = Readiness(Shutdown(), look_up, Observer(), cache_seconds=-1)
    async with anyio.create_task_group() as group:
        group.start_soon(readiness.check_on_demand)
        for away in (False, True, True, False, False):
            assert (await readiness.upstream() == "unreachable") == away
            assert readiness.problem is None
        group.cancel_scope.cancel()
    said = [record.message for record in caplog.records]
    assert said == ["the upstream can't be reached", "the upstream can again be reached"]


async def test_a_probe_does_not_wait_for_an_upstream_that_hangs() -> None:
    """It gets what was known before."""

    async def look_up(_: list[str], __: str) -> None:
        await anyio.sleep_forever()

    readiness = Readiness(Shutdown(), look_up, Observer(), patience=0.01)
    async with anyio.create_task_group() as group:
        group.start_soon(readiness.check_on_demand)
        for _ in range(3):
            assert await readiness.upstream() == "unknown"
        group.cancel_scope.cancel()


async def test_a_stopping_server_is_not_ready(table: ModelTable, upstream: str, sandbox: Sandbox) -> None:
    """And says so to whoever sends it calls."""
    app = assembly.hosted(read_settings(base_url=upstream), table=table)
    with serving(app) as address:
        assert (await asked(address, "/ready")).json() == {"status": "ready", "upstream": "reachable"}
        app.state.shutdown.request()
        assert (await asked(address, "/ready")).status_code == 503


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_hosts", "https://*.com/x"),
        ("image_hosts", "https://*.com"),
        ("image_hosts", "https://-"),
        ("image_hosts", "https://a..b"),
        ("image_hosts", "*"),
        ("image_hosts", "https://a.example; script-src *"),
        ("public_url", "mcp.example.com"),
        ("public_url", "https://mcp.example.com/mcp"),
    ],
)
def test_settings_that_are_refused(name: str, value: str) -> None:
    """They end up in policies and addresses."""
    with pytest.raises(ConfigurationError):
        read_settings(**{name: value})


@pytest.mark.parametrize(
    "value",
    ["https://a.example.com", "http://127.0.0.1:8080", "http://[::1]:80", "https://*.example.com", "http://localhost"],
)
def test_image_hosts_that_are_taken(value: str) -> None:
    """Origins, one level of names left open at most."""
    assert Settings(_env_file=None, SEEDREAM_IMAGE_HOSTS=value).image_hosts == [value]  # type: ignore[call-arg]
