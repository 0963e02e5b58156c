"""Prepares input pictures for the upstream.

Files are read, task ids are replaced by the task's picture, and links to kinds that the upstream does not accept are
downloaded. Pictures are converted, turned upright and scaled down if necessary.
"""

from __future__ import annotations

import io
import json
import re
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from mcp_seedream.catalog.picture_kinds import CONVERTED_KINDS, Bounds, kind
from mcp_seedream.catalog.references import data_uri, picture_data, reference_kind, shortened
from mcp_seedream.core.errors import InvalidArguments, TaskNotFound, UpstreamError
from mcp_seedream.media.downloads import Downloads, is_private
from mcp_seedream.media.local_files import LocalFiles, local_path, open_picture
from mcp_seedream.upstream.client import SeedreamClient

_DECODE_SECONDS = 60  # time limit of one subprocess


@dataclass(frozen=True, slots=True)
class Inputs:
    """Pictures as they are sent to the upstream (URLs, data URIs or base64), and notes about changes to them."""

    images: tuple[str, ...]
    notes: tuple[str, ...] = ()


async def prepare_pictures(
    references: Sequence[str],
    bounds: Bounds,
    *,
    keep_alpha: bool,
    needs_alpha: str | None,
    local: LocalFiles | None,
    client: SeedreamClient,
    downloads: Downloads,
    token: str,
    decode_limiter: anyio.CapacityLimiter,
) -> Inputs:
    """Convert input pictures to a form that the upstream accepts.

    Args:
        references: Validated URLs, data URIs and base64; `task:ID` and `task:ID/N`; paths.
        bounds: The upstream's limits of one picture.
        keep_alpha: Keep transparency in pictures that are changed.
        needs_alpha: The options that need an alpha channel, for the error message; None if there are none.
        local: The files that may be read; None if this server reads no files.
        client: Looks up tasks.
        downloads: Downloads links to kinds that the upstream does not accept. Other links are passed on unchanged.
        token: The caller's API token.
        decode_limiter: Limits concurrent decoding in the whole process.

    Raises:
        InvalidArguments: A picture can't be read or converted.
        UpstreamError: A task lookup failed.
    """
    images: list[str] = []
    notes: list[str] = []
    fit = _Fitter(bounds, keep_alpha, decode_limiter)
    for position, reference in enumerate(references, 1):
        where = f"`image` number {position}"
        note = None
        try:
            match reference_kind(reference):
                case "url":
                    image, note = await _from_url(reference, client, downloads, fit)
                case "task":
                    image, note = await _from_task(reference, client, token, fit)
                case "data":
                    image, note = await _from_data(reference, fit)
                case "path":
                    image, note = await _from_path(reference, local, fit)
            if needs_alpha:
                await anyio.to_thread.run_sync(_check_alpha, image, needs_alpha)
        except InvalidArguments as error:
            separator = " " if error.message[:1].islower() else ": "
            raise InvalidArguments(f"{where}{separator}{error.message}") from error
        images.append(image)
        if note:
            notes.append(f"{where} {note}")
    return Inputs(tuple(images), tuple(notes))


async def _from_task(reference: str, client: SeedreamClient, token: str, fit: _Fitter) -> tuple[str, str | None]:
    """Return a picture of a finished task: its URL, or a data URI and a note about changes."""
    id_, _, number = reference.removeprefix("task:").partition("/")
    task = (await client.look_up([id_], token)).get(id_)
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
    data, note = await _fitted(image.b64_json or "", fit)
    return data_uri(data), note


def _check_alpha(image: str, needed_by: str) -> None:
    """Reject a data URI or base64 without an alpha channel. URLs are not downloaded to check them."""
    from mcp_seedream.media import decoder  # noqa: PLC0415  (Pillow: not before the first picture)

    if reference_kind(image) == "data" and not decoder.has_alpha(io.BytesIO(picture_data(image))):
        raise InvalidArguments(f"has no alpha channel, which {needed_by} needs.")


