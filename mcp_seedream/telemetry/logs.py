"""Logging to stderr, as text or as JSON lines with the id of the HTTP request."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Literal

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the current HTTP request."""
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_CLIENT_DRIVEN = ("mcp_seedream.hosting", "mcp_seedream.oauth", "uvicorn", "asyncio", "mcp", "sse_starlette")
"""Loggers whose lines a client can cause as often as it sends requests. `mcp` does not include `mcp_seedream`."""
_LINES_A_MINUTE = 60
_LIBRARIES = ("httpx", "httpcore", "mcp", "sse_starlette")


def log_to_stderr(level: str, form: Literal["text", "json"] = "text") -> None:
    """Configure logging for the process: one line per record, on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RepeatLimit(_LINES_A_MINUTE))
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


class RepeatLimit(logging.Filter):
    """Limits how often one statement may log in a minute, for loggers in `_CLIENT_DRIVEN`.

    The next line that it logs after that minute says how many were dropped.

    Args:
        lines: The limit.
        clock: Returns the time in seconds.
    """

    def __init__(self, lines: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._lines = lines
        self._clock = clock
        self._counts: dict[tuple[str, int], tuple[float, int]] = {}  # end of the minute and lines in it, by statement

    def filter(self, record: logging.LogRecord) -> bool:
        if not f"{record.name}.".startswith(tuple(f"{name}." for name in _CLIENT_DRIVEN)):
            return True
        statement, now = (record.pathname, record.lineno), self._clock()
        end, count = self._counts.get(statement, (0.0, 0))
        if end > now:
            self._counts[statement] = end, count + 1
            return count < self._lines
        self._counts[statement] = now + 60, 1
        if count > self._lines:
            dropped = f"{record.getMessage()} ({count - self._lines} lines like this one were dropped)"
            record.msg, record.args = dropped, None
        return True


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
