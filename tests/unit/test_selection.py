"""Model choice for an image spec, and the errors for specs that no model supports."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_seedream.catalog.selection import ImageSpec, choose, sent_options
from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.errors import InvalidArguments
from tests.support.models import LITE, PRO, SEEDEDIT, T2I, V4, V5, V45

ONE, TWO = ("https://example.com/1.png",), ("https://example.com/1.png", "https://example.com/2.png")
AUTO = {"sequential_image_generation": "auto"}


def generate(**fields: Any) -> ImageSpec:
    return ImageSpec(operation="generate", prompt=fields.pop("prompt", "a fox"), **fields)


def edit(images: tuple[str, ...] = ONE, **fields: Any) -> ImageSpec:
    return ImageSpec(operation="edit", prompt=fields.pop("prompt", "make it red"), images=images, **fields)


def error_message(table: ModelTable, spec: ImageSpec, model: str | None = None) -> str:
    with pytest.raises(InvalidArguments) as caught:
        choose(table, spec, model)
    return caught.value.message


@pytest.mark.parametrize(
    ("spec", "model"),
    [
        (generate(), V5),
        (generate(size="1K"), PRO),
        (generate(size="1K", options=AUTO), V4),
        (generate(size="adaptive"), V5),
        (generate(size="1920x1080"), V4),
        (generate(aspect_ratio="16:9"), V5),
        (generate(aspect_ratio="16:9", size="1K"), PRO),
        (generate(options={"seed": -1}), V5),
        (generate(options={"guidance_scale": 2.5}), V5),
        (generate(options={"output_format": "jpeg", "optimize_prompt_options": "standard"}), V5),
        (generate(options={"sequential_image_generation": "disabled", "sequential_image_generation_options": 1}), V5),
        (generate(size="3K"), V5),
        (generate(size="1.5K"), PRO),
        (generate(size="2560x1440"), V5),
        (generate(size="1280x720"), PRO),
        (generate(size="512x512"), T2I),
        (generate(options={"seed": 7}), T2I),
        (generate(options={"guidance_scale": 3}), T2I),
        (generate(options=AUTO), V5),
        (generate(options={"tools": "web_search"}), V5),
        (generate(options={"optimize_prompt_options": "fast"}), PRO),
        (generate(options={"optimize_prompt_options": "fast", **AUTO}), V4),
        (generate(options={"stream": False, "seed": 7}), T2I),
        (generate(options={"sequential_image_generation": "disabled", "seed": 7}), T2I),
        (edit(), V5),
        (edit(options={"seed": 7}), SEEDEDIT),
        (edit(options={"guidance_scale": 5.5}), V5),
        (edit(options={"guidance_scale": 2.5}), SEEDEDIT),
        (edit(TWO), V5),
        (edit(ONE * 14), V5),
        (edit(size="3K"), V5),
        (edit(options={"output_format": "png"}), V5),
        (edit(options={"background": "opaque"}), V5),
        (edit(options={"background": "transparent", "output_format": "png"}), PRO),
        (edit(options={"layer_decomposition": True}, prompt="", size="auto"), PRO),
        (edit(options={"layer_decomposition": False}), V5),
    ],
)
def test_left_out_model_is_the_first_that_supports_everything(table: ModelTable, spec: ImageSpec, model: str) -> None:
    """Models are tried in the table's order."""
    assert choose(table, spec).id == model


@pytest.mark.parametrize("model", [V5, LITE, PRO, V45, V4, T2I, SEEDEDIT])
def test_a_named_model_is_never_swapped(table: ModelTable, model: str) -> None:
    """A model named by id, name or label is used."""
    spec = edit() if model == SEEDEDIT else generate()
    entry = table.by_id[model]
    for name in (model, entry.name, entry.label, model.upper()):
        assert choose(table, spec, name).id == model


@pytest.mark.parametrize("size", ["1K", "2K", "4K", "adaptive"])
@pytest.mark.parametrize("model", [V5, LITE, V45, V4, T2I])
def test_what_the_vendors_page_offers_is_never_refused(table: ModelTable, model: str, size: str) -> None:
    """The vendor's page has an example of 5.0 with 1K, a size that newer documents do not list."""
    assert choose(table, generate(size=size), model).id == model


