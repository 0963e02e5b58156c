"""The size of `tools/list`: what a model reads of it in every conversation, and the whole answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.calls import over_stdio, request
from benchmarks.charts import Chart
from benchmarks.report import Figure, Target, table
from benchmarks.servers import Contender

OLD, NEW = "2025-11-25", "2026-07-28"
_SHOWN = ("name", "description", "inputSchema")
"""What clients hand on to the model."""
_MOST = 0.5


def measure(contenders: Sequence[Contender], folder: Path) -> Figure:
    found = {(each.name, revision): answer(each, revision, folder) for each in contenders for revision in (OLD, NEW)}
    return _figure([each.name for each in contenders], found)


def answer(contender: Contender, revision: str, folder: Path) -> bytes | None:
    """The answer to `tools/list` as it is on the wire; None where the server does not speak that revision."""
    if revision == NEW:
        kept = "io.modelcontextprotocol/"
        meta = {"protocolVersion": NEW, "clientInfo": {"name": "benchmark", "version": "1"}, "clientCapabilities": {}}
        messages = [request("tools/list", {"_meta": {kept + name: value for name, value in meta.items()}}, 2)]
    else:
        hello = {"protocolVersion": OLD, "capabilities": {}, "clientInfo": {"name": "benchmark", "version": "1"}}
        said = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        messages = [request("initialize", hello), said, request("tools/list", {}, 2)]
    with over_stdio(contender, messages, folder) as (_, line):
        return line if "result" in json.loads(line) else None


def tools(answered: bytes) -> list[dict[str, Any]]:
    """The tools as a model reads them."""
    listed = json.loads(answered)["result"]["tools"]
    return [{key: tool[key] for key in _SHOWN if key in tool} for tool in listed]


def size(found: Any) -> int:
    """Bytes of JSON without blanks."""
    return len(json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode())


def _figure(names: Sequence[str], found: dict[tuple[str, str], bytes | None]) -> Figure:
    read: dict[str, list[float]] = {}
    rows = []
    for name in names:
        old, new = found[name, OLD], found[name, NEW]
        assert old is not None
        read[name] = [size(tools(old)), len(old)]
        both = f"{len(new):,}" if new else "not spoken"
        rows.append([name, str(len(tools(old))), f"{read[name][0]:,.0f}", f"{len(old):,}", both])
    text = (
        "Bytes of `tools/list`: what a model reads (names, descriptions, input schemas; the same in both revisions), "
        "and the whole answer on the wire.\n\n"
        + table(["", "tools", "read by a model", f"answer in {OLD}", f"answer in {NEW}"], rows)
    )
    groups = ["read by a model", "the whole answer"]
    chart = Chart("tool-list", f"Size of tools/list ({OLD})", "bytes", groups, read)
    targets = []
    if "vendor" in read:
        mine, theirs = read["ours"][0], read["vendor"][0]
        targets.append(Target("Tools as a model reads them", "vendor", mine, theirs, _MOST, "bytes"))
    return Figure("Size of tools/list", text, [chart], targets)
