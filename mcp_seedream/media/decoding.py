"""Starts the `decoder` in subprocesses with limited memory and time, round-robin by caller."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass
from typing import Any, BinaryIO

import anyio

from mcp_seedream.catalog.picture_kinds import Bounds
from mcp_seedream.core.concurrency import run_in_thread
from mcp_seedream.core.errors import InvalidArguments, LimitExceeded
from mcp_seedream.upstream.fair_limiter import FairLimiter

OpenSource = Callable[[], BinaryIO]
"""Opens the file with a picture, in a thread, for each subprocess; it is closed afterwards."""


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """The limits of one subprocess.

    Attributes:
        memory: Bytes that it may allocate.
        seconds: Seconds of computing.
    """

    memory: int
    seconds: int


SMALL = ProcessLimits(48_000_000, 5)  # reads headers, and converts pictures of up to 4 megapixels
MEDIUM = ProcessLimits(165_000_000, 15)  # a phone's 12 megapixels
LARGE = ProcessLimits(330_000_000, 20)
"""The limits of the largest pictures: 60 megapixels of HEIC need 315 MB."""
_BUSY_FACTOR = 3  # seconds of a subprocess on a busy machine, by its seconds of computing
_RETRY_AFTER = 10  # seconds
_TOO_LONG = "takes too long to decode: give a smaller one, or save it again as a plain JPEG or PNG."
_OUT_OF_TIME = None if sys.platform == "win32" else -signal.SIGXCPU
"""Exit status of a subprocess that used up its seconds."""


@dataclass(frozen=True, slots=True)
class Fit:
    """An input picture as the upstream accepts it.

    Attributes:
        has_alpha: Whether it has an alpha channel or a transparent color.
        data: The new picture; None if no change is necessary.
        note: What was changed.
    """

    has_alpha: bool
    data: bytes | None
    note: str | None


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of a preview: a picture scaled down, and the width and height of the original."""

    data: bytes
    size: tuple[int, int]


class Decoders:
    """Runs the decoder. One instance serves a whole process.

    Small jobs have their own slots, so that most pictures, which need no change, do not wait for large ones. Of the
    others, two run concurrently, or one that needs more than half of the memory. All processes together allocate at
    most 2 x 48 + 330 MB.
    """

    def __init__(self) -> None:
        self._small = FairLimiter(2)
        self._medium = FairLimiter(2)
        self._large = FairLimiter(1)  # for jobs that take both slots of `_medium`, since two would block each other

    async def fit(self, source: OpenSource, bounds: Bounds, *, keep_alpha: bool, caller: str, deadline: float) -> Fit:
        """Convert a picture to one that the upstream accepts, if necessary.

        Args:
            source: Opens the picture's file.
            bounds: The upstream's limits.
            keep_alpha: Keep transparency in a changed picture.
            caller: The caller's token, for the round-robin order.
            deadline: When to give up, on anyio's clock.

        Raises:
            InvalidArguments: The picture can't be decoded, breaks a limit, or needs too much memory or time.
            LimitExceeded: No slot was free before the deadline.
        """
        job = {"operation": "fit", "bounds": astuple(bounds), "keep_alpha": keep_alpha}
        limits, needed = SMALL, SMALL.memory
        while True:
            output, data = await self._run(job, limits, source, caller, deadline)
            if "memory" not in output:
                return Fit(output["has_alpha"], data or None, output.get("note"))
            needed = max(needed + 1, output["memory"])
            limits = MEDIUM if limits is SMALL and needed <= MEDIUM.memory else LARGE

    async def thumbnail(self, source: OpenSource, caller: str, deadline: float) -> bytes:
        """Return a preview of one picture; raises as `fit` does."""
        return (await self._run({"operation": "thumbnail"}, MEDIUM, source, caller, deadline))[1]

    async def tile(self, source: OpenSource, columns: int, caller: str, deadline: float) -> Tile:
        """Return a picture scaled down for a preview with this many columns; raises as `fit` does."""
        output, data = await self._run({"operation": "tile", "columns": columns}, MEDIUM, source, caller, deadline)
        return Tile(data, tuple(output["size"]))

    async def join_tiles(self, job: dict[str, Any], source: OpenSource, caller: str, deadline: float) -> bytes:
        """Return one preview of the tiles in a file: see the operations `sheet` and `composed` of the decoder."""
        return (await self._run(job, SMALL, source, caller, deadline))[1]

    async def _run(
        self, job: dict[str, Any], limits: ProcessLimits, source: OpenSource, caller: str, deadline: float
    ) -> tuple[dict[str, Any], bytes]:
        is_running = False
        with anyio.CancelScope(deadline=deadline):
            async with self._slot(limits, caller):
                is_running = True
                with anyio.move_on_after(limits.seconds * _BUSY_FACTOR):
                    return await _run_decoder(job, limits, source, is_last=limits is LARGE)
        if not is_running:
            raise LimitExceeded("the server is busy with the pictures of other calls", _RETRY_AFTER)
        raise InvalidArguments(_TOO_LONG)

    @asynccontextmanager
    async def _slot(self, limits: ProcessLimits, caller: str) -> AsyncIterator[None]:
        if limits is SMALL:
            async with self._small.slot(caller):
                yield
        elif limits is MEDIUM:
            async with self._medium.slot(caller):
                yield
        else:
            async with self._large.slot(caller), self._medium.slot(caller), self._medium.slot(caller):
                yield


async def _run_decoder(
    job: dict[str, Any], limits: ProcessLimits, source: OpenSource, *, is_last: bool
) -> tuple[dict[str, Any], bytes]:
    """Run the decoder once; return its line of JSON, and the new picture.

    Raises:
        InvalidArguments: The decoder refused the picture, crashed, or used up its time.
    """
    job = {**job, "memory": limits.memory, "seconds": limits.seconds, "is_last": is_last}
    # -P: never import modules from the working directory.
    command = [sys.executable, "-P", "-m", "mcp_seedream.media.decoder", json.dumps(job)]
    with await run_in_thread(source) as file:
        file.flush()
        process = await anyio.run_process(command, stdin=file, stderr=subprocess.DEVNULL, check=False)
    line, _, data = process.stdout.partition(b"\n")
    if process.returncode == _OUT_OF_TIME:
        raise InvalidArguments(_TOO_LONG)
    output: dict[str, Any] = json.loads(line or b'{"error": "can\'t be decoded."}')
    if "error" in output:
        raise InvalidArguments(output["error"])
    return output, data
