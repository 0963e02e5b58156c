"""Validation of raw arguments: accepted and rejected values, and the error messages."""

from __future__ import annotations

import base64
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_seedream.catalog.arguments import image_call, task_call
from mcp_seedream.catalog.schemas import image_schema
from mcp_seedream.catalog.selection import choose
from mcp_seedream.catalog.table import Operation
from mcp_seedream.catalog.table_file import read_table
from mcp_seedream.core.errors import InvalidArguments

TABLE = read_table()
URL = "https://example.com/a.png"
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(22)).decode()


def refusal(operation: Operation, **raw: Any) -> str:
    with pytest.raises(InvalidArguments) as caught:
        image_call(TABLE, operation, raw, wait_seconds=45)
    return caught.value.message


def options(**raw: Any) -> dict[str, Any]:
    return dict(image_call(TABLE, "generate", {"prompt": "a fox", **raw}, wait_seconds=45).spec.options)


@pytest.mark.parametrize(
    ("raw", "option"),
    [
        ({"seed": 7}, ("seed", 7)),
        ({"seed": "7"}, ("seed", 7)),
        ({"seed": 7.0}, ("seed", 7)),
        ({"guidance_scale": "2.5"}, ("guidance_scale", 2.5)),
        ({"stream": "true"}, ("stream", True)),
        ({"watermark": "False"}, ("watermark", False)),
        ({"tools": [{"type": "web_search"}]}, ("tools", "web_search")),
        ({"tools": ["web_search"]}, ("tools", "web_search")),
        ({"tools": "web_search"}, ("tools", "web_search")),
        ({"tools": '[{"type": "web_search"}]'}, ("tools", "web_search")),
        ({"tools": [{"type": "web_search"}, "web_search"]}, ("tools", "web_search")),
        ({"optimize_prompt_options": {"mode": "fast"}}, ("optimize_prompt_options", "fast")),
        ({"optimize_prompt_options": '{"mode": "fast"}'}, ("optimize_prompt_options", "fast")),
        ({"optimize_prompt_options": "fast"}, ("optimize_prompt_options", "fast")),
        ({"sequential_image_generation_options": {"max_images": 4}}, ("sequential_image_generation_options", 4)),
        ({"sequential_image_generation_options": 4}, ("sequential_image_generation_options", 4)),
        ({"callback_url": " https://example.com/hook "}, ("callback_url", "https://example.com/hook")),
    ],
)
def test_values_that_can_be_meant_in_one_way_are_taken(raw: dict[str, Any], option: tuple[str, Any]) -> None:
    """Unambiguous values in another form than the schema's are converted."""
    assert options(**raw) == dict([option])


