"""JSON with comments and trailing commas, changed in place: one member is set or taken out, and all other text stays.

Parsing and writing anew would lose what people put into their settings: comments, order, indentation. So text is
edited where a member stands. Comments and trailing commas are first blanked out with as many spaces, which leaves plain
JSON with the same positions: the standard library's decoder checks it and tells where each value ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
# A comment without an end is none, and stays; it is taken in one piece, since what is in it may look like more of them.
_COMMENTS = re.compile(rf"{_STRING}|(//[^\r\n]*|/\*.*?\*/)|/\*.*", re.DOTALL)
# A comma that nothing stands before, as in `{,}`, is no trailing one: it is left there, and refused.
_TRAILING = re.compile(rf"{_STRING}|[\[{{,:][ \t\r\n]*,|(,)(?=[ \t\r\n]*[\]}}])", re.DOTALL)
_BLANKS = " \t\r\n"
_REST_OF_LINE = re.compile(r"(?:[ \t]*(?://[^\r\n]*|/\*.*?\*/))*", re.DOTALL)
_FIRST_MEMBER = re.compile(r'\{[ \t\r\n]*\n([ \t]+)"')


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


# Numbers are only compared, never written back; Python refuses to make integers of thousands of digits.
_DECODER = json.JSONDecoder(parse_int=float, parse_constant=_refuse)


@dataclass(frozen=True)
class _Member:
    """Where a member stands: from its key's quotation mark to behind its value."""

    key: str
    start: int
    value: int
    end: int


@dataclass(frozen=True)
class _Object:
    """Where an object stands: its braces, and its members in order."""

    start: int
    end: int
    members: list[_Member]

    def find(self, key: str) -> _Member | None:
        """The last one of that name: it is the one that programs see."""
        return next((member for member in reversed(self.members) if member.key == key), None)


def parsed(text: str, *, comments: bool = True) -> Any:
    """The value that the text stands for; None if there is nothing but blanks. Numbers are floats.

    Args:
        text: A whole file.
        comments: Whether comments and trailing commas are allowed.

    Raises:
        ValueError: It is not JSON; says where.
    """
    plain = _plain(_bare(text)) if comments else text
    if not plain.strip(_BLANKS):
        return None
    try:
        return _DECODER.decode(plain)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def value_at(text: str, path: Sequence[str], *, comments: bool = True) -> Any:
    """The value of the member at `path`; None where there is none.

    Raises:
        ValueError: The text is not JSON, or something on the way is not an object; says what.
    """
    value = parsed(text, comments=comments)
    if len(_objects(text, path[:-1])) < len(path):
        return None
    for key in path[:-1]:
        value = value[key]
    return value.get(path[-1])


def with_member(text: str, path: Sequence[str], value: Any) -> str:
    """The text with the member at `path` set to `value`; objects on the way to it are made where there are none.

    A new member comes last, in the manner of those before it: on a line of its own, indented as they are, or beside
    them. A text without any value becomes an object.

    Raises:
        ValueError: The text is not JSON, or something on the way is not an object; says what.
    """
    found = _objects(text, path[:-1])
    bare = _bare(text)
    if not found:
        manner = _Manner("", _newline(text), "  ")
        start = text if not text or text.endswith("\n") else text + manner.line
        return start + manner.written(_nested(path, value)) + manner.line
    missing = path[len(found) - 1 :]
    member = found[-1].find(missing[0])
    if member:
        return text[: member.value] + _manner(text, bare, member.start).written(value) + text[member.end :]
    return _added(text, bare, found, missing[0], _nested(missing[1:], value))


def without_member(text: str, path: Sequence[str]) -> str:
    """The text without the member at `path`, or as it is if there is none. An object left empty becomes `{}`.

    Raises:
        ValueError: As for `with_member`.
    """
    found = _objects(text, path[:-1])
    if len(found) < len(path):
        return text
    holder = found[-1]
    member = holder.find(path[-1])
    return _removed(text, _bare(text), holder, member) if member else text


