"""Every reply shape the upstream is documented to give, and anything else it might."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_seedream.core.errors import UnreadableReply
from mcp_seedream.upstream.parsing import read_batch, read_event, read_task
from mcp_seedream.upstream.types import Failure, Image, Task
from tests.unit.test_arguments import JSON

LINK = "https://cdn.example.com/1.jpg"
ITEM = {"prompt": "a cat", "size": "2048x2048", "image_url": LINK}
DONE = {"success": True, "task_id": "t1", "trace_id": "r1", "data": [ITEM]}
PICTURE = Image(url=LINK, size="2048x2048")
FAILED = {
    "success": False,
    "task_id": "t1",
    "trace_id": "r1",
    "error": {"code": "api_error", "message": "fetch failed"},
}


@pytest.mark.parametrize(
    ("reply", "state"),
    [
        ({"task_id": "t1"}, "pending"),
        ({"task_id": "t1", "success": True}, "pending"),
        ({"id": "t1", "request": {}, "created_at": 1.0}, "pending"),
        ({"id": "t1", "request": {}, "response": {}}, "pending"),
        ({"id": "t1", "response": None}, "pending"),
        ({"id": "t1", "state": "processing"}, "pending"),
        ({"id": "t1", "state": "done", "response": DONE, "finished_at": 5}, "succeeded"),
        ({"id": "t1", "state": "drawing", "response": {"data": [ITEM]}}, "pending"),
        ({"id": "t1", "response": {}, "elapsed": 1 * 10**400}, "pending"),
        ({"id": "t1", "status": "queued", "response": {}}, "pending"),
        ({"id": "t1", "response": DONE, "finished_at": 2.0, "elapsed": 1.0}, "succeeded"),
        (DONE, "succeeded"),
        (
            {"success": True, "task_id": "t1", "data": {"status": "succeeded", "image_url": LINK, "model": "m"}},
            "succeeded",
        ),
        ({"success": True, "task_id": "t1", "data": {"status": "running"}}, "pending"),
        ({"success": True, "task_id": "t1", "data": {"status": "failed"}}, "failed"),
        ({"id": "t1", "response": FAILED}, "failed"),
        (FAILED, "failed"),
        ({"id": "t1", "success": False}, "failed"),
        ({"id": "t1", "response": {"success": True, "data": []}}, "failed"),
        ({"id": "t1", "response": {"success": True, "data": [{"error": {"code": "c", "message": "m"}}]}}, "failed"),
        ({"id": "t1", "finished_at": 2.0, "response": {}}, "failed"),
        ({"id": "t1", "error": {"code": "c", "message": "m"}}, "failed"),
        *[({"id": "t1", "state": word, "data": [ITEM]}, "succeeded") for word in ("succeeded", "succeed", "Success")],
        *[({"id": "t1", "status": word, "data": [ITEM]}, "succeeded") for word in ("completed", "complete")],
        *[({"id": "t1", "state": word}, "failed") for word in ("failed", "error", "cancelled", "canceled")],
    ],
)
def test_when_a_task_has_ended(reply: Any, state: str) -> None:
    """The one definition, over the documents' shapes."""
    task = read_task(reply)
    assert (task.id, task.state) == ("t1", state)
    assert task.ended is (state != "pending")
    assert bool(task.images) is (state == "succeeded")
    assert (task.error is not None) is (state == "failed")


@pytest.mark.parametrize(
    "reply",
    [
        DONE,
        {"id": "t1", "request": {}, "response": DONE, "finished_at": 4.0, "started_at": 1.5},
        {"success": True, "task_id": "t1", "trace_id": "r1", "data": {"status": "succeeded", **ITEM}},
        {"id": "t1", "trace_id": "r1", "status": "success", "data": [ITEM]},
    ],
)
def test_the_three_shapes_say_the_same(reply: Any) -> None:
    """Id, trace and picture are found in each."""
    task = read_task(reply)
    assert (task.id, task.trace_id, task.images) == ("t1", "r1", (PICTURE,))


def test_times_and_model() -> None:
    """`elapsed`, or what lies between start and finish; the model of the picture, or of the request."""
    reply = {"id": "t", "response": {"data": [{**ITEM, "model": "m1"}]}, "started_at": 1.5, "finished_at": 4.0}
    assert (read_task(reply).elapsed, read_task(reply).model) == (2.5, "m1")
    reply = {"id": "t", "request": {"model": "m2"}, "response": {"data": [ITEM]}, "elapsed": 7}
    assert (read_task(reply).elapsed, read_task(reply).model) == (7, "m2")
    assert read_task({**reply, "elapsed": -3}).elapsed is None


