"""The journal: what is written down, who may share it, and what happens when it can't be used."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.generation.attempts import Attempts
from mcp_seedream.generation.journal import Entry, Journal
from mcp_seedream.generation.sqlite_attempts import SQLiteAttempts
from mcp_seedream.media.local_files import LocalFiles
from mcp_seedream.sandbox.app import Sandbox
from mcp_seedream.server.tools import ToolDefaults
from mcp_seedream.upstream.types import Image, Task
from tests.conftest import TOKEN, Session, answer, look_ups, submits, text

pytestmark = pytest.mark.anyio
ENTRY = Entry("t1", 1000.0, "generate_image", "m", "a fox")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "tasks.sqlite3"


@pytest.fixture
def session(table: ModelTable, upstream: str, path: Path) -> Session:
    """A server on the caller's own machine, with a journal."""
    return Session(table, upstream, defaults=ToolDefaults(20, local=LocalFiles()), journal=Journal(path))


def now(**fields: Any) -> Entry:
    return replace(ENTRY, at=time.time(), **fields)


async def test_a_task_is_written_down_and_found(path: Path) -> None:
    """By the next process as well; links and files come with its end, and are not lost by a second look."""
    journal = Journal(path)
    entry = now()
    await journal.accepted(entry)
    await journal.ended(Task("t1", "succeeded", (Image("https://x/1.jpg", path="/a/fox.jpg"),)))
    await journal.ended(Task("t1", "succeeded", (Image("https://x/1.jpg"),)), Task("unknown", "failed"))
    [found] = await Journal(path).newest()
    assert found == replace(entry, state="succeeded", links=("https://x/1.jpg",), files=("/a/fox.jpg",))


async def test_a_task_that_runs_stays_pending(path: Path) -> None:
    """Until it has ended."""
    journal = Journal(path)
    await journal.accepted(now())
    await journal.ended(Task("t1"))
    assert [entry.state for entry in await journal.newest()] == ["pending"]


async def test_the_newest_come_first(path: Path) -> None:
    """And only as many as are asked for."""
    journal = Journal(path)
    for n in range(30):
        await journal.accepted(now(id=f"t{n}"))
    assert [entry.id for entry in await journal.newest(3)] == ["t29", "t28", "t27"]
    assert len(await journal.newest()) == 20


async def test_what_is_older_than_thirty_days_goes(path: Path) -> None:
    """With the next task that is written down."""
    journal = Journal(path)
    await journal.accepted(replace(ENTRY, id="old", at=time.time() - 31 * 24 * 3600))
    await journal.accepted(now(id="new"))
    assert [entry.id for entry in await journal.newest()] == ["new"]


async def test_two_servers_share_it(path: Path) -> None:
    """Both write at once, and each sees what the other wrote."""
    one, two = Journal(path), Journal(path)
    async with anyio.create_task_group() as group:
        for n in range(20):
            group.start_soon(one.accepted, now(id=f"a{n}"))
            group.start_soon(two.accepted, now(id=f"b{n}"))
    assert len(await one.newest(100)) == len(await two.newest(100)) == 40


async def test_a_journal_of_the_version_before_is_read(path: Path) -> None:
    """Its tasks stay listed; new attempts can be kept in it."""
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.executescript("""
            PRAGMA application_id = 0x5EED; PRAGMA user_version = 1;
            CREATE TABLE tasks (
                id TEXT PRIMARY KEY, at REAL NOT NULL, tool TEXT NOT NULL, model TEXT NOT NULL, prompt TEXT NOT NULL,
                state TEXT NOT NULL DEFAULT 'pending', links TEXT NOT NULL DEFAULT '[]',
                files TEXT NOT NULL DEFAULT '[]', call TEXT, owner INTEGER, left_at REAL
            );
            CREATE TABLE doubts (number INTEGER PRIMARY KEY, call TEXT NOT NULL, owner INTEGER, left_at REAL NOT NULL);
            CREATE INDEX tasks_call ON tasks (call) WHERE call IS NOT NULL;
            INSERT INTO tasks (id, at, tool, model, prompt, call, owner, left_at)
            VALUES ('t0', strftime('%s', 'now') - 9, 'generate_image', 'm', 'a', 'key', 1, 1);
        """)
    db.close()
    journal = Journal(path)
    await journal.accepted(now())
    assert [entry.id for entry in await journal.newest()] == ["t1", "t0"]
    async with Attempts(SQLiteAttempts(journal)).attempt() as attempt:
        assert await attempt.claim("key", 0) is None
    assert journal.works


async def test_a_busy_file_holds_nobody_up_for_long(session: Session, path: Path) -> None:
    """One second, once; then it is done without for a minute."""
    await session.call("generate_image", prompt="a")
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN EXCLUSIVE")
    started = time.monotonic()
    async with session.open() as client:
        for _ in range(3):
            result = await client.call_tool("generate_image", {"prompt": "b", "wait_seconds": 0})
            assert answer(result)["status"] == "pending"
    db.close()
    assert time.monotonic() - started < 8


