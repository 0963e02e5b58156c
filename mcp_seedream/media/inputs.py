"""Given pictures → pictures the upstream takes.

Files are read, tasks are looked up, and links to kinds that the upstream does not take are fetched. What needs it is
converted, turned upright or made smaller.
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
from mcp_seedream.media.downloads import Downloads, is_inside
from mcp_seedream.media.local_files import LocalFiles, local_path, open_picture
from mcp_seedream.upstream.client import SeedreamClient

_LONGEST = 60  # seconds to make one picture fit


@dataclass(frozen=True, slots=True)
class Inputs:
    """Pictures in the upstream's form, and what was done to them."""

    images: tuple[str, ...]
    notes: tuple[str, ...] = ()


async def take_pictures(
    references: Sequence[str],
    bounds: Bounds,
    *,
    keep_alpha: bool,
    needs_alpha: str | None,
    local: LocalFiles | None,
    client: SeedreamClient,
    downloads: Downloads,
    token: str,
    at_once: anyio.CapacityLimiter,
) -> Inputs:
    """Bring every given picture into a form the upstream takes.

    Args:
        references: Links, data URIs or base64 that have been checked; `task:ID` or `task:ID/N`; paths.
        bounds: What the upstream takes of one picture.
        keep_alpha: Keep transparency where a picture is changed.
        needs_alpha: What asks for pictures with an alpha channel, if anything does.
        local: What may be read on this machine; None: nothing.
        client: For tasks.
        downloads: For links to kinds that the upstream does not take. It passes on all others unread.
        token: The caller's.
        at_once: How many large pictures the whole process decodes at a time.

    Raises:
        InvalidArguments: One can't be read, or can't be made to fit.
        UpstreamError: A task could not be looked up.
    """
    images: list[str] = []
    notes: list[str] = []
    fit = _Fit(bounds, keep_alpha, at_once)
    for position, reference in enumerate(references, 1):
        where = f"`image` number {position}"
        note = None
        try:
            match reference_kind(reference):
                case "url":
                    image, note = await _of_url(reference, client, downloads, fit)
                case "task":
                    image, note = await _of_task(reference, client, token, fit)
                case "data":
                    image, note = await _of_data(reference, fit)
                case "path":
                    image, note = await _of_path(reference, local, fit)
            if needs_alpha:
                await anyio.to_thread.run_sync(_check_alpha, image, needs_alpha)
        except InvalidArguments as error:
            joined = " " if error.message[:1].islower() else ": "
            raise InvalidArguments(f"{where}{joined}{error.message}") from error
        images.append(image)
        if note:
            notes.append(f"{where} {note}")
    return Inputs(tuple(images), tuple(notes))


async def _of_task(reference: str, client: SeedreamClient, token: str, fit: _Fit) -> tuple[str, str | None]:
    id_, _, number = reference.removeprefix("task:").partition("/")
    task = (await client.look_up([id_], token)).get(id_)
    if task is None:
        raise TaskNotFound(f"The upstream knows no task {id_} for this token.", task_id=id_)
    wanted = int(number) if re.fullmatch(r"[0-9]{1,3}", number) else 0 if number else 1
    if not 1 <= wanted <= len(task.images):
        if not task.images:
            wait = ": get_task waits for it" if task.state == "pending" else ""
            raise InvalidArguments(f"task {id_} is {task.state} and has no picture{wait}.")
        raise InvalidArguments(f"task {id_} has pictures 1 to {len(task.images)}: name one as task:{id_}/1.")
    image = task.images[wanted - 1]
    if image.url:
        return image.url, None
    data, note = await _of_bytes(image.b64_json or "", fit)
    return data_uri(data), note


def _check_alpha(image: str, needed_by: str) -> None:
    """Refuse a picture without an alpha channel; what a link leads to, nobody here knows."""
    from mcp_seedream.media import decoder  # noqa: PLC0415  (Pillow: not before the first picture)

    if reference_kind(image) == "data" and not decoder.has_alpha(io.BytesIO(picture_data(image))):
        raise InvalidArguments(f"has no alpha channel, which {needed_by} needs.")


