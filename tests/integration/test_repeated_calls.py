"""Calls that are broken off and made again: one task, one bill."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.errors import StoreUnavailable
from mcp_seedream.generation import service
from mcp_seedream.generation.attempt_store import AttemptStore, FailoverAttempts, MemoryAttempts
from mcp_seedream.generation.journal import Journal
from mcp_seedream.generation.sqlite_attempts import SQLiteAttempts
from mcp_seedream.media.local_files import LocalFiles
from mcp_seedream.sandbox.app import Sandbox
from mcp_seedream.sandbox.faults import REFUSALS
from mcp_seedream.server.tools import ToolDefaults
from tests.conftest import Session, answer, look_ups, submits, text
from tests.integration.test_tools import picture

pytestmark = pytest.mark.anyio
SLOW = "a fox [sandbox:slow=1.5]"


@pytest.fixture(params=["memory", "journal"])
def session(request: pytest.FixtureRequest, table: ModelTable, upstream: str, tmp_path: Path) -> Session:
    """A hosted server, and one on the caller's own machine with a journal."""
    if request.param == "memory":
        return Session(table, upstream)
    return Session(table, upstream, defaults=ToolDefaults(20, local=LocalFiles()), journal=Journal(tmp_path / "tasks"))


async def given_up(
    client: Any, sandbox: Sandbox, tool: str, arguments: dict[str, Any], *, sent: int = 1, heard: bool = False
) -> None:
    """Call, and lose patience, as clients do: soon after so many requests were sent, or once something was heard."""
    news = anyio.Event()

    async def hear(*_: Any) -> None:
        news.set()

    async with anyio.create_task_group() as group:
        group.start_soon(partial(client.call_tool, tool, arguments, progress_callback=hear))
        if heard:
            await news.wait()
        else:
            while len(submits(sandbox)) < sent:  # noqa: ASYNC110  (the sandbox is a thread)
                await anyio.sleep(0.01)
            await anyio.sleep(0.2)
        group.cancel_scope.cancel()
    await anyio.sleep(0.2)  # for the server to hear of it, on a machine that is busy


async def test_a_call_that_is_made_again_gets_the_same_task(session: Session, sandbox: Sandbox) -> None:
    """It says so, and one generation is paid for."""
    async with session.open() as client:
        await given_up(client, sandbox, "generate_image", {"prompt": SLOW})
        result = await client.call_tool("generate_image", {"prompt": SLOW})
    assert answer(result)["status"] == "succeeded"
    assert answer(result)["model"]
    assert "its task, and nothing was billed again" in text(result)
    assert len(submits(sandbox)) == 1


async def test_how_to_wait_makes_no_difference(session: Session, sandbox: Sandbox) -> None:
    """What is asked for is the same."""
    prompt = "a fox [sandbox:slow=30]"
    async with session.open() as client:
        await given_up(client, sandbox, "generate_image", {"prompt": prompt})
        result = await client.call_tool("generate_image", {"prompt": prompt, "wait_seconds": 0})
    assert answer(result)["status"] == "pending"
    assert answer(result)["task_id"] in sandbox.jobs
    assert len(submits(sandbox)) == 1


async def test_a_task_that_ended_meanwhile_comes_at_once(session: Session, sandbox: Sandbox) -> None:
    """With one look-up."""
    async with session.open() as client:
        await given_up(client, sandbox, "generate_image", {"prompt": SLOW})
        await anyio.sleep(1.6)
        before = len(look_ups(sandbox))
        result = await client.call_tool("generate_image", {"prompt": SLOW, "wait_seconds": 0})
    assert answer(result)["status"] == "succeeded"
    assert len(look_ups(sandbox)) == before + 1


@pytest.mark.parametrize(
    "other",
    [{"prompt": SLOW + "!"}, {"prompt": SLOW, "size": "4K"}, {"prompt": SLOW, "model": "doubao-seedream-4-5-251128"}],
)
async def test_another_call_is_another_picture(session: Session, sandbox: Sandbox, other: dict[str, Any]) -> None:
    """Only the very same call adopts."""
    async with session.open() as client:
        await given_up(client, sandbox, "generate_image", {"prompt": SLOW})
        result = await client.call_tool("generate_image", {**other, "wait_seconds": 0})
    assert "nothing was billed again" not in text(result)
    assert len(submits(sandbox)) == 2


