"""Reads JSON with comments and trailing commas: its value, and the position of each member.

Comments and trailing commas are first replaced by the same number of spaces. The result is plain JSON with the same
positions. The standard library's decoder validates it, and finds the end of each value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
# A comment without an end is kept, so that the decoder refuses it. It is matched up to the end of the text.
_COMMENTS = re.compile(rf"{_STRING}|(//[^\r\n]*|/\*.*?\*/)|/\*.*", re.DOTALL)
# A comma without a value before it, as in `{,}`, is not a trailing comma: it is kept, so that the decoder refuses it.
_TRAILING = re.compile(rf"{_STRING}|[\[{{,:][ \t\r\n]*,|(,)(?=[ \t\r\n]*[\]}}])", re.DOTALL)
BLANKS = " \t\r\n"
_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    float: "a number",
    type(None): "null",
}


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


# Numbers are only compared, never written. As floats, they may have thousands of digits, which Python's int refuses.
_DECODER = json.JSONDecoder(parse_int=float, parse_constant=_refuse)


@dataclass(frozen=True)
class Member:
    """The position of a member, from its key's quotation mark to the end of its value. An item of a list has no key."""

    key: str | None
    start: int
    value: int
    end: int


@dataclass(frozen=True)
class Container:
    """The positions of an object's braces or a list's brackets, and its members in order."""

    start: int
    end: int
    members: list[Member]

    def find(self, key: str) -> Member | None:
        """The last member with this name, which is the one that JSON parsers use."""
        return next((member for member in reversed(self.members) if member.key == key), None)


def parsed(text: str, *, comments: bool = True) -> Any:
    """The value of the text; None if it is blank. Numbers are floats.

    Args:
        text: A whole file.
        comments: Whether comments and trailing commas are allowed.

    Raises:
        ValueError: The text is not JSON.
    """
    plain = _plain(without_comments(text)) if comments else text
    if not plain.strip(BLANKS):
        return None
    try:
        return _DECODER.decode(plain)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def value_at(text: str, path: Sequence[str], *, comments: bool = True) -> Any:
    """The value of the member at `path`; None if it does not exist.

    Raises:
        ValueError: The text is not JSON, or a value on the path is not an object.
    """
    value = parsed(text, comments=comments)
    if len(objects(text, path[:-1])) < len(path):
        return None
    for key in path[:-1]:
        value = value[key]
    return value.get(path[-1])


def objects(text: str, path: Sequence[str]) -> list[Container]:
    """The existing objects along the path, beginning with the root; none in a blank text.

    Raises:
        ValueError: The text is not JSON, or a value on the path is not an object.
    """
    value = parsed(text)
    plain = _plain(without_comments(text))
    at = _after_blanks(plain, 0)
    if at == len(plain):
        return []
    _check_kind(value, [], dict)
    containers = [_container(plain, at)]
    for depth, key in enumerate(path, 1):
        member = containers[-1].find(key)
        if member is None:
            break
        value = value[key]
        _check_kind(value, path[:depth], dict)
        containers.append(_container(plain, member.value))
    return containers


def objects_and_list(text: str, path: Sequence[str]) -> list[Container]:
    """The objects along the path, and the list at its end; none if the list does not exist.

    Raises:
        ValueError: As for `objects`, or the value at the end of the path is not a list.
    """
    containers = objects(text, path[:-1])
    member = containers[-1].find(path[-1]) if len(containers) == len(path) else None
    if member is None:
        return []
    _check_kind(value_at(text, path), path, list)
    return [*containers, _container(_plain(without_comments(text)), member.value)]


def without_comments(text: str) -> str:
    """The text with spaces instead of comments; line breaks are kept."""
    return _COMMENTS.sub(lambda match: re.sub(r"[^\r\n]", " ", match[0]) if match[1] else match[0], text)


def _plain(bare: str) -> str:
    """The text with a space instead of each trailing comma."""
    return _TRAILING.sub(lambda match: " " if match[1] else match[0], bare)


def _check_kind(value: Any, path: Sequence[str], kind: type) -> None:
    if isinstance(value, kind):
        return
    where = f"`{'.'.join(path)}`" if path else "it"
    raise ValueError(f"{where} must be {_KINDS[kind]}, not {_KINDS[type(value)]}")


def _container(plain: str, start: int) -> Container:
    members: list[Member] = []
    closed, named = ("}", True) if plain[start] == "{" else ("]", False)
    at = _after_blanks(plain, start + 1)
    while plain[at] != closed:
        if plain[at] == ",":
            at = _after_blanks(plain, at + 1)
        begin, key, value = at, None, at
        if named:
            key, end = _DECODER.raw_decode(plain, at)
            value = _after_blanks(plain, _after_blanks(plain, end) + 1)
        _, end = _DECODER.raw_decode(plain, value)
        members.append(Member(key, begin, value, end))
        at = _after_blanks(plain, end)
    return Container(start, at, members)


def _after_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in BLANKS:
        at += 1
    return at
