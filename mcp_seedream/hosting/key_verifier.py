"""Who is calling over HTTP: an AceDataCloud key, found out once whether it is one.

A key is checked by a look-up of a task that does not exist, which costs nothing: "not found" is said to a good key,
401 to a bad one. What was found is remembered for some minutes, by the key's hash.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio

from mcp_seedream.core.errors import LimitExceeded, TokenRefused, UpstreamError, UpstreamUnavailable
from mcp_seedream.core.events import caller_id

logger = logging.getLogger(__name__)

NO_TASK = "00000000-0000-4000-8000-000000000000"
"""A task that does not exist."""
_MOST = 10_000
_STRANGERS = 500  # whose keys are asked for at once
_ASKING = 5  # seconds at most for an answer
_UNKNOWN = 5  # seconds for which a key is let in that could not be asked for
_LOOKING_ON = 15  # seconds at most, while a person waits for a page

LookUp = Callable[[list[str], str], Awaitable[object]]
"""Looks tasks up with a key; raises `UpstreamError`."""


def pasted(look_up: LookUp) -> Callable[[str], Awaitable[bool]]:
    """Whether the upstream takes a key that somebody brings; raises `UpstreamError` where it can't be asked."""

    async def check(key: str) -> bool:
        with anyio.move_on_after(_LOOKING_ON):
            try:
                await look_up([NO_TASK], key)
            except TokenRefused:
                return False
            return True
        raise UpstreamUnavailable("The upstream took too long to answer.")

    return check


class KeyVerifier:
    """Tells good keys from bad ones.

    Args:
        seconds: How long a good key is believed in; a bad one is for a tenth of that.
    """

    def __init__(self, *, seconds: float = 300) -> None:
        self._seconds = seconds
        # Apart, so that strangers with a thousand bad keys push no good one out.
        self._good: OrderedDict[bytes, float] = OrderedDict()
        self._bad: OrderedDict[bytes, float] = OrderedDict()
        self._asking: dict[bytes, _Asking] = {}

    async def good(self, key: str, look_up: LookUp) -> bool:
        """Whether the upstream takes this key. Where it can't be asked, the call itself will find out.

        However many calls come with a new key at once, one asks, and all hear what it heard.

        Raises:
            LimitExceeded: Too many strangers are being asked for at this moment.
        """
        name, now = _name(key), time.monotonic()
        if self._good.get(name, 0) > now:
            self._good.move_to_end(name)
            return True
        if self._bad.get(name, 0) > now:
            return False
        if asking := self._asking.get(name):
            await asking.done.wait()
            return asking.good
        if len(self._asking) >= _STRANGERS:
            raise LimitExceeded("many callers come with new keys at this moment", _ASKING)
        self._asking[name] = asking = _Asking()
        try:
            asking.good = await self._ask(name, key, look_up)
            return asking.good
        finally:
            self._asking.pop(name).done.set()

    def refused(self, key: str) -> None:
        """The upstream refused a key: the next call asks anew."""
        self._good.pop(_name(key), None)

    async def _ask(self, name: bytes, key: str, look_up: LookUp) -> bool:
        try:
            with anyio.fail_after(_ASKING):
                await look_up([NO_TASK], key)
        except TokenRefused:
            _remember(self._bad, name, self._seconds / 10)
            return False
        except (UpstreamError, TimeoutError) as error:
            logger.info("caller %s could not be checked: %s", caller_id(key), type(error).__name__)
            _remember(self._good, name, min(self._seconds, _UNKNOWN))
            return True
        _remember(self._good, name, self._seconds)
        return True


@dataclass(slots=True, eq=False)
class _Asking:
    """A key that is being asked for; who waits for the answer lets its call find out, if nothing was heard."""

    done: anyio.Event = field(default_factory=anyio.Event)
    good: bool = True


def _remember(known: OrderedDict[bytes, float], name: bytes, seconds: float) -> None:
    known[name] = time.monotonic() + seconds
    known.move_to_end(name)
    while len(known) > _MOST:
        known.popitem(last=False)


def _name(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
