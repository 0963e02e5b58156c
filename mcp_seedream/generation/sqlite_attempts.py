"""Attempts in the journal's SQLite file, where the servers of one machine share them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import astuple, fields
from time import time
from typing import Any

from mcp_seedream.generation.attempt_store import (
    KEPT_SECONDS,
    Attempt,
    Outcome,
    State,
    Stored,
    is_closed,
    is_held_elsewhere,
    merged,
    with_departure,
)
from mcp_seedream.generation.claims import Timing
from mcp_seedream.generation.journal import Journal

_COLUMNS = [field.name for field in fields(Attempt)]
_INSERT = f"INSERT OR REPLACE INTO attempts ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM attempts WHERE id = ?"  # noqa: S608
_FIND = (
    f"SELECT {', '.join(f'attempts.{name}' for name in _COLUMNS)}, until FROM attempts "  # noqa: S608
    "LEFT JOIN leases ON leases.owner = attempts.owner AND until > ? WHERE call = ? OR request = ?"
)


class SQLiteAttempts:
    """An `AttemptStore` in the journal.

    Args:
        journal: The journal.
        timing: See `claims.Timing`.
        clock: Unix seconds.
    """

    def __init__(self, journal: Journal, timing: Timing | None = None, *, clock: Callable[[], float] = time) -> None:
        self._journal = journal
        self._timing = timing or Timing()
        self._clock = clock

    async def find(self, name: str) -> list[Stored]:
        """The attempts whose call or request has this hash."""

        def read(db: sqlite3.Connection) -> list[Stored]:
            rows = db.execute(_FIND, (self._clock(), name, name)).fetchall()
            return [Stored(_as_attempt(row[:-1]), None if row[-1] is None else str(row[-1])) for row in rows]

        return await self._journal.run(read)

    async def save(self, attempt: Attempt, before: Attempt | None = None) -> Outcome:
        """Write or remove an attempt, unless another call holds it, and renew the lease of its owner."""

        def write(db: sqlite3.Connection) -> Outcome:
            stored = _locked(db, attempt.id)
            if is_held_elsewhere(attempt, stored, before):
                return "lost"
            new = merged(attempt, stored, before)
            if is_closed(new):
                db.execute("DELETE FROM attempts WHERE id = ? OR held_at < ?", (new.id, self._clock() - KEPT_SECONDS))
            else:
                db.execute(_INSERT, astuple(new))
                self._renew(db, new.owner, self._timing.lease)
            return "saved" if new.left_at is None else "left"

        return await self._journal.run(write)

    async def mark_left(self, attempt: Attempt, left_at: float | None) -> None:
        """Store that the caller of an attempt left or may have left, if the same call still holds it."""

        def write(db: sqlite3.Connection) -> None:
            stored = _locked(db, attempt.id)
            if stored and stored.holder == attempt.holder:
                db.execute(_INSERT, astuple(with_departure(stored, left_at)))

        await self._journal.run(write)

    async def renew(self, owner: str, seconds: float) -> None:
        """Renew the lease of a process, or end it; tried even while the journal is not used for other things."""
        await self._journal.run(lambda db: self._renew(db, owner, seconds), ignore_pause=True)

    def _renew(self, db: sqlite3.Connection, owner: str, seconds: float) -> None:
        now = self._clock()
        db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?)", (owner, now + seconds))
        db.execute("DELETE FROM leases WHERE until <= ?", (now,))


def _locked(db: sqlite3.Connection, id_: str) -> Attempt | None:
    """The stored attempt. No other process writes until the transaction ends."""
    db.execute("BEGIN IMMEDIATE")
    row = db.execute(_SELECT, (id_,)).fetchone()
    return _as_attempt(row) if row else None


def _as_attempt(row: tuple[Any, ...]) -> Attempt:
    attempt = Attempt(*row)
    attempt.state, attempt.may_have_left = State(attempt.state), bool(attempt.may_have_left)
    return attempt
