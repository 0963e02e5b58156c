"""Attempts and refusals in Redis, where the processes of one server share them.

A load balancer sends a repeated call, or the notice that cancels it, to any replica. Each attempt is a hash; a set for
each call and request has the ids of its attempts; each process has a key that is its lease. Nothing in it is a token,
a prompt or a link, and every key expires.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from time import monotonic
from typing import TYPE_CHECKING, Any

import anyio

from mcp_seedream.catalog.selection import Refusal
from mcp_seedream.core.errors import StoreUnavailable
from mcp_seedream.core.redis_client import PREFIX, milliseconds, reached
from mcp_seedream.generation.attempt_store import Attempt, Outcome, State, Stored
from mcp_seedream.generation.claims import Timing

if TYPE_CHECKING:
    from redis.asyncio import Redis

logger = logging.getLogger(__name__)
_LIFE = 3600  # seconds, longer than any call and `Timing.claimable`: the keys of a killed process are gone then
_ATTEMPT, _INDEX, _LEASE = f"{PREFIX}attempt:", f"{PREFIX}attempts-of:", f"{PREFIX}lease:"
_REFUSED = f"{PREFIX}refused"
# Writes or removes an attempt unless another call holds it. The test and the write must not be interrupted.
# KEYS: the attempt; the sets of its call, its request and its former request. ARGV: its id; its holder; "advance",
# "claim", "close" or "close if heard"; milliseconds to live; fields and values.
_WRITE = """
local stored = redis.call('HMGET', KEYS[1], 'holder', 'left_at')
if not stored[1] then return 'missing' end
if stored[1] ~= ARGV[2] then return 'claimed' end
local left = stored[2] ~= ''
if ARGV[3] == 'close if heard' and left then return 'left' end
if ARGV[3] == 'close' or ARGV[3] == 'close if heard' then
  redis.call('DEL', KEYS[1])
  redis.call('SREM', KEYS[2], ARGV[1])
  redis.call('SREM', KEYS[3], ARGV[1])
  return 'saved'
