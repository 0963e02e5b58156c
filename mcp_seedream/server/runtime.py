"""What lives as long as the server: the services that all tool calls share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.shutdown import Shutdown
from mcp_seedream.generation.attempts import Attempts
from mcp_seedream.generation.background import BackgroundCalls, Keeping, open_background_calls
from mcp_seedream.generation.journal import Journal
from mcp_seedream.generation.lookups import TaskLookups
from mcp_seedream.generation.redis_attempts import RedisAttempts
from mcp_seedream.generation.refusal_memory import RefusalMemory
from mcp_seedream.generation.service import GenerationLimits, ImageService
from mcp_seedream.media.downloads import Downloads
from mcp_seedream.media.input_pictures import InputPictures
from mcp_seedream.media.local_files import LocalFiles
from mcp_seedream.upstream.client import SeedreamClient
from mcp_seedream.upstream.poller import TaskWaiter, open_waiter

_DECODING = 2  # large pictures at a time; each may take 350 MB
_LATE = 0.75  # of the grace period, after which an answer to a submit is no longer waited for


@dataclass(frozen=True, slots=True)
class Runtime:
    """The services of a running server.

    Attributes:
        images: Makes pictures.
        lookups: Looks up tasks.
        attempts: Makes sure that no paid call is lost or paid for twice.
        background: Calls whose clients fetch the result later.
        downloads: Fetches pictures.
        decoding: Limits how many large pictures are decoded at a time.
        shutdown: The state of the shutdown.
    """

    images: ImageService
    lookups: TaskLookups
    attempts: Attempts
    background: BackgroundCalls
    downloads: Downloads
    decoding: anyio.CapacityLimiter
    shutdown: Shutdown


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """What `open_runtime` puts together.

    Attributes:
        table: The capability table.
        connect: Makes the upstream's client.
        attempts: The attempts of this process.
        refusals: What production refused lately.
        shutdown: The state of the shutdown.
        set_images: The number of pictures in a set.
        local: The disk of this machine, if it is the caller's own.
        journal: The history of tasks, if there is one.
        redis: What replicas share; closed at the end.
        limits: Limits how often a caller may generate.
        remark: A note for every picture, if its upstream ends with this process.
        look_interval: Seconds between two rounds of look-ups for one caller.
        keeping: How long results of background calls are kept.
    """

    table: ModelTable
    connect: Callable[[], SeedreamClient]
    attempts: Attempts
    refusals: RefusalMemory
    shutdown: Shutdown
    set_images: int
    local: LocalFiles | None
    journal: Journal | None
    redis: RedisAttempts | None
    limits: GenerationLimits | None
    remark: str | None
    look_interval: float
    keeping: Keeping


@asynccontextmanager
async def open_runtime(options: RuntimeOptions) -> AsyncIterator[Runtime]:
    """The services of a server, for as long as the context lasts."""
    table, shutdown = options.table, options.shutdown
    decoding = anyio.CapacityLimiter(_DECODING)
    async with (
        _redis(options.redis),
        options.connect() as client,
        open_waiter(client, interval=options.look_interval, shutdown=shutdown) as waiter,
        Downloads(sandbox=client.base_url if client.is_local else None) as downloads,
        options.attempts.open() as attempts,
        anyio.create_task_group() as group,
        open_background_calls(options.keeping) as background,
    ):
        group.start_soon(_shut_down, shutdown, waiter, client)
        refusals, remark = options.refusals, options.remark
        pictures = InputPictures(table, client, downloads, options.local, decoding)
        images = ImageService(
            table,
            client,
            waiter,
            pictures,
            shutdown=shutdown,
            set_images=options.set_images,
            history=options.journal,
            limits=options.limits,
            claimable_later=attempts.outlast_process,
            refusals=refusals,
            remark=remark,
        )
        lookups = TaskLookups(table, client, waiter, refusals=refusals, journal=options.journal, remark=remark)
        yield Runtime(images, lookups, attempts, background, downloads, decoding, shutdown)
        group.cancel_scope.cancel()


@asynccontextmanager
async def _redis(redis: RedisAttempts | None) -> AsyncIterator[None]:
    """Log at the start if Redis can't be used; close it at the end."""
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


async def _shut_down(shutdown: Shutdown, waiter: TaskWaiter, client: SeedreamClient) -> None:
    """Once the shutdown is requested: send nothing, end the waits, and late in the grace period the submits."""
    await shutdown.requested.wait()
    client.end()
    waiter.end()
    await anyio.sleep(shutdown.grace * _LATE)
    client.give_up()