def test_layers_and_data() -> None:
    """A layer's own fields, and base64 in place of a link."""
    box = {"absolute": [1, 2, 3, 4]}
    layer = {**ITEM, "z_index": 1, "name": "cat", "description": "a cat", "bounding_box": box}
    task = read_task({"task_id": "t", "data": [layer, {"b64_json": "aGk="}]})
    assert task.images[0] == Image(LINK, None, "2048x2048", 1, "cat", "a cat", box)
    assert task.images[1].b64_json == "aGk="


@pytest.mark.parametrize("answer", [{"success": False}, {"status": "failed"}])
def test_a_set_that_failed_keeps_the_pictures_it_has(answer: dict[str, Any]) -> None:
    """They are billed: why there are no more is told beside them."""
    task = read_task({"id": "t", "response": {**answer, "data": [ITEM], "error": {"code": "c", "message": "m"}}})
    assert (task.state, task.images, task.failures, task.error) == ("succeeded", (PICTURE,), (Failure("c", "m"),), None)


def test_partial_failures_are_kept_beside_the_pictures() -> None:
    """A set of which one failed has succeeded."""
    task = read_task({"task_id": "t", "data": [ITEM, {"error": {"code": "c", "message": "refused"}}]})
    assert task.state == "succeeded"
    assert task.failures == (Failure("c", "refused"),)


def test_a_batch_leaves_out_what_it_does_not_know() -> None:
    """By id; nonsense among the items is passed over."""
    items = [{"id": "a", "response": DONE}, {"id": "b", "response": {}}, None, 5, {}, {"id": 7.5}]
    assert {id_: task.state for id_, task in read_batch({"items": items, "count": 2}).items()} == {
        "a": "succeeded",
        "b": "pending",
    }


@pytest.mark.parametrize("reply", [None, [], "text", 5, {}, {"id": 5.5}, {"items": {}}])
def test_a_reply_that_says_nothing_is_unreadable(reply: Any) -> None:
    """As a task, and as a batch."""
    with pytest.raises(UnreadableReply):
        read_task(reply)
    with pytest.raises(UnreadableReply):
        read_batch(reply)


FIELDS = ["id", "task_id", "success", "response", "data", "error", "state", "status", "items", "image_url", "elapsed"]
REPLIES = st.recursive(
    JSON, lambda inner: st.dictionaries(st.sampled_from(FIELDS), inner) | st.lists(inner, max_size=2), max_leaves=12
)


@given(reply=REPLIES)
def test_any_json_is_a_task_or_unreadable(reply: Any) -> None:
    """Wrong types in every field: never another exception, and an ended task always says how."""
    for read in (read_task, read_batch):
        try:
            found = read(reply)
        except UnreadableReply:
            continue
        for task in [found] if isinstance(found, Task) else found.values():
            assert bool(task.images) is (task.state == "succeeded")
            assert (task.error is not None) is (task.state == "failed")


SUCCEEDED, PARTLY, COMPLETED = (
    f"image_generation.{word}" for word in ("partial_succeeded", "partial_failed", "completed")
)


@pytest.mark.parametrize(
    "line",
    [
        json.dumps({"type": SUCCEEDED, "task_id": "t", **ITEM}),
        json.dumps({"event": SUCCEEDED, "task_id": "t", "data": ITEM}),
        "data: " + json.dumps({"type": SUCCEEDED, "task_id": "t", "url": LINK, "size": "2048x2048"}),
        "data:" + json.dumps({"event": SUCCEEDED, "data": {**ITEM, "task_id": "t"}}) + "\r\n",
    ],
)
def test_a_streamed_picture_in_every_framing(line: str) -> None:
    """NDJSON or SSE, fields at the top or under data."""
    event = read_event(line)
    assert event is not None
    assert (event.images, event.task_id, event.completed) == ((PICTURE,), "t", False)


@pytest.mark.parametrize(
    "line", ["", "  \n", ": ping", "event: message", "id: 5", "[DONE]", "data: [DONE]", '{"type": "x.y"}', "[]"]
)
def test_lines_that_say_nothing(line: str) -> None:
    """Blank lines, comments, unknown events."""
    assert read_event(line) is None


def test_the_other_events() -> None:
    """A failed picture, the end, a failure of the whole, and an answer that came at once."""
    failed = read_event(json.dumps({"type": PARTLY, "error": {"code": "c", "message": "m"}}))
    assert failed is not None
    assert (failed.failures, failed.completed) == ((Failure("c", "m"),), False)
    end = read_event(json.dumps({"type": COMPLETED, "usage": {}}))
    assert end is not None
    assert end.completed
    broken = read_event(json.dumps({"error": {"code": "c", "message": "m"}}))
    assert broken is not None
    assert (broken.failures, broken.completed) == ((Failure("c", "m"),), True)
    whole = read_event(json.dumps(DONE))
    assert whole is not None
    assert (whole.images, whole.completed, whole.task_id) == ((PICTURE,), True, "t1")


def test_a_line_that_is_no_json_is_unreadable() -> None:
    """Half an object."""
    with pytest.raises(UnreadableReply):
        read_event('{"type": "ima')


