"""One paid call: checked call → request → upstream → task. This module does not depend on MCP.

A call is sent once. It is sent again only if the upstream refused a model or size that the caller had not named, in its
response or inside the accepted task. A refusal is free. Then the service waits for the task, or reads its stream.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from time import time
from typing import Protocol

import anyio

from mcp_seedream.catalog.arguments import ImageCall
from mcp_seedream.catalog.fallback import ModelChoice, Part
from mcp_seedream.catalog.fingerprint import fingerprint
from mcp_seedream.catalog.selection import sent_size, with_set_size
from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.concurrency import run_in_thread
from mcp_seedream.core.errors import (
    ModelRefused,
    RateLimited,
    ServerShuttingDown,
    SizeRefused,
    UnreadableReply,
    UpstreamError,
    UpstreamUnavailable,
)
from mcp_seedream.core.shutdown import Shutdown
from mcp_seedream.generation.call_attempt import CallAttempt, Claim
from mcp_seedream.generation.journal import Entry
from mcp_seedream.generation.refusal_memory import RefusalMemory
from mcp_seedream.generation.task_notes import typical_seconds, with_link_expiry
from mcp_seedream.media.inputs import InputPictures
from mcp_seedream.upstream.client import SeedreamClient
from mcp_seedream.upstream.error_mapping import refused_in
from mcp_seedream.upstream.poller import Report, TaskWaiter
from mcp_seedream.upstream.streaming import read_stream
from mcp_seedream.upstream.types import ImageRequest, Task

_LAG = 60  # seconds after its acceptance in which look-ups may not find a task


class GenerationLimits(Protocol):
    """Limits how often a caller may generate."""

    def generate(self, caller: str) -> None:
        """Count a generation.

        Raises:
            LimitExceeded: The caller has reached its limit.
        """


class History(Protocol):
    """Records tasks."""

    def accepted(self, entry: Entry) -> Awaitable[None]:
        """Record an accepted task."""

    def ended(self, *tasks: Task) -> Awaitable[None]:
        """Record the results of tasks."""


class TaskListener(Protocol):
    """Receives the task of a call as soon as it is accepted."""

    def accept(self, task: Task) -> None:
        """The upstream accepted this task."""


@dataclass(frozen=True, slots=True)
class CallContext:
    """The state of one tool call, apart from its arguments.

    Attributes:
        token: The caller's API token.
        attempt: The attempt that the call holds.
        report: Called when the task is accepted and about every five seconds, or for each streamed picture.
        listener: Receives the task, if the client fetches the result later.
    """

    token: str
    attempt: CallAttempt
    report: Report
    listener: TaskListener | None = None


class ImageService:
    """Makes pictures. One instance serves all calls of a process.

    Args:
        table: The capability table.
        client: The upstream.
        waiter: Waits for tasks.
        pictures: Prepares input pictures.
        refusals: Remembers which models and sizes the upstream refused.
        shutdown: Once requested, nothing is sent, and waits end.
        set_images: The number of pictures in a set, if the call does not give it.
        history: Records tasks.
        limits: Limits how often a caller may generate.
        sandbox_note: A note for pictures of the sandbox; see `task_notes.with_link_expiry`.
        claimable_later: Whether the next server process finds the attempts of this one.
    """

    def __init__(
        self,
        table: ModelTable,
        client: SeedreamClient,
        waiter: TaskWaiter,
        pictures: InputPictures,
        *,
        refusals: RefusalMemory,
        shutdown: Shutdown,
        set_images: int = 4,
        history: History | None = None,
        limits: GenerationLimits | None = None,
        sandbox_note: str | None = None,
        claimable_later: bool = False,
    ) -> None:
        self._table = table
        self._client = client
        self._waiter = waiter
        self._pictures = pictures
        self._refusals = refusals
        self._shutdown = shutdown
        self._set_images = set_images
        self._history = history
        self._limits = limits
        self._sandbox_note = sandbox_note
        self._claimable_later = claimable_later

    async def make(self, call: ImageCall, context: CallContext) -> Task:
        """Generate or edit, and wait for the result for at most the call's `wait_seconds`.

        Returns:
            The task: succeeded, failed, or pending if the time is up.

        Raises:
            InvalidArguments: No model supports the call; nothing was sent.
            LimitExceeded: The caller has reached its limit; nothing was sent.
            CallInProgress: An identical call has no task yet; nothing was sent.
            ServerShuttingDown: Nothing was sent.
            UpstreamError: The upstream refused the call, or its response was lost.
        """
        started = anyio.current_time()
        deadline = started + call.wait_seconds
        spec, set_notes = with_set_size(self._table, call.spec, self._set_images)
        # The model is chosen first, so that no pictures are read for a call that no model supports.
        choice = ModelChoice(self._table, spec, call.model, await self._refusals.known())
        given = spec.images
        spec, notes = await self._pictures.prepare(spec, choice.model, context.token)
        call, choice.spec = replace(call, spec=spec), replace(choice.spec, images=spec.images)
        task = await self._claimed(await _fingerprint(call, context.token, given), call.wait_seconds, context)
        is_new = task is None
        if task is None:
            if self._limits:
                self._limits.generate(context.token)
            task = await self._send(choice, context)
        elif context.listener:
            context.listener.accept(task)
        task = await self._finish(task, context, deadline)
        while (refused := refused_in(task)) and not context.attempt.caller_left:
            if not await self._choose_again(choice, task.model, refused):
                task = replace(task, notes=(*task.notes, choice.advice(task.model)))
                break
            if self._history:
                await self._history.ended(task)
            if not await context.attempt.withdraw_task():
                break
            is_new = True
            task = await self._finish(await self._send(choice, context), context, deadline)
        if is_new:
            notes = (*notes, *set_notes, *choice.notes())
        task = replace(task, notes=(*self._call_notes(call, task), *task.notes, *notes))
        if self._shutdown.requested.is_set() and not task.ended:
            context.attempt.caller_left = True  # it may be gone, or repeat the call at the next server
        elapsed = anyio.current_time() - started if task.elapsed is None else task.elapsed
        return with_link_expiry(self._table, replace(task, elapsed=elapsed), self._sandbox_note)

    def _call_notes(self, call: ImageCall, task: Task) -> list[str]:
        notes = []
        if self._shutdown.requested.is_set() and not task.ended:
            again = "; the same call gets this task if it is repeated" if self._claimable_later else ""
            notes.append(f"The server is being stopped{again}.")
        if any(self._table.parameters[name].type == "url" for name in call.spec.options):
            notes.append("The result is sent to the callback as well.")
        return notes

    async def _claimed(self, call: str, patience: float, context: CallContext) -> Task | None:
        """The current state of an identical call's task; None if this call must be sent."""
        claim = await context.attempt.claim(call, patience)
        if claim is None:
            return None
        known = Task(claim.task_id, model=claim.model or None)
        try:
            found = (await self._client.look_up([known.id], context.token)).get(known.id)
            if found is None:  # an empty response may be transient: look again before another picture is paid for
                found = (await self._client.look_up([known.id], context.token)).get(known.id)
        except (UpstreamUnavailable, RateLimited, UnreadableReply):
            found = known  # it may be running: the wait looks it up again
        age = max(0, time() - claim.since)
        if found is None and (age < _LAG or not await context.attempt.withdraw_task()):
            found = known  # it may not be known to all parts of the upstream yet
        if found is None:
            return None
        note = _claim_note(claim, age)
        return replace(found, model=found.model or known.model, notes=(note, *found.notes))

    async def _send(self, choice: ModelChoice, context: CallContext) -> Task:
        """Send the call; if the upstream refuses a choice that the caller left open, send it with the next choice."""
        while True:
            if self._shutdown.requested.is_set():
                raise ServerShuttingDown
            try:
                return await self._send_once(choice, context)
            except (ModelRefused, SizeRefused) as error:
                part: Part = "model" if isinstance(error, ModelRefused) else "size"
                if not await self._choose_again(choice, choice.model.id, part):
                    error.message = f"{error.message} {choice.advice(choice.model.id)}"
                    raise

    async def _send_once(self, choice: ModelChoice, context: CallContext) -> Task:
        """Send the call to one model; a streamed response is read to its end."""
        model, attempt = choice.model, context.attempt
        request = ImageRequest.of(self._table, model, choice.spec)

        async def accepted(task: Task) -> None:
            task = replace(task, model=task.model or model.id)
            await attempt.accepted(task)
            self._refusals.sent(task.id, model.id, sent_size(self._table, model, choice.spec))
            if self._history and task.id:
                tool = f"{choice.spec.operation}_image"
                await self._history.accepted(Entry(task.id, time(), tool, model.id, choice.spec.prompt))
            if context.listener:
                context.listener.accept(task)

        if request.streams:
            events = self._client.stream(request, context.token, attempt)
            task = await read_stream(events, context.report, accepted=accepted, shutdown=self._shutdown)
        else:
            async with attempt.abandon_if_cancelled():
                task = await self._client.submit(request, context.token, attempt)
                await accepted(task)
        return replace(task, model=task.model or model.id)

    async def _choose_again(self, choice: ModelChoice, model_id: str | None, part: Part) -> bool:
        """Remember a refusal, and choose again; returns whether there is another choice."""
        refusal = choice.refused(model_id, part)
        if part == "model" or refusal[1]:  # the refusal of a size that was not sent does not apply to other calls
            await self._refusals.add(refusal)
        return choice.refuse(model_id, part)

    async def _finish(self, task: Task, context: CallContext, deadline: float) -> Task:
        """Wait until the task has ended or the deadline has passed; returns its state."""
        typical = typical_seconds(self._table, task)
        task = replace(task, typical_seconds=typical)
        seconds = deadline - anyio.current_time()
        if task.ended or seconds <= 0:
            return task
        await context.report(0, message=f"Task {task.id} is accepted")
        try:
            ended = await self._waiter.wait([task.id], context.token, seconds, context.report, typical=typical)
        except UpstreamError as error:
            error.task_id, error.trace_id = task.id, error.trace_id or task.trace_id
            raise
        found = ended.get(task.id, task)
        return replace(found, model=found.model or task.model, notes=task.notes, typical_seconds=typical)


async def _fingerprint(call: ImageCall, token: str, given: Sequence[str]) -> str:
    if not given:
        return fingerprint(call, token, given)
    return await run_in_thread(fingerprint, call, token, given)  # megabytes may be hashed


def _claim_note(claim: Claim, age: float) -> str:
    if claim.joined:
        return (
            f"The same call began {age:.0f} s ago: this is its task, and nothing was billed again. For another "
            "picture, change the prompt, or call again once this one has ended."
        )
    return f"The same call was broken off {age:.0f} s ago: this is its task, and nothing was billed again."
