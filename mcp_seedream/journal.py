"""What was made on this machine, in a small SQLite file: a picture whose answer was lost can be found again.

Every accepted task is written before its wait begins, and once more when it has ended. Several servers may share
the file. A file that can't be used is set aside: one warning, and everything works without it. Tokens are never
in it.
"""

from __future__ import annotations

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

from mcp_seedream.wire import State, Task

logger = logging.getLogger(__name__)

T = TypeVar("T")

IN_MEMORY = ":memory:"
"""Instead of a path: for as long as the process lasts."""
NEWEST = 20
"""Tasks in a listing."""
_KEPT = 30 * 24 * 3600  # seconds
_BUSY, _PAUSE = 1, 60  # seconds to wait for another's writing, and to do without the journal after that
_VERSION, _OURS = 1, 0x5EED
_TABLE = """
CREATE TABLE IF NOT EXISTS tasks (
    id TEXT PRIMARY KEY, at REAL NOT NULL, tool TEXT NOT NULL, model TEXT NOT NULL, prompt TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending', links TEXT NOT NULL DEFAULT '[]', files TEXT NOT NULL DEFAULT '[]',
    orphan TEXT, left_at REAL
);
CREATE TABLE IF NOT EXISTS doubts (orphan TEXT NOT NULL, left_at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS tasks_at ON tasks (at);
CREATE INDEX IF NOT EXISTS tasks_orphan ON tasks (orphan) WHERE orphan IS NOT NULL;
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One task: when it was accepted (Unix seconds), by which tool, what became of it."""

    id: str
    at: float
    tool: str
    model: str
    prompt: str
    state: State = "pending"
    links: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Orphan:
    """A task whose caller went away, and when (Unix seconds); without an id, a call that may have become one."""

    id: str
    model: str
    left_at: float


class Journal:
    """The journal of one file; opened at its first use.

    Args:
        path: Of the file, made if it is missing; `IN_MEMORY` for none.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = path
        self.works = True
        self._busy_until = 0.0
        self._connection: sqlite3.Connection | None = None
        self._one = anyio.CapacityLimiter(1)

    async def accepted(self, entry: Entry) -> None:
        """Write a task down, as pending; what is older than 30 days goes."""

        def write(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM tasks WHERE at < ?", (time() - _KEPT,))
            db.execute("DELETE FROM doubts WHERE left_at < ?", (time() - _KEPT,))
            row = (entry.id, entry.at, entry.tool, entry.model, entry.prompt)
            db.execute("INSERT OR IGNORE INTO tasks (id, at, tool, model, prompt) VALUES (?, ?, ?, ?, ?)", row)

        await self._do(write, None)

    async def ended(self, *tasks: Task) -> None:
        """Write down what became of tasks; those that still run, or were made elsewhere, are left alone."""

        def write(db: sqlite3.Connection) -> None:
            for task in tasks:
                known = db.execute("SELECT files FROM tasks WHERE id = ?", (task.id,)).fetchone()
                if known and task.ended:
                    links = [image.url for image in task.images if image.url]
                    files = [*json.loads(known[0]), *(image.path for image in task.images if image.path)]
                    row = (task.state, json.dumps(links), json.dumps(list(dict.fromkeys(files))), task.id)
                    db.execute("UPDATE tasks SET state = ?, links = ?, files = ? WHERE id = ?", row)

        await self._do(write, None)

    async def newest(self, count: int = NEWEST) -> list[Entry]:
        """The newest tasks, the last one first."""

        def read(db: sqlite3.Connection) -> list[Entry]:
            columns = "id, at, tool, model, prompt, state, links, files"
            rows = db.execute(f"SELECT {columns} FROM tasks ORDER BY at DESC, rowid DESC LIMIT ?", (count,))  # noqa: S608
            return [Entry(*row[:6], *map(_strings, row[6:])) for row in rows]

        return await self._do(read, [])

    async def leave(self, key: str, orphan: Orphan) -> bool:
        """Remember that a task's caller went away; `key` says who, and what was asked for. Whether that worked."""

        def write(db: sqlite3.Connection) -> bool:
            if not orphan.id:
                db.execute("INSERT INTO doubts (orphan, left_at) VALUES (?, ?)", (key, orphan.left_at))
                return True
            row = (key, orphan.left_at, orphan.id)
            return db.execute("UPDATE tasks SET orphan = ?, left_at = ? WHERE id = ?", row).rowcount == 1

        return await self._do(write, otherwise=False)

    async def answered(self, id_: str) -> None:
        """A task's caller was there after all."""

        def write(db: sqlite3.Connection) -> None:
            db.execute("UPDATE tasks SET orphan = NULL WHERE id = ?", (id_,))

        await self._do(write, None)

    async def adopt(self, key: str, since: float) -> Orphan | None:
        """The first task left under a key since then; nobody else gets it."""

        def take(db: sqlite3.Connection) -> Orphan | None:
            found = "SELECT id FROM tasks WHERE orphan = ? AND left_at >= ? ORDER BY left_at LIMIT 1"
            query = f"UPDATE tasks SET orphan = NULL WHERE id = ({found}) RETURNING id, model, left_at"  # noqa: S608
            if row := db.execute(query, (key, since)).fetchone():
                return Orphan(*row)
            found = "SELECT rowid FROM doubts WHERE orphan = ? AND left_at >= ? ORDER BY left_at LIMIT 1"
            query = f"DELETE FROM doubts WHERE rowid = ({found}) RETURNING left_at"  # noqa: S608
            row = db.execute(query, (key, since)).fetchone()
            return Orphan("", "", row[0]) if row else None

        return await self._do(take, None)

    async def _do(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """Do it in a thread, even for a caller that leaves; `otherwise` where the journal can't be used."""
        if not self.works or time() < self._busy_until:
            return otherwise
        try:
            with anyio.CancelScope(shield=True):
                return await anyio.to_thread.run_sync(self._locked, work, limiter=self._one)
        except (sqlite3.Error, OSError, ValueError) as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                self._busy_until = time() + _PAUSE
                logger.warning("the journal %s is busy; nothing is written for %d s", self.path, _PAUSE)
                return otherwise
            self.works = False
            self._close()
            logger.warning("the journal %s is set aside, since it can't be used: %s", self.path, error)
        return otherwise

    def _close(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None

    def _locked(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._connection = self._connection or _opened(self.path)
        with self._connection:  # one transaction
            return work(self._connection)


def _strings(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


def usual_path() -> Path:
    """The journal's place in the user's state folder."""
    from platformdirs import user_state_path  # noqa: PLC0415  (only where no path is set)

    return user_state_path("mcp-seedream", appauthor=False) / "tasks.sqlite3"


def _opened(path: Path | str) -> sqlite3.Connection:
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # prompts are their writer's own
    db = sqlite3.connect(path, timeout=_BUSY, check_same_thread=False)
    try:
        _check(db)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.executescript(_TABLE)
        db.execute(f"PRAGMA user_version = {_VERSION}")
        db.execute(f"PRAGMA application_id = {_OURS}")
    except BaseException:
        db.close()
        raise
    return db


def _check(db: sqlite3.Connection) -> None:
    if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise sqlite3.DatabaseError("it is damaged")
    if db.execute("PRAGMA user_version").fetchone()[0] > _VERSION:
        raise sqlite3.DatabaseError("a newer version wrote it")
    empty = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if not empty and db.execute("PRAGMA application_id").fetchone()[0] != _OURS:
        raise sqlite3.DatabaseError("it is another program's")
