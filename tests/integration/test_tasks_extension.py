"""The Tasks extension: a task at once, its result later, for clients that declare it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import sleep, time
from typing import Any, Literal

import anyio
import anyio.lowlevel
import httpx
import pytest
from mcp import Client
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, Request, RequestParams, Result
from pydantic import ConfigDict, Field
from starlette.types import Receive, Scope, Send

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.events import Observer
from mcp_seedream.core.settings import read_settings
from mcp_seedream.core.shutdown import Shutdown
from mcp_seedream.generation.attempts import Attempts
from mcp_seedream.generation.background import (
    BackgroundCall,
    BackgroundCalls,
    Keeping,
    Work,
    open_background_calls,
)
from mcp_seedream.generation.claims import Timing
from mcp_seedream.generation.journal import IN_MEMORY, Journal
from mcp_seedream.generation.sqlite_attempts import SQLiteAttempts
from mcp_seedream.hosting.app import bearer_token, build_app
from mcp_seedream.hosting.limits import CallerLimits
from mcp_seedream.media.local_files import LocalFiles
from mcp_seedream.sandbox.app import Sandbox
from mcp_seedream.server.tasks_extension import EXTENSION
from mcp_seedream.server.tools import ToolDefaults
from mcp_seedream.upstream.types import Task
from tests.conftest import TOKEN, Session, Switch, answer, look_ups, serving, submits, text
from tests.process.test_stdio import Process
from tests.process.test_stopping import ENDS, environment

pytestmark = pytest.mark.anyio
MODERN = "2026-07-28"
META: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {"extensions": {EXTENSION: {}}},
}


class Created(Result):
    """What a call is answered with that became a task."""

    model_config = ConfigDict(extra="allow")
    result_type: Literal["task"] = Field("task", alias="resultType")
    task_id: str = Field(alias="taskId")
    status: str


class Declared(ClientExtension):
    """A client that can follow tasks, and is handed them unresolved."""

    identifier = EXTENSION

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=Created, resolve=self.never)]

    async def never(self, _: Created, __: ClaimContext) -> CallToolResult:
        raise AssertionError


class Asked(Result):
    model_config = ConfigDict(extra="allow")


class AboutTask(RequestParams):
    model_config = ConfigDict(extra="allow")


class Ask(Request[AboutTask, str]):
    method: str
    params: AboutTask


class Follower:
    """A client's side of the extension."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def call(self, tool: str, /, **arguments: Any) -> Created | CallToolResult:
        found = await self.client.session.call_tool(tool, arguments, allow_claimed=True)
        assert isinstance(found, Created | CallToolResult)
        return found

    async def begin(self, tool: str, /, **arguments: Any) -> str:
        created = await self.call(tool, **arguments)
        assert isinstance(created, Created), created
        return created.task_id

    async def ask(self, method: str, task_id: str, **more: Any) -> dict[str, Any]:
        params = AboutTask.model_validate({"taskId": task_id, **more})
        found = await self.client.session.send_request(Ask(method=method, params=params), Asked)
        return found.model_dump(by_alias=True)

    async def status(self, task_id: str) -> str:
        return str((await self.ask("tasks/get", task_id))["status"])

    async def end(self, task_id: str) -> dict[str, Any]:
        """The task, once it has ended."""
        with anyio.fail_after(20):
            while (task := await self.ask("tasks/get", task_id))["status"] == "working":  # noqa: ASYNC110
                await anyio.sleep(0.02)
        return task

    async def result(self, task_id: str) -> CallToolResult:
        task = await self.end(task_id)
        assert task["status"] == "completed", task
        return CallToolResult.model_validate(task["result"])


@asynccontextmanager
async def following(session: Session, mode: str = "auto") -> AsyncIterator[Follower]:
    async with Client(session.server, mode=mode, extensions=[Declared()]) as client:
        yield Follower(client)


def told(result: CallToolResult) -> dict[str, Any]:
    """What does not differ from one picture to the next."""
    volatile = ("task_id", "trace_id", "elapsed_seconds", "links_until")
    found = {key: value for key, value in answer(result).items() if key not in volatile}
    if "preview" in found:  # it says where the picture is
        found = found | {"preview": found["preview"].rpartition("The image")[2]}
    return found | {"images": [{**image, "url": "", "path": ""} for image in found.get("images", [])]}


