"""The pictures of an edit call, in the form that the upstream accepts.

Files are read, task ids are replaced by the task's picture, and links to kinds that the upstream does not accept are
downloaded. Pictures are converted, turned upright and scaled down if necessary.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO
from urllib.parse import urlsplit

import anyio

from mcp_seedream.catalog.held_pictures import Pictures
from mcp_seedream.catalog.picture_kinds import CONVERTED_KINDS, Bounds, kind
from mcp_seedream.catalog.references import data_uri, picture_data, picture_pieces, reference_kind, shortened
from mcp_seedream.catalog.selection import ImageSpec, needs_alpha, requires_input_kind
from mcp_seedream.catalog.table import Model, ModelTable
from mcp_seedream.core.concurrency import run_in_thread
from mcp_seedream.core.errors import InvalidArguments, TaskNotFound, UpstreamError
from mcp_seedream.media.decoding import Decoders, OpenSource
from mcp_seedream.media.downloads import Downloads, is_private
from mcp_seedream.media.local_files import LocalFiles, open_local
from mcp_seedream.media.temporary_files import TemporaryFiles, new_file, reopened
from mcp_seedream.upstream.client import SeedreamClient


@dataclass(frozen=True, slots=True)
class _Call:
    """The parameters that all pictures of a call share.

    Attributes:
        token: The caller's API token.
        bounds: The upstream's limits of one picture.
        keep_alpha: Keep transparency in pictures that are changed.
        needs_alpha: The options that need an alpha channel, for the error message; None if there are none.
        deadline: When to give up, on anyio's clock.
    """

    token: str
    bounds: Bounds
    keep_alpha: bool
    needs_alpha: str | None
    deadline: float


_Prepared = tuple[str, str | None]
"""A picture as it is sent (a URL, a data URI or base64), and a note about changes to it."""


class InputPictures:
    """Reads, converts and shrinks input pictures.

    Args:
        table: The capability table, which has the bounds.
        client: Looks up earlier tasks whose pictures are used as input.
        downloads: Downloads links to kinds that the upstream does not accept. Other links are sent unread.
        decoders: Decode pictures in subprocesses.
        files: Temporary files for downloads.
        local: The local files that may be read; None if this server reads no files.
        seconds: Time limit for the pictures of one call, including the time for which they wait for other callers.
    """

    def __init__(
        self,
        table: ModelTable,
        client: SeedreamClient,
        *,
        downloads: Downloads,
        decoders: Decoders,
        files: TemporaryFiles,
        local: LocalFiles | None,
        seconds: float = 60,
    ) -> None:
        self._table = table
        self._client = client
        self._downloads = downloads
        self._local = local
        self._decoders = decoders
        self._files = files
        self._seconds = seconds

    async def prepare(self, spec: ImageSpec, model: Model, token: str) -> tuple[ImageSpec, tuple[str, ...]]:
        """The spec with pictures that this model accepts, and notes about changes to them.

        Raises:
            InvalidArguments: A picture can't be read, or can't be made to fit.
            LimitExceeded: The server was busy with the pictures of other calls for too long.
            UpstreamError: A task could not be looked up.
        """
        if not spec.images:
            return spec, ()
        limits = self._table.upstream_limits
        bounds = Bounds(
            max_bytes=limits.image_bytes,
            min_side=limits.image_side,
            max_pixels=round((model.input_megapixels or limits.image_megapixels) * 1e6),
            max_ratio=model.input_aspect_ratio or limits.image_aspect_ratio,
        )
        keep_alpha, deadline = requires_input_kind(self._table, spec), anyio.current_time() + self._seconds
        call = _Call(token, bounds, keep_alpha, needs_alpha(self._table, spec), deadline)
        images: list[str] = []
        notes: list[str] = []
        for position, reference in enumerate(spec.images, 1):
            where = f"`image` number {position}"
            try:
                image, note = await self._prepared(reference, call)
            except InvalidArguments as error:
                separator = " " if error.message[:1].islower() else ": "
                raise InvalidArguments(f"{where}{separator}{error.message}") from error
            images.append(image)
            if note:
                notes.append(f"{where} {note}")
        if isinstance(spec.images, Pictures):
            spec.images.converted = Pictures(images)
            return replace(spec, images=spec.images.converted), tuple(notes)
        return replace(spec, images=tuple(images)), tuple(notes)

    async def _prepared(self, reference: str, call: _Call) -> _Prepared:
        match reference_kind(reference):
            case "url":
                return await self._from_url(reference, call)
            case "task":
                return await self._from_task(reference, call)
            case "data":
                data, note = await self._fitted(partial(_data_file, reference), call)
                return (reference if data is None else data_uri(data)), note
            case "path":
                return await self._from_path(reference, call)

    async def _from_task(self, reference: str, call: _Call) -> _Prepared:
        """Return a picture of a finished task: its URL, or a data URI."""
        id_, _, number = reference.removeprefix("task:").partition("/")
        task = (await self._client.look_up([id_], call.token)).get(id_)
        if task is None:
            raise TaskNotFound(f"The upstream knows no task {id_} for this token.", task_id=id_)
        position = int(number) if re.fullmatch(r"[0-9]{1,3}", number) else 0 if number else 1
        if not 1 <= position <= len(task.images):
            if not task.images:
                wait = ": get_task waits for it" if task.state == "pending" else ""
                raise InvalidArguments(f"task {id_} is {task.state} and has no picture{wait}.")
            raise InvalidArguments(f"task {id_} has pictures 1 to {len(task.images)}: name one as task:{id_}/1.")
        image = task.images[position - 1]
        if image.url:
            return image.url, None
        text = image.b64_json or ""
        async with self._files.open(call.token) as file:
            await file.restart(len(text) * 3 // 4)
            await file.write(await run_in_thread(_task_picture, text))
            return await self._from_file(file.content, call)

    async def _from_url(self, reference: str, call: _Call) -> _Prepared:
        """Return the URL itself; if its suffix is a kind that must be converted, the converted picture."""
        url, upstream = urlsplit(reference), urlsplit(self._client.base_url)
        is_sandbox = self._client.is_local and (url.scheme.lower(), url.netloc) == (upstream.scheme, upstream.netloc)
        host = unicodedata.normalize("NFKC", url.hostname or "")
        if is_private(host) and not is_sandbox:
            raise InvalidArguments(
                f"is a link to {shortened(host)}, which only this network can reach, and the upstream fetches links "
                "itself. Give the picture as data, or a public link."
            )
        suffix = url.path.rpartition(".")[2].lower()
        if suffix not in CONVERTED_KINDS:
            return reference, None
        async with self._files.open(call.token) as file:
            try:
                await self._downloads.fetch(reference, file)
            except UpstreamError as error:
                reason = f"must be fetched to convert it from {suffix.upper()}: {error.message}"
                raise InvalidArguments(reason) from error
            return await self._from_file(file.content, call)

    async def _from_path(self, reference: str, call: _Call) -> _Prepared:
        if self._local is None:
            raise InvalidArguments("is a path, and this server reads no files: give a link, a data URI or base64.")
        file, _ = await run_in_thread(open_local, reference, self._local)
        with file:  # opened only once, so that the checked file is the one that is sent
            return await self._from_file(file, call)

    async def _from_file(self, file: BinaryIO, call: _Call) -> _Prepared:
        data, note = await self._fitted(partial(reopened, file), call)
        if data is None:
            with reopened(file) as again:
                data = await run_in_thread(again.read, call.bounds.max_bytes + 1)
        return data_uri(data), note

    async def _fitted(self, source: OpenSource, call: _Call) -> tuple[bytes | None, str | None]:
        """Return the changed picture and a note, or (None, None) if no change is necessary."""
        fit = await self._decoders.fit(
            source, call.bounds, keep_alpha=call.keep_alpha, caller=call.token, deadline=call.deadline
        )
        if call.needs_alpha and not fit.has_alpha:
            raise InvalidArguments(f"has no alpha channel, which {call.needs_alpha} needs.")
        return fit.data, fit.note


def _data_file(reference: str) -> BinaryIO:
    """Return a file with the bytes of a checked data URI or base64."""
    file = new_file()
    for piece in picture_pieces(reference):
        file.write(piece)
    return file


def _task_picture(reference: str) -> bytes:
    """Return the bytes of a task's image data."""
    try:
        data = picture_data(reference)
    except ValueError as error:
        raise InvalidArguments("can't be decoded: it is not base64.") from error
    if kind(data) is None:
        raise InvalidArguments("can't be decoded: it is not a picture.")
    return data
