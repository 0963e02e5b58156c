"""What was made on this machine, in a small SQLite file: a picture whose answer was lost can be found again.

Every call is written before it is sent, every accepted task before its wait begins, and once more when it has
ended. A call has an owner, its process, until it is answered: what a process leaves behind, however it ends, is an
orphan. Several servers may share the file. A file that can't be used is set aside: one warning, and everything
works without it. Tokens are never in it.
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

from mcp_seedream.catalog.selection import Refusal
from mcp_seedream.generation.journal_file import open_database
from mcp_seedream.upstream.types import State, Task

logger = logging.getLogger(__name__)

T = TypeVar("T")

IN_MEMORY = ":memory:"
"""Instead of a path: for as long as the process lasts."""
NEWEST = 20
"""Tasks in a listing."""
_KEPT = 30 * 24 * 3600  # seconds
_PAUSE = 60  # seconds without the journal after another process kept it busy


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
    """The journal of one file; opened at its first use. `trouble` says why it can't be used, if it can't.

    Args:
        path: Of the file, made if it is missing; `IN_MEMORY` for none.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = path
        self.trouble = ""
        self._busy_until = 0.0
        self._connection: sqlite3.Connection | None = None
        self._one = anyio.CapacityLimiter(1)

    @property
    def works(self) -> bool:
        """It has not been set aside."""
        return not self.trouble

    async def sending(self, call: str) -> int | None:
        """Write down that a call is about to be sent: until it is settled, there may be a task of it."""

        def write(db: sqlite3.Connection) -> int | None:
            row = (call, os.getpid(), time())
            return db.execute("INSERT INTO doubts (call, owner, left_at) VALUES (?, ?, ?)", row).lastrowid

        return await self._do(write, None)

    async def settled(self, doubt: int | None) -> None:
        """Nothing is in doubt any more."""

        def write(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM doubts WHERE number = ?", (doubt,))

        if doubt is not None:
            await self._do(write, None)

    async def accepted(self, entry: Entry, call: str = "", doubt: int | None = None) -> None:
        """Write a task down, as pending; what is older than 30 days goes.

        Args:
            entry: The task.
            call: Who asked, and for what: until it is answered, this process is responsible for it.
            doubt: What it settles.
        """

        def write(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM tasks WHERE at < ?", (time() - _KEPT,))
            db.execute("DELETE FROM doubts WHERE number = ? OR left_at < ?", (doubt, time() - _KEPT))
            row = (entry.id, entry.at, entry.tool, entry.model, entry.prompt, call or None, os.getpid(), time())
            columns = "id, at, tool, model, prompt, call, owner, left_at"
            db.execute(f"INSERT OR IGNORE INTO tasks ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)  # noqa: S608

        await self._do(write, None)

    async def ended(self, *tasks: Task) -> None:
        """Write down what became of tasks; those that still run, or were made elsewhere, are left alone."""

        def write(db: sqlite3.Connection) -> None:
            for task in tasks:
                known = db.execute("SELECT files FROM tasks WHERE id = ?", (task.id,)).fetchone()
                if known and task.ended:
                    links = [image.url for image in task.images if image.url]
                    saved = [image.path for image in task.images if image.path]
                    older = [path for path in json.loads(known[0]) if path not in saved]
                    # Whole sets stand at the end, each in the order of its pictures: see `local_files.saved_set`.
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
        """Where the pictures of a task were saved: files of whole sets at the end, the newest set last."""

        def read(db: sqlite3.Connection) -> tuple[str, ...]:
            row = db.execute("SELECT files FROM tasks WHERE id = ?", (id_,)).fetchone()
            return _strings(row[0]) if row else ()

        return await self._do(read, ())

    async def count(self) -> int | None:
        """How many tasks are in it; None: it can't be used, at least for a while."""
        return await self._do(lambda db: int(db.execute("SELECT count(*) FROM tasks").fetchone()[0]), None)

    async def refusals(self) -> dict[Refusal, float]:
        """What production refused, as any server on this machine has written, until when it is remembered."""

        def read(db: sqlite3.Connection) -> dict[Refusal, float]:
            rows = db.execute("SELECT model, size, until FROM refusals WHERE until > ?", (time(),))
            return {(model, size or None): until for model, size, until in rows}

        return await self._do(read, {})

    async def remember(self, refusal: Refusal, until: float) -> None:
        """Write down a refusal; those that are over go."""

        def write(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM refusals WHERE until <= ?", (time(),))
            db.execute("INSERT OR REPLACE INTO refusals VALUES (?, ?, ?)", (refusal[0], refusal[1] or "", until))

        await self._do(write, None)

    async def leave(self, call: str, orphan: Orphan, doubt: int | None = None) -> bool:
        """Let go of a task whose caller went away, or of the doubt whether there is one; whether that worked."""

        def write(db: sqlite3.Connection) -> bool:
            if orphan.id:
                query = "UPDATE tasks SET call = ?, owner = NULL, left_at = ? WHERE id = ?"
                return db.execute(query, (call, orphan.left_at, orphan.id)).rowcount == 1
            query = "UPDATE doubts SET owner = NULL, left_at = ? WHERE number = ?"
            return db.execute(query, (orphan.left_at, doubt)).rowcount == 1

        return await self._do(write, otherwise=False)

    async def answered(self, id_: str) -> None:
        """A task's caller has its answer: the same call is another one from now on."""

        def write(db: sqlite3.Connection) -> None:
            db.execute("UPDATE tasks SET call = NULL WHERE id = ?", (id_,))

        await self._do(write, None)

    async def adopt(self, call: str, since: float) -> Orphan | None:
        """The first task of a call that was left since then, or the doubt that there is one; nobody else gets it."""

        def take(db: sqlite3.Connection) -> Orphan | None:
            query = "SELECT id, model, left_at, owner FROM tasks WHERE call = ? AND left_at >= ? ORDER BY left_at"
            for id_, model, left_at, owner in db.execute(query, (call, since)).fetchall():
                taken = "UPDATE tasks SET owner = ? WHERE id = ? AND call = ? AND owner IS ?"
                if _is_gone(owner) and db.execute(taken, (os.getpid(), id_, call, owner)).rowcount:
                    return Orphan(id_, model, left_at)
            query = "SELECT number, left_at, owner FROM doubts WHERE call = ? AND left_at >= ? ORDER BY left_at"
            for number, left_at, owner in db.execute(query, (call, since)).fetchall():
                if _is_gone(owner) and db.execute("DELETE FROM doubts WHERE number = ?", (number,)).rowcount:
                    return Orphan("", "", left_at)
            return None

        return await self._do(take, None)

    async def unanswered(self, prompt: str, since: float) -> tuple[str, bool]:
        """What calls that ended since then (Unix seconds) left without an answer.

        Returns:
            The id of the newest such task of this prompt ("" for none), and whether another call may have one.
        """

        def read(db: sqlite3.Connection) -> tuple[str, bool]:
            query = "SELECT id FROM tasks WHERE call IS NOT NULL AND prompt = ? AND left_at >= ? ORDER BY left_at DESC"
            task = db.execute(query, (prompt, since)).fetchone()
            doubt = db.execute("SELECT 1 FROM doubts WHERE left_at >= ?", (since,)).fetchone()
            return (task[0] if task else "", doubt is not None)

        return await self._do(read, ("", False))

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
            self.trouble = str(error)
            self.close()
            logger.warning("the journal %s is set aside, since it can't be used: %s", self.path, error)
        return otherwise

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        if self._connection:
            self._connection.close()
            self._connection = None

    def _locked(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._connection = self._connection or open_database(self.path)
        with self._connection:  # one transaction
            return work(self._connection)


def _is_gone(owner: int | None) -> bool:
    """Nobody answers for it: it was let go of, or its process has ended. Where that can't be told, it has not."""
    if owner is None:
        return True
    if owner == os.getpid() or os.name == "nt":
        return False
    try:
        os.kill(owner, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _strings(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


def usual_path() -> Path:
    """The journal's place in the user's state folder."""
    from platformdirs import user_state_path  # noqa: PLC0415  (only where no path is set)

    return user_state_path("mcp-seedream", appauthor=False) / "tasks.sqlite3"


def open_journal(setting: str | None, *, in_memory: bool = False) -> Journal | None:
    """The journal that `SEEDREAM_JOURNAL` names; None if it is off.

    Args:
        setting: A path, or `off`; None for the usual place.
        in_memory: Instead of the usual place: the tasks of a sandbox end with it.
    """
    if setting == "off":
        return None
    if setting:
        return Journal(Path(setting))
    return Journal(IN_MEMORY if in_memory else usual_path())
