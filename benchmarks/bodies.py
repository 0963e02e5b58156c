"""Large and hostile request bodies: run `python -m benchmarks.bodies [SCENARIO ...]` (Linux).

Each scenario starts a hosted server and a sandbox as processes, and sends bodies all at once. Printed for each: the
statuses of the responses, the seconds until the last one, the server's peak memory, and latencies of `/health` and of a
`get_task` of another caller, measured by a process that sends nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from benchmarks import servers

MB = 10**6
VERSION = "2025-06-18"


def message(tool: str, arguments: str, meta: str = "{}") -> bytes:
    """A tool call; `arguments` and `meta` are JSON."""
    params = f'{{"name": "{tool}", "_meta": {meta}, "arguments": {arguments}}}'
    return f'{{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {params}}}'.encode()


def nested(item: str, size: int) -> bytes:
    """A call with an array of as many items as `size` bytes have."""
    return message("generate_image", f'{{"prompt": "a", "x": [{",".join([item] * (size // (len(item) + 1)))}]}}')


def picture(size: int) -> bytes:
    """An edit of one JPEG with about `size` bytes of base64."""
    file = io.BytesIO()
    Image.effect_noise((3000, 2000), 90).convert("RGB").save(file, "JPEG", quality=85)
    data = file.getvalue()
    data += os.urandom(max(0, size * 3 // 4 - len(data)))  # after the end of the picture
    text = base64.b64encode(data).decode()
    return message("edit_image", json.dumps({"prompt": "a", "image": text, "wait_seconds": 20}))


Body = tuple[bytes, int, Callable[[int], str]]
"""A body, how many of it are sent, and the key of each."""
SCENARIOS: dict[str, Callable[[], Body]] = {
    "arrays": lambda: (nested("[]", 50 * MB), 1, lambda _: "one"),
    "objects": lambda: (nested("{}", 50 * MB), 4, lambda _: "one"),
    "prompt": lambda: (message("generate_image", json.dumps({"prompt": "a" * 50 * MB})), 4, lambda _: "one"),
    "spaced": lambda: (message("edit_image", json.dumps({"image": "aa " * 16_000_000})), 4, lambda _: "one"),
    "strings": lambda: (nested('"' + "a" * 3000 + '"', 49 * MB), 5, lambda n: f"key-{n % 5}"),
    "pictures": lambda: (picture(49 * MB), 20, lambda n: f"key-{n % 5}"),
    "callers": lambda: (picture(13_300_000), 20, lambda n: f"caller-{n}"),
    "one-caller": lambda: (picture(13_300_000), 20, lambda _: "one"),
    "small": lambda: (message("generate_image", '{"prompt": "a", "wait_seconds": 3}'), 2000, lambda _: "one"),
    "padded": lambda: (
        message("generate_image", '{"prompt": "a", "wait_seconds": 3}', f'{{"x": "{"a" * 60_000}"}}'),
        5000,
        lambda n: f"key-{n % 5}",
    ),
}


def head(port: int, key: str, length: int) -> bytes:
    """The head of a request to the endpoint."""
    lines = (
        "POST /mcp HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        f"Authorization: Bearer {key}",
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
        f"MCP-Protocol-Version: {VERSION}",
        f"Content-Length: {length}",
    )
    return "\r\n".join([*lines, "", ""]).encode()


async def received(reader: asyncio.StreamReader) -> bytes:
    """One response: its head, and its body by length or in chunks."""
    answer = await reader.readuntil(b"\r\n\r\n")
    if length := re.search(rb"content-length: (\d+)", answer, re.IGNORECASE):
        return answer + await reader.readexactly(int(length[1]))
    return answer + await reader.readuntil(b"\r\n0\r\n\r\n")


async def send(port: int, body: bytes, key: str, outcomes: Counter[str]) -> None:
    """Send one body and count the status of its response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    response = asyncio.ensure_future(received(reader))
    try:
        writer.write(head(port, key, len(body)))
        for start in range(0, len(body), 2**20):
            writer.write(memoryview(body)[start : start + 2**20])
            await writer.drain()
        answer = await response
    except (ConnectionError, asyncio.IncompleteReadError):
        answer = response.result() if response.done() and not response.exception() else b""
    finally:
        writer.close()
    status = answer[9:12].decode() or "reset"
    states = [word for word in ("succeeded", "pending", "failed") if f'"status":"{word}"'.encode() in answer]
    outcomes[f"{status} {' '.join(states) or ('error' if b'isError' in answer else '')}".strip()] += 1


def probe(port: int) -> None:
    """Print milliseconds of `/health` and of another caller's `get_task`, as JSON, once SIGTERM arrives."""
    call = message("get_task", '{"task_id": "00000000-0000-4000-8000-000000000001", "wait_seconds": 0}')
    headers = {"Authorization": "Bearer victim", "Content-Type": "application/json", "MCP-Protocol-Version": VERSION}
    requests = {"health": ("GET", "/health", b"", {}), "get_task": ("POST", "/mcp", call, headers)}
    took: dict[str, list[float]] = {name: [] for name in requests}

    def finish(*_: object) -> None:
        print(json.dumps(took), flush=True)
        os._exit(0)

    signal.signal(signal.SIGTERM, finish)
    while True:
        for name, request in requests.items():
            began = time.perf_counter()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request(*request)
            connection.getresponse().read()
            connection.close()
            took[name].append((time.perf_counter() - began) * 1000)
        time.sleep(0.02)


def peak(pid: int) -> float:
    """MiB of memory that a process had at most."""
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def figures(times: list[float]) -> str:
    """Median, 99th percentile and maximum."""
    ordered = sorted(times)
    share = [ordered[int(len(ordered) * part)] for part in (0.5, 0.99)] if ordered else [0, 0]
    return f"p50 {share[0]:.0f} p99 {share[1]:.0f} max {max(ordered, default=0):.0f} ms"


async def attack(pid: int, port: int, scenario: Body) -> str:
    """Send the bodies of a scenario at once; returns one line of figures."""
    body, count, key_of = scenario
    outcomes: Counter[str] = Counter()
    command = [sys.executable, "-m", "benchmarks.bodies", "--probe", str(port)]
    prober = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    await asyncio.sleep(2)
    began = time.monotonic()
    await asyncio.gather(*(send(port, body, key_of(number), outcomes) for number in range(count)))
    took = time.monotonic() - began
    await asyncio.sleep(0.5)
    prober.terminate()
    said, _ = await prober.communicate()
    times = json.loads(said)
    probed = ", ".join(f"{name} {figures(each)}" for name, each in times.items())
    return f"{dict(outcomes)} in {took:.1f} s, peak {peak(pid):.0f} MiB, {probed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenarios", nargs="*", default=list(SCENARIOS))
    parser.add_argument("--probe", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        probe(options.probe)
    for name in options.scenarios:
        scenario = SCENARIOS[name]()
        with (
            tempfile.TemporaryDirectory() as folder,
            servers.upstream(Path(folder), 1) as upstream,
            servers.serving(servers.ours(), upstream, Path(folder)) as server,
        ):
            print(f"{name}: {asyncio.run(attack(server.pid, server.port, scenario))}", flush=True)


if __name__ == "__main__":
    main()
