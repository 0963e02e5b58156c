"""The sandbox speaks the upstream's contract: spoken to directly, without our client."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from PIL import Image, ImageChops
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mcp_seedream.capabilities import ModelTable
from mcp_seedream.mishaps import REFUSALS
from mcp_seedream.sandbox import Sandbox, running
from tests.conftest import BUSY, TOKEN, serving
from tests.test_capabilities import PRO, SEEDEDIT, T2I, V4, V5

pytestmark = [pytest.mark.anyio, BUSY]


@pytest.fixture
async def web(upstream: str) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(base_url=upstream, headers=headers, timeout=20) as web:
        yield web


async def post(web: httpx.AsyncClient, path: str, **body: Any) -> dict[str, Any]:
    found: dict[str, Any] = (await web.post(f"/seedream/{path}", json=body)).json()
    return found


async def images(web: httpx.AsyncClient, **body: Any) -> list[Image.Image]:
    """The pictures of a synchronous request."""
    found = await post(web, "images", **{"model": V5, "prompt": "a fox", **body})
    files = [(await web.get(item["image_url"])).content for item in found["data"]]
    return [Image.open(io.BytesIO(file)) for file in files]


async def test_synchronous(web: httpx.AsyncClient) -> None:
    """The finished answer, after the picture's time."""
    started = time.monotonic()
    found = await post(web, "images", model=V5, prompt="a fox", size="2K")
    assert time.monotonic() - started >= 0.2
    assert found["success"] is True
    assert found["data"][0]["size"] == "2048x2048"
    assert found["task_id"]
    assert found["trace_id"]


async def test_asynchronous(web: httpx.AsyncClient) -> None:
    """An id at once; while it runs there is no response, no finishing time, no elapsed."""
    accepted = await post(web, "images", **{"model": V5, "prompt": "a fox", "async": True})
    assert set(accepted) == {"task_id", "trace_id"}
    running = await post(web, "tasks", id=accepted["task_id"])
    assert running["response"] == {}
    assert not {"finished_at", "elapsed"} & set(running)
    time.sleep(0.25)  # noqa: ASYNC251  (the sandbox runs in a thread of its own)
    done = await post(web, "tasks", action="retrieve", id=accepted["task_id"])
    assert done["response"]["data"][0]["image_url"]
    assert done["elapsed"] == pytest.approx(0.2)
    batch = await post(web, "tasks", action="retrieve_batch", ids=[accepted["task_id"], "unknown"])
    assert (batch["count"], batch["items"][0]["id"]) == (1, accepted["task_id"])


async def test_a_callback_gets_the_result(web: httpx.AsyncClient) -> None:
    """POSTed when it is done."""
    got: list[Any] = []

    async def hook(scope: Scope, receive: Receive, send: Send) -> None:
        got.append(json.loads(await Request(scope, receive).body()))
        await Response()(scope, receive, send)

    with serving(hook, lifespan="off") as address:
        accepted = await post(web, "images", model=V5, prompt="a fox", callback_url=f"{address}/hook")
        for _ in range(100):
            if got:
                break
            time.sleep(0.02)  # noqa: ASYNC251
    assert got[0]["task_id"] == accepted["task_id"]
    assert got[0]["data"][0]["image_url"]


async def test_streamed(web: httpx.AsyncClient) -> None:
    """One JSON object a line, a line a picture, and the end with its usage."""
    body = {"model": V4, "prompt": "a fox", "stream": True, "sequential_image_generation": "auto"}
    response = await web.post("/seedream/images", json=body)
    assert response.headers["content-type"] == "application/x-ndjson"
    events = [json.loads(line) for line in response.text.splitlines()]
    assert [event["type"].rpartition(".")[2] for event in events] == ["partial_succeeded"] * 3 + ["completed"]
    assert events[-1]["usage"] == {"generated_images": 3}


@pytest.mark.parametrize("word", sorted(REFUSALS))
async def test_refusals(web: httpx.AsyncClient, word: str) -> None:
    """Status, code and message as documented; a rate limit says how long to wait."""
    status, code, message = REFUSALS[word]
    response = await web.post("/seedream/images", json={"model": V5, "prompt": f"x [sandbox:{word}]"})
    assert response.status_code == status
    assert response.json()["error"] == {"code": code, "message": message}
    assert response.json()["trace_id"]
    assert ("retry-after" in response.headers) is (status in (429, 503))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"model": "nope", "prompt": "x"}, "model is invalid."),
        ({"prompt": "x"}, "model is invalid."),
        ({"model": V5}, "`prompt` is empty"),
        ({"model": V5, "prompt": "x", "seed": 1}, "`seed` is not one of its parameters"),
        ({"model": V5, "prompt": "x", "sed": 1}, "`sed` is not an argument"),
        ({"model": V5, "prompt": "x", "tools": "web_search"}, "tools is malformed"),
        ({"model": V5, "prompt": "x", "optimize_prompt_options": "standard"}, "optimize_prompt_options is malformed"),
        ({"model": T2I, "prompt": "x", "seed": "5"}, "seed is malformed"),
        ({"model": SEEDEDIT, "prompt": "x", "image": "https://example.com/a.png"}, "image is malformed"),
        ({"model": V5, "prompt": "x", "stream": True, "async": True}, "async can't be combined"),
        ([], "not a JSON object"),
    ],
)
async def test_the_contract_is_enforced(web: httpx.AsyncClient, body: Any, message: str) -> None:
    """Fields in the upstream's own form, by the table's rules."""
    response = await web.post("/seedream/images", json=body)
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


