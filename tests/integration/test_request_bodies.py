"""Bodies over HTTP: how large, slow and complex they may be, and that pictures in them arrive whatever holds them."""

from __future__ import annotations

import base64
import io
import json
import logging
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import httpx
import pytest
from mcp_types.version import KNOWN_PROTOCOL_VERSIONS
from PIL import Image
from starlette.types import Message, Receive, Scope, Send

from mcp_seedream import assembly
from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.settings import read_settings
from mcp_seedream.hosting.app import bearer_token, build_app
from mcp_seedream.hosting.body_budget import BodyBudget, BodyMemory
from mcp_seedream.hosting.request_bodies import IncompleteRequestMiddleware
from mcp_seedream.sandbox.app import Sandbox
from mcp_seedream.server.server import build_server
from mcp_seedream.server.tools import ToolDefaults
from mcp_seedream.telemetry.metrics import Metrics
from mcp_seedream.upstream.client import SeedreamClient
from tests.conftest import answer, serving, submits, until
from tests.integration.test_http import LATEST, OLD, connected, message, read
from tests.support.clocks import OWN_TIME

pytestmark = pytest.mark.anyio
MIB = 2**20


def noise(side: int = 400) -> str:
    """A PNG in base64, of about three bytes a pixel."""
    file = io.BytesIO()
    Image.effect_noise((side, side), 99).convert("RGB").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


PICTURE = noise()


@pytest.fixture
def bodies() -> BodyBudget:
    return BodyBudget(20 * MIB, patience=0.2)


@pytest.fixture
def metrics(table: ModelTable) -> Metrics:
    return Metrics(table.by_id)


@pytest.fixture
def endpoint(table: ModelTable, upstream: str, bodies: BodyBudget, metrics: Metrics) -> Iterator[str]:
    server = build_server(
        table,
        lambda: SeedreamClient(upstream),
        token_of=bearer_token,
        defaults=ToolDefaults(20),
        look_interval=0.1,
    )
    settings = read_settings(max_body_mib=8)
    with serving(build_app(server, settings, bodies=bodies, metrics=metrics)) as address:
        yield f"{address}/mcp"


async def posted(endpoint: str, body: dict[str, Any], headers: dict[str, str], *, chunked: bool = False) -> Any:
    content: Any = json.dumps(body).encode()

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 100_000):
            yield content[start : start + 100_000]

    async with httpx.AsyncClient(timeout=60) as web:
        return await web.post(endpoint, content=chunks() if chunked else content, headers=headers)


def edit(revision: str, image: Any) -> tuple[dict[str, Any], dict[str, str]]:
    return message("tools/call", revision, {"name": "edit_image", "arguments": {"prompt": "a", "image": image}})


async def nothing_held(bodies: BodyBudget) -> None:
    """Wait for the end of requests that were answered."""
    await until(lambda: not bodies._used and not bodies._by_caller and not bodies._releasable)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("revision", KNOWN_PROTOCOL_VERSIONS)
async def test_a_picture_arrives(
    endpoint: str, sandbox: Sandbox, bodies: BodyBudget, revision: str, chunked: bool
) -> None:
    """In every revision, and in every way to send a body; nothing is held afterwards."""
    body, headers = edit(revision, [f"data:image/png;base64,{PICTURE}", "https://example.com/a.png"])
    result = read(await posted(endpoint, body, headers, chunked=chunked))[-1]
    assert result["result"]["structuredContent"]["status"] == "succeeded"
    [sent] = submits(sandbox)
    assert sent["image"] == [f"data:image/png;base64,{PICTURE}", "https://example.com/a.png"]
    await nothing_held(bodies)


@pytest.mark.parametrize(
    "image",
    [
        PICTURE,
        json.dumps([PICTURE]),
        {"type": "image", "data": PICTURE, "mimeType": "image/png"},
        "\n".join(PICTURE[start : start + 76] for start in range(0, len(PICTURE), 76)),
    ],
    ids=["base64", "JSON", "a block", "lines"],
)
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_picture_in_every_spelling(endpoint: str, sandbox: Sandbox, image: Any, mode: str) -> None:
    async with connected(endpoint, mode=mode) as client:
        result = await client.call_tool("edit_image", {"prompt": "a", "image": image})
    assert answer(result)["status"] == "succeeded"
    assert submits(sandbox)[0]["image"] == [PICTURE]


