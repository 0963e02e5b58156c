"""The state of sign-in: codes, the current refresh token of each grant, and revoked grants.

In memory for one process, in Redis for several. Every entry expires, and keys are stored encrypted only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from mcp_seedream.core.errors import StoreUnavailable
from mcp_seedream.core.redis_client import PREFIX, connect, milliseconds, redis_errors

_MAX_ENTRIES = 200_000
_SWAP = """
local current = redis.call('GET', KEYS[1])
if current and current ~= ARGV[1] and current ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""


class Store(Protocol):
    """Stores strings by key, each for a time in seconds. All methods raise `StoreUnavailable` if the store is down."""

    async def put(self, key: str, value: str, seconds: float, *, must_store: bool = False) -> None:
        """Store a value. `must_store` is for revocations: a full store deletes another entry to store them."""
        ...

    async def get(self, key: str) -> str | None: ...

    async def pop(self, key: str) -> str | None:
        """Get and delete atomically: of several concurrent callers, one gets the value."""
        ...

    async def swap(self, key: str, expected: str, new: str, seconds: float) -> bool:
        """Compare and set, atomically.

        Returns:
            True if the key was missing or had the expected value, or already has the new value, for example because a
            command was sent again after its connection was lost. False for any other value.
        """
        ...

    async def aclose(self) -> None: ...


class MemoryStore:
    """A store for one process.

    Ordinary entries may fill three quarters of it; more raise `StoreUnavailable`. The rest is reserved for entries
    with `must_store`. If it is full, such an entry replaces the oldest ordinary one.

    Args:
        max_entries: The size of the store.
        clock: Returns the time in seconds.
    """

    def __init__(self, max_entries: int = _MAX_ENTRIES, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries: dict[str, tuple[str, float]] = {}  # oldest first
        self._must_store: dict[str, tuple[str, float]] = {}
        self._max_entries = max_entries
        self._clock = clock
        self._swept = 0.0

    async def put(self, key: str, value: str, seconds: float, *, must_store: bool = False) -> None:
        self._sweep()
        if key not in self._entries and key not in self._must_store:
            self._make_room(must_store)
        self._entries.pop(key, None)
        self._must_store.pop(key, None)
        (self._must_store if must_store else self._entries)[key] = (value, self._clock() + seconds)

    async def get(self, key: str) -> str | None:
        value, until = self._entries.get(key) or self._must_store.get(key) or ("", 0.0)
        return value if until > self._clock() else None

    async def pop(self, key: str) -> str | None:
        value = await self.get(key)
        self._entries.pop(key, None)
        self._must_store.pop(key, None)
        return value

    async def swap(self, key: str, expected: str, new: str, seconds: float) -> bool:
        if await self.get(key) not in (None, expected, new):
            return False
        await self.put(key, new, seconds)
        return True

    async def aclose(self) -> None:
        self._entries.clear()
        self._must_store.clear()

    def _make_room(self, must_store: bool) -> None:
        full = len(self._entries) + len(self._must_store) >= self._max_entries
        if must_store and full and self._entries:
            del self._entries[next(iter(self._entries))]
        elif full or (not must_store and len(self._entries) >= self._max_entries - self._max_entries // 4):
            raise StoreUnavailable("The memory for sign-in is full.")

    def _sweep(self) -> None:
        """Remove expired entries, once a minute, or once a second if the store is nearly full."""
        now = self._clock()
        has_room = len(self._entries) + len(self._must_store) < self._max_entries - self._max_entries // 4
        if now - self._swept >= (60 if has_room else 1):
            self._swept = now
            for entries in (self._entries, self._must_store):
                for key in [key for key, (_, until) in entries.items() if until <= now]:
                    del entries[key]


class RedisStore:
    """A store that several processes share: Redis 6.2 or newer."""

    def __init__(self, url: str) -> None:
        self._redis = connect(url)
        self._swap = self._redis.register_script(_SWAP)

    async def put(self, key: str, value: str, seconds: float, *, must_store: bool = False) -> None:  # noqa: ARG002
        async with redis_errors():
            await self._redis.set(PREFIX + key, value, px=milliseconds(seconds))

    async def get(self, key: str) -> str | None:
        async with redis_errors():
            value = await self._redis.get(PREFIX + key)
        return None if value is None else str(value)

    async def pop(self, key: str) -> str | None:
        async with redis_errors():
            value = await self._redis.getdel(PREFIX + key)
        return None if value is None else str(value)

    async def swap(self, key: str, expected: str, new: str, seconds: float) -> bool:
        async with redis_errors():
            swapped = await self._swap(keys=[PREFIX + key], args=[expected, new, milliseconds(seconds)])
        return bool(swapped)

    async def aclose(self) -> None:
        await self._redis.aclose()


def open_store(redis_url: str | None) -> Store:
    return RedisStore(redis_url) if redis_url else MemoryStore()
