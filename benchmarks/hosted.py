"""The hosted server with real parts around it: run `python -m benchmarks.hosted` (Linux; redis-server and nginx).

Two workers behind nginx, Redis for sign-in. A thousand calls wait, held by callers with keys of their own, while
`tools/list` is asked all the time by others; memory and open files are told again and again, for as long as
`--seconds` says. Told at the end: how many calls came to their pictures, percentiles of `tools/list`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import httpx

from benchmarks.load import UPSTREAM
from benchmarks.servers import memory

HEADERS = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-06-18"}
NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr crit;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  upstream server {{ server 127.0.0.1:{server}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{nginx} backlog=4096;
    client_max_body_size 64m;
    location / {{
      proxy_pass http://server; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $http_host; proxy_buffering off; proxy_read_timeout 660s; proxy_send_timeout 660s;
    }}
  }}
}}
"""


def free_ports(*names: str) -> dict[str, int]:
    """A port that nobody has, for each."""
    sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in names}
    ports = {name: each.getsockname()[1] for name, each in sockets.items()}
    for each in sockets.values():
        each.close()
    return ports


def family(pid: int) -> list[int]:
    """A process and those that it started; nothing for one that has ended."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split()
    except OSError:
        return []
    return [pid, *(each for child in children for each in family(int(child)))]


async def ask(web: httpx.AsyncClient, method: str, params: dict[str, object], key: str) -> str:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    response = await web.post("/mcp", json=body, headers={**HEADERS, "authorization": f"Bearer {key}"})
    return response.text if response.status_code == 200 else f"HTTP {response.status_code} {response.text}"


async def hold(web: httpx.AsyncClient, number: int, until: float, outcomes: Counter[str]) -> None:
    """One caller that always has a call under way."""
    while time.monotonic() < until:
        arguments = {"prompt": f"fox {number}", "wait_seconds": 300}
        answer = await ask(web, "tools/call", {"name": "generate_image", "arguments": arguments}, f"key-{number % 50}")
        found = [state for state in ("succeeded", "pending", "failed") if f'"status":"{state}"' in answer]
        outcomes[found[0] if found else answer[:200]] += 1


async def probe(address: str, until: float) -> list[float]:
    """Milliseconds of `tools/list`, ten times a second."""
    took = []
    async with httpx.AsyncClient(base_url=address, timeout=60) as web:
        while time.monotonic() < until:
            began = time.perf_counter()
            answer = await ask(web, "tools/list", {}, "somebody-else")
            assert "generate_image" in answer, answer
            took.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(0.1)
    return took


def seen(pid: int) -> str:
    """Memory and open files of a process and its children."""
    sizes = {each: memory(each) // 1000 for each in family(pid)}
    files = [len(list(Path(f"/proc/{each}/fd").iterdir())) for each in sizes]
    return f"kB {list(sizes.values())}, files {files}"


async def watch(pid: int, until: float, every: float) -> None:
    while time.monotonic() < until:
        await asyncio.sleep(min(every, max(0.1, until - time.monotonic())))
        print(seen(pid), flush=True)


async def run(address: str, pid: int, options: argparse.Namespace) -> None:
    outcomes: Counter[str] = Counter()
    until = time.monotonic() + options.seconds
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=400, limits=limits) as web:
        holding = [asyncio.ensure_future(hold(web, n, until, outcomes)) for n in range(options.calls)]
        await asyncio.sleep(options.settle)  # a thousand begin at once, here and nowhere else
        command = [sys.executable, "-m", "benchmarks.hosted", "--probe", address, str(until - time.monotonic())]
        probing = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        await watch(pid, until, options.every)
        said, _ = await probing.communicate()
        await asyncio.gather(*holding)
    took = sorted(json.loads(said))
    at = {name: took[min(len(took) - 1, int(len(took) * share))] for name, share in (("p50", 0.5), ("p99", 0.99))}
    print(f"calls: {dict(outcomes)}")
    print(f"tools/list, {len(took)} times: {', '.join(f'{n} {ms:.0f} ms' for n, ms in at.items())}, ", end="")
    print(f"longest {took[-1]:.0f} ms, mean {statistics.mean(took):.0f} ms")


def start(stack: ExitStack, folder: Path, options: argparse.Namespace) -> tuple[str, int]:
    """All parts; the address of nginx, and the server's process."""
    ports = free_ports("upstream", "redis", "server", "nginx")
    public = f"http://127.0.0.1:{ports['nginx']}"
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, **ports), "utf-8")
    env = os.environ | {
        "ACEDATACLOUD_API_BASE_URL": f"http://127.0.0.1:{ports['upstream']}",
        "SEEDREAM_LOG_LEVEL": "warning",
        "SEEDREAM_PUBLIC_URL": public,
        "SEEDREAM_REDIS_URL": f"redis://127.0.0.1:{ports['redis']}/0",
        "SEEDREAM_SEAL_KEYS": secrets.token_hex(32),
    }
    server = [sys.executable, "-m", "mcp_seedream", "--transport", "http", "--port", str(ports["server"])]
    server += ["--workers", str(options.workers)]
    commands = {
        "upstream": [sys.executable, "-c", UPSTREAM, str(ports["upstream"]), str(options.picture_seconds)],
        "redis": ["redis-server", "--port", str(ports["redis"]), "--save", "", "--dir", str(folder)],
        "server": server,
        "nginx": ["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)],
    }
    pids = {}
    for name, command in commands.items():
        process = stack.enter_context(subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL))
        stack.callback(process.terminate)
        pids[name] = process.pid
    for _ in range(200):
        try:
            if httpx.get(f"{public}/health", timeout=1).is_success:
                break
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    return public, pids["server"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--calls", type=int, default=1000, help="that wait at once")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--picture-seconds", type=float, default=40, help="that a picture takes")
    parser.add_argument("--settle", type=float, default=15, help="before anything is measured")
    parser.add_argument("--every", type=float, default=15, help="seconds between two looks at memory")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--probe", nargs=2, metavar=("ADDRESS", "SECONDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        address, seconds = options.probe
        print(json.dumps(asyncio.run(probe(address, time.monotonic() + float(seconds)))))
        return
    if missing := [name for name in ("redis-server", "nginx") if not shutil.which(name)]:
        sys.exit(f"not installed: {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        address, pid = start(stack, Path(folder), options)
        asyncio.run(run(address, pid, options))


if __name__ == "__main__":
    main()
