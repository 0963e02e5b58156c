"""Checks callers' AceDataCloud keys.

A key is checked with a free request: a look-up of a task that does not exist. The upstream answers "not found" if the
key is valid, and 401 if it is invalid. Results are cached by the key's hash.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio

from mcp_seedream.core.credentials import KeyCheck
from mcp_seedream.core.errors import LimitExceeded, TokenRefused, UpstreamError, UpstreamUnavailable
from mcp_seedream.core.events import caller_id

logger = logging.getLogger(__name__)

UNKNOWN_TASK = "00000000-0000-4000-8000-000000000000"
"""The id of a task that does not exist."""
_CACHED_KEYS = 10_000
_CHECKS_AT_ONCE = 500
_CHECK_SECONDS = 5
_UNCHECKED_SECONDS = 5  # for which a key that could not be checked counts as valid
_PAGE_SECONDS = 15  # for a check while a person waits for a page

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


class KeyVerifier:
    """Checks keys and caches the results.

    Args:
        seconds: How long a valid key is cached; an invalid one is cached for a tenth of that.
        clock: Returns the time in seconds.
    """

    def __init__(self, *, seconds: float = 300, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        # Two caches, so that invalid keys do not evict valid ones.
        self._valid_until: OrderedDict[bytes, float] = OrderedDict()
        self._invalid_until: OrderedDict[bytes, float] = OrderedDict()
        self._checks: dict[bytes, _Check] = {}

    async def is_valid(self, key: str, look_up: LookUp) -> bool:
        """Whether the upstream accepts this key. If the check fails for another reason, the key counts as valid.

        Concurrent calls with the same key share one check.

        Raises:
            LimitExceeded: Too many new keys are being checked.
        """
        digest, now = _digest(key), self._clock()
        if self._valid_until.get(digest, 0) > now:
            self._valid_until.move_to_end(digest)
            return True
        if self._invalid_until.get(digest, 0) > now:
            return False
        if check := self._checks.get(digest):
            await check.done.wait()
            return check.is_valid
        if len(self._checks) >= _CHECKS_AT_ONCE:
            raise LimitExceeded("too many new keys are being checked", _CHECK_SECONDS)
        self._checks[digest] = check = _Check()
        try:
            check.is_valid = await self._check(digest, key, look_up)
            return check.is_valid
        finally:
            self._checks.pop(digest).done.set()

    def forget(self, key: str) -> None:
        """Remove a key that the upstream refused in a call from the cache; the next call checks it again."""
        self._valid_until.pop(_digest(key), None)

    async def _check(self, digest: bytes, key: str, look_up: LookUp) -> bool:
        try:
            with anyio.fail_after(_CHECK_SECONDS):
                await look_up([UNKNOWN_TASK], key)
        except TokenRefused:
            self._cache(self._invalid_until, digest, self._seconds / 10)
            return False
        except (UpstreamError, TimeoutError) as error:
            logger.info("caller %s could not be checked: %s", caller_id(key), type(error).__name__)
            self._cache(self._valid_until, digest, min(self._seconds, _UNCHECKED_SECONDS))
            return True
        self._cache(self._valid_until, digest, self._seconds)
        return True

    def _cache(self, cache: OrderedDict[bytes, float], digest: bytes, seconds: float) -> None:
        cache[digest] = self._clock() + seconds
        cache.move_to_end(digest)
        while len(cache) > _CACHED_KEYS:
            cache.popitem(last=False)


@dataclass(slots=True, eq=False)
class _Check:
    """A check in progress. If it is cancelled, calls that wait for it count the key as valid."""

    done: anyio.Event = field(default_factory=anyio.Event)
    is_valid: bool = True


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
