"""The decoder's subprocesses: turns of callers, time limits, memory, and pictures that are made to occupy them."""

from __future__ import annotations

import io
import json
import sys
import zlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, BinaryIO

import anyio
import pytest
from PIL import Image

from mcp_seedream.catalog.picture_kinds import Bounds
from mcp_seedream.core.errors import InvalidArguments, LimitExceeded
from mcp_seedream.media import decoding
from mcp_seedream.media.decoding import Decoders, Fit
from mcp_seedream.media.temporary_files import new_file
from tests.unit.test_structure import MILLION, chunk, jpeg_with, png_with, progressive, saved, segment

pytestmark = pytest.mark.anyio
BOUNDS = Bounds(10 * 2**20, 15, 36_000_000, 16)
PLENTY = 60.0
"""Seconds that only keep a test from hanging."""


async def fit(decoders: Decoders, data: bytes, *, caller: str = "a", seconds: float = PLENTY, **options: Any) -> Fit:
    deadline = anyio.current_time() + seconds
    source: Callable[[], BinaryIO] = lambda: new_file(data)  # noqa: E731
    return await decoders.fit(source, BOUNDS, keep_alpha=False, caller=caller, deadline=deadline, **options)


class Workers:
    """Stands in for subprocesses: each waits until the test lets it end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[str] = []
        self.end = anyio.Semaphore(0)
        monkeypatch.setattr(anyio, "run_process", self.run)

    async def run(self, _: list[str], *, stdin: BinaryIO, **__: Any) -> Any:
        stdin.seek(0)
        self.started.append(stdin.read().decode())
        await self.end.acquire()
        return SimpleNamespace(returncode=0, stdout=b'{"has_alpha": false}\n')


async def test_callers_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller with many pictures delays another caller's by one turn."""
    workers, decoders = Workers(monkeypatch), Decoders()
    async with anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(lambda name: fit(decoders, name.encode(), caller="greedy"), f"greedy {number}")
            await anyio.wait_all_tasks_blocked()
        group.start_soon(lambda: fit(decoders, b"honest", caller="honest"))
        while len(workers.started) < 7:
            await anyio.wait_all_tasks_blocked()
            workers.end.release()
            with anyio.fail_after(PLENTY):
                count = len(workers.started)
                while len(workers.started) == count < 7:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
        for _ in range(7):
            workers.end.release()
    assert "honest" in workers.started[2:4]


async def test_waiting_for_a_turn_takes_the_calls_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says so, and that the call can be repeated."""
    workers, decoders = Workers(monkeypatch), Decoders()
    async with anyio.create_task_group() as group:
        for name in (b"1", b"2"):
            group.start_soon(fit, decoders, name)
        while len(workers.started) < 2:  # noqa: ASYNC110
            await anyio.sleep(0.01)
        with pytest.raises(LimitExceeded, match="the server is busy with the pictures of other calls") as caught:
            await fit(decoders, b"3", caller="b", seconds=0.05)
        assert caught.value.retryable
        assert sorted(workers.started) == ["1", "2"]  # they start in threads, in either order
        for _ in range(3):
            workers.end.release()
        await fit(decoders, b"4", caller="b")


async def test_a_decoder_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up, and its slot is free again."""
    workers, decoders = Workers(monkeypatch), Decoders()
    for _ in range(3):
        with pytest.raises(InvalidArguments, match="takes too long to decode: give a smaller one"):
            await fit(decoders, b"slow", seconds=0.05)
    workers.end.release()
    assert (await fit(decoders, b"quick")).data is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of a process's seconds")
async def test_a_decoder_that_computes_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system ends it."""
    run = anyio.run_process

    async def busy(command: list[str], **options: Any) -> Any:
        job = json.loads(command[-1])
        script = (
            f"from mcp_seedream.media.decoder import _limit_resources as f; f({job['memory']}, 1)\nwhile True: pass"
        )
        return await run([*command[:-3], "-c", script], **options)

    monkeypatch.setattr(anyio, "run_process", busy)
    with pytest.raises(InvalidArguments, match="takes too long to decode"):
        await fit(Decoders(), saved("PNG"))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (lambda: jpeg_with(segment(0xFE) * 10 * MILLION), "more than 4,096 JPEG segments"),
        (lambda: progressive(3000, 1800), "more than 100 JPEG scans"),
        (lambda: saved("PNG", size=(16, 60_000)), "the aspect ratio must be from"),
        (lambda: saved("PNG", size=(1, 65_000)), "each side must have 15 or more"),
        (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "can't be decoded"),
        (lambda: b"\x89PNG\r\n\x1a\n", "can't be decoded"),
        (lambda: b"x", "can't be decoded"),
    ],
    ids=["segments", "scans", "ratio", "line", "svg", "signature", "byte"],
)
async def test_pictures_that_are_refused(data: Callable[[], bytes], says: str) -> None:
    """By the first, small subprocess."""
    with pytest.raises(InvalidArguments, match=says):
        await fit(Decoders(), data())


@pytest.mark.parametrize("body", [b"zTXtk\0\0", b"iCCPk\0\0", b"iTXtk\0\x01\0\0\0"], ids=["zTXt", "iCCP", "iTXt"])
async def test_text_that_unpacks_to_hundreds_of_megabytes(body: bytes) -> None:
    """Metadata of a PNG is not unpacked beyond a limit."""
    body += zlib.compress(bytes(200 * MILLION), 9)
    with pytest.raises(InvalidArguments, match=r"can't be decoded .*too large"):
        await fit(Decoders(), png_with(chunk(body[:4], body[4:])))


@pytest.mark.parametrize("picture_format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF"])
async def test_an_alpha_channel_is_noticed(picture_format: str) -> None:
    """In the picture that is sent."""
    mode = "RGBA" if picture_format in {"PNG", "WEBP", "TIFF"} else "RGB"
    assert (await fit(Decoders(), saved(picture_format, mode))).has_alpha == (mode == "RGBA")


@pytest.mark.parametrize(
    ("size", "memory"), [((2000, 1500), "small"), ((4032, 3024), "medium"), ((9000, 6700), "large")]
)
async def test_memory_by_size(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], memory: str) -> None:
    """A rotated photo is converted with as much memory as it needs, not with the most."""
    used, run = list[int](), anyio.run_process

    async def watched(command: list[str], **options: Any) -> Any:
        used.append(json.loads(command[-1])["memory"])
        return await run(command, **options)

    monkeypatch.setattr(anyio, "run_process", watched)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.radial_gradient("L").resize(size).convert("RGB").save(file, "JPEG", exif=exif)
    result = await fit(Decoders(), file.getvalue())
    assert "turned upright" in (result.note or "")
    limits = {"small": decoding.SMALL, "medium": decoding.MEDIUM, "large": decoding.LARGE}
    assert used[-1] == limits[memory].memory
