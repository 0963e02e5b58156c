"""The decision of `/ready`: whether this process should receive calls. The upstream's state is only information."""

from __future__ import annotations

import logging
import time
from typing import Literal

import anyio

from mcp_seedream.core.errors import UnreadableReply, UpstreamError, UpstreamUnavailable
from mcp_seedream.core.events import Observer
from mcp_seedream.core.shutdown import Shutdown
from mcp_seedream.hosting.key_verifier import UNKNOWN_TASK, LookUp

logger = logging.getLogger(__name__)

_CACHE_SECONDS = 10  # probes are frequent
_CHECK_SECONDS = 10
_PATIENCE = 2  # seconds that a probe waits for a check
_INVALID_KEY = "nobody"
UpstreamState = Literal["reachable", "unreachable", "unknown"]


class Readiness:
    """Whether this process should receive calls, and whether the upstream can be reached.

    The state of the upstream does not make a process unready: all replicas share the upstream, and would leave the
    rotation at once. The check is a look-up with an invalid key, which is free: a refusal shows that it is reachable.

    Args:
        shutdown: Once requested, the process is not ready.
        look_up: Looks tasks up; None to skip the check of the upstream.
        observer: Notified of the upstream's state.
        cache_seconds: How long a result is cached.
        patience: Seconds that `upstream` waits for a check.
    """

    def __init__(
        self,
        shutdown: Shutdown,
        look_up: LookUp | None,
        observer: Observer,
        *,
        cache_seconds: float = _CACHE_SECONDS,
        patience: float = _PATIENCE,
    ) -> None:
        self._shutdown = shutdown
        self._look_up = look_up
        self._observer = observer
        self._cache_seconds = cache_seconds
        self._patience = patience
        self._state: UpstreamState = "unknown"
        self._fresh_until = 0.0
        self._requested, self._checked = anyio.Event(), anyio.Event()

    @property
    def problem(self) -> str | None:
        """Why this process should receive no calls; None if it should."""
        return "stopping" if self._shutdown.requested.is_set() else None

    async def upstream(self) -> UpstreamState:
        """The state of the upstream. If it is old, request a check, and wait for it for at most `patience` seconds."""
        if self._look_up and self._fresh_until < time.monotonic():
            self._requested.set()
            with anyio.move_on_after(self._patience):
                await self._checked.wait()
        return self._state

    async def check_on_demand(self) -> None:
        """Check the upstream whenever `upstream` requests it. Run this in the background."""
        while True:
            await self._requested.wait()
            state = await self._current_state()
            if (state == "unreachable") != (self._state == "unreachable"):
                logger.warning("the upstream %s be reached", "can't" if state == "unreachable" else "can again")
            self._observer.on_upstream_checked(state == "reachable")
            self._state, self._fresh_until = state, time.monotonic() + self._cache_seconds
            self._checked.set()
            self._requested, self._checked = anyio.Event(), anyio.Event()

    async def _current_state(self) -> UpstreamState:
        if self._look_up is None:
            return "unknown"
        try:
            with anyio.fail_after(_CHECK_SECONDS):
                await self._look_up([UNKNOWN_TASK], _INVALID_KEY)
        except (UpstreamUnavailable, UnreadableReply, TimeoutError):
            return "unreachable"
        except UpstreamError:
            pass  # it refused the key, so it can be reached
        return "reachable"
