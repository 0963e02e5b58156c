"""The Redis client, for state that several processes of a server share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mcp_seedream.core.errors import ConfigurationError, StoreUnavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis

PREFIX = "seedream:"
"""The prefix of all keys."""
_TIMEOUT = 2  # seconds


def connect(url: str) -> Redis:
    """A client for Redis 6.2 or newer; it connects at first use.

    Raises:
        ConfigurationError: `url` is not a Redis address.
    """
    from redis.asyncio import Redis  # noqa: PLC0415  (only if it is configured)
    from redis.asyncio.retry import Retry  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415

    retry = Retry(NoBackoff(), 1)  # one retry at once, for a stale connection: callers are waiting
    try:
        redis: Redis = Redis.from_url(
            url, decode_responses=True, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT, retry=retry
        )
    except ValueError as error:
        raise ConfigurationError("The setting SEEDREAM_REDIS_URL is wrong: it is not like redis://host") from error
    return redis


@asynccontextmanager
async def redis_errors() -> AsyncIterator[None]:
    """Translate the errors of Redis commands while the context lasts.

    Raises:
        StoreUnavailable: Redis can't be used.
    """
    from redis.exceptions import RedisError  # noqa: PLC0415

    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        # The original message may contain an address or a password.
        raise StoreUnavailable(f"Redis can't be used ({type(error).__name__}).") from error


def milliseconds(seconds: float) -> int:
    """Seconds as the positive whole milliseconds that Redis expects."""
    return max(1, int(seconds * 1000))
