"""The servers that are compared, and the upstream of all, as processes (Linux)."""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mcp_seedream import DISTRIBUTION

TOKEN = "benchmark"  # noqa: S105  (the sandbox takes any word)
PACKAGES = ("mcp", "pydantic", "httpx", "starlette", "uvicorn", "uvloop", "httptools")
VENDORS = "mcp-seedream-pro"
_BARE = str(Path(__file__).with_name("bare.py"))


@dataclass(frozen=True)
class Contender:
    """One of the servers: its name, its commands over stdio and over HTTP (a port comes last), and its calls.

    `submit` starts a generation and does not wait for it; of a bare server it is a call that does nothing.
    """

    name: str
    stdio: tuple[str, ...]
    http: tuple[str, ...]
    submit: tuple[str, dict[str, Any]]
    versions: dict[str, str]


@dataclass(frozen=True)
class Running:
    """A process that answers at a port."""

    pid: int
    port: int


def ours() -> Contender:
    command = (sys.executable, "-m", "mcp_seedream")
    call = {"prompt": "a red fox in the snow", "wait_seconds": 0}
    versions = _versions(Path(sys.executable), DISTRIBUTION)
    return Contender("ours", command, (*command, "--transport", "http", "--port"), ("generate_image", call), versions)


def bare() -> Contender:
    command = (sys.executable, _BARE)
    return Contender("bare", command, command, ("sleep", {"seconds": 0}), _versions(Path(sys.executable)))


def vendor(environment: Path) -> Contender:
    """The vendor's server, from the virtual environment it is installed in."""
    if not (environment / "bin" / VENDORS).exists():
        raise SystemExit(f"{VENDORS} is not installed in {environment}")
    command = (str(environment / "bin" / VENDORS),)
    call = {"prompt": "a red fox in the snow"}
    versions = _versions(environment / "bin/python", VENDORS)
    http = (*command, "--transport", "http", "--port")
    return Contender("vendor", command, http, ("seedream_generate_image", call), versions)


def install_vendor(environment: Path) -> None:
    """Install the vendor's newest release into a virtual environment of its own.

    What makes uvicorn faster comes along where our own environment has it, so that neither is at an advantage.
    """
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    more = [name for name in ("uvloop", "httptools") if _version(name)]
    pip = [str(environment / "bin/pip"), "install", "-q", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, VENDORS, *more], check=False, env=_without_constraints(), capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{done.stderr}{VENDORS} could not be installed; --no-vendor does without it")


def _without_constraints() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}


def _versions(python: Path, *more: str) -> dict[str, str]:
    """The versions of what matters in an environment, as far as it is there."""
    script = (
        "import importlib.metadata as m, json, sys\n"
        "print(json.dumps({d.name: d.version for d in m.distributions() if d.name in sys.argv[1:]}))"
    )
    found = subprocess.run([python, "-c", script, *more, *PACKAGES], check=True, capture_output=True, text=True).stdout
    versions: dict[str, str] = json.loads(found)
    return {name: versions[name] for name in (*more, *PACKAGES) if name in versions}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def environment(upstream: str = "http://127.0.0.1:9") -> dict[str, str]:
    """What every server is started with: the same upstream, no log, modules compiled as pip leaves them."""
    left_out = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in left_out and not name.startswith(("SEEDREAM_", "ACEDATACLOUD_", "OTEL_", "WEB_CONCURRENCY"))
    }
    return kept | {
        "ACEDATACLOUD_API_BASE_URL": upstream,
        "ACEDATACLOUD_API_TOKEN": TOKEN,
        "LOG_LEVEL": "ERROR",  # the vendor's
        "SEEDREAM_LOG_LEVEL": "error",
        "SEEDREAM_JOURNAL": "off",
    }


@contextmanager
def serving(contender: Contender, upstream: str, folder: Path) -> Iterator[Running]:
    """A contender over HTTP, from when it answers to the end of the context."""
    port = free_port()
    with started([*contender.http, str(port)], port, environment(upstream), folder) as pid:
        yield Running(pid, port)


@contextmanager
def upstream(folder: Path, seconds: float = 2) -> Iterator[str]:
    """The sandbox without pictures, in a process of its own; yields its address. `seconds` is what a picture takes."""
    port = free_port()
    command = [sys.executable, "-m", "mcp_seedream.sandbox", "--no-pictures"]
    with started([*command, "--port", str(port), "--seconds", str(seconds)], port, environment(), folder):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def started(
    command: Sequence[str],
    port: int,
    env: dict[str, str] | None = None,
    folder: Path | None = None,
    log: BinaryIO | int = subprocess.DEVNULL,
) -> Iterator[int]:
    """A process, from when something listens at its port to the end of the context; yields its id."""
    with subprocess.Popen(command, env=env, cwd=folder, stdout=subprocess.DEVNULL, stderr=log) as process:
        try:
            wait_for(port, process)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for(port: int, process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until something listens at a port."""
    end = time.monotonic() + 60
    while time.monotonic() < end and (process is None or process.poll() is None):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"nothing answers at port {port}")


def free_port() -> int:
    """A port that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used so far, as its scheduler counts them: by the nanosecond, not by ticks."""
    used = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            used += int((thread / "schedstat").read_text("utf-8").split()[0])
    return used / 1e9


def memory(pid: int) -> int:
    """Bytes of memory that a process has now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text("utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
