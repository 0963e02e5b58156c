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
from dataclasses import dataclass

import anyio

from mcp_seedream.errors import TokenRefused, UpstreamError, UpstreamUnavailable
from mcp_seedream.observing import caller_id

logger = logging.getLogger(__name__)

NO_TASK = "00000000-0000-4000-8000-000000000000"
"""A task that does not exist."""
_MOST = 10_000
_LOOKING_ON = 15  # seconds at most, while a person waits for a page

LookUp = Callable[[list[str], str], Awaitable[object]]
"""Looks tasks up with a key; raises `UpstreamError`."""


@dataclass(frozen=True, slots=True)
class Caller:
    """One caller: the key that goes upstream, and what stands for it in logs."""

    key: str

    @property
    def id(self) -> str:
        return caller_id(self.key)


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


class Callers:
    """Tells good keys from bad ones.

    Args:
        seconds: How long a good key is believed in; a bad one is for a tenth of that.
    """

    def __init__(self, *, seconds: float = 300) -> None:
        self._seconds = seconds
        self._known: OrderedDict[bytes, tuple[bool, float]] = OrderedDict()
        self._asking: dict[bytes, anyio.Event] = {}

    async def good(self, key: str, look_up: LookUp) -> bool:
        """Whether the upstream takes this key. Where it can't be asked, the call itself will find out.

        However many calls come with a new key at once, one asks.
        """
        name = _name(key)
        while name in self._asking:
            await self._asking[name].wait()
        if (known := self._remembered(name)) is not None:
            return known
        self._asking[name] = anyio.Event()
        try:
            return await self._ask(name, key, look_up)
        finally:
            self._asking.pop(name).set()

    def refused(self, key: str) -> None:
        """The upstream refused a key: the next call asks anew."""
        self._known.pop(_name(key), None)

    async def _ask(self, name: bytes, key: str, look_up: LookUp) -> bool:
        try:
            await look_up([NO_TASK], key)
        except TokenRefused:
            self._remember(name, good=False)
            return False
        except UpstreamError as error:
            logger.info("caller %s could not be checked: %s", caller_id(key), error.code)
            return True
        self._remember(name, good=True)
        return True

    def _remembered(self, name: bytes) -> bool | None:
        good, until = self._known.get(name, (None, 0.0))
        return good if until > time.monotonic() else None

    def _remember(self, name: bytes, *, good: bool) -> None:
        self._known[name] = good, time.monotonic() + (self._seconds if good else self._seconds / 10)
        self._known.move_to_end(name)
        while len(self._known) > _MOST:
            self._known.popitem(last=False)


def _name(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