async def test_arguments_that_are_json_in_a_string(endpoint: str, sandbox: Sandbox) -> None:
    """With a picture in it."""
    arguments = json.dumps({"prompt": "a", "image": [PICTURE]})
    body, headers = message("tools/call", OLD, {"name": "edit_image", "arguments": arguments})
    [*_, result] = read(await posted(endpoint, body, headers))
    assert result["result"]["structuredContent"]["status"] == "succeeded"
    assert submits(sandbox)[0]["image"] == [PICTURE]


async def test_other_methods_get_long_strings_too(endpoint: str) -> None:
    """A prompt with a picture."""
    async with connected(endpoint) as client:
        [prompt, *_] = [each for each in (await client.list_prompts()).prompts if "edit" in each.name]
        given = {each.name: "a" for each in prompt.arguments or () if each.required}
        found = await client.get_prompt(prompt.name, {**given, "image": PICTURE})
    assert PICTURE in found.messages[0].model_dump_json()


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("prompts/get", {"name": "edit_photo", "arguments": {"prompt": "a", "image": "A" * 2 * MIB}}),
        ("resources/read", {"uri": f"seedream://models/{'a' * 2 * MIB}"}),
        ("tools/call", {"name": "a" * 2 * MIB, "arguments": {}}),
    ],
)
async def test_other_methods_accept_no_pictures_of_megabytes(
    endpoint: str, method: str, params: dict[str, Any]
) -> None:
    """Responses would repeat them, and are not part of the budget."""
    body, headers = message(method, OLD, params)
    [*_, result] = read(await posted(endpoint, body, headers))
    assert "accept more than 1 MiB" in result["error"]["message"]
    assert len(json.dumps(result)) < 1000


@pytest.mark.parametrize("name", ["size", "model", "aspect_ratio", "callback_url"])
@pytest.mark.parametrize("is_nested", [False, True])
async def test_a_long_argument_is_refused(endpoint: str, name: str, is_nested: bool) -> None:
    """Before it is compared with valid values, which took a minute for 49 MB."""
    long = f"1{' ' * 3_000_000}x"
    arguments = {"prompt": "a", name: [long, "1"] if is_nested else long}
    async with connected(endpoint) as client:
        result = await client.call_tool("generate_image", arguments)
    assert "characters; it may have at most 20,000" in answer(result)["error"]["message"]


async def test_a_long_prompt_is_refused(endpoint: str, sandbox: Sandbox) -> None:
    """By the length that the table has."""
    async with connected(endpoint) as client:
        result = await client.call_tool("generate_image", {"prompt": "a" * 1_000_000})
    assert "`prompt` has 1,000,000 characters; it may have at most 20,000" in answer(result)["error"]["message"]
    assert submits(sandbox) == []


@pytest.mark.parametrize("size", [30_000, 3_000_000])
@pytest.mark.parametrize("item", ["[]", "{}", '""', "1"])
@pytest.mark.parametrize("revision", [OLD, LATEST])
async def test_complex_json_is_refused(endpoint: str, bodies: BodyBudget, revision: str, item: str, size: int) -> None:
    """It is refused before the SDK parses it."""
    body, headers = message("tools/list", revision)
    text = json.dumps(body)[:-1] + f', "x": [{",".join([item] * (size // 3))}]}}'
    async with httpx.AsyncClient(timeout=60) as web:
        refused = await web.post(endpoint, content=text, headers=headers)
    assert refused.status_code == 400
    assert "more than 8,000 tokens" in refused.json()["error"]["message"]
    await nothing_held(bodies)


@pytest.mark.parametrize("length", [8 * MIB + 1, 10**17, int("9" * 60)])
async def test_a_declared_length_is_checked_first(endpoint: str, bodies: BodyBudget, length: int) -> None:
    """Before a byte of the body comes."""
    host, port = endpoint.removeprefix("http://").removesuffix("/mcp").split(":")
    head = f"POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer a\r\nContent-Length: {length}\r\n\r\n"
    async with await anyio.connect_tcp(host, int(port)) as stream:
        await stream.send(head.encode())
        with anyio.fail_after(10):
            status = await stream.receive()
    assert status.startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))
    await nothing_held(bodies)