async def test_an_edit_is_known_by_its_pictures(session: Session, sandbox: Sandbox) -> None:
    """The same words for another picture are another call."""
    one, two = picture(200), picture(100)
    async with session.open() as client:
        await given_up(client, sandbox, "edit_image", {"prompt": SLOW, "image": one})
        await client.call_tool("edit_image", {"prompt": SLOW, "image": two, "wait_seconds": 0})
        assert len(submits(sandbox)) == 2
        result = await client.call_tool("edit_image", {"prompt": SLOW, "image": [one]})
    assert "nothing was billed again" in text(result)
    assert len(submits(sandbox)) == 2


async def test_two_calls_that_are_alive_are_two_pictures(session: Session, sandbox: Sandbox) -> None:
    """That is what an agent asks for when it wants variations; one after the other, too."""
    async with session.open() as client:
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(client.call_tool, "generate_image", {"prompt": "a"})
        await client.call_tool("generate_image", {"prompt": "a"})
    assert len(submits(sandbox)) == 3


async def test_two_orphans_are_adopted_by_two_calls(session: Session, sandbox: Sandbox) -> None:
    """One each."""
    async with session.open() as client:
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(partial(given_up, sent=2), client, sandbox, "generate_image", {"prompt": SLOW})
        results = [await client.call_tool("generate_image", {"prompt": SLOW}) for _ in range(3)]
    assert len({answer(result)["task_id"] for result in results}) == 3
    assert len(submits(sandbox)) == 3


async def test_who_gives_up_again_finds_it_again(session: Session, sandbox: Sandbox) -> None:
    """However often."""
    async with session.open() as client:
        for _ in range(3):
            await given_up(client, sandbox, "generate_image", {"prompt": "a fox [sandbox:slow=2]"})
    assert len(submits(sandbox)) == 1


async def test_a_call_that_is_left_while_it_is_sent_is_an_orphan(session: Session, sandbox: Sandbox) -> None:
    """The upstream took its time to accept it; nobody was there to hear."""
    prompt = "a fox [sandbox:hang=0.6]"
    async with session.open() as client:
        await given_up(client, sandbox, "generate_image", {"prompt": prompt})
        await anyio.sleep(0.7)
        result = await client.call_tool("generate_image", {"prompt": prompt})
    assert answer(result)["status"] == "succeeded"
    assert len(submits(sandbox)) == 1


async def test_a_stream_that_is_left_is_an_orphan(session: Session, sandbox: Sandbox) -> None:
    """Once it has told its id."""
    call = {"prompt": "foxes [sandbox:slow=0.25]", "stream": True, "sequential_image_generation": "auto"}
    async with session.open() as client:
        await given_up(client, sandbox, "generate_image", call, heard=True)
        result = await client.call_tool("generate_image", call)
    assert len(answer(result)["images"]) == 4
    assert len(submits(sandbox)) == 1


async def test_callers_are_kept_apart(table: ModelTable, upstream: str, sandbox: Sandbox) -> None:
    """Another token is another caller."""
    tokens = iter(["alice", "bob"])
    session = Session(table, upstream, token_of=lambda _: next(tokens))
    async with session.open() as client:
        await given_up(client, sandbox, "generate_image", {"prompt": SLOW})
        await client.call_tool("generate_image", {"prompt": SLOW, "wait_seconds": 0})
    assert len(submits(sandbox)) == 2


