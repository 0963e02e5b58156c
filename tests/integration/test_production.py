"""Calls that do not name a model or size, against an upstream with the refusals of production."""

from __future__ import annotations

import base64
import io
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp_types import CallToolResult
from PIL import Image
from starlette.types import Message, Receive, Scope, Send

from mcp_seedream.catalog.table import ModelTable
from tests.conftest import Session, Switch, answer, text
from tests.support.production import (
    LITE,
    MODEL_WORDS,
    PRO,
    SEEDEDIT,
    SIZE_WORDS,
    T2I,
    V4,
    V5,
    V45,
    Place,
    Production,
    Several,
    Words,
)

pytestmark = pytest.mark.anyio


def _png() -> str:
    """A PNG file with an alpha channel, as base64."""
    file = io.BytesIO()
    Image.new("RGBA", (64, 64), (9, 99, 9, 128)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


PNG = _png()
SET = {"sequential_image_generation": "auto"}
CALLS: dict[str, dict[str, Any]] = {
    "bare": {},
    **{tier: {"size": tier} for tier in ("1K", "1.5K", "2K", "3K", "4K")},
    "adaptive": {"size": "adaptive"},
    "1024x1024": {"size": "1024x1024"},
    "1920x1080": {"size": "1920x1080"},
    "16:9": {"aspect_ratio": "16:9"},
    "portrait 1K": {"aspect_ratio": "portrait", "size": "1K"},
    "21:9 4K": {"aspect_ratio": "21:9", "size": "4K"},
    "edit of one": {"image": [PNG]},
    "edit of two": {"image": ["https://example.com/a.png", "https://example.com/b.png"]},
    "edit, adaptive": {"image": [PNG], "size": "adaptive"},
    "set": SET,
    "layers": {"image": [PNG], "layer_decomposition": True},
    "transparent": {"image": [PNG], "background": "transparent", "output_format": "png"},
    "png": {"output_format": "png"},
    "web search": {"tools": [{"type": "web_search"}]},
    "fast prompt": {"optimize_prompt_options": {"mode": "fast"}},
    "streamed": {"stream": True},
    "streamed set": {"stream": True, **SET, "size": "2K"},
}
"""Calls that name no model."""


def refuses_most_sizes(model: str, size: str) -> bool:
    """Whether the models that are chosen first refuse a size that another model accepts."""
    return model == V5 or (model == PRO and size != "1.5K")


async def call(client: Client, prompt: str, arguments: dict[str, Any]) -> CallToolResult:
    tool = "edit_image" if "image" in arguments else "generate_image"
    return await client.call_tool(tool, {"prompt": prompt, **arguments})


@pytest.fixture
def production(switch: Switch) -> Production:
    switch.app = production = Production()
    return production


@pytest.fixture
def session(table: ModelTable, switch: Switch, production: Production) -> Session:
    del production
    return Session(table, switch.address)


PLACES: list[tuple[Place, int]] = [("answer", 400), ("answer", 404), ("success", 200), ("task", 200)]
CASES = [
    *[pytest.param("as it is", 0, place, status, id=f"as it is-{place}-{status}") for place, status in PLACES],
    *[
        pytest.param(moved, number, place, status, id=f"{moved}-{number}-{place}-{status}")
        for moved in ("model", "sizes")
        for number in range(len(MODEL_WORDS))
        for place, status in PLACES
        if status == 200 or status == (400, 404)[number % 2]
    ],
]
"""Changes of production: the kind of refusal, its wording, and its place."""


def moved_on(moved: str, number: int, place: Place, status: int) -> Production:
    """An upstream without changes, without the default model, or whose first models refuse sizes."""
    gone = [V5] if moved == "model" else []
    refused = refuses_most_sizes if moved == "sizes" else lambda _model, _size: False
    return Production(place, status, MODEL_WORDS[number], SIZE_WORDS[number], gone, refused)


@pytest.mark.parametrize(("moved", "number", "place", "status"), CASES)
async def test_every_default_call_comes_to_a_picture(
    table: ModelTable, switch: Switch, moved: str, number: int, place: Place, status: int
) -> None:
    """Each call needs one tool call for any refusal; the next similar call needs exactly one submit."""
    there = {name.replace(" ", "-"): moved_on(moved, number, place, status) for name in CALLS}
    switch.app = Several(there)
    came: dict[str, tuple[Any, ...]] = {}

    async def check(name: str) -> None:
        at = name.replace(" ", "-")
        production = there[at]
        async with few, Session(table, f"{switch.address}/{at}").open() as client:
            first = await call(client, "a fox", CALLS[name])
            pictures, submits = len(production.billed), len(production.submits)
            second = await call(client, "a hare", CALLS[name])
        came[name] = (
            *(answer(each)["status"] for each in (first, second)),
            pictures,
            len(production.submits) - submits,
        )

    few = anyio.CapacityLimiter(8)
    async with anyio.create_task_group() as group:
        for name in CALLS:
            group.start_soon(check, name)
    assert came == dict.fromkeys(CALLS, ("succeeded", "succeeded", 1, 1))


@pytest.mark.parametrize("shape", [1, 2])
@pytest.mark.parametrize("name", ["bare", "adaptive", "4K", "edit of one", "set"])
async def test_what_get_task_finds_refused_is_learned(
    session: Session, production: Production, name: str, shape: int
) -> None:
    """`get_task` does not send the call again, but the next identical call uses another model."""
    production.place, production.shape = "task", shape
    if "size" in CALLS[name]:
        production.refused = refuses_most_sizes
    else:
        production.gone = [V5]
    async with session.open() as client:
        told = await call(client, "a fox", {**CALLS[name], "wait_seconds": 0})
        assert answer(told)["status"] == "pending"
        refused = await client.call_tool("get_task", {"task_id": answer(told)["task_id"]})
        assert answer(refused)["status"] == "failed"
        assert "nothing was billed" in text(refused)
        assert len(production.submits) == 1
        again = await call(client, "a fox", {**CALLS[name], "wait_seconds": 0})
        found = await client.call_tool("get_task", {"task_id": answer(again)["task_id"]})
    assert answer(found)["status"] == "succeeded"
    assert (len(production.submits), len(production.billed)) == (2, 1)


async def test_get_task_tells_of_a_withdrawn_model(session: Session, production: Production) -> None:
    """A note says that the same call would be refused again."""
    production.place = "task"
    async with session.open() as client:
        told = await call(client, "a fox", {"seed": 7, "wait_seconds": 0})
        refused = await client.call_tool("get_task", {"task_id": answer(told)["task_id"]})
    assert refused.is_error
    assert "on 2026-08-05: leave out `model`, and parameters that only this model supports" in text(refused)


@pytest.mark.parametrize("place", ["answer", "success"])
async def test_a_call_that_does_not_wait_is_accepted_by_the_next_model(
    session: Session, production: Production, place: Place
) -> None:
    """If the refusal is the response to the submit."""
    production.place, production.gone = place, [V5]
    async with session.open() as client:
        told = await call(client, "a fox", {"wait_seconds": 0})
        found = await client.call_tool("get_task", {"task_id": answer(told)["task_id"]})
    assert (answer(told)["status"], answer(found)["status"]) == ("pending", "succeeded")
    assert (answer(found)["model"], len(production.submits)) == (LITE, 2)


@pytest.mark.parametrize("place", ["answer", "success", "task"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [("seed", {"seed": 7}), ("guidance_scale", {"guidance_scale": 3}), ("seed", {"seed": 7, "image": [PNG]})],
)
async def test_what_only_withdrawn_models_have(
    session: Session, production: Production, name: str, expected: dict[str, Any], place: Place
) -> None:
    """The error says so, and gives advice; nothing is billed."""
    production.place = place
    async with session.open() as client:
        result = await call(client, "a fox", expected)
    said = text(result)
    assert result.is_error
    assert f"`{name}` works only with" in said
    assert "on 2026-08-05" in said
    assert f"leave `{name}` out" in said
    assert (len(production.submits), production.billed) == (1, [])


@pytest.mark.parametrize("place", ["answer", "success", "task"])
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"model": "5.0", "size": "1K"}, ["`size` 2K, 3K, 4K or WIDTHxHEIGHT", "Pro", "4.0"]),
        ({"model": "4.5", "size": "1K"}, ["`size` 2K, 4K or WIDTHxHEIGHT", "Pro", "4.0"]),
        ({"model": "Pro", "size": "1920x1080"}, ["`size` 1K, 1.5K, 2K or WIDTHxHEIGHT", "4.0"]),
        ({"model": T2I}, ["on 2026-08-05", "5.0, Lite, Pro, 4.5 or 4.0 can serve this call"]),
        ({"model": T2I, "size": "2K"}, ["on 2026-08-05", "5.0, Lite, Pro, 4.5 or 4.0 can serve this call"]),
        ({"model": SEEDEDIT, "image": [PNG]}, ["on 2026-08-05", "leave `model` out"]),
    ],
)
async def test_what_was_named_is_not_swapped(
    session: Session, production: Production, asked: dict[str, Any], said: list[str], place: Place
) -> None:
    """The error lists the sizes of the model, or models that support the call; one submit, nothing billed."""
    production.place = place
    async with session.open() as client:
        result = await call(client, "a fox", asked)
    assert result.is_error
    assert all(words in text(result) for words in said), text(result)
    assert (len(production.submits), production.billed) == (1, [])


