"""The straight line, without MCP: checked call → request → upstream → task.

Submits once, falls back only from a model that nobody named, then waits or reads the stream.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from time import time

import anyio
import anyio.to_thread

from mcp_seedream.arguments import ImageCall, TaskCall
from mcp_seedream.capabilities import Model, ModelTable
from mcp_seedream.choosing import choose, keeps_kinds, needs_alpha
from mcp_seedream.client import SeedreamClient
from mcp_seedream.downloads import Downloads
from mcp_seedream.errors import (
    InvalidArguments,
    ModelRefused,
    RateLimited,
    ServerStopping,
    TaskNotFound,
    UnreadableReply,
    UpstreamError,
    UpstreamUnavailable,
)
from mcp_seedream.files import LocalFiles
from mcp_seedream.identity import identity
from mcp_seedream.inputs import take_pictures
from mcp_seedream.jobs import Job, Jobs
from mcp_seedream.journal import Entry, Journal
from mcp_seedream.kinds import Bounds
from mcp_seedream.limits import Limits
from mcp_seedream.observing import Observer
from mcp_seedream.orphans import Orphans
from mcp_seedream.replies import link_expiry
from mcp_seedream.stopping import Stopping
from mcp_seedream.streaming import read_stream
from mcp_seedream.waiting import Report, TaskWaiter
from mcp_seedream.watch import Watch
from mcp_seedream.wire import ImageRequest, Task

_DECODING = 2  # each may take 350 MB
_LAG = 60  # seconds in which an accepted task may be unknown to the upstream
_PASSING = "Links live as long as this server."
_FORGOTTEN = 24 * 3600  # seconds after which one that it does not know will not come back


@dataclass(frozen=True, slots=True)
class Services:
    """What a call works with: the table, and what lives as long as the process.

    `decoding` limits how many large pictures are decoded at a time; `local` is this machine's disk where it is the
    caller's own, and `journal` what is written down there; `remark` goes with every picture of an upstream that ends
    with this process, and its links with it; `limits` are those of a server that has many callers; `observer` is told
    of calls. `job` is the call itself, where it goes on after its client was given the task's id.
    """

    table: ModelTable
    client: SeedreamClient
    waiter: TaskWaiter
    downloads: Downloads
    stopping: Stopping
    orphans: Orphans
    jobs: Jobs
    journal: Journal | None = None
    local: LocalFiles | None = None
    remark: str | None = None
    limits: Limits | None = None
    observer: Observer = field(default_factory=Observer)
    job: Job | None = None
    decoding: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(_DECODING))


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
        ServerStopping: Nothing was sent either.
        TooMuch: Nor then.
        UpstreamError: The upstream refused it, or its answer was lost.
    """
    started = anyio.current_time()
    choose(services.table, call.wish, call.model)  # before megabytes are read for a call that nobody serves
    given = call.wish.images
    call, notes = await _with_pictures(services, call, token)
    key = await anyio.to_thread.run_sync(identity, call, token, given) if given else identity(call, token, given)
    await services.jobs.leave_silent(key)
    task = await _adopted(services, key, token, watch) or await _sent(services, call, token, report, watch)
    _told(services, task)
    left = call.wait_seconds - (anyio.current_time() - started)
    if not task.ended and left > 0:
        await report(0, message=f"Task {task.id} is accepted")
        task = await _finished(services, task, token, left, report)
    if services.stopping.begun.is_set() and not task.ended:
        watch.unanswered = True  # whoever asked may be gone, or ask the server that comes next
        again = "; the same call, made again, gets this task" if services.orphans.outlast else ""
        notes = (*notes, f"The server is being stopped{again}.")
    if any(services.table.parameters[name].type == "url" for name in call.wish.options):
        notes = (*notes, "The result is sent to the callback as well.")
    elapsed = anyio.current_time() - started if task.elapsed is None else task.elapsed
    return _remarked(services, replace(task, elapsed=elapsed, notes=(*notes, *task.notes)))


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
        _told(services, task)
    running = {id_ for id_, task in found.items() if not task.ended}
    if running and call.wait_seconds > 0:
        found |= await services.waiter.wait(running, token, call.wait_seconds, report)
    return {
        id_: _remarked(services, task) if task.ended else replace(task, elapsed=_age(task))
        for id_, task in found.items()
    }


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


