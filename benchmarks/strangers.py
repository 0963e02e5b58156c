"""Strangers with random keys at a hosted process, beside callers with good ones: `python -m benchmarks.strangers`.

Strangers send a request with a new random key as soon as the last one was answered. Meanwhile `/health` is requested
twenty times a second, and a new caller with a good key comes four times a second (Linux).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from benchmarks.servers import cpu, free_port, memory, started

UPSTREAM = """
import sys, asyncio, uvicorn
port, delay = int(sys.argv[1]), float(sys.argv[2])
def body(status, code):
    text = b'{"error": {"code": "%s", "message": "No."}, "trace_id": "x"}' % code
    return {"type": "http.response.start", "status": status,
            "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(text))]}, text
GOOD, BAD = body(404, b"not_found"), body(401, b"invalid_token")
async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await asyncio.sleep(delay)
    start, text = GOOD if b"good" in dict(scope["headers"]).get(b"authorization", b"") else BAD
    await send(start)
    await send({"type": "http.response.body", "body": text})
uvicorn.run(app, port=port, log_level="warning", backlog=4096, lifespan="off")
"""
_LIST = b'{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}'


class Connection:
    """A connection to the server that is opened again whenever it was closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writer: asyncio.StreamWriter | None = None

    async def request(self, method: str, path: str, headers: str = "", body: bytes = b"") -> int:
        """The status of the answer; 0: the connection was closed instead."""
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
        try:
            if self._writer is None:
                self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
            self._writer.write(head.encode() + body)
            answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
            length = answer.partition(b"content-length:")[2].split(b"\r\n")[0]
            await self._reader.readexactly(int(length or 0))
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return 0
        if not length or b"connection: close" in answer:
            self.close()  # a stream
        return int(answer.split()[1])

    def close(self) -> None:
        if self._writer:
            self._writer.close()
        self._writer = None


def endpoint_headers(key: str, address: str = "") -> str:
    forwarded = f"X-Forwarded-For: {address}\r\n" if address else ""
    return (
        f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\n{forwarded}"
        "Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2025-06-18\r\n"
    )


async def stranger(port: int, until: float, address: str, statuses: Counter[int]) -> None:
    connection = Connection(port)
    while time.monotonic() < until:
        headers = endpoint_headers(secrets.token_hex(16), address)
        status = await connection.request("POST", "/mcp", headers, _LIST)
        statuses[status] += 1
        if not status:
            await asyncio.sleep(0.2)
    connection.close()


async def attack(port: int, count: int, seconds: float, addresses: int) -> Counter[int]:
    until, statuses = time.monotonic() + seconds, Counter[int]()
    names = [f"10.{n % addresses // 65536}.{n % addresses // 256 % 256}.{n % addresses % 256}" for n in range(count)]
    work = [stranger(port, until, name if addresses > 1 else "", statuses) for name in names]
    await asyncio.wait([asyncio.create_task(each) for each in work], timeout=seconds + 2)
    return statuses


async def health(port: int, until: float) -> list[float]:
    """Seconds that each answer of `/health` took, over new connections."""
    took = []
    while time.monotonic() < until:
        began, connection = time.perf_counter(), Connection(port)
        assert await connection.request("GET", "/health") == 200
        took.append(time.perf_counter() - began)
        connection.close()
        await asyncio.sleep(0.05)
    return took


async def new_callers(port: int, until: float, address: str) -> list[tuple[int, float]]:
    """Status and seconds of the first request of callers with good keys."""

    async def come() -> tuple[int, float]:
        began, connection = time.perf_counter(), Connection(port)
        headers = endpoint_headers(f"good-{secrets.token_hex(8)}", address)
        status = await connection.request("POST", "/mcp", headers, _LIST)
        connection.close()
        return status, time.perf_counter() - began

    coming = []
    while time.monotonic() < until:
        coming.append(asyncio.create_task(come()))
        await asyncio.sleep(0.25)
    return list(await asyncio.gather(*coming))


async def measure(port: int, pid: int, options: argparse.Namespace) -> None:
    command = [sys.executable, "-m", "benchmarks.strangers", "--attack", str(port)]
    command += ["--strangers", str(options.strangers), "--seconds", str(options.seconds + options.settle)]
    attacking = await asyncio.create_subprocess_exec(
        *command, "--addresses", str(options.addresses), stdout=subprocess.PIPE
    )
    used, until = cpu(pid), time.monotonic() + options.settle + options.seconds
    await asyncio.sleep(options.settle)
    caller = "192.0.2.1" if options.addresses > 1 else ""
    took, callers = await asyncio.gather(health(port, until), new_callers(port, until, caller))
    used = cpu(pid) - used
    statuses: dict[str, int] = json.loads((await attacking.communicate())[0])
    took.sort()
    waits = sorted(seconds for _, seconds in callers)
    print(f"strangers' answers {statuses}; CPU {used:.1f} s, {used / sum(statuses.values()) * 1000:.2f} ms each")
    print(f"/health: p50 {took[len(took) // 2] * 1000:.0f} ms, p99 {took[len(took) * 99 // 100] * 1000:.0f} ms")
    print(f"new good callers: {dict(Counter(status for status, _ in callers))}, ", end="")
    print(f"p50 {waits[len(waits) // 2]:.2f} s, longest {waits[-1]:.2f} s")
    print(f"memory {memory(pid) // 2**20} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--strangers", type=int, default=600, help="requests in flight")
    parser.add_argument("--addresses", type=int, default=1, help="of strangers, by X-Forwarded-For; 1: all have ours")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--settle", type=float, default=3, help="before anything is measured")
    parser.add_argument("--delay", type=float, default=0.05, help="seconds that the upstream takes for an answer")
    parser.add_argument("--attack", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        run = attack(options.attack, options.strangers, options.seconds, options.addresses)
        print(json.dumps(asyncio.run(run)))
        return
    upstream, port = free_port(), free_port()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        log = stack.enter_context((folder / "log").open("wb"))
        command = [sys.executable, "-c", UPSTREAM, str(upstream), str(options.delay)]
        stack.enter_context(started(command, upstream))
        env = os.environ | {"ACEDATACLOUD_API_BASE_URL": f"http://127.0.0.1:{upstream}"}
        command = [sys.executable, "-m", "mcp_seedream", "--transport", "http", "--port", str(port)]
        pid = stack.enter_context(started(command, port, env, log=log))
        asyncio.run(measure(port, pid, options))
        print(f"log {(folder / 'log').stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
