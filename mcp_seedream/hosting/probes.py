"""Whether this process should be sent calls: it is not about to end, and the upstream can be reached."""

from __future__ import annotations

import logging
import time

import anyio

from mcp_seedream.core.errors import UnreadableReply, UpstreamError, UpstreamUnavailable
from mcp_seedream.core.shutdown import Shutdown
from mcp_seedream.hosting.key_verifier import NO_TASK, LookUp

logger = logging.getLogger(__name__)

_SECONDS = 10  # that an answer holds: probes come often, and from many
_NOBODY = "nobody"


class Readiness:
    """Asks the upstream with a key that is none, which costs nothing: any answer of its own means that it is there.

    Args:
        shutdown: Once it has begun, nothing new should come.
        look_up: Looks tasks up; None: the upstream is not asked.
    """

    def __init__(self, shutdown: Shutdown, look_up: LookUp | None) -> None:
        self._shutdown = shutdown
        self._look_up = look_up
        self._known: tuple[str | None, float] = (None, 0.0)
        self._lock = anyio.Lock()

    async def trouble(self) -> str | None:
        """Why no calls should be sent here, or None."""
        if self._shutdown.requested.is_set():
            return "stopping"
        async with self._lock:
            trouble, until = self._known
            if until < time.monotonic():
                before, trouble = trouble, await self._ask()
                if trouble != before:
                    logger.warning("not ready: %s" if trouble else "ready again", *([trouble] if trouble else []))
                self._known = trouble, time.monotonic() + _SECONDS
        return trouble

    async def _ask(self) -> str | None:
        if self._look_up is None:
            return None
        try:
            with anyio.fail_after(_SECONDS):
                await self._look_up([NO_TASK], _NOBODY)
        except (UpstreamUnavailable, UnreadableReply, TimeoutError):
            return "the upstream can't be reached"
        except UpstreamError:
            pass  # it refuses whoever has no key: it is there
        return None
