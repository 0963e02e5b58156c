"""Ours, a bare server of the SDK and the vendor's, compared in one run: `python -m benchmarks` (Linux).

A full run takes about ten minutes and writes docs/benchmarks.md and its charts; one with `--quick` or `--only` shows
what it finds, and writes only where `--output` says. The exit status is 1 where a target was missed.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks import cold_start, lateness, report, servers, submits, tool_list, waiting

DOCS = Path(__file__).parents[1] / "docs"
FIGURES = ("cold", "bytes", "submits", "lateness", "memory")
_SOCKETS = 8192


def main() -> int:
    options = _options()
    if not sys.platform.startswith("linux"):
        raise SystemExit("CPU and memory of a process are read from Linux's /proc")
    _allow_many_connections()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers that were started are ended, as by Ctrl-C
    with tempfile.TemporaryDirectory() as folder:
        contenders = _contenders(options, Path(folder))
        figures = list(_measured(options, contenders, Path(folder)))
    print("\n" + report.markdown(figures, contenders, pictures=None))
    if output := options.output:
        output.mkdir(parents=True, exist_ok=True)
        pictures = "benchmarks" if _drawn(figures, output / "benchmarks") else None
        report.write(output / "benchmarks.md", report.markdown(figures, contenders, pictures=pictures))
        print(f"written to {output / 'benchmarks.md'}")
    return 0 if all(target.met for figure in figures for target in figure.targets) else 1


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer of everything, in less than three minutes")
    parser.add_argument("--only", metavar="NAMES", help=f"some of these, with commas between: {', '.join(FIGURES)}")
    parser.add_argument("--no-vendor", action="store_true", help="leave the vendor's server out")
    parser.add_argument("--vendor", type=Path, metavar="VENV", help="where it is installed (default: installed anew)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write benchmarks.md and charts there")
    return parser


def _options() -> argparse.Namespace:
    command_line = parser()
    options = command_line.parse_args()
    options.only = options.only.split(",") if options.only else list(FIGURES)
    if unknown := set(options.only) - set(FIGURES):
        command_line.error(f"there is no figure {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}")
    if options.output is None and not options.quick and not options.no_vendor and len(options.only) == len(FIGURES):
        options.output = DOCS
    return options


def _contenders(options: argparse.Namespace, folder: Path) -> list[servers.Contender]:
    contenders = [servers.ours(), servers.bare()]
    if not options.no_vendor:
        environment = options.vendor.absolute() if options.vendor else folder / "vendor"
        if options.vendor is None:
            _say("installing the vendor's server")
            servers.install_vendor(environment)
        contenders.append(servers.vendor(environment))
    return contenders


def _measured(
    options: argparse.Namespace, contenders: Sequence[servers.Contender], folder: Path
) -> list[report.Figure]:
    measures: dict[str, Callable[[], report.Figure]] = {
        "cold": partial(cold_start.measure, contenders, folder, quick=options.quick),
        "bytes": partial(tool_list.measure, contenders, folder),
        "submits": partial(submits.measure, contenders, folder, quick=options.quick),
        "lateness": partial(lateness.measure, contenders, folder, quick=options.quick),
        "memory": partial(waiting.measure, contenders, folder, quick=options.quick),
    }
    figures = []
    for name, measure in measures.items():
        if name in options.only:
            _say(f"measuring {name}")
            figures.append(measure())
    return figures


def _drawn(figures: Sequence[report.Figure], folder: Path) -> bool:
    try:
        for figure in figures:
            for chart in figure.charts:
                chart.draw(folder)
    except ImportError:
        _say('no charts: pip install -e ".[benchmarks]" brings what draws them')
        return False
    return True


def _allow_many_connections() -> None:
    """A thousand calls are a thousand sockets, here and in the servers, which inherit this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _SOCKETS if hard == resource.RLIM_INFINITY else min(_SOCKETS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def _say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