DATA = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
OTHER = "https://cdn.example.com/2.jpg"


@pytest.mark.parametrize(
    ("data", "links", "contents"),
    [
        ([{"image_url": f"  {LINK}\n"}], [LINK], []),
        ([{"image_url": f'"{LINK}"'}], [LINK], []),
        ([{"image_url": f"<{LINK}>"}], [LINK], []),
        ([{"image_url": LINK.removeprefix("https:")}], [LINK], []),
        ([{"image_url": [LINK]}], [LINK], []),
        ([{"image_url": [LINK, OTHER]}], [LINK, OTHER], []),
        ([{"image_url": f"{LINK}\n{OTHER}"}], [LINK, OTHER], []),
        ([{"image_url": {"url": LINK}}], [LINK], []),
        ([{"image_url": {"uri": LINK}}], [LINK], []),
        ([{"image_url": f"![a fox]({LINK})"}], [LINK], []),
        ([{"image_url": f"`{LINK}`"}], [LINK], []),
        ([{"image_url": f"\ufeff{LINK}\u200b"}], [LINK], []),
        ([{"image_url": json.dumps([LINK, {"url": OTHER}])}], [LINK, OTHER], []),
        ([{"image_url": [{"url": LINK}, {"url": f" {OTHER}"}]}], [LINK, OTHER], []),
        ([{"image_url": None, "url": [f" {LINK}"]}], [LINK], []),
        ([{"image_url": "", "url": LINK}], [LINK], []),
        ([{"image_urls": [LINK, OTHER]}], [LINK, OTHER], []),
        ({"image_url": [LINK, OTHER]}, [LINK, OTHER], []),
        ([LINK, f" {OTHER}"], [LINK, OTHER], []),
        ([[{"image_url": LINK}], [{"image_url": OTHER}]], [LINK, OTHER], []),
        (LINK, [LINK], []),
        ([{"image_url": f"data:image/png;base64,{DATA}"}], [], [f"data:image/png;base64,{DATA}"]),
        ([{"image_url": f" DATA:image/png;base64,{DATA}"}], [], [f"DATA:image/png;base64,{DATA}"]),
        ([{"url": DATA}], [], [DATA]),
        ([{"image_url": {"b64_json": DATA}}], [], [DATA]),
        ([{"b64_json": [DATA]}], [], [DATA]),
        ([f"data:image/png;base64,{DATA}"], [], [f"data:image/png;base64,{DATA}"]),
    ],
    ids=str,
)
def test_what_can_only_be_a_picture_is_one(data: Any, links: list[str], contents: list[str]) -> None:
    """In a look-up, in a plain answer, and in a stream."""
    for reply in ({"success": True, "task_id": "t", "data": data}, {"id": "t", "response": {"data": data}}):
        task = read_task(reply)
        assert task.state == "succeeded"
        assert [image.url for image in task.images if image.url] == links
        assert [image.b64_json for image in task.images if image.b64_json] == contents
    event = read_event(json.dumps({"type": COMPLETED, "data": data}))
    assert event is not None
    assert [image.url or image.b64_json for image in event.images] == [*links, *contents]


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({"image_url": 5}, "image_url is a number"),
        ({"image_url": f"failed, see {LINK}"}, f"image_url is a string of {len(LINK) + 12} characters"),
        ({"image_url": '{"error": "https://a.example"}'}, "image_url is a string of 30 characters"),
        ({"image_url": "cdn/1.jpg"}, "image_url is a string of 9 characters"),
        ({"image_url": [{"href": LINK}]}, "image_url is a list"),
        ({"image_url": {"href": LINK}}, "image_url is an object"),
        ({"b64_json": True}, "b64_json is a boolean"),
    ],
)
def test_a_picture_that_can_not_be_read_is_told(item: Any, says: str, caplog: pytest.LogCaptureFixture) -> None:
    """With what came in its place, and that it may have been billed; alone, and beside others."""
    task = read_task({"success": True, "task_id": "t", "data": [item]})
    assert task.state == "failed"
    assert task.error is not None
    assert says in task.error.message
    assert "billed" in task.error.message
    assert says in caplog.text
    assert LINK not in caplog.text
    task = read_task({"success": True, "task_id": "t", "data": [item, ITEM]})
    assert (task.images, len(task.failures)) == ((PICTURE,), 1)
    assert says in task.failures[0].message
    event = read_event(json.dumps({"type": SUCCEEDED, "data": item}))
    assert event is not None
    assert (len(event.failures), event.completed) == (1, False)


@pytest.mark.parametrize("response", [{"success": True, "data": []}, {"success": True, "data": [{"size": "2K"}]}])
def test_an_end_without_a_picture_may_have_been_billed(response: Any) -> None:
    """Nothing says why: the vendor can tell."""
    error = read_task({"id": "t", "response": response}).error
    assert error is not None
    assert "may have been billed" in error.message
