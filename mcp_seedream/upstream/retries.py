"""When a failed request is made again: one policy for each kind, as a value.

How often, how long apart and for how long is here; which failures may be repeated at all is the caller's to
say, since only it knows whether a request could have been accepted.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import anyio

from mcp_seedream.core.errors import UpstreamError

if TYPE_CHECKING:
    from tenacity import RetryCallState

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Retries:
    """Exponential back-off with jitter; `Retry-After` is honoured where the answer carried one.

    Args:
        attempts: At most, the first one included.
        seconds: No new attempt begins later than this after the first; a longer `Retry-After` ends it at once.
        first: Seconds before the second attempt, doubled each time, with as much jitter.
        longest: Seconds between two attempts, at most, unless the upstream asks for more.
    """

    attempts: int = 4
    seconds: float = 20
    first: float = 0.5
    longest: float = 8

    async def __call__(self, request: Callable[[], Awaitable[T]], again: Callable[[UpstreamError], bool]) -> T:
        """Make a request until it succeeds, fails for good, or the policy is exhausted.

        Args:
            request: Makes one attempt.
            again: Whether a failure may be repeated.

        Raises:
            UpstreamError: The last attempt's.
        """
        # Not before the first request: listing the tools needs none of it.
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, stop_before_delay  # noqa: PLC0415

        attempts = AsyncRetrying(
            sleep=anyio.sleep,
            retry=retry_if_exception(lambda error: isinstance(error, UpstreamError) and again(error)),
            stop=stop_after_attempt(self.attempts) | stop_before_delay(self.seconds),
            wait=self._pause,
            before_sleep=_log,
            reraise=True,
        )
        return await attempts(request)

    def _pause(self, state: RetryCallState) -> float:
        from tenacity import wait_exponential, wait_random  # noqa: PLC0415

        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, UpstreamError) else None
        pause = wait_exponential(multiplier=self.first, max=self.longest)(state) if asked is None else asked
        return pause + wait_random(0, self.first)(state)


def _log(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    logger.warning("%s: trying again in %.1f s", getattr(error, "code", error), state.upcoming_sleep)
