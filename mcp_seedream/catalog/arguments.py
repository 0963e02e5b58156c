"""Raw tool arguments → checked call. The first stop of the line: whatever passes here may be sent.

Agents spell values in more ways than a schema says ("5" for 5, a bare string for a list of one, JSON in
a string, null or "" for absent): what can be meant in only one way is taken, everything else is an
error that names the argument. The rules between arguments and models are `selection.choose`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from mcp_seedream.catalog import coercion, dimensions
from mcp_seedream.catalog.picture_kinds import UPSTREAM_KINDS
from mcp_seedream.catalog.references import checked_reference, reference_kind, reference_texts, shortened
from mcp_seedream.catalog.schemas import MAX_TASK_IDS, MAX_WAIT_SECONDS
from mcp_seedream.catalog.selection import ImageSpec
from mcp_seedream.catalog.table import ModelTable, Operation, Parameter, Value, either, number
from mcp_seedream.core.errors import InvalidArguments

Raw = Mapping[str, Any]
CallOrigin = Literal["local", "hosted", "upstream"]
"""Where a call is checked: on the caller's own machine, on somebody else's, or (the sandbox) upstream of both."""


_SHRINKABLE = 4
_ANY_CHOICE = ("", "auto", "default")
"""Values of `model`, `size` and `aspect_ratio` that leave the choice to the server."""
_NO_VALUES = ("", "null", "None", "undefined")
"""Texts that programs write for no value, exactly so; a prompt may be one of them."""
_SAME_WORDS = {"jpg": "jpeg", "base64": "b64_json", "b64": "b64_json", "link": "url"}
"""Other words for values of the table."""
_SAME_SHAPE = 0.03
"""By how much the ratio of a `WIDTHxHEIGHT` may differ from an `aspect_ratio` beside it."""


@dataclass(frozen=True, slots=True)
class ImageCall:
    """A checked call of `generate_image` or `edit_image`; `model` is None where none was named."""

    spec: ImageSpec
    model: str | None
    wait_seconds: float
    save_to: str | None = None


@dataclass(frozen=True, slots=True)
class TaskCall:
    """A checked call of `get_task`: one id or more, none twice; none at all asks for the newest tasks."""

    task_ids: tuple[str, ...]
    wait_seconds: float
    save_to: str | None = None


def image_call(
    table: ModelTable, operation: Operation, raw: Raw, *, wait_seconds: float, origin: CallOrigin = "hosted"
) -> ImageCall:
    """Check the form of every argument of an image tool.

    Args:
        table: The capability table.
        operation: "generate" or "edit".
        raw: The arguments as they came.
        wait_seconds: How long to wait where the call doesn't say.
        origin: Decides whether paths, tasks and `save_to` mean anything.

    Raises:
        InvalidArguments: With the argument, the rule, and what would be right.
    """
    available = table.parameters_for(operation)
    ours = ["prompt", *(["image"] if operation == "edit" else []), "model", "size", *_ours(origin, "aspect_ratio")]
    given = _given(raw)
    for name in table.parameters.keys() - available.keys() & given.keys():
        value = _option(table, name, given[name])
        if value is None or table.is_neutral(operation, name, value):
            del given[name]
    _refuse_unknown(given, [*ours, *available], elsewhere={"image", *table.parameters}, table=table)
    options = {}
    for name in available:
        if (value := _option(table, name, given.get(name))) is not None:
            options[name] = value
    size, ratio = _size_and_ratio(table, given, options)
    spec = ImageSpec(
        operation=operation,
        prompt=prompt if (prompt := coercion.text("prompt", given.get("prompt", ""))).strip() else "",
        images=_images(table, given.get("image"), origin) if operation == "edit" else (),
        size=size,
        options=options,
        aspect_ratio=ratio,
    )
    default = 0 if _called_back(table, options) else wait_seconds
    model = coercion.text("model", given.get("model", "")).strip()
    named = None if model.casefold() in (*_ANY_CHOICE, *table.families) else model
    return ImageCall(spec, named, _wait(given, default), _save_to(given))


def _given(raw: Raw) -> dict[str, Any]:
    """The arguments that say something: clients that must fill in every one send null, or something empty."""
    return {
        name: value
        for name, value in raw.items()
        if value not in (None, [], {}) and (value not in _NO_VALUES or (name == "prompt" and value))
    }


def is_waited_for(table: ModelTable, raw: Raw) -> bool:
    """Whether an image call, however it is spelled, wants its picture to be waited for; what is wrong is told later."""
    given = _given(raw)
    try:
        return _wait(given, 0 if _called_back(table, given) else 1) > 0
    except InvalidArguments:
        return True


def task_call(raw: Raw, *, wait_seconds: float, origin: CallOrigin = "hosted", listing: bool = False) -> TaskCall:
    """Check the arguments of `get_task`; with `listing`, there may be no id.

    Raises:
        InvalidArguments: No id, too many, or something that can't be one.
    """
    given = _given(raw)
    _refuse_unknown(given, ["task_id", "task_ids", *_ours(origin)], elsewhere=())
    listed = coercion.listed(given.get("task_ids", []))
    texts = [coercion.text("task_id", given.get("task_id", "")), *(coercion.text("task_ids", one) for one in listed)]
    ids = tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))
    if not ids and not listing:
        raise InvalidArguments("Give `task_id`, or `task_ids` for several: an id that an image tool returned.")
    if len(ids) > MAX_TASK_IDS:
        raise InvalidArguments(f"`task_ids` takes at most {MAX_TASK_IDS} ids in one call; this one has {len(ids)}.")
    for one in ids:
        _check_id("task_id" if one == texts[0].strip() else "task_ids", one)
    return TaskCall(ids, _wait(given, wait_seconds), _save_to(given))


def _called_back(table: ModelTable, given: Collection[str]) -> bool:
    """A callback is how that caller is told: it need not be kept waiting as well."""
    return any(table.parameters[name].type == "url" for name in given if name in table.parameters)


def _check_id(name: str, text: str) -> None:
    if not 0 < len(text) <= 200 or not text.isprintable():
        raise InvalidArguments(f"`{name}`: {shortened(text)} can't be a task's id.")


def _ours(origin: CallOrigin, *others: str) -> list[str]:
    """The arguments that are not the upstream's: the sandbox takes none of them."""
    if origin == "upstream":
        return ["wait_seconds"]
    return [*others, "wait_seconds", *(["save_to"] if origin == "local" else [])]


