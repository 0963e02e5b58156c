"""Validation of raw tool arguments: `image_call` and `task_call` turn them into checked calls.

Agents often send a value in another form than the schema's: "5" for 5, one string for a list, JSON in a string, null
or "" for an absent value. Unambiguous values are converted; all others raise an error that names the argument.
`selection.choose` checks the rules between arguments and models.
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
from mcp_seedream.catalog.table import ModelTable, Operation, Parameter, Value, number, or_list
from mcp_seedream.core.errors import InvalidArguments

Raw = Mapping[str, Any]
CallOrigin = Literal["local", "hosted", "upstream"]
"""Where a call is validated: on the caller's machine, on a hosted server, or in the sandbox (as the upstream)."""

_MAX_SHRINK = 4
"""Input pictures may be this many times larger than the upstream's limit, since they are scaled down."""
_ANY_CHOICE = ("", "auto", "default")
"""Values of `model`, `size` and `aspect_ratio` that leave the choice to the server."""
_NO_VALUES = ("", "null", "None", "undefined")
"""Texts that stand for a missing value, except in `prompt`. They are case-sensitive."""
_SYNONYMS = {"jpg": "jpeg", "base64": "b64_json", "b64": "b64_json", "link": "url"}
"""Other names for values in the table."""
_RATIO_TOLERANCE = 0.03
"""Largest relative difference between the ratio of a `WIDTHxHEIGHT` and an `aspect_ratio` given with it."""


@dataclass(frozen=True, slots=True)
class ImageCall:
    """A checked call of `generate_image` or `edit_image`; `model` is None if the caller named no model."""

    spec: ImageSpec
    model: str | None
    wait_seconds: float
    save_to: str | None = None


@dataclass(frozen=True, slots=True)
class TaskCall:
    """A checked call of `get_task` with unique ids; without ids, it lists the newest tasks."""

    task_ids: tuple[str, ...]
    wait_seconds: float
    save_to: str | None = None


def image_call(
    table: ModelTable, operation: Operation, raw: Raw, *, wait_seconds: float, origin: CallOrigin = "hosted"
) -> ImageCall:
    """Validate the arguments of an image tool.

    Args:
        table: The capability table.
        operation: "generate" or "edit".
        raw: The raw arguments.
        wait_seconds: The default of `wait_seconds`.
        origin: Decides which arguments the tool has, and whether `image` may be a path or a task.

    Raises:
        InvalidArguments: An argument is unknown or invalid; names the rule and a valid value.
    """
    available = table.parameters_for(operation)
    known = ["prompt", *(["image"] if operation == "edit" else []), "model", "size"]
    known += [*([] if origin == "upstream" else ["aspect_ratio"]), *_server_arguments(origin)]
    args = _without_empty(raw)
    coercion.check_lengths(args, table.upstream_limits.prompt_characters)
    # Ignore neutral values of parameters that only the other operation has.
    for name in table.parameters.keys() - available.keys() & args.keys():
        value = _option(table, name, args[name])
        if value is None or table.is_neutral(operation, name, value):
            del args[name]
    _reject_unknown(args, [*known, *available], other_tool={"image", *table.parameters}, table=table)
    values = {name: _option(table, name, args.get(name)) for name in available}
    options = {name: value for name, value in values.items() if value is not None}
    size, ratio = _size_and_ratio(table, args, options)
    prompt = coercion.text("prompt", args.get("prompt", ""))
    spec = ImageSpec(
        operation=operation,
        prompt=prompt if prompt.strip() else "",
        images=_images(table, args.get("image"), origin) if operation == "edit" else (),
        size=size,
        options=options,
        aspect_ratio=ratio,
    )
    default = 0 if _has_callback(table, options) else wait_seconds
    model = coercion.text("model", args.get("model", "")).strip()
    any_model = model.casefold() in (*_ANY_CHOICE, *table.families)
    return ImageCall(spec, None if any_model else model, _wait_seconds(args, default), _save_to(args))


def _without_empty(raw: Raw) -> dict[str, Any]:
    """Return the arguments without null and empty values: some clients send all arguments."""
    return {
        name: value
        for name, value in raw.items()
        if value not in (None, [], {}) and (value not in _NO_VALUES or (name == "prompt" and value))
    }


def is_waited_for(table: ModelTable, raw: Raw) -> bool:
    """Whether an image call waits for its result; True if `wait_seconds` is invalid, which `image_call` reports."""
    args = _without_empty(raw)
    try:
        return _wait_seconds(args, 0 if _has_callback(table, args) else 1) > 0
    except InvalidArguments:
        return True


