"""The tools through an MCP client, in memory, against the sandbox over real sockets."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from jsonschema import Draft202012Validator
from mcp_types import CallToolResult, ImageContent
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.generation.journal import IN_MEMORY, Journal
from mcp_seedream.media.local_files import LocalFiles
from mcp_seedream.sandbox.app import Sandbox, running
from mcp_seedream.sandbox.faults import REFUSALS
from mcp_seedream.server import results
from mcp_seedream.server.results import IMAGE_RESULT, TASK_RESULT
from mcp_seedream.server.tools import ToolDefaults
from mcp_seedream.upstream.types import Task
from tests.conftest import Session, answer, finish, look_ups, serving, submits, text, until, until_quiet
from tests.support.contract import faults
from tests.support.models import LITE, PRO, V5

pytestmark = pytest.mark.anyio


def picture(red: int = 200) -> str:
    file = io.BytesIO()
    Image.new("RGBA", (64, 48), (red, 30, 30, 128)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def assert_complete_twice(result: CallToolResult) -> None:
    """The text and the structured content each carry everything an agent needs."""
    found = answer(result)
    assert list(Draft202012Validator(TASK_RESULT).iter_errors(found)) == []
    for key in ("task_id", "trace_id"):
        if key in found and not (key == "trace_id" and found["status"] == "pending"):
            assert found[key] in text(result)
    for image in found.get("images", []):
        if "url" in image:
            assert image["url"] in text(result)
    assert "null" not in json.dumps(found)


async def test_a_picture_from_text(session: Session, sandbox: Sandbox) -> None:
    """One call, one submit, one picture of the asked size, in few words."""
    result = await session.call("generate_image", prompt="a red fox", size="2048x2048")
    found = answer(result)
    assert not result.is_error
    assert (found["status"], found["model"], len(found["images"])) == ("succeeded", V5, 1)
    assert found["images"][0]["size"] == "2048x2048"
    assert set(found) == {"status", "task_id", "trace_id", "model", "images", "links_until", "elapsed_seconds", "usage"}
    assert found["usage"]["generated_images"] == 1
    assert_complete_twice(result)
    assert len(text(result)) <= 330
    assert submits(sandbox) == [{"model": V5, "prompt": "a red fox", "size": "2048x2048", "async": True}]
    async with httpx.AsyncClient() as web:
        file = (await web.get(found["images"][0]["url"])).content
    assert Image.open(io.BytesIO(file)).size == (2048, 2048)


async def test_an_edit_of_a_bare_string(session: Session, sandbox: Sandbox) -> None:
    """Taken as a list of one; 5.0 is the first choice."""
    result = await session.call("edit_image", prompt="make it green", image=picture())
    assert answer(result)["model"] == V5
    assert submits(sandbox)[0]["image"] == [picture()]
    assert faults(submits(sandbox)[0]) == []


async def test_layers(session: Session) -> None:
    """A base and transparent layers, each with name, box and link; no prompt needed."""
    result = await session.call("edit_image", image=[picture()], layer_decomposition=True, size="auto")
    images = answer(result)["images"]
    assert [image["z_index"] for image in images] == [0, 1, 2, 3]
    assert all(image["bounding_box"]["absolute"] for image in images[1:])
    assert "layer 1 subject" in text(result)
    assert answer(result)["model"] == PRO
    assert_complete_twice(result)


@pytest.mark.parametrize("prompt", [None, "", " \n"])
async def test_layers_without_a_prompt(
    table: ModelTable, upstream: str, sandbox: Sandbox, tmp_path: Path, prompt: str | None
) -> None:
    """However it is left out: none is sent, none names a file, and none is shown as `""`."""
    local = ToolDefaults(20, local=LocalFiles(output=tmp_path))
    here = Session(table, upstream, defaults=local, journal=Journal(IN_MEMORY))
    image = "https://example.com/poster.png"
    async with here.open() as client:
        call = {"image": [image], "layer_decomposition": True, **({} if prompt is None else {"prompt": prompt})}
        made = answer(await client.call_tool("edit_image", call))
        listing = await client.call_tool("get_task", {})
    assert "prompt" not in submits(sandbox)[-1]
    assert all(Path(each["path"]).name.startswith("seedream-") for each in made["images"])
    [found] = [each for each in answer(listing)["tasks"] if each["task_id"] == made["task_id"]]
    assert "prompt" not in found
    assert '""' not in text(listing)


async def test_layers_that_were_looked_up() -> None:
    """The gallery can make the call again, though it has no prompt; a request of which nothing is known is no call."""
    asked = {"model": PRO, "image": ["https://example.com/poster.png"], "layer_decomposition": True}
    known = ("prompt", "image", "model", "layer_decomposition")
    found = results.task_result(Task("t1", "succeeded", request=asked), repeatable=known)
    assert found.meta == {results.CALL: {"tool": "edit_image", "args": asked}}
    assert results.task_result(Task("t1", "succeeded", request={"model": PRO}), repeatable=known).meta is None


async def test_a_set_streamed(session: Session) -> None:
    """Each picture is one progress report with its link, then the whole set."""
    told: list[str] = []

    async def report(progress: float, total: float | None, message: str | None) -> None:
        told.append(message or "")

    arguments = {
        "prompt": "four seasons",
        "sequential_image_generation": "auto",
        "sequential_image_generation_options": {"max_images": 3},
        "stream": True,
    }
    async with session.open() as client:
        result = await client.call_tool("generate_image", arguments, progress_callback=report)
    links = [image["url"] for image in answer(result)["images"]]
    assert told == [f"Image {n}: {link}" for n, link in enumerate(links, 1)]
    assert len(links) == 3
    assert_complete_twice(result)


async def test_a_stream_that_breaks_keeps_what_came(session: Session, sandbox: Sandbox) -> None:
    """The pictures so far, a note, the task's id, and nothing sent again."""
    result = await session.call(
        "generate_image", prompt="seasons [sandbox:cut]", sequential_image_generation="auto", stream=True
    )
    found = answer(result)
    assert (found["status"], len(found["images"])) == ("succeeded", 1)
    assert "broke off" in found["notes"][0]
    assert found["task_id"] in sandbox.jobs
    assert len(submits(sandbox)) == 1


