"""Attempts in the journal's SQLite file, where the servers of one machine share them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import astuple, fields
from time import time
from typing import Any

from mcp_seedream.generation.attempt_store import Attempt, Outcome, State, Stored
from mcp_seedream.generation.claims import Timing
from mcp_seedream.generation.journal import Journal

_COLUMNS = [field.name for field in fields(Attempt)]
_INSERT = f"INSERT OR REPLACE INTO attempts ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608
_FIND = (
    f"SELECT {', '.join(f'attempts.{name}' for name in _COLUMNS)}, until FROM attempts "  # noqa: S608
    "LEFT JOIN leases ON leases.owner = attempts.owner AND until > ? WHERE call = ? OR request = ?"
)
_KEPT = 3600  # seconds, longer than any call and `Timing.claimable`


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

    async def open(self, attempt: Attempt) -> None:
        """Add an attempt, and renew the lease of its owner."""

        def write(db: sqlite3.Connection) -> None:
            now = self._clock()
            db.execute("DELETE FROM attempts WHERE held_at < ? AND owner != ?", (now - _KEPT, attempt.owner))
            db.execute("DELETE FROM leases WHERE until < ?", (now - _KEPT,))
            db.execute(_INSERT, astuple(attempt))
            self._renew(db, attempt.owner)

        await self._journal.run(write)

    async def find(self, name: str) -> list[Stored]:
        """The attempts whose call or request has this hash."""

        def read(db: sqlite3.Connection) -> list[Stored]:
            rows = db.execute(_FIND, (self._clock(), name, name)).fetchall()
            return [Stored(_as_attempt(row[:-1]), None if row[-1] is None else str(row[-1])) for row in rows]

        return await self._journal.run(read)

    async def advance(self, attempt: Attempt, before: Attempt | None = None) -> Outcome:
        """Write an attempt, unless another call holds it."""

        def write(db: sqlite3.Connection) -> Outcome:
            stored = _stored(db, attempt)
            if stored is None or stored.holder != (before or attempt).holder:
                return "missing" if stored is None else "claimed"
            left_at = attempt.left_at if before else attempt.left_at or stored.left_at
            db.execute(_INSERT, astuple(attempt))
            db.execute("UPDATE attempts SET left_at = ? WHERE id = ?", (left_at, attempt.id))
            return "saved" if left_at is None else "left"

        return await self._journal.run(write)

    async def close(self, attempt: Attempt, *, only_if_heard: bool = False) -> Outcome:
        """Remove an attempt, unless another call holds it."""

        def write(db: sqlite3.Connection) -> Outcome:
            stored = _stored(db, attempt)
            if stored is None or stored.holder != attempt.holder:
                return "missing" if stored is None else "claimed"
            if only_if_heard and stored.left_at is not None:
                return "left"
            db.execute("DELETE FROM attempts WHERE id = ?", (attempt.id,))
            return "saved"

        return await self._journal.run(write)

    async def renew(self, owner: str) -> None:
        """Renew the lease of a process."""
        await self._journal.run(lambda db: self._renew(db, owner))

    async def release(self, owner: str) -> None:
        """End the lease of a process."""
        await self._journal.run(lambda db: db.execute("DELETE FROM leases WHERE owner = ?", (owner,)))

    def _renew(self, db: sqlite3.Connection, owner: str) -> None:
        db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?)", (owner, self._clock() + self._timing.lease))


def _stored(db: sqlite3.Connection, attempt: Attempt) -> Attempt | None:
    db.execute("BEGIN IMMEDIATE")  # nobody else writes between this look and the write
    row = db.execute(f"SELECT {', '.join(_COLUMNS)} FROM attempts WHERE id = ?", (attempt.id,)).fetchone()  # noqa: S608
    return _as_attempt(row) if row else None


def _as_attempt(row: tuple[Any, ...]) -> Attempt:
    attempt = Attempt(*row)
    attempt.state, attempt.may_have_left = State(attempt.state), bool(attempt.may_have_left)
    return attempt