def task_call(raw: Raw, *, wait_seconds: float, origin: CallOrigin = "hosted", listing: bool = False) -> TaskCall:
    """Validate the arguments of `get_task`.

    Args:
        raw: The raw arguments.
        wait_seconds: The default of `wait_seconds`.
        origin: Decides which arguments the tool has.
        listing: Accept a call without an id, which lists the newest tasks.

    Raises:
        InvalidArguments: An argument is unknown or invalid, or there are no ids or too many.
    """
    args = _without_empty(raw)
    _reject_unknown(args, ["task_id", "task_ids", *_server_arguments(origin)], other_tool=())
    single = coercion.text("task_id", args.get("task_id", "")).strip()
    several = [coercion.text("task_ids", entry).strip() for entry in coercion.as_list(args.get("task_ids", []))]
    ids = tuple(dict.fromkeys(id_ for id_ in (single, *several) if id_))
    if not ids and not listing:
        raise InvalidArguments("Give `task_id`, or `task_ids` for several: ids that an image tool returned.")
    if len(ids) > MAX_TASK_IDS:
        raise InvalidArguments(f"`task_ids` accepts at most {MAX_TASK_IDS} ids, not {len(ids)}.")
    for id_ in ids:
        _check_id("task_id" if id_ == single else "task_ids", id_)
    return TaskCall(ids, _wait_seconds(args, wait_seconds), _save_to(args))


def _has_callback(table: ModelTable, names: Collection[str]) -> bool:
    """Whether the result is sent to a callback URL, so that by default the call does not wait for it."""
    return any(table.parameters[name].type == "url" for name in names if name in table.parameters)


def _check_id(name: str, text: str) -> None:
    if not 0 < len(text) <= 200 or not text.isprintable():
        raise InvalidArguments(f"`{name}`: {shortened(text)} can't be a task's id.")


def _server_arguments(origin: CallOrigin) -> list[str]:
    """Return the arguments, common to all tools, that this server adds to the upstream's."""
    return ["wait_seconds", *(["save_to"] if origin == "local" else [])]


def _save_to(args: Raw) -> str | None:
    return coercion.text("save_to", args.get("save_to", "")).strip() or None


