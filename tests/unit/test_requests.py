"""Requests for arbitrary valid arguments, checked against the upstream's contract."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_seedream.catalog.arguments import image_call
from mcp_seedream.catalog.schemas import image_schema
from mcp_seedream.catalog.selection import choose
from mcp_seedream.catalog.table import Operation
from mcp_seedream.catalog.table_file import read_table
from mcp_seedream.core.errors import InvalidArguments
from mcp_seedream.upstream.types import ImageRequest
from tests.support.contract import faults

TABLE = read_table()
SIZES = ["1K", "1.5K", "2K", "3K", "4K", "adaptive", "auto", "2048x2048", "1280x720", "512x512", "8200x512", "200x100"]
VALUES = {
    "image": st.lists(st.just("https://example.com/a.png"), min_size=1, max_size=14),
    "prompt": st.sampled_from(["a fox", "", "狐狸", "<b>&\"'\n"]),
    "size": st.sampled_from(SIZES),
    "callback_url": st.just("https://example.com/hook"),
    "aspect_ratio": st.sampled_from(["16:9", "1:16", "portrait", "1.91:1", ""]),
}
NEUTRAL: dict[str, list[Any]] = {
    "stream": [False],
    "sequential_image_generation": ["disabled"],
    "output_format": ["jpeg"],
    "optimize_prompt_options": [{"mode": "standard"}],
    "background": ["opaque"],
}
"""Values that ask for nothing."""


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Generate values that a published schema accepts."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case "number":
            return st.floats(schema["minimum"], schema["maximum"])
        case "array":
            return st.lists(values(schema["items"]), max_size=2)
        case "object":
            return st.fixed_dictionaries({}, optional={k: values(v) for k, v in schema["properties"].items()})
    return st.text(max_size=20)


def calls(operation: Operation) -> st.SearchStrategy[dict[str, Any]]:
    schema = image_schema(TABLE, operation, 45)
    fields = {name: VALUES.get(name, values(one)) for name, one in schema["properties"].items()}
    required = {name: fields.pop(name) for name in schema["required"]}
    # Few at once: a call with every parameter fits no model, and would only test refusals.
    few = st.lists(st.sampled_from(sorted(fields)), unique=True, max_size=4)
    return few.flatmap(lambda names: st.fixed_dictionaries({**required, **{n: fields[n] for n in names}}))


def sent(operation: Operation, raw: dict[str, Any]) -> dict[str, Any] | None:
    """Return the request body, or None if the call is rejected."""
    try:
        call = image_call(TABLE, operation, raw, wait_seconds=45)
        return dict(ImageRequest.of(TABLE, choose(TABLE, call.spec, call.model), call.spec).body)
    except InvalidArguments:
        return None


@settings(max_examples=600)
@given(raw=calls("generate"))
def test_whatever_generate_image_admits(raw: dict[str, Any]) -> None:
    """A request obeys the contract or is not sent."""
    assert (body := sent("generate", raw)) is None or faults(body) == []


@settings(max_examples=600)
@given(raw=calls("edit"))
def test_whatever_edit_image_admits(raw: dict[str, Any]) -> None:
    """A request obeys the contract or is not sent."""
    assert (body := sent("edit", raw)) is None or faults(body) == []


def test_every_model_with_every_pair_of_parameters() -> None:
    """Exhaustive over pairs; what the contract allows is not rejected."""
    samples: dict[str, list[Any]] = {
        "size": SIZES,
        "seed": [7],
        "guidance_scale": [3],
        "sequential_image_generation": ["auto", "disabled"],
        "sequential_image_generation_options": [{"max_images": 15}],
        "stream": [True, False],
        "watermark": [False],
        "output_format": ["png", "jpeg"],
        "response_format": ["b64_json"],
        "tools": [[{"type": "web_search"}]],
        "optimize_prompt_options": [{"mode": "standard"}, {"mode": "fast"}],
        "background": ["transparent", "opaque"],
        "layer_decomposition": [True],
        "callback_url": ["https://example.com/hook"],
    }
    accepted = 0
    for model, operation in itertools.product(TABLE.models, ("generate", "edit")):
        image = {"image": ["https://example.com/a.png"]} if operation == "edit" else {}
        for first, second in itertools.combinations(samples, 2):
            for one, two in itertools.product(samples[first], samples[second]):
                raw = {"prompt": "a fox", "model": model.id, **image, first: one, second: two}
                body = sent(operation, raw)  # type: ignore[arg-type]
                # As somebody would send it who checks nothing; a neutral value asks for nothing.
                plain = {name: value for name, value in raw.items() if value not in NEUTRAL.get(name, ())}
                if "layer_decomposition" not in plain and plain.get("size") == "auto":
                    del plain["size"]
                ways = {} if "stream" in plain or "callback_url" in plain else {"async": True}
                assert (body is not None) == (faults({**plain, **ways}) == []), (raw, body)
                assert body is None or faults(body) == []
                accepted += body is not None
    assert accepted > 1000, "most of these should be allowed"