@pytest.mark.parametrize(
    "raw",
    [
        {"seed": None},
        {"size": ""},
        {"callback_url": ""},
        {"tools": []},
        {"tools": [{}]},
        {"tools": [None]},
        {"sequential_image_generation_options": {}},
        {"sequential_image_generation_options": {"max_images": None}},
        {"model": ""},
        {"model": "auto"},
        {"model": "Default"},
        {"size": "auto"},
        {"size": "default"},
        {"aspect_ratio": ""},
        {"aspect_ratio": "auto"},
        {"tools": ""},
        {"output_format": ""},
        {"optimize_prompt_options": {"mode": ""}},
        {"sequential_image_generation": ""},
        {"wait_seconds": None},
        {"wait_seconds": ""},
        {"image": []},
        {"image": ""},
        {"background": "opaque"},
        {"layer_decomposition": False},
        {"n": None},
        {"negative_prompt": ""},
        {"negative_prompt": "null"},
        {"seed": []},
        {"seed": "auto"},
        {"stream": {}},
        {"size": []},
        {"model": "null"},
        {"model": "seedream"},
        {"size": "None"},
        {"aspect_ratio": "undefined"},
        {"save_to": "null"},
        {"output_format": "auto"},
        {"output_format": "default"},
        {"background": "auto"},
        {"tools": False},
        {"optimize_prompt_options": False},
        {"callback_url": []},
        {"wait_seconds": "null"},
    ],
)
def test_null_and_empty_mean_absent(raw: dict[str, Any]) -> None:
    """Null and empty values are treated as if the argument were missing."""
    call = image_call(TABLE, "generate", {"prompt": "a fox", **raw}, wait_seconds=45, origin="local")
    assert call.save_to is None
    assert (dict(call.spec.options), call.spec.size, call.model, call.wait_seconds) == ({}, None, None, 45)


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ("2k", "2K"),
        ("1.5K", "1.5K"),
        (" Adaptive", "adaptive"),
        ("2048X1152", "2048x1152"),
        ("2048 \N{MULTIPLICATION SIGN} 1152", "2048x1152"),
    ],
)
def test_sizes_are_spelled_as_the_table_has_them(given: str, size: str) -> None:
    """Letter case and the sign between the sides do not matter."""
    assert image_call(TABLE, "generate", {"prompt": "a", "size": given}, wait_seconds=0).spec.size == size


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"sed": 1}, "`sed` is not an argument of this tool. Did you mean `seed`?"),
        ({"promt": "x"}, "Did you mean `prompt`?"),
        ({"zoom": 2}, "`zoom` is not an argument of this tool. The arguments are prompt, model, size"),
        ({"image": [URL]}, "`image` is for the other image tool"),
        ({"layer_decomposition": True}, "`layer_decomposition` is for the other image tool"),
        ({"prompt": 5}, "`prompt` must be a string, not a number (5)"),
        ({"prompt": ["a"]}, "`prompt` must be a string, not a list"),
        ({"prompt": "a \ud800 b"}, "`prompt` contains a lone surrogate"),
        ({"seed": "many"}, "`seed` must be a number, not text ('many')"),
        ({"seed": 1.5}, "`seed` must be a whole number, not 1.5"),
        ({"seed": True}, "`seed` must be a number, not a boolean (True)"),
        ({"seed": float("nan")}, "`seed` must be a number"),
        ({"seed": 10**400}, "`seed` must be a number"),
        ({"stream": "yes"}, "`stream` must be true or false, not text ('yes')"),
        ({"stream": 1}, "`stream` must be true or false"),
        ({"size": 2048}, "`size` must be a string"),
        ({"model": ["x"]}, "`model` must be a string"),
        ({"prompt": "a" * 20_001}, "`prompt` has 20,001 characters; it may have at most 20,000"),
        ({"tools": [{"type": "web_search"}, {"type": "calculator"}]}, "`tools` accepts one kind of entry, not 2"),
        ({"tools": [{"name": "web_search"}]}, "`tools` has only the key `type`, not 'name'"),
        ({"tools": [["web_search"]]}, "`tools.type` must be a string, not a list"),
        ({"optimize_prompt_options": {"mod": "fast"}}, "`optimize_prompt_options` has only the key `mode`, not 'mod'"),
        ({"callback_url": "example.com"}, "`callback_url` must be an http(s) URL"),
        ({"callback_url": "http://?"}, "`callback_url` must be an http(s) URL"),
        ({"callback_url": "http://example.com/\x00"}, "`callback_url` must be an http(s) URL"),
        ({"callback_url": "ftp://example.com"}, "`callback_url` must be an http(s) URL"),
        ({"wait_seconds": 601}, "`wait_seconds` must be from 0 to 600, not 601"),
        ({"wait_seconds": -1}, "`wait_seconds` must be from 0 to 600"),
    ],
)
def test_what_can_not_be_meant_is_refused_by_name(raw: dict[str, Any], says: str) -> None:
    """The error names the argument, the rule and a valid value."""
    assert says in refusal("generate", **{"prompt": "a fox", **raw})


