"""Retries of requests: which failures may be retried, how many attempts there are, and the pauses between them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import anyio

from mcp_seedream.core.errors import UnreadableReply, UpstreamError

if TYPE_CHECKING:
    from tenacity import RetryCallState

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Retries:
    """Exponential back-off with jitter; `Retry-After` takes precedence.

    Args:
        attempts: The largest number of attempts, including the first.
        seconds: No attempt starts later than this after the first; a longer `Retry-After` ends the retries at once.
        first: Seconds before the second attempt, doubled for each further one. A jitter of up to `first` is added.
        longest: The longest pause, unless `Retry-After` is longer.
    """

    attempts: int = 4
    seconds: float = 20
    first: float = 0.5
    longest: float = 8

    async def __call__(self, request: Callable[[], Awaitable[T]], may_retry: Callable[[UpstreamError], bool]) -> T:
        """Repeat a request until it succeeds, fails with an error that is not retried, or the attempts are used up.

        Args:
            request: Makes one attempt.
            may_retry: Whether a failure may be retried.

        Raises:
            UpstreamError: The failure of the last attempt.
        """
        # Imported with the first request: it takes 40 ms, and listing the tools does not need it.
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, stop_before_delay  # noqa: PLC0415

        attempts = AsyncRetrying(
            sleep=anyio.sleep,
            retry=retry_if_exception(lambda error: isinstance(error, UpstreamError) and may_retry(error)),
            stop=stop_after_attempt(self.attempts) | stop_before_delay(self.seconds),
            wait=self._pause,
            before_sleep=_log_retry,
            reraise=True,
        )
        return await attempts(request)

    def _pause(self, state: RetryCallState) -> float:
        from tenacity import wait_exponential, wait_random  # noqa: PLC0415

        error = state.outcome.exception() if state.outcome else None
        pause = error.retry_after if isinstance(error, UpstreamError) else None
        if pause is None:
            pause = wait_exponential(multiplier=self.first, max=self.longest)(state)
        return pause + wait_random(0, self.first)(state)


def submit_may_be_retried(error: UpstreamError) -> bool:
    """Whether a submit was not accepted, so that it can't be billed twice: 429, 503 with `Retry-After`, or not sent."""
    return error.retryable


def look_up_may_be_retried(error: UpstreamError) -> bool:
    """Whether a look-up may work later. Look-ups are free."""
    return error.retryable or isinstance(error, UnreadableReply)


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    logger.warning("%s: retrying in %.1f s", getattr(error, "code", error), state.upcoming_sleep)
