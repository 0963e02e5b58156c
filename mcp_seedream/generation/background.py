"""Calls that go on after their clients were given a task's id instead of a result, which they fetch later. No MCP here.

A job is a call like any other, but for somebody who asks now and then instead of waiting. A client that has not asked
for a while may be gone: from then on the same call, made again, gets the task, as after any call that was broken off.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import time
from typing import Any

import anyio
from anyio.abc import TaskGroup

from mcp_seedream.generation.orphans import Orphans
from mcp_seedream.generation.watch import Watch
from mcp_seedream.upstream.types import Task

logger = logging.getLogger(__name__)

Work = Callable[["Job"], Awaitable[Any]]
"""A call; it tells its job what is accepted for it."""
_UNASKED = 30
"""Seconds without a question after which a client may be gone: clients ask every few seconds."""
_SILENT = 5
"""Seconds after which one that did ask is gone, if its call comes again: it was told to ask every second."""
_KEPT = 1800
"""Seconds for which a result is kept, in case it is asked for once more."""
_MOST_BYTES = 64 * 2**20
"""Of all results that are kept."""
_BARE = 8 * 2**10
"""Bytes that a job takes beside its result: links are short, and thousands of jobs are kept."""
_TIDYING = 5


class Job:
    """One call that goes on: whose it is, what was accepted for it, how far it is, and what it came to.

    `caller` is whose it is; `begun_here` whether this process made the call, or looks for the task of another's;
    `task_id` is empty, and `task` None, before anything is accepted; it is `known` once
    something was, or it is over; `message` is what was reported last; once it is `over` it has a `result`, or an
    `error`, or was `cancelled`, or ended because nobody asks for what it came to. `begun`, `asked` and `changed` are
    Unix seconds, `heard` is set whenever it is asked for, `size` is how many bytes it takes, about.
    """

    def __init__(self, caller: str, register: Callable[[Job], None], task_id: str = "") -> None:
        self.caller = caller
        self.begun_here = not task_id
        self.task_id = task_id
        self.task: Task | None = None
        self.watch: Watch | None = None
        self.message = ""
        self.result: Any = None
        self.error: Exception | None = None
        self.size = _BARE
        self.cancelled = False
        self.begun = self.changed = self.asked = time()
        self.heard = anyio.Event()
        self.known = anyio.Event()
        self.over = anyio.Event()
        self._register = register
        self._scope = anyio.CancelScope()

    def accept(self, task: Task) -> None:
        """The upstream has a task for it, which its client can be told; it stays the first one it was told."""
        if self.task is None and task.id:
            self.task, self.task_id = task, self.task_id or task.id
            self._register(self)
            self.known.set()

    async def report(self, _: float, /, *, message: str) -> None:
        """How far it is, for whoever asks."""
        self.message, self.changed = message, time()

    def cancel(self) -> None:
        """Nobody wants it any more: it ends here, and its task is left. What is over stays as it is."""
        if not self.over.is_set():
            self.cancelled, self.changed = True, time()
            self.end()

    def end(self) -> None:
        """It ends here, as a call does whose client leaves."""
        self._scope.cancel()

    async def run(self, work: Work) -> None:
        """Do the work, to its end or until it is told to end."""
        try:
            with self._scope:
                self.result = await work(self)
        except Exception as error:  # the top of a task of its own: whoever began it or asks for it is told
            self.error = error
            if self.task:
                logger.exception("task %s failed", self.task.id)
                error.__traceback__ = None  # it is kept, and its frames have the call's token and pictures
        finally:
            self.changed = time()
            self.over.set()
            self.known.set()


class Jobs:
    """The jobs of a process, by caller and task; `open_jobs` makes one.

    Args:
        group: In which they run.
        orphans: Where the task of a client that is gone is left.
        unasked: Seconds after which a client that does not ask may be gone.
        most_bytes: Of all results that are kept.
    """

    def __init__(self, group: TaskGroup, orphans: Orphans, *, unasked: float, most_bytes: int) -> None:
        self._group = group
        self._orphans = orphans
        self._unasked = unasked
        self._most_bytes = most_bytes
        self._jobs: dict[tuple[str, str], Job] = {}

    async def begin(self, caller: str, work: Work) -> Job:
        """Begin a call, and come back once a task is accepted for it, or once it is over without one.

        Args:
            caller: Whose it is.
            work: The call. It ends if this is cancelled: its client left before it heard of the task.

        Raises:
            Exception: What the work raised before anything was accepted.
        """
        job = Job(caller, self._register)
        self._group.start_soon(self._run, job, work)
        try:
            await job.known.wait()
        except anyio.get_cancelled_exc_class():
            job.end()
            with anyio.CancelScope(shield=True):
                await job.over.wait()
                await self._leave(job)
            raise
        if job.task is None and job.error:
            raise job.error
        return job

    async def follow(self, caller: str, task_id: str, work: Work) -> Job:
        """Begin to look for a task that was begun elsewhere, unless somebody has; come back once it is found or not.

        Args:
            caller: Whose it is.
            task_id: The task's.
            work: It goes on for all who ask, whoever of them leaves.

        Raises:
            Exception: What the work raised before the task was found.
        """
        job = self._jobs.get((caller, task_id))
        if job is None or job.over.is_set():
            job = self._jobs[caller, task_id] = Job(caller, self._register, task_id)
            self._group.start_soon(self._run, job, work)
        await job.known.wait()
        if job.task is None and job.error:
            raise job.error
        return job

    def find(self, caller: str, task_id: str) -> Job | None:
        """The job for a caller's task, if this process has one. Whoever looks for it is asking for it."""
        if job := self._jobs.get((caller, task_id)):
            job.asked = time()
            job.heard.set()
            job.heard = anyio.Event()
        return job

    async def leave_silent(self, key: str) -> None:
        """The same call comes again: leave the tasks whose clients asked for them and ask no more.

        A client that gives up a task tells nobody, and makes its call anew. One that has never asked may yet do so: it
        can begin several of the same call before it fetches the first.

        Args:
            key: The call's identity.
        """
        same = [job for job in self._jobs.values() if job.watch and job.watch.key == key and not job.watch.abandoned]
        asked = [job for job in same if job.asked > job.begun]
        if asked:
            async with anyio.create_task_group() as group:
                for job in asked:
                    group.start_soon(self._leave_if_silent, job)

    async def collected(self, job: Job) -> None:
        """Its client gets what it came to: the same call is another one from now on."""
        watch, job.watch = job.watch, None  # however long it is silent from here on, nothing is left
        if watch and watch.fetched_later:
            await self._orphans.answered(watch)

    def drop(self, job: Job) -> None:
        """Forget it: whoever asks for its task next begins anew."""
        if self._jobs.get((job.caller, job.task_id)) is job:
            del self._jobs[job.caller, job.task_id]

    async def tidy(self) -> None:
        """Let go, again and again, of tasks whose clients may be gone, and of results nobody asks for any more."""
        while True:
            await anyio.sleep(min(_TIDYING, self._unasked / 3))
            now = time()
            for job in list(self._jobs.values()):
                if now - job.asked >= self._unasked:
                    await self._leave(job)
                if job.over.is_set() and now - max(job.asked, job.changed) >= _KEPT:
                    self.drop(job)

    def _register(self, job: Job) -> None:
        before = self._jobs.get((job.caller, job.task_id))
        self._jobs[job.caller, job.task_id] = job
        if before and before is not job:
            before.end()  # its call was made again, and has its task: two would save its pictures twice

    async def _run(self, job: Job, work: Work) -> None:
        await job.run(work)
        if job.cancelled:
            job.result = None  # it came to its end all the same, and too late: its client has been told
            await self._leave(job)
        if job.task is None or (job.result is None and job.error is None and not job.cancelled):
            self.drop(job)  # whoever asks for its task must not be told for ever that it goes on
        self._make_room()

    async def _leave_if_silent(self, job: Job) -> None:
        with anyio.move_on_after(job.asked + _SILENT - time()) as patience:
            await job.heard.wait()
        if patience.cancelled_caught:
            await self._leave(job)

    async def _leave(self, job: Job) -> None:
        if job.watch:
            await self._orphans.abandon(job.watch)

    def _make_room(self) -> None:
        """The oldest results go first."""
        over = [job for job in self._jobs.values() if job.over.is_set()]
        room = self._most_bytes - sum(job.size for job in over)
        for job in sorted(over, key=lambda job: job.changed):
            if room >= 0:
                return
            room += job.size
            self.drop(job)


@asynccontextmanager
async def open_jobs(
    orphans: Orphans, *, unasked: float = _UNASKED, most_bytes: int = _MOST_BYTES
) -> AsyncIterator[Jobs]:
    """A process's jobs; those that still run when the context ends are left."""
    async with anyio.create_task_group() as group:
        jobs = Jobs(group, orphans, unasked=unasked, most_bytes=most_bytes)
        group.start_soon(jobs.tidy)
        yield jobs
        group.cancel_scope.cancel()