@pytest.mark.parametrize(
    ("image", "count"),
    [
        (URL, 1),
        ([URL], 1),
        (f'["{URL}", "{URL}"]', 2),
        (f"data:image/png;base64,{PNG}", 1),
        (PNG, 1),
        ([URL, None, ""], 1),
    ],
)
def test_input_images(image: Any, count: int) -> None:
    """A list, JSON in a string, or a single string; URLs, data URIs and base64."""
    assert len(image_call(TABLE, "edit", {"prompt": "a", "image": image}, wait_seconds=0).spec.images) == count


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (None, "`image` is missing"),
        ([], "`image` is missing"),
        ([URL] * 16, "`image` has 16 entries"),
        ([URL, 5], "`image` must be a string"),
        ("https://", "`image` number 1 is not a complete URL"),
        ("https://a.example/my cat.jpg", "Write spaces as %20"),
        ("https://a.example/cat.jpg\0", "is not a complete URL"),
        ("/home/me/photo.png", "`image` number 1, '/home/me/photo.png', is not a link, a data URI or base64"),
        ("data:image/png;base64,####", "is not a picture"),
        (base64.b64encode(b"just some text").decode(), "is not a link, a data URI or base64"),
        (base64.b64encode(b"RIFF\0\0\0\0WAVEfmt sound").decode(), "is not a link, a data URI or base64"),
        (base64.b64encode(b"BMW makes cars and bikes").decode(), "is not a link, a data URI or base64"),
        (base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40 * 2**20)).decode(), "`image` number 1 is larger than 40 MB"),
    ],
)
def test_input_images_that_are_refused(image: Any, says: str) -> None:
    """Invalid references are rejected before a request is sent."""
    assert says in refusal("edit", prompt="a", image=image)


@pytest.mark.parametrize(
    "image",
    [
        f"data:image/png;charset=utf-8;base64,{PNG}",
        "\n".join(PNG[n : n + 8] for n in range(0, len(PNG), 8)),
        PNG.rstrip("="),
        f"  {PNG}\n",
        PNG.replace("+", "-").replace("/", "_"),
        PNG.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D"),
        f"data:image/png;base64,{PNG[:8]}\\r\\n{PNG[8:]}",
        PNG[:8] + "\u00a0" + PNG[8:],
    ],
)
def test_base64_as_people_have_it(image: str) -> None:
    """Base64 with line breaks, without padding, or with a parameter is normalized."""
    [sent] = image_call(TABLE, "edit", {"prompt": "a", "image": image}, wait_seconds=0).spec.images
    assert sent.endswith(PNG)
    assert not any(character.isspace() for character in sent)


@pytest.mark.parametrize("item", ["a ", "aa\n", "%41", "%2B", "a\\", "\\n", "a=", "=", "a", "aaaa"])
@pytest.mark.parametrize("head", [PNG[:12], "data:image/png;base64,", "[", '["'])
def test_megabytes_of_anything(head: str, item: str) -> None:
    """They are read in little memory, however many pieces they have."""
    text = head + item * (10_000_000 // len(item))
    tracemalloc.start()
    with suppress(InvalidArguments):
        image_call(TABLE, "edit", {"prompt": "a", "image": text}, wait_seconds=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 45_000_000


def test_json_in_a_string_is_limited() -> None:
    """Its structure decides nothing: text that has too much of it is no JSON."""
    tracemalloc.start()
    refusal("edit", prompt="a", image="[" + "[]," * 3_000_000 + "1]")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 45_000_000


def test_a_standard_picture_is_not_copied() -> None:
    """Neither base64 nor a data URI."""
    data = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(10**6)).decode()
    for text in (data, f"data:image/png;base64,{data}"):
        [image] = image_call(TABLE, "edit", {"prompt": "a", "image": [text]}, wait_seconds=0).spec.images
        assert image is text


def test_a_picture_of_exactly_the_limit_is_taken() -> None:
    """Ten MiB, with or without line breaks."""
    data = b"\x89PNG\r\n\x1a\n" + bytes(TABLE.upstream_limits.image_bytes - 8)
    for text in (base64.b64encode(data).decode(), base64.encodebytes(data).decode()):
        assert image_call(TABLE, "edit", {"prompt": "a", "image": text}, wait_seconds=0).spec.images


def test_a_callback_means_no_wait() -> None:
    """A call with a callback waits only if it says so."""
    raw = {"prompt": "a", "callback_url": "https://example.com/hook"}
    assert image_call(TABLE, "generate", raw, wait_seconds=45).wait_seconds == 0
    assert image_call(TABLE, "generate", {**raw, "wait_seconds": 5}, wait_seconds=45).wait_seconds == 5


@pytest.mark.parametrize(
    ("raw", "ids"),
    [
        ({"task_id": "a"}, ("a",)),
        ({"task_id": " a "}, ("a",)),
        ({"task_ids": ["a", "b", "a"]}, ("a", "b")),
        ({"task_ids": '["a", "b"]'}, ("a", "b")),
        ({"task_ids": "a"}, ("a",)),
        ({"task_id": "a", "task_ids": ["b"]}, ("a", "b")),
    ],
)
def test_task_ids(raw: dict[str, Any], ids: tuple[str, ...]) -> None:
    """One id, several, or both; duplicates are removed."""
    assert task_call(raw, wait_seconds=45).task_ids == ids


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({}, "Give `task_id`"),
        ({"task_id": ""}, "Give `task_id`"),
        ({"task_id": 5}, "`task_id` must be a string"),
        ({"id": "a"}, "`id` is not an argument of this tool. Did you mean `task_id`?"),
        ({"task_ids": [str(n) for n in range(51)]}, "at most 50 ids, not 51"),
        ({"task_id": "a\nb"}, "can't be a task's id"),
        ({"task_id": "a" * 201}, "can't be a task's id"),
    ],
)
def test_task_ids_that_are_refused(raw: dict[str, Any], says: str) -> None:
    """Invalid ids are rejected before a request is sent."""
    with pytest.raises(InvalidArguments) as caught:
        task_call(raw, wait_seconds=45)
    assert says in caught.value.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(sorted(image_schema(TABLE, "edit", 45)["properties"])) | st.text(max_size=8)


