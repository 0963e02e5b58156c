"""The sandbox speaks the upstream's contract: spoken to directly, without our client."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image, ImageChops
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.sandbox.app import Sandbox, running
from mcp_seedream.sandbox.faults import REFUSALS
from tests.conftest import TOKEN, Session, Switch, answer, finish, serving, until
from tests.support.models import LITE, PRO, SEEDEDIT, T2I, V4, V5, V45

pytestmark = pytest.mark.anyio


@pytest.fixture
async def web(upstream: str) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(base_url=upstream, headers=headers, timeout=60) as web:
        yield web


@pytest.fixture
async def documented(table: ModelTable, switch: Switch) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a sandbox that follows the vendor's page."""
    switch.app = Sandbox(table, seconds=0.2, as_documented=True).app
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(base_url=switch.address, headers=headers, timeout=60) as web:
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
    assert found["data"][0]["image_url"]
    assert found["task_id"]
    assert found["trace_id"]


async def test_asynchronous(web: httpx.AsyncClient, sandbox: Sandbox) -> None:
    """The answer is an id; a running task has no response, no finishing time and no elapsed time."""
    accepted = await post(web, "images", **{"model": V5, "prompt": "a fox [sandbox:slow=60]", "async": True})
    assert set(accepted) == {"task_id", "trace_id"}
    running = await post(web, "tasks", id=accepted["task_id"])
    assert running["response"] == {}
    assert not {"finished_at", "elapsed"} & set(running)
    finish(sandbox)
    done = await post(web, "tasks", action="retrieve", id=accepted["task_id"])
    assert done["response"]["data"][0]["image_url"]
    assert done["elapsed"] == pytest.approx(60)
    batch = await post(web, "tasks", action="retrieve_batch", ids=[accepted["task_id"], "unknown"])
    assert (batch["count"], batch["items"][0]["id"]) == (1, accepted["task_id"])


async def test_a_callback_gets_the_result(web: httpx.AsyncClient) -> None:
    """The result is POSTed to the callback once the task has ended."""
    got: list[Any] = []

    async def hook(scope: Scope, receive: Receive, send: Send) -> None:
        got.append(json.loads(await Request(scope, receive).body()))
        await Response()(scope, receive, send)

    with serving(hook, lifespan="off") as address:
        accepted = await post(web, "images", model=V5, prompt="a fox", callback_url=f"{address}/hook")
        await until(lambda: bool(got))
    assert got[0]["task_id"] == accepted["task_id"]
    assert got[0]["data"][0]["image_url"]


async def test_streamed(web: httpx.AsyncClient) -> None:
    """One JSON object a line, a line a picture, and the end with its usage."""
    options = {"sequential_image_generation": "auto", "sequential_image_generation_options": {"max_images": 3}}
    body = {"model": V4, "prompt": "a fox", "stream": True, **options}
    response = await web.post("/seedream/images", json=body)
    assert response.headers["content-type"] == "application/x-ndjson"
    events = [json.loads(line) for line in response.text.splitlines()]
    assert [event["type"].rpartition(".")[2] for event in events] == ["partial_succeeded"] * 3 + ["completed"]
    assert events[-1]["usage"]["generated_images"] == 3


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
        ({"model": V5, "prompt": "x", "size": "16:9"}, "size is malformed"),
        ({"model": V5, "prompt": "x", "stream": True, "async": True}, "async can't be combined"),
        ([], "not a JSON object"),
    ],
)
async def test_the_contract_is_enforced(documented: httpx.AsyncClient, body: Any, message: str) -> None:
    """Fields in the upstream's own form, by the table's rules."""
    response = await documented.post("/seedream/images", json=body)
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


async def test_tokens(web: httpx.AsyncClient, upstream: str) -> None:
    """None, a bad one, and somebody else's."""
    accepted = await post(web, "images", **{"model": V5, "prompt": "a fox", "async": True})
    async with httpx.AsyncClient(base_url=upstream) as anyone:
        assert (await anyone.post("/seedream/images", json={})).json()["error"]["code"] == "no_token"
        for token, code in (("invalid", "invalid_token"), ("used_up", "used_up"), ("other", None)):
            headers = {"Authorization": f"Bearer {token}"}
            response = await anyone.post("/seedream/tasks", json={"id": accepted["task_id"]}, headers=headers)
            assert response.json().get("error", {}).get("code") == code


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
    documented: httpx.AsyncClient, body: dict[str, Any], size: tuple[int, int], file_format: str
) -> None:
    """Of the asked size and format; a named size is a square on the vendor's page."""
    [image] = await images(documented, **body)
    assert (image.size, image.format) == (size, file_format)


