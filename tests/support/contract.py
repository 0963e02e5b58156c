"""The upstream's contract as a JSON schema, written by hand from its documents, to validate requests.

It does not depend on the capability table: fields, types and values are those of the vendor's OpenAPI document of
`POST /seedream/images` and of its newer pages (`WIDTHxHEIGHT`, 5.0 Pro, layers, background).
"""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator

from tests.support.models import LITE, PRO, SEEDEDIT, T2I, V4, V5, V45

SETS = [V5, LITE, V45, V4]


def _only(models: list[str], *fields: str) -> dict[str, Any]:
    """The fields may stand only in a request to one of the models."""
    anyone = {"anyOf": [{"required": [field]} for field in fields]}
    return {"if": anyone, "then": {"properties": {"model": {"enum": models}}}}


IMAGES = {
    "type": "object",
    "required": ["model"],
    "additionalProperties": False,
    "properties": {
        "model": {"enum": [V5, LITE, PRO, V45, V4, T2I, SEEDEDIT]},
        "prompt": {"type": "string", "pattern": r"\S"},
        "image": {"type": "array", "items": {"type": "string", "minLength": 8}, "minItems": 1, "maxItems": 14},
        "size": {"type": "string", "pattern": r"^(1K|1\.5K|2K|3K|4K|adaptive|auto|[1-9]\d*x[1-9]\d*)$"},
        "seed": {"type": "integer", "minimum": -1, "maximum": 2147483647},
        "guidance_scale": {"type": "number", "minimum": 1, "maximum": 10},
        "sequential_image_generation": {"enum": ["auto", "disabled"]},
        "sequential_image_generation_options": {
            "type": "object",
            "required": ["max_images"],
            "additionalProperties": False,
            "properties": {"max_images": {"type": "integer", "minimum": 1, "maximum": 15}},
        },
        "stream": {"type": "boolean"},
        "watermark": {"type": "boolean"},
        "output_format": {"enum": ["jpeg", "png"]},
        "response_format": {"enum": ["url", "b64_json"]},
        "tools": {"type": "array", "minItems": 1, "maxItems": 1, "items": {"const": {"type": "web_search"}}},
        "optimize_prompt_options": {
            "type": "object",
            "required": ["mode"],
            "additionalProperties": False,
            "properties": {"mode": {"enum": ["standard", "fast"]}},
        },
        "background": {"enum": ["transparent", "opaque"]},
        "layer_decomposition": {"type": "boolean"},
        "callback_url": {"type": "string", "pattern": "^https?://"},
        "async": {"const": True},
    },
    "allOf": [
        _only([T2I, SEEDEDIT], "seed", "guidance_scale"),
        _only(SETS, "sequential_image_generation", "sequential_image_generation_options", "stream"),
        _only([V5, LITE, PRO], "output_format"),
        _only([V5, LITE], "tools"),
        _only([V5, LITE, PRO, V45, V4], "optimize_prompt_options"),
        _only([PRO], "background", "layer_decomposition"),
        # who edits, and with how many pictures
        {"if": {"required": ["image"]}, "then": {"properties": {"model": {"not": {"const": T2I}}}}},
        {"if": {"not": {"required": ["image"]}}, "then": {"properties": {"model": {"not": {"const": SEEDEDIT}}}}},
        {"if": {"properties": {"model": {"const": SEEDEDIT}}}, "then": {"properties": {"image": {"maxItems": 1}}}},
        {"if": {"properties": {"model": {"const": PRO}}}, "then": {"properties": {"image": {"maxItems": 10}}}},
        # named sizes that only some have
        {
            "if": {"properties": {"size": {"const": "3K"}}, "required": ["size"]},
            "then": {"properties": {"model": {"enum": [V5, LITE]}}},
        },
        {
            "if": {"properties": {"size": {"const": "4K"}}, "required": ["size"]},
            "then": {"properties": {"model": {"not": {"const": PRO}}}},
        },
        {
            "if": {"properties": {"size": {"enum": ["1.5K", "auto"]}}, "required": ["size"]},
            "then": {"properties": {"model": {"const": PRO}}},
        },
        {
            "if": {"properties": {"size": {"const": "auto"}}, "required": ["size"]},
            "then": {"required": ["layer_decomposition"]},
        },
        # what needs or excludes what
        {"if": {"not": {"required": ["prompt"]}}, "then": {"required": ["layer_decomposition", "image"]}},
        {
            "if": {"required": ["sequential_image_generation_options"]},
            "then": {
                "required": ["sequential_image_generation"],
                "properties": {"sequential_image_generation": {"const": "auto"}},
            },
        },
        {
            "if": {
                "properties": {"optimize_prompt_options": {"const": {"mode": "fast"}}},
                "required": ["optimize_prompt_options"],
            },
            "then": {"properties": {"model": {"enum": [PRO, V4]}}},
        },
        {
            "if": {"properties": {"background": {"const": "transparent"}}, "required": ["background"]},
            "then": {"properties": {"output_format": {"const": "png"}}, "required": ["output_format"]},
        },
        {"if": {"required": ["background"]}, "then": {"properties": {"image": {"maxItems": 1}}, "required": ["image"]}},
        {
            "if": {"properties": {"layer_decomposition": {"const": True}}, "required": ["layer_decomposition"]},
            "then": {
                "required": ["image"],
                "properties": {
                    "image": {"maxItems": 1},
                    "size": {"enum": ["auto", "1K", "1.5K", "2K"]},
                    "background": False,
                    "tools": False,
                    "stream": {"const": False},
                    "sequential_image_generation": {"const": "disabled"},
                },
            },
        },
        # how the answer comes: exactly one way
        {
            "if": {"properties": {"stream": {"const": True}}, "required": ["stream"]},
            "then": {"not": {"anyOf": [{"required": ["async"]}, {"required": ["callback_url"]}]}},
            "else": {"oneOf": [{"required": ["async"]}, {"required": ["callback_url"]}]},
        },
    ],
}

_VALIDATOR = Draft202012Validator(IMAGES)


def faults(body: Any) -> list[str]:
    """How a request of `POST /seedream/images` breaks the contract; empty when it does not."""
    found = [f"{list(error.path)}: {error.message}" for error in _VALIDATOR.iter_errors(body)]
    if isinstance(body, dict) and not found:
        made = body.get("sequential_image_generation_options", {}).get("max_images", 1)
        if "image" in body and len(body["image"]) + made > 15:
            found.append("more than 15 images in and out")
        found += _size_faults(body)
    return found


def _size_faults(body: dict[str, Any]) -> list[str]:
    width, _, height = body.get("size", "").partition("x")
    if not (width.isdigit() and height.isdigit()):
        return []
    sides = sorted((int(width), int(height)))
    areas = {PRO: (921_600, 4_624_220), V4: (921_600, 16_777_216)}
    if body["model"] in (T2I, SEEDEDIT):
        fits = sides[0] >= 512 and sides[1] <= 2048
    else:
        low, high = areas.get(body["model"], (3_686_400, 16_777_216))
        fits = low <= sides[0] * sides[1] <= high
    return [] if fits and sides[1] <= 16 * sides[0] else [f"size {body['size']}"]