@given(raw=st.dictionaries(NAMES, JSON, max_size=6), operation=st.sampled_from(["generate", "edit"]))
def test_any_json_is_a_call_or_a_clear_error(raw: dict[str, Any], operation: Operation) -> None:
    """Arbitrary JSON raises nothing but InvalidArguments."""
    with suppress(InvalidArguments):
        image_call(TABLE, operation, raw, wait_seconds=45)


@pytest.mark.parametrize(
    ("raw", "size", "ratio"),
    [
        ({"aspect_ratio": "16:9"}, None, "16:9"),
        ({"aspect_ratio": "16/9"}, None, "16:9"),
        ({"aspect_ratio": "16x9"}, None, "16:9"),
        ({"aspect_ratio": " 1.91 : 1 "}, None, "1.91:1"),
        ({"aspect_ratio": "Portrait"}, None, "2:3"),
        ({"aspect_ratio": "landscape", "size": "4k"}, "4K", "3:2"),
        ({"aspect_ratio": "square", "size": "auto"}, None, "1:1"),
        ({"aspect_ratio": "3:2", "size": "adaptive"}, None, "3:2"),
        ({"aspect_ratio": "adaptive"}, None, None),
        ({"size": "16:9"}, None, "16:9"),
        ({"size": "landscape"}, None, "3:2"),
        ({"size": "16:9", "aspect_ratio": "16:9"}, None, "16:9"),
        ({"size": "1920x1080px"}, "1920x1080", None),
        ({"size": "1920 x 1080 pixels"}, "1920x1080", None),
        ({"size": "1024*1024"}, "1024x1024", None),
        ({"size": "1920x1080", "aspect_ratio": "16:9"}, "1920x1080", None),
        ({"size": "2 k"}, "2K", None),
        ({"size": [1024, 768]}, "1024x768", None),
        ({"size": ["1024", "768"]}, "1024x768", None),
        ({"size": "[1024, 768]"}, "1024x768", None),
        ({"size": {"width": 1024, "height": 768}}, "1024x768", None),
        ({"aspect_ratio": [16, 9]}, None, "16:9"),
        ({"aspect_ratio": "portrait 4:5"}, None, "4:5"),
        ({"size": "16:9 (landscape)"}, None, "16:9"),
        ({"size": "Adaptive"}, "adaptive", None),
    ],
)
def test_sizes_and_shapes_are_taken_as_people_write_them(
    raw: dict[str, Any], size: str | None, ratio: str | None
) -> None:
    """A named size, WIDTHxHEIGHT or a ratio, in either argument."""
    spec = image_call(TABLE, "generate", {"prompt": "a", **raw}, wait_seconds=0).spec
    assert (spec.size, spec.aspect_ratio) == (size, ratio)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"aspect_ratio": "wide"}, "`aspect_ratio` 'wide' must be like 16:9, or one of square, landscape, portrait"),
        ({"aspect_ratio": "portrait 16:9"}, "`aspect_ratio` 'portrait 16:9' must be like 16:9"),
        ({"aspect_ratio": "square portrait"}, "`aspect_ratio` 'square portrait' must be like 16:9"),
        ({"size": [1024]}, "`size` must be a string, not a list"),
        ({"aspect_ratio": "0:1"}, "`aspect_ratio` '0:1' must be like 16:9"),
        ({"aspect_ratio": 1.5}, "`aspect_ratio` must be a string"),
        ({"size": "16:9", "aspect_ratio": "4:3"}, "and `aspect_ratio` 4:3 differ: give only one"),
        (
            {"size": "1024x1024", "aspect_ratio": "16:9"},
            "`size` 1024x1024 and `aspect_ratio` 16:9 differ: give only one",
        ),
    ],
)
def test_shapes_that_contradict_or_are_none(raw: dict[str, Any], says: str) -> None:
    """The error names the argument and a valid value."""
    assert says in refusal("generate", **{"prompt": "a", **raw})