async def test_pictures_differ_with_the_prompt(documented: httpx.AsyncClient) -> None:
    """And are the same for the same prompt and seed."""
    pictures = [(await images(documented, prompt=p, size="512x512", model=T2I, seed=s))[0] for p, s in
                (("a", 1), ("a", 1), ("b", 1), ("a", 2))]  # fmt: skip
    differs = [ImageChops.difference(pictures[0], other).getbbox() is not None for other in pictures[1:]]
    assert differs == [False, True, True]


async def test_a_set_has_different_pictures(web: httpx.AsyncClient) -> None:
    """As many as asked for."""
    options = {"sequential_image_generation": "auto", "sequential_image_generation_options": {"max_images": 2}}
    first, second = await images(web, model=V4, size="1K", **options)
    assert ImageChops.difference(first, second).getbbox()


async def test_an_edit_changes_the_given_picture(documented: httpx.AsyncClient) -> None:
    """It is still recognisable: nearer to its source than to another."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((600, 600)).convert("RGB").save(file, "PNG")
    data = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    [edited] = await images(documented, model=SEEDEDIT, image=[data], size="600x600", watermark=False)
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
    made = await post(web, "images", model=V4, prompt="a fox", size="1024x1024")
    [edited] = await images(web, model=V4, image=[made["data"][0]["image_url"]], size="1024x1024")
    [stand_in] = await images(web, model=V4, image=["https://example.com/a.png"], size="1024x1024")
    assert ImageChops.difference(edited, stand_in).getbbox()


MODEL_INVALID = "model is invalid."
SIZES_OF_5 = "size must be one of 'WIDTHxHEIGHT', '2k', '3k', or '4k'"
NOT_SUPPORTED = "the specified size is not supported for model"
REFUSED: list[tuple[str, str | None, str]] = [
    (T2I, None, MODEL_INVALID),
    (T2I, "1024x1024", MODEL_INVALID),
    (SEEDEDIT, None, MODEL_INVALID),
    *[(model, size, SIZES_OF_5) for model in (V5, LITE) for size in ("1K", "adaptive")],
    *[(V45, size, NOT_SUPPORTED) for size in ("1K", "adaptive")],
    (PRO, "adaptive", "size must be one of 'WIDTHxHEIGHT', '1k', '1.5k', or '2k'"),
    (V4, "adaptive", "size must be one of 'WIDTHxHEIGHT', '1k', '2k', or '4k'"),
    *[(model, "1024x1024", "image size must be at least 3686400 pixels") for model in (V5, LITE, V45)],
    (V4, "900x900", "image size must be at least 921600 pixels"),
    (PRO, "4096x4096", "image size must be at most 4624220 pixels"),
    (PRO, "1920x1080", "image size is invalid: width and height must be multiples of 16"),
]


@pytest.mark.parametrize(("model", "size", "message"), REFUSED)
async def test_production_refuses_what_the_page_names(
    web: httpx.AsyncClient, sandbox: Sandbox, model: str, size: str | None, message: str
) -> None:
    """In the answer; or inside the accepted task, which ends without a picture, in the words of its prompt."""
    body: dict[str, Any] = {"model": model, "prompt": "x", **({"size": size} if size else {})}
    if model == SEEDEDIT:
        body["image"] = ["https://example.com/a.png"]
    refused = await web.post("/seedream/images", json=body)
    assert (refused.status_code, refused.json()["error"]) == (400, {"code": "bad_request", "message": message})
    accepted = await post(web, "images", **{**body, "prompt": "x [sandbox:refuse_in_task]", "async": True})
    finish(sandbox)
    found = (await post(web, "tasks", id=accepted["task_id"]))["response"]
    assert (found["success"], found["error"]) == (False, {"code": "bad_request", "message": message})
    assert (await web.get(f"/pictures/{accepted['task_id']}/0.jpg")).status_code == 404
    streamed = await web.post("/seedream/images", json={**body, "prompt": "x [sandbox:refuse_in_task]", "stream": True})
    assert message in streamed.text


@pytest.mark.parametrize(("model", "size"), [(m, s) for m, s, _ in REFUSED if s not in ("900x900", "4096x4096")])
async def test_the_page_refuses_none_of_that(documented: httpx.AsyncClient, model: str, size: str | None) -> None:
    """Where the sandbox follows it, except for what is below the minimum of pixels there as well."""
    body: dict[str, Any] = {"model": model, "prompt": "x", **({"size": size} if size else {})}
    if model == SEEDEDIT:
        body["image"] = ["https://example.com/a.png"]
    below = size == "1024x1024" and model in (V5, LITE, V45)
    assert ((await post(documented, "images", **body)).get("success") is True) is not below


async def test_an_unknown_task(documented: httpx.AsyncClient) -> None:
    """The page has a 404 for it."""
    refused = await documented.post("/seedream/tasks", json={"id": "nope"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")


async def test_an_unknown_task_in_production(web: httpx.AsyncClient, session: Session) -> None:
    """It says nothing of it, which the server's callers hear as it is: nothing waits for it."""
    assert (await web.post("/seedream/tasks", json={"id": "nope"})).json() == {}
    assert answer(await session.call("get_task", task_id="nope"))["error"]["code"] == "not_found"