@pytest.mark.parametrize(
    ("spec", "model", "says"),
    [
        (
            generate(options={"seed": 1}),
            V5,
            f"`seed` is not one of its parameters. Only {T2I} (withdrawn on 2026-08-05) can",
        ),
        (generate(size="3K"), V4, f"`size` '3K' must be 1K, 2K, 4K or WIDTHxHEIGHT. {V5} or {LITE} can"),
        (generate(), SEEDEDIT, "it can't generate from text alone (edit_image edits with it)"),
        (edit(), T2I, "it can't edit images"),
        (edit(TWO), SEEDEDIT, "it accepts at most 1 input image."),
        (edit(ONE * 11), PRO, "it accepts at most 10 input images."),
        (generate(options={"optimize_prompt_options": "fast"}), V5, "`optimize_prompt_options.mode` must be standard"),
        (generate(options={"guidance_scale": 50}), T2I, "`guidance_scale` must be from 1 to 10"),
        (generate(options={"seed": -2}), T2I, "`seed` must be from -1 to 2147483647"),
        (generate(options={"stream": True}), PRO, "`stream` is not one of its parameters"),
        (generate(options=AUTO), T2I, "`sequential_image_generation` is not one of its parameters"),
        (generate(options={"output_format": "png"}), V45, "`output_format` is not one of its parameters"),
        (generate(options={"output_format": "webp"}), V5, "`output_format` must be jpeg or png"),
        (generate(options={"tools": "web_search"}), PRO, "`tools` is not one of its parameters"),
        (generate(size="1920x1080"), V5, "must have from 3,686,400 to 16,777,216 pixels, width x height"),
        (generate(size="4096x4097"), V4, "must have from 921,600 to 16,777,216 pixels"),
        (generate(size="2150x2151"), PRO, "must have from 921,600 to 4,624,220 pixels"),
        (generate(size="511x1024"), T2I, "must have sides from 512 to 2048 pixels"),
        (edit(size="2049x1024"), SEEDEDIT, "must have sides from 512 to 2048 pixels"),
        (generate(size="8208x512"), V4, "must have an aspect ratio from 1:16 to 16:1"),
        (generate(size="0x0"), V4, "`size` '0x0' must be 1K, 2K, 4K or WIDTHxHEIGHT"),
        (generate(size="002048x02048"), V4, "4K or WIDTHxHEIGHT"),
        (generate(size="\N{FULLWIDTH DIGIT NINE}999x2048"), V4, "4K or WIDTHxHEIGHT"),
        (generate(size="auto"), PRO, "`size` 'auto' must be 1K, 1.5K, 2K or WIDTHxHEIGHT"),
        (generate(), "dall-e-3", "`model` 'dall-e-3' is not a model of Seedream. Use"),
    ],
)
def test_a_named_model_that_can_not_serve_says_why_and_what_would(
    table: ModelTable, spec: ImageSpec, model: str, says: str
) -> None:
    """The error names the broken rule, then what works."""
    assert says in error_message(table, spec, model)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (
            generate(options={"guidance_scale": 0.5}),
            "No model supports this call: 3.0 (`guidance_scale` must be from 1 to 10)",
        ),
        (edit(ONE * 15), "it accepts at most 14 input images"),
        (
            generate(options={"seed": 1, "output_format": "png"}),
            "`seed` works only with 3.0 (`output_format` is not one of its parameters)",
        ),
        (
            edit(options={"layer_decomposition": True}, size="4K"),
            "`layer_decomposition` works only with Pro (`size` '4K' must be auto, 1K, 1.5K or 2K with",
        ),
        (edit(TWO, options={"layer_decomposition": True}), "at most 1 input image with `layer_decomposition`"),
        (
            edit(TWO, options={"background": "transparent", "output_format": "png"}),
            "at most 1 input image with `background`",
        ),
        (generate(options={"sequential_image_generation_options": 16, **AUTO}), "must be from 1 to 15"),
    ],
)
def test_nobody_serves(table: ModelTable, spec: ImageSpec, says: str) -> None:
    """The error names the argument that no model accepts, or two that no model combines."""
    assert says in error_message(table, spec)


@pytest.mark.parametrize(
    ("spec", "model", "message"),
    [
        (generate(size="8K"), None, "`size` '8K' must be 1K, 1.5K, 2K, 3K, 4K or WIDTHxHEIGHT."),
        (generate(size="8K", aspect_ratio="16:9"), None, "`size` '8K' must be 1K, 1.5K, 2K, 3K, 4K or WIDTHxHEIGHT."),
        (generate(size="8K"), V45, f"{V45}: `size` '8K' must be 2K, 4K or WIDTHxHEIGHT."),
        (generate(size="8K"), T2I, f"{T2I}: `size` '8K' must be WIDTHxHEIGHT."),
        (generate(size="9000x9000"), PRO, f"{PRO}: `size` '9000x9000' must have from 921,600 to 4,624,220 pixels"),
        (generate(size="8K", options={"seed": 5}), None, "`size` '8K' must be WIDTHxHEIGHT."),
        (generate(size="8K", options={"tools": "web_search"}), None, "`size` '8K' must be 2K, 3K, 4K or WIDTHxHEIGHT."),
        (
            edit(size="5K", options={"layer_decomposition": True}),
            None,
            "`size` '5K' must be auto, 1K, 1.5K or 2K with `layer_decomposition`.",
        ),
    ],
)
def test_an_unknown_size_lists_only_the_sizes_of_usable_models(
    table: ModelTable, spec: ImageSpec, model: str | None, message: str
) -> None:
    """These are the named model, or all models that support the rest of the call."""
    assert error_message(table, spec, model).removesuffix(", width x height.") == message


