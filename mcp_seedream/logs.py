"""The log, on stderr: as text for people or as JSON lines for machines, with the request that a line belongs to."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from typing import Literal

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Of the HTTP request that is being worked on."""
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_LIBRARIES = ("httpx", "httpcore", "mcp")


def log_to_stderr(level: str, form: Literal["text", "json"] = "text") -> None:
    """Set the process's log up: one line an event, nothing on stdout, which is the wire."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_with_request)
    if form == "json":
        from pythonjsonlogger.json import JsonFormatter  # noqa: PLC0415  (stdio starts faster without)

        names = {"asctime": "time", "levelname": "level", "name": "logger"}
        handler.setFormatter(JsonFormatter("%(asctime)s %(levelname)s %(name)s %(message)s", rename_fields=names))
    else:
        handler.setFormatter(logging.Formatter(_TEXT))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    if level.upper() != "DEBUG":
        # One line a request of the client's library, with its URL, is more than an operator wants.
        for name in _LIBRARIES:
            logging.getLogger(name).setLevel(logging.WARNING)


def _with_request(record: logging.LogRecord) -> bool:
    if (id_ := REQUEST_ID.get()) and not hasattr(record, "request_id"):
        record.request_id = id_
    return True
