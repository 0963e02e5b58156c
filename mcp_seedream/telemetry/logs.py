"""Logging to stderr, as text or as JSON lines with the id of the HTTP request."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from typing import Literal

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the current HTTP request."""
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_LIBRARIES = ("httpx", "httpcore", "mcp", "sse_starlette")


def log_to_stderr(level: str, form: Literal["text", "json"] = "text") -> None:
    """Configure logging for the process: one line per record, on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_add_request_id)
    if form == "json":
        from pythonjsonlogger.core import RESERVED_ATTRS  # noqa: PLC0415
        from pythonjsonlogger.json import JsonFormatter  # noqa: PLC0415  (stdio starts faster without it)

        names = {"asctime": "time", "levelname": "level", "name": "logger"}
        omitted = [*RESERVED_ATTRS, "color_message"]  # uvicorn repeats its message in it, with colours
        fields = "%(asctime)s %(levelname)s %(name)s %(message)s"
        handler.setFormatter(JsonFormatter(fields, rename_fields=names, reserved_attrs=omitted))
    else:
        handler.addFilter(_escape_control_characters)
        handler.setFormatter(logging.Formatter(_TEXT))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # httpx logs every request with its URL at INFO. At DEBUG, the SDK logs whole messages, prompts included.
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.INFO if level.upper() == "DEBUG" else logging.WARNING)


def _escape_control_characters(record: logging.LogRecord) -> bool:
    """Escape control characters, so that a client's input can't forge a log line."""
    message = record.getMessage()
    if not message.isprintable():
        record.msg, record.args = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message), None
    return True


def _add_request_id(record: logging.LogRecord) -> bool:
    if (id_ := REQUEST_ID.get()) and not hasattr(record, "request_id"):
        record.request_id = id_
    return True
