"""Limits by network address, for requests whose caller is not known yet: refused ones, and those of sign-in."""

from __future__ import annotations

import asyncio
import ipaddress

import anyio
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_seedream.upstream.fair_limiter import FairLimiter

_IPV6_PREFIX = 64  # a provider gives one customer at least this network
_BUSY = {"error": "temporarily_unavailable", "error_description": "Sign-in is busy. Try again in a few seconds."}
_BUSY_HEADERS = {"Retry-After": "10", "Cache-Control": "no-store", "Access-Control-Allow-Origin": "*"}


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
    """A rate limit for all requests together, whose turns go round-robin by address.

    Requests wait for their turn, so that many clients behind one address are slowed down instead of refused.

    Args:
        turns: How many requests have a turn in any `period`.
        period: In seconds.
        patience: The longest wait for a turn, in seconds.
        waiting: The largest number of waiting requests. Addresses with few of them may exceed it.
    """

    def __init__(self, turns: int, *, period: float = 1, patience: float, waiting: int) -> None:
        self._limiter = FairLimiter(turns)
        self._period = period
        self._patience = patience
        self._most_waiting = waiting

    async def wait(self, address: str) -> bool:
        """Wait for a turn; False if there was none in time, or too many wait."""
        if not self._limiter.has_share(address, self._most_waiting):
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