async def test_a_task_comes_at_once_and_is_the_upstreams(session: Session, sandbox: Sandbox) -> None:
    """Before the picture is there, under the id that `get_task` knows too."""
    sandbox.seconds = 30
    async with following(session) as follower:
        created = await follower.call("generate_image", prompt="a fox")
        assert isinstance(created, Created)
        found = await follower.client.call_tool("get_task", {"task_id": created.task_id, "wait_seconds": 0})
    assert answer(found)["task_id"] == created.task_id
    assert created.status == "working"
    fields = created.model_dump(by_alias=True)
    assert {"createdAt", "lastUpdatedAt", "ttlMs", "pollIntervalMs"} <= fields.keys()
    assert not {"result", "error", "task", "inputRequests", "requestState"} & {
        key for key, value in fields.items() if value
    }


@pytest.mark.parametrize("preview", [True, False])
async def test_it_comes_to_what_waiting_brings(table: ModelTable, upstream: str, tmp_path: Path, preview: bool) -> None:
    """Words, structured content, preview and saved file."""
    defaults = ToolDefaults(20, lambda _: preview, LocalFiles((), None))
    session = Session(table, upstream, defaults=defaults)
    arguments = {"prompt": "a fox", "size": "2K", "watermark": False}
    async with following(session) as follower:
        id_ = await follower.begin("generate_image", **arguments, save_to=str(tmp_path / "task.jpg"))
        later = await follower.result(id_)
        again = await follower.result(id_)
    waited = await session.call("generate_image", **arguments, save_to=str(tmp_path / "waited.jpg"))
    assert told(later) == told(waited)
    assert [block.type for block in later.content] == [block.type for block in waited.content]
    assert (tmp_path / "task.jpg").stat().st_size == (tmp_path / "waited.jpg").stat().st_size > 0
    assert later == again
    assert len(list(tmp_path.iterdir())) == 2


async def test_edits_become_tasks_too(session: Session) -> None:
    """A picture given, a picture changed."""
    async with following(session) as follower:
        first = await follower.begin("generate_image", prompt="a fox")
        await follower.end(first)
        result = await follower.result(await follower.begin("edit_image", prompt="in snow", image=f"task:{first}"))
    assert answer(result)["status"] == "succeeded"


async def test_however_often_it_is_asked_for_the_upstream_is_asked_in_rounds(
    session: Session, sandbox: Sandbox
) -> None:
    """Some clients ask every 20 ms."""
    sandbox.seconds = 1
    async with following(session) as follower:
        id_ = await follower.begin("generate_image", prompt="a fox")
        for _ in range(100):
            await follower.status(id_)
        assert len(look_ups(sandbox)) < 40  # a round each 0.05 s
        await follower.end(id_)


async def test_only_clients_that_declare_it_get_tasks(session: Session, sandbox: Sandbox) -> None:
    """The others get their picture, and so does everybody with an older revision."""
    result = await session.call("generate_image", prompt="a fox")
    async with following(session, "legacy") as follower:
        older = await follower.call("generate_image", prompt="a fox")
    assert isinstance(older, CallToolResult)
    assert answer(result)["status"] == answer(older)["status"] == "succeeded"


async def test_looking_never_becomes_a_task(session: Session) -> None:
    """It is an answer already."""
    async with following(session) as follower:
        id_ = await follower.begin("generate_image", prompt="a fox")
        assert isinstance(await follower.call("get_task", task_id=id_), CallToolResult)


@pytest.mark.parametrize(
    "arguments", [{"wait_seconds": 0}, {"wait_seconds": " 0.0"}, {"callback_url": "https://example.com/done"}], ids=str
)
async def test_a_call_that_does_not_wait_is_answered(session: Session, arguments: dict[str, Any]) -> None:
    """It has its task's id at once, in a result that any host can hand on."""
    async with following(session) as follower:
        result = await follower.call("generate_image", prompt="a fox", **arguments)
    assert isinstance(result, CallToolResult)
    assert answer(result)["status"] == "pending"


