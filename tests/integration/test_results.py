"""Odd replies, all the way to the caller: whatever the upstream says, a result is small, honest and has its links."""

from __future__ import annotations

import base64
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp_types import ImageContent
from PIL import Image as Pixels
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.media.decoding import Decoders
from mcp_seedream.media.downloads import Downloads
from mcp_seedream.media.local_files import LocalFiles
from mcp_seedream.media.outputs import Delivery, DeliveryOptions, PictureTimes
from mcp_seedream.media.temporary_files import TemporaryFile, TemporaryFiles
from mcp_seedream.server.results import task_result
from mcp_seedream.server.tools import ToolDefaults
from mcp_seedream.upstream.types import Image, Task
from tests.conftest import Session, Switch, answer, text
from tests.unit.test_structure import MILLION, jpeg_with, progressive, segment

pytestmark = pytest.mark.anyio
LINK = "https://cdn.example.com/1.jpg"
SMALL = 150_000
"""Characters of a result that clients take."""


def file(colour: str = "red", side: int = 100) -> bytes:
    buffer = io.BytesIO()
    Pixels.new("RGB", (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()


def data(colour: str = "red") -> str:
    return base64.b64encode(file(colour)).decode()


class Canned:
    """An upstream that answers every request with one text, and serves pictures of one colour."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.reply = "{}"
        self.submits = 0
        self.padding = 0
        posts = [Route(f"/seedream/{path}", self.post, methods=["POST"]) for path in ("images", "tasks")]
        self.app = Starlette(routes=[*posts, Route("/{colour}", self.picture)])

    async def post(self, request: Request) -> Response:
        self.submits += request.url.path.endswith("images")
        return Response(self.reply, media_type="application/json")

    async def picture(self, request: Request) -> Response:
        return Response(file(request.path_params["colour"]) + bytes(self.padding), media_type="image/png")

    def says(self, *items: Any, **more: Any) -> None:
        self.reply = json.dumps({"success": True, "task_id": "t1", "data": items, **more})


@pytest.fixture
def canned(switch: Switch) -> Canned:
    canned = Canned(switch.address)
    switch.app = canned.app
    return canned


@pytest.fixture
def hosted(table: ModelTable, canned: Canned) -> Session:
    return Session(table, canned.address, defaults=ToolDefaults(5, lambda _: True, picture_times=PictureTimes(60)))


@pytest.fixture
def plain(table: ModelTable, canned: Canned) -> Session:
    """Without previews: for links that lead out of this machine."""
    return Session(table, canned.address)


@pytest.fixture
def local(table: ModelTable, canned: Canned, tmp_path: Path) -> Session:
    return Session(
        table,
        canned.address,
        defaults=ToolDefaults(5, lambda _: True, LocalFiles(output=tmp_path / "out"), picture_times=PictureTimes(60)),
    )


def blocks(result: Any) -> list[ImageContent]:
    return [block for block in result.content if isinstance(block, ImageContent)]


def size(result: Any) -> int:
    return len(result.model_dump_json(by_alias=True))


class Broken(Downloads):
    """Fails in a way that nobody foresaw."""

    async def fetch(self, url: str, file: TemporaryFile) -> None:
        raise RuntimeError(f"a bug: {file} {url}")


@pytest.mark.parametrize(
    ("image", "says"),
    [(Image(LINK), "only their links are available"), (Image(LINK, data()), "shown here; only their links")],
)
async def test_a_bug_in_the_delivery_costs_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: Image, says: str
) -> None:
    """It is logged; the caller has the link, and a note."""
    monkeypatch.setattr("mcp_seedream.media.outputs.picture_data", lambda _: 1 / 0)
    wanted = DeliveryOptions(target=tmp_path, preview=True)
    delivery = Delivery(Broken(), Decoders(), TemporaryFiles(), LocalFiles())
    done = await delivery.deliver(Task("t1", "succeeded", (image,)), wanted)
    result = task_result(done.task, done.shown, done.caption)
    assert not result.is_error
    assert answer(result)["images"][0]["url"] == LINK
    assert LINK in text(result)
    assert says in answer(result)["notes"][0]
    assert list(tmp_path.iterdir()) == []


class CountedFiles(TemporaryFiles):
    """Counts the MiB of all files, and their maximum."""

    now = most = 0

    async def acquire(self, size: int, caller: str) -> int:
        units = await super().acquire(size, caller)
        self.now += units
        self.most = max(self.most, self.now)
        return units

    def release(self, units: int) -> None:
        self.now -= units
        super().release(units)


async def test_previews_of_large_pictures_have_a_budget(
    canned: Canned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures that find no room wait; all of them are shown, and nothing is written to disk on Linux."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(canned, "padding", 3_000_000)
    images = tuple(Image(f"{canned.address}/{colour}") for colour in ("red", "green", "blue", "white", "black", "gray"))
    files = CountedFiles(8 * 2**20)
    async with Downloads(sandbox=canned.address) as downloads:
        delivery = Delivery(downloads, Decoders(), files, None, PictureTimes(60))
        done = await delivery.deliver(Task("t1", "succeeded", images), DeliveryOptions(preview=True))
    assert (len(done.shown), done.caption, done.task.notes) == (1, "shows all of them, reduced", ())
    assert (files.most, files.now) == (6, 0)
    assert list(tmp_path.iterdir()) == []


async def test_a_preview_that_finds_no_room_is_left_out(canned: Canned) -> None:
    """A note says so; the links are there."""
    files = TemporaryFiles(8 * 2**20)
    async with Downloads(sandbox=canned.address) as downloads, files.open("other") as other:
        await other.restart(8 * 2**20)
        delivery = Delivery(downloads, Decoders(), files, None, PictureTimes(0.3))
        image = Image(f"{canned.address}/red")
        done = await delivery.deliver(Task("t1", "succeeded", (image,)), DeliveryOptions(preview=True))
    assert done.task.images == (image,)
    assert done.task.notes == ("Not fetched: it took longer than 0.3 s.",)
    assert done.shown == ()


@pytest.mark.parametrize("made", ["scans", "segments"])
async def test_a_result_that_is_made_to_occupy_the_decoder(canned: Canned, monkeypatch: Any, made: str) -> None:
    """It has no preview, at once; its link is there."""
    bomb = progressive(3000, 1800) if made == "scans" else jpeg_with(segment(0xFE) * MILLION)
    monkeypatch.setattr("tests.integration.test_results.file", lambda _: bomb)
    async with Downloads(sandbox=canned.address) as downloads:
        delivery = Delivery(downloads, Decoders(), TemporaryFiles(), None, PictureTimes(60))
        image = Image(f"{canned.address}/red")
        done = await delivery.deliver(Task("t1", "succeeded", (image,)), DeliveryOptions(preview=True))
    assert (done.task.images, done.shown, done.task.notes) == ((image,), (), ())


@pytest.mark.parametrize("given", ["!!!!", "a", "aGk", "aGk=", "\u00e9", "\u96ea" * 40, "<html>" * 9])
async def test_image_data_that_is_none_is_a_failure(
    hosted: Session, local: Session, canned: Canned, given: str
) -> None:
    """Hosted: the call has failed, with a reason. On the caller's machine: a note, and no file."""
    canned.says({"b64_json": given})
    result = await hosted.call("generate_image", prompt="a", response_format="b64_json")
    assert result.is_error
    assert answer(result)["error"]["code"] == "unreadable_reply"
    assert "its data can't be decoded" in text(result)
    assert answer(result)["task_id"] == "t1"
    result = await local.call("generate_image", prompt="a", response_format="b64_json")
    assert answer(result)["notes"][0].startswith("Not fetched: ")
    assert "path" not in answer(result)["images"][0]
    assert canned.submits == 2


async def test_image_data_as_a_data_uri_is_a_picture(hosted: Session, canned: Canned) -> None:
    """Some upstreams write it so."""
    canned.says({"b64_json": f"data:image/png;base64,{data()}"})
    [block] = blocks(await hosted.call("generate_image", prompt="a", response_format="b64_json"))
    assert (block.data, block.mime_type) == (data(), "image/png")


async def test_eight_tasks_show_four_pictures_at_most(hosted: Session, canned: Canned) -> None:
    """Those that are not shown say so, since their data is nowhere else."""
    ids = [f"t{n}" for n in range(8)]
    items = [{"id": id_, "response": {"success": True, "data": [{"b64_json": data()}]}} for id_ in ids]
    canned.reply = json.dumps({"items": items})
    result = await hosted.call("get_task", task_ids=ids)
    assert len(blocks(result)) == 4
    assert size(result) < SMALL
    tasks = answer(result)["tasks"]
    assert [task["status"] for task in tasks] == ["succeeded"] * 8
    assert ["get this task alone" in str(task.get("notes")) for task in tasks] == [False] * 4 + [True] * 4


async def test_eight_tasks_with_links_stay_small(hosted: Session, canned: Canned) -> None:
    """Previews are left out; every link is there."""
    ids = [f"t{n}" for n in range(8)]
    items = [{"image_url": f"{canned.address}/white?{n}"} for n in range(15)]
    canned.reply = json.dumps({"items": [{"id": id_, "response": {"data": [*items, items[0]]}} for id_ in ids]})
    result = await hosted.call("get_task", task_ids=ids)
    assert blocks(result) == []
    assert size(result) < SMALL
    assert [len(task["images"]) for task in answer(result)["tasks"]] == [15] * 8


@pytest.mark.parametrize(("count", "length"), [(15, 2500), (15, 8000), (1, 60_000), (1, 500_000), (3000, 100)])
async def test_long_links_and_many_pictures_stay_small(plain: Session, canned: Canned, count: int, length: int) -> None:
    """As many as fit, the first ones; what does not fit is counted in a note."""
    links = [f"https://cdn.example.com/{n}/".ljust(length, "a") for n in range(count)]
    canned.says(*({"image_url": link} for link in links))
    result = await plain.call("generate_image", prompt="a")
    assert size(result) < SMALL
    there = [image["url"] for image in answer(result).get("images", [])]
    assert there == links[: len(there)]
    assert all(link in text(result) for link in there)
    if 2 * count * length < 93_000:
        assert len(there) == count
    else:
        assert f"{count - len(there)} of {count} images have links too long for a result" in text(result)


async def test_many_reasons_for_failed_pictures_stay_small(hosted: Session, canned: Canned) -> None:
    """The first few are told; all are counted."""
    failed = [{"error": {"code": "c", "message": f"{n} ".ljust(5000, "x")}} for n in range(200)]
    canned.says({"image_url": f"{canned.address}/white"}, *failed)
    result = await hosted.call("generate_image", prompt="a")
    assert size(result) < SMALL
    assert "200 of 201 images failed: 0 x" in text(result)
    assert len(blocks(result)) == 1


@pytest.mark.parametrize("name", ["album.png", "v1.2"])
async def test_a_folder_that_is_named_like_a_picture(local: Session, canned: Canned, tmp_path: Path, name: str) -> None:
    """It is there, with or without a slash at its end: pictures go into it."""
    (tmp_path / name).mkdir()
    canned.says({"image_url": f"{canned.address}/white"})
    for target in (f"{tmp_path}/{name}/", f"{tmp_path}/{name}"):
        result = await local.call("generate_image", prompt="a", save_to=target)
        assert Path(answer(result)["images"][0]["path"]).parent == tmp_path / name


BOXES: list[Any] = [
    [0, 0, 1e14, 1e14],
    [-1e14, -1e14, 10, 10],
    [-1e14, 0, 1e14, 10],
    [-5000, 0, 50, 50],
    [1e14, 1e14, 1e14, 1e14],
    [50, 50, 20, 20],
    [0, 0, 0, 0],
    [99.9, 99.9, 100, 100],
    [0, 0, 1e300, 1e300],
    [float("nan"), 0, 10, 10],
    [float("inf"), 0, float("-inf"), 10],
    ["0", "0", "10", "10"],
    [True, False, True, True],
    [None, [], {}, ""],
    [1, 2, 3],
    [[0, 0], [10, 10]],
    "0,0,10,10",
    {"left": 0},
]


@pytest.mark.parametrize("box", BOXES, ids=str)
async def test_a_layer_with_an_odd_box(hosted: Session, canned: Canned, box: Any) -> None:
    """It is read, and the preview is there; numbers that are none are not passed on."""
    url = f"{canned.address}/white"
    layer = {"image_url": url, "z_index": 1, "name": "x", "bounding_box": {"absolute": box, "normalized": box}}
    canned.says({"image_url": url, "z_index": 0}, layer)
    with anyio.fail_after(60):
        result = await hosted.call("generate_image", prompt="a")
    assert not result.is_error
    assert len(answer(result)["images"]) == 2
    assert len(blocks(result)) == 1
    assert "the layers put together" in text(result)
    assert not {"NaN", "Infinity", "null"} & set(json.dumps(answer(result)).replace(",", " ").split())


@pytest.mark.parametrize(
    ("box", "painted", "bare"),
    [
        ([0, 0, 50, 50], (10, 10), (60, 60)),
        ([-5000, -5000, 50, 50], (10, 10), (60, 60)),
        ([50, 50, 1e9, 1e9], (60, 60), (10, 10)),
        ([-1e9, 50, 1e9, 1e9], (60, 60), (60, 10)),
    ],
)
async def test_a_layer_lies_where_its_box_says(
    hosted: Session, canned: Canned, box: list[float], painted: tuple[int, int], bare: tuple[int, int]
) -> None:
    """Also where most of it is beyond the base."""
    layer = {"image_url": f"{canned.address}/blue", "z_index": 1, "bounding_box": {"absolute": box}}
    canned.says({"image_url": f"{canned.address}/white", "z_index": 0}, layer)
    [block] = blocks(await hosted.call("generate_image", prompt="a"))
    preview = Pixels.open(io.BytesIO(base64.b64decode(block.data))).getchannel("R")
    assert preview.size == (100, 100)
    assert preview.getpixel(painted) < 50  # type: ignore[operator]
    assert preview.getpixel(bare) > 200  # type: ignore[operator]


@pytest.mark.parametrize("moment", [1e300, -1e300, -5, 0, 5, 1e12, 4e15, "2026-01-01", "nan", [], {}, True, None])
async def test_odd_times(hosted: Session, canned: Canned, moment: Any) -> None:
    """A number that can't be a time says nothing, nor does `true` a layer; the picture is there."""
    response = {"success": True, "data": [{"image_url": f"{canned.address}/white", "z_index": True}]}
    times = dict.fromkeys(("finished_at", "created_at", "started_at", "elapsed"), moment)
    canned.reply = json.dumps({"id": "t1", "response": response, **times})
    result = await hosted.call("get_task", task_id="t1")
    assert answer(result)["status"] == "succeeded"
    [image] = answer(result)["images"]
    assert set(image) == {"url"}
    assert answer(result)["links_until"].startswith("20")
    assert answer(result).get("elapsed_seconds", 0) >= 0
    assert len(blocks(result)) == 1


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 400])
async def test_numbers_that_are_none(plain: Session, canned: Canned, number: str) -> None:
    """As Python's own JSON takes them, and no other's: nowhere in the result."""
    item = f'{{"image_url": "{LINK}", "z_index": {number}, "bounding_box": {{"absolute": [0, 0, 9, {number}]}}}}'
    times = ", ".join(f'"{field}": {number}' for field in ("finished_at", "created_at", "started_at", "elapsed"))
    canned.reply = f'{{"id": "t1", {times}, "response": {{"success": true, "data": [{item}]}}}}'
    result = await plain.call("get_task", task_id="t1")
    assert answer(result)["images"] == [{"url": LINK}]
    json.loads(result.model_dump_json(by_alias=True), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    "query",
    [
        "Expires=9999999999",
        "Expires=99999999999",
        "Expires=-5",
        "Expires=%00",
        "X-Tos-Date=20269999T999999Z&X-Tos-Expires=86400",
        "X-Tos-Date=20260101T000000Z&X-Tos-Expires=999999999999",
    ],
)
async def test_odd_expiry_of_a_link(plain: Session, canned: Canned, query: str) -> None:
    """What it says can't be: then the usual day holds."""
    canned.says({"image_url": f"https://cdn.example.com/1.jpg?{query}"})
    found = answer(await plain.call("generate_image", prompt="a"))
    assert "2026" <= found["links_until"][:4] < "2100"


