"""Edits JSON with comments and trailing commas: sets or removes one member, and keeps all other text.

Parsing and serialising would lose the comments, the order and the indentation. Instead, the text is edited at the
position of the member, which `json_positions` finds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcp_seedream.install.json_positions import BLANKS, Container, Member, objects, objects_and_list, without_comments

_REST_OF_LINE = re.compile(r"(?:[ \t]*(?://[^\r\n]*|/\*.*?\*/))*", re.DOTALL)
_FIRST_MEMBER = re.compile(r'\{[ \t\r\n]*\n([ \t]+)"')


def with_member(text: str, path: Sequence[str], value: Any) -> str:
    """The text with the member at `path` set to `value`; missing objects on the path are created.

    A new member comes last, in the style of the previous members: on its own line with the same indentation, or on the
    same line. A blank text becomes an object.

    Raises:
        ValueError: The text is not JSON, or a value on the path is not an object.
    """
    containers = objects(text, path[:-1])
    bare = without_comments(text)
    if not containers:
        style = _Style("", _newline(text), "  ")
        start = text if not text or text.endswith("\n") else text + style.line
        return start + style.formatted(_nested(path, value)) + style.line
    missing = path[len(containers) - 1 :]
    member = containers[-1].find(missing[0])
    if member:
        return text[: member.value] + _style(text, bare, member.start).formatted(value) + text[member.end :]
    return _with_added(text, bare, containers, missing[0], _nested(missing[1:], value))


def without_member(text: str, path: Sequence[str]) -> str:
    """The text without the member at `path`, or unchanged if there is none. An empty object is written as `{}`.

    Raises:
        ValueError: As for `with_member`.
    """
    containers = objects(text, path[:-1])
    if len(containers) < len(path):
        return text
    container = containers[-1]
    member = container.find(path[-1])
    return _without(text, without_comments(text), container, member) if member else text


def with_item(text: str, path: Sequence[str], value: Any) -> str:
    """The text with one more item at the end of the list at `path`, which is created if it is missing.

    Raises:
        ValueError: As for `with_member`, or the value is not a list.
    """
    containers = objects_and_list(text, path)
    if not containers:
        return with_member(text, path, [value])
    return _with_added(text, without_comments(text), containers, None, value)


def without_item(text: str, path: Sequence[str], index: int) -> str:
    """The text without one item of the existing list at `path`. An empty list is written as `[]`.

    Raises:
        ValueError: As for `with_item`.
    """
    items = objects_and_list(text, path)[-1]
    return _without(text, without_comments(text), items, items.members[index])


def updated(text: str, path: Sequence[str], old: Any, new: Any) -> str:
    """The text with `new` at `path` instead of `old`; only members that differ are changed."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return text if old == new else with_member(text, path, new)
    for key, value in new.items():
        inner = [*path, key]
        text = updated(text, inner, old[key], value) if key in old else with_member(text, inner, value)
    for key in old:
        if key not in new:
            text = without_member(text, [*path, key])
    return text


def _with_added(text: str, bare: str, containers: Sequence[Container], key: str | None, value: Any) -> str:
    container = containers[-1]
    if not container.members:
        return _with_first_member(text, bare, containers, key, value)
    last = container.members[-1]
    comma = bare.find(",", last.end, container.end)
    after = last.end if comma == -1 else comma + 1
    style = _style(text, bare, last.start)
    if style.indent is None:
        start, end = " ", after
    else:
        start = style.line + style.indent
        rest = _REST_OF_LINE.match(text, after)  # a comment about the last member stays with it
        end = rest.end() if rest else after
    before, behind = (",", "") if comma == -1 else ("", ",")
    return text[: last.end] + before + text[last.end : end] + start + style.pair(key, value) + behind + text[end:]


def _with_first_member(text: str, bare: str, containers: Sequence[Container], key: str | None, value: Any) -> str:
    """The text with a first member in an object that was empty."""
    container = containers[-1]
    start = text[: container.end].rstrip(BLANKS)
    if "\n" not in text.strip(BLANKS) and len(containers) > 1:  # a file on one line stays on one line
        return start + _Style(None).pair(key, value) + text[container.end :]
    outer, line, unit = _indent(text, container.start), _newline(text), _unit(bare)
    member = _Style(outer + unit, line, unit).pair(key, value)
    return start + line + outer + unit + member + line + outer + text[container.end :]


def _without(text: str, bare: str, container: Container, member: Member) -> str:
    at = container.members.index(member)
    following = container.members[at + 1].start if at + 1 < len(container.members) else container.end
    comma = bare.find(",", member.end, following)
    start, end = _with_blanks(
        text, member.start, member.end if comma == -1 else comma + 1, last=following == container.end
    )
    if not text[container.start + 1 : start].strip(BLANKS) and not text[end : container.end].strip(BLANKS):
        return text[: container.start + 1] + text[container.end :]
    before = text[:start]
    if comma == -1 and at:
        separator = bare.rfind(",", container.members[at - 1].end, member.start)
        before = text[:separator] + text[separator + 1 : start]
    return before + text[end:]


def _with_blanks(text: str, start: int, end: int, *, last: bool) -> tuple[int, int]:
    """A range extended by blanks: to its whole line if the line has no other text, or to the next or previous value."""
    after = end
    while text[after] in " \t":
        after += 1
    if _on_own_line(text, start) and text[after] in "\r\n}]":
        line = text.rindex("\n", 0, start)
        return line - (text[line - 1 : line] == "\r"), end if text[after] in "}]" else after
    if not last:
        return start, after
    return len(text[:start].rstrip(" \t")), end


@dataclass(frozen=True)
class _Style:
    """The style of a value: on one line if `indent` is None, otherwise on lines that begin with `indent`."""

    indent: str | None
    line: str = "\n"
    unit: str = "  "

    def formatted(self, value: Any) -> str:
        if self.indent is None:
            return json.dumps(value, ensure_ascii=False)
        return json.dumps(value, ensure_ascii=False, indent=self.unit).replace("\n", self.line + self.indent)

    def pair(self, key: str | None, value: Any) -> str:
        return (
            self.formatted(value) if key is None else f"{json.dumps(key, ensure_ascii=False)}: {self.formatted(value)}"
        )


def _style(text: str, bare: str, at: int) -> _Style:
    """The style of the member that begins at a position."""
    indent = _indent(text, at) if _on_own_line(bare, at) else None
    return _Style(indent, _newline(text), _unit(bare))


def _nested(path: Sequence[str], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


def _indent(text: str, at: int) -> str:
    """The indentation of the line with this position."""
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _on_own_line(text: str, at: int) -> bool:
    return text[:at].rstrip(" \t").endswith("\n")


def _unit(bare: str) -> str:
    """The indentation of one level."""
    match = _FIRST_MEMBER.search(bare)
    return match[1] if match else "  "


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"
