"""Calls that were broken off while production refused their first choice, and made again: one picture, one bill."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.generation.journal import Journal
from mcp_seedream.media.local_files import LocalFiles
from mcp_seedream.server.tools import ToolDefaults
from tests.conftest import Session, Switch, answer
from tests.integration.test_http import LATEST, OLD
from tests.integration.test_repeated_calls_replicas import called, give_up, replica
from tests.support.production import LITE, V5, Place, Production

pytestmark = pytest.mark.anyio
PROMPT = "a fox"
MANY = 10_000
"""Look-ups of a task that does not end by itself."""


@pytest.fixture
def production(switch: Switch) -> Production:
    """It refuses the default model."""
    switch.app = production = Production(gone=[V5])
    return production


@pytest.fixture(params=["memory", "journal"])
def session(request: pytest.FixtureRequest, table: ModelTable, switch: Switch, tmp_path: Path) -> Session:
    if request.param == "memory":
        return Session(table, switch.address)
    return Session(
        table, switch.address, defaults=ToolDefaults(20, local=LocalFiles()), journal=Journal(tmp_path / "tasks")
    )


async def until(condition: Callable[[], bool]) -> None:
    """Until something is true in the upstream's thread."""
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.01)


class Moment:
    """A moment of a call whose first choice is refused; `reached` and then `passed` are awaited or called in turn."""

    def __init__(self, name: str, production: Production) -> None:
        self._name = name
        self._there = production
        if name.startswith("submit"):
            production.held = int(name[-1])
        else:
            production.looks = MANY

    async def reached(self) -> None:
        there = self._there
        if self._name.startswith("submit"):
            await until(lambda: len(there.submits) == there.held)
        elif self._name == "wait 1":
            await until(lambda: len(there.tasks) == 1 and there.looked > 0)
        else:
            first = "task-1" if there.place == "task" else ""
            if first:
                await until(lambda: first in there.tasks)
                there.tasks[first].looks = 1
            await until(lambda: f"task-{len(there.submits)}" in there.tasks and len(there.submits) == 2)
            before = there.looked
            await until(lambda: there.looked > before)

    def passed(self) -> None:
        self._there.released.set()
        self._there.looks = 1
        for task in self._there.tasks.values():
            task.looks = 1


MOMENTS: list[tuple[str, Place]] = [
    *[(name, "task") for name in ("submit 1", "wait 1", "submit 2", "wait 2")],
    *[(name, "answer") for name in ("submit 1", "submit 2", "wait 2")],
]


@pytest.mark.parametrize("mode", ["legacy", "auto"])
@pytest.mark.parametrize(("moment", "place"), MOMENTS)
async def test_a_call_that_was_broken_off_and_made_again(
    session: Session, production: Production, moment: str, place: Place, mode: str
) -> None:
    """Wherever it was, one task comes to a picture, and the second call has it."""
    production.place = place
    there = Moment(moment, production)
    found: list[dict[str, Any]] = []
    async with session.open(mode) as client:

        async def call() -> None:
            found.append(answer(await client.call_tool("generate_image", {"prompt": PROMPT})))

        async def first() -> None:
            with broken_off:
                await call()

        broken_off = anyio.CancelScope()
        async with anyio.create_task_group() as group:
            group.start_soon(first)
            await there.reached()
            broken_off.cancel()
            await anyio.sleep(0.1)  # the server hears of it
            group.start_soon(call)
            await anyio.sleep(0.1)
            there.passed()
    assert (found[0]["status"], found[0].get("model")) == ("succeeded", LITE), found
    assert [task.body["model"] for task in production.billed] == [LITE]


@pytest.fixture
def replicas(table: ModelTable, switch: Switch, redis: Any, redis_url: str) -> Iterator[tuple[str, str]]:
    """The endpoints of two servers that know of each other."""
    del redis
    with ExitStack() as stack:
        yield tuple(stack.enter_context(replica(table, switch.address, redis_url)) for _ in range(2))


@asynccontextmanager
async def calling(endpoint: str, revision: str) -> AsyncIterator[Callable[[], None]]:
    """A call of the id 7, as long as the context lasts; yields what closes its connection."""
    async with anyio.create_task_group() as group:
        group.start_soon(partial(called, endpoint, PROMPT, revision=revision, id_=7))
        yield group.cancel_scope.cancel


@pytest.mark.parametrize("way", ["notice here", "notice elsewhere", "closed"])
@pytest.mark.parametrize(("moment", "place"), MOMENTS)
async def test_it_is_made_again_at_another_server(
    replicas: tuple[str, str], production: Production, moment: str, place: Place, way: str
) -> None:
    """Wherever the news came that nobody waits for the first."""
    production.place = place
    there = Moment(moment, production)
    revision = LATEST if way == "closed" else OLD
    found: list[dict[str, Any]] = []

    async def again() -> None:
        found.append(await called(replicas[1], PROMPT, revision=revision, id_=8))

    async with calling(replicas[0], revision) as close:
        await there.reached()
        if way == "closed":
            close()
        else:
            await give_up(replicas[way == "notice elsewhere"], 7)
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as group:
                group.start_soon(again)
                await anyio.sleep(0.2)
                there.passed()
    assert (found[0]["status"], found[0].get("model")) == ("succeeded", LITE), found
    assert [task.body["model"] for task in production.billed] == [LITE]


@pytest.mark.parametrize("place", ["answer", "task"])
async def test_servers_learn_from_each_other(replicas: tuple[str, str], production: Production, place: Place) -> None:
    """What one was refused, the other does not try."""
    production.place = place
    for endpoint, prompt in zip(replicas, ("a fox", "a hare"), strict=True):
        assert (await called(endpoint, prompt, revision=LATEST))["status"] == "succeeded"
    assert [body["model"] for body in production.submits] == [V5, LITE, LITE]
