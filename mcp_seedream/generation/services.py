"""What every call works with: the table, the upstream, and the state that lives as long as the process."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from time import time
from typing import Protocol

import anyio

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.events import Observer
from mcp_seedream.core.shutdown import Shutdown
from mcp_seedream.generation.background import Job, Jobs
from mcp_seedream.generation.journal import Journal
from mcp_seedream.generation.orphans import Orphans
from mcp_seedream.generation.refusal_memory import RefusalMemory
from mcp_seedream.media.downloads import Downloads
from mcp_seedream.media.local_files import LocalFiles
from mcp_seedream.upstream.client import SeedreamClient
from mcp_seedream.upstream.link_expiry import link_expiry
from mcp_seedream.upstream.poller import TaskWaiter
from mcp_seedream.upstream.types import Task

_DECODING = 2  # each may take 350 MB
_PASSING = "Links live as long as this server."


class GenerationLimits(Protocol):
    """How much each caller may ask for: `hosting.limits.CallerLimits`."""

    def generate(self, caller: str) -> None: ...

    def task(self, caller: str) -> AbstractContextManager[None]: ...


@dataclass(frozen=True, slots=True)
class Services:
    """What a call works with: the table, and what lives as long as the process.

    `decoding` limits how many large pictures are decoded at a time; `local` is this machine's disk where it is the
    caller's own, and `journal` what is written down there; `remark` goes with every picture of an upstream that ends
    with this process, and its links with it; `limits` are those of a server that has many callers; `observer` is told
    of calls. `job` is the call itself, where it goes on after its client was given the task's id. `refusals` are those
    of production, and `set_images` is the size of a set whose call does not say it.
    """

    table: ModelTable
    client: SeedreamClient
    waiter: TaskWaiter
    downloads: Downloads
    shutdown: Shutdown
    orphans: Orphans
    jobs: Jobs
    journal: Journal | None = None
    local: LocalFiles | None = None
    remark: str | None = None
    limits: GenerationLimits | None = None
    observer: Observer = field(default_factory=Observer)
    job: Job | None = None
    refusals: RefusalMemory = field(default_factory=RefusalMemory)
    set_images: int = 4
    decoding: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(_DECODING))


def tell_job(services: Services, task: Task) -> None:
    """Give the task to a client that fetches the result later."""
    if services.job:
        services.job.accept(task)


def remarked(services: Services, task: Task) -> Task:
    """A finished task with what is true of all pictures: until when their links live, and the server's remark."""
    links = [image.url for image in task.images if image.url]
    if not task.images:
        return task
    if services.remark:
        return replace(task, notes=(*task.notes, *([_PASSING] if links else []), services.remark))
    now = time()  # a clock that is ahead of ours promises nothing
    usual = min(task.finished_at or now, now) + services.table.upstream_limits.link_hours * 3600
    until = min((link_expiry(link) or usual for link in links), default=None)
    return replace(task, links_until=until)


def typical_seconds(table: ModelTable, task: Task) -> float | None:
    """How long pictures of a task's model usually take; None: its model is not known."""
    model = table.by_id.get(task.model or "")
    return model.typical_seconds if model else None
