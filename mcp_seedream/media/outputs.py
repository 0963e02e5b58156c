"""Delivers generated pictures: downloads them, saves them to the caller's disk, and makes a preview.

A failure in these steps does not fail the call: the result has a note, and the links to the pictures.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import anyio

from mcp_seedream.catalog.picture_kinds import kind
from mcp_seedream.catalog.references import picture_data
from mcp_seedream.core.concurrency import run_in_thread
from mcp_seedream.core.errors import InvalidArguments, LimitExceeded, SeedreamError, UnreadableReply, UpstreamError
from mcp_seedream.media.decoding import Decoders, Tile
from mcp_seedream.media.local_files import LocalFiles, open_picture
from mcp_seedream.media.saved_files import name_part, save_as
from mcp_seedream.media.temporary_files import TemporaryFile, TemporaryFiles, new_file, reopened
from mcp_seedream.upstream.types import Failure, Image, Task

if TYPE_CHECKING:
    from mcp_seedream.media.downloads import Downloads

logger = logging.getLogger(__name__)

_MAX_DOWNLOADS = 4  # concurrent downloads per result
_MAX_BLOCKS = 4  # image blocks per result
PREVIEW_ROOM = 74_000
"""Bytes of image files that fit in one result: below 100 kB as base64. Clients accept 150,000 characters."""


@dataclass(frozen=True, slots=True)
class PictureTimes:
    """Time limits in seconds for a result's pictures: `preview` if they are only shown, `save` if they are saved."""

    preview: float = 8
    save: float = 30


@dataclass(frozen=True, slots=True)
class DeliveryOptions:
    """How to deliver the pictures of a task.

    Attributes:
        target: The folder or file to save them as (see `save_as`); None to save only image data.
        name: Text from which file names are made.
        preview: Make a preview.
        max_bytes: Bytes of image files that fit in the result.
        saved: Files that an earlier call saved, one per picture. They are not saved again.
        caller: The caller's token, for the round-robin order of files and decoders.
    """

    target: Path | None = None
    name: str = ""
    preview: bool = False
    max_bytes: int = PREVIEW_ROOM
    saved: tuple[Path, ...] = ()
    caller: str = ""


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