@pytest.mark.parametrize("ratio", ["20:1", "1:17", "99999:1"])
def test_a_shape_that_no_model_makes_is_refused(ratio: str) -> None:
    """The longest aspect ratio is 16:1."""
    call = image_call(TABLE, "generate", {"prompt": "a", "aspect_ratio": ratio}, wait_seconds=0)
    with pytest.raises(InvalidArguments, match=r"`aspect_ratio` .* does not fit"):
        choose(TABLE, call.spec)


@pytest.mark.parametrize(
    ("raw", "option"),
    [
        ({"output_format": "jpg"}, ("output_format", "jpeg")),
        ({"output_format": "PNG"}, ("output_format", "png")),
        ({"output_format": ".png"}, ("output_format", "png")),
        ({"output_format": "image/jpeg"}, ("output_format", "jpeg")),
        ({"response_format": "URL"}, ("response_format", "url")),
        ({"response_format": "base64"}, ("response_format", "b64_json")),
        ({"sequential_image_generation": "Auto"}, ("sequential_image_generation", "auto")),
        ({"tools": "Web_Search"}, ("tools", "web_search")),
        ({"tools": True}, ("tools", "web_search")),
    ],
)
def test_words_are_taken_in_any_spelling(raw: dict[str, Any], option: tuple[str, Any]) -> None:
    """Variants and synonyms of a value in the table are accepted."""
    assert options(**raw) == dict([option])


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("n", "sequential_image_generation"), ("num_images", "sequential_image_generation"), ("width", "aspect_ratio"),
        ("Height", "aspect_ratio"), ("negative_prompt", "prompt"), ("negativePrompt", "prompt"), ("quality", "size"),
        ("style", "prompt"), ("image_url", "edit_image"), ("cfg_scale", "guidance_scale"), ("webhook", "callback_url"),
    ],
)  # fmt: skip
def test_an_argument_of_other_tools_is_answered_with_what_does_that_here(name: str, instead: str) -> None:
    """The error has the table's advice instead of a list of all arguments."""
    says = refusal("generate", **{"prompt": "a", name: "x"})
    assert f"`{instead}" in says or instead in says
    assert "The arguments are" not in says
    assert "Nothing was sent" in says


@pytest.mark.parametrize("operation", ["generate", "edit"])
@pytest.mark.parametrize("nothing", ["null", "neutral"])
def test_a_call_with_every_argument_filled_with_nothing_is_a_bare_call(operation: Operation, nothing: str) -> None:
    """Some clients send all arguments, with empty values."""
    empty = {"string": "", "array": [], "object": {}, "integer": -1, "number": 0, "boolean": False}
    properties = image_schema(TABLE, operation, 45)["properties"]
    raw = {name: None if nothing == "null" else empty[schema["type"]] for name, schema in properties.items()}
    raw |= {"prompt": "a fox", **({"image": [URL]} if operation == "edit" else {}), "watermark": True}
    call = image_call(TABLE, operation, raw, wait_seconds=45)
    bare = {"prompt": "a fox", **({"image": [URL]} if operation == "edit" else {})}
    assert choose(TABLE, call.spec, call.model) is choose(
        TABLE, image_call(TABLE, operation, bare, wait_seconds=45).spec
    )