async def test_with_a_journal_the_next_server_adopts(
    table: ModelTable, upstream: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    """A client that starts a server for each call is not billed twice either."""

    def server() -> Session:
        journal = Journal(tmp_path / "tasks")
        return Session(table, upstream, defaults=ToolDefaults(20, local=LocalFiles()), journal=journal)

    async with server().open() as client:
        await given_up(client, sandbox, "generate_image", {"prompt": SLOW})
    result = await server().call("generate_image", prompt=SLOW)
    assert answer(result)["status"] == "succeeded"
    assert len(submits(sandbox)) == 1


async def test_a_task_that_the_upstream_does_not_know_yet_is_waited_for(session: Session, sandbox: Sandbox) -> None:
    """It was accepted a moment ago: not all of the upstream may have heard."""
    async with session.open() as client:
        await given_up(client, sandbox, "generate_image", {"prompt": SLOW})
        sandbox.jobs.clear()
        result = await client.call_tool("generate_image", {"prompt": SLOW, "wait_seconds": 0.2})
    assert answer(result)["status"] == "pending"
    assert len(submits(sandbox)) == 1


async def test_a_task_that_the_upstream_forgot_is_made_anew(
    session: Session, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to adopt."""
    monkeypatch.setattr(service, "_LAG", 0)
    async with session.open() as client:
        await given_up(client, sandbox, "generate_image", {"prompt": SLOW})
        sandbox.jobs.clear()
        result = await client.call_tool("generate_image", {"prompt": SLOW})
    assert answer(result)["status"] == "succeeded"
    assert len(submits(sandbox)) == 2


async def test_a_task_that_is_unknown_once_is_asked_for_again(
    session: Session, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty answer may pass: nothing is paid for before a second look-up."""
    monkeypatch.setattr(service, "_LAG", 0)
    owned, asked = sandbox._owned, iter([False])
    async with session.open() as client:
        await given_up(client, sandbox, "generate_image", {"prompt": SLOW})
        monkeypatch.setattr(sandbox, "_owned", lambda id_, token: next(asked, True) and owned(id_, token))
        result = await client.call_tool("generate_image", {"prompt": SLOW})
    assert answer(result)["status"] == "succeeded"
    assert len(submits(sandbox)) == 1


@pytest.mark.parametrize("word", ["used_up", "invalid_token", "rate_limited"])
async def test_a_refusal_leaves_no_doubt(session: Session, sandbox: Sandbox, word: str) -> None:
    """Streamed or not, the same call is refused in the same words."""
    for stream in (False, True):
        call = {"prompt": f"a [sandbox:{word}]", "stream": stream}
        for _ in range(2):
            result = await session.call("generate_image", **call)
            assert answer(result)["error"]["code"] == REFUSALS[word][1]


@pytest.mark.parametrize("written", [0, 2, 3], ids=["never", "until it is sent", "until it is accepted"])
async def test_an_orphan_that_can_not_be_written_down_is_remembered(
    table: ModelTable, upstream: str, sandbox: Sandbox, tmp_path: Path, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that fails in between is no reason to pay twice."""
    save, saved = SQLiteAttempts.save, 0

    async def fail(*args: Any) -> Any:
        nonlocal saved
        saved += 1
        if saved > written:
            raise StoreUnavailable("")
        return await save(*args)

    journal = Journal(tmp_path / "tasks")
    monkeypatch.setattr(SQLiteAttempts, "save", fail)
    session = Session(table, upstream, defaults=ToolDefaults(20, local=LocalFiles()), journal=journal)
    async with session.open() as client:
        await given_up(client, sandbox, "generate_image", {"prompt": SLOW})
        result = await client.call_tool("generate_image", {"prompt": SLOW})
    assert answer(result)["status"] == "succeeded"
    assert len(submits(sandbox)) == 1


async def test_a_doubt_is_told_once_to_who_repeats(session: Session, sandbox: Sandbox) -> None:
    """The first caller left before it could hear that the answer was lost; after that it is the agent's decision."""
    call = {"prompt": "a fox [sandbox:hang=0.6] [sandbox:html]"}
    async with session.open() as client:
        await given_up(client, sandbox, "generate_image", call)
        result = await client.call_tool("generate_image", call)
        assert answer(result)["error"]["code"] == "submission_uncertain"
        assert "The same call was broken off" in text(result)
        assert len(submits(sandbox)) == 1
        await client.call_tool("generate_image", call)
    assert len(submits(sandbox)) == 2


async def test_a_doubt_that_was_heard_is_not_told_again(session: Session, sandbox: Sandbox) -> None:
    """Who repeats after that means it."""
    call = {"prompt": "a fox [sandbox:html]"}
    async with session.open() as client:
        for _ in range(2):
            result = await client.call_tool("generate_image", call)
            assert "The same call" not in text(result)
    assert len(submits(sandbox)) == 2


async def test_nothing_is_kept_of_calls_that_are_over(session: Session, sandbox: Sandbox) -> None:
    """Neither of those that ended, nor of those that were broken off and claimed."""
    stores: list[AttemptStore] = []

    @asynccontextmanager
    async def watched(server: Any) -> Any:
        async with lifespan(server) as runtime:
            attempts = (await runtime.get()).attempts
            stores.append(attempts._owner.store)
            yield runtime
            assert attempts._owner.open_calls == set()
            if isinstance(stores[0], FailoverAttempts):
                store = stores[0]._shared
                assert isinstance(store, SQLiteAttempts)
                rows = await store._journal.run(lambda db: db.execute("SELECT * FROM attempts").fetchall())
                assert rows == []

    lowlevel = session.server._lowlevel_server
    lifespan, lowlevel.lifespan = lowlevel.lifespan, watched
    async with session.open() as client:
        await given_up(client, sandbox, "generate_image", {"prompt": SLOW})
        await client.call_tool("generate_image", {"prompt": SLOW})
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(client.call_tool, "generate_image", {"prompt": "a"})
    memory = stores[0]._memory if isinstance(stores[0], FailoverAttempts) else stores[0]
    assert isinstance(memory, MemoryAttempts)
    assert (memory._attempts, memory._abandoned, dict(memory._by_name)) == ({}, {}, {})
