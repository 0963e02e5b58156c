"""The straight line, without MCP: checked call → request → upstream → task.

Submits once, falls back only from a model that nobody named, then waits or reads the stream.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, replace
from time import time
from typing import Protocol

import anyio

from mcp_seedream.arguments import ImageCall, TaskCall
from mcp_seedream.capabilities import Model, ModelTable
from mcp_seedream.choosing import choose
from mcp_seedream.client import SeedreamClient
from mcp_seedream.errors import InvalidArguments, ModelRefused, SubmissionUncertain, TaskNotFound, UpstreamError
from mcp_seedream.refusals import UNCERTAIN
from mcp_seedream.waiting import TaskWaiter
from mcp_seedream.wire import Failure, Image, ImageRequest, StreamEvent, Task


class Report(Protocol):
    """Tells the caller how far it is: a number that grows, and words."""

    def __call__(self, progress: float, /, *, message: str) -> Awaitable[None]: ...


@dataclass(frozen=True, slots=True)
class Services:
    """What a call works with: the table, and what lives as long as the process."""

    table: ModelTable
    client: SeedreamClient
    waiter: TaskWaiter


async def make_images(services: Services, call: ImageCall, token: str, report: Report) -> Task:
    """Generate or edit, and wait for the result as long as the call says.

    Args:
        services: See `Services`.
        call: Arguments whose form has been checked.
        token: The caller's API token.
        report: Called when the task is accepted and about every five seconds, or for each streamed picture.

    Returns:
        The task: succeeded, failed, or pending where the time was up.

    Raises:
        InvalidArguments: No model serves the call; nothing was sent.
        UpstreamError: The upstream refused it, or its answer was lost.
    """
    started = anyio.current_time()
    task = await _sent(services, call, token, report)
    left = call.wait_seconds - (anyio.current_time() - started)
    if not task.ended and left > 0:
        await report(0, message=f"Task {task.id} is accepted")
        task = await _finished(services, task, token, left, report)
    elapsed = anyio.current_time() - started if task.elapsed is None else task.elapsed
    return replace(task, elapsed=elapsed)


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
    running = {id_ for id_, task in found.items() if not task.ended}
    if running and call.wait_seconds > 0:
        found |= await _waited(services, running, token, call.wait_seconds, report)
    return {id_: task if task.ended else replace(task, elapsed=_age(task)) for id_, task in found.items()}


def _age(task: Task) -> float | None:
    """Seconds since a task was made, where the upstream's clock and ours agree well enough to tell."""
    age = time() - task.created_at if task.created_at else -1
    return age if 0 <= age < 24 * 3600 else None


async def _sent(services: Services, call: ImageCall, token: str, report: Report) -> Task:
    """Send it; where the caller named no model and the upstream refuses ours, send it to the next that fits."""
    refused: list[str] = []
    model = choose(services.table, call.wish, call.model)
    while True:
        request = ImageRequest.of(services.table, model, call.wish)
        try:
            if request.streams:
                task = await _streamed(services.client, request, token, report)
            else:
                task = await services.client.submit(request, token)
        except ModelRefused as error:
            refused.append(model.id)
            model = _another(services.table, call, refused, error)
        else:
            notes = [f"{id_} was refused by the upstream; {model.id} was used." for id_ in refused]
            return replace(task, model=task.model or model.id, notes=(*notes, *task.notes))


def _another(table: ModelTable, call: ImageCall, refused: list[str], error: ModelRefused) -> Model:
    if call.model is not None:
        raise error
    try:
        return choose(table, call.wish, excluding=refused)
    except InvalidArguments:
        raise error from None


async def _finished(services: Services, task: Task, token: str, seconds: float, report: Report) -> Task:
    """The task once it has ended, or as it was where the time is up; an error that ends the wait knows its id."""
    try:
        ended = await _waited(services, {task.id}, token, seconds, report)
    except UpstreamError as error:
        error.task_id, error.trace_id = task.id, error.trace_id or task.trace_id
        raise
    found = ended.get(task.id, task)
    return replace(found, model=found.model or task.model, notes=task.notes)


async def _waited(services: Services, ids: set[str], token: str, seconds: float, report: Report) -> dict[str, Task]:
    what = f"Task {next(iter(ids))}" if len(ids) == 1 else f"{len(ids)} tasks"

    async def tick(elapsed: float) -> None:
        await report(elapsed, message=f"{what}: {elapsed:.0f} s")

    return await services.waiter.wait(ids, token, seconds, tick)


async def _streamed(client: SeedreamClient, request: ImageRequest, token: str, report: Report) -> Task:
    """Read a streamed answer to its end; each picture is one report. What came before a break counts."""
    images: dict[str, Image] = {}
    failures: list[Failure] = []
    last = StreamEvent()
    notes: tuple[str, ...] = ()
    try:
        async for event in client.stream(request, token):
            last = replace(event, task_id=event.task_id or last.task_id, trace_id=event.trace_id or last.trace_id)
            failures += event.failures
            for image in event.images:
                if (key := image.url or f"{len(images)}") not in images:  # the end may repeat them all
                    images[key] = image
                    await report(len(images), message=f"Image {len(images)}: {image.url or 'done'}")
            if event.completed:
                break
    except UpstreamError as error:
        if not images:
            error.task_id, error.trace_id = error.task_id or last.task_id, error.trace_id or last.trace_id
            raise
        notes = (f"The stream broke off ({error.code}): these are the images that came before.",)
    if not images and not failures and not last.completed:
        message = f"The stream ended without a picture. {UNCERTAIN}"
        raise SubmissionUncertain(message, task_id=last.task_id, trace_id=last.trace_id)
    return Task(
        id=last.task_id or "",
        state="succeeded" if images else "failed",
        images=tuple(images.values()),
        failures=tuple(failures) if images else (),
        error=None if images else next(iter(failures), Failure("empty_result", "the stream had no picture")),
        trace_id=last.trace_id,
        notes=notes,
    )
