"""Conversion of JSON values to the types that arguments have.

Agents often send a value in another form: "5" for 5, JSON in a string, or a single value for a list. Unambiguous
values are converted; other values raise an `InvalidArguments` that names the argument.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from mcp_seedream.core.errors import InvalidArguments

_SHORT = 16 * 1024  # characters of JSON, which may have any structure
_MAX_TOKENS = 8000  # of longer JSON: each can become an object of 100 bytes


def text(name: str, value: Any) -> str:
    """Return a string that can be encoded as UTF-8."""
    if not isinstance(value, str):
        raise InvalidArguments(f"`{name}` must be a string, not {_description(value)}.")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidArguments(f"`{name}` contains a lone surrogate (half a character), which can't be sent.")
    return value


def check_lengths(arguments: Mapping[str, Any], longest: int) -> None:
    """Check the number of characters in every argument except `image`.

    Checks of longer texts would take seconds.
    """
    for name, value in arguments.items():
        if name != "image" and (characters := _characters(value)) > longest:
            raise InvalidArguments(f"`{name}` has {characters:,} characters; it may have at most {longest:,}.")


def _characters(value: Any) -> int:
    """The characters of all strings in a value."""
    if isinstance(value, dict | list):
        return sum(map(_characters, value.values() if isinstance(value, dict) else value))
    return len(value) if isinstance(value, str) else 0


def as_list(value: Any) -> list[Any]:
    """Return a list, a JSON array in a string, or a single value as a list, without null and empty entries."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = from_json(value)
    entries = value if isinstance(value, list) else [value]
    return [entry for entry in entries if entry not in (None, "")]


def joined_sides(value: Any, separator: str) -> Any:
    """Join a width and a height in a list or an object: [1024, 768] → "1024x768"; return other values unchanged."""
    sides = from_json(value) if isinstance(value, str) and value.lstrip().startswith(("[", "{")) else value
    if isinstance(sides, dict) and sides.keys() == {"width", "height"}:
        sides = [sides["width"], sides["height"]]
    if isinstance(sides, list) and [type(side) for side in sides] in ([int, int], [str, str], [float, float]):
        return separator.join(str(side).strip().removesuffix(".0") for side in sides)
    return value


def boolean(name: str, value: Any) -> bool:
    """Return a boolean, or "true" or "false" in a string as one."""
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if not isinstance(value, bool):
        raise InvalidArguments(f"`{name}` must be true or false, not {_description(value)}.")
    return value


def finite_number(name: str, value: Any) -> float:
    """Return a number, or a number in a string, that is neither infinite nor NaN."""
    try:
        result = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        result = math.nan
    if not math.isfinite(result):
        raise InvalidArguments(f"`{name}` must be a number, not {_description(value)}.")
    return result


def url(name: str, value: Any) -> str:
    """Return an http(s) URL with a lower-case scheme."""
    address = text(name, value).strip()
    host = address.split("://", 1)[-1].split("/", 1)[0]
    if not address.lower().startswith(("http://", "https://")) or not host[:1].isalnum() or not _is_printable(address):
        raise InvalidArguments(f"`{name}` must be an http(s) URL.")
    scheme, _, rest = address.partition("://")
    return f"{scheme.lower()}://{rest}"  # the upstream may not accept "HTTPS"


def _is_printable(text: str) -> bool:
    return text.isprintable() and " " not in text


def from_json(text: str) -> Any:
    """Return the value of a JSON text, or the text itself if it is not valid JSON, or too complex."""
    try:
        return text if _is_complex(text) else json.loads(text)
    except (ValueError, RecursionError):
        return text


def _is_complex(text: str) -> bool:
    return len(text) > _SHORT and sum(map(text.count, '[]{}",:')) > _MAX_TOKENS


def _description(value: Any) -> str:
    """Describe a value for an error message: its type, and the value itself if it is short."""
    if value != value:  # noqa: PLR0124  (only NaN is not equal to itself)
        return "NaN"
    if isinstance(value, int) and value.bit_length() > 256:
        return "a number with over 77 digits"  # str() of an int with thousands of digits raises ValueError
    names = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    name = names.get(type(value), "null")
    return f"{name} ({value!r:.40})" if isinstance(value, str | int | float) else name