async def test_a_named_size_is_an_area(web: httpx.AsyncClient) -> None:
    """Its shape is the model's choice, by the prompt, or near that of the first picture; it is within the limits."""
    sizes = {
        (await post(web, "images", model=V5, prompt=f"fox {n}", size=size))["data"][0]["size"]
        for n in range(6)
        for size in ("2K", "4K")
    }
    sides = [tuple(map(int, size.split("x"))) for size in sizes]
    assert len({width / height for width, height in sides}) > 2
    assert not any(width == height or width % 16 or height % 16 for width, height in sides)
    areas = (2048**2, 4096**2)
    assert all(min(abs(w * h / area - 1) for area in areas) < 0.03 and w * h <= areas[1] for w, h in sides)


@pytest.mark.parametrize("given", [(640, 400), (400, 640), (500, 500)])
async def test_an_edit_has_the_shape_of_its_first_picture(web: httpx.AsyncClient, given: tuple[int, int]) -> None:
    """Whether it came as data or was made here; with and without a named size."""
    file = io.BytesIO()
    Image.new("RGB", given).save(file, "PNG")
    data = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    edited = (await post(web, "images", model=V5, prompt="x", image=[data, "https://example.com/a.png"]))["data"][0]
    again = (await post(web, "images", model=V4, prompt="y", image=[edited["image_url"]], size="1K"))["data"][0]
    for size in (edited["size"], again["size"]):
        width, height = map(int, size.split("x"))
        assert width / height == pytest.approx(given[0] / given[1], rel=0.02)


async def test_usage(web: httpx.AsyncClient) -> None:
    """Of plain answers and look-ups: pictures out and in, tokens, searches."""
    found = await post(web, "images", model=V5, prompt="x", size="2048x2048", tools=[{"type": "web_search"}])
    counts = {"generated_images": 1, "input_images": 0, "output_tokens": 2048 * 2048 // 256}
    assert found["usage"] == {**counts, "tool_usage": {"web_search": 1}}
    assert (await post(web, "tasks", id=found["task_id"]))["response"]["usage"] == found["usage"]
    edit = await post(web, "images", model=V5, prompt="x", size="2048x2048", image=["https://example.com/a.png"] * 2)
    assert edit["usage"] == {**counts, "input_images": 2}


async def test_a_set_without_a_size_is_as_large_as_can_be(web: httpx.AsyncClient, sandbox: Sandbox) -> None:
    """Fifteen pictures, input images included; none is drawn before it is asked for."""
    body = {"model": V5, "prompt": "x", "sequential_image_generation": "auto", "async": True}
    await post(web, "images", **body)
    await post(web, "images", **body, image=["https://example.com/a.png"] * 4)
    assert [job.count for job in sandbox.jobs.values()] == [15, 11]


async def test_without_pictures(table: ModelTable) -> None:
    """Everything else is as ever; nothing is drawn, whichever way it is asked for."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with running(Sandbox(table, seconds=0, pictures=False)) as address:
        async with httpx.AsyncClient(base_url=address, headers=headers) as web:
            found = await post(web, "images", model=V5, prompt="a fox")
            assert (await web.get(found["data"][0]["image_url"])).status_code == 404
            refused = await post(web, "images", model=V5, prompt="a fox", response_format="b64_json")
    assert refused["error"]["message"] == "This sandbox draws no pictures: request links."


async def test_no_such_picture(web: httpx.AsyncClient, sandbox: Sandbox) -> None:
    """Neither of an unknown task, nor beyond a set."""
    made = await post(web, "images", model=V5, prompt="a fox")
    assert (await web.get("/pictures/nope/0.jpg")).status_code == 404
    assert (await web.get(made["data"][0]["image_url"].replace("/0.", "/1."))).status_code == 404
    assert len(sandbox.jobs) == 1


ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.py")]
ASKED = sorted(
    {f for p in PAGES for f in re.findall(r"size[\"`]?[=:] ?[\"']?([\d.]+K|\d+x\d+|adaptive)", p.read_text())}
)


@pytest.mark.parametrize("as_documented", [False, True])
async def test_the_sizes_of_the_documents_work(table: ModelTable, switch: Switch, as_documented: bool) -> None:
    """In a call that names no model, whichever rules the sandbox follows."""
    assert {"1K", "2560x1440"} <= set(ASKED)
    switch.app = Sandbox(table, seconds=0, as_documented=as_documented).app
    async with Session(table, switch.address).open() as client:
        for size in ASKED:
            result = await client.call_tool("generate_image", {"prompt": "a fox", "size": size})
            assert answer(result)["status"] == "succeeded", size
