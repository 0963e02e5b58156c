"""What a run found: figures with tables, charts and targets, as Markdown."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.charts import Chart
from benchmarks.servers import Contender

START, END = "<!-- measured -->\n", "<!-- end -->\n"


@dataclass(frozen=True)
class Target:
    """A ratio that is not to be exceeded: one figure of ours beside another's."""

    what: str
    beside: str
    ours: float
    other: float
    most: float
    unit: str

    @property
    def ratio(self) -> float:
        return self.ours / self.other if self.other else float("inf")

    @property
    def met(self) -> bool:
        return self.ratio <= self.most


@dataclass(frozen=True)
class Figure:
    """One thing that was measured."""

    title: str
    text: str
    charts: Sequence[Chart] = ()
    targets: Sequence[Target] = field(default_factory=list)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def markdown(figures: Sequence[Figure], contenders: Sequence[Contender], *, pictures: str | None) -> str:
    """All that was found; `pictures` is the folder of the charts as the document refers to it, None without them."""
    parts = [_machine(contenders)]
    targets = [target for figure in figures for target in figure.targets]
    if targets:
        parts.append(f"## Targets\n\n{targets_table(targets)}")
    for figure in figures:
        shown = [f"![{chart.title}]({pictures}/{chart.name}.png)\n" for chart in figure.charts] if pictures else []
        parts.append("\n".join([f"## {figure.title}\n", figure.text, *shown]))
    return "\n".join(parts)


def targets_table(targets: Iterable[Target]) -> str:
    return table(
        ["target", "ours", "beside", "ratio", "at most", "met"],
        (
            [
                target.what,
                f"{number(target.ours)} {target.unit}",
                f"{target.beside}: {number(target.other)} {target.unit}",
                f"{target.ratio:.2f}",
                f"{target.most:.2f}",
                "yes" if target.met else "**no**",
            ]
            for target in targets
        ),
    )


def number(value: float) -> str:
    """Three digits are all that can be believed."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def write(path: Path, found: str) -> None:
    """Put what was found between the marks of a document, or into a new one."""
    block = START + "\n" + found + "\n" + END
    old = path.read_text("utf-8") if path.exists() else f"# Benchmarks\n\n{START}{END}"
    new, count = re.subn(re.escape(START) + ".*?" + re.escape(END), lambda _: block, old, count=1, flags=re.DOTALL)
    if not count:
        raise SystemExit(f"{path} has no marks to write between")
    path.write_text(new, "utf-8")


def _machine(contenders: Sequence[Contender]) -> str:
    info = Path("/proc/cpuinfo").read_text("utf-8")
    model = re.search(r"model name\s*:\s*(.+)", info)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    machine = f"{os.cpu_count()} cores of {model[1] if model else platform.machine()}, {pages / 2**30:.0f} GiB"
    today = datetime.now(UTC).date()
    system = f"Linux {platform.release().partition('-')[0]}, Python {platform.python_version()}"
    first = f"Measured on {today}: {machine}, {system}.\n\n"
    return first + "".join(
        f"- {each.name}: {', '.join(f'{name} {version}' for name, version in each.versions.items())}\n"
        for each in contenders
    )