def _reject_unknown(
    args: Raw, known: list[str], other_tool: Collection[str], *, table: ModelTable | None = None
) -> None:
    """Reject arguments that the tool does not have, with a hint: advice from the table, or a similar name."""
    for name in args:
        if name in known:
            continue
        if name in other_tool:
            raise InvalidArguments(f"`{name}` is for the other image tool, not for this one. Nothing was sent.")
        lower = name[:60].lower()
        snake_case = re.sub(r"[\W_]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name[:60])).strip("_").lower()
        others = table.other_arguments if table else ()
        similar = get_close_matches(lower, known, n=1) or [each for each in known if len(lower) > 1 and lower in each]
        if instead := next((other.instead for other in others if snake_case in other.names), None):
            hint = f"{instead}."
        elif similar:
            hint = f"Did you mean `{similar[0]}`?"
        else:
            hint = f"The arguments are {', '.join(known)}."
        raise InvalidArguments(f"`{name[:60]}` is not an argument of this tool. {hint} Nothing was sent.")


def _size_and_ratio(table: ModelTable, args: Raw, options: Mapping[str, Value]) -> tuple[str | None, str | None]:
    """Return the size (a name from the table or `WIDTHxHEIGHT`) and the aspect ratio; `size` may hold either."""
    size = coercion.text("size", coercion.joined_sides(args.get("size", ""), "x")).strip()
    ratio_text = coercion.text("aspect_ratio", coercion.joined_sides(args.get("aspect_ratio", ""), ":")).strip()
    any_shape = ratio_text.casefold() in (*_ANY_CHOICE, table.named_sizes.any_shape)
    ratio = None if any_shape else dimensions.aspect_ratio(table, ratio_text)
    if ratio is None and not any_shape:
        names = ", ".join(table.aspect_ratios)
        raise InvalidArguments(f"`aspect_ratio` {shortened(ratio_text)} must be like 16:9, or one of {names}.")
    if sides := dimensions.pixels(size):
        return _exact_size(sides, ratio), None
    named_size = {name.casefold(): name for name in table.sizes}.get(size.casefold().replace(" ", ""))
    if named_size is None and (ratio_in_size := dimensions.aspect_ratio(table, size)):
        if ratio and ratio != ratio_in_size:
            raise InvalidArguments(f"`size` {shortened(size)} and `aspect_ratio` {ratio} differ: give only one.")
        return None, ratio_in_size
    if size.casefold() in _ANY_CHOICE and not _is_size_of_an_option(table, named_size, options):
        return None, ratio
    if ratio and named_size == table.named_sizes.any_shape:
        return None, ratio
    return named_size or size, ratio


def _exact_size(sides: tuple[int, int], ratio: str | None) -> str:
    """Return `WIDTHxHEIGHT`; an aspect ratio given with it must agree."""
    width, height = sides
    if ratio and abs(width / height / dimensions.quotient(ratio) - 1) > _RATIO_TOLERANCE:
        raise InvalidArguments(f"`size` {width}x{height} and `aspect_ratio` {ratio} differ: give only one.")
    return f"{width}x{height}"


def _is_size_of_an_option(table: ModelTable, size: str | None, options: Mapping[str, Value]) -> bool:
    """Whether one of the given options makes this named size valid."""
    rules = [table.rule(model, name) for model in table.models for name, value in options.items() if value]
    return size is not None and any(rule and size in (rule.sizes or ()) for rule in rules)


def _wait_seconds(args: Raw, default: float) -> float:
    if "wait_seconds" not in args:
        return default
    value = coercion.finite_number("wait_seconds", args["wait_seconds"])
    if not 0 <= value <= MAX_WAIT_SECONDS:
        raise InvalidArguments(f"`wait_seconds` must be from 0 to {MAX_WAIT_SECONDS}, not {number(value)}.")
    return value


def _images(table: ModelTable, value: Any, origin: CallOrigin) -> tuple[str, ...]:
    entries = coercion.as_list(value) if origin == "upstream" else reference_texts(value)
    if not entries:
        raise InvalidArguments("`image` is missing: give the picture to edit, or use generate_image.")
    limit = table.upstream_limits.images_in_and_out
    if len(entries) > limit:
        raise InvalidArguments(f"`image` has {len(entries)} entries; the limit is {limit}.")
    return tuple(_image(table, coercion.text("image", entry).strip(), n, origin) for n, entry in enumerate(entries, 1))


def _image(table: ModelTable, text: str, position: int, origin: CallOrigin) -> str:
    kind = reference_kind(text)
    if origin == "upstream" or kind in ("url", "data"):
        limit = table.upstream_limits.image_bytes
        if origin == "upstream":
            return checked_reference(text, position=position, max_bytes=limit, kinds=UPSTREAM_KINDS)
        return checked_reference(text, position=position, max_bytes=limit * _MAX_SHRINK)
    if kind == "path" and origin == "hosted":
        raise InvalidArguments(
            f"`image` number {position}, {text[:60]!r}, is not a link, a data URI or base64. A hosted server reads no "
            "files: give an http(s) URL, a data URI, base64, or task:ID for an earlier result."
        )
    if kind == "task":
        _check_id("image", text.removeprefix("task:").partition("/")[0])
    return text


def _option(table: ModelTable, name: str, value: Any) -> Value | None:
    """Return the plain value of one of the upstream's optional parameters; None if no value was given."""
    if value is None:
        return None
    parameter = table.parameters[name]
    rules = [rule for model in table.models if (rule := table.rule(model, name))]
    allowed = {word.casefold(): word for rule in rules for word in rule.values or ()}
    if value is False and parameter.type != "boolean":
        return None
    if value is True and parameter.in_list and len(allowed) == 1:
        value = [*allowed.values()]
    if isinstance(value, str) and (word := value.strip().casefold()) in _ANY_CHOICE and word not in allowed:
        return None
    entries = coercion.as_list(value) if parameter.in_list else [value]
    plain = [_unwrapped(name, parameter, entry) for entry in entries]
    values = {_typed(name, parameter, entry) for entry in plain if entry is not None}
    if len(values) > 1:
        raise InvalidArguments(f"`{name}` accepts one kind of entry, not {len(values)}.")
    if not values:
        return None
    result = values.pop()
    return _canonical(result, allowed) if isinstance(result, str) else result


def _canonical(text: str, allowed: Mapping[str, str]) -> str | None:
    """Return a value as the table spells it ("PNG" → png, "jpg" → jpeg); None if it is empty."""
    word = text.casefold().removeprefix("image/").lstrip(".")
    return allowed.get(_SYNONYMS.get(word, word), text) or None


def _unwrapped(name: str, parameter: Parameter, value: Any) -> Any:
    """Return the value inside the upstream's wrapper object, or the value itself if it is not wrapped."""
    if parameter.object_key is None:
        return None if value == "" else value
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = coercion.from_json(value)
    if not isinstance(value, dict):
        return None if value == "" else value
    if unknown := set(value) - {parameter.object_key}:
        examples = sorted(map(shortened, unknown))[:3]
        raise InvalidArguments(f"`{name}` has only the key `{parameter.object_key}`, not {or_list(examples)}.")
    return value.get(parameter.object_key)


def _typed(name: str, parameter: Parameter, value: Any) -> Value:
    """Convert a plain value to its parameter's type."""
    path = f"{name}.{parameter.object_key}" if parameter.object_key else name
    match parameter.type:
        case "boolean":
            return coercion.boolean(path, value)
        case "integer" | "number":
            result = coercion.finite_number(path, value)
            if parameter.type == "integer" and result != int(result):
                raise InvalidArguments(f"`{path}` must be a whole number, not {number(result)}.")
            return int(result) if result == int(result) else result
        case "string":
            return coercion.text(path, value).strip()
        case "url":
            return coercion.url(path, value)