def _save_to(given: Raw) -> str | None:
    return coercion.text("save_to", given.get("save_to", "")).strip() or None


def _refuse_unknown(
    given: Raw, known: list[str], elsewhere: Collection[str], *, table: ModelTable | None = None
) -> None:
    """Refuse an argument that this tool does not have."""
    for name in given:
        if name in known:
            continue
        if name in elsewhere:
            raise InvalidArguments(f"`{name}` is for the other image tool, not for this one. Nothing was sent.")
        asked = name[:60].lower()
        foreign = re.sub(r"[\W_]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name[:60])).strip("_").lower()
        others = table.other_arguments if table else ()
        near = get_close_matches(asked, known, n=1) or [one for one in known if len(asked) > 1 and asked in one]
        if instead := next((other.instead for other in others if foreign in other.names), None):
            hint = f"{instead}."
        elif near:
            hint = f"Did you mean `{near[0]}`?"
        else:
            hint = f"This tool takes {', '.join(known)}."
        raise InvalidArguments(f"`{name[:60]}` is not an argument of this tool. {hint} Nothing was sent.")


def _size_and_ratio(table: ModelTable, given: Raw, options: Mapping[str, Value]) -> tuple[str | None, str | None]:
    """`size` as the table spells it or `WIDTHxHEIGHT`, and an aspect ratio, which `size` may hold as well."""
    size = coercion.text("size", coercion.two_sides(given.get("size", ""), "x")).strip()
    ratio = coercion.text("aspect_ratio", coercion.two_sides(given.get("aspect_ratio", ""), ":")).strip()
    any_shape = ratio.casefold() in (*_ANY_CHOICE, table.named_sizes.any_shape)
    shape = None if any_shape else dimensions.aspect_ratio(table, ratio)
    if shape is None and not any_shape:
        names = ", ".join(table.aspect_ratios)
        raise InvalidArguments(f"`aspect_ratio` {shortened(ratio)} must be like 16:9, or one of {names}.")
    named = {name.casefold(): name for name in table.sizes}.get(size.casefold().replace(" ", ""))
    if sides := dimensions.pixels(size):
        return _exact_size(sides, shape)
    if named is None and (shape_of_size := dimensions.aspect_ratio(table, size)):
        if shape and shape != shape_of_size:
            raise InvalidArguments(f"`size` {shortened(size)} and `aspect_ratio` {shape} are two shapes: give one.")
        return None, shape_of_size
    if size.casefold() in _ANY_CHOICE and not _is_size_of_an_option(table, named, options):
        return None, shape
    if shape and named == table.named_sizes.any_shape:
        return None, shape
    return named or size, shape


def _exact_size(sides: tuple[int, int], shape: str | None) -> tuple[str, None]:
    """`WIDTHxHEIGHT`, which an aspect ratio beside it may only repeat."""
    width, height = sides
    if shape and abs(width / height / dimensions.quotient(shape) - 1) > _SAME_SHAPE:
        raise InvalidArguments(f"`size` {width}x{height} has another shape than `aspect_ratio` {shape}: give one.")
    return f"{width}x{height}", None


def _is_size_of_an_option(table: ModelTable, size: str | None, options: Mapping[str, Value]) -> bool:
    """Whether a named size belongs to an option that is used, such as `auto` to layers."""
    rules = [table.rule(model, name) for model in table.models for name, value in options.items() if value]
    return size is not None and any(rule and size in (rule.sizes or ()) for rule in rules)


def _wait(given: Raw, default: float) -> float:
    if "wait_seconds" not in given:
        return default
    value = coercion.finite_number("wait_seconds", given["wait_seconds"])
    if not 0 <= value <= MAX_WAIT_SECONDS:
        raise InvalidArguments(f"`wait_seconds` must be from 0 to {MAX_WAIT_SECONDS}, not {number(value)}.")
    return value


def _images(table: ModelTable, value: Any, origin: CallOrigin) -> tuple[str, ...]:
    entries = coercion.listed(value) if origin == "upstream" else reference_texts(value)
    if not entries:
        raise InvalidArguments("`image` is missing: give the picture to edit, or use generate_image.")
    most = table.upstream_limits.images_in_and_out
    if len(entries) > most:
        raise InvalidArguments(f"`image` has {len(entries)} entries; the upstream takes at most {most}.")
    return tuple(_image(table, coercion.text("image", entry).strip(), n, origin) for n, entry in enumerate(entries, 1))


def _image(table: ModelTable, text: str, position: int, origin: CallOrigin) -> str:
    kind = reference_kind(text)
    if origin == "upstream" or kind in ("url", "data"):
        # A larger picture than the upstream takes can still be made smaller, up to a limit of our own.
        if origin == "upstream":
            most = table.upstream_limits.image_bytes
            return checked_reference(text, position=position, max_bytes=most, kinds=UPSTREAM_KINDS)
        return checked_reference(text, position=position, max_bytes=table.upstream_limits.image_bytes * _SHRINKABLE)
    if kind == "path" and origin == "hosted":
        raise InvalidArguments(
            f"`image` number {position}, {text[:60]!r}, is neither a link nor a picture as data. A hosted server reads "
            "no files: give an http(s) URL, a data URI, base64, or task:ID for a picture made here."
        )
    if kind == "task":
        _check_id("image", text.removeprefix("task:").partition("/")[0])
    return text


def _option(table: ModelTable, name: str, value: Any) -> Value | None:
    """The bare value of one of the upstream's optional parameters, or None where nothing was given."""
    parameter = table.parameters[name]
    rules = [rule for model in table.models if (rule := table.rule(model, name))]
    words = {word.casefold(): word for rule in rules for word in rule.values or ()}
    if value is False and parameter.type != "boolean":
        return None
    if value is True and parameter.listed and len(words) == 1:
        value = [*words.values()]
    if isinstance(value, str) and (plain := value.strip().casefold()) in _ANY_CHOICE and plain not in words:
        return None
    entries = [_bare(name, parameter, entry) for entry in (coercion.listed(value) if parameter.listed else [value])]
    found = {_typed(name, parameter, entry) for entry in entries if entry is not None}
    if len(found) > 1:
        raise InvalidArguments(f"`{name}` takes one kind of entry, not {len(found)}.")
    if not found:
        return None
    one = found.pop()
    return _as_spelled(one, words) if isinstance(one, str) else one


def _as_spelled(text: str, words: Mapping[str, str]) -> str | None:
    """A word as the table spells it ("PNG" → png, "jpg" → jpeg); None for an empty one."""
    plain = text.casefold().removeprefix("image/").lstrip(".")
    return words.get(_SAME_WORDS.get(plain, plain), text) or None


def _bare(name: str, parameter: Parameter, value: Any) -> Any:
    """What stands inside the upstream's wrapping object, or the value itself where it came bare."""
    if parameter.inside is None:
        return None if value == "" else value
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = coercion.from_json(value)
    if not isinstance(value, dict):
        return None if value == "" else value
    if unknown := set(value) - {parameter.inside}:
        some = sorted(map(shortened, unknown))[:3]
        raise InvalidArguments(f"`{name}` takes only `{parameter.inside}`, not {either(some)}.")
    return value.get(parameter.inside)


def _typed(name: str, parameter: Parameter, value: Any) -> Value:
    spelled = f"{name}.{parameter.inside}" if parameter.inside else name
    match parameter.type:
        case "boolean":
            return coercion.boolean(spelled, value)
        case "integer" | "number":
            found = coercion.finite_number(spelled, value)
            if parameter.type == "integer" and found != int(found):
                raise InvalidArguments(f"`{spelled}` must be a whole number, not {number(found)}.")
            return int(found) if found == int(found) else found
        case "string":
            return coercion.text(spelled, value).strip()
        case "url":
            return coercion.url(spelled, value)