async def _from_url(
    reference: str, client: SeedreamClient, downloads: Downloads, fit: _Fitter
) -> tuple[str, str | None]:
    """Return the URL itself; if its suffix is a kind that must be converted, the converted picture and a note."""
    url, upstream = urlsplit(reference), urlsplit(client.base_url)
    is_sandbox = client.is_local and (url.scheme.lower(), url.netloc) == (upstream.scheme, upstream.netloc)
    host = unicodedata.normalize("NFKC", url.hostname or "")
    if is_private(host) and not is_sandbox:
        raise InvalidArguments(
            f"is a link to {shortened(host)}, which only this network can reach, and the upstream fetches links "
            "itself. Give the picture as data, or a public link."
        )
    suffix = url.path.rpartition(".")[2].lower()
    if suffix not in CONVERTED_KINDS:
        return reference, None
    with TemporaryDirectory(prefix="seedream-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "picture"
        try:
            await downloads.fetch(reference, path)
        except UpstreamError as error:
            raise InvalidArguments(f"must be fetched to convert it from {suffix.upper()}: {error.message}") from error
        return await _from_file(path, fit)


async def _from_data(reference: str, fit: _Fitter) -> tuple[str, str | None]:
    data, note = await _fitted(reference, fit)
    return (data_uri(data), note) if note else (reference, None)


async def _fitted(reference: str, fit: _Fitter) -> tuple[bytes, str | None]:
    """Return the bytes to send for a data URI or base64, and a note if they were changed."""
    data = await anyio.to_thread.run_sync(_decoded, reference, limiter=fit.limiter)
    if _has_safe_header(data) and await anyio.to_thread.run_sync(_fits, io.BytesIO(data), len(data), fit.bounds):
        return data, None
    picture, note = await fit(data)
    return picture or data, note


def _decoded(reference: str) -> bytes:
    """Return the bytes of a data URI or base64."""
    try:
        data = picture_data(reference)
    except ValueError as error:
        raise InvalidArguments("can't be decoded: it is not base64.") from error
    if kind(data) is None:
        raise InvalidArguments("can't be decoded: it is not a picture.")
    return data


async def _from_path(reference: str, local: LocalFiles | None, fit: _Fitter) -> tuple[str, str | None]:
    if local is None:
        raise InvalidArguments("is a path, and this server reads no files: give a link, a data URI or base64.")
    return await _from_file(await anyio.to_thread.run_sync(local_path, reference, local), fit)


async def _from_file(path: Path, fit: _Fitter) -> tuple[str, str | None]:
    file, size = await anyio.to_thread.run_sync(open_picture, path)
    with file:  # opened only once, so that the checked file is the one that is sent
        picture, note = None, None
        if not (_has_safe_header(file.read(16)) and await anyio.to_thread.run_sync(_fits, file, size, fit.bounds)):
            file.seek(0)
            picture, note = await fit(file)
        if picture is None:
            file.seek(0)
            picture = await anyio.to_thread.run_sync(file.read, fit.bounds.max_bytes + 1)
    return data_uri(picture), note


def _has_safe_header(data: bytes) -> bool:
    from mcp_seedream.media import decoder  # noqa: PLC0415  (Pillow: not before the first picture)

    return (kind(data[:16]) or "").upper() in decoder.SAFE_HEADERS


def _fits(file: BinaryIO, size: int, bounds: Bounds) -> bool:
    from mcp_seedream.media import decoder  # noqa: PLC0415  (Pillow: not before the first picture)

    file.seek(0)
    return decoder.fits(file, size, bounds)


@dataclass(frozen=True, slots=True)
class _Fitter:
    """Converts pictures to the upstream's limits, each in a subprocess whose memory is freed afterwards.

    `limiter` bounds the number of subprocesses of all callers, since each may need 350 MB.
    """

    bounds: Bounds
    keep_alpha: bool
    limiter: anyio.CapacityLimiter

    async def __call__(self, source: BinaryIO | bytes) -> tuple[bytes | None, str | None]:
        """Return the changed picture and a note, or (None, None) if no change is necessary."""
        bounds = [str(number) for number in astuple(self.bounds)]
        # -P: never import modules from the working directory.
        command = [
            sys.executable,
            "-P",
            "-m",
            "mcp_seedream.media.decoder",
            *bounds,
            "alpha" if self.keep_alpha else "flat",
        ]
        stdin: dict[str, Any] = {"input": source} if isinstance(source, bytes) else {"stdin": source}
        async with self.limiter:
            with anyio.move_on_after(_DECODE_SECONDS) as scope:
                process = await anyio.run_process(command, check=False, **stdin)
        if scope.cancelled_caught:
            raise InvalidArguments("took too long to convert: give a smaller one.")
        line, _, picture = process.stdout.partition(b"\n")
        answer = json.loads(line or b'{"error": "can\'t be decoded."}')
        if "error" in answer:
            raise InvalidArguments(answer["error"])
        return (picture, answer["note"]) if "note" in answer else (None, None)