async def test_what_takes_too_long_comes_back_as_pending(session: Session, sandbox: Sandbox) -> None:
    """Not an error: the id, and what to do. get_task then waits for it."""
    result = await session.call("generate_image", prompt="slow [sandbox:slow=1]", wait_seconds=0.3)
    found = answer(result)
    assert not result.is_error
    assert found["status"] == "pending"
    next_step = f'get_task with task_id "{found["task_id"]}"'
    assert next_step in text(result)
    assert next_step in found["notes"][0]
    assert_complete_twice(result)
    result = await session.call("get_task", task_id=found["task_id"])
    assert answer(result)["status"] == "succeeded"
    assert_complete_twice(result)
    assert len(submits(sandbox)) == 1


async def test_no_wait_asks_nothing(session: Session, sandbox: Sandbox) -> None:
    """wait_seconds 0 returns at once, and so does a callback."""
    assert answer(await session.call("generate_image", prompt="a", wait_seconds=0))["status"] == "pending"
    hook = "http://127.0.0.1:9/hook"
    assert answer(await session.call("generate_image", prompt="a", callback_url=hook))["status"] == "pending"
    assert look_ups(sandbox) == []
    assert "async" not in submits(sandbox)[1]


async def test_progress_names_the_task(table: ModelTable, upstream: str) -> None:
    """At once when it is accepted, so that a client that gives up knows its id."""
    told: list[str] = []

    async def report(progress: float, total: float | None, message: str | None) -> None:
        told.append(message or "")

    async with Session(table, upstream).open() as client:
        result = await client.call_tool("generate_image", {"prompt": "a"}, progress_callback=report)
    assert told[0] == f"Task {answer(result)['task_id']} is accepted"


async def test_several_tasks_in_one_request(session: Session, sandbox: Sandbox) -> None:
    """Those that run are waited for together; an unknown one is named."""
    ids = [answer(await session.call("generate_image", prompt=p, wait_seconds=0))["task_id"] for p in "ab"]
    sandbox.requests.clear()
    result = await session.call("get_task", task_ids=[*ids, "unknown"])
    found = answer(result)
    assert found["status"] == "succeeded"
    assert [task["task_id"] for task in found["tasks"]] == [*ids, "unknown"]
    assert [task["status"] for task in found["tasks"]] == ["succeeded", "succeeded", "failed"]
    assert found["tasks"][2]["error"]["code"] == "not_found"
    assert found["notes"] == ["1 of 3 tasks failed."]
    assert sandbox.requests[0][2] == {"action": "retrieve_batch", "ids": [*ids, "unknown"]}
    assert all(id_ in text(result) for id_ in [*ids, "unknown"])