async def test_what_is_refused_before_there_is_a_task_is_answered_at_once(session: Session, sandbox: Sandbox) -> None:
    """Wrong arguments, and what the upstream refuses."""
    async with following(session) as follower:
        wrong = await follower.call("generate_image", prompt="a fox", sice="2K")
        refused = await follower.call("generate_image", prompt="a fox [sandbox:used_up]")
    assert isinstance(wrong, CallToolResult)
    assert isinstance(refused, CallToolResult)
    assert answer(wrong)["error"]["code"] == "invalid_arguments"
    assert answer(refused)["error"]["code"] == "used_up"
    assert len(submits(sandbox)) == 1


async def test_a_failed_task_is_completed_with_an_error(session: Session) -> None:
    """A tool's error is a result; `failed` is for the protocol's."""
    async with following(session) as follower:
        result = await follower.result(await follower.begin("generate_image", prompt="a fox [sandbox:failed]"))
    assert result.is_error
    assert answer(result)["status"] == "failed"


async def test_streams_report_each_picture(session: Session, sandbox: Sandbox) -> None:
    """In the status, until all are there."""
    sandbox.seconds = 0.3
    arguments = {"sequential_image_generation": "auto", "sequential_image_generation_options": {"max_images": 3}}
    messages = set()
    async with following(session) as follower:
        id_ = await follower.begin("generate_image", prompt="three foxes", stream=True, **arguments)
        while (task := await follower.ask("tasks/get", id_))["status"] == "working":
            messages.add(task.get("statusMessage"))
            await anyio.sleep(0.02)
    assert len(answer(CallToolResult.model_validate(task["result"]))["images"]) == 3
    assert any(message and "http" in message for message in messages)


async def test_cancelling_ends_our_interest_and_leaves_the_task(session: Session, sandbox: Sandbox) -> None:
    """It is not looked up any more; the same call gets it, and is not billed."""
    sandbox.seconds = 1
    async with following(session) as follower:
        id_ = await follower.begin("generate_image", prompt="a fox")
        acknowledged = await follower.ask("tasks/cancel", id_)
        assert not {"taskId", "status", "result", "error"} & acknowledged.keys()
        assert (await follower.end(id_))["status"] == "cancelled"
        seen = len(look_ups(sandbox))
        await anyio.sleep(0.3)
        assert len(look_ups(sandbox)) == seen
        assert await follower.status(id_) == "cancelled"
        with anyio.fail_after(2):  # whether its client is still there is no question
            again = await follower.begin("generate_image", prompt="a fox")
        result = await follower.result(again)
        assert answer(result)["task_id"] == id_
    assert len(submits(sandbox)) == 1


async def test_cancelling_what_has_ended_changes_nothing(session: Session) -> None:
    """It is acknowledged all the same."""
    async with following(session) as follower:
        id_ = await follower.begin("generate_image", prompt="a fox")
        await follower.end(id_)
        await follower.ask("tasks/cancel", id_)
        assert await follower.status(id_) == "completed"


async def test_answers_that_nobody_asked_for_are_acknowledged(session: Session) -> None:
    """No task of this server ever asks for input."""
    async with following(session) as follower:
        id_ = await follower.begin("generate_image", prompt="a fox")
        assert "status" not in await follower.ask("tasks/update", id_, inputResponses={"x": {}})


@pytest.mark.parametrize("method", ["tasks/get", "tasks/cancel", "tasks/update"])
async def test_unknown_tasks_are_refused(session: Session, method: str) -> None:
    """With the code for wrong parameters."""
    async with following(session) as follower:
        with pytest.raises(MCPError) as caught:
            await follower.ask(method, "nobody-knows-it", inputResponses={})
    assert caught.value.code == -32602


