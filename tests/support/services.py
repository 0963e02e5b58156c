"""Starts Redis, nginx and servers as processes, for tests of several replicas. Missing programs skip the test."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log; {user}
events {{ worker_connections 256; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream replicas {{ {replicas} }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://replicas; proxy_http_version 1.1; proxy_buffering off; proxy_read_timeout 120s;
      proxy_set_header Host $http_host; proxy_set_header Connection "";
      add_header X-Replica $upstream_addr always;
    }}
  }}
}}
"""


def program(name: str) -> str:
    if found := shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin"):
        return found
    pytest.skip(f"{name} is not installed")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def started(command: Sequence[str], ready: Callable[[], bool], **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process, from when it is ready to the end of the context."""
    process = subprocess.Popen(command, env={**os.environ, **more}, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while not ready():
            assert process.poll() is None, f"{command[0]} ended"
            assert time.monotonic() < end, f"{command[0]} is not ready"
            time.sleep(0.05)
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def redis_running(folder: Path, port: int) -> Iterator[str]:
    """Yields its URL; it keeps nothing."""
    command = [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    with started([*command, "--save", "", "--appendonly", "no", "--loglevel", "warning"], lambda: listens(port)):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def nginx_running(folder: Path, port: int, replicas: Sequence[int]) -> Iterator[str]:
    """In front of replicas on these ports, in turn; each answer says which it was in `x-replica`."""
    program("nginx")
    servers = " ".join(f"server 127.0.0.1:{replica} fail_timeout=60s;" for replica in replicas)
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, user=user, replicas=servers, port=port))
    with started([program("nginx"), "-p", str(folder), "-c", str(config)], lambda: listens(port)):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def replica_running(port: int, *arguments: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """This server over HTTP, as a process of its own."""
    command = [sys.executable, "-m", "mcp_seedream", "--transport", "http", "--port", str(port), *arguments]
    with started(command, lambda: healthy(port), **settings) as process:
        yield process


def healthy(port: int) -> bool:
    """Whether one of these servers answers there."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx.TransportError:
        return False


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def heard(number: signal.Signals) -> Iterator[None]:
    """Processes begun meanwhile hear a signal, though the tests may run in a shell's background."""
    before = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(number, before)
