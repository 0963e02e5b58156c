"""Memory for calls that wait, all held at once by one process.

Ours wait for a picture; the bare server's sleep. The vendor's tools don't wait for pictures: the nearest thing is
`seedream_get_task`, which holds its answer back for 5 s while the task runs, so that is what waits there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.calls import Connection, text
from benchmarks.charts import Chart
from benchmarks.report import Figure, table
from benchmarks.servers import Contender, memory, serving, upstream

_CALLERS = 10
_EVERY = 0.05  # seconds between two looks at a process
_UPSTREAM = 3600  # seconds that a picture takes whose prompt does not say


def measure(contenders: Sequence[Contender], folder: Path, *, quick: bool) -> Figure:
    """Each count has a server of its own: what one leaves behind would hide what the next one takes."""
    counts = (10, 100) if quick else (10, 100, 1000)
    found: dict[str, list[float]] = {each.name: [] for each in contenders}
    for count in counts:
        for each in contenders:
            with upstream(folder, _UPSTREAM) as address, serving(each, address, folder) as server:
                grown = asyncio.run(hold(each, server.port, server.pid, count))
                found[each.name].append(grown / count / 1000)
    return _figure(counts, found)


async def hold(contender: Contender, port: int, pid: int, count: int) -> int:
    """Hold so many calls at once; bytes by which the process grew at most, until all were answered."""
    seconds = 5 + count / 70  # long enough for the last to have begun
    tool, task = contender.submit[0], ""
    if tool == "seedream_generate_image":
        said = text(await Connection(port).call(tool, {"prompt": "a fox"}))
        task = said.split('"task_id": "')[1].split('"')[0]
    await asyncio.gather(*(_wait(tool, port, number, 1, task) for number in range(5)))  # what the first calls load
    before = most = memory(pid)
    waiting = asyncio.gather(*(_wait(tool, port, number, seconds, task) for number in range(count)))
    while not waiting.done():
        most = max(most, memory(pid))
        await asyncio.sleep(_EVERY)
    await waiting
    return most - before


async def _wait(tool: str, port: int, number: int, seconds: float, task: str) -> None:
    """One call that waits, of the server whose tool for a submit is `tool`: any version of ours can be compared."""
    calls: dict[str, tuple[str, dict[str, Any]]] = {
        "generate_image": (
            "generate_image",
            {"prompt": f"fox {number} [sandbox:slow={seconds:.1f}]", "wait_seconds": 300},
        ),
        "sleep": ("sleep", {"seconds": seconds}),
        "seedream_generate_image": ("seedream_get_task", {"task_id": task}),
    }
    connection = Connection(port)
    result = await connection.call(*calls[tool], f"caller-{number % _CALLERS}")
    connection.close()
    if tool == "generate_image" and result["structuredContent"]["status"] != "succeeded":
        raise RuntimeError(f"a call did not wait: {text(result)}")


def _figure(counts: Sequence[int], found: dict[str, list[float]]) -> Figure:
    rows = [[name, *(f"{each:.0f}" for each in values)] for name, values in found.items()]
    words = (
        "Kilobytes of memory for each call that waits: by how much a fresh process grew at most, until all were "
        "answered. The vendor's calls wait for 5 s and not for a picture, so that of a thousand not all are held at "
        "once.\n\n" + table(["", *(f"{count:,} calls" for count in counts)], rows)
    )
    groups = [f"{count:,} calls" for count in counts]
    chart = Chart("waiting", "Memory for a waiting call", "kilobytes", groups, found)
    return Figure("Waiting calls", words, [chart])