@pytest.mark.parametrize("method", ["tasks/get", "tasks/cancel", "tasks/update"])
async def test_who_did_not_declare_it_is_told_what_is_missing(session: Session, method: str) -> None:
    """Before anything is looked up."""
    async with session.open() as client:
        with pytest.raises(MCPError) as caught:
            await Follower(client).ask(method, "any", inputResponses={})
    assert caught.value.code == -32021
    assert EXTENSION in caught.value.data["requiredCapabilities"]["extensions"]


@pytest.mark.parametrize("method", ["tasks/list", "tasks/result"])
async def test_methods_of_the_older_tasks_are_gone(session: Session, method: str) -> None:
    """They were an experiment of the revision before."""
    async with following(session) as follower:
        with pytest.raises(MCPError) as caught:
            await follower.ask(method, "any")
    assert caught.value.code == -32601


async def test_however_many_ask_elsewhere_pictures_are_saved_once(
    table: ModelTable, upstream: str, tmp_path: Path
) -> None:
    """Questions that come together are one look-up."""
    async with following(Session(table, upstream)) as follower:
        id_ = await follower.begin("generate_image", prompt="a fox")
        await follower.end(id_)
    async with following(
        Session(table, upstream, defaults=ToolDefaults(20, local=LocalFiles((), tmp_path)))
    ) as follower:
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(follower.status, id_)
        await follower.end(id_)
    assert len(list(tmp_path.iterdir())) == 1


async def test_another_process_answers_for_a_task(table: ModelTable, upstream: str, sandbox: Sandbox) -> None:
    """Tasks live upstream: any replica, or the server after a restart."""
    sandbox.seconds = 0.5
    async with following(Session(table, upstream)) as follower:
        id_ = await follower.begin("generate_image", prompt="a fox")
    async with following(Session(table, upstream)) as follower:
        assert answer(await follower.result(id_))["task_id"] == id_
    async with following(Session(table, upstream)) as follower:
        assert await follower.status(id_) == "completed"  # at once: it had ended long before
    assert len(submits(sandbox)) == 1


async def test_a_call_that_is_repeated_is_another_one_once_its_result_was_fetched(
    session: Session, sandbox: Sandbox
) -> None:
    """And while somebody still asks for it."""
    sandbox.seconds = 0.3
    async with following(session) as follower:
        first = await follower.begin("generate_image", prompt="a fox")
        second = await follower.begin("generate_image", prompt="a fox")
        await follower.end(first)
        await follower.end(second)
        third = await follower.begin("generate_image", prompt="a fox")
    assert len({first, second, third}) == len(submits(sandbox)) == 3


@pytest.mark.parametrize("declared", [True, False])
async def test_a_call_that_fails_after_it_was_accepted_is_not_paid_twice(
    session: Session, sandbox: Sandbox, declared: bool
) -> None:
    """Who was told of the error and makes the call again gets the task of the first, with the extension or without."""
    sandbox.seconds = 1

    async def made(follower: Follower) -> CallToolResult:
        found = await follower.call("generate_image", prompt="a fox")
        return found if isinstance(found, CallToolResult) else await follower.result(found.task_id)

    async def revoke() -> None:
        while not sandbox.jobs:  # noqa: ASYNC110
            await anyio.sleep(0.02)
        sandbox.revoked.add(TOKEN)

    async with Client(session.server, extensions=[Declared()] if declared else []) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(revoke)
            refused = await made(Follower(client))
        sandbox.revoked.clear()
        result = await made(Follower(client))
    assert answer(refused)["error"]["code"] == "invalid_token"
    assert answer(result)["task_id"] == answer(refused)["task_id"]
    assert len(submits(sandbox)) == 1


async def test_a_client_that_leaves_before_it_hears_of_its_task_can_call_again(
    session: Session, sandbox: Sandbox
) -> None:
    """The same call gets the task of the first."""
    prompt = "a fox [sandbox:hang=0.6]"
    async with following(session) as follower:
        with anyio.move_on_after(0.3):
            await follower.begin("generate_image", prompt=prompt)
        result = await follower.result(await follower.begin("generate_image", prompt=prompt))
    assert "broken off" in text(result)
    assert len(submits(sandbox)) == 1


