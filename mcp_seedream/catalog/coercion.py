"""JSON values as agents write them → typed values: "5" for 5, JSON in a string, a bare value for a list of one.

A value that can be meant in only one way is taken; any other is an `InvalidArguments` that names the argument.
"""

from __future__ import annotations

import json
import math
from typing import Any

from mcp_seedream.core.errors import InvalidArguments


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidArguments(f"`{name}` must be a string, not {_kind(value)}.")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidArguments(f"`{name}` has half a character in it (a lone surrogate), which can't be sent.")
    return value


def listed(value: Any) -> list[Any]:
    """A list, JSON of one, or a bare value as a list of one; empty entries are left out."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = from_json(value)
    entries = value if isinstance(value, list) else [value]
    return [entry for entry in entries if entry not in (None, "")]


def two_sides(value: Any, between: str) -> Any:
    """A width and a height, as a list or an object, in one text: [1024, 768] → "1024x768"; anything else as it is."""
    found = from_json(value) if isinstance(value, str) and value.lstrip().startswith(("[", "{")) else value
    if isinstance(found, dict) and found.keys() == {"width", "height"}:
        found = [found["width"], found["height"]]
    if isinstance(found, list) and [type(side) for side in found] in ([int, int], [str, str], [float, float]):
        return between.join(str(side).strip().removesuffix(".0") for side in found)
    return value


def boolean(name: str, value: Any) -> bool:
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if not isinstance(value, bool):
        raise InvalidArguments(f"`{name}` must be true or false, not {_kind(value)}.")
    return value


def finite_number(name: str, value: Any) -> float:
    try:
        found = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise InvalidArguments(f"`{name}` must be a number, not {_kind(value)}.")
    return found


def url(name: str, value: Any) -> str:
    address = text(name, value).strip()
    host = address.split("://", 1)[-1].split("/", 1)[0]
    if not address.lower().startswith(("http://", "https://")) or not host[:1].isalnum() or not _visible(address):
        raise InvalidArguments(f"`{name}` must be an http(s) URL.")
    scheme, _, rest = address.partition("://")
    return f"{scheme.lower()}://{rest}"  # the upstream may know the scheme in small letters only


def _visible(text: str) -> bool:
    return text.isprintable() and " " not in text


def from_json(text: str) -> Any:
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
