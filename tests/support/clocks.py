"""An event loop with virtual time: the clock advances as soon as no callback is ready."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

import pytest


class _Leaping(selectors.DefaultSelector):
    """What the loop would sleep for is added to its time instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:  # no timer is set: what is waited for is really outside
            return super().select(None)
        ready = super().select(0)
        if not ready:
            self.now += max(timeout, 0)
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._leaping = _Leaping()
        super().__init__(self._leaping)

    def time(self) -> float:
        return self._leaping.now


_BACKEND: tuple[str, dict[str, Any]] = ("asyncio", {"loop_factory": _Loop})
OWN_TIME = pytest.mark.parametrize("anyio_backend", [pytest.param(_BACKEND, id="own time")])
"""For tests of what happens when, within one event loop: not where threads or other processes take part."""
