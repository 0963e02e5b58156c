"""Checks and cuts JSON texts before they are parsed, in time and memory that the structure does not decide.

A parser makes an object of about 100 bytes from two characters such as `[]`. So the number of tokens and the depth are
limited first. Long strings, such as pictures in base64, are cut out: the rest is small, whatever its parser does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydantic_core import from_json

MAX_TOKENS = 8000
"""Quotation marks, brackets, commas and colons."""
_MAX_DEPTH = 64
_LONG = 4096  # characters, from which a string is cut out
_MAX_REST = 256 * 1024  # bytes beside the long strings
_MAX_GAP = 64 * 1024  # bytes between two tokens outside strings, such as white space
_MAX_BACKSLASHES = 1024  # in a row
_ESCAPES = 16  # characters for each escape: in base64, a slash or a line break may be escaped
_TOKEN = re.compile(rb'["\[\]{},:]')
_QUOTE, _COLON = b'":'


class JSONTooComplex(ValueError):
    """A JSON text has too many tokens, too deep a structure, or too much beside long strings."""


@dataclass(frozen=True, slots=True)
class CutJSON:
    """A JSON text without its long strings.

    Attributes:
        rest: The text, with `MARKER0`, `MARKER1`… in place of the strings.
        strings: The strings, by these names.
        tokens: The number of tokens.
    """

    rest: bytes
    strings: dict[str, str]
    tokens: int


def cut_long_strings(text: bytes | bytearray, marker: str) -> CutJSON:
    """Cut long strings out of a JSON text. Text that is not valid JSON stays invalid.

    Only ASCII strings are cut out, which base64 is, and no keys of objects.

    Args:
        text: JSON in UTF-8.
        marker: The start of the names that replace strings; the text must not contain it.

    Raises:
        JSONTooComplex: A limit is exceeded.
    """
    parts: list[bytes | bytearray] = []
    strings: dict[str, str] = {}
    position = kept = tokens = depth = 0
    with memoryview(text) as view:
        while match := _TOKEN.search(text, position, position + _MAX_GAP):
            tokens, position = tokens + 1, match.end()
            token = text[match.start()]
            depth += (token in b"[{") - (token in b"]}")
            if token == _QUOTE:
                start, (position, escaped) = position, _string_end(text, position)
                tokens += 1 + escaped
                if position - start > _LONG and not _is_key(text, position):
                    string = _unescaped(view[start : position - 1])
                    if string is not None:
                        name = f"{marker}{len(strings)}"
                        strings[name] = string
                        parts += text[kept:start], name.encode()
                        kept = position - 1
            if tokens > MAX_TOKENS or depth > _MAX_DEPTH:
                limit = (
                    f"more than {MAX_TOKENS:,} tokens" if tokens > MAX_TOKENS else f"deeper than {_MAX_DEPTH} levels"
                )
                raise JSONTooComplex(f"The JSON is {limit}." if depth > _MAX_DEPTH else f"The JSON has {limit}.")
        if position + _MAX_GAP < len(text) or len(text) - kept + sum(map(len, parts)) > _MAX_REST:
            raise JSONTooComplex(f"The JSON has more than {_MAX_REST // 1024} KiB beside long ASCII strings.")
    return CutJSON(b"".join([*parts, text[kept:]]), strings, tokens)


def _string_end(text: bytes | bytearray, start: int) -> tuple[int, int]:
    """The position after a string's closing quotation mark, and the number of escaped ones in it."""
    end, escaped = text.find(b'"', start), 0
    while end >= 0:
        before = text[max(start, end - _MAX_BACKSLASHES) : end]
        backslashes = len(before) - len(before.rstrip(b"\\"))
        escaped += backslashes % 2
        if backslashes == _MAX_BACKSLASHES or escaped > MAX_TOKENS:
            raise JSONTooComplex("A string in the JSON has too many escaped characters.")
        if backslashes % 2 == 0:
            return end + 1, escaped
        end = text.find(b'"', end + 1)
    return len(text) + 1, escaped


def _is_key(text: bytes | bytearray, end: int) -> bool:
    return text[end : end + 64].lstrip()[:1] == b":"


def _unescaped(raw: memoryview) -> str | None:
    """The value of a string in ASCII with few escapes; None if it is another one."""
    try:
        text = str(raw, "ascii")
        if (escapes := text.count("\\")) == 0:
            return text
        return str(from_json(f'"{text}"')) if escapes * _ESCAPES < len(text) else None
    except ValueError:  # not ASCII, or an invalid escape
        return None
