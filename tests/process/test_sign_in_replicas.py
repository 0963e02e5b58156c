"""Sign-in at two replicas that share a Redis: concurrent refreshes, and the rotation of seal keys."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import httpx
import pytest

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.oauth.store import RedisStore
from tests.process.test_replicas import everything_in
from tests.support.dance import Raw, hosted
from tests.support.services import free_port, redis_running

pytestmark = pytest.mark.anyio
PUBLIC = "http://localhost:1"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    with redis_running(tmp_path, free_port()) as url:
        yield url


async def test_concurrent_refreshes_give_the_same_tokens(table: ModelTable, upstream: str, redis: str) -> None:
    """Ten races at two replicas: every request gets the same access and refresh token, and the sign-in continues.

    A repetition within 30 seconds, after a lost answer, gets them too; a later one ends the sign-in.
    """
    now = [time.time()]
    with (
        hosted(table, upstream, store=RedisStore(redis), clock=lambda: now[0]) as first,
        hosted(table, upstream, public_url=first.address, store=RedisStore(redis), clock=lambda: now[0]) as second,
    ):
        async with httpx.AsyncClient(timeout=30) as web:
            here, there = Raw(first.address, web), Raw(second.address, web)
            tokens = await here.tokens()
            there.id = here.id
            for _ in range(10):
                answers: list[httpx.Response] = []

                async def refresh(raw: Raw, token: str, answers: list[httpx.Response] = answers) -> None:
                    answers.append(await raw.refresh(token))

                async with anyio.create_task_group() as group:
                    for raw in (here, there, here, there):
                        group.start_soon(refresh, raw, tokens["refresh_token"])
                now[0] += 29
                answers += [await raw.refresh(tokens["refresh_token"]) for raw in (here, there)]
                assert [answer.status_code for answer in answers] == [200] * 6
                for name in ("access_token", "refresh_token"):
                    assert len({answer.json()[name] for answer in answers}) == 1
                assert answers[-1].json()["expires_in"] == answers[0].json()["expires_in"] - 29
                tokens = answers[0].json()
                assert {(await raw.call(tokens["access_token"])).status_code for raw in (here, there)} == {200}
            used, tokens = tokens, (await here.refresh(tokens["refresh_token"])).json()
            now[0] += 31
            assert (await there.refresh(used["refresh_token"])).json()["error"] == "invalid_grant"
            assert {(await raw.call(tokens["access_token"])).status_code for raw in (here, there)} == {401}
            assert (await here.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"
            assert await everything_in(redis) == "ended"
