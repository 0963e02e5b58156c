"""The straight line, without MCP: checked call → request → upstream → task.

A call is submitted once. It is submitted again only where production refused a choice that the caller left open, which
costs nothing: with the answer to the submit, or inside the accepted task. Then it is waited for, or its stream is read.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from time import time

import anyio
import anyio.to_thread

from mcp_seedream.catalog.arguments import ImageCall
from mcp_seedream.catalog.fallback import ModelChoice, Part
from mcp_seedream.catalog.fingerprint import identity
from mcp_seedream.catalog.picture_kinds import Bounds
from mcp_seedream.catalog.selection import ImageSpec, needs_alpha, requires_input_kind, sent_size, with_set_size
from mcp_seedream.catalog.table import Model
from mcp_seedream.core.errors import (
    ModelRefused,
    RateLimited,
    ServerShuttingDown,
    SizeRefused,
    UnreadableReply,
    UpstreamError,
    UpstreamUnavailable,
)
from mcp_seedream.generation.journal import Entry
from mcp_seedream.generation.services import Services, remarked, tell_job, typical_seconds
from mcp_seedream.generation.watch import Watch
from mcp_seedream.media.inputs import prepare_pictures
from mcp_seedream.upstream.error_mapping import refused_in
from mcp_seedream.upstream.poller import Report
from mcp_seedream.upstream.streaming import read_stream
from mcp_seedream.upstream.types import ImageRequest, Task

_LAG = 60  # seconds in which an accepted task may be unknown to the upstream


async def make_images(services: Services, call: ImageCall, token: str, report: Report, watch: Watch) -> Task:
    """Generate or edit, and wait for the result as long as the call says.

    Args:
        services: See `Services`.
        call: Arguments whose form has been checked.
        token: The caller's API token.
        watch: Knows the task from its acceptance on, for the case that this does not come to its end.
        report: Called when the task is accepted and about every five seconds, or for each streamed picture.

    Returns:
        The task: succeeded, failed, or pending where the time was up.

    Raises:
        InvalidArguments: No model serves the call; nothing was sent.
        ServerShuttingDown: Nothing was sent either.
        LimitExceeded: Nor then.
        UpstreamError: The upstream refused it, or its answer was lost.
    """
    started = anyio.current_time()
    spec, set_notes = with_set_size(services.table, call.spec, services.set_images)
    # Before megabytes are read for a call that no model serves.
    choice = ModelChoice(services.table, spec, call.model, await services.refusals.known())
    given = spec.images
    spec, notes = await _with_pictures(services, spec, choice.model, token)
    call, choice.spec = replace(call, spec=spec), replace(choice.spec, images=spec.images)
    key = await anyio.to_thread.run_sync(identity, call, token, given) if given else identity(call, token, given)
    await services.jobs.leave_silent(key)
    deadline = started + call.wait_seconds
    task = await _adopted(services, key, token, watch)
    is_adopted = task is not None
    if task is None:
        if services.limits:
            services.limits.generate(token)
        task = await _sent(services, choice, token, report, watch)
    tell_job(services, task)
    task = await _finished(services, task, token, deadline, report)
    while (refused := refused_in(task)) and not watch.unanswered:
        if not await _choose_again(services, choice, task.model, refused):
            task = replace(task, notes=(*task.notes, choice.advice(task.model)))
            break
        if not await _replaced(services, watch, task):
            break
        is_adopted = False
        task = await _finished(services, await _sent(services, choice, token, report, watch), token, deadline, report)
    if not is_adopted:
        notes = (*notes, *set_notes, *choice.notes())
    return _with_remarks(services, call, watch, replace(task, notes=(*task.notes, *notes)), started)


def _with_remarks(services: Services, call: ImageCall, watch: Watch, task: Task, started: float) -> Task:
    """The task with what its caller should know beside the pictures."""
    notes = []
    if services.shutdown.requested.is_set() and not task.ended:
        watch.unanswered = True  # the caller may be gone, or may ask the server that comes next
        again = "; the same call, made again, gets this task" if services.orphans.outlast else ""
        notes.append(f"The server is being stopped{again}.")
    if any(services.table.parameters[name].type == "url" for name in call.spec.options):
        notes.append("The result is sent to the callback as well.")
    elapsed = anyio.current_time() - started if task.elapsed is None else task.elapsed
    return remarked(services, replace(task, elapsed=elapsed, notes=(*notes, *task.notes)))


async def _with_pictures(
    services: Services, spec: ImageSpec, model: Model, token: str
) -> tuple[ImageSpec, tuple[str, ...]]:
    """The call with its pictures as the upstream takes them, and notes on what was done to them."""
    if not spec.images:
        return spec, ()
    limits = services.table.upstream_limits
    inputs = await prepare_pictures(
        spec.images,
        Bounds(
            max_bytes=limits.image_bytes,
            min_side=limits.image_side,
            max_pixels=round((model.input_megapixels or limits.image_megapixels) * 1e6),
            max_ratio=model.input_aspect_ratio or limits.image_aspect_ratio,
        ),
        keep_alpha=requires_input_kind(services.table, spec),
        needs_alpha=needs_alpha(services.table, spec),
        local=services.local,
        client=services.client,
        downloads=services.downloads,
        token=token,
        decode_limiter=services.decoding,
    )
    return replace(spec, images=inputs.images), inputs.notes


async def _adopted(services: Services, key: str, token: str, watch: Watch) -> Task | None:
    """The task that the same call had before its caller went away, as it stands now."""
    if not (orphan := await services.orphans.adopt(key, watch)):
        return None
    left = Task(orphan.id, model=orphan.model or None)
    await watch.accepted(left)
    try:
        found = (await services.client.look_up([orphan.id], token)).get(orphan.id)
        if found is None:  # an empty answer may be transient: look again before another picture is paid for
            found = (await services.client.look_up([orphan.id], token)).get(orphan.id)
    except (UpstreamUnavailable, RateLimited, UnreadableReply):
        found = left  # as far as anybody can tell, it runs: the wait goes on asking
    ago = time() - orphan.left_at
    if found is None and ago < _LAG:
        found = left  # it was accepted so shortly ago that not all of the upstream may know
    if found is None:
        watch.task = None
        return None
    note = f"The same call was broken off {ago:.0f} s ago: this is its task, and nothing was billed again."
    return replace(found, model=found.model or left.model, notes=(note, *found.notes))


async def _accepted(services: Services, spec: ImageSpec, model: Model, watch: Watch, task: Task) -> None:
    """From here on the task can be found again, whatever happens to this call."""
    await watch.accepted(replace(task, model=task.model or model.id))
    services.refusals.sent(task.id, model.id, sent_size(services.table, model, spec))
    if services.journal and task.id:
        tool = f"{spec.operation}_image"
        await services.journal.accepted(Entry(task.id, time(), tool, model.id, spec.prompt), watch.key, watch.doubt)
    tell_job(services, task)


async def _sent(services: Services, choice: ModelChoice, token: str, report: Report, watch: Watch) -> Task:
    """Submit the call; where the upstream refuses a choice that the caller left open, submit it with the next."""
    while True:
        if services.shutdown.requested.is_set():
            raise ServerShuttingDown
        try:
            return await _submitted(services, choice, token, report, watch)
        except (ModelRefused, SizeRefused) as error:
            watch.uncertain = False
            part: Part = "model" if isinstance(error, ModelRefused) else "size"
            if not await _choose_again(services, choice, choice.model.id, part):
                error.message = f"{error.message} {choice.advice(choice.model.id)}"
                raise


async def _submitted(services: Services, choice: ModelChoice, token: str, report: Report, watch: Watch) -> Task:
    """Submit the call once; a streamed answer is read to its end."""
    model = choice.model
    request = ImageRequest.of(services.table, model, choice.spec)
    accepted = partial(_accepted, services, choice.spec, model, watch)
    if request.streams:
        await watch.doubted()
        watch.uncertain = True  # until it tells its id, nobody knows whether there is a task
        events = services.client.stream(request, token)
        task = await read_stream(events, report, accepted=accepted, shutdown=services.shutdown)
    else:
        async with watch.sending():
            task = await services.client.submit(request, token)
            await accepted(task)
    return replace(task, model=task.model or model.id)


async def _choose_again(services: Services, choice: ModelChoice, model_id: str | None, part: Part) -> bool:
    """Remember a refusal, and choose again; whether there is another choice."""
    refusal = choice.refused(model_id, part)
    if part == "model" or refusal[1]:  # a size that was never sent says nothing of other calls
        await services.refusals.add(refusal)
    return choice.refuse(model_id, part)


async def _replaced(services: Services, watch: Watch, task: Task) -> bool:
    """A task was refused after it was accepted: whether the call goes on with another."""
    if services.journal:
        await services.journal.ended(task)
    return await services.orphans.replaced(watch)


async def _finished(services: Services, task: Task, token: str, deadline: float, report: Report) -> Task:
    """The task once it has ended, or as it was at the deadline; an error that ends the wait knows its id."""
    typical = typical_seconds(services.table, task)
    task = replace(task, typical_seconds=typical)
    left = deadline - anyio.current_time()
    if task.ended or left <= 0:
        return task
    await report(0, message=f"Task {task.id} is accepted")
    try:
        ended = await services.waiter.wait([task.id], token, left, report, typical=typical)
    except UpstreamError as error:
        error.task_id, error.trace_id = task.id, error.trace_id or task.trace_id
        raise
    found = ended.get(task.id, task)
    return replace(found, model=found.model or task.model, notes=task.notes, typical_seconds=typical)