async def test_a_body_in_chunks_has_the_same_limit(endpoint: str, bodies: BodyBudget) -> None:
    body, headers = edit(OLD, "A" * (9 * MIB))
    assert (await posted(endpoint, body, headers, chunked=True)).status_code == 413
    await nothing_held(bodies)


async def test_too_many_bodies_at_once(endpoint: str, sandbox: Sandbox, bodies: BodyBudget, metrics: Metrics) -> None:
    """One more waits for its turn, and hears when to come again; small ones are still taken."""
    shares = [BodyMemory(bodies, f"key-{number}") for number in range(5)]
    for share in shares:
        share.resize(4 * MIB - 20_000)
    body, headers = edit(OLD, PICTURE)
    refused = await posted(endpoint, body, headers)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert refused.json()["error"] == "too_many_requests"
    assert b'limit="request_bodies"' in metrics.page()
    assert (await posted(endpoint, *message("tools/list", OLD))).status_code == 200
    for share in shares:
        share.free()
    assert (await posted(endpoint, body, headers)).status_code == 200
    assert len(submits(sandbox)) == 1


async def test_pictures_of_a_waiting_call_make_room(endpoint: str, sandbox: Sandbox, bodies: BodyBudget) -> None:
    """Once its task is accepted; it still gets its picture."""
    slow, headers = message(
        "tools/call",
        OLD,
        {"name": "edit_image", "arguments": {"prompt": "a [sandbox:slow=60]", "image": PICTURE, "wait_seconds": 4}},
    )
    answers = []

    async def call() -> None:
        answers.extend(read(await posted(endpoint, slow, headers)))

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await until(lambda: bool(bodies._releasable))
        assert bodies._used >= len(PICTURE)
        other = BodyMemory(bodies, "other")
        await other.acquire(19 * MIB)
        assert bodies._used == 19 * MIB
        other.free()
    assert answers[-1]["result"]["structuredContent"]["status"] == "pending"
    await nothing_held(bodies)


async def test_a_released_picture_is_not_sent_again(
    endpoint: str, sandbox: Sandbox, bodies: BodyBudget, table: ModelTable
) -> None:
    """A refusal inside the task comes after it: the same call, made again, is sent to another model."""
    sandbox.retired = frozenset({table.models_for("edit")[0].id})
    prompt = "a [sandbox:refuse_in_task] [sandbox:slow=1]"
    body, headers = message(
        "tools/call", OLD, {"name": "edit_image", "arguments": {"prompt": prompt, "image": PICTURE}}
    )
    answers = []

    async def call() -> None:
        answers.extend(read(await posted(endpoint, body, headers)))

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await until(lambda: bool(bodies._releasable))
        other = BodyMemory(bodies, "other")
        await other.acquire(19 * MIB)
        other.free()
    found = answers[-1]["result"]["structuredContent"]
    assert found["status"] == "failed"
    assert "Make the same call again" in str(answers[-1])


@OWN_TIME
@pytest.mark.parametrize(("rate", "status"), [(50_000, 200), (45_000, 200), (20_000, 408), (0, 408)])
async def test_a_body_must_come_at_a_rate(rate: int, status: int) -> None:
    """10 MB at 50 kB/s come; what is slower than that for long does not, whatever its declared length says."""
    statuses, size, arrived = [], 13_300_000, 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Message:
        nonlocal arrived
        await anyio.sleep(1 if rate else 10**9)
        arrived += rate
        return {"type": "http.request", "body": bytes(rate), "more_body": arrived < size}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {"type": "http", "path": "/mcp", "headers": [(b"content-length", b"1" + b"0" * 17)]}
    began = anyio.current_time()
    await IncompleteRequestMiddleware(app, body_seconds=60, large_path="/mcp")(scope, receive, send)
    assert statuses == [status]
    assert anyio.current_time() - began < 400


async def test_forms_and_metadata_are_small(table: ModelTable, upstream: str, caplog: pytest.LogCaptureFixture) -> None:
    """The SDK reads them whole: they have a limit of their own, for everybody who has no key."""
    settings = read_settings(base_url=upstream, public_url="https://mcp.example.com", seal_keys=secrets.token_hex(32))
    with serving(assembly.hosted(settings, table=table)) as address, caplog.at_level(logging.ERROR):
        async with httpx.AsyncClient(base_url=address, timeout=60) as web:
            for path in ("/register", "/token", "/revoke"):
                assert (await web.post(path, content=b"a" * 70_000)).status_code == 413
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
