"""Runs checks concurrently, and formats their results as text or JSON, in the order of the checks."""

from __future__ import annotations

import asyncio
import json
import logging
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import anyio

logger = logging.getLogger(__name__)

T = TypeVar("T")
Level = Literal["ok", "warning", "problem", "not checked"]
"""ok: it works. warning: it works, with a drawback. problem: pictures can't be made. not checked: no result."""

SECONDS = 30
"""Default time limit of a check."""
_COLOURS: dict[Level, int] = {"ok": 32, "warning": 33, "problem": 31, "not checked": 2}
_LEVEL_WIDTH, _GAP = len("not checked"), 2
_BUG = "This is a bug in mcp-seedream: `mcp-seedream --log-level debug doctor` shows details."


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of a check, and advice for the user."""

    level: Level
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One check. It runs only if the checks named in `needs` found no problem."""

    name: str
    find: Callable[[], Awaitable[Finding]]
    needs: tuple[str, ...] = ()
    seconds: float = SECONDS


@dataclass(frozen=True, slots=True)
class Result:
    """The finding of a check, and how long it took."""

    name: str
    finding: Finding
    seconds: float


async def run_checks(checks: Sequence[Check], report: Callable[[Result], None]) -> list[Result]:
    """Run checks concurrently, each after the checks that it needs.

    Args:
        checks: The checks, in the order of their results; each comes after the checks that it needs.
        report: Called with each result, in order.
    """
    done = {check.name: anyio.Event() for check in checks}
    results: dict[str, Result] = {}

    async def run(check: Check) -> None:
        for name in check.needs:
            await done[name].wait()
        levels = {name: results[name].finding.level for name in check.needs}
        missing = [name for name, level in levels.items() if level in ("problem", "not checked")]
        began = time.perf_counter()
        finding = Finding("not checked", f"waits for {' and '.join(missing)}") if missing else await _find(check)
        results[check.name] = Result(check.name, finding, time.perf_counter() - began)
        done[check.name].set()

    async with anyio.create_task_group() as group:
        for check in checks:
            group.start_soon(run, check)
        for check in checks:
            await done[check.name].wait()
            report(results[check.name])
    return [results[check.name] for check in checks]


async def _find(check: Check) -> Finding:
    try:
        with anyio.fail_after(check.seconds):
            return await check.find()
    except TimeoutError:
        return Finding("problem", f"took longer than {check.seconds:.0f} s")
    except Exception as error:  # the top of a check: a bug in one must not hide the results of the others
        logger.exception("the check of %s failed", check.name)
        return Finding("problem", f"could not be checked ({type(error).__name__}: {error})", _BUG)


async def in_background(work: Callable[[], T]) -> T:
    """Run blocking work in a daemon thread, which does not delay the end of the process."""
    future: Future[T] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():  # after this, the future can't be cancelled
            return
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001  (raised where the result is awaited)
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(future)


def as_text(result: Result, width: int, *, names: int, coloured: bool = False) -> str:
    """A result as text: level, name and finding, and below them the advice.

    Args:
        result: The result.
        width: Width of a line, in characters.
        names: Width of the column of names.
        coloured: Whether the level has a colour, as an escape sequence for terminals.
    """
    finding = result.finding
    indent = " " * (_LEVEL_WIDTH + names + 2 * _GAP)
    level = finding.level.ljust(_LEVEL_WIDTH)
    if coloured:
        level = f"\033[{_COLOURS[finding.level]}m{level}\033[0m"
    room = max(width - len(indent), 20)
    # Addresses and paths are not broken, so that they can be copied.
    lines = [
        line
        for text in (finding.found, finding.advice)
        for line in textwrap.wrap(_plain(text), room, break_long_words=False, break_on_hyphens=False)
    ]
    first, *others = lines or [""]
    head = f"{level}{' ' * _GAP}{result.name.ljust(names)}{' ' * _GAP}{first}"
    return "\n".join([head, *(indent + line for line in others)])


def as_json(results: Sequence[Result], **more: Any) -> str:
    """All results as JSON, with the numbers of problems and warnings."""
    checks = [
        {
            "name": result.name,
            "level": result.finding.level.replace(" ", "_"),
            "found": result.finding.found,
            "advice": result.finding.advice,
            "seconds": round(result.seconds, 3),
        }
        for result in results
    ]
    counts = {"problems": count(results, "problem"), "warnings": count(results, "warning")}
    return json.dumps({**more, **counts, "checks": checks}, indent=2)


def count(results: Sequence[Result], level: Level) -> int:
    """The number of results with a level."""
    return sum(result.finding.level == level for result in results)


def _plain(text: str) -> str:
    """The text without control characters, since parts of it may come from other servers."""
    return "".join(character if character.isprintable() else " " for character in text)
