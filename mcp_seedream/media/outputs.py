"""Delivers generated pictures: downloads them, saves them to the caller's disk, and makes a preview.

A failure in these steps does not fail the call: the result has a note, and the links to the pictures.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from mcp_seedream.catalog.picture_kinds import kind
from mcp_seedream.catalog.references import picture_data
from mcp_seedream.core.errors import SeedreamError, UnreadableReply, UpstreamError
from mcp_seedream.media.local_files import LocalFiles, save_as
from mcp_seedream.upstream.types import Failure, Image, Task

if TYPE_CHECKING:
    from mcp_seedream.media.downloads import Downloads

logger = logging.getLogger(__name__)

_MAX_DOWNLOADS = 4  # concurrent downloads per result
_PREVIEW_SECONDS = 8  # time limit for downloading a result's pictures, if they are only previewed
_SAVE_SECONDS = 30  # time limit for downloading a result's pictures, if they are saved
_MAX_BLOCKS = 4  # image blocks per result
PREVIEW_ROOM = 74_000
"""Bytes of image files that fit in one result: below 100 kB as base64. Clients accept 150,000 characters."""


@dataclass(frozen=True, slots=True)
class DeliveryOptions:
    """How to deliver the pictures of a task.

    Attributes:
        target: The folder or file to save them as (see `save_as`); None to save only image data.
        name: Text from which file names are made.
        preview: Make a preview.
        max_bytes: Bytes of image files that fit in the result.
        saved: Files that an earlier call saved, one per picture. They are not saved again.
    """

    target: Path | None = None
    name: str = ""
    preview: bool = False
    max_bytes: int = PREVIEW_ROOM
    saved: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Delivered:
    """A delivered task.

    Attributes:
        task: The task, with the paths of saved pictures, and notes about failures.
        shown: Image files to include in the result.
        caption: A description of `shown`; None if it contains the pictures themselves.
    """

    task: Task
    shown: tuple[bytes, ...] = ()
    caption: str | None = None


async def deliver(
    task: Task,
    options: DeliveryOptions,
    downloads: Downloads,
    local: LocalFiles | None,
    decode_limiter: anyio.CapacityLimiter,
) -> Delivered:
    """Download, save and preview the pictures of a task. Never raises: failures become notes.

    Args:
        task: Any task. A task without pictures is returned unchanged.
        options: How to deliver the pictures.
        downloads: Downloads the pictures.
        local: The caller's disk; None if the server runs elsewhere, so that nothing is saved.
        decode_limiter: Limits concurrent decoding in the whole process.
    """
    try:
        return await _deliver(task, options, downloads, local, decode_limiter)
    except Exception:  # the pictures were billed, so their links must reach the caller
        logger.exception("the pictures of task %s could not be delivered", task.id)
        rest = (
            "only their links are available" if any(image.url for image in task.images) else "get_task may return them"
        )
        note = f"The pictures could not be fetched, saved or shown here; {rest}."
        return Delivered(replace(task, notes=(*task.notes, note)))


async def _deliver(
    task: Task,
    options: DeliveryOptions,
    downloads: Downloads,
    local: LocalFiles | None,
    decode_limiter: anyio.CapacityLimiter,
) -> Delivered:
    if options.saved:
        pairs = zip(task.images, options.saved, strict=True)
        task = replace(task, images=tuple(replace(image, b64_json=None, path=str(path)) for image, path in pairs))
    data = [image for image in task.images if image.b64_json]
    target = options.target if local and not options.saved else None
    if local and data and target is None:
        target = local.output or Path.home() / "Pictures" / "seedream"
    if not task.images or not (target or options.preview or data):
        return Delivered(task)
    with tempfile.TemporaryDirectory(prefix="seedream-", ignore_cleanup_errors=True) as temporary:
        seconds = _SAVE_SECONDS if target else _PREVIEW_SECONDS
        files, notes = await _fetch(task.images, Path(temporary), downloads, seconds)
        shown: tuple[bytes, ...] = ()
        caption = None
        if options.preview:
            shown, caption = await anyio.to_thread.run_sync(_preview, task.images, files, limiter=decode_limiter)
        images = list(task.images)
        if target:
            images, save_notes = await anyio.to_thread.run_sync(_save, images, files, target, options.name)
            notes += save_notes
        elif data:
            readable = [file for file in files if file]
            shown, caption = tuple(within_budget((f.read_bytes() for f in readable), options.max_bytes)), None
            if len(shown) < len(data):
                return Delivered(_too_large(task) if len(readable) == len(files) else _undecodable(task, notes))
    if local and any(image.b64_json and not image.path for image in images):
        notes.append(f'get_task with task_id "{task.id}" and another save_to saves it, at no cost.')
    images = [replace(image, b64_json=None) for image in images]
    return Delivered(replace(task, images=tuple(images), notes=(*task.notes, *notes)), shown, caption)


def within_budget(pictures: Iterable[bytes], max_bytes: int = PREVIEW_ROOM) -> list[bytes]:
    """Return the first pictures that fit in one result together."""
    shown: list[bytes] = []
    for data in pictures:
        if len(shown) == _MAX_BLOCKS or sum(map(len, shown)) + len(data) > max_bytes:
            break
        shown.append(data)
    return shown


async def _fetch(
    images: tuple[Image, ...], folder: Path, downloads: Downloads, seconds: float
) -> tuple[list[Path | None], list[str]]:
    """Download pictures to a folder; return the files (None for failures), and notes about failures."""
    files: list[Path | None] = [None] * len(images)
    notes: dict[str, None] = {}
    limiter = anyio.CapacityLimiter(_MAX_DOWNLOADS)

    async def fetch(index: int, image: Image) -> None:
        path = Path(image.path) if image.path else folder / str(index)
        async with limiter:
            try:
                if image.path:
                    pass  # saved by an earlier call
                elif image.b64_json:
                    data = await anyio.to_thread.run_sync(picture_data, image.b64_json)
                    if kind(data) is None:
                        raise UnreadableReply("The image data is not a picture.")
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


def _save(images: list[Image], files: list[Path | None], target: Path, name: str) -> tuple[list[Image], list[str]]:
    """Save files; return the images with their paths, and notes about failures."""
    notes: dict[str, None] = {}
    for index, (image, file) in enumerate(zip(images, files, strict=True)):
        if file is None:
            continue
        try:
            images[index] = replace(image, path=str(save_as(file, target, name, _part(image, index, len(images)))))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            notes[f"Not saved to {target}: {reason}.{' The link still works.' if image.url else ''}"] = None
    return images, list(notes)


def _part(image: Image, index: int, count: int) -> str:
    """Return the part to append to a file name: a layer's number and name, or the picture's number in a set."""
    if image.z_index is not None:
        return f"{image.z_index} {image.name or ''}"
    return str(index + 1) if count > 1 else ""


def _preview(images: tuple[Image, ...], files: list[Path | None]) -> tuple[tuple[bytes, ...], str | None]:
    """Return a preview and its caption: a thumbnail, composed layers, or a contact sheet; nothing if that fails."""
    from mcp_seedream.media import previews  # noqa: PLC0415  (Pillow: not before the first picture)

    available = [(image, file) for image, file in zip(images, files, strict=True) if file]
    layers = sorted((pair for pair in available if pair[0].z_index), key=lambda pair: pair[0].z_index or 0)
    base = next((file for image, file in available if image.z_index == 0), None)
    try:
        if base and layers:
            boxes = [(file, image.box) for image, file in layers if image.box]
            return (previews.composed(base, boxes),), "shows the layers put together, reduced"
        if len(available) > 1:
            return (previews.contact_sheet([file for _, file in available]),), "shows all of them, reduced"
        if available:
            return (previews.thumbnail(available[0][1]),), "is only a thumbnail"
    except (SeedreamError, OSError, ValueError, ArithmeticError, MemoryError) as error:
        logger.info("no preview: %s", error)
    return (), None


def _too_large(task: Task) -> Task:
    """Return the task as failed, since its image data can't be saved and does not fit in the result."""
    size = sum(len(image.b64_json or "") for image in task.images) * 3 // 4
    reason = (
        f"it was made, but its data ({size:,} bytes) is more than a result can carry over HTTP. A new call "
        "with response_format url returns links; it is billed again."
    )
    return replace(task, state="failed", images=(), error=Failure("result_too_large", reason))


def _undecodable(task: Task, notes: list[str]) -> Task:
    """Return the task as failed, since its image data can't be decoded."""
    error = Failure("unreadable_reply", f"its data can't be decoded. {' '.join(notes)}".strip())
    return replace(task, state="failed", images=(), error=error)
