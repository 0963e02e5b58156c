"""Connections of HTTP clients: time-outs without a request, a maximum number, and a full file table.

uvicorn waits for ever for the first request of a connection, and accepts connections until the process has no files
left. asyncio then tries to accept each waiting connection, logs a traceback for each, and uses all of a core.

uvicorn also keeps responses in memory for ever that clients do not read, and with httptools any number of headers,
trailers and pipelined requests.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections import OrderedDict, deque
from contextlib import suppress
from typing import Any

from uvicorn.loops.auto import auto_loop_factory
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.http.h11_impl import H11Protocol

logger = logging.getLogger(__name__)
_NO_FILES = (errno.EMFILE, errno.ENFILE)
_MAX_HEAD = 64 * 1024  # bytes of headers, trailers or chunk extensions in a row; h11 has the same limit
_MAX_HEADERS = 200
_MAX_PIPELINED = 16  # requests of a connection that wait for the response to an earlier one
_WRITE_BUFFER = 16 * 1024  # bytes of a response that the client has not read, from which they are counted
_MIN_READ = 64 * 1024  # bytes of a response that a client has to read in `stalled_seconds`
_HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Connections:
    """The connections of one process.

    Args:
        maximum: The largest number of connections. Above it, a new connection replaces the one that has been idle
            (without a request in progress) longest. If none is idle, the new one is closed with 503.
        head_seconds: The time for the headers of a request to arrive: from the start of the connection, or from their
            first byte. Between two requests, uvicorn's `timeout_keep_alive` applies.
        unread_body_seconds: The time for the rest of a body to arrive after the response to its request.
        stalled_seconds: The time in which a client has to read 64 KiB of a response.
        unread_bytes: The largest size of all responses together that clients have not read. Above it, the connection
            that has been stalled longest is closed.
    """

    def __init__(
        self,
        maximum: int,
        *,
        head_seconds: float = 30,
        unread_body_seconds: float = 300,
        stalled_seconds: float = 30,
        unread_bytes: int = 64 * 2**20,
    ) -> None:
        self._maximum = maximum
        self.head_seconds = head_seconds
        self.unread_body_seconds = unread_body_seconds
        self.stalled_seconds = stalled_seconds
        self._most_unread = unread_bytes
        self._unread: OrderedDict[BoundedProtocolMixin, int] = OrderedDict()  # the one that is stalled longest first
        self._all_unread = 0
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
            oldest.close()
        self._all.add(protocol)
        self._idle[protocol] = None
        return True

    def remove(self, protocol: BoundedProtocolMixin) -> None:
        """Remove a connection that is closed; one that was removed before is ignored."""
        self._all.discard(protocol)
        self._idle.pop(protocol, None)
        self.set_unread(protocol, 0)

    def set_idle(self, protocol: BoundedProtocolMixin, *, idle: bool) -> None:
        """Record whether a connection has no request in progress."""
        if not idle:
            self._idle.pop(protocol, None)
        elif protocol in self._all and protocol not in self._idle:
            self._idle[protocol] = None

    def set_unread(self, protocol: BoundedProtocolMixin, size: int) -> None:
        """Note how many bytes wait until the client reads; 0 if it reads fast enough."""
        self._all_unread += size - self._unread.get(protocol, 0)
        if not size:
            self._unread.pop(protocol, None)
            return
        self._unread[protocol] = size
        while self._all_unread > self._most_unread and len(self._unread) > 1:
            stalled = next(iter(self._unread))
            self.set_unread(stalled, 0)
            stalled.transport.abort()
            logger.warning("a connection was closed, because clients do not read their responses")


class BoundedProtocolMixin(asyncio.Protocol):
    """Adds the limits of `Connections` to one of uvicorn's HTTP protocols, which has no options for them."""

    # Attributes of both protocols. `cycle` is the request in progress, or the last one.
    transport: asyncio.Transport
    cycle: Any

    def __init__(self, *args: Any, connections: Connections, **options: Any) -> None:
        super().__init__(*args, **options)
        self._connections = connections
        self._timer: asyncio.TimerHandle | None = None
        self._stalled_timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Close the connection at once: `transport.close` waits for ever for a client that does not read."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(_WRITE_BUFFER)
        if self._connections.add(self):
            self._start_timer()
        else:
            self.transport.write(_FULL)
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.remove(self)
        self._stop_timer()
        self._stop_stalled_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._note_unread()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_stalled_timer()
        self._connections.set_unread(self, 0)

    def timeout_keep_alive_handler(self) -> None:
        self.close()

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
        self._timer = asyncio.get_running_loop().call_later(seconds, self.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _note_unread(self) -> None:
        size = self.transport.get_write_buffer_size()
        self._connections.set_unread(self, size)
        self._stop_stalled_timer()
        delay = self._connections.stalled_seconds
        self._stalled_timer = asyncio.get_running_loop().call_later(delay, self._check_progress, size)

    def _check_progress(self, unread: int) -> None:
        """Close the connection if the client has not read enough of what it had not read before."""
        if self.transport.get_write_buffer_size() > unread - _MIN_READ:
            self.transport.abort()
        else:
            self._note_unread()

    def _stop_stalled_timer(self) -> None:
        if self._stalled_timer is not None:
            self._stalled_timer.cancel()
            self._stalled_timer = None


class BoundedHeadMixin(asyncio.Protocol):
    """Adds the limits of h11 to uvicorn's protocol with httptools: of headers and of pipelined requests.

    Trailers are ignored: RFC 9110, 6.5.1 forbids to merge them with headers, as uvicorn does.
    """

    pipeline: deque[Any]
    headers: list[tuple[bytes, bytes]]
    _head_size = 0
    _in_head = False

    def data_received(self, data: bytes) -> None:
        self._head_size += len(data)
        super().data_received(data)
        if self._head_size > _MAX_HEAD:
            logger.warning("a connection was closed: more than %d bytes of headers", _MAX_HEAD)
            transport: asyncio.Transport = self.transport  # type: ignore[attr-defined]
            transport.write(_HEAD_TOO_LARGE)
            transport.close()

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()  # type: ignore[misc]

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return
        if len(self.headers) >= _MAX_HEADERS:
            raise ValueError("Too many headers")  # uvicorn responds with 400
        super().on_header(name, value)  # type: ignore[misc]

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= _MAX_PIPELINED:
            raise ValueError("Too many pipelined requests")
        self._head_size, self._in_head = 0, False
        super().on_headers_complete()  # type: ignore[misc]

    def on_body(self, body: bytes) -> None:
        self._head_size = 0
        super().on_body(body)  # type: ignore[misc]

    def on_message_complete(self) -> None:
        self._head_size = 0
        super().on_message_complete()  # type: ignore[misc]


if AutoHTTPProtocol is H11Protocol:

    class BoundedProtocol(BoundedProtocolMixin, H11Protocol):
        """Without httptools."""

else:

    class BoundedProtocol(BoundedProtocolMixin, BoundedHeadMixin, AutoHTTPProtocol):  # type: ignore[misc, valid-type, no-redef]
        """With httptools."""


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
