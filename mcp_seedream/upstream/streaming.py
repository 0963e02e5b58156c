"""Reads a streamed response, reports each picture when it arrives, and keeps the pictures if the stream breaks off.

`wait_seconds` does not end a streamed call, because the missing pictures would be billed and lost.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import anyio

from mcp_seedream.core.errors import SeedreamError, SubmissionUncertain, UpstreamError
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
    """Read a stream to its end, or until a shutdown is requested.

    Args:
        events: The events of the stream.
        report: Called for each picture, and about every `tick` seconds in between.
        accepted: Called once, with the first event that has the task's id.
        shutdown: Ends the reading; the pictures that have arrived are kept.
        tick: Seconds between two progress reports.

    Returns:
        The task with its pictures; pending if the stream broke off after the task's id and before the first picture.

    Raises:
        SubmissionUncertain: It ended without a picture, a failure or a task id.
        UpstreamError: The request was refused.
    """
    reading = _StreamReader(report, accepted)

    async def stop_at_shutdown() -> None:
        await shutdown.requested.wait()
        group.cancel_scope.cancel()

    failure: SeedreamError | None = None
    async with aclosing(events), anyio.create_task_group() as group:
        group.start_soon(reading.report_time, tick)
        group.start_soon(stop_at_shutdown)
        try:
            await reading.read(events)
        except SeedreamError as error:  # raised below: the group would wrap it
            failure = error
        group.cancel_scope.cancel()
    if failure:
        try:
            raise failure
        finally:
            del failure  # its traceback has this frame, and those with the pictures of the call
    return reading.result()


@dataclass(slots=True)
class _StreamReader:
    """Collects the pictures and failures of a stream."""

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
                    await self._report(f"An image failed: {failure.message}")
                for image in event.images:
                    await self._add(image)
                if event.completed:
                    self.completed = True
                    return
        except UpstreamError as error:
            self.error = error

    async def _add(self, image: Image) -> None:
        key = image.url or image.b64_json or ""
        if key not in self.images:  # the last event may repeat all pictures
            self.images[key] = image
            await self._report(f"Image {len(self.images)}: {image.url or 'done'}")

    async def report_time(self, tick: float) -> None:
        while True:
            await anyio.sleep(tick)
            elapsed = anyio.current_time() - self.started
            await self._report(f"{f'Task {self.task_id}' if self.task_id else 'Streaming'}: {elapsed:.0f} s")

    async def _report(self, message: str) -> None:
        await self.report(anyio.current_time() - self.started, message=message)

    def result(self) -> Task:
        images = tuple(self.images.values())
        if self.task_id and not images and (self.error or not self.completed):
            note = "The stream broke off before its first picture."
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
            notes=(self._incomplete_note(),) if images and (self.error or not self.completed) else (),
        )

    def _incomplete_note(self) -> str:
        rest = f': get_task with task_id "{self.task_id}" may have the others, at no cost' if self.task_id else ""
        return f"The stream broke off after {len(self.images)} of the images{rest}."
