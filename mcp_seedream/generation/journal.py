"""The history of the tasks that were made on this machine, in a small SQLite file.

Every accepted task is recorded before its wait begins, and again when it has ended, so that a picture whose result was
lost can be found. `sqlite_attempts` stores the attempts in the same file. Several servers may share it. If the file
can't be used, the server logs one warning and works without it. It never contains tokens.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import TypeVar

import anyio
import anyio.to_thread

from mcp_seedream.catalog.selection import Refusal
from mcp_seedream.core.errors import StoreUnavailable
from mcp_seedream.upstream.types import State, Task

logger = logging.getLogger(__name__)

T = TypeVar("T")

IN_MEMORY = ":memory:"
"""A path for a journal in memory, which ends with the process."""
NEWEST = 20
"""Largest number of tasks in a listing."""
_KEPT = 30 * 24 * 3600  # seconds
_PAUSE = 60  # seconds
_BUSY_SECONDS = 1  # seconds to wait for another process that writes
_VERSION, _APPLICATION_ID = 2, 0x5EED
_TABLES = """
CREATE TABLE IF NOT EXISTS tasks (
    id TEXT PRIMARY KEY, at REAL NOT NULL, tool TEXT NOT NULL, model TEXT NOT NULL, prompt TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending', links TEXT NOT NULL DEFAULT '[]', files TEXT NOT NULL DEFAULT '[]'
);
CREATE TABLE IF NOT EXISTS attempts (
    id TEXT PRIMARY KEY, call TEXT NOT NULL, request TEXT NOT NULL, holder TEXT NOT NULL, owner TEXT NOT NULL,
    opened_at REAL NOT NULL, held_at REAL NOT NULL, state TEXT NOT NULL, task_id TEXT NOT NULL, model TEXT NOT NULL,
    left_at REAL, may_have_left INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS leases (owner TEXT PRIMARY KEY, until REAL NOT NULL);
CREATE TABLE IF NOT EXISTS refusals (
    model TEXT NOT NULL, size TEXT NOT NULL, until REAL NOT NULL, PRIMARY KEY (model, size)
);
CREATE INDEX IF NOT EXISTS tasks_at ON tasks (at);
DROP TABLE IF EXISTS doubts;
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One task of the history: when it was accepted (Unix seconds), its tool, prompt and result."""

    id: str
    at: float
    tool: str
    model: str
    prompt: str
    state: State = "pending"
    links: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


class Journal:
    """The journal of one file, opened at its first use. `trouble` is the reason why it can't be used, or empty.

    Args:
        path: The file, created if it is missing; or `IN_MEMORY`.
        pause: Seconds for which the journal is not used after a temporary error.
    """

    def __init__(self, path: Path | str, *, pause: float = _PAUSE) -> None:
        self.path = path
        self._pause = pause
        self.trouble = ""
        self._busy_until = 0.0
        self._connection: sqlite3.Connection | None = None
        self._one = anyio.CapacityLimiter(1)

    @property
    def works(self) -> bool:
        """Whether the file can be used."""
        return not self.trouble

    async def accepted(self, entry: Entry) -> None:
        """Record an accepted task as pending; entries older than 30 days are deleted."""

        def write(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM tasks WHERE at < ?", (time() - _KEPT,))
            row = (entry.id, entry.at, entry.tool, entry.model, entry.prompt)
            db.execute("INSERT OR IGNORE INTO tasks (id, at, tool, model, prompt) VALUES (?, ?, ?, ?, ?)", row)

        await self._do(write, None)

    async def ended(self, *tasks: Task) -> None:
        """Record the results of tasks; running tasks, and tasks of other machines, are ignored."""

        def write(db: sqlite3.Connection) -> None:
            for task in tasks:
                known = db.execute("SELECT files FROM tasks WHERE id = ?", (task.id,)).fetchone()
                if known and task.ended:
                    links = [image.url for image in task.images if image.url]
                    saved = [image.path for image in task.images if image.path]
                    older = [path for path in json.loads(known[0]) if path not in saved]
                    # Complete sets come last, each in the order of its pictures: see `saved_files.saved_set`.
                    files = [*older, *saved] if len(saved) == len(task.images) else [*saved, *older]
                    row = (task.state, json.dumps(links), json.dumps(files), task.id)
                    db.execute("UPDATE tasks SET state = ?, links = ?, files = ? WHERE id = ?", row)

        await self._do(write, None)

    async def newest(self, count: int = NEWEST) -> list[Entry]:
        """The newest tasks, the last one first."""

        def read(db: sqlite3.Connection) -> list[Entry]:
            columns = "id, at, tool, model, prompt, state, links, files"
            rows = db.execute(f"SELECT {columns} FROM tasks ORDER BY at DESC, rowid DESC LIMIT ?", (count,))  # noqa: S608
            return [Entry(*row[:6], *map(_strings, row[6:])) for row in rows]

        return await self._do(read, [])

    async def files(self, id_: str) -> tuple[str, ...]:
        """The files of a task's pictures. Complete sets come last, the newest at the end."""

        def read(db: sqlite3.Connection) -> tuple[str, ...]:
            row = db.execute("SELECT files FROM tasks WHERE id = ?", (id_,)).fetchone()
            return _strings(row[0]) if row else ()

        return await self._do(read, ())

    async def count(self) -> int | None:
        """The number of tasks; None if the journal can't be used."""
        return await self._do(lambda db: int(db.execute("SELECT count(*) FROM tasks").fetchone()[0]), None)

    async def refusals(self) -> dict[Refusal, float]:
        """The upstream's refusals to the servers of this machine, each with its expiry in Unix seconds."""

        def read(db: sqlite3.Connection) -> dict[Refusal, float]:
            rows = db.execute("SELECT model, size, until FROM refusals WHERE until > ?", (time(),))
            return {(model, size or None): until for model, size, until in rows}

        return await self._do(read, {})

    async def remember(self, refusal: Refusal, until: float) -> None:
        """Record a refusal; expired ones are deleted."""

        def write(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM refusals WHERE until <= ?", (time(),))
            db.execute("INSERT OR REPLACE INTO refusals VALUES (?, ?, ?)", (refusal[0], refusal[1] or "", until))

        await self._do(write, None)

    async def unanswered(self, prompt: str, since: float) -> tuple[str, bool]:
        """Find calls that began after a time (Unix seconds) and whose callers got no result.

        Returns:
            The id of the newest such task with this prompt ("" for none), and whether another call may have a task.
        """

        def read(db: sqlite3.Connection) -> tuple[str, bool]:
            query = (
                "SELECT tasks.id FROM attempts JOIN tasks ON attempts.task_id = tasks.id "
                "WHERE prompt = ? AND opened_at >= ? ORDER BY opened_at DESC"
            )
            task = db.execute(query, (prompt, since)).fetchone()
            query = "SELECT 1 FROM attempts WHERE state IN ('sending', 'uncertain') AND opened_at >= ?"
            return (task[0] if task else "", db.execute(query, (since,)).fetchone() is not None)

        return await self._do(read, ("", False))

    async def run(self, work: Callable[[sqlite3.Connection], T], *, ignore_pause: bool = False) -> T:
        """Run a transaction in a thread. Cancelling the caller does not interrupt it.

        Args:
            work: The transaction.
            ignore_pause: Run it even if the journal was busy lately.

        Raises:
            StoreUnavailable: The journal can't be used, at least for a while.
        """
        if not self.works or (time() < self._busy_until and not ignore_pause):
            raise StoreUnavailable("The journal can't be used.")
        try:
            with anyio.CancelScope(shield=True):
                result = await anyio.to_thread.run_sync(self._transaction, work, limiter=self._one)
        except (sqlite3.Error, OSError, ValueError) as error:
            if _is_temporary(error):
                was_paused, self._busy_until = time() < self._busy_until, time() + self._pause
                level = logging.DEBUG if was_paused else logging.WARNING
                logger.log(level, "nothing is written to the journal %s for %d s: %s", self.path, self._pause, error)
            else:
                self.trouble = str(error)
                self.close()
                logger.warning("the journal %s is set aside, since it can't be used: %s", self.path, error)
            raise StoreUnavailable("The journal can't be used.") from error
        return result

    async def _do(self, work: Callable[[sqlite3.Connection], T], default: T) -> T:
        """Run a transaction; returns the default if the journal can't be used."""
        try:
            return await self.run(work)
        except StoreUnavailable:
            return default

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        if self._connection:
            self._connection.close()
            self._connection = None

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._connection = self._connection or _open_database(self.path)
        with self._connection:  # one transaction
            return work(self._connection)


def _is_temporary(error: Exception) -> bool:
    """Whether an error may pass: another process keeps the file busy, or the disk is full or fails."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
    return full or code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def _strings(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


def usual_path() -> Path:
    """The default path, in the user's state folder."""
    from platformdirs import user_state_path  # noqa: PLC0415  (only if no path is set)

    return user_state_path("mcp-seedream", appauthor=False) / "tasks.sqlite3"


def open_journal(setting: str | None, *, in_memory: bool = False) -> Journal | None:
    """The journal that `SEEDREAM_JOURNAL` names; None if it is off.

    Args:
        setting: A path, or `off`; None for the default path.
        in_memory: Use memory instead of the default path: the tasks of a sandbox end with it.
    """
    if setting == "off":
        return None
    if setting:
        return Journal(Path(setting))
    return Journal(IN_MEMORY if in_memory else usual_path())


def _open_database(path: Path | str) -> sqlite3.Connection:
    """A connection to the journal's file, which is created if it is missing.

    Raises:
        sqlite3.Error: The file is damaged, has a newer version, or belongs to another program.
        OSError: It can't be opened.
    """
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # other users must not read prompts
    db = sqlite3.connect(path, timeout=_BUSY_SECONDS, check_same_thread=False)
    try:
        _check_database(db)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        # The application id is written first: a server that opens the file at this moment refuses tables without it.
        db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        db.executescript(_TABLES)
        db.execute(f"PRAGMA user_version = {_VERSION}")
    except BaseException:
        db.close()
        raise
    return db


def _check_database(db: sqlite3.Connection) -> None:
    if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise sqlite3.DatabaseError("it is damaged")
    if db.execute("PRAGMA user_version").fetchone()[0] > _VERSION:
        raise sqlite3.DatabaseError("a newer version wrote it")
    empty = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if not empty and db.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
        raise sqlite3.DatabaseError("it belongs to another program")
