"""Finished pictures → what stays with the caller: files on their disk, and a preview in the chat.

Nothing here fails a call that has its pictures: what can't be fetched, saved or shown is a note beside the link.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import anyio.to_thread

from mcp_seedream.catalog.picture_kinds import kind
from mcp_seedream.catalog.references import picture_data
from mcp_seedream.core.errors import SeedreamError, UnreadableReply, UpstreamError
from mcp_seedream.media.downloads import Downloads
from mcp_seedream.media.local_files import LocalFiles, save_as
from mcp_seedream.upstream.types import Failure, Image, Task

logger = logging.getLogger(__name__)

_AT_ONCE = 4
# Seconds to fetch all pictures of a result: to show them is worth less time than to keep them, and a caller waits.
_PREVIEWING, _SAVING = 8, 30
_BLOCKS = 4
PREVIEW_ROOM = 74_000
"""Bytes of image files that one result has room for: below 100 kB as base64."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be done with the pictures: where to save them (None: nowhere), what to call them, a preview.

    `room` is how many bytes of image files the result has room for; `kept` are the files that an earlier call saved,
    one for each picture: they are not saved again.
    """

    folder: Path | None = None
    name: str = ""
    preview: bool = False
    room: int = PREVIEW_ROOM
    kept: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Delivered:
    """A task whose images know where they were saved; pictures to show (bytes of image files), and what they are."""

    task: Task
    shown: tuple[bytes, ...] = ()
    caption: str | None = None


async def deliver(
    task: Task, wanted: Wanted, downloads: Downloads, local: LocalFiles | None, decoding: anyio.CapacityLimiter
) -> Delivered:
    """Fetch, save and preview the pictures of a finished task. Whatever fails, the task comes back.

    Args:
        task: Any task; one without pictures comes back as it is.
        wanted: See `Wanted`.
        downloads: The guarded way to the pictures.
        local: This machine's disk is the caller's; None: it is not, so nothing is saved.
        decoding: How many large pictures the whole process decodes at a time.
    """
    try:
        return await _deliver(task, wanted, downloads, local, decoding)
    except Exception:  # a picture that was paid for is worth more than a rule: its link must reach the caller
        logger.exception("the pictures of task %s could not be delivered", task.id)
        rest = "their links are all there is" if any(image.url for image in task.images) else "get_task may bring them"
        note = f"The pictures could not be fetched, saved or shown here; {rest}."
        return Delivered(replace(task, notes=(*task.notes, note)))


async def _deliver(
    task: Task, wanted: Wanted, downloads: Downloads, local: LocalFiles | None, decoding: anyio.CapacityLimiter
) -> Delivered:
    if wanted.kept:
        pairs = zip(task.images, wanted.kept, strict=True)
        task = replace(task, images=tuple(replace(image, b64_json=None, path=str(path)) for image, path in pairs))
    data = [image for image in task.images if image.b64_json]
    folder = wanted.folder if local and not wanted.kept else None
    if local and data and folder is None:
        folder = local.output or Path.home() / "Pictures" / "seedream"
    if not task.images or not (folder or wanted.preview or data):
        return Delivered(task)
    with tempfile.TemporaryDirectory(prefix="seedream-", ignore_cleanup_errors=True) as temporary:
        seconds = _SAVING if folder else _PREVIEWING
        files, notes = await _fetched(task.images, Path(temporary), downloads, seconds)
        shown: tuple[bytes, ...] = ()
        caption = None
        if wanted.preview:
            shown, caption = await anyio.to_thread.run_sync(_preview, task.images, files, limiter=decoding)
        images = list(task.images)
        if folder:
            images, more = await anyio.to_thread.run_sync(_saved, images, files, folder, wanted.name)
            notes += more
        elif data:
            there = [file for file in files if file]
            shown, caption = tuple(within_budget((f.read_bytes() for f in there), wanted.room)), None
            if len(shown) < len(data):
                return Delivered(_too_large(task) if len(there) == len(files) else _broken(task, notes))
    if local and any(image.b64_json and not image.path for image in images):
        notes.append(f'get_task with task_id "{task.id}" and another save_to saves it, at no cost.')
    images = [replace(image, b64_json=None) for image in images]
    return Delivered(replace(task, images=tuple(images), notes=(*task.notes, *notes)), shown, caption)


def within_budget(pictures: Iterable[bytes], room: int = PREVIEW_ROOM) -> list[bytes]:
    """As many of the pictures, from the first on, as one result can show: 150,000 characters is what clients take."""
    shown: list[bytes] = []
    for data in pictures:
        if len(shown) == _BLOCKS or sum(map(len, shown)) + len(data) > room:
            break
        shown.append(data)
    return shown


async def _fetched(
    images: tuple[Image, ...], folder: Path, downloads: Downloads, seconds: float
) -> tuple[list[Path | None], list[str]]:
    """The pictures as files; None where one could not be had in time, or at all."""
    files: list[Path | None] = [None] * len(images)
    notes: dict[str, None] = {}
    limit = anyio.CapacityLimiter(_AT_ONCE)

    async def fetch(index: int, image: Image) -> None:
        path = Path(image.path) if image.path else folder / str(index)
        async with limit:
            try:
                if image.path:
                    pass  # an earlier call saved it
                elif image.b64_json:
                    data = await anyio.to_thread.run_sync(picture_data, image.b64_json)
                    if kind(data) is None:
                        raise UnreadableReply("The image data is not that of a picture.")
                    await anyio.Path(path).write_bytes(data)
                elif image.url:
                    await downloads.fetch(image.url, path)
                files[index] = path
            except UpstreamError as error:
                notes[f"Not fetched: {error.message}"] = None
            except (OSError, ValueError) as error:
                notes[f"Not fetched: {error}."] = None

    with anyio.move_on_after(seconds) as scope:
        async with anyio.create_task_group() as group:
            for index, image in enumerate(images):
                group.start_soon(fetch, index, image)
    if scope.cancelled_caught:
        notes[f"Not fetched: it took longer than {seconds} s."] = None
    return files, list(notes)


def _saved(images: list[Image], files: list[Path | None], folder: Path, name: str) -> tuple[list[Image], list[str]]:
    notes: dict[str, None] = {}
    for index, (image, file) in enumerate(zip(images, files, strict=True)):
        if file is None:
            continue
        try:
            images[index] = replace(image, path=str(save_as(file, folder, name, _part(image, index, len(images)))))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            notes[f"Not saved to {folder}: {reason}.{' The link still works.' if image.url else ''}"] = None
    return images, list(notes)


def _part(image: Image, index: int, of: int) -> str:
    """The end of a file's name: the layer's number and name, or the number in a set."""
    if image.z_index is not None:
        return f"{image.z_index} {image.name or ''}"
    return str(index + 1) if of > 1 else ""


def _preview(images: tuple[Image, ...], files: list[Path | None]) -> tuple[tuple[bytes, ...], str | None]:
    """One picture: a thumbnail; layers: put together; a set: a contact sheet. Nothing, where that can't be made."""
    from mcp_seedream.media import previews  # noqa: PLC0415  (Pillow: not before the first picture)

    there = [(image, file) for image, file in zip(images, files, strict=True) if file]
    layers = sorted((pair for pair in there if pair[0].z_index), key=lambda pair: pair[0].z_index or 0)
    base = next((file for image, file in there if image.z_index == 0), None)
    try:
        if base and layers:
            boxes = [(file, image.box) for image, file in layers if image.box]
            return (previews.composed(base, boxes),), "shows the layers put together, reduced"
        if len(there) > 1:
            return (previews.contact_sheet([file for _, file in there]),), "shows all of them, reduced"
        if there:
            return (previews.thumbnail(there[0][1]),), "is only a thumbnail"
    except (SeedreamError, OSError, ValueError, ArithmeticError, MemoryError) as error:
        logger.info("no preview: %s", error)
    return (), None


def _too_large(task: Task) -> Task:
    """Image data was asked for, and there is neither a disk for it nor room in the result."""
    size = sum(len(image.b64_json or "") for image in task.images) * 3 // 4
    reason = (
        f"it was made, but its data ({size:,} bytes) is more than a result can carry over HTTP. Links "
        "can be had with response_format url, in a new call that is billed anew."
    )
    return replace(task, state="failed", images=(), error=Failure("result_too_large", reason))


def _broken(task: Task, notes: list[str]) -> Task:
    """Image data that is none."""
    error = Failure("unreadable_reply", f"its data can't be decoded. {' '.join(notes)}".strip())
    return replace(task, state="failed", images=(), error=error)
