"""What a call costs beside a bare server and the vendor's: run `python benchmarks/cost.py` (Linux).

Two figures, each as a ratio within this one run, since machines differ and are noisy:

- cold start: from starting the process over stdio to the answer of `tools/list`, in turn, medians;
- CPU of the server process for one submit over HTTP, against the sandbox as upstream (another process).

The vendor's server (`mcp-seedream-pro`) is installed into an environment of its own; `--no-vendor` leaves it out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx

BARE = """
import sys
from mcp.server.mcpserver import MCPServer
server = MCPServer("bare")
@server.tool()
async def hello(name: str) -> str:
    return f"hello {name}"
server.run("stdio") if len(sys.argv) < 2 else server.run("streamable-http", port=int(sys.argv[1]), stateless_http=True)
"""
PORTS = {"upstream": 18700, "ours": 18701, "bare": 18702, "vendor": 18703}
HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "benchmark", "version": "1"}}
HEADERS = {
    "accept": "application/json, text/event-stream",
    "authorization": "Bearer benchmark",
    "mcp-protocol-version": "2025-06-18",
}
ENV = {
    "ACEDATACLOUD_API_BASE_URL": f"http://127.0.0.1:{PORTS['upstream']}",
    "ACEDATACLOUD_API_TOKEN": "benchmark",
    "LOG_LEVEL": "ERROR",
    "SEEDREAM_LOG_LEVEL": "error",
}


def cold_start(command: list[str]) -> float:
    """Seconds from starting the process to the answer of `tools/list`."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | ENV,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    lines: list[dict[str, object]] = [
        {"id": 1, "method": "initialize", "params": HELLO},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/list", "params": {}},
    ]
    process.stdin.write("".join(json.dumps({"jsonrpc": "2.0", **line}) + "\n" for line in lines))
    process.stdin.flush()
    while json.loads(process.stdout.readline()).get("id") != 2:
        pass
    took = time.perf_counter() - started
    process.communicate()
    return took


def cpu(pid: int) -> float:
    """Seconds of CPU a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def submit_cost(pid: int, port: int, name: str, arguments: dict[str, object], calls: int) -> float:
    """Milliseconds of the server's CPU for one call, eight at a time."""
    limit = asyncio.Semaphore(8)
    async with httpx.AsyncClient(timeout=60) as web:

        async def call(number: int) -> None:
            body = {
                "jsonrpc": "2.0",
                "id": number,
                "method": "tools/call",
                "params": {"name": name, "arguments": arguments},
            }
            async with limit:
                response = await web.post(f"http://127.0.0.1:{port}/mcp", json=body, headers=HEADERS)
            assert response.status_code == 200, response.text
            assert "task_id" in response.text or "hello" in response.text, response.text

        await asyncio.gather(*(call(n) for n in range(50)))
        before = cpu(pid)
        await asyncio.gather(*(call(n) for n in range(calls)))
        return (cpu(pid) - before) * 1000 / calls


def wait_for(port: int) -> None:
    for _ in range(200):
        try:
            httpx.get(f"http://127.0.0.1:{port}/health", timeout=1)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"nothing answers at port {port}")


def vendor_command(folder: Path) -> str:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run(
        [str(folder / "bin/pip"), "install", "-q", "mcp-seedream-pro"], check=True, stderr=subprocess.DEVNULL
    )
    return str(folder / "bin/mcp-seedream-pro")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--no-vendor", action="store_true")
    parser.add_argument("--runs", type=int, default=9, help="cold starts of each")
    parser.add_argument("--calls", type=int, default=400, help="submits to each")
    options = parser.parse_args()
    ours = [sys.executable, "-m", "mcp_seedream"]
    bare = [sys.executable, "-c", BARE]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stdio = {"ours": ours, "bare": bare}
        http = {
            "ours": [*ours, "--transport", "http", "--port", str(PORTS["ours"])],
            "bare": [*bare, str(PORTS["bare"])],
        }
        tools = {"ours": "generate_image", "bare": "hello", "vendor": "seedream_generate_image"}
        if not options.no_vendor:
            vendor = vendor_command(folder / "vendor")
            stdio["vendor"] = [vendor]
            http["vendor"] = [vendor, "--transport", "http", "--port", str(PORTS["vendor"])]

        starts: dict[str, list[float]] = {name: [] for name in stdio}
        for _ in range(options.runs + 1):
            for name, command in stdio.items():
                starts[name].append(cold_start(command))
        cold = {name: statistics.median(times[1:]) for name, times in starts.items()}  # the first fills the caches

        http["upstream"] = [sys.executable, "-m", "mcp_seedream.sandbox", "--port", str(PORTS["upstream"])]
        costs: dict[str, float] = {}
        for name in ("upstream", *(n for n in http if n != "upstream")):
            process = subprocess.Popen(
                http[name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | ENV
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            wait_for(PORTS[name])
            if name != "upstream":
                arguments: dict[str, object] = {"name": "x"} if name == "bare" else {"prompt": "a fox"}
                if name == "ours":
                    arguments["wait_seconds"] = 0
                costs[name] = asyncio.run(submit_cost(process.pid, PORTS[name], tools[name], arguments, options.calls))

    print("| | cold start, ms | / bare | CPU per submit, ms | / vendor |\n| --- | --- | --- | --- | --- |")
    for name in stdio:
        against = f"{costs[name] / costs['vendor']:.3f}" if "vendor" in costs else "-"
        print(f"| {name} | {cold[name] * 1000:.0f} | {cold[name] / cold['bare']:.2f} | {costs[name]:.2f} | {against} |")


if __name__ == "__main__":
    main()
