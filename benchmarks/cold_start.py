"""Cold start: from starting the process over stdio to the answer of `tools/list`, in turn, so that noise hits all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.calls import over_stdio, request
from benchmarks.charts import Chart
from benchmarks.report import Figure, Target, table
from benchmarks.servers import Contender, cpu

_HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "benchmark", "version": "1"}}
_MOST = 1.05
Start = tuple[float, float]
"""Seconds on the clock, and of CPU."""


def measure(contenders: Sequence[Contender], folder: Path, *, quick: bool) -> Figure:
    """Each is started once to fill the caches, and then in turn; the order changes with every round."""
    rounds = 11 if quick else 25
    starts: dict[str, list[Start]] = {each.name: [] for each in contenders}
    for number in range(rounds + 1):
        turn = number % len(contenders)
        for each in (*contenders[turn:], *contenders[:turn]):
            found = start(each, folder)
            if number:
                starts[each.name].append(found)
    return _figure(starts)


def start(contender: Contender, folder: Path) -> Start:
    """One cold start."""
    messages = [
        request("initialize", _HELLO),
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        request("tools/list", {}, 2),
    ]
    began = time.perf_counter()
    with over_stdio(contender, messages, folder) as (pid, _):
        return time.perf_counter() - began, cpu(pid)


def _figure(starts: dict[str, list[Start]]) -> Figure:
    medians = {name: [statistics.median(each) for each in zip(*found, strict=True)] for name, found in starts.items()}
    bare = medians["bare"]
    rows = [
        [name, f"{wall * 1000:.0f}", f"{_ratio(starts, name):.2f}", f"{used * 1000:.0f}", f"{used / bare[1]:.2f}"]
        for name, (wall, used) in medians.items()
    ]
    header = ["", "ms to the answer", "/ bare", "ms of CPU", "/ bare"]
    text = (
        f"From starting the process over stdio to the answer of `tools/list`: medians of {len(starts['bare'])} starts "
        "of each, in turn. The ratio on the clock is the median of the rounds' own ratios.\n\n" + table(header, rows)
    )
    chart = Chart(
        "cold-start",
        "Cold start over stdio: medians, and the range of the middle half",
        "milliseconds to the answer of tools/list",
        ["on the clock", "of CPU"],
        {name: [seconds * 1000 for seconds in found] for name, found in medians.items()},
        ranges={name: [_middle_half(each) for each in zip(*found, strict=True)] for name, found in starts.items()},
    )
    # Not the two medians: on a busy machine they come from different moments, a round's own starts do not.
    target = Target("Cold start, of the bare server's", "bare", _ratio(starts, "ours"), 1, _MOST, "times")
    return Figure("Cold start", text, [chart], [target])


def _middle_half(seconds: Sequence[float]) -> tuple[float, float]:
    """Milliseconds between which half of the starts took; a machine that is busy makes the others say little."""
    low, _, high = statistics.quantiles(seconds, n=4)
    return low * 1000, high * 1000


def _ratio(starts: dict[str, list[Start]], name: str) -> float:
    pairs = zip(starts[name], starts["bare"], strict=True)
    return statistics.median(mine[0] / others[0] for mine, others in pairs)
