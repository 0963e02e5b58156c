"""The log, on stderr: as text for people or as JSON lines for machines, with the request that a line belongs to."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from typing import Literal

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Of the HTTP request that is being worked on."""
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_LIBRARIES = ("httpx", "httpcore", "mcp", "sse_starlette")


def log_to_stderr(level: str, form: Literal["text", "json"] = "text") -> None:
    """Set the process's log up: one line an event, nothing on stdout, which is the wire."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_with_request)
    if form == "json":
        from pythonjsonlogger.core import RESERVED_ATTRS  # noqa: PLC0415
        from pythonjsonlogger.json import JsonFormatter  # noqa: PLC0415  (stdio starts faster without)

        names = {"asctime": "time", "levelname": "level", "name": "logger"}
        twice = [*RESERVED_ATTRS, "color_message"]  # uvicorn's message, once more, for terminals
        words = "%(asctime)s %(levelname)s %(name)s %(message)s"
        handler.setFormatter(JsonFormatter(words, rename_fields=names, reserved_attrs=twice))
    else:
        handler.addFilter(_on_one_line)
        handler.setFormatter(logging.Formatter(_TEXT))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # One line a request of the client's library, with its URL, is more than an operator wants; and what the SDK would
    # say when asked for everything has whole messages in it, prompts included.
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.INFO if level.upper() == "DEBUG" else logging.WARNING)


def _on_one_line(record: logging.LogRecord) -> bool:
    """What somebody sent can't make a line of its own."""
    words = record.getMessage()
    if not words.isprintable():
        record.msg, record.args = "".join(c if c.isprintable() else repr(c)[1:-1] for c in words), None
    return True


def _with_request(record: logging.LogRecord) -> bool:
    if (id_ := REQUEST_ID.get()) and not hasattr(record, "request_id"):
        record.request_id = id_
    return True