@pytest.mark.parametrize(
    ("elapsed", "said"),
    [
        (45.0, "(such pictures take about 120 s: look again in 75 s)"),
        (300.0, "(such pictures take about 120 s: look again in 10 s)"),
        (None, "waits for it; generating again would be billed again"),
    ],
)
def test_a_pending_result_says_when_to_look_again(elapsed: float | None, said: str) -> None:
    """By what pictures of its model usually take."""
    result = task_result(Task("t", model="m", elapsed=elapsed, typical_seconds=120))
    assert said in text(result)
    assert said in answer(result)["notes"][0]


async def test_what_an_answer_was_counted_as_is_in_the_result(canned: Canned, plain: Session) -> None:
    """In a plain answer and a look-up, one level of objects deep; what is no number is left out."""
    usage = {"generated_images": 1, "output_tokens": 16384, "tool_usage": {"web_search": 2}, "odd": "x", "list": [1]}
    answered = {"success": True, "task_id": "t", "data": [{"image_url": LINK}], "usage": usage}
    counted = {"generated_images": 1, "output_tokens": 16384, "tool_usage": {"web_search": 2}}
    for reply in (answered, {"id": "t", "response": answered, "finished_at": 1_800_000_000.0}):
        canned.reply = json.dumps(reply)
        result = await plain.call("get_task", task_id="t", wait_seconds=0)
        assert answer(result)["usage"] == counted
        assert "generated_images 1, output_tokens 16384, web_search 2" in text(result)
