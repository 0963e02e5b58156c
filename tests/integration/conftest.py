"""A real Redis for the tests of servers that share what they know."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from mcp_seedream.core.redis_client import connect
from tests.support.services import free_port, redis_running


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_running(tmp_path_factory.mktemp("redis"), free_port()) as url:
        yield url


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Any]:
    """An empty Redis."""
    async with connect(redis_url) as redis:
        await redis.flushdb()
        yield redis
