"""Checks callers' AceDataCloud keys.

A key is checked with a free request: a look-up of a task that does not exist. The upstream returns "not found" if the
key is valid, and 401 if it is invalid. Results are cached by the key's hash.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TypeVar

import anyio

from mcp_seedream.core.credentials import KeyCheck
from mcp_seedream.core.errors import (
    RateLimited,
    SeedreamError,
    TokenRefused,
    UnreadableReply,
    UpstreamError,
    UpstreamUnavailable,
)
from mcp_seedream.core.events import caller_id
from mcp_seedream.upstream.connections import CHECK_CONNECTIONS
from mcp_seedream.upstream.fair_limiter import FairLimiter

logger = logging.getLogger(__name__)

UNKNOWN_TASK = "00000000-0000-4000-8000-000000000000"
"""The id of a task that does not exist."""
_CACHED = 10_000  # keys, and addresses
_SUSPECT_SECONDS = 60
_KEPT_SECONDS = 30  # until the next check of a key, if the last one failed without showing that the key is invalid
_PAGE_SECONDS = 15  # for a check while a person waits for a page

K = TypeVar("K", bytes, str)
LookUp = Callable[[list[str], str], Awaitable[object]]
"""Looks tasks up with a key; raises `UpstreamError`."""


def uncached_check(look_up: LookUp) -> KeyCheck:
    """A check for keys that a person pastes; it raises `UpstreamError` if the upstream cannot be reached."""

    async def check(key: str) -> bool:
        with anyio.move_on_after(_PAGE_SECONDS):
            try:
                await look_up([UNKNOWN_TASK], key)
            except TokenRefused:
                return False
            return True
        raise UpstreamUnavailable("The upstream took too long to answer.")

    return check


class KeyNotChecked(SeedreamError):
    """A new key could not be checked in time: the upstream does not respond, or too many keys are being checked.

    Args:
        has_waited: Whether the check has waited; False if the queue was full.
    """

    code = "key_not_checked"
    retryable = True
    retry_after = 5

    def __init__(self, *, has_waited: bool) -> None:
        super().__init__("Your token could not be checked at this moment. Try again in a few seconds.")
        self.has_waited = has_waited


class KeyVerifier:
    """Checks keys and caches the results.

    A limited number of keys is checked concurrently. Waiting checks are served round-robin by the address that the
    key came from, the newest first. Addresses that sent an invalid key in the last minute get at most half of the
    slots. So a flood of invalid keys delays no other caller for long.

    Args:
        seconds: How long a valid key is cached; an invalid one is cached for a tenth of that.
        check_seconds: The time for a check, waiting included.
        waiting: The largest number of waiting checks. An address with few waiting checks may exceed it.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        *,
        seconds: float = 300,
        check_seconds: float = 5,
        waiting: int = 1000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._check_seconds = check_seconds
        self._max_waiting = waiting
        self._clock = clock
        # Two caches, so that invalid keys do not evict valid ones. Expired valid keys are kept, for outages.
        self._valid_until: OrderedDict[bytes, float] = OrderedDict()
        self._invalid_until: OrderedDict[bytes, float] = OrderedDict()
        self._checks: dict[bytes, _Check] = {}
        self._slots = FairLimiter(CHECK_CONNECTIONS, newest_first=True)
        self._suspects = FairLimiter(CHECK_CONNECTIONS // 2, newest_first=True)
        self._suspect_until: OrderedDict[str, float] = OrderedDict()  # by address

    async def is_valid(self, key: str, look_up: LookUp, address: str = "") -> bool:
        """Whether the upstream accepts this key. A key that was valid before stays valid while it can't be checked.

        Concurrent calls with the same key share one check.

        Args:
            key: The key.
            look_up: Looks tasks up.
            address: The network address that the key came from.

        Raises:
            KeyNotChecked: A new key could not be checked in time.
        """
        digest, now = _digest(key), self._clock()
        if self._valid_until.get(digest, 0) > now:
            self._valid_until.move_to_end(digest)
            return True
        if self._invalid_until.get(digest, 0) > now:
            return False
        if check := self._checks.get(digest):
            await check.done.wait()
        else:
            limiters = self._limiters(digest, address)
            if not all(limiter.may_wait(waiter, self._max_waiting) for limiter, waiter in limiters):
                raise KeyNotChecked(has_waited=False)
            self._checks[digest] = check = _Check()
            try:
                check.is_valid = await self._check(digest, key, look_up, limiters)
                if check.is_valid is False:
                    self._cache(self._suspect_until, address, _SUSPECT_SECONDS)
            finally:
                self._checks.pop(digest).done.set()
        if check.is_valid is None:
            raise KeyNotChecked(has_waited=True)
        return check.is_valid

    def forget(self, key: str) -> None:
        """Remove a key that the upstream refused in a call from the cache; the next call checks it again."""
        self._valid_until.pop(_digest(key), None)

    def _limiters(self, digest: bytes, address: str) -> list[tuple[FairLimiter, str]]:
        """The limiters of a check, in order, each with the name under which the check waits there."""
        if digest in self._valid_until:
            return [(self._slots, digest.hex())]
        is_suspect = self._suspect_until.get(address, 0) > self._clock()
        return [*([(self._suspects, address)] if is_suspect else []), (self._slots, address)]

    async def _check(
        self, digest: bytes, key: str, look_up: LookUp, limiters: list[tuple[FairLimiter, str]]
    ) -> bool | None:
        """Whether the key is valid; None if it could not be checked and was not valid before."""
        was_valid = digest in self._valid_until
        try:
            with anyio.fail_after(self._check_seconds):
                async with AsyncExitStack() as stack:
                    for limiter, waiter in limiters:
                        await stack.enter_async_context(limiter.slot(waiter))
                    await look_up([UNKNOWN_TASK], key)
        except TokenRefused:
            self._valid_until.pop(digest, None)
            self._cache(self._invalid_until, digest, self._seconds / 10)
            return False
        except (TimeoutError, RateLimited, UnreadableReply, UpstreamUnavailable) as error:
            logger.warning("caller %s could not be checked: %s", caller_id(key), type(error).__name__)
            if not was_valid:
                return None
            self._cache(self._valid_until, digest, min(self._seconds, _KEPT_SECONDS))
        except UpstreamError:  # such as a balance that is used up: the upstream knows the key
            self._cache(self._valid_until, digest, min(self._seconds, _KEPT_SECONDS))
        else:
            self._cache(self._valid_until, digest, self._seconds)
        return True

    def _cache(self, cache: OrderedDict[K, float], item: K, seconds: float) -> None:
        cache[item] = self._clock() + seconds
        cache.move_to_end(item)
        while len(cache) > _CACHED:
            cache.popitem(last=False)


@dataclass(slots=True, eq=False)
class _Check:
    """A check in progress. Its result is None until it is known, also if the check is cancelled."""

    done: anyio.Event = field(default_factory=anyio.Event)
    is_valid: bool | None = None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
