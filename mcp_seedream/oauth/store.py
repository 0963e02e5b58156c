"""The little that sign-in has to remember, and replicas share: codes, which refresh token is next, what is revoked.

In memory for one process; in Redis for several. Nothing in it is for ever, and a key is in it only sealed.
"""

from __future__ import annotations

import time
from typing import Protocol

from mcp_seedream.core.errors import StoreUnavailable
from mcp_seedream.core.redis_client import PREFIX, connect, milliseconds, reached

_MOST = 200_000
_SWAP = """
local found = redis.call('GET', KEYS[1])
if found and found ~= ARGV[1] and found ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""


class Store(Protocol):
    """Texts by key, for a time in seconds. Every method raises `StoreUnavailable` when the store can't be used."""

    async def put(self, key: str, value: str, seconds: float, *, vital: bool = False) -> None:
        """`vital` is what there must be room for: something else is forgotten for it."""
        ...

    async def get(self, key: str) -> str | None: ...

    async def take(self, key: str) -> str | None:
        """Get and delete at once: of several that ask, one gets it."""
        ...

    async def swap(self, key: str, expected: str, new: str, seconds: float) -> bool:
        """Put the new value where the expected one is, or none; False where there is another. Of several, one can.

        Where the new value is already, that is this request, sent again over a connection that broke.
        """
        ...

    async def aclose(self) -> None: ...


class MemoryStore:
    """For one process. When it is full it takes only what is vital, for which the oldest that is not is forgotten.

    Vital things have a quarter of the room to themselves, so that this is rare.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._kept: dict[str, tuple[str, float]] = {}  # the oldest first
        self._vital: dict[str, tuple[str, float]] = {}
        self._most = most
        self._swept = 0.0

    async def put(self, key: str, value: str, seconds: float, *, vital: bool = False) -> None:
        self._sweep()
        if key not in self._kept and key not in self._vital:
            self._make_room(vital)
        self._kept.pop(key, None)
        self._vital.pop(key, None)
        (self._vital if vital else self._kept)[key] = (value, time.monotonic() + seconds)

    async def get(self, key: str) -> str | None:
        value, until = self._kept.get(key) or self._vital.get(key) or ("", 0.0)
        return value if until > time.monotonic() else None

    async def take(self, key: str) -> str | None:
        value = await self.get(key)
        self._kept.pop(key, None)
        self._vital.pop(key, None)
        return value

    async def swap(self, key: str, expected: str, new: str, seconds: float) -> bool:
        if await self.get(key) not in (None, expected, new):
            return False
        await self.put(key, new, seconds)
        return True

    async def aclose(self) -> None:
        self._kept.clear()
        self._vital.clear()

    def _make_room(self, vital: bool) -> None:
        full = len(self._kept) + len(self._vital) >= self._most
        if vital and full and self._kept:
            del self._kept[next(iter(self._kept))]
        elif full or (not vital and len(self._kept) >= self._most - self._most // 4):
            raise StoreUnavailable("The memory for sign-in is full.")

    def _sweep(self) -> None:
        """What has run out goes, once a minute, or when there is little room left (then at most once a second)."""
        now = time.monotonic()
        roomy = len(self._kept) + len(self._vital) < self._most - self._most // 4
        if now - self._swept >= (60 if roomy else 1):
            self._swept = now
            for kept in (self._kept, self._vital):
                for key in [key for key, (_, until) in kept.items() if until <= now]:
                    del kept[key]


class RedisStore:
    """For several processes: Redis 6.2 or newer."""

    def __init__(self, url: str) -> None:
        self._redis = connect(url)
        self._swap = self._redis.register_script(_SWAP)

    async def put(self, key: str, value: str, seconds: float, *, vital: bool = False) -> None:  # noqa: ARG002
        async with reached():
            await self._redis.set(PREFIX + key, value, px=milliseconds(seconds))

    async def get(self, key: str) -> str | None:
        async with reached():
            value = await self._redis.get(PREFIX + key)
        return None if value is None else str(value)

    async def take(self, key: str) -> str | None:
        async with reached():
            value = await self._redis.getdel(PREFIX + key)
        return None if value is None else str(value)

    async def swap(self, key: str, expected: str, new: str, seconds: float) -> bool:
        async with reached():
            swapped = await self._swap(keys=[PREFIX + key], args=[expected, new, milliseconds(seconds)])
        return bool(swapped)

    async def aclose(self) -> None:
        await self._redis.aclose()


def open_store(redis_url: str | None) -> Store:
    return RedisStore(redis_url) if redis_url else MemoryStore()
