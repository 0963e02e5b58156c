"""What a caller should know of a task beside its pictures: until when links live, how long pictures usually take."""

from __future__ import annotations

from dataclasses import replace
from time import time

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.upstream.link_expiry import link_expiry
from mcp_seedream.upstream.types import Task

_LINKS_END_WITH_SERVER = "Links live as long as this server."


def with_link_expiry(table: ModelTable, task: Task, remark: str | None) -> Task:
    """A finished task with the time (Unix seconds) until which its links live.

    Args:
        table: The capability table, which has the usual time.
        task: Any task; one without pictures is returned unchanged.
        remark: A note for every picture of an upstream that ends with this process, as its links do.
    """
    if not task.images:
        return task
    links = [image.url for image in task.images if image.url]
    if remark:
        return replace(task, notes=(*task.notes, *([_LINKS_END_WITH_SERVER] if links else []), remark))
    now = time()
    finished = min(task.finished_at or now, now)  # the upstream's clock may be ahead
    usual = finished + table.upstream_limits.link_hours * 3600
    return replace(task, links_until=min((link_expiry(link) or usual for link in links), default=None))


def typical_seconds(table: ModelTable, task: Task) -> float | None:
    """How long pictures of the task's model usually take; None if the model is unknown."""
    model = table.by_id.get(task.model or "")
    return model.typical_seconds if model else None