@pytest.mark.parametrize("seconds", [0.2, 5], ids=["finished", "running"])
async def test_a_client_that_gives_a_task_up_and_calls_again_pays_once(
    table: ModelTable, upstream: str, sandbox: Sandbox, seconds: float
) -> None:
    """It says so to nobody, as clients do whose time is up: it asks no more, and the call is here soon after."""
    sandbox.seconds = seconds
    async with following(Session(table, upstream, timing=Timing(join_after=0.2))) as follower:
        id_ = await follower.begin("generate_image", prompt="a fox")
        await follower.status(id_)
        await anyio.sleep(0.3)
        assert await follower.begin("generate_image", prompt="a fox") == id_
    assert len(submits(sandbox)) == 1


async def test_while_a_client_asks_the_same_call_is_another_one(
    table: ModelTable, upstream: str, sandbox: Sandbox
) -> None:
    """Within the time for variations."""
    sandbox.seconds = 1
    session = Session(table, upstream, timing=Timing(join_after=60))
    async with following(session) as follower, anyio.create_task_group() as group:
        first = await follower.begin("generate_image", prompt="a fox")
        await follower.status(first)
        group.start_soon(follower.end, first)
        with anyio.fail_after(15):
            assert await follower.begin("generate_image", prompt="a fox") != first
    assert len(submits(sandbox)) == 2


async def test_a_client_that_left_too_soon_can_ask_for_the_task_all_the_same(
    session: Session, sandbox: Sandbox
) -> None:
    """It has the id from somewhere else, and is not told for ever that it goes on."""
    sandbox.seconds = 0.1
    async with following(session) as follower:
        with anyio.move_on_after(0.2):
            await follower.begin("generate_image", prompt="a fox [sandbox:hang=0.4]")
        await anyio.sleep(0.4)
        await follower.result(next(iter(sandbox.jobs)))


async def test_a_call_that_is_made_again_saves_its_pictures_once(
    table: ModelTable, upstream: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    """The call whose client was silent ends as soon as another has its task."""
    sandbox.seconds = 1.5
    defaults = ToolDefaults(20, local=LocalFiles((), tmp_path))
    async with following(Session(table, upstream, defaults=defaults, keeping=Keeping(silence=0.3))) as follower:
        first = await follower.begin("generate_image", prompt="a fox")
        await anyio.sleep(0.6)
        assert await follower.begin("generate_image", prompt="a fox") == first
        assert "path" in answer(await follower.result(first))["images"][0]
        await anyio.sleep(0.3)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.fixture(params=[True, False], ids=["journal", "memory"])
def journal(request: pytest.FixtureRequest) -> Journal | None:
    return Journal(IN_MEMORY) if request.param else None


KEY = "the same call"


def attempts_of(journal: Journal | None) -> Attempts:
    timing = Timing(join_after=60, poll=0.01)
    return Attempts(SQLiteAttempts(journal, timing) if journal else None, timing=timing)


async def claimed(attempts: Attempts) -> str | None:
    """The task that an identical call gets."""
    async with attempts.attempt() as attempt:
        claim = await attempt.claim(KEY, 0)
    return claim.task_id if claim else None


def picture(attempts: Attempts) -> Work:
    """A call that is accepted, and over soon after."""

    async def work(call: BackgroundCall) -> str:
        async with attempts.attempt(deliver_later=True) as call.attempt:
            assert await call.attempt.claim(KEY, 0) is None
            await call.attempt.accepted(Task("t-1"))
            call.accept(Task("t-1"))
        return "a result"

    return work


async def test_a_client_that_asks_no_more_can_call_again(journal: Journal | None) -> None:
    """After a while its task is anybody's who makes the same call; not before, and not twice."""
    attempts = attempts_of(journal)
    async with open_background_calls(Keeping(silence=1.5)) as calls:
        await calls.start("caller", picture(attempts))
        assert await claimed(attempts) is None
        await anyio.sleep(2.2)
        assert await claimed(attempts) == "t-1"
        assert await claimed(attempts) is None


async def test_what_is_cancelled_stays_so_although_it_comes_to_its_end(journal: Journal | None) -> None:
    """What could no longer be broken off is left as well: its client was told that the same call gets it."""
    attempts = attempts_of(journal)

    async def work(call: BackgroundCall) -> str:
        result: str = await picture(attempts)(call)
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.2)
        return result

    async with open_background_calls() as calls:
        call = await calls.start("caller", work)
        await anyio.sleep(0.1)
        call.cancel()
        await call.over.wait()
        await anyio.sleep(0.1)
        assert call.result is None
        assert await claimed(attempts) == "t-1"


