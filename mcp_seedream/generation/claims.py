"""Decides what an identical call does with the attempts of earlier calls. Pure functions, without a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from mcp_seedream.generation.attempt_store import State, Stored

Action = Literal["claim", "report uncertain", "wait", "join", "presume left", "variation", "replace"]
"""The action of an identical call, in order of preference:

- claim: get the task of a caller that left.
- report uncertain: fail with `SubmissionUncertain`.
- wait: wait for the task of a call that is being sent, and whose caller left.
- join: get the task of a call that is still in progress.
- presume left: as "wait"; the caller may still wait, but a new call usually means that it timed out.
- variation: send the call, although an identical one is in progress.
- replace: send the call in place of an attempt whose process is gone before it was sent.
"""
_PREFERENCE = get_args(Action)
_MAX_CALL = 900
"""The assumed duration of a call whose process was killed, in seconds."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations in seconds.

    Attributes:
        claimable: How long an attempt can be claimed after its caller left.
        join_after: The age from which an identical call joins a call whose caller still waits.
        lease: How long a process may hold attempts without renewing its lease.
        renewal: The time between two renewals.
        poll: The time between two reads of an attempt of another call.
    """

    claimable: float = 600
    join_after: float = 3
    lease: float = 3
    renewal: float = 1
    poll: float = 0.25


@dataclass(frozen=True, slots=True)
class Candidate:
    """An attempt of an identical call, and the action of the identical call."""

    stored: Stored
    action: Action


def candidates(attempts: Sequence[Stored], now: float, timing: Timing) -> list[Candidate]:
    """The attempts that concern an identical call that begins now, the most preferable first.

    Args:
        attempts: The attempts of identical calls.
        now: Unix seconds.
        timing: See `Timing`.
    """
    options = [Candidate(stored, action) for stored in attempts if (action := _action(stored, now, timing))]
    return sorted(options, key=lambda each: (_PREFERENCE.index(each.action), _since(each)))


def _since(candidate: Candidate) -> float:
    """The sort key of equal actions: when the caller left, or else when the call that holds the attempt began."""
    attempt = candidate.stored.attempt
    return attempt.held_at if attempt.left_at is None else attempt.left_at


def _action(stored: Stored, now: float, timing: Timing) -> Action | None:
    attempt, gone = stored.attempt, stored.lease is None
    left_at = attempt.left_at if attempt.left_at is not None else attempt.held_at + _MAX_CALL if gone else None
    has_task = attempt.state in (State.ACCEPTED, State.ABANDONED)
    if left_at is not None and now - left_at > timing.claimable:
        return None
    if has_task and left_at is not None:
        return "claim"
    if attempt.state is State.UNCERTAIN or (attempt.state is State.SENDING and gone):
        return "report uncertain"
    if attempt.state is State.QUEUED and gone:
        return "replace"
    if attempt.state not in (State.QUEUED, State.SENDING, State.ACCEPTED):
        return None
    if left_at is not None:
        return "wait"
    if attempt.may_have_left or now - attempt.opened_at > timing.join_after:
        return "join" if has_task else "presume left"
    return "variation"
