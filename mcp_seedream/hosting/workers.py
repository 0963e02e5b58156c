"""Runs the app with uvicorn: in this process, or in several worker processes on one port."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from mcp_seedream.core.errors import ConfigurationError
from mcp_seedream.hosting.connections import BoundedProtocol, Connections

logger = logging.getLogger("uvicorn.error")  # the logger of uvicorn's other messages at startup
_OPEN_FILES = 65_536
_BACKLOG = 2048  # connections waiting to be accepted
_NO_IPV6_ERRORS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_CONNECTIONS = 20_000  # of clients; fewer if the limit of open files is lower
LOOPBACK_PROXIES = ("127.0.0.1", "::1")
LINGER = 2
"""Seconds that open streams may delay the end of a server that has finished all calls."""


def serve_in_process(
    app: Starlette,
    host: str,
    port: int,
    *,
    metrics_port: int | None = None,
    trusted_proxies: Sequence[str] = LOOPBACK_PROXIES,
) -> None:
    """Serve one app in this process until a signal.

    Args:
        app: The app.
        host: Name or address to listen on.
        port: Port to listen on.
        metrics_port: A separate port for `/metrics`.
        trusted_proxies: Addresses and networks whose `X-Forwarded-For` is used.

    Raises:
        ConfigurationError: The address cannot be bound.
        SystemExit: The app could not start.
    """
    server = uvicorn.Server(_config(app, trusted_proxies))
    with suppress(KeyboardInterrupt):
        server.run(open_listeners(host, port, metrics_port))
    if not server.started:
        sys.exit(STARTUP_FAILURE)


def serve_in_workers(
    factory: str, workers: int, sockets: list[socket.socket], *, trusted_proxies: Sequence[str] = LOOPBACK_PROXIES
) -> int:
    """Serve in several processes until a signal; a process that dies is replaced.

    Args:
        factory: `module:function` that makes the app of one process.
        workers: Number of processes.
        sockets: Listening sockets, which they share.
        trusted_proxies: Addresses and networks whose `X-Forwarded-For` is used.

    Returns:
        The exit status: 2 if the processes could not start.
    """
    config = _config(factory, trusted_proxies, workers, factory=True)
    supervisor = Multiprocess(config, sockets)
    supervisor.run()
    return 2 if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes) else 0


def _config(app: Starlette | str, trusted_proxies: Sequence[str], workers: int = 1, **options: Any) -> uvicorn.Config:
    files = raise_open_file_limit()
    return uvicorn.Config(
        app,
        workers=workers,
        loop="auto" if os.name == "nt" else "mcp_seedream.hosting.connections:new_event_loop",
        http=partial(BoundedProtocol, connections=Connections(maximum=min(_CONNECTIONS, files * 3 // 4))),  # type: ignore[arg-type]
        ws="none",
        forwarded_allow_ips=list(trusted_proxies),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=LINGER,
        timeout_keep_alive=75,  # longer than proxies keep idle connections, so that they send no call into a closed one
        timeout_worker_healthcheck=10,  # a slow worker may have calls in progress; but signals wait for the check
        **options,
    )


def open_listeners(host: str, port: int, metrics_port: int | None = None) -> list[socket.socket]:
    """Bind a listening socket for each address of a host and each port, before the app starts.

    uvicorn would bind after the app has started, and log both that it has started and that the address is in use.
    Clients that connect earlier wait until the app has started.

    Raises:
        ConfigurationError: An address cannot be bound.
    """
    ports = (port,) if metrics_port is None else (port, metrics_port)
    try:
        addresses = [
            (each, family, address)
            for each in ports
            for family, _, _, _, address in socket.getaddrinfo(
                host, each, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        ]
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"--host {host} can't be used: {getattr(error, 'strerror', error)}.") from error
    listeners: list[socket.socket] = []
    for number, family, address in dict.fromkeys(addresses):
        try:
            listeners.append(socket.create_server(address, family=family, backlog=_BACKLOG))
        except OSError as error:
            if family == socket.AF_INET6 and error.errno in _NO_IPV6_ERRORS and len(addresses) > len(ports):
                continue  # this machine has no IPv6
            for each in listeners:
                each.close()
            why = os.strerror(error.errno) if error.errno else str(error)
            raise ConfigurationError(f"Port {number} of {address[0]} can't be used: {why}.") from error
    for each in listeners:
        each.set_inheritable(True)
        name, number = each.getsockname()[:2]
        shown = f"[{name}]" if ":" in name else name
        logger.info("Uvicorn running on http://%s:%d (Press CTRL+C to quit)", shown, number)
    return listeners


def raise_open_file_limit() -> int:
    """Raise the soft limit of open files (often 1,024) up to the hard one: each call needs one or two files.

    Returns:
        The soft limit.
    """
    if sys.platform == "win32":
        return _OPEN_FILES
    import resource  # noqa: PLC0415  (not on Windows)

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft if soft != resource.RLIM_INFINITY else _OPEN_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


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