async def test_a_result_that_is_fetched_late_is_nobody_elses_any_more(journal: Journal | None) -> None:
    """Its client was slow, not gone."""
    attempts = attempts_of(journal)
    async with open_background_calls(Keeping(silence=0.5)) as calls:
        await calls.start("caller", picture(attempts))
        await anyio.sleep(1)
        call = calls.find("caller", "t-1")
        assert call is not None
        assert call.result == "a result"
        await calls.delivered(call)
        assert await claimed(attempts) is None


async def test_who_has_its_result_may_be_silent(journal: Journal | None) -> None:
    """Nothing is left then: whoever makes the same call wants another picture."""
    attempts = attempts_of(journal)
    async with open_background_calls(Keeping(silence=0.3)) as calls:
        call = await calls.start("caller", picture(attempts))
        await call.over.wait()
        await calls.delivered(call)
        await anyio.sleep(1)
        assert await claimed(attempts) is None


async def test_a_call_that_was_claimed_holds_nothing(journal: Journal | None) -> None:
    """It had ended, and its result was not fetched: its process has no lease to renew for it any more."""
    attempts = attempts_of(journal)

    async def again(call: BackgroundCall) -> None:
        async with attempts.attempt(deliver_later=True) as call.attempt:
            claim = await call.attempt.claim(KEY, 0)
            assert claim
            call.accept(Task(claim.task_id))

    async with open_background_calls() as calls:
        first = await calls.start("caller", picture(attempts))
        await first.over.wait()
        await attempts.cancel("", None)
        second = await calls.start("caller", again)
        await second.over.wait()
        await calls.delivered(second)
        await anyio.sleep(0.1)
        assert attempts._owner.open_calls == set()


async def test_a_server_that_stops_leaves_its_tasks_to_the_next(
    table: ModelTable, upstream: str, sandbox: Sandbox
) -> None:
    """The same call, made again there, gets the task."""
    sandbox.seconds = 1
    journal, shutdown = Journal(IN_MEMORY), Shutdown(2)
    async with following(Session(table, upstream, journal=journal, shutdown=shutdown)) as follower:
        id_ = await follower.begin("generate_image", prompt="a fox")
        shutdown.request()
        await anyio.sleep(0.2)
        assert await follower.status(id_) == "working"
    again = await Session(table, upstream, journal=journal).call("generate_image", prompt="a fox")
    assert answer(again)["task_id"] == id_
    assert len(submits(sandbox)) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize(("end", "status"), ENDS, ids=["closed stdin", "SIGTERM", "SIGINT"])
def test_a_process_that_ends_saves_what_is_there(
    switch: Switch, sandbox: Sandbox, tmp_path: Path, end: Callable[[subprocess.Popen[str]], None], status: int
) -> None:
    """The picture is made, and on its way to the disk of a client that does not wait for it."""
    fetched = threading.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith("/pictures"):
            fetched.set()
            await anyio.sleep(1)
        await sandbox.app(scope, receive, send)

    switch.app = slow
    server = Process(cwd=tmp_path, env=environment(switch.address, tmp_path))
    arguments = {"prompt": "a fox", "save_to": str(tmp_path / "fox.jpg")}
    params = {"name": "generate_image", "arguments": arguments, "_meta": META}
    assert server.ask("tools/call", params)[-1]["result"]["resultType"] == "task"
    assert fetched.wait(15)
    end(server.process)
    assert "Traceback" not in server.process.communicate(timeout=20)[1]
    assert server.process.returncode == status
    assert (tmp_path / "fox.jpg").stat().st_size > 0


