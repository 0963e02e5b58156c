"""Limits over HTTP.

`CallerLimits`: concurrent calls and tasks of each caller and of all callers, and generations per minute.
`AddressRateLimiter`: the rate of requests without a valid key and of requests to sign-in, shared by network addresses.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_seedream.core.errors import LimitExceeded
from mcp_seedream.core.events import Observer
from mcp_seedream.upstream.fair_limiter import FairLimiter

_IPV6_PREFIX = 64  # a provider gives one customer at least this network
_BUSY = {"error": "temporarily_unavailable", "error_description": "Sign-in is busy. Try again in a few seconds."}
_BUSY_HEADERS = {"Retry-After": "10", "Cache-Control": "no-store", "Access-Control-Allow-Origin": "*"}
_MINUTE = 60
_MAX_CALLERS = 1000  # with recorded generations; above this, old ones are removed for all callers


@dataclass(slots=True)
class _Usage:
    """The number of calls or tasks in progress, by caller and in total."""

    by_caller: Counter[str] = field(default_factory=Counter)
    total: int = 0


class CallerLimits:
    """The limits of one process, and their current use.

    Args:
        calls: Largest number of concurrent requests of one caller, and of its tasks.
        all_calls: Largest number of concurrent requests of all callers, and of their tasks.
        generations: Largest number of generations of one caller in any minute; 0 for no limit.
        observer: Notified of every exceeded limit.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        *,
        calls: int,
        all_calls: int,
        generations: int,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._calls = calls
        self._all_calls = all_calls
        self._generations = generations
        self._observer = observer
        self._clock = clock
        self._calls_in_progress, self._tasks_in_progress = _Usage(), _Usage()
        self._generation_times: dict[str, deque[float]] = {}

    @contextmanager
    def call(self, caller: str) -> Iterator[None]:
        """Count a request of a caller as in progress while the context lasts.

        Raises:
            LimitExceeded: Too many are in progress, of this caller or of all.
        """
        with self._counted(self._calls_in_progress, caller, "calls"):
            yield

    @contextmanager
    def task(self, caller: str) -> Iterator[None]:
        """Count a task that runs without a waiting request as in progress while the context lasts.

        Tasks are counted separately from requests, so that a caller with many tasks can still poll them.

        Raises:
            LimitExceeded: Too many are in progress, of this caller or of all.
        """
        with self._counted(self._tasks_in_progress, caller, "tasks"):
            yield

    @contextmanager
    def _counted(self, usage: _Usage, caller: str, noun: str) -> Iterator[None]:
        if usage.by_caller[caller] >= self._calls:
            raise self._exceeded(noun, f"{self._calls} of your {noun} are in progress", 5)
        if usage.total >= self._all_calls:
            raise self._exceeded(f"all_{noun}", f"this server has reached its limit of {noun}", 5)
        usage.by_caller[caller] += 1
        usage.total += 1
        try:
            yield
        finally:
            usage.total -= 1
            usage.by_caller[caller] -= 1
            if not usage.by_caller[caller]:
                del usage.by_caller[caller]

    def generate(self, caller: str) -> None:
        """Count a generation of a caller, before it is sent.

        Raises:
            LimitExceeded: The caller has reached its limit of generations per minute.
        """
        if not self._generations:
            return
        now = self._clock()
        if len(self._generation_times) > _MAX_CALLERS:
            for other in list(self._generation_times):
                self._remove_old(other, now)
        self._remove_old(caller, now)
        times = self._generation_times.setdefault(caller, deque())
        if len(times) >= self._generations:
            wait = times[0] + _MINUTE - now
            raise self._exceeded("generations", f"the limit is {self._generations} generations per minute", wait)
        times.append(now)

    def _remove_old(self, caller: str, now: float) -> None:
        """Remove a caller's generations that are older than a minute."""
        times = self._generation_times.get(caller, deque())
        while times and times[0] <= now - _MINUTE:
            times.popleft()
        if not times:
            self._generation_times.pop(caller, None)

    def _exceeded(self, limit: str, reason: str, seconds: float) -> LimitExceeded:
        self._observer.on_limit_reached(limit)
        return LimitExceeded(reason, seconds)


def network_address(scope: Scope) -> str:
    """The client's IPv4 address, or its /64 network of IPv6; "" if it is unknown.

    The HTTP server takes it from `X-Forwarded-For` if a trusted proxy sent the request.
    """
    host = (scope.get("client") or ("",))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(host)
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), _IPV6_PREFIX), strict=False))


class AddressRateLimiter:
    """A rate limit on all requests together. Waiting requests are served round-robin by address.

    Requests wait, so that many clients behind one address are slowed down instead of refused.

    Args:
        requests: The largest number of requests in any period.
        period: The period in seconds.
        patience: The longest wait of a request, in seconds.
        waiting: The largest number of waiting requests. An address with few waiting requests may exceed it.
    """

    def __init__(self, requests: int, *, period: float = 1, patience: float, waiting: int) -> None:
        self._limiter = FairLimiter(requests)
        self._period = period
        self._patience = patience
        self._max_waiting = waiting

    async def wait(self, address: str) -> bool:
        """Wait until the rate allows the request; False if that takes too long, or too many requests wait."""
        if not self._limiter.may_wait(address, self._max_waiting):
            return False
        with anyio.move_on_after(self._patience):
            await self._limiter.acquire(address)
            asyncio.get_running_loop().call_later(self._period, self._limiter.release)
            return True
        return False


class SignInLimitMiddleware:
    """Limits the rate of requests to the routes of sign-in, by address (429)."""

    def __init__(self, app: ASGIApp, limiter: AddressRateLimiter) -> None:
        self._app = app
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if await self._limiter.wait(network_address(scope)):
            await self._app(scope, receive, send)
        else:
            await JSONResponse(_BUSY, 429, _BUSY_HEADERS)(scope, receive, send)
