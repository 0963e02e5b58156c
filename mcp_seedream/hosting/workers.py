"""Runs the app with uvicorn: in this process, or in several worker processes on one port."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypedDict

import uvicorn
from starlette.applications import Starlette
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from mcp_seedream.core.errors import ConfigurationError

logger = logging.getLogger("uvicorn.error")  # the logger of uvicorn's other messages at startup
_OPEN_FILES = 65_536
_BACKLOG = 2048  # connections waiting to be accepted
_NO_IPV6_ERRORS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
LINGER = 2
"""Seconds that open streams may delay the end of a server that has answered all calls."""


class _Options(TypedDict):
    log_config: None
    access_log: bool
    timeout_graceful_shutdown: int
    timeout_keep_alive: int
    timeout_worker_healthcheck: int


_OPTIONS = _Options(
    log_config=None,
    access_log=False,
    timeout_graceful_shutdown=LINGER,
    timeout_keep_alive=75,  # longer than proxies keep idle connections, so that they do not send calls on a closed one
    timeout_worker_healthcheck=10,  # a slow worker may still answer calls; but signals wait for the check
)


def serve_in_process(app: Starlette, host: str, port: int) -> None:
    """Serve one app in this process until a signal.

    Raises:
        ConfigurationError: The address cannot be bound.
        SystemExit: The app could not start.
    """
    raise_open_file_limit()
    server = uvicorn.Server(uvicorn.Config(app, workers=1, **_OPTIONS))
    with suppress(KeyboardInterrupt):
        server.run(open_listeners(host, port))
    if not server.started:
        sys.exit(STARTUP_FAILURE)


def serve_in_workers(factory: str, workers: int, sockets: list[socket.socket]) -> int:
    """Serve in several processes until a signal; a process that dies is replaced.

    Args:
        factory: `module:function` that makes the app of one process.
        workers: Number of processes.
        sockets: Listening sockets, which they share.

    Returns:
        The exit status: 2 if the processes could not start.
    """
    raise_open_file_limit()
    supervisor = Multiprocess(uvicorn.Config(factory, factory=True, workers=workers, **_OPTIONS), sockets)
    supervisor.run()
    return 2 if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes) else 0


def open_listeners(host: str, port: int) -> list[socket.socket]:
    """Bind a listening socket for each address of a host, before the app starts.

    uvicorn would bind after the app has started, and log both that it has started and that the address is in use.
    Clients that connect earlier wait until the app has started.

    Raises:
        ConfigurationError: An address cannot be bound.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"--host {host} can't be used: {getattr(error, 'strerror', error)}.") from error
    listeners: list[socket.socket] = []
    for family, address in dict.fromkeys((family, address) for family, _, _, _, address in addresses):
        try:
            listeners.append(socket.create_server(address, family=family, backlog=_BACKLOG))
        except OSError as error:
            if family == socket.AF_INET6 and error.errno in _NO_IPV6_ERRORS and len(addresses) > 1:
                continue  # this machine has no IPv6
            for each in listeners:
                each.close()
            why = os.strerror(error.errno) if error.errno else str(error)
            raise ConfigurationError(f"Port {port} of {address[0]} can't be used: {why}.") from error
    for each in listeners:
        each.set_inheritable(True)
        name, number = each.getsockname()[:2]
        shown = f"[{name}]" if ":" in name else name
        logger.info("Uvicorn running on http://%s:%d (Press CTRL+C to quit)", shown, number)
    return listeners


def raise_open_file_limit() -> None:
    """Raise the soft limit of open files (often 1,024) up to the hard one: each call needs one or two files."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415  (not on Windows)

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def metrics_folder(folder: str | None) -> Iterator[str]:
    """An empty folder in which the processes share their metrics: `folder`, or a temporary one."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="seedream-metrics-", ignore_cleanup_errors=True) as temporary:
            yield temporary
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    for file in Path(folder).glob("*.db"):
        file.unlink()
    yield folder
