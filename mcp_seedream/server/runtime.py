"""The services that all tool calls of a running server share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.events import Observer
from mcp_seedream.core.shutdown import Shutdown
from mcp_seedream.generation.attempts import Attempts
from mcp_seedream.generation.background import BackgroundCalls, Keeping, open_background_calls
from mcp_seedream.generation.claims import Timing
from mcp_seedream.generation.journal import Journal
from mcp_seedream.generation.lookups import TaskLookups
from mcp_seedream.generation.redis_attempts import RedisAttempts
from mcp_seedream.generation.refusal_memory import RefusalMemory
from mcp_seedream.generation.service import GenerationLimits, ImageService
from mcp_seedream.generation.sqlite_attempts import SQLiteAttempts
from mcp_seedream.media.decoding import Decoders
from mcp_seedream.media.downloads import Downloads
from mcp_seedream.media.inputs import InputPictures
from mcp_seedream.media.local_files import LocalFiles
from mcp_seedream.media.outputs import Delivery, PictureTimes
from mcp_seedream.media.temporary_files import TemporaryFiles
from mcp_seedream.upstream.client import SeedreamClient
from mcp_seedream.upstream.poller import TaskWaiter, open_waiter

_CANCEL_AFTER = 0.75  # share of the grace period after which submits in progress are cancelled


@dataclass(frozen=True, slots=True)
class Runtime:
    """The services of a running server.

    Attributes:
        images: Makes pictures.
        lookups: Looks up tasks.
        attempts: Makes sure that no paid call is lost or paid for twice.
        background: Calls whose clients fetch the result later.
        delivery: Saves and previews pictures.
        shutdown: The state of the shutdown.
    """

    images: ImageService
    lookups: TaskLookups
    attempts: Attempts
    background: BackgroundCalls
    delivery: Delivery
    shutdown: Shutdown


@asynccontextmanager
async def open_runtime(
    table: ModelTable,
    connect: Callable[[], SeedreamClient],
    *,
    shutdown: Shutdown,
    set_images: int,
    local: LocalFiles | None,
    picture_times: PictureTimes,
    journal: Journal | None,
    redis: RedisAttempts | None,
    limits: GenerationLimits | None,
    observer: Observer,
    sandbox_note: str | None,
    look_interval: float,
    timing: Timing | None,
    keeping: Keeping | None,
) -> AsyncIterator[Runtime]:
    """The services of a server while the context lasts; `server.build_server` describes the arguments."""
    store = redis or (SQLiteAttempts(journal, timing) if journal else None)
    refusals = RefusalMemory(redis or journal, observer)
    async with (
        _pinged(redis),
        connect() as client,
        open_waiter(client, interval=look_interval, shutdown=shutdown) as waiter,
        Downloads(sandbox=client.base_url if client.is_local else None) as downloads,
        Attempts(store, shutdown=shutdown, timing=timing).open() as attempts,
        anyio.create_task_group() as group,
        open_background_calls(keeping) as background,
    ):
        group.start_soon(_end_upstream_calls, shutdown, waiter, client)
        decoders, files = Decoders(), TemporaryFiles()
        pictures = InputPictures(table, client, downloads=downloads, decoders=decoders, files=files, local=local)
        delivery = Delivery(downloads, decoders, files, local, picture_times)
        images = ImageService(
            table, client, waiter, pictures,
            shutdown=shutdown, set_images=set_images, history=journal, limits=limits, refusals=refusals,
            sandbox_note=sandbox_note, claimable_later=attempts.outlast_process,
        )  # fmt: skip
        lookups = TaskLookups(table, client, waiter, refusals=refusals, journal=journal, sandbox_note=sandbox_note)
        yield Runtime(images, lookups, attempts, background, delivery, shutdown)
        group.cancel_scope.cancel()


@asynccontextmanager
async def _pinged(redis: RedisAttempts | None) -> AsyncIterator[None]:
    """Ping Redis at the start, to log whether it can be used; close it at the end."""
    if redis is None:
        yield
        return
    async with anyio.create_task_group() as group:
        group.start_soon(redis.ping)
        try:
            yield
        finally:
            group.cancel_scope.cancel()
            await redis.aclose()


async def _end_upstream_calls(shutdown: Shutdown, waiter: TaskWaiter, client: SeedreamClient) -> None:
    """Once the shutdown is requested, refuse submits and end all waits; cancel submits late in the grace period."""
    await shutdown.requested.wait()
    client.refuse_submits()
    waiter.end_waits()
    await anyio.sleep(shutdown.grace * _CANCEL_AFTER)
    client.cancel_submits()
