"""Looks up tasks that were made earlier, and waits for those that still run. Free."""

from __future__ import annotations

from dataclasses import replace
from time import time

from mcp_seedream.catalog.arguments import TaskCall
from mcp_seedream.catalog.fallback import Part, withdrawal
from mcp_seedream.catalog.selection import Refusal
from mcp_seedream.core.errors import InvalidArguments, TaskNotFound, UpstreamError
from mcp_seedream.generation.journal import Entry
from mcp_seedream.generation.services import Services, remarked, tell_job, typical_seconds
from mcp_seedream.upstream.error_mapping import refused_in
from mcp_seedream.upstream.poller import Report
from mcp_seedream.upstream.types import Task

_FORGOTTEN = 24 * 3600  # seconds after which a task that the upstream does not know will not come back


async def get_tasks(services: Services, call: TaskCall, token: str, report: Report) -> dict[str, Task]:
    """Look tasks up, in one request; wait for those that still run as long as the call says.

    Returns:
        The tasks the upstream knows for this token, by id.

    Raises:
        TaskNotFound: One id was asked for, and it is unknown.
        UpstreamError: The look-up failed.
    """
    found = await services.client.look_up(call.task_ids, token)
    if len(call.task_ids) == 1 and not found:
        raise TaskNotFound(
            f"The upstream knows no task {call.task_ids[0]} for this token. Check the id; a task made with another "
            "token is only found with that one."
        )
    for task in found.values():
        tell_job(services, task)
    running = {id_ for id_, task in found.items() if not task.ended}
    if running and call.wait_seconds > 0:
        typical, ran = _expectation(services, [found[id_] for id_ in running])
        found |= await services.waiter.wait(running, token, call.wait_seconds, report, typical=typical, ran=ran)
    return {id_: await _as_told(services, task) for id_, task in found.items()}


def _expectation(services: Services, running: list[Task]) -> tuple[float | None, float]:
    """How long the one task that runs usually takes, and how long it has run; nothing is expected of several."""
    if len(running) > 1 or (age := _age(running[0])) is None:
        return None, 0
    return typical_seconds(services.table, running[0]), age


async def _as_told(services: Services, task: Task) -> Task:
    """A task with what its caller should know of it; what production refused in it is remembered."""
    if not task.ended:
        return replace(task, elapsed=_age(task), typical_seconds=typical_seconds(services.table, task))
    if part := refused_in(task):
        model_id, size = _sent(services, task)
        if model_id in services.table.by_id and (part == "model" or size):  # without the size, nothing is known of it
            await services.refusals.add((model_id, size if part == "size" else None))
        task = replace(task, notes=(*task.notes, _note(services, part, model_id)))
    return remarked(services, task)


def _note(services: Services, part: Part, model_id: str) -> str:
    model = services.table.by_id.get(model_id)
    if model and model.withdrawn:
        return f"Nothing was billed. {withdrawal(model)}: leave out `model`, and what only that model takes."
    return (
        f"The upstream refused the {part}, and nothing was billed. "
        f"Make the same call again, without `{part}`: it gets another {part}."
    )


def _sent(services: Services, task: Task) -> Refusal:
    """The model and size that were asked of a task, as this process remembers or the upstream tells them."""
    size = (task.request or {}).get("size")
    told = task.model or "", size if isinstance(size, str) else None
    return services.refusals.sent_for(task.id) or told


async def newest_tasks(services: Services, token: str | None) -> list[Entry]:
    """What the journal has of the newest tasks; those that ran when it was last written are looked up, once.

    Raises:
        InvalidArguments: The journal can't be used: an id is needed.
    """
    if not services.journal:
        return []
    entries = await services.journal.newest()
    if not services.journal.works:
        raise InvalidArguments(
            f"Give `task_id`: the journal {services.journal.path} can't be used ({services.journal.trouble})."
        )
    running = [entry.id for entry in entries if entry.state == "pending"]
    if running and token:
        try:
            found = await services.client.look_up(running, token)
        except UpstreamError:
            return entries  # what is written down is worth more than an error
        gone = [e.id for e in entries if e.state == "pending" and e.id not in found and time() - e.at > _FORGOTTEN]
        await services.journal.ended(*found.values(), *(Task(id_, "failed") for id_ in gone))
        entries = await services.journal.newest()
    return entries


def _age(task: Task) -> float | None:
    """Seconds since a task was made, where the upstream's clock and ours agree well enough to tell."""
    age = time() - task.created_at if task.created_at else -1
    return age if 0 <= age < 24 * 3600 else None