end
redis.call('HSET', KEYS[1], unpack(ARGV, 5))
if ARGV[3] == 'advance' and left then redis.call('HSET', KEYS[1], 'left_at', stored[2]) end
redis.call('SREM', KEYS[4], ARGV[1])
for n = 2, 3 do redis.call('SADD', KEYS[n], ARGV[1]) end
for n = 1, 3 do redis.call('PEXPIRE', KEYS[n], ARGV[4]) end
return redis.call('HGET', KEYS[1], 'left_at') == '' and 'saved' or 'left'
"""


class RedisAttempts:
    """An `AttemptStore` and a `RefusalStore` in Redis.

    Args:
        redis: See `redis_client.connect`.
        timing: See `claims.Timing`.
        pause: Seconds to do without a Redis that can't be used.
    """

    def __init__(self, redis: Redis, timing: Timing | None = None, *, pause: float = 30) -> None:
        self._redis = redis
        self._timing = timing or Timing()
        self._pause = pause
        self._works = True
        self._next_try = 0.0
        self._write = redis.register_script(_WRITE)

    async def open(self, attempt: Attempt) -> None:
        """Add an attempt, and renew the lease of its owner."""
        life = milliseconds(_LIFE)
        async with self._redis.pipeline(transaction=True) as pipeline:
            key, fields = _ATTEMPT + attempt.id, _as_fields(attempt)
            pipeline.hset(key, mapping=fields)
            pipeline.pexpire(key, life)
            for name in (attempt.call, attempt.request):
                pipeline.sadd(_INDEX + name, attempt.id)
                pipeline.pexpire(_INDEX + name, life)
            pipeline.set(_LEASE + attempt.owner, monotonic(), px=milliseconds(self._timing.lease))
            await self._do(pipeline.execute)

    async def find(self, name: str) -> list[Stored]:
        """The attempts whose call or request has this hash."""
        ids = await self._do(self._redis.smembers, _INDEX + name)
        if not ids:
            return []
        async with self._redis.pipeline(transaction=False) as pipeline:
            for id_ in ids:
                pipeline.hgetall(_ATTEMPT + id_)
            attempts = [_as_attempt(fields) for fields in await self._do(pipeline.execute) if fields]
        if not attempts:
            return []
        leases = await self._do(self._redis.mget, [_LEASE + attempt.owner for attempt in attempts])
        return [Stored(attempt, lease) for attempt, lease in zip(attempts, leases, strict=True)]

    async def advance(self, attempt: Attempt, before: Attempt | None = None) -> Outcome:
        """Write an attempt, unless another call holds it."""
        return await self._written(attempt, before or attempt, "claim" if before else "advance")

    async def close(self, attempt: Attempt, *, only_if_heard: bool = False) -> Outcome:
        """Remove an attempt, unless another call holds it."""
        return await self._written(attempt, attempt, "close if heard" if only_if_heard else "close")

    async def renew(self, owner: str) -> None:
        """Renew the lease of a process."""
        await self._do(self._redis.set, _LEASE + owner, monotonic(), px=milliseconds(self._timing.lease))

    async def release(self, owner: str) -> None:
        """End the lease of a process."""
        await self._do(self._redis.delete, _LEASE + owner)

    async def refusals(self) -> dict[Refusal, float]:
        """What production refused lately, as any process found, until when (Unix seconds) it is remembered."""
        try:
            found: dict[str, str] = await self._do(self._redis.hgetall, _REFUSED)
        except StoreUnavailable:
            return {}
        return {(model, size): float(until) for key, until in found.items() for model, size in [json.loads(key)]}

    async def remember(self, refusal: Refusal, until: float) -> None:
        """Share a refusal with the other processes."""
        try:
            await self._do(self._redis.hset, _REFUSED, json.dumps(refusal), str(until))
            await self._do(self._redis.expireat, _REFUSED, int(until) + 1)
        except StoreUnavailable:
            return  # this process remembers it

    async def ping(self) -> None:
        """Log at the start if Redis can't be used."""
        try:
            await self._do(self._redis.ping)
        except StoreUnavailable:
            return  # it is logged

    async def aclose(self) -> None:
        """Close the connections."""
        with anyio.CancelScope(shield=True):  # a server ends by cancellation
            await self._redis.aclose()

    async def _written(self, attempt: Attempt, before: Attempt, how: str) -> Outcome:
        names = [attempt.call, attempt.request, before.request]
        keys = [_ATTEMPT + attempt.id, *(_INDEX + name for name in names)]
        fields = [text for pair in _as_fields(attempt).items() for text in pair]
        outcome: Outcome = await self._do(
            self._write, keys, [attempt.id, before.holder, how, milliseconds(_LIFE), *fields]
        )
        return outcome

    async def _do(self, command: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> Any:
        """Run a command, even for a caller that leaves.

        Raises:
            StoreUnavailable: Redis can't be used. For some time after that, only one command in each pause tries it.
        """
        if not self._works and monotonic() < self._next_try:
            raise StoreUnavailable("Redis can't be used.")
        self._next_try = monotonic() + self._pause
        try:
            with anyio.CancelScope(shield=True):
                async with reached():
                    found = await command(*args, **options)
        except StoreUnavailable as error:
            if self._works:
                message = "%s Until it can, nobody can sign in, and a repeated call may be billed again."
                logger.error(message, error)  # noqa: TRY400  (a traceback may contain its address)
            self._works = False
            raise
        if not self._works:
            logger.warning("Redis can be used again")
        self._works = True
        return found


def _as_fields(attempt: Attempt) -> dict[Any, Any]:
    """The fields of a hash: text, empty for None."""
    fields = asdict(attempt) | {"may_have_left": "1" if attempt.may_have_left else ""}
    return {name: "" if value is None else str(value) for name, value in fields.items()}


def _as_attempt(fields: dict[str, str]) -> Attempt:
    left_at = fields["left_at"]
    times = {name: float(fields[name]) for name in ("opened_at", "held_at")}
    changed: dict[str, Any] = {
        "state": State(fields["state"]),
        "left_at": float(left_at) if left_at else None,
        "may_have_left": bool(fields["may_have_left"]),
    }
    return Attempt(**{**fields, **times, **changed})