async def _of_url(reference: str, client: SeedreamClient, downloads: Downloads, fit: _Fit) -> tuple[str, str | None]:
    """The link itself, or the picture that it leads to, where its name says that the upstream would refuse that."""
    link, upstream = urlsplit(reference), urlsplit(client.base_url)
    is_upstreams = client.is_local and (link.scheme.lower(), link.netloc) == (upstream.scheme, upstream.netloc)
    host = unicodedata.normalize("NFKC", link.hostname or "")
    if is_inside(host) and not is_upstreams:
        raise InvalidArguments(
            f"is a link to {shortened(host)}, which only this network can reach, and the upstream fetches links "
            "itself. Give the picture as data, or a public link."
        )
    ending = link.path.rpartition(".")[2].lower()
    if ending not in CONVERTED_KINDS:
        return reference, None
    with TemporaryDirectory(prefix="seedream-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "picture"
        try:
            await downloads.fetch(reference, path)
        except UpstreamError as error:
            raise InvalidArguments(f"must be fetched to convert it from {ending.upper()}: {error.message}") from error
        return await _of_file(path, fit)


async def _of_data(reference: str, fit: _Fit) -> tuple[str, str | None]:
    data, note = await _of_bytes(reference, fit)
    return (data_uri(data), note) if note else (reference, None)


async def _of_bytes(reference: str, fit: _Fit) -> tuple[bytes, str | None]:
    """The bytes of a picture as they are sent; without a note on what was done, as they were given."""
    data = await anyio.to_thread.run_sync(_decoded, reference, limiter=fit.at_once)
    if _is_cheap(data) and await anyio.to_thread.run_sync(_fits, io.BytesIO(data), len(data), fit.bounds):
        return data, None
    picture, note = await fit(data)
    return picture or data, note


def _decoded(reference: str) -> bytes:
    try:
        data = picture_data(reference)
    except ValueError as error:
        raise InvalidArguments("can't be decoded: it is not base64.") from error
    if kind(data) is None:
        raise InvalidArguments("can't be decoded: it is not a picture.")
    return data


async def _of_path(reference: str, local: LocalFiles | None, fit: _Fit) -> tuple[str, str | None]:
    if local is None:
        raise InvalidArguments("is a path, and this server reads no files: give a link, a data URI or base64.")
    return await _of_file(await anyio.to_thread.run_sync(local_path, reference, local), fit)


async def _of_file(path: Path, fit: _Fit) -> tuple[str, str | None]:
    file, size = await anyio.to_thread.run_sync(open_picture, path)
    with file:  # opened once: what is checked is what is sent
        picture, note = None, None
        if not (_is_cheap(file.read(16)) and await anyio.to_thread.run_sync(_fits, file, size, fit.bounds)):
            file.seek(0)
            picture, note = await fit(file)
        if picture is None:
            file.seek(0)
            picture = await anyio.to_thread.run_sync(file.read, fit.bounds.most_bytes + 1)
    return data_uri(picture), note


def _is_cheap(data: bytes) -> bool:
    from mcp_seedream.media import decoder  # noqa: PLC0415  (Pillow: not before the first picture)

    return (kind(data[:16]) or "").upper() in decoder.CHEAP


def _fits(file: BinaryIO, size: int, bounds: Bounds) -> bool:
    from mcp_seedream.media import decoder  # noqa: PLC0415  (Pillow: not before the first picture)

    file.seek(0)
    return decoder.fits(file, size, bounds)


@dataclass(frozen=True, slots=True)
class _Fit:
    """Makes pictures fit, each in a process of its own: what a large one takes while it is decoded is given back.

    `at_once` limits the processes of all callers together: each may take 350 MB.
    """

    bounds: Bounds
    keep_alpha: bool
    at_once: anyio.CapacityLimiter

    async def __call__(self, source: BinaryIO | bytes) -> tuple[bytes | None, str | None]:
        """The changed picture and a note on it, or nothing where the upstream takes it as it is."""
        bounds = [str(number) for number in astuple(self.bounds)]
        # -P: the working directory may be anybody's, and must not lend its modules.
        command = [
            sys.executable,
            "-P",
            "-m",
            "mcp_seedream.media.decoder",
            *bounds,
            "alpha" if self.keep_alpha else "flat",
        ]
        given: dict[str, Any] = {"input": source} if isinstance(source, bytes) else {"stdin": source}
        async with self.at_once:
            with anyio.move_on_after(_LONGEST) as scope:
                done = await anyio.run_process(command, check=False, **given)
        if scope.cancelled_caught:
            raise InvalidArguments("took too long to be made to fit: give a smaller one.")
        head, _, picture = done.stdout.partition(b"\n")
        answer = json.loads(head or b'{"error": "can\'t be decoded."}')
        if "error" in answer:
            raise InvalidArguments(answer["error"])
        return (picture, answer["note"]) if "note" in answer else (None, None)