class Delivery:
    """Delivers pictures. One instance serves a whole process.

    Args:
        downloads: Downloads the pictures.
        decoders: Decode pictures in subprocesses.
        files: Temporary files for the pictures.
        local: The caller's disk; None if the server runs elsewhere, so that nothing is saved.
        times: The time limits.
    """

    def __init__(
        self,
        downloads: Downloads,
        decoders: Decoders,
        files: TemporaryFiles,
        local: LocalFiles | None,
        times: PictureTimes | None = None,
    ) -> None:
        self._downloads = downloads
        self._decoders = decoders
        self._files = files
        self._local = local
        self._times = times or PictureTimes()

    async def deliver(self, task: Task, options: DeliveryOptions) -> Delivered:
        """Download, save and preview the pictures of a task. Never raises: failures become notes."""
        try:
            return await self._deliver(task, options)
        except Exception:  # the pictures were billed, so their links must reach the caller
            logger.exception("the pictures of task %s could not be delivered", task.id)
            links = any(image.url for image in task.images)
            rest = "only their links are available" if links else "get_task may return them"
            note = f"The pictures could not be fetched, saved or shown here; {rest}."
            return Delivered(replace(task, notes=(*task.notes, note)))

    async def _deliver(self, task: Task, options: DeliveryOptions) -> Delivered:
        local = self._local
        if options.saved:
            pairs = zip(task.images, options.saved, strict=True)
            task = replace(task, images=tuple(replace(image, b64_json=None, path=str(path)) for image, path in pairs))
        data = [image for image in task.images if image.b64_json]
        target = options.target if local and not options.saved else None
        if local and data and target is None:
            target = local.output or Path.home() / "Pictures" / "seedream"
        if data and not target:
            return await run_in_thread(_with_data, task, options.max_bytes)
        if not task.images or not (target or options.preview):
            return Delivered(task)
        seconds = self._times.save if target else self._times.preview
        pictures = _Pictures(list(task.images), target, options, seconds, anyio.current_time() + seconds)
        await self._process(pictures)
        shown, caption = await self._preview(pictures) if options.preview else ((), None)
        notes = list(pictures.notes)
        if any(image.b64_json and not image.path for image in pictures.images):
            notes.append(f'get_task with task_id "{task.id}" and another save_to saves it, at no cost.')
        images = tuple(replace(image, b64_json=None) for image in pictures.images)
        return Delivered(replace(task, images=images, notes=(*task.notes, *notes)), shown, caption)

    async def _process(self, pictures: _Pictures) -> None:
        """Download each picture, decode it for the preview, and save it; few concurrently, since each needs room."""
        limiter = anyio.CapacityLimiter(_MAX_DOWNLOADS)

        async def process(index: int) -> None:
            async with limiter, self._files.open(pictures.options.caller) as temporary:
                with anyio.CancelScope(deadline=pictures.deadline) as scope:
                    file = await self._open_picture(pictures, index, temporary)
                if scope.cancelled_caught:
                    pictures.notes[f"Not fetched: it took longer than {pictures.seconds} s."] = None
                elif file:
                    with file:
                        if pictures.options.preview:
                            await self._add_tile(pictures, index, file)
                        if pictures.target:
                            await run_in_thread(_save, pictures, index, file, pictures.target)

        async with anyio.create_task_group() as group:
            for index in range(len(pictures.images)):
                group.start_soon(process, index)

    async def _open_picture(self, pictures: _Pictures, index: int, temporary: TemporaryFile) -> BinaryIO | None:
        """Return an open file with a picture; None, and a note, if that fails."""
        image = pictures.images[index]
        try:
            if image.path:  # saved by an earlier call
                return (await run_in_thread(open_picture, Path(image.path)))[0]
            if image.b64_json:
                await temporary.restart(len(image.b64_json) * 3 // 4)
                await temporary.write(await run_in_thread(_image_data, image.b64_json))
            elif image.url:
                await self._downloads.fetch(image.url, temporary)
            return reopened(temporary.content)
        except (UpstreamError, InvalidArguments, OSError, ValueError) as error:
            pictures.notes[_not_fetched(error)] = None
        return None

    async def _add_tile(self, pictures: _Pictures, index: int, file: BinaryIO) -> None:
        """Decode a picture for the preview: the only picture to the preview itself, others to a tile of it."""
        options, source = pictures.options, partial(reopened, file)
        with pictures.without_preview():
            if len(pictures.images) == 1:
                data = await self._decoders.thumbnail(source, options.caller, pictures.deadline)
                pictures.tiles[index] = Tile(data, (0, 0))
            else:
                tile = self._decoders.tile(source, pictures.columns, options.caller, pictures.deadline)
                pictures.tiles[index] = await tile

    async def _preview(self, pictures: _Pictures) -> tuple[tuple[bytes, ...], str | None]:
        """Return a preview and its caption: a thumbnail, composed layers, or a contact sheet; nothing if that fails."""
        if len(pictures.images) == 1 and pictures.tiles:
            return (pictures.tiles[0].data,), "is only a thumbnail"
        job, tiles, caption = pictures.preview_job()
        if not tiles:
            return (), None
        source = partial(new_file, b"".join(tile.data for tile in tiles))
        job["lengths"] = [len(tile.data) for tile in tiles]
        shown: tuple[bytes, ...] = ()
        with pictures.without_preview():
            deadline = anyio.current_time() + self._times.preview
            shown = (await self._decoders.join_tiles(job, source, pictures.options.caller, deadline),)
        return shown, caption


@dataclass
class _Pictures:
    """The pictures of a task while they are delivered.

    Attributes:
        images: The pictures, with their paths once they are saved.
        target: The folder or file to save them as; None if they are not saved.
        options: How to deliver them.
        seconds: Time limit for the downloads.
        deadline: When the time is up, on anyio's clock.
        tiles: Decoded pictures for the preview, by their positions.
        notes: Notes about failures, without duplicates.
    """

    images: list[Image]
    target: Path | None
    options: DeliveryOptions
    seconds: float
    deadline: float
    tiles: dict[int, Tile] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)

    @property
    def columns(self) -> int:
        """The columns of a preview: layers are put on each other."""
        return 1 if any(image.z_index for image in self.images) else math.ceil(math.sqrt(len(self.images)))

    @contextmanager
    def without_preview(self) -> Iterator[None]:
        """Continue without a preview if the decoder fails."""
        try:
            yield
        except LimitExceeded:
            self.notes["No preview: the server is busy with the pictures of other calls."] = None
        except (SeedreamError, OSError) as error:
            logger.info("no preview: %s", error)

    def preview_job(self) -> tuple[dict[str, Any], list[Tile], str]:
        """Return the decoder's job that joins the tiles, the tiles in order, and the caption of the preview."""
        available = sorted(self.tiles)
        layers = sorted((i for i in available if self.images[i].z_index), key=lambda i: self.images[i].z_index or 0)
        base = next((i for i in available if self.images[i].z_index == 0), None)
        if base is not None and layers:
            layers = [i for i in layers if self.images[i].box]
            boxes = [self.images[i].box for i in layers]
            job = {"operation": "composed", "size": self.tiles[base].size, "boxes": boxes}
            return job, [self.tiles[i] for i in (base, *layers)], "shows the layers put together, reduced"
        tiles = [self.tiles[i] for i in available]
        if len(tiles) == 1:
            return {"operation": "thumbnail"}, tiles, "is only a thumbnail"
        return {"operation": "sheet"}, tiles, "shows all of them, reduced"


