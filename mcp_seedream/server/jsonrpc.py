"""Parses JSON-RPC messages, makes the error responses for invalid ones, and limits the structure of large ones.

The SDK drops messages that it cannot parse, so that their clients wait in vain for a response. An error response has
the id of the request if it can be found, even in text that is not valid JSON. It never quotes the message.

A parser makes an object of about 100 bytes from two characters such as `[]`. So the tokens and the depth of large
messages are limited before they are parsed, and long strings, such as pictures in base64, are cut out. The rest is
small, so that any parser can read it.

Facts: JSON-RPC 2.0, sections 4 and 5.1. The Model Context Protocol restricts ids to strings and integers, and params
to objects, and has no batches since revision 2025-06-18.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import Any

from mcp_types import INVALID_REQUEST, PARSE_ERROR, ErrorData, JSONRPCError, RequestId
from pydantic_core import from_json

_NO_BATCHES = "Batches are not supported: send single messages."
# A member "id" with its value, any other string, or a bracket. A string may have no end.
_TOKEN = re.compile(
    r'"id"\s*:\s*(?:(?P<number>-?\d{1,300})(?=\s*[,}])|"(?P<text>[^"\\]*)")'
    r'|"(?:[^"\\]|\\.?)*+(?:"|\Z)|(?P<open>[\[{])|(?P<close>[\]}])',
    re.DOTALL,
)

MAX_TOKENS = 8000
"""Quotation marks, brackets, commas and colons."""
_MAX_DEPTH = 64
_LONG = 4096  # characters; longer strings are cut out
_MAX_REST = 256 * 1024  # bytes beside the long strings
_MAX_GAP = 64 * 1024  # bytes between two tokens outside strings, such as white space
_MAX_BACKSLASHES = 1024  # in a row
_ESCAPES = 16  # characters for each escape: in base64, a slash or a line break may be escaped
_STRUCTURE = re.compile(rb'["\[\]{},:]')
_QUOTE = ord('"')


def parse(data: bytes) -> dict[str, Any] | list[JSONRPCError]:
    """Parse a message; returns the error responses if it is not a valid request or notification.

    A byte order mark is skipped. Responses are returned without further checks, since they get no response.
    """
    try:
        message = from_json(data.removeprefix(codecs.BOM_UTF8))
    except ValueError as error:
        half = " A surrogate such as \\ud83d needs its other half." if "hex escape" in str(error) else ""
        reason = f"This is not JSON in UTF-8: {error}.{half}"
        return [_error(PARSE_ERROR, reason, _id_in(data.decode("utf-8", "replace")))]
    if isinstance(message, list):
        ids = [_id_of(each) for each in message if isinstance(each, dict) and "id" in each and "method" in each]
        return [_error(INVALID_REQUEST, _NO_BATCHES, id_) for id_ in ids or [None]]
    if not isinstance(message, dict):
        return [_error(INVALID_REQUEST, "A message must be a JSON object.", None)]
    fault = None if is_response(message) else _fault(message)
    return message if fault is None else [_error(INVALID_REQUEST, fault, _id_of(message))]


def is_response(message: dict[str, Any]) -> bool:
    """Whether a message is a result or an error."""
    return "method" not in message and ("result" in message or "error" in message)


def _fault(message: dict[str, Any]) -> str | None:
    """Why a request or notification is invalid, apart from the contents of its params; None if it is valid."""
    if message.get("jsonrpc") != "2.0":
        return '`jsonrpc` must be "2.0".'
    if not isinstance(message.get("method"), str):
        return "`method` must be a string." if "method" in message else "`method` is missing."
    if "id" in message and not _is_id(message["id"]):
        return "`id` must be a string or a whole number."
    if not isinstance(message.get("params"), dict | None):
        return "`params` must be an object."
    return None


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _id_of(message: dict[str, Any]) -> RequestId | None:
    """The id for the response. Most clients treat 1.0 as 1."""
    value = message.get("id")
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if _is_id(value) else None


def _id_in(text: str) -> RequestId | None:
    """The id of a message that is not valid JSON, never an id inside its params."""
    depth = 0
    for token in _TOKEN.finditer(text):
        if token["open"]:
            depth += 1
        elif token["close"]:
            depth -= 1
        elif depth == 1 and (token["number"] or token["text"] is not None):
            return int(token["number"]) if token["number"] else token["text"]
    return None


def _error(code: int, message: str, id_: RequestId | None) -> JSONRPCError:
    return JSONRPCError(jsonrpc="2.0", id=id_, error=ErrorData(code=code, message=message))


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
        while match := _STRUCTURE.search(text, position, position + _MAX_GAP):
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
