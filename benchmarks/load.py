"""A thousand generations in flight on one hosted process: run `python benchmarks/load.py` (Linux).

All calls are held at once against an upstream that takes a while, in another process. Told are: how many finished;
memory for each call beside that of a bare server whose tool only sleeps, in the same run; look-ups of the upstream;
and how long another caller's `get_task` takes meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

BARE = """
import sys, anyio
from mcp.server.mcpserver import MCPServer
server = MCPServer("bare")
@server.tool()
async def hello(seconds: float) -> str:
    await anyio.sleep(seconds)
    return "hello"
server.run("streamable-http", port=int(sys.argv[1]), stateless_http=True)
"""
UPSTREAM = """
import sys, time, json, uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
port, seconds = int(sys.argv[1]), float(sys.argv[2])
made, asked = {}, []
async def images(request):
    await request.body()
    id_ = f"task-{len(made)}"
    made[id_] = time.time() + seconds
    return JSONResponse({"task_id": id_})
def task(id_):
    if time.time() < made[id_]:
        return {"id": id_, "response": {}}
    link = {"image_url": f"https://cdn.example.com/{id_}.jpg", "size": "2048x2048"}
    return {"id": id_, "response": {"success": True, "task_id": id_, "data": [link]}}
async def tasks(request):
    body = json.loads(await request.body())
    ids = body.get("ids") or [body["id"]]
    asked.append((time.time(), len(ids)))
    if "ids" in body:
        return JSONResponse({"items": [task(i) for i in ids if i in made], "count": len(ids)})
    return JSONResponse(task(ids[0])) if ids[0] in made else JSONResponse({"error": {"code": "not_found"}}, 404)
async def count(request):
    return JSONResponse({"made": len(made), "asked": asked})
routes = [Route("/seedream/images", images, methods=["POST"]), Route("/seedream/tasks", tasks, methods=["POST"])]
app = Starlette(routes=[*routes, Route("/count", count)])
uvicorn.run(app, port=port, log_level="warning", backlog=4096)
"""
PORTS = {"upstream": 18710, "ours": 18711, "bare": 18712}
HEADERS = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-06-18"}


def memory(pid: int) -> int:
    """Bytes of memory a process has now."""
    fields = Path(f"/proc/{pid}/statm").read_text("utf-8").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


async def call(web: httpx.AsyncClient, port: int, tool: str, arguments: dict[str, Any], token: str) -> str:
    """One tool call; the line of the answer that carries its result."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
    headers = {**HEADERS, "authorization": f"Bearer {token}"}
    response = await web.post(f"http://127.0.0.1:{port}/mcp", json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response.text


async def held(pid: int, port: int, tool: str, calls: list[tuple[dict[str, Any], str]], after: float) -> float:
    """Hold all calls at once; kilobytes of memory for each, seen so many seconds after the first."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=300, limits=limits) as web:
        for _ in range(5):  # what the first calls load is not theirs
            arguments, token = calls[0]
            await call(web, port, tool, {**arguments, "wait_seconds": 0} if tool != "hello" else {"seconds": 0}, token)
        before = memory(pid)
        running = [asyncio.ensure_future(call(web, port, tool, *each)) for each in calls]
        await asyncio.sleep(after)
        grown = memory(pid) - before
        answers = await asyncio.gather(*running)
    bad = [answer for answer in answers if '"isError":true' in answer or '"pending"' in answer]
    print(f"{tool}: {len(answers) - len(bad)} of {len(calls)} finished")
    if bad:
        print(bad[0][:500])
    return grown / len(calls) / 1000


async def other_caller(port: int, task: str, seconds: float) -> list[float]:
    """Milliseconds of another caller's `get_task`, five times a second, from a process of its own."""
    command = [sys.executable, __file__, "--probe", str(port), task, str(seconds)]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    said, _ = await process.communicate()
    return [float(line) for line in said.split()]


async def probe(port: int, task: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    async with httpx.AsyncClient(timeout=60) as web:
        while time.monotonic() < end:
            started = time.perf_counter()
            await call(web, port, "get_task", {"task_id": task, "wait_seconds": 0}, "somebody-else")
            print(f"{(time.perf_counter() - started) * 1000:.0f}", flush=True)
            await asyncio.sleep(0.2)


async def load(pids: dict[str, int], count: int, callers: int, seconds: float) -> None:
    ports = PORTS
    bare = await held(pids["bare"], ports["bare"], "hello", [({"seconds": seconds}, "x")] * count, seconds * 0.7)
    calls = [({"prompt": f"a fox {n}", "wait_seconds": 300}, f"caller-{n % callers}") for n in range(count)]
    begun = time.time()
    ours, took = await asyncio.gather(
        held(pids["ours"], ports["ours"], "generate_image", calls, seconds * 0.7),
        other_caller(ports["ours"], "task-0", seconds + 8),
    )
    async with httpx.AsyncClient() as web:
        counted = (await web.get(f"http://127.0.0.1:{ports['upstream']}/count")).json()
    rounds = [ids for at, ids in counted["asked"] if at > begun and ids > 1]
    print(f"memory for a waiting call: {ours:.1f} kB, bare {bare:.1f} kB: ratio {ours / bare:.2f}")
    print(f"submits {counted['made']}, look-ups of several: {len(rounds)} with {max(rounds, default=0)} ids at most")
    slow = sum(each > 250 for each in took)
    print(f"get_task of another caller: median {statistics.median(took):.0f} ms, longest {max(took):.0f} ms, ", end="")
    print(f"{slow} of {len(took)} over 250 ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--callers", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=20, help="that a picture takes")
    parser.add_argument("--probe", nargs=3, metavar=("PORT", "TASK", "SECONDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        port, task, seconds = options.probe
        asyncio.run(probe(int(port), task, float(seconds)))
        return
    env = os.environ | {
        "ACEDATACLOUD_API_BASE_URL": f"http://127.0.0.1:{PORTS['upstream']}",
        "SEEDREAM_LOG_LEVEL": "warning",
    }
    commands = {
        "upstream": [sys.executable, "-c", UPSTREAM, str(PORTS["upstream"]), str(options.seconds)],
        "ours": [sys.executable, "-m", "mcp_seedream", "--transport", "http", "--port", str(PORTS["ours"])],
        "bare": [sys.executable, "-c", BARE, str(PORTS["bare"])],
    }
    with ExitStack() as stack:
        pids = {}
        for name, command in commands.items():
            process = stack.enter_context(subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL))
            stack.callback(process.kill)
            pids[name] = process.pid
        for port in PORTS.values():
            for _ in range(100):
                try:
                    httpx.get(f"http://127.0.0.1:{port}/", timeout=1)
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
        asyncio.run(load(pids, options.calls, options.callers, options.seconds))


if __name__ == "__main__":
    main()