def test_an_unknown_size_in_a_call_that_no_model_serves_lists_all_sizes(table: ModelTable) -> None:
    """The size is reported before other faults of the call."""
    spec = generate(size="8K", options={"seed": 5, "tools": "web_search"})
    assert error_message(table, spec) == "`size` '8K' must be 1K, 1.5K, 2K, 3K, 4K or WIDTHxHEIGHT."


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (generate(prompt=" \n"), "`prompt` is empty"),
        (edit(prompt=""), "It may be empty only with layer_decomposition."),
        (generate(options={"sequential_image_generation_options": 3}), "needs `sequential_image_generation: auto`"),
        (
            generate(options={"stream": True, "callback_url": "https://example.com"}),
            "`stream: true` can't be combined with `callback_url`",
        ),
        (edit(options={"background": "transparent"}), "`background: transparent` needs `output_format: png`"),
        (
            edit(options={"background": "transparent", "output_format": "jpeg"}),
            "`background: transparent` needs `output_format: png`",
        ),
        (edit(options={"layer_decomposition": True, "stream": True}), "can't be combined with `stream: true`"),
        (
            edit(options={"layer_decomposition": True, **AUTO}),
            "can't be combined with `sequential_image_generation: auto`",
        ),
        (edit(options={"layer_decomposition": True, "tools": "web_search"}), "can't be combined with `tools`"),
        (
            edit(options={"layer_decomposition": True, "background": "transparent", "output_format": "png"}),
            "can't be combined with `background`",
        ),
        (
            edit(ONE * 10, options={"sequential_image_generation_options": 6, **AUTO}),
            "more than 15 together: set `sequential_image_generation_options` to 5 or less",
        ),
    ],
)
def test_combinations_that_exclude_each_other(table: ModelTable, spec: ImageSpec, says: str) -> None:
    """These rules hold for all models."""
    assert says in error_message(table, spec)


@pytest.mark.parametrize(
    ("picture", "options", "says"),
    [
        ("R0lGODlhAQABAAAAACw=", {"layer_decomposition": True}, "needs png or jpeg, but `image` number 1 is a gif"),
        (
            "data:image/jpeg;base64,/9j/4AAQSkZJRgABAQAAAQABAAA=",
            {"background": "transparent", "output_format": "png"},
            "needs png, but `image` number 1 is a jpeg",
        ),
    ],
)
def test_some_work_only_with_pictures_of_a_kind(
    table: ModelTable, picture: str, options: dict[str, Any], says: str
) -> None:
    """The kind is recognized by the picture's bytes; links are not downloaded to check it."""
    assert says in error_message(table, edit((picture,), options=options))
    assert choose(table, edit(ONE, options=options)).id == PRO


def test_fifteen_in_and_out_is_allowed(table: ModelTable) -> None:
    """The limit is inclusive."""
    assert choose(table, edit(ONE * 10, options={"sequential_image_generation_options": 5, **AUTO})).id == V5


def test_excluded_models_are_passed_over(table: ModelTable) -> None:
    """Models that the upstream refused for this call are skipped."""
    assert choose(table, edit(), excluding=[(V5, None)]).id == LITE
    assert choose(table, generate(size="2K"), excluding=[(V5, "2K")]).id == LITE
    assert choose(table, generate(size="2K"), excluding=[(V5, "3K")]).id == V5
    with pytest.raises(InvalidArguments, match="no other model"):
        choose(table, generate(options={"seed": 7}), excluding=[(T2I, None)])


def test_models_that_were_refused_lately_come_last(table: ModelTable) -> None:
    """Models with a recent refusal rank below others, but above withdrawn ones."""
    assert choose(table, generate(), avoiding=[(V5, None)]).id == LITE
    assert choose(table, generate(size="4K"), avoiding=[(V5, "4K"), (LITE, None)]).id == V45
    everything = [(model.id, None) for model in table.models]
    assert choose(table, generate(), avoiding=everything).id == V5
    assert choose(table, generate(options={"seed": 7}), avoiding=everything).id == T2I


@pytest.mark.parametrize(
    ("spec", "model", "sent"),
    [
        (generate(options={"seed": -1}), V5, {}),
        (generate(options={"seed": -1}), T2I, {"seed": -1}),
        (generate(options={"guidance_scale": 0}), T2I, {}),
        (generate(options={"output_format": "jpeg"}), V5, {"output_format": "jpeg"}),
        (generate(options={"output_format": "jpeg"}), V4, {}),
        (generate(options={"sequential_image_generation_options": 1}), V5, {}),
        (generate(options={"sequential_image_generation_options": 1, **AUTO}), V5, ...),
        (edit(options={"background": "opaque"}), PRO, {"background": "opaque"}),
        (edit(TWO, options={"background": "opaque"}), PRO, {}),
        (edit(options={"background": "opaque", "layer_decomposition": True}), PRO, {"layer_decomposition": True}),
    ],
)
def test_values_that_ask_for_nothing_are_sent_only_where_they_are_taken(
    table: ModelTable, spec: ImageSpec, model: str, sent: Any
) -> None:
    """Neutral values are left out if the model lacks the parameter or another option excludes it."""
    assert sent_options(table, table.by_id[model], spec) == (spec.options if sent is ... else sent)
