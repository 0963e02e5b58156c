"""Charts of what was measured, as small PNG files. Drawn by matplotlib, which only `.[benchmarks]` brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COLOURS = {"ours": "#2563eb", "bare": "#94a3b8", "vendor": "#ea7317"}
_LIGHTER = "#f5b983"  # a second series of the vendor's


@dataclass(frozen=True)
class Chart:
    """Bars in groups: each series has a value for each group, or none.

    A series is coloured by its name up to the comma: several of one server are told apart by their shade.
    """

    name: str
    title: str
    unit: str
    groups: Sequence[str]
    series: Mapping[str, Sequence[float | None]]
    ranges: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    """Of a series: from where to where most of what was seen lies, for each group."""

    def draw(self, folder: Path) -> None:
        """Write the chart into a folder.

        Raises:
            ImportError: There is no matplotlib.
        """
        import matplotlib as mpl  # noqa: PLC0415  (the figures need no charts)

        mpl.use("agg")
        from matplotlib import pyplot as plt  # noqa: PLC0415

        figure, axes = plt.subplots(figsize=(7.2, 3.2), dpi=130, layout="constrained")
        for place, name in enumerate(self.series):
            self._bars(axes, place, name)
        self._dress(axes)
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{self.name}.png", metadata={"Software": None})
        plt.close(figure)

    def _bars(self, axes: Any, place: int, name: str) -> None:
        width = 0.8 / len(self.series)
        for group, value in enumerate(self.series[name]):
            if value is None:
                continue
            at = group + (place - (len(self.series) - 1) / 2) * width
            label = name if group == next(i for i, each in enumerate(self.series[name]) if each is not None) else None
            axes.bar(at, value, width * 0.92, color=_colour(name, list(self.series)), label=label, zorder=2)
            top = value
            if name in self.ranges:
                low, top = self.ranges[name][group]
                axes.vlines(at, low, top, color="#334155", linewidth=1, zorder=3)
            axes.annotate(
                _short(value), (at, max(top, value)), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=8
            )

    def _dress(self, axes: Any) -> None:
        axes.set_title(self.title, loc="left", fontsize=11, fontweight="bold")
        axes.set_ylabel(self.unit, fontsize=9)
        axes.set_xticks(range(len(self.groups)), self.groups, fontsize=9)
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.tick_params(axis="both", length=0, labelsize=9)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="y", color="#e2e8f0", linewidth=0.8, zorder=0)
        axes.margins(y=0.14)
        if len(self.series) > 1:
            axes.legend(frameon=False, fontsize=9, ncols=len(self.series), loc="lower left", bbox_to_anchor=(0, -0.28))


def _colour(name: str, names: list[str]) -> str:
    kind = name.partition(",")[0]
    first = next(each for each in names if each.partition(",")[0] == kind)
    return COLOURS[kind] if name == first else _LIGHTER


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
