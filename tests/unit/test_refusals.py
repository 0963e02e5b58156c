"""Refusals of a model or a size: recognition, the next model choice, and how long they are remembered."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_seedream.catalog.fallback import ModelChoice
from mcp_seedream.catalog.selection import ImageSpec, Refusal
from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.errors import InvalidArguments
from mcp_seedream.core.events import Observer
from mcp_seedream.generation.refusal_memory import SECONDS, RefusalMemory
from mcp_seedream.upstream.error_mapping import refused_part
from mcp_seedream.upstream.types import Failure
from tests.support.models import LITE, PRO, T2I, V4, V5, V45

pytestmark = pytest.mark.anyio
ONE = ("https://example.com/a.png",)


@pytest.mark.parametrize(
    ("code", "message", "part"),
    [
        ("bad_request", "model is invalid.", "model"),
        ("api_error", "Model is invalid", "model"),
        ("not_found", f"The model or endpoint {V5} does not exist or you do not have access to it.", "model"),
        ("InvalidEndpointOrModel.NotFound", "no reason given", "model"),
        ("api_error", f"The requested model {V5} is not available", "model"),
        ("bad_request", f"The model `{V5}` has been retired", "model"),
        ("bad_request", f"Model {V5} is no longer supported. See the documentation.", "model"),
        ("bad_request", "unsupported model: x", "model"),
        ("bad_request", "size must be one of 'WIDTHxHEIGHT', '2k', '3k', or '4k'", "size"),
        ("bad_request", "the specified size is not supported for model", "size"),
        ("InvalidParameter", "The parameter `size` specified in the request is not valid: adaptive", "size"),
        ("bad_request", "image size must be at least 3686400 pixels", "size"),
        ("bad_request", "Invalid resolution 1K", "size"),
        ("api_error", "The output image may contain sensitive information.", None),
        ("bad_request", "The request failed because the prompt may contain sensitive information.", None),
        ("api_error", "fetch failed", None),
        ("api_error", "Internal server error.", None),
        ("api_error", "The model is temporarily not available, try again later", None),
        ("api_error", "the model is overloaded", None),
        ("bad_request", "the size of the input image must be below 10 MB", None),
        ("bad_request", "request size must be at most 64 MiB", None),
        ("bad_request", "The parameter `seed` is not supported by this model", None),
        ("used_up", "model is invalid", None),
        ("invalid_token", "The model or endpoint does not exist or you do not have access to it", None),
        ("too_many_requests", "model is invalid", None),
        ("bad_request", "The prompt says: a model that does well on a catwalk", None),
    ],
)
def test_a_refusal_is_told_by_its_code_and_words(code: str, message: str, part: str | None) -> None:
    """All wordings known from production are recognized; other failures are not refusals."""
    assert refused_part(Failure(code, message)) == part


def spec(**fields: Any) -> ImageSpec:
    return ImageSpec("edit" if "images" in fields else "generate", "a fox", **fields)


def test_the_next_model_is_chosen_until_none_is_left(table: ModelTable) -> None:
    """In the table's order, with withdrawn models last."""
    choice = ModelChoice(table, spec())
    models = [choice.model.id]
    while choice.refuse(choice.model.id, "model"):
        models.append(choice.model.id)
    assert models == [V5, LITE, PRO, V45, V4, T2I]


def test_a_refused_size_goes_to_the_next_model_that_takes_it(table: ModelTable) -> None:
    """The note names the size and the model."""
    choice = ModelChoice(table, spec(size="1K"))
    assert choice.model.id == PRO
    assert choice.refuse(PRO, "size")
    assert choice.model.id == V4
    assert choice.notes() == ["The upstream refused `size` 1K for Pro, so 4.0 was used."]


def test_adaptive_that_is_refused_becomes_no_size(table: ModelTable) -> None:
    """The model stays the same, named or not, since leaving the size out means the same."""
    for named in (None, "4.5"):
        choice = ModelChoice(table, spec(size="adaptive"), named)
        model = choice.model
        assert choice.refuse(model.id, "size")
        assert (choice.model, choice.spec.size) == (model, None)
        assert "no longer accepts `size` adaptive; it was left out, to the same effect" in choice.notes()[0]
    known = ModelChoice(table, spec(size="adaptive"), avoiding=[(V5, "adaptive")])
    assert (known.model.id, known.spec.size) == (V5, None)
    assert ModelChoice(table, spec(size="adaptive"), "4.0", avoiding=[(V5, "adaptive")]).spec.size == "adaptive"


