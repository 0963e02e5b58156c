"""Events for logs and metrics: tool calls, upstream requests, refusals and limits.

`Observer` logs tool calls; `telemetry.metrics.Metrics` also counts events. Events contain no prompt, key or link.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call that has ended.

    `outcome` is succeeded, pending, left, or an error's code. `seconds` is how long the caller waited; `generating` is
    how long the upstream took, if it reported that. Only HTTP has `caller` and `request_id`.
    """

    tool: str
    outcome: str
    seconds: float
    model: str = ""
    task_id: str = ""
    generating: float | None = None
    caller: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """A request to the upstream: kind, status (or "error"), seconds until the response ended, sizes of both bodies."""

    kind: str
    status: str
    seconds: float
    sent: int = 0
    received: int = 0


class Observer:
    """Logs tool calls and ignores all other events.

    Args:
        on_key_refused: Called with a key that the upstream refused.
    """

    def __init__(self, on_key_refused: Callable[[str], None] = lambda _: None) -> None:
        self.on_key_refused = on_key_refused

    def on_tool_call(self, call: ToolCall) -> None:
        """A tool call ended."""
        fields = {name: value for name, value in asdict(call).items() if value not in ("", None)}
        fields["seconds"] = round(call.seconds, 3)
        details = ", ".join(f"{name} {value}" for name, value in fields.items() if name not in ("tool", "outcome"))
        logger.info("%s %s: %s", call.tool, call.outcome, details, extra=fields)

    def on_upstream_request(self, request: UpstreamRequest) -> None:
        """A request to the upstream ended, with or without a response."""

    def on_choice_refused(self, model: str, part: str) -> None:
        """The upstream refused a model, or a size of a model; `part` is "model" or "size"."""

    def on_upstream_checked(self, is_reachable: bool) -> None:
        """A readiness probe found out whether the upstream can be reached."""

    def on_limit_reached(self, name: str) -> None:
        """A caller reached a limit."""


def caller_id(key: str) -> str:
    """A caller's id for logs: a hash of its key."""
    return hashlib.sha256(b"caller\0" + key.encode()).hexdigest()[:12] if key else ""
