"""Lateness: from a picture being done upstream to the agent having its link, in how many calls and bytes.

The agents do what each server tells them to. With ours they call `generate_image`, and `get_task` while the answer is
pending. The vendor's results say: call `seedream_get_task`, wait 15 seconds between two of those (its answer while the
task runs comes 5 s late besides), up to 100 times. Whether an agent also waits before the first is open to reading;
both readings are measured, and targets are held against the kinder one. An agent's own turn takes no time here:
in life each call costs one more, so that servers which need more of them are later still.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks import tool_list
from benchmarks.calls import Connection, text
from benchmarks.charts import Chart
from benchmarks.report import Figure, Target, table
from benchmarks.servers import TOKEN, Contender, serving, upstream

SECONDS = (5, 20, 60, 120)
_JUDGED = 20
_SPREAD = 0.2
"""Pictures take from so much less to so much more: at one exact time, polling is as late as chance has it."""
AT_ONCE, AFTER_PAUSE = "vendor, first look at once", "vendor, first look after 15 s"


@dataclass(frozen=True)
class Delivery:
    """What one agent did: tasks, tool calls, bytes of results it read, when it had the link (Unix seconds)."""

    task_id: str
    token: str
    calls: int
    read: int
    at: float


Agent = Callable[[Connection, float, str], Awaitable[Delivery]]


def measure(contenders: Sequence[Contender], folder: Path, *, quick: bool) -> Figure:
    """All agents of all servers work at the same time: none of them costs more than a little now and then."""
    times, agents = (SECONDS[:2], 6) if quick else (SECONDS, 16)
    taking_part = {each.name: each for each in contenders if each.name != "bare"}
    rivals: dict[str, tuple[str, Agent]] = {"ours": ("ours", _ours)}
    if "vendor" in taking_part:
        rivals[AT_ONCE] = "vendor", partial(_vendor, pause_first=False)
        rivals[AFTER_PAUSE] = "vendor", partial(_vendor, pause_first=True)
    definitions = {}
    with ExitStack() as stack:
        address = stack.enter_context(upstream(folder))
        ports = {}
        for name, each in taking_part.items():
            ports[name] = stack.enter_context(serving(each, address, folder)).port
            listed = tool_list.answer(each, tool_list.OLD, folder)
            assert listed is not None
            definitions[name] = tool_list.size(tool_list.tools(listed))
        work = {name: (ports[server], agent) for name, (server, agent) in rivals.items()}
        found = asyncio.run(_all(work, times, agents, urlsplit(address).port or 80))
    reading = {name: definitions[server] for name, (server, _) in rivals.items()}
    return _figure(found, reading, times, agents)


Found = dict[tuple[str, float], list[tuple[float, Delivery]]]


async def _all(work: dict[str, tuple[int, Agent]], times: Sequence[float], agents: int, upstream_port: int) -> Found:
    """Lateness and delivery of every agent, by rival and the time a picture takes."""
    found: Found = {(name, seconds): [] for name in work for seconds in times}

    async def one(name: str, seconds: float, place: int) -> None:
        port, agent = work[name]
        takes = seconds * (1 - _SPREAD + 2 * _SPREAD * place / (agents - 1))
        await asyncio.sleep(place * len(work) / 10)  # they don't all begin in the same instant
        delivery = await agent(Connection(port), takes, f"{TOKEN}-{seconds}-{place}")
        body = {"action": "retrieve", "id": delivery.task_id}
        task = await Connection(upstream_port).post("/seedream/tasks", body, delivery.token)
        found[name, seconds].append((delivery.at - task["finished_at"], delivery))

    await asyncio.gather(*(one(*key, place) for key in found for place in range(agents)))
    return found


def _prompt(seconds: float) -> dict[str, Any]:
    return {"prompt": f"a red fox in the snow [sandbox:slow={seconds:.2f}]"}


async def _ours(connection: Connection, seconds: float, token: str) -> Delivery:
    """Generate; while the answer is pending, get the task."""
    result = await connection.call("generate_image", _prompt(seconds), token)
    calls, read = 1, len(text(result).encode())
    while (state := result["structuredContent"])["status"] == "pending":
        result = await connection.call("get_task", {"task_id": state["task_id"]}, token)
        calls, read = calls + 1, read + len(text(result).encode())
    assert state["images"][0]["url"] in text(result)
    return Delivery(state["task_id"], token, calls, read, time.time())


async def _vendor(connection: Connection, seconds: float, _: str, *, pause_first: bool) -> Delivery:
    """Generate, and look as often and as far apart as the results say; it has one token for all."""
    result = text(await connection.call("seedream_generate_image", _prompt(seconds)))
    calls, read = 1, len(result.encode())
    advice = json.loads(result)["mcp_async_submission"]
    pause = pause_first
    while advice["should_poll"]:
        if pause:
            await asyncio.sleep(advice["polling_interval_seconds"])
        pause = True
        result = text(await connection.call(advice["poll_tool"], {"task_id": advice["task_id"]}))
        calls, read = calls + 1, read + len(result.encode())
        advice = json.loads(result)["mcp_task_polling"]
    assert json.loads(result)["response"]["data"][0]["image_url"]
    return Delivery(advice["task_id"], TOKEN, calls, read, time.time())


@dataclass(frozen=True)
class _Means:
    late: float
    latest: float
    calls: float
    read: float
    everything: float


def _figure(found: Found, reading: dict[str, int], times: Sequence[float], agents: int) -> Figure:
    means = {
        key: _Means(
            statistics.mean(late for late, _ in all_),
            max(late for late, _ in all_),
            statistics.mean(delivery.calls for _, delivery in all_),
            statistics.mean(delivery.read for _, delivery in all_),
            statistics.mean(delivery.read for _, delivery in all_) + reading[key[0]],
        )
        for key, all_ in found.items()
    }
    rows = [
        [
            f"{seconds:.0f} s",
            name,
            f"{each.late:.1f} s",
            f"{each.latest:.1f} s",
            f"{each.calls:.1f}",
            f"{each.read:,.0f}",
            f"{each.everything:,.0f}",
        ]
        for seconds in times
        for (name, at), each in means.items()
        if at == seconds
    ]
    header = ["a picture takes", "", "late, mean", "latest", "tool calls", "bytes of results", "with tools"]
    words = (
        f"From a picture being done upstream to the agent having its link: means of {agents} pictures each, which take "
        f"up to a fifth less or more than the first column says. The agent's own turns take no time. Bytes are those "
        "of the results' text, and with the tools' definitions.\n\n" + table(header, rows)
    )
    return Figure("From the picture to the agent", words, _charts(means, list(reading), times), _targets(means))


def _charts(means: dict[tuple[str, float], _Means], names: list[str], times: Sequence[float]) -> list[Chart]:
    groups = [f"{seconds:.0f} s" for seconds in times]

    def chart(file: str, title: str, unit: str, of: Callable[[_Means], float]) -> Chart:
        series = {name: [of(means[name, seconds]) for seconds in times] for name in names}
        return Chart(file, title, unit, groups, series)

    return [
        chart(
            "lateness", "How late the agent has the link, by how long the picture takes", "seconds", lambda m: m.late
        ),
        chart("tool-calls", "Tool calls for a picture, by how long it takes", "tool calls", lambda m: m.calls),
        chart(
            "bytes-read",
            "What a model reads before it has the link, by how long the picture takes",
            "bytes",
            lambda m: m.everything,
        ),
    ]


def _targets(means: dict[tuple[str, float], _Means]) -> list[Target]:
    """Beside the vendor's, by the reading that is kinder to it in each."""
    ours = means["ours", _JUDGED]
    others = [means[name, _JUDGED] for name in (AT_ONCE, AFTER_PAUSE) if (name, _JUDGED) in means]
    if not others:
        return []
    late, calls, read = (min(getattr(each, what) for each in others) for what in ("late", "calls", "everything"))
    at = f", picture of {_JUDGED} s"
    return [
        Target(f"Lateness{at}", "vendor", ours.late, late, 1 / 5, "s"),
        Target(f"Tool calls{at}", "vendor", ours.calls, calls, 1 / 3, "calls"),
        Target(f"Read before the link{at}", "vendor", ours.everything, read, 1 / 2, "bytes"),
    ]