async def _with_pictures(services: Services, call: ImageCall, token: str) -> tuple[ImageCall, tuple[str, ...]]:
    """The call with its pictures as the upstream takes them, and notes on what was done to them."""
    if not call.wish.images:
        return call, ()
    limits = services.table.limits
    inputs = await take_pictures(
        call.wish.images,
        Bounds(
            most_bytes=limits.image_bytes,
            least_side=limits.image_side,
            most_pixels=round(limits.image_megapixels * 1e6),
            most_ratio=limits.image_aspect_ratio,
        ),
        keep_alpha=keeps_kinds(services.table, call.wish),
        needs_alpha=needs_alpha(services.table, call.wish),
        local=services.local,
        client=services.client,
        downloads=services.downloads,
        token=token,
        at_once=services.decoding,
    )
    return replace(call, wish=replace(call.wish, images=inputs.images)), inputs.notes


def _told(services: Services, task: Task) -> None:
    """Whoever does not wait for the call can be given its task from now on."""
    if services.job:
        services.job.accept(task)


def _remarked(services: Services, task: Task) -> Task:
    """A finished task with what is true of all pictures: until when their links live, and the server's remark."""
    links = [image.url for image in task.images if image.url]
    if not task.images:
        return task
    if services.remark:
        return replace(task, notes=(*task.notes, *([_PASSING] if links else []), services.remark))
    now = time()  # a clock that is ahead of ours promises nothing
    usual = min(task.finished_at or now, now) + services.table.limits.link_hours * 3600
    until = min((link_expiry(link) or usual for link in links), default=None)
    return replace(task, links_until=until)


def _age(task: Task) -> float | None:
    """Seconds since a task was made, where the upstream's clock and ours agree well enough to tell."""
    age = time() - task.created_at if task.created_at else -1
    return age if 0 <= age < 24 * 3600 else None


async def _adopted(services: Services, key: str, token: str, watch: Watch) -> Task | None:
    """The task that the same call had before its caller went away, as it stands now."""
    if not (orphan := await services.orphans.adopt(key, watch)):
        return None
    left = Task(orphan.id, model=orphan.model or None)
    await watch.accepted(left)
    try:
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


async def _accepted(services: Services, call: ImageCall, model: Model, watch: Watch, task: Task) -> None:
    """From here on the task can be found again, whatever happens to this call."""
    await watch.accepted(replace(task, model=task.model or model.id))
    if services.journal and task.id:
        tool = f"{call.wish.operation}_image"
        await services.journal.accepted(
            Entry(task.id, time(), tool, model.id, call.wish.prompt), watch.key, watch.doubt
        )
    _told(services, task)


async def _sent(services: Services, call: ImageCall, token: str, report: Report, watch: Watch) -> Task:
    """Send it; where the caller named no model and the upstream refuses ours, send it to the next that fits."""
    refused: list[str] = []
    model = choose(services.table, call.wish, call.model)
    if services.limits:
        services.limits.generate(token)
    while True:
        request = ImageRequest.of(services.table, model, call.wish)
        if services.stopping.begun.is_set():
            raise ServerStopping
        accepted = partial(_accepted, services, call, model, watch)
        try:
            if request.streams:
                await watch.doubted()
                watch.uncertain = True  # until it tells its id: who leaves before that leaves a doubt
                events = services.client.stream(request, token)
                task = await read_stream(events, report, accepted=accepted, stopping=services.stopping)
            else:
                async with watch.sending():
                    task = await services.client.submit(request, token)
                    await accepted(task)
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
        ended = await services.waiter.wait([task.id], token, seconds, report)
    except UpstreamError as error:
        error.task_id, error.trace_id = task.id, error.trace_id or task.trace_id
        raise
    found = ended.get(task.id, task)
    return replace(found, model=found.model or task.model, notes=task.notes)
