"""The budget of temporary files."""

from __future__ import annotations

import os

import anyio
import pytest

from mcp_seedream.media.temporary_files import TemporaryFiles, new_file, reopened

pytestmark = pytest.mark.anyio
MIB = 2**20


async def hold(files: TemporaryFiles, caller: str, size: int, log: list[str], end: anyio.Event) -> None:
    async with files.open(caller) as file:
        await file.restart(size)
        log.append(caller)
        await end.wait()


async def test_a_file_waits_for_room_and_callers_take_turns() -> None:
    """What finds no room gets it once others are deleted; a caller with many files delays another's by one turn."""
    files, log = TemporaryFiles(10 * MIB), list[str]()
    ends = [anyio.Event() for _ in range(7)]
    async with anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(hold, files, "greedy", 6 * MIB, log, ends[number])
            await anyio.wait_all_tasks_blocked()
        group.start_soon(hold, files, "honest", 4 * MIB, log, ends[6])
        await anyio.wait_all_tasks_blocked()
        assert log == ["greedy"]
        for event in ends:
            event.set()
            await anyio.wait_all_tasks_blocked()
    assert log.index("honest") <= 3
    assert len(log) == 7


async def test_a_file_larger_than_the_budget_gets_all_of_it() -> None:
    """It is alone."""
    files, log, end = TemporaryFiles(10 * MIB), list[str](), anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(hold, files, "large", 64 * MIB, log, end)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(hold, files, "small", 1, log, end)
        await anyio.wait_all_tasks_blocked()
        assert log == ["large"]
        end.set()
    assert log == ["large", "small"]


async def test_a_call_that_is_cancelled_while_it_waits_gives_its_room_back() -> None:
    """Also what it had collected so far."""
    files, log, end = TemporaryFiles(10 * MIB), list[str](), anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(hold, files, "a", 6 * MIB, log, end)
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0.01):
            await hold(files, "b", 8 * MIB, log, end)
        group.start_soon(hold, files, "c", 4 * MIB, log, end)
        await anyio.wait_all_tasks_blocked()
        end.set()
    assert log == ["a", "c"]


async def test_a_second_download_of_a_file_takes_no_more_room() -> None:
    """Retries start it again."""
    async with TemporaryFiles(10 * MIB).open("a") as file:
        for text in (b"first attempt", b"second"):
            await file.restart(8 * MIB)
            await file.write(text)
        with reopened(file.content) as content:
            assert content.read() == b"second"


def test_where_files_in_memory_are_not_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are on disk."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    with new_file(b"data") as file, reopened(file) as again:
        assert again.read() == b"data"