async def test_a_disk_that_is_full_for_a_while(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The journal goes on once there is room again, without a restart."""
    journal = Journal(path, pause=0)
    await journal.accepted(Entry("t0", time.time(), "generate_image", "m", "a"))
    assert journal._connection
    pages = journal._connection.execute("PRAGMA page_count").fetchone()[0]
    journal._connection.execute(f"PRAGMA max_page_count = {pages}")
    await journal.accepted(Entry("t1", time.time(), "generate_image", "m", "a" * 100_000))
    assert "is full" in caplog.text
    assert journal.works
    journal._connection.execute("PRAGMA max_page_count = 100000")
    await journal.accepted(Entry("t2", time.time(), "generate_image", "m", "a" * 100_000))
    assert [entry.id for entry in await journal.newest()] == ["t2", "t0"]


def damaged(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 40)


def foreign(path: Path) -> None:
    path.write_text("my notes, not a database", "utf-8")


def anothers(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()


def newer(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("spoil", [damaged, foreign, anothers, newer, folder])
async def test_one_that_can_not_be_used_is_set_aside(
    session: Session, path: Path, spoil: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning, an untouched file, and everything works without it."""
    path.parent.mkdir()
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    async with session.open() as client:
        for _ in range(2):
            result = await client.call_tool("generate_image", {"prompt": "a"})
            assert answer(result)["status"] == "succeeded"
        result = await client.call_tool("get_task", {})
    assert result.is_error
    assert f"Give `task_id`: the journal {path} can't be used (" in text(result)
    assert sum("is set aside" in record.getMessage() for record in caplog.records) == 1
    assert (path.read_bytes() if path.is_file() else None) == before


async def test_one_that_is_damaged_later_is_set_aside(session: Session, path: Path) -> None:
    """In the middle of a process's life."""
    async with session.open() as client:
        await client.call_tool("generate_image", {"prompt": "a"})
        for file in path.parent.iterdir():
            file.write_bytes(b"\xff" * 5000)
        result = await client.call_tool("generate_image", {"prompt": "b"})
    assert answer(result)["status"] == "succeeded"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere, and so may Windows")
async def test_a_folder_that_may_not_be_written(session: Session, path: Path) -> None:
    """Everything works without a journal."""
    path.parent.mkdir(mode=0o500)
    assert answer(await session.call("generate_image", prompt="a"))["status"] == "succeeded"


async def test_prompts_are_their_writers_own(session: Session, path: Path) -> None:
    """Nobody else on the machine may read them."""
    await session.call("generate_image", prompt="a secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_no_token_is_in_it(session: Session, path: Path) -> None:
    """Nor in the files beside it."""
    await session.call("generate_image", prompt="a fox")
    written = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"a fox" in written
    assert TOKEN.encode() not in written


async def test_get_task_without_an_id_lists_the_newest(session: Session, sandbox: Sandbox) -> None:
    """In text and structured content; those that still ran are looked up, in one request."""
    first = answer(await session.call("generate_image", prompt="a red fox"))
    second = answer(await session.call("generate_image", prompt="a blue fox", wait_seconds=0))
    await anyio.sleep(0.3)
    before = len(look_ups(sandbox))
    result = await session.call("get_task")
    assert [task["task_id"] for task in answer(result)["tasks"]] == [second["task_id"], first["task_id"]]
    assert [task["status"] for task in answer(result)["tasks"]] == ["succeeded"] * 2
    assert answer(result)["tasks"][1]["images"] == [{"url": first["images"][0]["url"]}]
    assert answer(result)["tasks"][0]["prompt"] == "a blue fox"
    for word in ("a red fox", first["task_id"], first["images"][0]["url"]):
        assert word in text(result)
    assert len(look_ups(sandbox)) == before + 1
    assert len(submits(sandbox)) == 2


async def test_the_listing_works_without_the_upstream(table: ModelTable, path: Path) -> None:
    """What is written down is there."""
    journal = Journal(path)
    await journal.accepted(now())
    session = Session(table, "http://127.0.0.1:9", defaults=ToolDefaults(local=LocalFiles()), journal=journal)
    result = await session.call("get_task")
    assert [(task["task_id"], task["status"]) for task in answer(result)["tasks"]] == [("t1", "pending")]


async def test_an_empty_journal_says_so(session: Session) -> None:
    """Not an error: there is nothing to list."""
    result = await session.call("get_task")
    assert not result.is_error
    assert text(result) == "No task was made on this machine in the last 30 days."
    assert answer(result) == {"status": "succeeded", "tasks": []}


async def test_without_a_journal_an_id_is_needed(table: ModelTable, upstream: str) -> None:
    """A hosted server keeps none."""
    result = await Session(table, upstream).call("get_task")
    assert result.is_error
    assert "Give `task_id`" in text(result)


async def test_the_resource_lists_them_too(session: Session) -> None:
    """As the text of get_task does."""
    made = answer(await session.call("generate_image", prompt="a red fox"))
    async with session.open() as client:
        [content] = (await client.read_resource("seedream://tasks")).contents
    assert made["task_id"] in json.dumps(content.model_dump())


async def test_a_listing_fits_into_a_result(table: ModelTable, upstream: str, path: Path) -> None:
    """However long prompts and links are."""
    journal = Journal(path)
    for n in range(20):
        await journal.accepted(now(id=f"t{n}", prompt="x" * 5000))
        links = tuple(Image(f"https://cdn.example.com/{i}/{'y' * 2000}") for i in range(15))
        await journal.ended(Task(f"t{n}", "succeeded", links))
    session = Session(table, upstream, defaults=ToolDefaults(local=LocalFiles()), journal=journal)
    result = await session.call("get_task")
    assert len(result.model_dump_json()) < 150_000
    assert answer(result)["tasks"][0]["task_id"] == "t19"


async def test_saved_files_are_written_down(session: Session, tmp_path: Path) -> None:
    """Where they are, for whoever asks later."""
    made = answer(await session.call("generate_image", prompt="a fox", save_to=str(tmp_path / "out")))
    [listed] = answer(await session.call("get_task"))["tasks"]
    assert listed["files"] == [made["images"][0]["path"]]
