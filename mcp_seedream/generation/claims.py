"""Decides what an identical call does with the attempts of earlier calls. Pure functions, without a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from mcp_seedream.generation.attempt_store import State, Stored

Action = Literal["claim", "tell", "wait", "join", "presume left", "variation", "replace"]
"""In order of preference: claim the task of a caller that left; tell that an attempt is uncertain; wait for an attempt
that is being sent, whose caller left; join a call that still waits; presume that its caller left, since it has no task
yet; send another call beside it; send in its place, since its process is gone."""
_PREFERENCE = get_args(Action)
_MAX_CALL = 900
"""Seconds that a call may have lasted when its process was killed."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds.

    Attributes:
        claimable: How long an attempt can be claimed after its caller left.
        join_after: The age from which an identical call joins a call whose caller still waits.
        lease: How long a process may hold attempts without renewing its lease.
        renewal: The time between two renewals.
        poll: The time between two looks at an attempt of another call.
    """

    claimable: float = 600
    join_after: float = 3
    lease: float = 3
    renewal: float = 1
    poll: float = 0.25


@dataclass(frozen=True, slots=True)
class Candidate:
    """An attempt of an identical call, and what may be done with it."""

    stored: Stored
    action: Action


def candidates(found: Sequence[Stored], now: float, timing: Timing) -> list[Candidate]:
    """The attempts that concern an identical call that begins now, the most preferable first.

    Args:
        found: The attempts of identical calls.
        now: Unix seconds.
        timing: See `Timing`.
    """
    options = [Candidate(stored, action) for stored in found if (action := _action(stored, now, timing))]
    return sorted(options, key=lambda each: (_PREFERENCE.index(each.action), _since(each)))


def _since(candidate: Candidate) -> float:
    """The caller that left first comes first; of those that wait, the one that was not joined for the longest time."""
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
        return "tell"
    if attempt.state is State.QUEUED and gone:
        return "replace"
    if attempt.state not in (State.QUEUED, State.SENDING, State.ACCEPTED):
        return None
    if left_at is not None:
        return "wait"
    if attempt.may_have_left or now - attempt.opened_at > timing.join_after:
        return "join" if has_task else "presume left"
    return "variation"
