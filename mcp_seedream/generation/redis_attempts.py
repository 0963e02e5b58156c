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
from mcp_seedream.core.redis_client import PREFIX, milliseconds, redis_errors
from mcp_seedream.generation.attempt_store import KEPT_SECONDS, Attempt, Outcome, State, Stored
from mcp_seedream.generation.claims import Timing

if TYPE_CHECKING:
    from redis.asyncio import Redis

logger = logging.getLogger(__name__)
_ATTEMPT, _INDEX, _LEASE = f"{PREFIX}attempt:", f"{PREFIX}attempts-of:", f"{PREFIX}lease:"
_REFUSED = f"{PREFIX}refused"
# Writes or removes an attempt unless another call holds it. The read and the write must be atomic.
# KEYS: the attempt; the sets of its call, its request and its former request; the lease of its owner.
# ARGV: its id; its holder; the holder that is expected; "1" if it must be stored; its state; "1" if it has a task;
# `left_at`; "1" if it may have left; JSON; milliseconds that it is kept; milliseconds of the lease.
_SAVE = """
local id, holder, expected, must, state, task, left, may, json, kept, lease = unpack(ARGV)
local stored = redis.call('HMGET', KEYS[1], 'holder', 'state', 'left_at', 'may_have_left')
if not stored[1] and must ~= '' then return 'lost' end
local late = stored[2] == 'uncertain' and task ~= ''
if stored[1] and stored[1] ~= expected and stored[1] ~= holder and not late then return 'lost' end
if stored[1] and expected == holder then
  if left == '' then left = stored[3] end
  if may == '' then may = stored[4] end
end
if state == 'delivered' and left ~= '' then state = task ~= '' and 'abandoned' or 'uncertain' end
redis.call('DEL', KEYS[1])
for n = 2, 4 do redis.call('SREM', KEYS[n], id) end
if state ~= 'withdrawn' and state ~= 'delivered' then
  redis.call('HSET', KEYS[1], 'holder', holder, 'state', state, 'left_at', left, 'may_have_left', may, 'json', json)
  redis.call('SADD', KEYS[2], id)
  redis.call('SADD', KEYS[3], id)
  for n = 1, 3 do redis.call('PEXPIRE', KEYS[n], kept) end
  redis.call('SET', KEYS[5], table.concat(redis.call('TIME'), ' '), 'PX', lease)
end
return left == '' and 'saved' or 'left'
"""
# Marks that a caller left, unless another call holds the attempt. KEYS: the attempt. ARGV: its holder; `left_at`, or ""
# if it may have left.
_MARK_LEFT = """
local stored = redis.call('HMGET', KEYS[1], 'holder', 'left_at')
if stored[1] ~= ARGV[1] then return end
if ARGV[2] == '' then redis.call('HSET', KEYS[1], 'may_have_left', '1')
elseif stored[2] == '' then redis.call('HSET', KEYS[1], 'left_at', ARGV[2]) end
"""


class RedisAttempts:
    """An `AttemptStore` and a `RefusalStore` in Redis.

    Args:
        redis: See `redis_client.connect`.
        timing: See `claims.Timing`.
        pause: Seconds for which a Redis that can't be used is not tried again.
    """

    def __init__(self, redis: Redis, timing: Timing | None = None, *, pause: float = 30) -> None:
        self._redis = redis
        self._timing = timing or Timing()
        self._pause = pause
        self._works = True
        self._next_try = 0.0
        self._save, self._mark_left = redis.register_script(_SAVE), redis.register_script(_MARK_LEFT)

    async def find(self, name: str) -> list[Stored]:
        """The attempts whose call or request has this hash."""
        ids = await self._do(self._redis.smembers, _INDEX + name)
        if not ids:
            return []
        async with self._redis.pipeline(transaction=False) as pipeline:
            for id_ in ids:
                pipeline.hmget(_ATTEMPT + id_, ["json", "state", "left_at", "may_have_left"])
            rows = await self._do(pipeline.execute)
        attempts = [attempt for row in rows if row[0] and (attempt := _parse(*row))]
        leases = await self._do(self._redis.mget, [_LEASE + each.owner for each in attempts]) if attempts else []
        return [Stored(attempt, lease) for attempt, lease in zip(attempts, leases, strict=True)]

    async def save(self, attempt: Attempt, before: Attempt | None = None) -> Outcome:
        """Write or remove an attempt, unless another call holds it, and renew the lease of its owner."""
        former = before or attempt
        names = (attempt.call, attempt.request, former.request)
        keys = [_ATTEMPT + attempt.id, *(_INDEX + name for name in names), _LEASE + attempt.owner]
        marks = ["1" if mark else "" for mark in (before, attempt.task_id, attempt.may_have_left)]
        written = [attempt.id, attempt.holder, former.holder, marks[0], attempt.state, marks[1]]
        departure = [_text(attempt.left_at), marks[2]]
        times = [milliseconds(KEPT_SECONDS), milliseconds(self._timing.lease)]
        outcome: Outcome = await self._do(self._save, keys, [*written, *departure, json.dumps(asdict(attempt)), *times])
        return outcome

    async def mark_left(self, attempt: Attempt, left_at: float | None) -> None:
        """Store that the caller of an attempt left or may have left, if the same call still holds it."""
        await self._do(self._mark_left, [_ATTEMPT + attempt.id], [attempt.holder, _text(left_at)])

    async def renew(self, owner: str, seconds: float) -> None:
        """Renew the lease of a process, or end it; tried even while Redis is not used for other things."""
        self._next_try = 0.0
        if seconds:
            await self._do(self._redis.set, _LEASE + owner, str(monotonic()), px=milliseconds(seconds))
        else:
            await self._do(self._redis.delete, _LEASE + owner)

    async def refusals(self) -> dict[Refusal, float]:
        """The choices that the upstream refused in any process, each with the Unix time at which it expires."""
        try:
            expiry: dict[str, str] = await self._do(self._redis.hgetall, _REFUSED)
        except StoreUnavailable:
            return {}
        return {(model, size): float(until) for key, until in expiry.items() for model, size in [json.loads(key)]}

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
            return  # `_do` has logged it

    async def aclose(self) -> None:
        """Close the connections."""
        with anyio.CancelScope(shield=True):  # a server ends by cancellation
            await self._redis.aclose()

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
                async with redis_errors():
                    result = await command(*args, **options)
        except StoreUnavailable as error:
            if self._works:
                message = "%s Until it can, sign-in is unavailable, and a repeated call may be billed again."
                logger.error(message, error)  # noqa: TRY400  (a traceback may contain its address)
            self._works = False
            raise
        if not self._works:
            logger.warning("Redis can be used again")
        self._works = True
        return result


def _text(left_at: float | None) -> str:
    return "" if left_at is None else str(left_at)


def _parse(text: str, state: str, left_at: str, may_have_left: str) -> Attempt | None:
    """An attempt; None if another version of this server wrote it in another format."""
    try:
        attempt = Attempt(**json.loads(text))
        attempt.state, attempt.left_at = State(state), float(left_at) if left_at else None
    except (ValueError, TypeError):
        logger.warning("an attempt in Redis can't be read, and is ignored")
        return None
    attempt.may_have_left = bool(may_have_left)
    return attempt
