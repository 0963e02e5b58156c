"""Information about a task for its caller: when its links expire, and how long its pictures usually take."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from time import time
from urllib.parse import parse_qs, urlsplit

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.upstream.types import Task, unix_time

_LINKS_END_WITH_SERVER = "Links work as long as this server runs."


def with_link_expiry(table: ModelTable, task: Task, sandbox_note: str | None) -> Task:
    """A finished task with the expiry of its links, in Unix seconds.

    Args:
        table: The capability table, which has the usual lifetime of links.
        task: Any task; one without pictures is returned unchanged.
        sandbox_note: A note for pictures of the sandbox, whose links end with this process; None for the real API.
    """
    if not task.images:
        return task
    links = [image.url for image in task.images if image.url]
    if sandbox_note:
        return replace(task, notes=(*task.notes, *([_LINKS_END_WITH_SERVER] if links else []), sandbox_note))
    now = time()
    finished = min(task.finished_at or now, now)  # the upstream's clock may be ahead
    usual = finished + table.upstream_limits.link_hours * 3600
    return replace(task, links_until=min((link_expiry(link) or usual for link in links), default=None))


def typical_seconds(table: ModelTable, task: Task) -> float | None:
    """Seconds that pictures of the task's model usually take; None if the model is unknown."""
    model = table.by_id.get(task.model or "")
    return model.typical_seconds if model else None


def link_expiry(url: str) -> float | None:
    """The expiry of a signed link in Unix seconds (`X-…-Date` and `X-…-Expires`, or `Expires`); None without one."""
    try:
        fields = parse_qs(urlsplit(url).query)
    except ValueError:
        return None
    query = {name.rpartition("-")[2].lower(): values[-1] for name, values in fields.items()}
    expires, date = query.get("expires", ""), query.get("date", "")
    if not re.fullmatch(r"[0-9]{1,10}", expires):
        return None
    if re.fullmatch(r"[0-9]{8}T[0-9]{6}Z", date):
        with suppress(ValueError):
            start = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
            return unix_time(start + int(expires))
    return unix_time(int(expires)) if len(expires) == 10 else None
