"""The readiness probe: whether this process should receive calls."""

from __future__ import annotations

import logging
import time

import anyio

from mcp_seedream.core.errors import UnreadableReply, UpstreamError, UpstreamUnavailable
from mcp_seedream.core.shutdown import Shutdown
from mcp_seedream.hosting.key_verifier import UNKNOWN_TASK, LookUp

logger = logging.getLogger(__name__)

_CACHE_SECONDS = 10  # probes are frequent
_CHECK_SECONDS = 10
_INVALID_KEY = "nobody"


class Readiness:
    """Checks that no shutdown was requested and that the upstream can be reached.

    It sends a look-up with an invalid key, which is free. The upstream's refusal shows that it can be reached.

    Args:
        shutdown: Once requested, the process is not ready.
        look_up: Looks tasks up; None to skip the check of the upstream.
        cache_seconds: How long a result is cached.
    """

    def __init__(self, shutdown: Shutdown, look_up: LookUp | None, cache_seconds: float = _CACHE_SECONDS) -> None:
        self._shutdown = shutdown
        self._look_up = look_up
        self._cache_seconds = cache_seconds
        self._cached: tuple[str | None, float] = (None, 0.0)
        self._lock = anyio.Lock()

    async def problem(self) -> str | None:
        """Why this process should receive no calls; None if it is ready."""
        if self._shutdown.requested.is_set():
            return "stopping"
        async with self._lock:
            problem, until = self._cached
            if until < time.monotonic():
                previous, problem = problem, await self._upstream_problem()
                if problem != previous:
                    logger.warning("not ready: %s" if problem else "ready again", *([problem] if problem else []))
                self._cached = problem, time.monotonic() + self._cache_seconds
        return problem

    async def _upstream_problem(self) -> str | None:
        if self._look_up is None:
            return None
        try:
            with anyio.fail_after(_CHECK_SECONDS):
                await self._look_up([UNKNOWN_TASK], _INVALID_KEY)
        except (UpstreamUnavailable, UnreadableReply, TimeoutError):
            return "the upstream can't be reached"
        except UpstreamError:
            pass  # it refused the key, so it can be reached
        return None