async def test_a_call_that_breaks_after_it_was_accepted_is_a_failed_task() -> None:
    """Whoever asks is told; the server goes on."""

    async def work(call: BackgroundCall) -> str:
        call.accept(Task("t-1"))
        raise RuntimeError("unforeseen")

    async with open_background_calls() as calls:
        call = await calls.start("caller", work)
        await call.over.wait()
        assert isinstance(call.error, RuntimeError)
        with pytest.raises(ValueError, match="before"):
            await calls.start("caller", before)


async def before(_: BackgroundCall) -> str:
    raise ValueError("before anything was accepted")


async def test_results_are_kept_for_a_while() -> None:
    """As long as they are asked for, and some time afterwards."""

    async def work(call: BackgroundCall) -> str:
        call.accept(Task("t-1"))
        return "a result"

    async with open_background_calls(Keeping(silence=0.1, result=0.6)) as calls:
        await calls.start("caller", work)
        for _ in range(4):
            await anyio.sleep(0.3)
            assert calls.find("caller", "t-1")
        await anyio.sleep(1)
        assert calls.find("caller", "t-1") is None


async def test_what_is_kept_has_no_token(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results stay for longer than calls do."""
    kept: list[BackgroundCalls] = []

    @asynccontextmanager
    async def opened(keeping: Keeping) -> AsyncIterator[BackgroundCalls]:
        async with open_background_calls(keeping) as calls:
            kept.append(calls)
            yield calls

    monkeypatch.setattr("mcp_seedream.server.runtime.open_background_calls", opened)
    async with following(session) as follower:
        id_ = await follower.begin("generate_image", prompt="a fox")
        await follower.end(id_)
        [key] = kept[0]._calls
        assert key[1] == id_
        assert TOKEN not in (key[0], kept[0]._calls[key].caller)


@pytest.mark.parametrize("size", [0, 40_000], ids=["short", "long"])
async def test_only_so_many_results_are_kept(size: int) -> None:
    """The oldest go first; they can be had from the upstream. Short ones take room, too."""

    async def work(call: BackgroundCall) -> str:
        call.accept(Task(f"t-{len(started)}"))
        call.size = size
        return "a result"

    started: list[BackgroundCall] = []
    async with open_background_calls(Keeping(max_bytes=5 * (1000 + size) // 2, overhead=1000)) as calls:
        for _ in range(3):
            call = await calls.start("caller", work)
            await call.over.wait()
            started.append(call)
        await anyio.lowlevel.checkpoint()
        assert [calls.find("caller", f"t-{n}") is not None for n in range(3)] == [False, True, True]


@pytest.fixture
def endpoint(table: ModelTable, upstream: str) -> Iterator[str]:
    """A hosted server's endpoint."""
    session = Session(table, upstream, token_of=bearer_token)
    with serving(build_app(session.server, read_settings())) as address:
        yield f"{address}/mcp"


def post(endpoint: str, method: str, params: dict[str, Any], token: str = "a", **headers: str) -> dict[str, Any]:
    """A request as any client would send it, and its answer."""
    sent = {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": MODERN,
        "mcp-method": method,
        "authorization": f"Bearer {token}",
        **({"mcp-name": params["name"]} if "name" in params else {}),
        **headers,
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": META}}
    reply = httpx.post(endpoint, json=body, headers=sent, timeout=30)
    data = reply.text if reply.text.startswith("{") else reply.text.rpartition("data: ")[2]
    message: dict[str, dict[str, Any]] = json.loads(data)
    return message.get("result") or message["error"]


@contextmanager
def limited(table: ModelTable, upstream: str, calls: int) -> Iterator[str]:
    """A hosted server's endpoint for callers who may ask for so much at once."""
    limits = CallerLimits(calls=calls, all_calls=10, generations=0, observer=Observer())
    session = Session(table, upstream, token_of=bearer_token, limits=limits)
    with serving(build_app(session.server, read_settings(), limits=limits)) as address:
        yield f"{address}/mcp"


CALL: dict[str, Any] = {"name": "generate_image", "arguments": {"prompt": "a fox"}}


def test_over_http_a_task_is_its_callers_alone(endpoint: str) -> None:
    """Whoever else asks is told that there is none, and can't cancel it."""
    created = post(endpoint, "tools/call", CALL)
    assert created["resultType"] == "task"
    about = {"taskId": created["taskId"]}
    assert post(endpoint, "tasks/get", about, "somebody-else")["code"] == -32602
    assert post(endpoint, "tasks/cancel", about, "somebody-else")["code"] == -32602
    assert post(endpoint, "tasks/get", about)["status"] in ("working", "completed")


def test_what_is_cancelled_at_another_replica_goes_on(table: ModelTable, upstream: str, sandbox: Sandbox) -> None:
    """Nobody there could keep what `cancelled` promises; wherever it is asked for, it is the same."""
    sandbox.seconds = 3
    with limited(table, upstream, 9) as here, limited(table, upstream, 9) as elsewhere:
        about = {"taskId": post(here, "tools/call", CALL)["taskId"]}
        assert post(elsewhere, "tasks/cancel", about)["resultType"] == "complete"
        assert {post(endpoint, "tasks/get", about)["status"] for endpoint in (here, elsewhere)} == {"working"}
        end = time() + 20
        for endpoint in (here, elsewhere):
            while (status := post(endpoint, "tasks/get", about)["status"]) == "working" and time() < end:
                sleep(0.1)
            assert status == "completed"


def test_the_header_must_name_the_same_task(endpoint: str) -> None:
    """Proxies route by it; who leaves it out is served all the same."""
    created = post(endpoint, "tools/call", CALL)
    about = {"taskId": created["taskId"]}
    assert post(endpoint, "tasks/get", about, **{"mcp-name": "another"})["code"] == -32020
    assert post(endpoint, "tasks/get", about, **{"mcp-name": created["taskId"]})["taskId"] == created["taskId"]
    assert post(endpoint, "tasks/get", about)["taskId"] == created["taskId"]


def test_so_many_tasks_of_a_caller_go_on(table: ModelTable, upstream: str, sandbox: Sandbox) -> None:
    """Whoever may make two calls at once can't leave hundreds behind; how far they are can be asked all the same."""
    sandbox.seconds = 30
    with limited(table, upstream, 2) as endpoint:
        begun = [post(endpoint, "tools/call", CALL) for _ in range(2)]
        assert [task["resultType"] for task in begun] == ["task", "task"]
        refused = post(endpoint, "tools/call", CALL)
        assert refused["structuredContent"]["error"]["code"] == "too_many_requests"
        assert post(endpoint, "tools/call", CALL, "another")["resultType"] == "task"
        for task in begun:
            assert post(endpoint, "tasks/get", {"taskId": task["taskId"]})["status"] == "working"
        assert post(endpoint, "tasks/cancel", {"taskId": begun[0]["taskId"]})["resultType"] == "complete"
        assert post(endpoint, "tools/call", CALL)["taskId"] == begun[0]["taskId"]
    assert len(submits(sandbox)) == 3


def test_a_task_takes_no_room_from_requests(table: ModelTable, upstream: str, sandbox: Sandbox) -> None:
    """Whoever may make one call at a time can begin a task, and ask for it, here and at another replica."""
    sandbox.seconds = 30
    with limited(table, upstream, 1) as here, limited(table, upstream, 1) as elsewhere:
        ids = [post(endpoint, "tools/call", CALL)["taskId"] for endpoint in (here, elsewhere)]
        for endpoint in (here, elsewhere):
            assert [post(endpoint, "tasks/get", {"taskId": id_})["status"] for id_ in ids] == ["working"] * 2


@pytest.mark.parametrize("id_", ["", " ", "a\x00b", "a\nb", "../..", "x" * 1000, 7, None, ["a"]])
def test_what_is_no_id_is_refused(endpoint: str, id_: object) -> None:
    """With the code for wrong parameters."""
    assert post(endpoint, "tasks/get", {"taskId": id_})["code"] == -32602


def test_the_server_says_that_it_has_tasks(endpoint: str) -> None:
    """Where clients look for it."""
    found = post(endpoint, "server/discover", {})
    assert EXTENSION in found["capabilities"]["extensions"]
