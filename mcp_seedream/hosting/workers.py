"""Serving by uvicorn: one app in this process, or several processes on one port, of which none outlives the others."""

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

logger = logging.getLogger("uvicorn.error")  # the rest of the start is told by it
_FILES = 65_536
_BACKLOG = 2048  # connections that wait to be accepted
_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
LINGER = 2
"""Seconds that who only listens keeps a server that has answered everything else."""


class _Ways(TypedDict):
    log_config: None
    access_log: bool
    timeout_graceful_shutdown: int
    timeout_keep_alive: int
    timeout_worker_healthcheck: int


_WAYS = _Ways(
    log_config=None,
    access_log=False,
    timeout_graceful_shutdown=LINGER,
    timeout_keep_alive=75,  # longer than proxies keep idle connections: else they send a call into one just closed
    timeout_worker_healthcheck=10,  # a worker that is slow has calls that should not be lost; signals wait, though
)


def serve_here(app: Starlette, host: str, port: int) -> None:
    """Serve one app in this process, until a signal.

    Raises:
        ConfigurationError: The address can't be listened to.
        SystemExit: The app could not start.
    """
    take_files()
    server = uvicorn.Server(uvicorn.Config(app, workers=1, **_WAYS))
    with suppress(KeyboardInterrupt):
        server.run(listening(host, port))
    if not server.started:
        sys.exit(STARTUP_FAILURE)


def serve_in_workers(factory: str, workers: int, sockets: list[socket.socket]) -> int:
    """Serve in several processes, until a signal; one that dies is replaced.

    Args:
        factory: `module:function` that makes the app of one process.
        workers: Number of processes.
        sockets: What they accept connections from.

    Returns:
        The exit status: 2 if the processes could not start.
    """
    take_files()
    supervisor = Multiprocess(uvicorn.Config(factory, factory=True, workers=workers, **_WAYS), sockets)
    supervisor.run()
    return 2 if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes) else 0


def listening(host: str, port: int) -> list[socket.socket]:
    """A socket for each address of a host. Clients that connect before the app has started wait for it.

    uvicorn binds after the app has started, and then says both that it has started and that the address is in use.

    Raises:
        ConfigurationError: One of them can't be listened to.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"--host {host} can't be used: {getattr(error, 'strerror', error)}.") from error
    listeners: list[socket.socket] = []
    for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
        try:
            listeners.append(socket.create_server(address, family=family, backlog=_BACKLOG))
        except OSError as error:
            if family == socket.AF_INET6 and error.errno in _NO_SUCH_ADDRESS and len(found) > 1:
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


def take_files() -> None:
    """Open files for as many calls as are let in, if the system gives them: many begin with 1,024 for a process."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415  (not on Windows)

    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if most == resource.RLIM_INFINITY else min(most, _FILES)
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


@contextmanager
def metrics_folder(folder: str | None) -> Iterator[str]:
    """An empty folder for what the processes count: the one that is named, or one that ends with the context."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="seedream-metrics-", ignore_cleanup_errors=True) as made:
            yield made
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    for file in Path(folder).glob("*.db"):
        file.unlink()
    yield folder
