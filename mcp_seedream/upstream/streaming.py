"""Reads a streamed answer: each picture is reported as it comes, and what came before a break counts.

A streamed call lasts as long as its stream: `wait_seconds` does not cut it off, since a picture that is
still to come could then be billed and lost.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import anyio

from mcp_seedream.core.errors import SubmissionUncertain, UpstreamError
from mcp_seedream.core.shutdown import Shutdown
from mcp_seedream.upstream.error_mapping import UNCERTAIN
from mcp_seedream.upstream.parsing import NO_PICTURE
from mcp_seedream.upstream.poller import Report
from mcp_seedream.upstream.types import Failure, Image, JSONObject, StreamEvent, Task


async def read_stream(
    events: AsyncGenerator[StreamEvent],
    report: Report,
    *,
    accepted: Callable[[Task], Awaitable[None]],
    shutdown: Shutdown,
    tick: float = 5,
) -> Task:
    """Read a stream to its end, or until the process is about to end.

    Args:
        events: What the upstream sends.
        report: Called for each picture, and about every `tick` seconds in between.
        accepted: Called once, when the stream tells the task's id.
        shutdown: Breaks the stream off; what came before counts.
        tick: Seconds.

    Returns:
        The task with what came of it; pending, where the stream broke off after it told who it is.

    Raises:
        SubmissionUncertain: It ended without a word about pictures or a task.
        UpstreamError: The request was refused.
    """
    reading = _Reading(report, accepted)

    async def end() -> None:
        await shutdown.requested.wait()
        group.cancel_scope.cancel()

    async with aclosing(events), anyio.create_task_group() as group:
        group.start_soon(reading.tell_time, tick)
        group.start_soon(end)
        await reading.read(events)
        group.cancel_scope.cancel()
    return reading.result()


@dataclass(slots=True)
class _Reading:
    """What a stream has brought so far."""

    report: Report
    accepted: Callable[[Task], Awaitable[None]]
    images: dict[str, Image] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    task_id: str | None = None
    trace_id: str | None = None
    completed: bool = False
    usage: JSONObject | None = None
    error: UpstreamError | None = None
    started: float = field(default_factory=anyio.current_time)

    async def read(self, events: AsyncIterator[StreamEvent]) -> None:
        try:
            async for event in events:
                self.trace_id = event.trace_id or self.trace_id
                if event.task_id and not self.task_id:
                    self.task_id = event.task_id
                    await self.accepted(Task(event.task_id, trace_id=self.trace_id))
                self.usage = event.usage or self.usage
                for failure in event.failures:
                    self.failures.append(failure)
                    await self._tell(f"An image failed: {failure.message}")
                for image in event.images:
                    await self._take(image)
                if event.completed:
                    self.completed = True
                    return
        except UpstreamError as error:
            self.error = error

    async def _take(self, image: Image) -> None:
        key = image.url or image.b64_json or ""
        if key not in self.images:  # the last event may repeat them all
            self.images[key] = image
            await self._tell(f"Image {len(self.images)}: {image.url or 'done'}")

    async def tell_time(self, tick: float) -> None:
        while True:
            await anyio.sleep(tick)
            elapsed = anyio.current_time() - self.started
            await self._tell(f"{f'Task {self.task_id}' if self.task_id else 'Streaming'}: {elapsed:.0f} s")

    async def _tell(self, message: str) -> None:
        await self.report(anyio.current_time() - self.started, message=message)

    def result(self) -> Task:
        images = tuple(self.images.values())
        if self.task_id and not images and (self.error or not self.completed):
            note = "The stream broke off before its first picture came."
            return Task(self.task_id, failures=tuple(self.failures), trace_id=self.trace_id, notes=(note,))
        if self.error and not images:
            self.error.task_id = self.error.task_id or self.task_id
            self.error.trace_id = self.error.trace_id or self.trace_id
            raise self.error
        if not images and not self.completed:
            reasons = "".join(f" An image failed: {failure.message.rstrip('.')}." for failure in self.failures[:1])
            message = f"The stream ended without a picture.{reasons} {UNCERTAIN}"
            raise SubmissionUncertain(message, trace_id=self.trace_id)
        return Task(
            id=self.task_id or "",
            state="succeeded" if images else "failed",
            images=images,
            failures=tuple(self.failures) if images else (),
            error=None if images else next(iter(self.failures), NO_PICTURE),
            trace_id=self.trace_id,
            usage=self.usage,
            notes=(self._broke_off(),) if images and (self.error or not self.completed) else (),
        )

    def _broke_off(self) -> str:
        rest = f': get_task with task_id "{self.task_id}" may have the others, at no cost' if self.task_id else ""
        return f"The stream broke off after {len(self.images)} of the images{rest}."
