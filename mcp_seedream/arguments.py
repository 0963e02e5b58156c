"""Raw tool arguments → checked call. The first stop of the line: whatever passes here may be sent.

Agents spell values in more ways than a schema says ("5" for 5, a bare string for a list of one, JSON in
a string, null or "" for absent): what can be meant in only one way is taken, everything else is an
error that names the argument. The rules between arguments and models are `choosing.choose`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from mcp_seedream.capabilities import ModelTable, Operation, Parameter, Value, either, number
from mcp_seedream.choosing import Wish
from mcp_seedream.errors import InvalidArguments
from mcp_seedream.files import checked_reference, reference_kind, shortened
from mcp_seedream.schemas import MAX_TASK_IDS, MAX_WAIT_SECONDS

Raw = Mapping[str, Any]
Place = Literal["local", "hosted", "upstream"]
"""Where a call is checked: on the caller's own machine, on somebody else's, or (the sandbox) upstream of both."""


_SHRINKABLE = 4


@dataclass(frozen=True, slots=True)
class ImageCall:
    """A checked call of `generate_image` or `edit_image`; `model` is None where none was named."""

    wish: Wish
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
    table: ModelTable, operation: Operation, raw: Raw, *, wait_seconds: float, place: Place = "hosted"
) -> ImageCall:
    """Check the form of every argument of an image tool.

    Args:
        table: The capability table.
        operation: "generate" or "edit".
        raw: The arguments as they came.
        wait_seconds: How long to wait where the call doesn't say.
        place: Decides whether paths, tasks and `save_to` mean anything.

    Raises:
        InvalidArguments: With the argument, the rule, and what would be right.
    """
    available = table.parameters_for(operation)
    ours = ["prompt", *(["image"] if operation == "edit" else []), "model", "size", *_ours(place)]
    _refuse_unknown(raw, [*ours, *available], elsewhere={"image", *table.parameters})
    given = {name: value for name, value in raw.items() if value is not None}
    options = {}
    for name in available:
        if (value := _option(name, table.parameters[name], given.get(name))) is not None:
            options[name] = value
    wish = Wish(
        operation=operation,
        prompt=prompt if (prompt := _text("prompt", given.get("prompt", ""))).strip() else "",
        images=_images(table, given.get("image"), place) if operation == "edit" else (),
        size=_size(table, given.get("size")),
        options=options,
    )
    default = 0 if _called_back(table, options) else wait_seconds
    model = _text("model", given.get("model", "")).strip() or None
    return ImageCall(wish, model, _wait(given, default), _save_to(given))


def is_waited_for(table: ModelTable, raw: Raw) -> bool:
    """Whether an image call, however it is spelled, wants its picture to be waited for; what is wrong is told later."""
    given = {name: value for name, value in raw.items() if value not in (None, "")}
    try:
        return _wait(given, 0 if _called_back(table, given) else 1) > 0
    except InvalidArguments:
        return True


def task_call(raw: Raw, *, wait_seconds: float, place: Place = "hosted", listing: bool = False) -> TaskCall:
    """Check the arguments of `get_task`; with `listing`, there may be no id.

    Raises:
        InvalidArguments: No id, too many, or something that can't be one.
    """
    _refuse_unknown(raw, ["task_id", "task_ids", *_ours(place)], elsewhere=())
    given = {name: value for name, value in raw.items() if value is not None}
    listed = _listed(given.get("task_ids", []))
    texts = [_text("task_id", given.get("task_id", "")), *(_text("task_ids", one) for one in listed)]
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


def _ours(place: Place) -> list[str]:
    return ["wait_seconds", "save_to"] if place == "local" else ["wait_seconds"]


def _save_to(given: Raw) -> str | None:
    return _text("save_to", given.get("save_to", "")).strip() or None


def _refuse_unknown(raw: Raw, known: list[str], elsewhere: Collection[str]) -> None:
    for name in raw:
        if name in known:
            continue
        if name in elsewhere:
            raise InvalidArguments(f"`{name}` is for the other image tool, not for this one. Nothing was sent.")
        asked = name[:60].lower()
        near = get_close_matches(asked, known, n=1) or [one for one in known if len(asked) > 1 and asked in one]
        hint = f"Did you mean `{near[0]}`?" if near else f"This tool takes {', '.join(known)}."
        raise InvalidArguments(f"`{name[:60]}` is not an argument of this tool. {hint} Nothing was sent.")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidArguments(f"`{name}` must be a string, not {_kind(value)}.")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidArguments(f"`{name}` has half a character in it (a lone surrogate), which can't be sent.")
    return value


def _size(table: ModelTable, value: Any) -> str | None:
    """A size as the table spells it (`2K`, `adaptive`), or `WIDTHxHEIGHT`; letter case is not held against it."""
    text = "" if value is None else _text("size", value).strip()
    named = {size.casefold(): size for size in table.sizes}
    sides = re.fullmatch(r"(\d+) *[xX*\N{MULTIPLICATION SIGN}] *(\d+)", text)
    return f"{sides[1]}x{sides[2]}" if sides else named.get(text.casefold(), text) or None


def _wait(given: Raw, default: float) -> float:
    if "wait_seconds" not in given:
        return default
    value = _number("wait_seconds", given["wait_seconds"])
    if not 0 <= value <= MAX_WAIT_SECONDS:
        raise InvalidArguments(f"`wait_seconds` must be from 0 to {MAX_WAIT_SECONDS}, not {number(value)}.")
    return value


def _images(table: ModelTable, value: Any, place: Place) -> tuple[str, ...]:
    entries = _listed(value)
    if not entries:
        raise InvalidArguments("`image` is missing: give the picture to edit, or use generate_image.")
    most = table.limits.images_in_and_out
    if len(entries) > most:
        raise InvalidArguments(f"`image` has {len(entries)} entries; the upstream takes at most {most}.")
    return tuple(_image(table, _text("image", entry).strip(), n, place) for n, entry in enumerate(entries, 1))


def _image(table: ModelTable, text: str, position: int, place: Place) -> str:
    kind = reference_kind(text)
    if place == "upstream" or kind in ("url", "data"):
        # A larger picture than the upstream takes can still be made smaller, up to a limit of our own.
        most = table.limits.image_bytes * (1 if place == "upstream" else _SHRINKABLE)
        return checked_reference(text, position=position, max_bytes=most)
    if kind == "path" and place == "hosted":
        raise InvalidArguments(
            f"`image` number {position}, {text[:60]!r}, is neither a link nor a picture as data. A hosted server reads "
            "no files: give an http(s) URL, a data URI, base64, or task:ID for a picture made here."
        )
    if kind == "task":
        _check_id("image", text.removeprefix("task:").partition("/")[0])
    return text


def _listed(value: Any) -> list[Any]:
    """A list, JSON of one, or a bare value as a list of one; empty entries are left out."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _from_json(value)
    entries = value if isinstance(value, list) else [value]
    return [entry for entry in entries if entry not in (None, "")]