async def test_an_unknown_task_is_an_error(session: Session) -> None:
    """One id that the upstream does not know."""
    result = await session.call("get_task", task_id="nope")
    assert result.is_error
    assert answer(result)["error"]["code"] == "not_found"


async def test_another_token_does_not_find_the_task(table: ModelTable, upstream: str, session: Session) -> None:
    """A task belongs to who made it."""
    id_ = answer(await session.call("generate_image", prompt="a"))["task_id"]
    result = await Session(table, upstream, token="somebody-else").call("get_task", task_id=id_)
    assert answer(result)["error"]["code"] == "not_found"


@pytest.mark.parametrize("word", sorted(set(REFUSALS) - {"fetch_failed", "model_invalid"}))
async def test_every_refusal_reaches_the_agent(session: Session, sandbox: Sandbox, word: str) -> None:
    """As an error with the upstream's code and trace_id, in both forms; sent once."""
    result = await session.call("generate_image", prompt=f"x [sandbox:{word}]")
    error = answer(result)["error"]
    assert result.is_error
    assert error["code"] == REFUSALS[word][1]
    assert error["message"] in text(result)
    assert answer(result)["trace_id"] in text(result)
    assert len(submits(sandbox)) == 1


@pytest.mark.parametrize(
    ("word", "code"), [("fetch_failed", "api_error"), ("failed", "api_error"), ("empty", "empty_result")]
)
async def test_a_generation_that_fails_is_an_error(session: Session, word: str, code: str) -> None:
    """Whether it failed at once with HTTP 200, later, or ended empty."""
    result = await session.call("generate_image", prompt=f"x [sandbox:{word}]")
    assert result.is_error
    assert answer(result)["status"] == "failed"
    assert answer(result)["error"]["code"] == code
    assert_complete_twice(result)


@pytest.mark.parametrize("word", ["html", "not_json"])
async def test_a_proxys_answer_is_a_clear_error(session: Session, sandbox: Sandbox, word: str) -> None:
    """It may have been accepted: said, and not sent again."""
    result = await session.call("generate_image", prompt=f"x [sandbox:{word}]")
    assert result.is_error
    assert answer(result)["error"]["code"] == "submission_uncertain"
    assert "may have been accepted and billed" in text(result)
    assert len(submits(sandbox)) == 1


async def test_one_failed_image_of_a_set_is_a_note(session: Session) -> None:
    """The others are there."""
    result = await session.call("generate_image", prompt="x [sandbox:partial]", sequential_image_generation="auto")
    assert len(answer(result)["images"]) == 3
    assert "1 of 4 images failed: This image was refused (bad_request)." in answer(result)["notes"]
    assert "1 of 4 images failed" in text(result)


@pytest.mark.parametrize("shape", [1, 2, 3])
async def test_every_look_up_shape(session: Session, shape: int) -> None:
    """The documents show three."""
    result = await session.call("generate_image", prompt=f"x [sandbox:shape={shape}]")
    assert answer(result)["status"] == "succeeded"
    assert answer(result)["images"][0]["url"]


async def test_a_retired_default_falls_back_and_says_so(table: ModelTable) -> None:
    """The next fitting model serves; what was named by the caller is never swapped."""
    sandbox = Sandbox(table, record=True, seconds=0, retired=[V5])
    with running(sandbox) as upstream:
        session = Session(table, upstream)
        result = await session.call("edit_image", prompt="x", image=picture())
        assert answer(result)["model"] == LITE
        assert answer(result)["notes"] == ["The upstream refused 5.0, so Lite was used."]
        assert [body["model"] for body in submits(sandbox)] == [V5, LITE]
        assert [body.get("size") for body in submits(sandbox)] == [None] * 2
        named = await session.call("edit_image", prompt="x", image=picture(), model=V5)
        assert answer(named)["error"]["code"] == "bad_request"
        assert "Lite, Pro, 4.5 or 4.0 can serve this call; or leave `model` out." in text(named)
        streamed = await session.call("generate_image", prompt="x", stream=True)
        assert answer(streamed)["model"] == LITE


async def test_when_every_fitting_model_is_retired(table: ModelTable) -> None:
    """The upstream's own words."""
    with running(Sandbox(table, record=True, seconds=0, retired=list(table.by_id))) as upstream:
        result = await Session(table, upstream).call("generate_image", prompt="x")
    assert result.is_error
    assert "model is invalid" in text(result)


