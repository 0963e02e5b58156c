"""The little that sign-in has to remember, and that replicas share: codes, what is spent, what is revoked.

In memory for one process; in Redis for several. Nothing in it is for ever, and a key is in it only sealed.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from mcp_seedream.errors import ConfigurationError, StoreUnavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis

_MOST = 200_000
_PREFIX = "seedream:"
_PATIENCE = 2  # seconds for Redis to answer


class Store(Protocol):
    """Texts by key, for a time in seconds. Every method raises `StoreUnavailable` when the store can't be used."""

    async def put(self, key: str, value: str, seconds: float) -> None: ...

    async def get(self, key: str) -> str | None: ...

    async def take(self, key: str) -> str | None:
        """Get and delete at once: of several that ask, one gets it."""
        ...

    async def add(self, key: str, seconds: float) -> bool:
        """Whether this is the first time the key is added."""
        ...

    async def aclose(self) -> None: ...


class MemoryStore:
    """For one process. When it is full it takes nothing more, rather than forget what was revoked."""

    def __init__(self, most: int = _MOST) -> None:
        self._kept: dict[str, tuple[str, float]] = {}
        self._most = most
        self._swept = 0.0

    async def put(self, key: str, value: str, seconds: float) -> None:
        self._sweep()
        if len(self._kept) >= self._most and key not in self._kept:
            raise StoreUnavailable("The memory for sign-in is full.")
        self._kept[key] = (value, time.monotonic() + seconds)

    async def get(self, key: str) -> str | None:
        value, until = self._kept.get(key, ("", 0.0))
        return value if until > time.monotonic() else None

    async def take(self, key: str) -> str | None:
        value, until = self._kept.pop(key, ("", 0.0))
        return value if until > time.monotonic() else None

    async def add(self, key: str, seconds: float) -> bool:
        first = await self.get(key) is None
        if first:
            await self.put(key, "1", seconds)
        return first

    async def aclose(self) -> None:
        self._kept.clear()

    def _sweep(self) -> None:
        """What has run out goes, once a minute, or when there is no more room (then at most once a second)."""
        now = time.monotonic()
        if now - self._swept >= (60 if len(self._kept) < self._most else 1):
            self._swept = now
            self._kept = {key: kept for key, kept in self._kept.items() if kept[1] > now}


class RedisStore:
    """For several processes: Redis 6.2 or newer."""

    def __init__(self, url: str) -> None:
        from redis.asyncio import Redis  # noqa: PLC0415  (only where it is configured)
        from redis.asyncio.retry import Retry  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415

        retry = Retry(NoBackoff(), 1)  # a connection that had gone stale; whoever waits should not wait long
        try:
            self._redis: Redis = Redis.from_url(
                url,
                decode_responses=True,
                socket_timeout=_PATIENCE,
                socket_connect_timeout=_PATIENCE,
                retry=retry,
            )
        except ValueError as error:
            raise ConfigurationError("The setting SEEDREAM_REDIS_URL is wrong: it is not like redis://host") from error

    async def put(self, key: str, value: str, seconds: float) -> None:
        async with _reached():
            await self._redis.set(_PREFIX + key, value, px=_milliseconds(seconds))

    async def get(self, key: str) -> str | None:
        async with _reached():
            value = await self._redis.get(_PREFIX + key)
        return None if value is None else str(value)

    async def take(self, key: str) -> str | None:
        async with _reached():
            value = await self._redis.getdel(_PREFIX + key)
        return None if value is None else str(value)

    async def add(self, key: str, seconds: float) -> bool:
        async with _reached():
            added = await self._redis.set(_PREFIX + key, "1", px=_milliseconds(seconds), nx=True)
        return bool(added)

    async def aclose(self) -> None:
        await self._redis.aclose()


def open_store(redis_url: str | None) -> Store:
    return RedisStore(redis_url) if redis_url else MemoryStore()


@asynccontextmanager
async def _reached() -> AsyncIterator[None]:
    from redis.exceptions import RedisError  # noqa: PLC0415

    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        # Its words may have an address in them, or a password.
        raise StoreUnavailable(f"Redis can't be used ({type(error).__name__}).") from error


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))
