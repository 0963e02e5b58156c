"""Parses JSON-RPC messages, and makes the error responses for invalid ones.

The SDK drops messages that it cannot parse, so that their clients wait for a response in vain. An error has the id of
the request if it can be found, even in text that is not valid JSON. It never quotes the message.

Facts: JSON-RPC 2.0, sections 4 and 5.1. The Model Context Protocol restricts ids to strings and integers, and params
to objects, and has no batches since revision 2025-06-18.
"""

from __future__ import annotations

import codecs
import re
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