def _option(name: str, parameter: Parameter, value: Any) -> Value | None:
    """The bare value of one of the upstream's optional parameters, or None where nothing was given."""
    if not parameter.listed:
        bare = _bare(name, parameter, value)
        return None if bare is None else _typed(name, parameter, bare)
    entries = [_bare(name, parameter, entry) for entry in _listed(value)]
    kinds = {_typed(name, parameter, entry) for entry in entries if entry is not None}
    if len(kinds) > 1:
        raise InvalidArguments(f"`{name}` takes one kind of entry, not {len(kinds)}.")
    return kinds.pop() if kinds else None


def _bare(name: str, parameter: Parameter, value: Any) -> Any:
    """What stands inside the upstream's wrapping object, or the value itself where it came bare."""
    if parameter.inside is None:
        return None if value == "" else value
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = _from_json(value)
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
            return _boolean(spelled, value)
        case "integer" | "number":
            found = _number(spelled, value)
            if parameter.type == "integer" and found != int(found):
                raise InvalidArguments(f"`{spelled}` must be a whole number, not {number(found)}.")
            return int(found) if found == int(found) else found
        case "string":
            return _text(spelled, value).strip()
        case "url":
            return _url(spelled, value)


def _boolean(name: str, value: Any) -> bool:
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if not isinstance(value, bool):
        raise InvalidArguments(f"`{name}` must be true or false, not {_kind(value)}.")
    return value


def _number(name: str, value: Any) -> float:
    try:
        found = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise InvalidArguments(f"`{name}` must be a number, not {_kind(value)}.")
    return found


def _url(name: str, value: Any) -> str:
    text = _text(name, value).strip()
    host = text.split("://", 1)[-1].split("/", 1)[0]
    if not text.lower().startswith(("http://", "https://")) or not host[:1].isalnum() or not _visible(text):
        raise InvalidArguments(f"`{name}` must be an http(s) URL.")
    scheme, _, rest = text.partition("://")
    return f"{scheme.lower()}://{rest}"  # the upstream may know the scheme in small letters only


def _visible(text: str) -> bool:
    return text.isprintable() and " " not in text


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _kind(value: Any) -> str:
    """A value as an error shows it: what it is, and itself where it is short."""
    if value != value:  # noqa: PLR0124  (NaN is the value that is not itself)
        return "NaN"
    if isinstance(value, int) and value.bit_length() > 256:
        return "a number of so many digits"  # Python itself refuses to write out thousands of them
    names = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    name = names.get(type(value), "null")
    return f"{name} ({value!r:.40})" if isinstance(value, str | int | float) else name
