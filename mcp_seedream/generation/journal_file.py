"""The journal's SQLite file: its tables, and the check that a file is a journal of this version."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

_BUSY = 1  # seconds to wait for another process that writes
_VERSION, _OURS = 2, 0x5EED
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


def open_database(path: Path | str) -> sqlite3.Connection:
    """A connection to the journal's file, which is made if it is missing.

    Raises:
        sqlite3.Error: The file is damaged, of a newer version, or another program's.
        OSError: It can't be opened.
    """
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # prompts are their writer's own
    db = sqlite3.connect(path, timeout=_BUSY, check_same_thread=False)
    try:
        _check(db)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        # The application id is written first: another server that looks at this moment refuses tables without it.
        db.execute(f"PRAGMA application_id = {_OURS}")
        db.executescript(_TABLES)
        db.execute(f"PRAGMA user_version = {_VERSION}")
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
