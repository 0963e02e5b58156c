"""The check of recent refusals by the upstream, from this machine's journal and a hosted server's Redis."""

from __future__ import annotations

from contextlib import aclosing
from datetime import datetime
from pathlib import Path

from mcp_seedream.catalog.selection import Refusal
from mcp_seedream.core.redis_client import connect
from mcp_seedream.core.settings import Settings
from mcp_seedream.doctor.findings import Finding, in_background
from mcp_seedream.generation.journal import Journal, usual_path
from mcp_seedream.generation.redis_attempts import RedisAttempts


async def recent_refusals(settings: Settings) -> Finding:
    """A finding with the models and sizes that are avoided now, because the upstream refused them."""
    refusals = {**await _in_journal(settings), **await _in_redis(settings)}
    if not refusals:
        return Finding("ok", "the upstream has not refused a model or a size recently")
    text = "; ".join(_clause(refusal, until) for refusal, until in sorted(refusals.items(), key=lambda item: item[1]))
    advice = "Until then, calls that name no model use another one. No action is needed."
    return Finding("warning", f"the upstream refused {text}", advice)


def _clause(refusal: Refusal, until: float) -> str:
    model, size = refusal
    moment = f"{datetime.fromtimestamp(until).astimezone():%H:%M}"
    return f"{f'size {size} for ' if size else ''}{model} (remembered until {moment})"


async def _in_journal(settings: Settings) -> dict[Refusal, float]:
    if settings.journal == "off":
        return {}
    path = Path(settings.journal) if settings.journal else usual_path()
    if not await in_background(path.exists):
        return {}
    journal = Journal(path)
    try:
        return await journal.refusals()
    finally:
        journal.close()


async def _in_redis(settings: Settings) -> dict[Refusal, float]:
    if settings.redis_url is None:
        return {}
    async with aclosing(RedisAttempts(connect(settings.redis_url.get_secret_value()))) as shared:
        return await shared.refusals()
