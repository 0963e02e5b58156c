"""Redis, where several processes of one server share what they know."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mcp_seedream.core.errors import ConfigurationError, StoreUnavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis

PREFIX = "seedream:"
"""Before the name of every key."""
_PATIENCE = 2  # seconds for Redis to answer


def connect(url: str) -> Redis:
    """A client of Redis 6.2 or newer; it connects when it is first used.

    Raises:
        ConfigurationError: That is no address of a Redis.
    """
    from redis.asyncio import Redis  # noqa: PLC0415  (only where it is configured)
    from redis.asyncio.retry import Retry  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415

    retry = Retry(NoBackoff(), 1)  # a connection that had gone stale; whoever waits should not wait long
    try:
        redis: Redis = Redis.from_url(
            url, decode_responses=True, socket_timeout=_PATIENCE, socket_connect_timeout=_PATIENCE, retry=retry
        )
    except ValueError as error:
        raise ConfigurationError("The setting SEEDREAM_REDIS_URL is wrong: it is not like redis://host") from error
    return redis


@asynccontextmanager
async def reached() -> AsyncIterator[None]:
    """Around what asks Redis.

    Raises:
        StoreUnavailable: It can't be used.
    """
    from redis.exceptions import RedisError  # noqa: PLC0415

    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        # Its words may have an address in them, or a password.
        raise StoreUnavailable(f"Redis can't be used ({type(error).__name__}).") from error


def milliseconds(seconds: float) -> int:
    """As Redis takes times: whole, and more than none."""
    return max(1, int(seconds * 1000))
