"""Minutes of calls against an upstream that fails a fifth of its answers: run `python -m benchmarks.soak` (Linux).

One hosted process and one over stdio with a journal, both under constant load. In the end every task that the
upstream accepted must be accounted for (its caller got it, or its id, or was told that its fate is uncertain), and
neither memory nor open files may have grown. A call is accepted twice only where its answer was already on its way
in the milliseconds in which its client gave up: nobody can tell such a client from one that wants another picture.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

PORT, UPSTREAM_PORT = 18721, 18720
FAULTY = 0.2


class Upstream:
    """Accepts generations and answers look-ups; a fifth of the answers goes wrong, before or after that."""

    def __init__(self) -> None:
        self.accepted: dict[str, str] = {}
        self.finished_at: dict[str, float] = {}
        self.answers: Counter[str] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._one(reader, writer):
                pass
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length:")[1].split("\r\n")[0])
        body = json.loads(await reader.readexactly(length))
        fault = random.choice(FAULTS) if random.random() < FAULTY else ""  # noqa: S311
        self.answers[fault or "fine"] += 1
        if fault in ("429", "503"):
            writer.write(answer(int(fault), {"error": {"code": "busy", "message": "later"}}, "Retry-After: 0\r\n"))
            return True
        if fault == "reset":
            writer.transport.abort()
            return False
        reply = self._look(body) if "/seedream/tasks" in head else self._accept(body)
        if fault == "cut":  # from here on, the work was done
            writer.write(answer(200, reply)[:-5])
            return False
        if fault == "500":
            reply = {"error": {"code": "api_error", "message": "oops"}}
        if fault == "slow":
            await asyncio.sleep(2)
        fine = answer(500 if fault == "500" else 404 if reply.get("error") else 200, reply)
        writer.write(b"HTTP/1.1 502 X\r\nContent-Length: 6\r\n\r\n<html>" if fault == "html" else fine)
        return True

    def _accept(self, body: dict[str, Any]) -> dict[str, Any]:
        id_ = f"task-{len(self.accepted)}"
        self.accepted[id_] = body["prompt"]
        self.finished_at[id_] = time.time() + random.random() * 6  # noqa: S311
        return {"task_id": id_}

    def _look(self, body: dict[str, Any]) -> dict[str, Any]:
        ids = [id_ for id_ in body.get("ids") or [body["id"]] if id_ in self.accepted]
        items = [self._task(id_) for id_ in ids]
        unknown = {"error": {"code": "not_found", "message": "The task does not exist."}}
        return {"items": items} if "ids" in body else items[0] if items else unknown

    def _task(self, id_: str) -> dict[str, Any]:
        if time.time() < self.finished_at[id_]:
            return {"id": id_, "response": {}}
        data = [{"image_url": f"https://cdn.example.com/{id_}.jpg"}]
        return {"id": id_, "response": {"success": True, "task_id": id_, "data": data}}


FAULTS = ["429", "503", "500", "reset", "cut", "html", "slow"]


def answer(status: int, body: dict[str, Any], more: str = "") -> bytes:
    content = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{more}Content-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


async def caller(client: Client, name: str, until: float, outcomes: dict[str, str]) -> None:
    """One call after the other; now and then it gives up early, as impatient clients do, and repeats itself."""
    number = 0
    while time.time() < until:
        number += 1
        prompt = f"{name} {number}"
        arguments = {"prompt": prompt, "wait_seconds": random.choice([0, 2, 20])}  # noqa: S311
        patience = random.choice([1, 60, 60, 60])  # noqa: S311
        outcome = "gave up"
        for seconds in (patience, 60):
            try:
                result = await client.call_tool("generate_image", arguments, read_timeout_seconds=seconds)
            except MCPError:
                continue
            found: dict[str, Any] = result.structured_content or {}
            if error := found.get("error"):
                outcome = "uncertain" if "may have been accepted" in error["message"] else error["code"]
            else:
                outcome = f"{found['status']} {found['task_id']}"
            break
        outcomes[prompt] = outcome


def sizes(pid: int) -> tuple[int, int]:
    """Kilobytes of memory, and open files, of a process."""
    resident = int(Path(f"/proc/{pid}/statm").read_text("utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1000
    return resident, sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


async def watch(pid: int, until: float) -> None:
    while time.time() < until:
        await asyncio.sleep(min(30, max(0.1, until - time.time())))
        print("hosted: {} kB, {} files".format(*sizes(pid)), flush=True)


async def soak(seconds: float, journal: Path, env: dict[str, str]) -> None:
    upstream, outcomes = Upstream(), dict[str, str]()
    command = [sys.executable, "-m", "mcp_seedream"]
    with ExitStack() as stack:
        await asyncio.start_server(upstream.serve, "127.0.0.1", UPSTREAM_PORT)
        web_command = [*command, "--transport", "http", "--port", str(PORT)]
        hosted = await asyncio.create_subprocess_exec(*web_command, env=os.environ | env)
        stack.callback(hosted.terminate)
        await asyncio.sleep(3)
        until = time.time() + seconds
        web = httpx2.AsyncClient(headers={"Authorization": "Bearer soak"}, timeout=90)
        local = StdioServerParameters(command=command[0], args=command[1:], env=env)
        endpoint = streamable_http_client(f"http://127.0.0.1:{PORT}/mcp", http_client=web)
        async with web, Client(endpoint) as remote, Client(local) as near, asyncio.TaskGroup() as group:
            group.create_task(watch(hosted.pid, until))
            for n in range(20):
                group.create_task(caller(remote, f"hosted-{n}", until, outcomes))
            for n in range(10):
                group.create_task(caller(near, f"local-{n}", until, outcomes))
        await account(upstream, outcomes, journal)


async def account(upstream: Upstream, outcomes: dict[str, str], journal: Path) -> None:
    """Hold what the upstream accepted against what callers were told."""
    with sqlite3.connect(journal) as db:
        written = {id_ for (id_,) in db.execute("SELECT id FROM tasks")}
    accepted: dict[str, list[str]] = {}
    for id_, prompt in upstream.accepted.items():
        accepted.setdefault(prompt, []).append(id_)
    lost = [
        (prompt, ids, outcomes.get(prompt))
        for prompt, ids in accepted.items()
        if not outcomes.get(prompt, "").endswith(" " + ids[-1])
        and outcomes.get(prompt) != "uncertain"
        and not (prompt.startswith("local") and ids[-1] in written)
    ]
    twice = {prompt: (ids, outcomes.get(prompt)) for prompt, ids in accepted.items() if len(ids) > 1}
    print(f"answers: {dict(upstream.answers)}")
    print(f"calls: {len(outcomes)}, outcomes: {dict(Counter(each.split()[0] for each in outcomes.values()))}")
    print(f"accepted {len(upstream.accepted)}, not accounted for: {len(lost)} {lost[:5]}")
    print(f"accepted more than once: {len(twice)} {list(twice.items())[:5]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "tasks.sqlite3"
        env = {
            "ACEDATACLOUD_API_BASE_URL": f"http://127.0.0.1:{UPSTREAM_PORT}",
            "ACEDATACLOUD_API_TOKEN": "soak",
            "SEEDREAM_JOURNAL": str(journal),
            "SEEDREAM_LOG_LEVEL": "error",
            "SEEDREAM_PREVIEW": "off",
        }
        asyncio.run(soak(options.seconds, journal, env))


if __name__ == "__main__":
    main()