def within_budget(pictures: Iterable[bytes], max_bytes: int = PREVIEW_ROOM) -> list[bytes]:
    """Return the first pictures that fit in one result together."""
    shown: list[bytes] = []
    for data in pictures:
        if len(shown) == _MAX_BLOCKS or sum(map(len, shown)) + len(data) > max_bytes:
            break
        shown.append(data)
    return shown


def _with_data(task: Task, max_bytes: int) -> Delivered:
    """Return the task with its image data as blocks; failed if the data can't be decoded or does not fit."""
    data, notes = list[bytes](), dict[str, None]()
    for image in task.images:
        if image.b64_json:
            try:
                data.append(_image_data(image.b64_json))
            except (UpstreamError, ValueError) as error:
                notes[_not_fetched(error)] = None
    shown = within_budget(data, max_bytes)
    if notes:
        failure = Failure("unreadable_reply", f"its data can't be decoded. {' '.join(notes)}")
        return Delivered(replace(task, state="failed", images=(), error=failure))
    if len(shown) < len(data):
        return Delivered(_too_large(task))
    return Delivered(replace(task, images=tuple(replace(image, b64_json=None) for image in task.images)), tuple(shown))


def _image_data(text: str) -> bytes:
    """Decode image data. Raises ValueError for other text, and UnreadableReply for what is not a picture."""
    data = picture_data(text)
    if kind(data) is None:
        raise UnreadableReply("The image data is not a picture.")
    return data


def _save(pictures: _Pictures, index: int, file: BinaryIO, target: Path) -> None:
    """Save a picture; a failure is a note."""
    image = pictures.images[index]
    try:
        path = save_as(file, target, pictures.options.name, name_part(image, index, len(pictures.images)))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        link = " The link still works." if image.url else ""
        pictures.notes[f"Not saved to {target}: {reason}.{link}"] = None
    else:
        pictures.images[index] = replace(image, path=str(path))


def _not_fetched(error: Exception) -> str:
    return f"Not fetched: {str(error).rstrip('.')}."


def _too_large(task: Task) -> Task:
    """Return the task as failed, since its image data can't be saved and does not fit in the result."""
    size = sum(len(image.b64_json or "") for image in task.images) * 3 // 4
    reason = (
        f"it was made, but its data ({size:,} bytes) is more than a result can carry over HTTP. A new call "
        "with response_format url returns links; it is billed again."
    )
    return replace(task, state="failed", images=(), error=Failure("result_too_large", reason))