def test_what_the_caller_named_is_not_swapped(table: ModelTable) -> None:
    """The advice lists the model's sizes and other models that support the call."""
    choice = ModelChoice(table, spec(size="1K"), "5.0")
    assert not choice.refuse(V5, "size")
    assert choice.advice(V5) == (
        "5.0 accepts `size` 2K, 3K, 4K or WIDTHxHEIGHT. "
        "Lite, Pro, 4.5 or 4.0 can serve this call; or leave `model` out."
    )


def test_a_parameter_of_withdrawn_models_alone_is_told(table: ModelTable) -> None:
    """The advice says which parameter to leave out, and the date of withdrawal."""
    choice = ModelChoice(table, spec(options={"seed": 7}))
    assert choice.model.id == T2I
    assert choice.notes() == ["The vendor withdrew Seedream 3.0 T2I on 2026-08-05: calls may be refused."]
    assert not choice.refuse(T2I, "model")
    assert choice.advice(T2I) == (
        "`seed` works only with Seedream 3.0 T2I, which the vendor withdrew on 2026-08-05: leave `seed` out."
    )


@pytest.mark.parametrize(
    ("given", "note"),
    [
        ({}, []),
        ({"size": "4K"}, []),
        ({"size": "2048x2048"}, []),
        ({"aspect_ratio": "16:9"}, []),
        ({"size": "1024x1024"}, ["1024x1024 is below 5.0's minimum of 3,686,400 pixels, so Pro was used."]),
        ({"size": "1K"}, ["5.0 does not accept 1K, so Pro was used."]),
        ({"size": "1K", "aspect_ratio": "16:9"}, ["5.0 does not accept 16:9 with 1K, so Pro was used."]),
        ({"size": "1.5K", "images": ONE}, ["5.0 does not accept 1.5K, so Pro was used."]),
    ],
)
def test_a_size_that_needs_another_model_says_so(table: ModelTable, given: dict[str, Any], note: list[str]) -> None:
    """There is no note if the default model is used."""
    assert ModelChoice(table, spec(**given)).notes() == note


def test_a_refusal_of_the_last_hours_is_told(table: ModelTable) -> None:
    """The next call avoids the refused model, and a note gives the reason."""
    choice = ModelChoice(table, spec(), avoiding=[(V5, None)])
    assert choice.model.id == LITE
    assert choice.notes() == ["The upstream recently refused 5.0, so Lite was used."]
    with pytest.raises(InvalidArguments):
        ModelChoice(table, spec(size="8K"), avoiding=[(V5, None)])


class Clock:
    """A Unix clock that a test advances."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Shared:
    """An in-memory store shared by several refusal memories."""

    def __init__(self) -> None:
        self.kept: dict[Refusal, float] = {}

    async def refusals(self) -> dict[Refusal, float]:
        return dict(self.kept)

    async def remember(self, refusal: Refusal, until: float) -> None:
        self.kept[refusal] = until


async def test_a_refusal_is_remembered_for_hours_and_then_forgotten() -> None:
    """Each refusal is reported to the operator."""
    told: list[tuple[str, str]] = []

    class Listener(Observer):
        def on_choice_refused(self, model: str, part: str) -> None:
            told.append((model, part))

    clock = Clock()
    memory = RefusalMemory(observer=Listener(), clock=clock)
    await memory.add((V5, None))
    await memory.add((V45, "1K"))
    assert await memory.known() == {(V5, None), (V45, "1K")}
    clock.now += SECONDS - 1
    assert await memory.known() == {(V5, None), (V45, "1K")}
    clock.now += 2
    assert await memory.known() == frozenset()
    assert told == [(V5, "model"), (V45, "size")]


async def test_processes_learn_from_each_other() -> None:
    """Refusals reach other processes through the shared store within seconds."""
    clock, shared = Clock(), Shared()
    one, other = (RefusalMemory(shared, clock=clock) for _ in range(2))
    assert await other.known() == frozenset()
    await one.add((V5, None))
    clock.now += 6
    assert await other.known() == {(V5, None)}


async def test_a_memory_has_an_end() -> None:
    """The number of remembered refusals is limited, since callers can name any size."""
    memory = RefusalMemory()
    for side in range(3000):
        await memory.add((V5, f"{side}x{side}"))
    assert len(await memory.known()) <= 200
