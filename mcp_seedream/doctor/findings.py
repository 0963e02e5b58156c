"""What checks find: looked for at once where they can be, and told in their order, to people or to machines."""

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
"""It works; it works, but; it is what keeps pictures from coming; another check comes first."""

SECONDS = 30
"""For a check that says nothing else."""
_COLOURS: dict[Level, int] = {"ok": 32, "warning": 33, "problem": 31, "not checked": 2}
_LEVEL_WIDTH, _GAP = len("not checked"), 2
_BUG = "This is a fault of mcp-seedream itself: `--log-level debug doctor` shows more of it."


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, and what can be done about it."""

    level: Level
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """Something to look for; `needs` are names of checks that must not find a problem first."""

    name: str
    find: Callable[[], Awaitable[Finding]]
    needs: tuple[str, ...] = ()
    seconds: float = SECONDS


@dataclass(frozen=True, slots=True)
class Result:
    """What a check found, and how long it took."""

    name: str
    finding: Finding
    seconds: float


async def examine(checks: Sequence[Check], tell: Callable[[Result], None]) -> list[Result]:
    """Run checks, as many at once as their needs allow.

    Args:
        checks: In the order in which they are told; their needs stand before them.
        tell: Called for each, as soon as those before it are done.
    """
    done = {check.name: anyio.Event() for check in checks}
    results: dict[str, Result] = {}

    async def run(check: Check) -> None:
        for name in check.needs:
            await done[name].wait()
        levels = {name: results[name].finding.level for name in check.needs}
        missing = [name for name, level in levels.items() if level in ("problem", "not checked")]
        began = time.perf_counter()
        finding = Finding("not checked", f"waits for {' and '.join(missing)}") if missing else await _found(check)
        results[check.name] = Result(check.name, finding, time.perf_counter() - began)
        done[check.name].set()

    async with anyio.create_task_group() as group:
        for check in checks:
            group.start_soon(run, check)
        for check in checks:
            await done[check.name].wait()
            tell(results[check.name])
    return [results[check.name] for check in checks]


async def _found(check: Check) -> Finding:
    try:
        with anyio.fail_after(check.seconds):
            return await check.find()
    except TimeoutError:
        return Finding("problem", f"took longer than {check.seconds:.0f} s")
    except Exception as error:  # the top of a check: the others have something to tell all the same
        logger.exception("the check of %s failed", check.name)
        return Finding("problem", f"could not be looked at ({type(error).__name__}: {error})", _BUG)


async def in_background(work: Callable[[], T]) -> T:
    """Do something that may block for long in a thread that nobody waits for, not even the end of the process."""
    future: Future[T] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():  # from here on, it is not cancelled: there is no way back
            return
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001  (it is raised where the result is waited for)
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(future)


def as_text(result: Result, width: int, *, names: int, coloured: bool = False) -> str:
    """A result for people: level, name, what was found; below it, what to do.

    Args:
        result: What was found.
        width: Of a line, in characters.
        names: Width of the column of names.
        coloured: Give the level its colour, as terminals take it.
    """
    finding = result.finding
    indent = " " * (_LEVEL_WIDTH + names + 2 * _GAP)
    level = finding.level.ljust(_LEVEL_WIDTH)
    if coloured:
        level = f"\033[{_COLOURS[finding.level]}m{level}\033[0m"
    room = max(width - len(indent), 20)
    # Addresses and paths are for copying: they are not broken.
    lines = [
        line
        for text in (finding.found, finding.advice)
        for line in textwrap.wrap(_plain(text), room, break_long_words=False, break_on_hyphens=False)
    ]
    first, *others = lines or [""]
    head = f"{level}{' ' * _GAP}{result.name.ljust(names)}{' ' * _GAP}{first}"
    return "\n".join([head, *(indent + line for line in others)])


def as_json(results: Sequence[Result], **more: Any) -> str:
    """All results for machines, and how many problems and warnings there are."""
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
    """How many results are of a level."""
    return sum(result.finding.level == level for result in results)


def _plain(text: str) -> str:
    """What somebody else's server said can't move the cursor."""
    return "".join(character if character.isprintable() else " " for character in text)
