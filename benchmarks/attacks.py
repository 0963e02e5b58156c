"""A hosted server under attack: run `python -m benchmarks.attacks` (Linux).

Each attack comes from a process of its own. Meanwhile others use the server as usual: their times, the memory of the
server and its children, and the size of its log are printed. The honest loads at the end show what limits must allow.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from benchmarks.attackers import ATTACKS
from benchmarks.hosted import HEADERS, family
from benchmarks.servers import environment, free_port, wait_for

_UPSTREAM = """
import sys, time
from mcp_seedream.catalog.table_file import read_table
from mcp_seedream.sandbox.app import Sandbox, running
class Strangers:
    def __contains__(self, token):
        return token.startswith("stranger")
sandbox = Sandbox(read_table(), seconds=1, pictures=False)
sandbox.revoked = Strangers()
with running(sandbox, port=int(sys.argv[1])):
    time.sleep(100000)
"""


@dataclass
class Seen:
    """What others saw during an attack: seconds that their requests took, and answers other than expected."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    peak: int = 0

    def row(self, name: str, log_bytes: float) -> str:
        def told(what: str, share: float) -> str:
            took = sorted(self.seconds.get(what) or [float("nan")])
            return f"{took[min(len(took) - 1, int(len(took) * share))] * 1000:.0f}"

        times = [told("health", 0.99), told("health", 1), told("get_task", 1), told("edit", 1), told("new caller", 1)]
        cells = [name, f"{self.peak / 2**20:.0f}", *times, f"{log_bytes / 1000:.0f}"]
        return f"| {' | '.join(cells)} | {dict(self.failures) or ''} |"


def small_picture() -> str:
    """A data URI of a picture that every model takes."""
    file = BytesIO()
    Image.effect_noise((600, 600), 50).convert("RGB").save(file, "JPEG")
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


async def call(web: httpx.AsyncClient, tool: str, arguments: dict[str, Any], key: str) -> dict[str, Any]:
    """One tool call.

    Raises:
        AssertionError: The answer is not a result; its text says what it is.
    """
    params = {"name": tool, "arguments": arguments}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    response = await web.post("/mcp", json=body, headers={**HEADERS, "authorization": f"Bearer {key}"})
    lines = [line[5:] for line in response.text.splitlines() if line.startswith("data:")] or [response.text]
    answer = json.loads(lines[-1])
    assert "result" in answer, f"{response.status_code} {response.text[:80]}"
    found: dict[str, Any] = answer["result"]["structuredContent"]
    assert "error" not in found, str(found["error"])[:80]
    return found


async def use(web: httpx.AsyncClient, seen: Seen) -> None:
    """The requests of others: probes, an old caller's look-ups and edits, and callers whose keys are new."""
    task = (await call(web, "generate_image", {"prompt": "a fox", "wait_seconds": 0}, "victim"))["task_id"]
    picture = small_picture()

    async def health() -> None:
        (await web.get("/health")).raise_for_status()

    async def get_task() -> None:
        await call(web, "get_task", {"task_id": task, "wait_seconds": 0}, "victim")

    async def edit() -> None:
        arguments = {"prompt": f"edit {secrets.token_hex(4)}", "image": [picture], "wait_seconds": 0}
        await call(web, "edit_image", arguments, "victim")

    async def new_caller() -> None:
        arguments = {"prompt": "a fox", "wait_seconds": 0}
        await call(web, "generate_image", arguments, f"new-{secrets.token_hex(8)}")

    async def repeat(name: str, work: Any, pause: float) -> None:
        while True:
            began = time.monotonic()
            try:
                await asyncio.wait_for(work(), 30)
            except (httpx.HTTPError, AssertionError, TimeoutError, ValueError) as error:
                seen.failures[f"{name}: {type(error).__name__} {error}"] += 1
            seen.seconds.setdefault(name, []).append(time.monotonic() - began)
            await asyncio.sleep(pause)

    works = [
        ("health", health, 0.05),
        ("get_task", get_task, 0.3),
        ("edit", edit, 0.5),
        ("new caller", new_caller, 0.5),
    ]
    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(repeat(*work))


def size(pid: int) -> int:
    """Bytes of memory of a process and its children; pages that they share count once (PSS)."""
    total = 0
    for each in family(pid):
        with suppress(OSError):
            lines = Path(f"/proc/{each}/smaps_rollup").read_text("utf-8").splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


async def sample(pid: int, seen: Seen) -> None:
    """Note the peak of the memory."""
    while True:
        seen.peak = max(seen.peak, await asyncio.to_thread(size, pid))
        await asyncio.sleep(0.05)


@asynccontextmanager
async def others(port: int, pid: int) -> AsyncIterator[Seen]:
    """Others use the server while the context lasts."""
    seen = Seen()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as web:
        tasks = [asyncio.ensure_future(use(web, seen)), asyncio.ensure_future(sample(pid, seen))]
        try:
            yield seen
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def hosted(folder: Path, files: int) -> Iterator[tuple[int, int, Path]]:
    """The hosted server; yields its port, its process and its log."""
    upstream, port = free_port(), free_port()
    env = environment(f"http://127.0.0.1:{upstream}") | {"SEEDREAM_LOG_LEVEL": "info"}
    log = folder / "log"
    server = [sys.executable, "-m", "mcp_seedream", "--transport", "http", "--port", str(port)]
    limited = ["bash", "-c", f'ulimit -n {files} && exec "$@"', "bash", *server] if files else server
    with (
        log.open("wb") as file,
        subprocess.Popen([sys.executable, "-c", _UPSTREAM, str(upstream)], env=env) as emulated,
        subprocess.Popen(limited, env=env, cwd=folder, stdout=file, stderr=file) as process,
    ):
        try:
            wait_for(upstream, emulated)
            wait_for(port, process)
            yield port, process.pid, log
        finally:
            process.terminate()
            emulated.terminate()


async def attacked(name: str, seconds: float, folder: Path) -> str:
    """Run one attack against a server of its own; returns its row."""
    with hosted(folder, ATTACKS[name].files) as (port, pid, log):
        await asyncio.sleep(1)
        idle, used = size(pid), log.stat().st_size
        async with others(port, pid) as seen:
            await asyncio.sleep(1)
            began = time.monotonic()
            command = [sys.executable, "-m", "benchmarks.attackers", name, str(port), str(seconds)]
            attacker = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
            said, _ = await attacker.communicate()
            took = time.monotonic() - began
        written = (log.stat().st_size - used) * 60 / took
    print(f"{name}: {said.decode().strip()}; idle {idle / 2**20:.0f} MiB", flush=True)
    return seen.row(name, written)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", metavar="NAMES", help=f"some of these, with commas between: {', '.join(ATTACKS)}")
    parser.add_argument("--seconds", type=float, default=15, help="that an attack lasts")
    options = parser.parse_args()
    rows = []
    for name in options.only.split(",") if options.only else ATTACKS:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(asyncio.run(attacked(name, options.seconds, Path(folder))))
    columns = ["attack", "peak MiB", "health p99 ms", "longest", "get_task", "edit", "new caller", "log kB a minute"]
    print(f"\n| {' | '.join([*columns, 'failures of others'])} |\n|{'---|' * (len(columns) + 1)}")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
