"""A thousand generations in flight on one hosted process: run `python -m benchmarks.load` (Linux).

All calls are held at once against an upstream that takes a while, in another process. Told are: how many finished;
look-ups of the upstream; and how long another caller's `get_task` takes meanwhile.
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
from typing import Any

import httpx

from benchmarks.servers import started

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
PORTS = {"upstream": 18710, "ours": 18711}
HEADERS = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-06-18"}


async def call(web: httpx.AsyncClient, port: int, tool: str, arguments: dict[str, Any], token: str) -> str:
    """One tool call; the line of the answer that carries its result."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
    headers = {**HEADERS, "authorization": f"Bearer {token}"}
    response = await web.post(f"http://127.0.0.1:{port}/mcp", json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response.text


async def held(port: int, calls: list[tuple[dict[str, Any], str]]) -> None:
    """Hold all calls at once."""
    async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=None)) as web:
        answers = await asyncio.gather(*(call(web, port, "generate_image", *each) for each in calls))
    bad = [answer for answer in answers if '"isError":true' in answer or '"pending"' in answer]
    print(f"{len(answers) - len(bad)} of {len(calls)} finished")
    if bad:
        print(bad[0][:500])


async def other_caller(port: int, task: str, seconds: float) -> list[float]:
    """Milliseconds of another caller's `get_task`, five times a second, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.load", "--probe", str(port), task, str(seconds)]
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


async def load(count: int, callers: int, seconds: float) -> None:
    calls = [({"prompt": f"a fox {n}", "wait_seconds": 300}, f"caller-{n % callers}") for n in range(count)]
    begun = time.time()
    _, took = await asyncio.gather(held(PORTS["ours"], calls), other_caller(PORTS["ours"], "task-0", seconds + 8))
    async with httpx.AsyncClient() as web:
        counted = (await web.get(f"http://127.0.0.1:{PORTS['upstream']}/count")).json()
    rounds = [ids for at, ids in counted["asked"] if at > begun and ids > 1]
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
    }
    with ExitStack() as stack:
        for name, command in commands.items():
            stack.enter_context(started(command, PORTS[name], env))
        asyncio.run(load(options.calls, options.callers, options.seconds))


if __name__ == "__main__":
    main()
