"""One JSON-RPC message as bytes: read, or the errors that its sender is answered with.

The SDK drops what it can't read, so that a client would wait in vain. An error carries the id of the request where
one can be found, also in text that is no JSON; what is sent is never repeated in it, nor logged.

Facts: JSON-RPC 2.0, sections 4 and 5.1; the Model Context Protocol narrows ids (a string or an integer, never null)
and params (an object), and has no batches from revision 2025-06-18 on.
"""

from __future__ import annotations

import codecs
import re
from typing import Any

from mcp_types import INVALID_REQUEST, PARSE_ERROR, ErrorData, JSONRPCError, RequestId
from pydantic_core import from_json

_BATCH = "A batch is not taken: send each message by itself."
# A member "id" with its value, any other string, or a bracket. A string may lack its end.
_TOKEN = re.compile(
    r'"id"\s*:\s*(?:(?P<number>-?\d{1,300})(?=\s*[,}])|"(?P<text>[^"\\]*)")'
    r'|"(?:[^"\\]|\\.?)*+(?:"|\Z)|(?P<open>[\[{])|(?P<close>[\]}])',
    re.DOTALL,
)


def read(data: bytes) -> dict[str, Any] | list[JSONRPCError]:
    """The object of a well-formed request or notification, or the errors that its sender is answered with.

    A byte order mark before it is skipped. What is itself an answer comes back as it is, well-formed or not: nobody
    waits for an answer to it.
    """
    try:
        message = from_json(data.removeprefix(codecs.BOM_UTF8))
    except ValueError as error:
        half = " A surrogate such as \\ud83d needs its other half." if "hex escape" in str(error) else ""
        reason = f"This is not JSON in UTF-8: {error}.{half}"
        return [_error(PARSE_ERROR, reason, _id_in(data.decode("utf-8", "replace")))]
    if isinstance(message, list):
        ids = [_id_of(each) for each in message if isinstance(each, dict) and "id" in each and "method" in each]
        return [_error(INVALID_REQUEST, _BATCH, id_) for id_ in ids or [None]]
    if not isinstance(message, dict):
        return [_error(INVALID_REQUEST, "A message must be a JSON object.", None)]
    fault = None if is_answer(message) else _fault(message)
    return message if fault is None else [_error(INVALID_REQUEST, fault, _id_of(message))]


def is_answer(message: dict[str, Any]) -> bool:
    """Whether a message is the result of a request, or its error."""
    return "method" not in message and ("result" in message or "error" in message)


def _fault(message: dict[str, Any]) -> str | None:
    """What is wrong with the envelope of a request or notification."""
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
    """The id to answer with; 1.0 is the same number as 1 to most clients."""
    value = message.get("id")
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if _is_id(value) else None


def _id_in(text: str) -> RequestId | None:
    """The id of a message in text that can't be parsed: only its own, never one from inside its params."""
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