async def test_tokens(web: httpx.AsyncClient, upstream: str) -> None:
    """None, a bad one, and somebody else's."""
    accepted = await post(web, "images", **{"model": V5, "prompt": "a fox", "async": True})
    async with httpx.AsyncClient(base_url=upstream) as anyone:
        assert (await anyone.post("/seedream/images", json={})).json()["error"]["code"] == "no_token"
        for token, code in (("invalid", "invalid_token"), ("used_up", "used_up"), ("other", "not_found")):
            headers = {"Authorization": f"Bearer {token}"}
            response = await anyone.post("/seedream/tasks", json={"id": accepted["task_id"]}, headers=headers)
            assert response.json()["error"]["code"] == code


@pytest.mark.parametrize(
    ("body", "size", "file_format"),
    [
        ({"size": "1K"}, (1024, 1024), "JPEG"),
        ({"size": "2560x1440"}, (2560, 1440), "JPEG"),
        ({"size": "1.5K", "model": PRO, "output_format": "png"}, (1536, 1536), "PNG"),
        ({"size": "512x768", "model": T2I}, (512, 768), "JPEG"),
    ],
)
async def test_pictures_are_real_files(
    web: httpx.AsyncClient, body: dict[str, Any], size: tuple[int, int], file_format: str
) -> None:
    """Of the asked size and format."""
    [image] = await images(web, **body)
    assert (image.size, image.format) == (size, file_format)


async def test_pictures_differ_with_the_prompt(web: httpx.AsyncClient) -> None:
    """And are the same for the same prompt and seed."""
    pictures = [(await images(web, prompt=p, size="512x512", model=T2I, seed=s))[0] for p, s in
                (("a", 1), ("a", 1), ("b", 1), ("a", 2))]  # fmt: skip
    differs = [ImageChops.difference(pictures[0], other).getbbox() is not None for other in pictures[1:]]
    assert differs == [False, True, True]


async def test_a_set_has_different_pictures(web: httpx.AsyncClient) -> None:
    """As many as asked for."""
    options = {"sequential_image_generation": "auto", "sequential_image_generation_options": {"max_images": 2}}
    first, second = await images(web, size="1K", **options)
    assert ImageChops.difference(first, second).getbbox()


async def test_an_edit_changes_the_given_picture(web: httpx.AsyncClient) -> None:
    """It is still recognisable: nearer to its source than to another."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((600, 600)).convert("RGB").save(file, "PNG")
    data = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    [edited] = await images(web, model=SEEDEDIT, image=[data], size="600x600", watermark=False)
    grey = edited.convert("L")
    assert edited.size == (600, 600)
    assert grey.getpixel((10, 590)) > grey.getpixel((10, 10))  # type: ignore[operator]  # still a ramp
    assert ImageChops.difference(edited.convert("RGB"), Image.open(file).convert("RGB")).getbbox()


async def test_layers_and_transparency(web: httpx.AsyncClient) -> None:
    """A base, transparent PNG layers with boxes, and a cut-out."""
    file = io.BytesIO()
    Image.new("RGBA", (64, 64), (9, 99, 9, 128)).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    layers = await images(web, model=PRO, prompt="", image=[data], size="1K", layer_decomposition=True)
    assert [layer.format for layer in layers] == ["JPEG", "PNG", "PNG", "PNG"]
    assert all(layer.mode == "RGBA" for layer in layers[1:])
    options = {"background": "transparent", "output_format": "png", "size": "1K"}
    [cut] = await images(web, model=PRO, image=[data], **options)
    assert cut.mode == "RGBA"
    assert cut.getpixel((0, 0))[3] == 0  # type: ignore[index]


async def test_a_picture_made_here_can_be_edited_by_its_link(web: httpx.AsyncClient) -> None:
    """Without being fetched; a link to elsewhere gets a stand-in."""
    made = await post(web, "images", model=T2I, prompt="a fox", size="512x512")
    [edited] = await images(web, model=SEEDEDIT, image=[made["data"][0]["image_url"]], size="512x512")
    [stand_in] = await images(web, model=SEEDEDIT, image=["https://example.com/a.png"], size="512x512")
    assert ImageChops.difference(edited, stand_in).getbbox()


async def test_without_pictures(table: ModelTable) -> None:
    """Everything else is as ever; nothing is drawn, whichever way it is asked for."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with running(Sandbox(table, seconds=0, pictures=False)) as address:
        async with httpx.AsyncClient(base_url=address, headers=headers) as web:
            found = await post(web, "images", model=V5, prompt="a fox")
            assert (await web.get(found["data"][0]["image_url"])).status_code == 404
            refused = await post(web, "images", model=V5, prompt="a fox", response_format="b64_json")
    assert refused["error"]["message"] == "This sandbox draws no pictures: ask for links."


async def test_no_such_picture(web: httpx.AsyncClient, sandbox: Sandbox) -> None:
    """Neither of an unknown task, nor beyond a set."""
    made = await post(web, "images", model=V5, prompt="a fox")
    assert (await web.get("/pictures/nope/0.jpg")).status_code == 404
    assert (await web.get(made["data"][0]["image_url"].replace("/0.", "/1."))).status_code == 404
    assert len(sandbox.jobs) == 1
