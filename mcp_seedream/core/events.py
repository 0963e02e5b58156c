"""What happens, for whoever watches: each tool call as it ended, each request to the upstream, each limit hit.

`Observer` writes calls into the log; `metrics.Metrics` counts as well. Never a prompt, a key or a link.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One tool call, as it ended.

    `outcome` is succeeded, pending, or the code of an error; `seconds` is how long its caller waited, `generating` how
    long the upstream took, where it said so; `caller` and `request_id` are known over HTTP.
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
    """One request to the upstream: what for, the answer's status (or "error"), seconds to its end, bytes both ways."""

    kind: str
    status: str
    seconds: float
    sent: int = 0
    received: int = 0


class Observer:
    """Writes each call into the log.

    Args:
        refused: Told of a key that the upstream refuses.
    """

    def __init__(self, on_key_refused: Callable[[str], None] = lambda _: None) -> None:
        self.on_key_refused = on_key_refused

    def on_tool_call(self, call: ToolCall) -> None:
        """A tool call ended."""
        known = {name: value for name, value in asdict(call).items() if value not in ("", None)}
        known["seconds"] = round(call.seconds, 3)
        details = ", ".join(f"{name} {value}" for name, value in known.items() if name not in ("tool", "outcome"))
        logger.info("%s %s: %s", call.tool, call.outcome, details, extra=known)

    def on_upstream_request(self, request: UpstreamRequest) -> None:
        """The upstream answered, or did not."""

    def on_choice_refused(self, model: str, part: str) -> None:
        """The upstream refused a model, or its size: `part` is "model" or "size"."""

    def on_limit_reached(self, name: str) -> None:
        """Somebody was told that it is too much."""


def caller_id(key: str) -> str:
    """A caller in logs: the same for the same key, and nothing of the key."""
    return hashlib.sha256(b"caller\0" + key.encode()).hexdigest()[:12] if key else ""
