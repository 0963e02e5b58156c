"""Connections of HTTP clients: time-outs without a request, a maximum number, and a full file table.

uvicorn waits for ever for the first request of a connection, and accepts connections until the process has no files
left. asyncio then tries to accept each waiting connection, logs a traceback for each, and uses all of a core.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections import OrderedDict
from contextlib import suppress
from typing import Any

from uvicorn.loops.auto import auto_loop_factory
from uvicorn.protocols.http.auto import AutoHTTPProtocol

logger = logging.getLogger(__name__)
_NO_FILES = (errno.EMFILE, errno.ENFILE)
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Connections:
    """The connections of one process.

    Args:
        maximum: The largest number of connections. Above it, a new connection replaces the one that has been idle
            (without a request in progress) longest. If none is idle, the new one is closed with 503.
        head_seconds: The time for the headers of a request to arrive: from the start of the connection, or from their
            first byte. Between two requests, uvicorn's `timeout_keep_alive` applies.
        unread_body_seconds: The time for the rest of a body to arrive after the response to its request.
    """

    def __init__(self, maximum: int, *, head_seconds: float = 30, unread_body_seconds: float = 300) -> None:
        self._maximum = maximum
        self.head_seconds = head_seconds
        self.unread_body_seconds = unread_body_seconds
        self._all: set[BoundedProtocolMixin] = set()
        self._idle: OrderedDict[BoundedProtocolMixin, None] = OrderedDict()  # ordered by idle time, the longest first

    def add(self, protocol: BoundedProtocolMixin) -> bool:
        """Add a new connection; False if there are too many."""
        if len(self._all) >= self._maximum:
            logger.warning("%d connections are open, which is the maximum", len(self._all))
            if not self._idle:
                return False
            oldest = next(iter(self._idle))
            self.remove(oldest)
            oldest.transport.close()
        self._all.add(protocol)
        self._idle[protocol] = None
        return True

    def remove(self, protocol: BoundedProtocolMixin) -> None:
        """Remove a connection that is closed; one that was removed before is ignored."""
        self._all.discard(protocol)
        self._idle.pop(protocol, None)

    def set_idle(self, protocol: BoundedProtocolMixin, *, idle: bool) -> None:
        """Record whether a connection has no request in progress."""
        if not idle:
            self._idle.pop(protocol, None)
        elif protocol in self._all and protocol not in self._idle:
            self._idle[protocol] = None


class BoundedProtocolMixin(asyncio.Protocol):
    """Adds the limits of `Connections` to one of uvicorn's HTTP protocols, which has no options for them."""

    # Attributes of both protocols. `cycle` is the request in progress, or the last one.
    transport: asyncio.Transport
    cycle: Any

    def __init__(self, *args: Any, connections: Connections, **options: Any) -> None:
        super().__init__(*args, **options)
        self._connections = connections
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._connections.add(self):
            self._start_timer()
        else:
            self.transport.write(_FULL)
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.remove(self)
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_progress:
            self._stop_timer()
            self._connections.set_idle(self, idle=False)
        elif self._timer is None:
            self._start_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()  # type: ignore[misc]
        self._connections.set_idle(self, idle=not self._in_progress)

    @property
    def _in_progress(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_timer(self) -> None:
        sends_body = self.cycle is not None and self.cycle.more_body
        limits = self._connections
        seconds = limits.unread_body_seconds if sends_body else limits.head_seconds
        self._timer = asyncio.get_running_loop().call_later(seconds, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class BoundedProtocol(BoundedProtocolMixin, AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """The HTTP protocol of uvicorn (httptools if it is installed, otherwise h11) with the limits of `Connections`."""


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Create uvicorn's event loop. If no more files can be opened, it refuses connections; uvloop does so by itself."""
    loop = auto_loop_factory()()
    loop.set_exception_handler(RefuseConnections())
    return loop


class RefuseConnections:
    """Exception handler of an asyncio loop: if it is out of files, close all waiting connections.

    Closing a connection requires accepting it, which needs a file: one spare file is kept open for this. asyncio
    pauses for a second before it accepts connections again.
    """

    def __init__(self) -> None:
        self._spare = os.open(os.devnull, os.O_RDONLY)

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error, listener = context.get("exception"), context.get("socket")
        if not isinstance(error, OSError) or error.errno not in _NO_FILES or listener is None:
            loop.default_exception_handler(context)
            return
        logger.error("no more files can be opened, so connections are refused: raise the limit (ulimit -n)")
        os.close(self._spare)
        accepting = socket.socket(fileno=listener.fileno())
        with suppress(OSError):
            while True:
                accepting.accept()[0].close()
        accepting.detach()
        with suppress(OSError):
            self._spare = os.open(os.devnull, os.O_RDONLY)