def changed(text: str, path: Sequence[str], old: Any, new: Any) -> str:
    """The text with `new` at `path`, where `old` stands: in it, only the members that differ are touched."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return text if old == new else with_member(text, path, new)
    for key, value in new.items():
        inner = [*path, key]
        text = changed(text, inner, old[key], value) if key in old else with_member(text, inner, value)
    for key in old:
        if key not in new:
            text = without_member(text, [*path, key])
    return text


def _bare(text: str) -> str:
    """With spaces for comments; lines stay."""
    return _COMMENTS.sub(lambda match: re.sub(r"[^\r\n]", " ", match[0]) if match[1] else match[0], text)


def _plain(bare: str) -> str:
    """With a space for each trailing comma, too."""
    return _TRAILING.sub(lambda match: " " if match[1] else match[0], bare)


def _objects(text: str, path: Sequence[str]) -> list[_Object]:
    """The objects from the root along the path, as far as there are any; none in a text without a value."""
    value = parsed(text)
    plain = _plain(_bare(text))
    at = _after_blanks(plain, 0)
    if at == len(plain):
        return []
    _check_object(value, [])
    found = [_object(plain, at)]
    for depth, key in enumerate(path, 1):
        member = found[-1].find(key)
        if member is None:
            break
        value = value[key]
        _check_object(value, path[:depth])
        found.append(_object(plain, member.value))
    return found


def _check_object(value: Any, path: Sequence[str]) -> None:
    if isinstance(value, dict):
        return
    kinds = {list: "a list", str: "a string", bool: "a boolean", float: "a number", type(None): "null"}
    where = f"`{'.'.join(path)}`" if path else "it"
    raise ValueError(f"{where} is {kinds[type(value)]} where an object has to be")


def _object(plain: str, start: int) -> _Object:
    members: list[_Member] = []
    at = _after_blanks(plain, start + 1)
    while plain[at] != "}":
        if plain[at] == ",":
            at = _after_blanks(plain, at + 1)
        key, end = _DECODER.raw_decode(plain, at)
        value = _after_blanks(plain, _after_blanks(plain, end) + 1)
        _, end = _DECODER.raw_decode(plain, value)
        members.append(_Member(key, at, value, end))
        at = _after_blanks(plain, end)
    return _Object(start, at, members)


def _after_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANKS:
        at += 1
    return at


def _added(text: str, bare: str, found: Sequence[_Object], key: str, value: Any) -> str:
    holder = found[-1]
    if not holder.members:
        return _filled(text, bare, found, key, value)
    last = holder.members[-1]
    comma = bare.find(",", last.end, holder.end)
    after = last.end if comma == -1 else comma + 1
    manner = _manner(text, bare, last.start)
    if manner.indent is None:
        start, end = " ", after
    else:
        start = manner.line + manner.indent
        rest = _REST_OF_LINE.match(text, after)  # what is said about the last member stays with it
        end = rest.end() if rest else after
    before, behind = (",", "") if comma == -1 else ("", ",")
    return text[: last.end] + before + text[last.end : end] + start + manner.pair(key, value) + behind + text[end:]


def _filled(text: str, bare: str, found: Sequence[_Object], key: str, value: Any) -> str:
    """With the first member of an object that was empty."""
    holder = found[-1]
    start = text[: holder.end].rstrip(_BLANKS)
    if "\n" not in text.strip(_BLANKS) and len(found) > 1:  # a file on one line stays on one line
        return start + _Manner(None).pair(key, value) + text[holder.end :]
    outer, line, unit = _indent(text, holder.start), _newline(text), _unit(bare)
    member = _Manner(outer + unit, line, unit).pair(key, value)
    return start + line + outer + unit + member + line + outer + text[holder.end :]


def _removed(text: str, bare: str, holder: _Object, member: _Member) -> str:
    at = holder.members.index(member)
    following = holder.members[at + 1].start if at + 1 < len(holder.members) else holder.end
    comma = bare.find(",", member.end, following)
    start, end = _with_blanks(
        text, member.start, member.end if comma == -1 else comma + 1, last=following == holder.end
    )
    if not text[holder.start + 1 : start].strip(_BLANKS) and not text[end : holder.end].strip(_BLANKS):
        return text[: holder.start + 1] + text[holder.end :]
    before = text[:start]
    if comma == -1 and at:
        separator = bare.rfind(",", holder.members[at - 1].end, member.start)
        before = text[:separator] + text[separator + 1 : start]
    return before + text[end:]


def _with_blanks(text: str, start: int, end: int, *, last: bool) -> tuple[int, int]:
    """A cut with the blanks that belong to it: its line, if nothing else is on it, or those up to a neighbour."""
    after = end
    while text[after] in " \t":
        after += 1
    if _on_own_line(text, start) and text[after] in "\r\n}":
        line = text.rindex("\n", 0, start)
        return line - (text[line - 1 : line] == "\r"), end if text[after] == "}" else after
    if not last:
        return start, after
    return len(text[:start].rstrip(" \t")), end


@dataclass(frozen=True)
class _Manner:
    """How a value is written: on one line without `indent`, otherwise on lines that begin with it."""

    indent: str | None
    line: str = "\n"
    unit: str = "  "

    def written(self, value: Any) -> str:
        if self.indent is None:
            return json.dumps(value, ensure_ascii=False)
        return json.dumps(value, ensure_ascii=False, indent=self.unit).replace("\n", self.line + self.indent)

    def pair(self, key: str, value: Any) -> str:
        return f"{json.dumps(key, ensure_ascii=False)}: {self.written(value)}"


def _manner(text: str, bare: str, at: int) -> _Manner:
    """That of the member that begins here."""
    indent = _indent(text, at) if _on_own_line(bare, at) else None
    return _Manner(indent, _newline(text), _unit(bare))


def _nested(path: Sequence[str], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


def _indent(text: str, at: int) -> str:
    """The blanks that the line begins with."""
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _on_own_line(text: str, at: int) -> bool:
    return text[:at].rstrip(" \t").endswith("\n")


def _unit(bare: str) -> str:
    """What one level is indented by."""
    match = _FIRST_MEMBER.search(bare)
    return match[1] if match else "  "


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"
