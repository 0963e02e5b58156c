"""Other processes of the same server, over Redis: a call that was left at one gets its task at another.

A load balancer sends a call that is made again anywhere, and with it the notice of a client of an older revision that
it waits no longer. So it is shared what is left, which calls are alive, and which task each request has. In Redis are
hashes of calls and ids of tasks, which are good with their caller's token alone, each for a limited time. While Redis
can't be used, each process is on its own.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from time import monotonic, time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import anyio

from mcp_seedream.catalog.selection import Refusal
from mcp_seedream.core.errors import StoreUnavailable
from mcp_seedream.core.redis_client import PREFIX, milliseconds, reached
from mcp_seedream.generation.journal import Orphan
from mcp_seedream.upstream.types import Task

if TYPE_CHECKING:
    from redis.asyncio import Redis

logger = logging.getLogger(__name__)

T = TypeVar("T")
_PAUSE = 30  # seconds to do without a Redis that can't be used
_LONGEST = 3600  # seconds, more than any call lasts: what a process that was killed did not take back goes

_SENDING = 120  # seconds, more than the upstream is given to accept a task

_LEFT, _COMING = f"{PREFIX}left:", f"{PREFIX}coming:"
_ALIVE, _ASKED = f"{PREFIX}alive:", f"{PREFIX}asked:"
_REFUSED = f"{PREFIX}refused"
# An orphan is a JSON list of its task's id, its model, and when it was left.
_TAKE = """
local found = redis.call('LPOP', KEYS[1])
while found and cjson.decode(found)[3] < tonumber(ARGV[1]) do found = redis.call('LPOP', KEYS[1]) end
return {found or '', redis.call('GET', KEYS[2]) or '0', redis.call('GET', KEYS[3]) or '0'}
"""
_LEAVE = """
redis.call('RPUSH', KEYS[1], ARGV[1])
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_LESS = """
if redis.call('DECR', KEYS[1]) <= 0 then redis.call('DEL', KEYS[1]) end
"""
_EXPECT = """
redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
"""
_FETCHED = """
for _, orphan in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
  if cjson.decode(orphan)[1] == ARGV[1] then redis.call('LREM', KEYS[1], 1, orphan) end
end
"""
_BEGIN = """
redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
"""
_ACCEPTED = """
if redis.call('HGET', KEYS[1], ARGV[1]) == 'left' then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
_ANSWERED = """
local entry = redis.call('HGET', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
return entry == 'left' and 0 or 1
"""
# What a request has is a JSON list of its call's hash and, once it has one, its task's id and model; then `left`, since
# nothing at all may also mean that Redis forgot it.
_GIVE_UP = """
local left = {}
local asked = redis.call('HGETALL', KEYS[1])
for n = 1, #asked, 2 do
  local call = asked[n + 1] ~= 'left' and cjson.decode(asked[n + 1]) or {}
  redis.call('HSET', KEYS[1], asked[n], 'left')
  if call[2] then
    redis.call('RPUSH', ARGV[1] .. call[1], cjson.encode({call[2], call[3], tonumber(ARGV[2])}))
    redis.call('PEXPIRE', ARGV[1] .. call[1], ARGV[3])
    table.insert(left, call[2])
  elseif call[1] then
    redis.call('INCR', ARGV[4] .. call[1])
    redis.call('PEXPIRE', ARGV[4] .. call[1], ARGV[5])
  end
end
return left
"""


class Found(NamedTuple):
    """What was left of a call: its first task in time, which nobody else gets.

    `alive` is a call that somebody waits for, `coming` one that was left before it had a task.
    """

    orphan: Orphan | None
    alive: bool
    coming: bool = False


class Peers:
    """What this process tells the others, and hears from them.

    No method raises: while Redis can't be used, it is as if there were no others.

    Args:
        redis: See `redis_client.connect`.
        seconds: For how long a task that was left can be taken.
    """

    def __init__(self, redis: Redis, seconds: float = 600) -> None:
        self._redis = redis
        self._seconds = seconds
        self._works = True
        self._again = 0.0
        script = redis.register_script
        self._take, self._leave, self._fetched = script(_TAKE), script(_LEAVE), script(_FETCHED)
        self._begin, self._accepted, self._answered = script(_BEGIN), script(_ACCEPTED), script(_ANSWERED)
        self._expect, self._less, self._give_up = script(_EXPECT), script(_LESS), script(_GIVE_UP)

    async def take(self, call: str) -> Found:
        """What was left of a call."""
        keys = [_LEFT + call, _ALIVE + call, _COMING + call]
        found, alive, coming = await self._do(("", 0, 0), self._take, keys, [time() - self._seconds])
        return Found(Orphan(*json.loads(found)) if found else None, int(alive) > 0, int(coming) > 0)

    async def leave(self, call: str, orphan: Orphan) -> bool:
        """Let go of a task whose caller went away, or of the doubt whether there is one; whether that worked."""
        left = json.dumps([orphan.id, orphan.model, orphan.left_at])
        return bool(await self._do(0, self._leave, [_LEFT + call], [left, milliseconds(self._seconds)]))

    async def expect(self, call: str) -> None:
        """A caller left while the request is under way: there will be a task."""
        await self._do(0, self._expect, [_COMING + call], [milliseconds(_SENDING)])

    async def come(self, call: str) -> None:
        """It is left now, or there is none."""
        await self._do(0, self._less, [_COMING + call])

    async def fetched(self, call: str, task_id: str) -> None:
        """The caller of a task that was left has its answer all the same."""
        await self._do(0, self._fetched, [_LEFT + call], [task_id])

    async def begin(self, call: str, request: str, watch: str) -> None:
        """A request is served: its call is alive, and there may be a notice that nobody waits for it.

        Args:
            call: Its identity.
            request: The name of who asked, and of the request.
            watch: A name of its own: other requests may have the same.
        """
        args = [watch, json.dumps([call]), milliseconds(_LONGEST)]
        await self._do(0, self._begin, [_ALIVE + call, _ASKED + request], args)

    async def accepted(self, call: str, request: str, watch: str, task: Task) -> bool:
        """A request has a task; False where a notice came before, at another process: nobody waits for it."""
        args = [watch, json.dumps([call, task.id, task.model or ""]), milliseconds(_LONGEST)]
        return bool(await self._do(1, self._accepted, [_ASKED + request], args))

    async def replaced(self, call: str, request: str, watch: str) -> bool:
        """A request's task was refused, and it has none now; False where a notice came before, which left the task."""
        args = [watch, json.dumps([call]), milliseconds(_LONGEST)]
        return bool(await self._do(1, self._accepted, [_ASKED + request], args))

    async def answered(self, request: str, watch: str) -> bool:
        """A request is over; False where a notice came before, at another process, which left the task it had."""
        return bool(await self._do(1, self._answered, [_ASKED + request], [watch]))

    async def end(self, call: str) -> None:
        """What a request had is left, if anything is: its call is not alive any more."""
        await self._do(0, self._less, [_ALIVE + call])

    async def give_up(self, request: str) -> frozenset[str]:
        """Somebody says that they do not wait for a request: the tasks that are left by that, wherever they wait.

        Where it has none yet, one is expected, until the process that serves it says that it has come.
        """
        args = [_LEFT, time(), milliseconds(self._seconds), _COMING, milliseconds(_SENDING)]
        return frozenset(await self._do([], self._give_up, [_ASKED + request], args))

    async def refusals(self) -> dict[Refusal, float]:
        """What production refused, as any process has told, until when it is remembered."""
        found: dict[str, str] = await self._do({}, self._redis.hgetall, _REFUSED)
        return {(model, size): float(until) for key, until in found.items() for model, size in [json.loads(key)]}

    async def remember(self, refusal: Refusal, until: float) -> None:
        """Tell the others of a refusal."""
        await self._do(0, self._redis.hset, _REFUSED, json.dumps(refusal), str(until))
        await self._do(0, self._redis.expireat, _REFUSED, int(until) + 1)

    async def greet(self) -> None:
        """Say in the log, from the beginning on, if Redis can't be used."""
        await self._do(None, self._redis.ping)

    async def aclose(self) -> None:
        with anyio.CancelScope(shield=True):  # the end of a server is a cancellation
            await self._redis.aclose()

    async def _do(self, otherwise: T, work: Callable[..., Awaitable[Any]], *args: Any) -> T:
        """Ask Redis, even for a caller that leaves; for some time after it failed, only one asks again."""
        if not self._works and monotonic() < self._again:
            return otherwise
        self._again = monotonic() + _PAUSE
        try:
            with anyio.CancelScope(shield=True):
                async with reached():
                    found: T = await work(*args)
        except StoreUnavailable as error:
            if self._works:
                words = "%s Until it can, nobody signs in, and a call that is made again may be billed again."
                logger.error(words, error)  # noqa: TRY400  (a traceback may have its address)
            self._works = False
            return otherwise
        if not self._works:
            logger.warning("Redis can be used again")
        self._works = True
        return found
