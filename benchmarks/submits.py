"""Submits: how many a server takes a second, and what one costs it."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.calls import Connection, text
from benchmarks.charts import Chart
from benchmarks.report import Figure, Target, table
from benchmarks.servers import Contender, Running, cpu, serving, upstream

CLIENTS = (8, 32)
_MOST = 1 / 6
Cost = tuple[float, float]
"""Calls a second, and seconds of the server's CPU for one."""


def measure(contenders: Sequence[Contender], folder: Path, *, quick: bool) -> Figure:
    """All servers are up at once, and each is asked in turn."""
    rounds, calls = (3, 64) if quick else (5, 200)
    costs: dict[tuple[str, int], list[Cost]] = {(each.name, n): [] for each in contenders for n in CLIENTS}
    with ExitStack() as stack:
        address = stack.enter_context(upstream(folder))
        servers = {each.name: stack.enter_context(serving(each, address, folder)) for each in contenders}
        for each in contenders:
            asyncio.run(submit(each, servers[each.name], CLIENTS[-1], 64))  # what the first calls load is not theirs
        for _ in range(rounds):
            for clients in CLIENTS:
                for each in contenders:
                    cost = asyncio.run(submit(each, servers[each.name], clients, calls))
                    costs[each.name, clients].append(cost)
    return _figure([each.name for each in contenders], costs)


async def submit(contender: Contender, server: Running, clients: int, calls: int) -> Cost:
    """So many calls by so many clients, each with a connection of its own and one call at a time."""
    left = iter(range(calls))
    tool, arguments = contender.submit

    async def client() -> None:
        connection = Connection(server.port)
        for _ in left:
            said = text(await connection.call(tool, arguments))
            if "task_id" not in said and tool != "sleep":
                raise RuntimeError(f"{contender.name} accepted nothing: {said}")
        connection.close()

    before, began = cpu(server.pid), time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    took = time.perf_counter() - began
    return calls / took, (cpu(server.pid) - before) / calls


def _figure(names: Sequence[str], costs: dict[tuple[str, int], list[Cost]]) -> Figure:
    medians = {key: [statistics.median(each) for each in zip(*found, strict=True)] for key, found in costs.items()}
    rows = []
    for name in names:
        row = [name]
        for clients in CLIENTS:
            rate, used = medians[name, clients]
            row += [f"{rate:.0f}", f"{used * 1000:.2f}"]
        rows.append(row)
    header = ["", *(head for n in CLIENTS for head in (f"calls/s, {n} clients", "ms of CPU for a call"))]
    text_ = (
        "Submits over HTTP of a generation that is not waited for, by clients that call one after the other; medians "
        f"of {len(next(iter(costs.values())))} rounds. The bare server's tool does nothing and sends no requests: it "
        "is the minimum for the SDK. Clients, upstream and server share the machine's cores.\n\n" + table(header, rows)
    )
    groups = [f"{clients} clients" for clients in CLIENTS]
    used_chart = Chart(
        "submit-cpu",
        "What a submit costs the server",
        "milliseconds of CPU",
        groups,
        {name: [medians[name, clients][1] * 1000 for clients in CLIENTS] for name in names},
    )
    rate_chart = Chart(
        "submit-rate",
        "Submits a second",
        "calls a second",
        groups,
        {name: [medians[name, clients][0] for clients in CLIENTS] for name in names},
    )
    targets = [
        Target(
            f"CPU for a submit, {clients} clients",
            "vendor",
            medians["ours", clients][1] * 1000,
            medians["vendor", clients][1] * 1000,
            _MOST,
            "ms",
        )
        for clients in CLIENTS
        if "vendor" in names
    ]
    return Figure("Submits", text_, [used_chart, rate_chart], targets)