async def test_adaptive_is_dropped_from_a_named_model(session: Session, production: Production) -> None:
    """It has the same effect as no size, so the model stays the same."""
    async with session.open() as client:
        for place in ("answer", "task"):
            production.place = place
            result = await call(client, place, {"model": "4.5", "size": "adaptive"})
            assert (answer(result)["status"], answer(result)["model"]) == ("succeeded", V45)
    assert [body.get("size") for body in production.submits] == ["adaptive", None, None]


ENDED: list[Words] = [
    ("bad_request", "The request failed because the prompt may contain sensitive information."),
    ("OutputImageSensitiveContentDetected", "The output image may contain sensitive information."),
    ("InputTextSensitiveContentDetected", 'The prompt "a model that is not available" may be sensitive.'),
    ("bad_request", "The text 'the size must be 1K, the model is invalid' was rejected."),
    ("api_error", "fetch failed"),
    ("api_error", "fetch failed: https://example.com/model/a.png was not found"),
    ("internal_error", "Internal server error."),
    ("used_up", "Your balance is not sufficient for current request: the model is not available."),
    ("too_many_requests", "You have exceeded the rate limit of the model."),
    ("empty_result", "no reason given"),
]
"""Reasons for which tasks end without a picture, apart from a refused model or size."""


@pytest.mark.parametrize("words", ENDED)
@pytest.mark.parametrize("name", ["bare", "1K", "edit of one", "streamed"])
async def test_a_task_that_failed_is_not_sent_again(
    session: Session, production: Production, words: Words, name: str
) -> None:
    """It may have been billed, and no refusal is remembered."""
    production.failure = words
    async with session.open() as client:
        for n, prompt in enumerate(("a fox", "a hare"), 1):
            result = await call(client, prompt, CALLS[name])
            assert result.is_error
            assert len(production.submits) == n
    assert len({body["model"] for body in production.submits}) == 1


