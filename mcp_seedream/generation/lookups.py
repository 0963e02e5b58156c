"""Looks up earlier tasks, and waits for those that are still running. Look-ups are free."""

from __future__ import annotations

from dataclasses import replace
from time import time

from mcp_seedream.catalog.arguments import TaskCall
from mcp_seedream.catalog.fallback import Part, withdrawal
from mcp_seedream.catalog.selection import Refusal
from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.errors import InvalidArguments, TaskNotFound, UpstreamError
from mcp_seedream.generation.journal import Entry, Journal
from mcp_seedream.generation.refusal_memory import RefusalMemory
from mcp_seedream.generation.service import TaskListener
from mcp_seedream.generation.task_notes import typical_seconds, with_link_expiry
from mcp_seedream.upstream.client import SeedreamClient
from mcp_seedream.upstream.error_mapping import refused_in
from mcp_seedream.upstream.poller import Report, TaskWaiter
from mcp_seedream.upstream.types import Task

_GIVE_UP_SECONDS = 24 * 3600  # an older pending task that the upstream does not know counts as failed


class TaskLookups:
    """Looks up tasks. One instance serves all calls of a process.

    Args:
        table: The capability table.
        client: The upstream.
        waiter: Waits for tasks.
        refusals: Remembers which models and sizes the upstream refused.
        journal: The history of tasks, if there is one.
        sandbox_note: A note for pictures of the sandbox; see `task_notes.with_link_expiry`.
    """

    def __init__(
        self,
        table: ModelTable,
        client: SeedreamClient,
        waiter: TaskWaiter,
        *,
        refusals: RefusalMemory,
        journal: Journal | None = None,
        sandbox_note: str | None = None,
    ) -> None:
        self._table = table
        self._client = client
        self._waiter = waiter
        self._refusals = refusals
        self._journal = journal
        self._sandbox_note = sandbox_note

    async def get(
        self, call: TaskCall, token: str, report: Report, listener: TaskListener | None = None
    ) -> dict[str, Task]:
        """Look up tasks in one request, and wait for running ones for at most the call's `wait_seconds`.

        Args:
            call: The ids, and how long to wait.
            token: The caller's API token.
            report: Called about every five seconds.
            listener: Receives each task before the wait.

        Returns:
            The tasks that the upstream knows for this token, by id.

        Raises:
            TaskNotFound: The call has one id, and it is unknown.
            UpstreamError: The look-up failed.
        """
        found = await self._client.look_up(call.task_ids, token)
        if len(call.task_ids) == 1 and not found:
            raise TaskNotFound(
                f"The upstream knows no task {call.task_ids[0]} for this token. Check the id; a task made with another "
                "token is only found with that one."
            )
        for task in found.values():
            if listener:
                listener.accept(task)
        running = {id_ for id_, task in found.items() if not task.ended}
        if running and call.wait_seconds > 0:
            typical, age = self._expected_time([found[id_] for id_ in running])
            found |= await self._waiter.wait(running, token, call.wait_seconds, report, typical=typical, ran=age)
        return {id_: await self._with_notes(task) for id_, task in found.items()}

    async def newest(self, token: str | None) -> list[Entry]:
        """The newest tasks of the journal. Those that it records as running are looked up once.

        Raises:
            InvalidArguments: The journal can't be used, so that an id is needed.
        """
        journal = self._journal
        if not journal:
            return []
        entries = await journal.newest()
        if not journal.works:
            raise InvalidArguments(f"Give `task_id`: the journal {journal.path} can't be used ({journal.trouble}).")
        running = [entry.id for entry in entries if entry.state == "pending"]
        if running and token:
            try:
                found = await self._client.look_up(running, token)
            except UpstreamError:
                return entries  # a history that is not up to date helps more than an error
            gone = [
                e.id for e in entries if e.state == "pending" and e.id not in found and time() - e.at > _GIVE_UP_SECONDS
            ]
            await journal.ended(*found.values(), *(Task(id_, "failed") for id_ in gone))
            entries = await journal.newest()
        return entries

    def _expected_time(self, running: list[Task]) -> tuple[float | None, float]:
        """The usual time of a single running task and its age, in seconds; (None, 0) for several tasks."""
        if len(running) > 1 or (age := _age(running[0])) is None:
            return None, 0
        return typical_seconds(self._table, running[0]), age

    async def _with_notes(self, task: Task) -> Task:
        """Add notes for the caller, and remember a model or size that the upstream refused."""
        if not task.ended:
            return replace(task, elapsed=_age(task), typical_seconds=typical_seconds(self._table, task))
        if part := refused_in(task):
            model_id, size = self._sent_choice(task)
            if model_id in self._table.by_id and (part == "model" or size):
                await self._refusals.add((model_id, size if part == "size" else None))
            task = replace(task, notes=(*task.notes, self._refusal_note(part, model_id)))
        return with_link_expiry(self._table, task, self._sandbox_note)

    def _refusal_note(self, part: Part, model_id: str) -> str:
        model = self._table.by_id.get(model_id)
        if model and model.withdrawn:
            advice = "leave out `model`, and parameters that only this model supports"
            return f"Nothing was billed. {withdrawal(model)}: {advice}."
        return (
            f"The upstream refused the {part}, and nothing was billed. "
            f"Make the same call again, without `{part}`: the server chooses another {part}."
        )

    def _sent_choice(self, task: Task) -> Refusal:
        """The model and size sent for a task: from this process's memory, or else from the upstream's response."""
        size = (task.request or {}).get("size")
        from_upstream = task.model or "", size if isinstance(size, str) else None
        return self._refusals.sent_for(task.id) or from_upstream


def _age(task: Task) -> float | None:
    """Seconds since a task was created; None if that is unknown, or the two clocks differ too much."""
    age = time() - task.created_at if task.created_at else -1
    return age if 0 <= age < 24 * 3600 else None
