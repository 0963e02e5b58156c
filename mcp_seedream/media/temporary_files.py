"""Temporary files without names, and a budget for those of the whole process."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import BinaryIO

from mcp_seedream.core.concurrency import run_in_thread
from mcp_seedream.upstream.fair_limiter import FairLimiter

MAX_BYTES = 48 * 2**20
"""Default budget: a 4K PNG, or about ten pictures of usual size."""
_UNIT = 2**20


def new_file(data: bytes = b"") -> BinaryIO:
    """Create a file with this data. It is in memory where the system has such files, so that /tmp may be small."""
    file: BinaryIO
    try:
        file = os.fdopen(os.memfd_create("seedream"), "w+b")
    except (AttributeError, OSError):  # not Linux, or not allowed in this sandbox
        file = tempfile.TemporaryFile()  # noqa: SIM115  (the caller closes it)
    file.write(data)
    file.flush()
    return file


def reopened(file: BinaryIO) -> BinaryIO:
    """Open an open file again, at its start. They share the position in the file: do not use both at the same time."""
    file.flush()
    descriptor = os.dup(file.fileno())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.fdopen(descriptor, "rb")


class TemporaryFile:
    """A temporary file that takes room in the budget. `TemporaryFiles.open` creates it."""

    def __init__(self, budget: TemporaryFiles, caller: str) -> None:
        self.content = new_file()
        self._budget = budget
        self._caller = caller
        self._units = 0

    async def restart(self, size: int) -> None:
        """Empty the file, and wait until there is room for `size` bytes."""
        self.content.seek(0)
        self.content.truncate()
        self._release()
        self._units = await self._budget.acquire(size, self._caller)

    async def write(self, data: bytes) -> None:
        """Append bytes."""
        await run_in_thread(self.content.write, data)

    def head(self) -> bytes:
        """Return the first 16 bytes."""
        with reopened(self.content) as file:
            return file.read(16)

    def close(self) -> None:
        """Delete the file."""
        self.content.close()
        self._release()

    def _release(self) -> None:
        self._budget.release(self._units)
        self._units = 0


class TemporaryFiles:
    """Temporary files, round-robin by caller. A file that does not fit waits until others are deleted.

    A call that holds a file may wait for a slot of the decoder. A call with a slot must not wait for a file: deadlock.

    Args:
        max_bytes: Room for all files. One that is larger gets all of it.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._all_units = max(1, max_bytes // _UNIT)
        self._units = FairLimiter(self._all_units)
        self._gate = FairLimiter(1)  # only one caller collects units: two could block each other

    @asynccontextmanager
    async def open(self, caller: str) -> AsyncIterator[TemporaryFile]:
        """A new, empty file while the context lasts."""
        file = TemporaryFile(self, caller)
        try:
            yield file
        finally:
            file.close()

    async def acquire(self, size: int, caller: str) -> int:
        """Wait for room; return the number of units to release."""
        units = min(self._all_units, -(-size // _UNIT))
        taken = 0
        try:
            async with self._gate.slot(caller):
                while taken < units:
                    await self._units.acquire(caller)
                    taken += 1
        except BaseException:
            self.release(taken)
            raise
        return units

    def release(self, units: int) -> None:
        """Release units, which other files can then use."""
        for _ in range(units):
            self._units.release()