@pytest.mark.parametrize(
    ("tool", "arguments", "code"),
    [
        ("generate_image", {"prompt": "x", "sed": 1}, "invalid_arguments"),
        ("generate_image", {"prompt": ""}, "invalid_arguments"),
        ("generate_image", {}, "invalid_arguments"),
        ("edit_image", {"prompt": "x", "image": ["/home/me/a.png"]}, "invalid_arguments"),
        ("get_task", {}, "invalid_arguments"),
    ],
)
async def test_nothing_is_sent_for_wrong_arguments(
    session: Session, sandbox: Sandbox, tool: str, arguments: dict[str, Any], code: str
) -> None:
    """An error with the rule, not the SDK's masked one."""
    result = await session.call(tool, **arguments)
    assert result.is_error
    assert answer(result)["error"]["code"] == code
    assert "Error executing tool" not in text(result)
    assert sandbox.requests == []


@pytest.mark.parametrize("prompt", ['{"a": 1}', "null", "[]", "42", '"quoted"', "狐狸\n\t🦊"])
async def test_a_prompt_goes_as_it_is(session: Session, sandbox: Sandbox, prompt: str) -> None:
    """JSON in it is not read as JSON."""
    await session.call("generate_image", prompt=prompt, wait_seconds=0)
    assert submits(sandbox)[0]["prompt"] == prompt


async def test_without_a_token(table: ModelTable, upstream: str, sandbox: Sandbox) -> None:
    """The tools are there, and a call says how to get one."""
    session = Session(table, upstream, token=None)
    async with session.open() as client:
        assert len((await client.list_tools()).tools) == 3
        result = await client.call_tool("generate_image", {"prompt": "x"})
    assert result.is_error
    assert answer(result)["error"]["code"] == "no_token"
    assert "as ACEDATACLOUD_API_TOKEN under `env` in the client's settings" in text(result)
    assert "https://platform.acedata.cloud" in text(result)
    assert sandbox.requests == []


async def test_a_client_that_leaves_stops_its_wait_only(session: Session, sandbox: Sandbox) -> None:
    """The server stops looking up the task of a client that leaves; the task goes on, and get_task finds it."""
    async with session.open() as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "generate_image", {"prompt": "slow [sandbox:slow=60]"})
            await until(lambda: bool(look_ups(sandbox)))
            group.cancel_scope.cancel()
        await until_quiet(sandbox)
        finish(sandbox)
        result = await client.call_tool("get_task", {"task_id": next(iter(sandbox.jobs))})
    assert answer(result)["status"] == "succeeded"


async def test_an_error_that_ends_a_wait_names_the_task(table: ModelTable) -> None:
    """It was accepted, and paid: its id must reach the agent."""

    async def accept(_: Request) -> JSONResponse:
        return JSONResponse({"task_id": "t1", "trace_id": "r1"})

    async def refuse(_: Request) -> JSONResponse:
        return JSONResponse({"error": {"code": "invalid_token", "message": "revoked"}}, 401)

    routes = [Route(f"/seedream/{path}", do, methods=["POST"]) for path, do in (("images", accept), ("tasks", refuse))]
    with serving(Starlette(routes=routes), lifespan="off") as upstream:
        result = await Session(table, upstream).call("generate_image", prompt="a")
    assert answer(result)["error"]["code"] == "invalid_token"
    assert (answer(result)["task_id"], answer(result)["trace_id"]) == ("t1", "r1")
    assert "t1" in text(result)


async def test_image_data_comes_as_an_image_block(session: Session) -> None:
    """There is no link to give: the picture itself, once, with the type its bytes have."""
    result = await session.call("generate_image", prompt="x", size="1280x720", response_format="b64_json")
    blocks = [block for block in result.content if isinstance(block, ImageContent)]
    assert [block.mime_type for block in blocks] == ["image/jpeg"]
    assert Image.open(io.BytesIO(base64.b64decode(blocks[0].data))).size == (1280, 720)
    assert blocks[0].data[:100] not in json.dumps(answer(result))


async def test_output_schemas_are_published(session: Session) -> None:
    """And plain."""
    async with session.open() as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert tools["generate_image"].output_schema == tools["edit_image"].output_schema == IMAGE_RESULT
    assert tools["get_task"].output_schema == TASK_RESULT