ANSWERED: list[tuple[int, Any]] = [
    *[(400, {"error": {"code": code, "message": message}}) for code, message in ENDED[:4]],
    (403, {"error": {"code": "used_up", "message": "Your balance is not sufficient for current request."}}),
    (401, {"error": {"code": "invalid_token", "message": "The model or endpoint does not exist."}}),
    (413, {"error": {"code": "request_too_large", "message": "The size must be less than 10 MB."}}),
    (500, {"error": {"code": "api_error", "message": "model is invalid."}}),
    (502, "<html>The requested model is not available</html>"),
    (503, {"error": {"code": "api_error", "message": "The requested model is not available"}}),
    (200, {"success": False, "error": {"code": "api_error", "message": "fetch failed"}}),
    (200, ["model is invalid."]),
]


@pytest.mark.parametrize("answered", ANSWERED, ids=lambda answered: str(answered)[:60])
async def test_an_answer_that_refuses_something_else_is_the_end(
    session: Session, production: Production, answered: tuple[int, Any]
) -> None:
    """Content, balance, token, failures, and unknown responses."""
    production.answer = answered
    async with session.open() as client:
        result = await call(client, "a fox", {})
    assert result.is_error
    assert len(production.submits) == 1


@pytest.mark.parametrize("place", ["answer", "task"])
async def test_a_refused_size_that_was_not_sent_is_not_remembered(
    session: Session, production: Production, place: Place
) -> None:
    """The model is not refused, so the next call tries it again, in whichever place the refusal was."""
    production.place, production.shape = place, 2
    production.gone, production.model_words = [V5], SIZE_WORDS[0]
    async with session.open() as client:
        told = await call(client, "a fox", {"wait_seconds": 0})
        if place == "task":
            await client.call_tool("get_task", {"task_id": answer(told)["task_id"]})
        tried = len(production.submits)
        production.gone = []
        result = await call(client, "a hare", {})
    assert answer(result)["status"] == "succeeded"
    assert production.submits[tried]["model"] == V5


async def test_a_task_that_made_a_picture_is_not_sent_again(
    session: Session, switch: Switch, production: Production
) -> None:
    """Its usage shows that it was billed, for any error message."""
    production.failure = MODEL_WORDS[0]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def told(message: Message) -> None:
            if body := message.get("body"):
                message = {
                    **message,
                    "body": body.replace(b'"success":false', b'"usage":{"generated_images":1},"success":false'),
                }
            if message["type"] == "http.response.start":
                message = {**message, "headers": [h for h in message["headers"] if h[0] != b"content-length"]}
            await send(message)

        await production(scope, receive, told)

    switch.app = app
    async with session.open() as client:
        result = await call(client, "a fox", {})
    assert result.is_error
    assert len(production.submits) == 1


async def test_a_rate_limit_chooses_no_other_model(session: Session, production: Production) -> None:
    """The same request is sent again after the pause, since it was not accepted."""
    production.answer = (429, {"error": {"code": "too_many_requests", "message": "the model is not available"}})
    async with session.open() as client:
        result = await call(client, "a fox", {})
    assert answer(result)["error"]["code"] == "too_many_requests"
    assert {body["model"] for body in production.submits} == {V5}


@pytest.mark.parametrize("place", ["answer", "task"])
async def test_when_every_model_is_gone(session: Session, production: Production, place: Place) -> None:
    """Each model is tried once, and the error says so."""
    production.place, production.gone = place, [V5, LITE, PRO, V45, V4]
    async with session.open() as client:
        result = await call(client, "a fox", {})
    assert result.is_error
    tried = [body["model"] for body in production.submits]
    assert sorted(tried) == sorted({V5, LITE, PRO, V45, V4, T2I})
    assert "No other model supports this call" in text(result)
