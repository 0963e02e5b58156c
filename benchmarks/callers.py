"""Three callers with different keys at once: run `python -m benchmarks.callers` (Linux).

Ten thousand calls (generations, look-ups of own tasks and of others') go through one hosted process. Every request that
reaches the upstream is held against whose call it was: a key may only ever come with what its owner asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
from collections import Counter
from typing import Any

import httpx

from benchmarks.servers import wait_for
from mcp_seedream.catalog.table_file import read_table
from mcp_seedream.hosting.key_verifier import UNKNOWN_TASK
from mcp_seedream.sandbox.app import Sandbox, running

PORT = 18731
HEADERS = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-06-18"}
KEYS = ("alice", "bob", "carol")


async def call(web: httpx.AsyncClient, tool: str, arguments: dict[str, Any], key: str) -> dict[str, Any]:
    """One tool call; its structured content."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
    address = f"http://127.0.0.1:{PORT}/mcp"
    response = await web.post(address, json=body, headers={**HEADERS, "authorization": f"Bearer {key}"})
    lines = [line[5:] for line in response.text.splitlines() if line.startswith("data:")]
    found: dict[str, Any] = json.loads(lines[-1])["result"]["structuredContent"]
    return found


async def caller(web: httpx.AsyncClient, key: str, calls: int, mine: list[str], others: list[str]) -> Counter[str]:
    """One of several that share a key: makes pictures, looks at own tasks, and tries others'."""
    outcomes: Counter[str] = Counter()
    chance = random.Random(f"{key} {calls}")  # noqa: S311
    for number in range(calls):
        what = chance.random()
        if what < 0.5 or not mine:
            found = await call(web, "generate_image", {"prompt": f"{key} {number}", "wait_seconds": 0}, key)
            mine.append(found["task_id"])
        elif what < 0.9 or not others:
            found = await call(web, "get_task", {"task_id": chance.choice(mine[-50:]), "wait_seconds": 0}, key)
        else:
            found = await call(web, "get_task", {"task_id": chance.choice(others), "wait_seconds": 0}, key)
            assert found["error"]["code"] == "not_found", found
            outcomes["refused another's task"] += 1
            continue
        outcomes[found["status"]] += 1
    return outcomes


async def run(calls: int, at_once: int) -> Counter[str]:
    tasks: dict[str, list[str]] = {key: [] for key in KEYS}
    outcomes: Counter[str] = Counter()
    async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=None)) as web:
        each = -(-calls // (len(KEYS) * at_once))  # not one less
        work = [
            caller(web, key, each, tasks[key], tasks[KEYS[(place + 1) % len(KEYS)]])
            for place, key in enumerate(KEYS)
            for _ in range(at_once)
        ]
        for counted in await asyncio.gather(*work):
            outcomes += counted
    return outcomes


def checked(sandbox: Sandbox) -> tuple[int, list[Any]]:
    """How many requests the upstream saw, and those that came with a key that is not their owner's."""
    wrong: list[Any] = []
    for path, key, body in sandbox.requests:
        if path == "/seedream/images":
            if body["prompt"].split()[0] != key:
                wrong.append((key, body))
            continue
        ids = body.get("ids") or [body["id"]]
        # A single look-up of another's task is what was asked for, and refused; rounds are of one's own alone.
        known = [sandbox.jobs[id_].token for id_ in ids if id_ in sandbox.jobs and id_ != UNKNOWN_TASK]
        if len(ids) > 1 and any(owner != key for owner in known):
            wrong.append((key, body))
    return len(sandbox.requests), wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=8, help="of each key")
    options = parser.parse_args()
    sandbox = Sandbox(read_table(), seconds=0.5, record=True)
    sandbox.jobs = Kept()
    with running(sandbox) as upstream:
        outcomes = through_a_server(upstream, options)
    seen, wrong = checked(sandbox)
    keys = Counter(key for _, key, _ in sandbox.requests)
    print(f"calls: {sum(outcomes.values())}, {dict(outcomes)}")
    print(f"requests upstream: {seen}, by key {dict(keys)}; with another's key: {len(wrong)} {wrong[:3]}")


class Kept(dict[str, Any]):
    """All tasks, however many: each look-up is held against its owner."""

    def __len__(self) -> int:
        return 0


def through_a_server(upstream: str, options: argparse.Namespace) -> Counter[str]:
    """The calls, through a hosted process of its own."""
    env = os.environ | {
        "ACEDATACLOUD_API_BASE_URL": upstream,
        "ACEDATACLOUD_API_TOKEN": "the-operators-own",
        "SEEDREAM_LOG_LEVEL": "warning",
    }
    command = [sys.executable, "-m", "mcp_seedream", "--transport", "http", "--port", str(PORT)]
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(PORT)
            return asyncio.run(run(options.calls, options.at_once))
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
