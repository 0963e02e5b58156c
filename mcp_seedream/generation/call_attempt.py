"""The attempt that one tool call holds: claimed from an identical call, or opened by this one."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from time import time
from uuid import uuid4

import anyio

from mcp_seedream.core.errors import CallInProgress, SeedreamError, ServerShuttingDown, SubmissionUncertain
from mcp_seedream.core.shutdown import Shutdown
from mcp_seedream.generation.attempt_store import Attempt, AttemptStore, Outcome, State, is_closed, undelivered
from mcp_seedream.generation.claims import Candidate, Timing, candidates
from mcp_seedream.upstream.error_mapping import UNCERTAIN
from mcp_seedream.upstream.types import Task

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Claim:
    """The task of an identical call.

    `since` is when that call began if it still waits (`joined`), otherwise when its caller left; in Unix seconds.
    """

    task_id: str
    model: str
    since: float
    joined: bool


@dataclass(slots=True)
class Owner:
    """The process that owns attempts: its store, its clock (Unix seconds), and a random id."""

    store: AttemptStore
    shutdown: Shutdown
    timing: Timing
    clock: Callable[[], float] = time
    id: str = field(default_factory=lambda: uuid4().hex)
    open_calls: set[str] = field(default_factory=set)
    """The calls that hold an attempt now. The lease is renewed while there are any."""
    has_lease: bool = False
    """Whether it has written anything, and with that renewed its lease."""

    async def save(self, attempt: Attempt, before: Attempt | None = None) -> Outcome:
        """Write an attempt of this process; see `AttemptStore.save`."""
        self.has_lease = True
        return await self.store.save(attempt, before)


class CallAttempt:
    """The attempt of one tool call; `attempts.Attempts.attempt` makes it.

    `id` is random; `request` is the hash by which a cancellation notice finds the call.
    `caller_left` is set if the caller may not receive the result although the call ends normally.
    `deliver_later` is true if the client fetches the result later: `delivered` is called then.
    """

    def __init__(self, owner: Owner, request: str, *, deliver_later: bool) -> None:
        self.caller_left = False
        self.deliver_later = deliver_later
        self._owner = owner
        self.request = request
        self.id = uuid4().hex
        self._began = owner.clock()
        self._saving = anyio.Lock(fast_acquire=True)  # no event loop pass per write while no other write waits
        self._attempt: Attempt | None = None  # None: not opened yet, closed, or held by another call now

    async def claim(self, call: str, patience: float) -> Claim | None:
        """Claim the task of an identical call, or open an attempt of this call's own.

        Args:
            call: The fingerprint of the call.
            patience: Seconds to wait for an identical call that is being sent.

        Returns:
            The task; None if the call is to be sent.

        Raises:
            SubmissionUncertain: An identical call may have been accepted. It is raised once for each attempt.
            CallInProgress: An identical call has no task yet, and the patience is used up.
            ServerShuttingDown: The shutdown was requested meanwhile.
        """
        owner, timing = self._owner, self._owner.timing
        deadline = anyio.current_time() + patience
        leases: dict[str, str | None] = {}
        while True:
            options = candidates(await owner.store.find(call), owner.clock(), timing)
            best = options[0] if options else None
            if best is None:
                await self._open(call)
                return None
            if best.action in ("variation", "replace"):
                if self._are_alive(options, leases) and await self._open(call, options):
                    return None
            elif best.action in ("claim", "join", "report uncertain") and (claim := await self._take(best)):
                return claim
            leases = {each.stored.attempt.holder: each.stored.lease for each in options} | leases
            if best.action == "presume left":
                await owner.store.mark_left(best.stored.attempt, owner.clock())
            if best.action in ("wait", "presume left") and anyio.current_time() >= deadline:
                raise CallInProgress
            if owner.shutdown.requested.is_set():
                raise ServerShuttingDown
            await anyio.sleep(timing.poll)

    def _are_alive(self, options: list[Candidate], leases: dict[str, str | None]) -> bool:
        """Whether the calls that seem to wait are known to be alive, after a second look.

        A client's new call can arrive before the news that it closed the connection of the old one: our own attempts
        are known after one poll. A killed process holds its attempts until its lease expires: those of another process
        are known once its lease was renewed since the first look.
        """
        waiting = [each.stored for each in options if each.action == "variation"]
        if waiting and not leases:
            return False
        others = [stored for stored in waiting if stored.attempt.owner != self._owner.id]
        return all(leases.get(stored.attempt.holder, stored.lease) != stored.lease for stored in others)

    async def _open(self, call: str, options: Sequence[Candidate] = ()) -> bool:
        """Hold a new attempt, or the unsent one of a process that is gone; false if another call was faster."""
        id_, began, owner = uuid4().hex, self._began, self._owner.id
        opened = Attempt(id_, call, self.request, self.id, owner, opened_at=began, held_at=began)
        before = next((each.stored.attempt for each in options if each.action == "replace"), None)
        if before:
            opened.id = before.id
        return await self._hold(opened, before)

    async def _take(self, candidate: Candidate) -> Claim | None:
        """Become the holder of an attempt that was sent; None if another call was faster."""
        before, owner = candidate.stored.attempt, self._owner
        taken = replace(
            before,
            state=State.UNCERTAIN if candidate.action == "report uncertain" else State.ACCEPTED,
            request=self.request,
            holder=self.id,
            owner=owner.id,
            held_at=self._began,
            left_at=None,
            may_have_left=False,
        )
        if not await self._hold(taken, before):
            return None
        since = before.held_at if before.left_at is None else before.left_at
        if candidate.action == "report uncertain":
            ago = max(0, owner.clock() - since)
            raise SubmissionUncertain(
                f"The same call was broken off {ago:.0f} s ago, and its response lost. {UNCERTAIN}"
            )
        joined = candidate.action == "join"
        return Claim(before.task_id, before.model, before.opened_at if joined else since, joined)

    async def _hold(self, attempt: Attempt, before: Attempt | None) -> bool:
        """Become the holder of an attempt; returns false if another call was faster."""
        with anyio.CancelScope(shield=True):
            if await self._owner.save(attempt, before) == "lost":
                return False
            self._attempt = attempt
            self._owner.open_calls.add(self.id)
            if self.caller_left:  # a notice came before
                await self.abandon()
        return True

    async def sending(self) -> None:
        """The client has a connection and is about to write the request.

        Raises:
            CallInProgress: This process could not renew its lease, and an identical call is sent instead of this one.
        """
        await self._advance(State.SENDING, must_exist=True)
        if self._attempt is None:
            raise CallInProgress

    async def not_sent(self) -> None:
        """The upstream did not accept the request: it was refused, or never sent."""
        if self._attempt and self._attempt.state is State.SENDING:
            await self._advance(State.QUEUED)

    async def accepted(self, task: Task) -> None:
        """The upstream has a task for the call."""
        if self._attempt and task.id:
            self._attempt.task_id, self._attempt.model = task.id, task.model or ""
            await self._advance(State.ACCEPTED)
            if self.caller_left:
                await self.abandon()

    async def withdraw_task(self) -> bool:
        """Give up a refused task; returns whether the call may be sent again.

        It must not be if the caller left: an identical call may have claimed the task, and sends it again.
        """
        if self._attempt and not self.caller_left:
            accepted = self._attempt
            self._attempt = replace(accepted, state=State.QUEUED, task_id="", model="")
            if await self._save(must_exist=True) == "left":
                self._attempt = accepted
                await self.abandon()
        return not self.caller_left

    async def abandon(self) -> None:
        """The caller may never get the result: an identical call may claim the task."""
        self.caller_left = True
        attempt = self._attempt
        if attempt is None or attempt.state is State.ABANDONED:
            return
        attempt.left_at = attempt.left_at or self._owner.clock()
        if attempt.task_id:
            attempt.state = State.ABANDONED
            logger.info("the caller of task %s left", attempt.task_id)
        await self._save()

    async def delivered(self) -> None:
        """Remove the attempt, since the client has fetched the result: an identical call is sent again."""
        await self._advance(State.WITHDRAWN)

    @asynccontextmanager
    async def abandon_if_cancelled(self) -> AsyncIterator[None]:
        """Abandon the attempt if the caller leaves during the context, whose request continues."""
        failure: Exception | None = None
        finished = False

        async def note() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                if not finished:
                    with anyio.CancelScope(shield=True):
                        await self.abandon()

        async with anyio.create_task_group() as group:
            group.start_soon(note)
            try:
                yield
            except Exception as error:  # noqa: BLE001  (raised below: the group would wrap it)
                failure = error
            finished = True
            group.cancel_scope.cancel()
        if failure:
            raise failure

    async def settle(self, failure: BaseException | None) -> None:
        """Write how the call ended.

        Args:
            failure: The exception that ended it; None if it returned a result.
        """
        attempt = self._attempt
        if attempt is None:
            return
        self.deliver_later &= failure is None  # clients do not fetch errors later
        has_response = failure is None or isinstance(failure, SeedreamError)
        if attempt.task_id and (failure or self.caller_left):
            await self.abandon()  # even if the caller received an error, its next call gets the task
        elif attempt.task_id:
            if not self.deliver_later:
                await self._advance(State.DELIVERED)
        elif isinstance(failure, SubmissionUncertain) or (not has_response and attempt.state is State.SENDING):
            attempt.state = State.UNCERTAIN
            if has_response and not self.caller_left and not self._owner.shutdown.requested.is_set():
                await self._advance(State.DELIVERED)
            else:
                await self.abandon()
        else:
            await self._advance(State.WITHDRAWN)

    async def _advance(self, state: State, *, must_exist: bool = False) -> None:
        if self._attempt:
            self._attempt.state = state
            await self._save(must_exist=must_exist)

    async def _save(self, *, must_exist: bool = False) -> Outcome:
        """Write the newest state, even for a caller that leaves, after writes that other tasks have begun."""
        with anyio.CancelScope(shield=True):
            async with self._saving:
                outcome = await self._save_in_turn(must_exist=must_exist)
        return outcome

    async def _save_in_turn(self, *, must_exist: bool) -> Outcome:
        if self._attempt is None:
            return "lost"
        owner, written = self._owner, replace(self._attempt)  # other tasks may change the state meanwhile
        outcome = await owner.save(written, written if must_exist else None)
        self.caller_left |= outcome != "saved"
        if outcome == "lost" or (is_closed(written) and (outcome == "saved" or written.state is State.WITHDRAWN)):
            self._attempt = None
        elif is_closed(written) and self._attempt.state is written.state:  # the caller had left
            self._attempt.state = undelivered(written)
        if self._attempt is None or self._attempt.state in (State.ABANDONED, State.UNCERTAIN):
            owner.open_calls.discard(self.id)  # it is removed, or can be claimed without a lease
        return outcome
