"""The prompts and completions, through an MCP client."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, PromptReference, ResourceTemplateReference, TextContent

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.media.local_files import LocalFiles
from mcp_seedream.sandbox.app import Sandbox
from mcp_seedream.server.prompts import Prompts
from mcp_seedream.server.resources import MODEL
from mcp_seedream.server.tools import ToolDefaults
from tests.conftest import Session, answer, only, submits
from tests.integration.test_tools import picture
from tests.support.contract import faults
from tests.support.models import LITE, PRO, SEEDEDIT, T2I, V4, V5, V45
from tools import documents

pytestmark = pytest.mark.anyio


async def rendered(session: Session, mode: str, name: str, **filled: str) -> tuple[str, dict[str, Any]]:
    """The tool that the prompt's message names, and the arguments in it."""
    async with session.open(mode) as client:
        result = await client.get_prompt(name, filled)
    (message,) = result.messages
    assert message.role == "user"
    assert isinstance(message.content, TextContent)
    found = re.match(r"Call the tool `(\w+)` once.*?```json\n(.*?)\n```", message.content.text, re.DOTALL)
    assert found is not None
    return found[1], json.loads(found[2])


async def test_what_is_listed(session: Session, mode: str) -> None:
    """Everything has a title and a description; what a tool can settle is not asked for."""
    async with session.open(mode) as client:
        prompts = (await client.list_prompts()).prompts
    required = {p.name: [a.name for a in p.arguments or () if a.required] for p in prompts}
    assert required == {"create_image": ["prompt"], "edit_photo": ["image", "prompt"], "image_set": ["prompt"]}
    for prompt in prompts:
        assert {"model", "size"} <= {argument.name for argument in prompt.arguments or ()}
        assert prompt.title
        assert prompt.description
        assert all(argument.title and argument.description for argument in prompt.arguments or ())
        assert f"`{prompt.name}`" in documents.TOOLS.read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "filled", "tool", "arguments"),
    [
        ("create_image", {"prompt": "a fox"}, "generate_image", {"prompt": "a fox"}),
        (
            "create_image",
            {"prompt": ' a "door" ', "text": "{OPEN}", "model": "seedream 4.5", "size": "2k"},
            "generate_image",
            {"prompt": 'a "door"\nText in the picture: "{OPEN}"', "model": V45, "size": "2K"},
        ),
        (
            "edit_photo",
            {"image": "https://example.com/a.png", "prompt": "make it green", "keep": "the sky", "model": ""},
            "edit_image",
            {"prompt": "make it green\nKeep as it is: the sky", "image": ["https://example.com/a.png"]},
        ),
        (
            "edit_photo",
            {"image": '["task:t1/2", "https://example.com/a.png"]', "prompt": "join them"},
            "edit_image",
            {"prompt": "join them", "image": ["task:t1/2", "https://example.com/a.png"]},
        ),
        (
            "image_set",
            {"prompt": "四季", "count": "4", "model": "Lite"},
            "generate_image",
            {
                "prompt": "四季\nNumber of images: 4",
                "model": LITE,
                "sequential_image_generation": "auto",
                "sequential_image_generation_options": {"max_images": 4},
            },
        ),
        (
            "image_set",
            {"prompt": "seasons"},
            "generate_image",
            {"prompt": "seasons", "sequential_image_generation": "auto"},
        ),
    ],
)
async def test_a_message_names_the_tool_and_its_arguments(
    session: Session, mode: str, name: str, filled: dict[str, str], tool: str, arguments: dict[str, Any]
) -> None:
    """As the tool takes them."""
    assert await rendered(session, mode, name, **filled) == (tool, arguments)


async def test_what_a_message_asks_for_works(session: Session, sandbox: Sandbox, mode: str) -> None:
    """An agent that does as it is told gets its pictures."""
    tool, arguments = await rendered(session, mode, "image_set", prompt="seasons", count="3", size="4K")
    assert len(answer(await session.call(tool, **arguments))["images"]) == 3
    tool, arguments = await rendered(session, mode, "edit_photo", prompt="green", image=picture())
    assert answer(await session.call(tool, **arguments))["model"] == V5
    assert [faults(body) for body in submits(sandbox)] == [[], []]


@pytest.mark.parametrize(
    ("name", "filled", "told"),
    [
        ("draw", {}, "There is no prompt 'draw', only create_image, edit_photo, image_set."),
        ("", {}, "There is no prompt ''"),
        ("create_image", {}, "`prompt` is missing"),
        ("create_image", {"prompt": " "}, "`prompt` is missing"),
        ("create_image", {"prompt": "a", "style": "b"}, "'style' is not an argument of this prompt"),
        ("create_image", {"prompt": "a", "model": "6.0"}, "is not a model of Seedream"),
        ("create_image", {"prompt": "a", "model": "SeedEdit"}, "it can't generate from text alone"),
        ("create_image", {"prompt": "a", "size": "7K"}, "`size` '7K' must be"),
        ("edit_photo", {"prompt": "a"}, "`image` is missing"),
        ("edit_photo", {"prompt": "a", "image": "photo.jpg"}, "A hosted server reads no files"),
        ("image_set", {"prompt": "a", "count": "some"}, "`count` must be a whole number, not 'some'"),
        ("image_set", {"prompt": "a", "count": "16"}, "must be from 1 to 15"),
        ("image_set", {"prompt": "a", "count": "9" * 5000}, "`count` must be a whole number"),
        ("image_set", {"prompt": "a", "model": "Pro"}, "is not one of its parameters"),
    ],
)
async def test_what_can_not_work_is_told_at_once(
    session: Session, mode: str, name: str, filled: dict[str, str], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With the code for wrong parameters, and no traceback in the log."""
    async with session.open(mode) as client:
        with caplog.at_level(logging.INFO), pytest.raises(MCPError, match=re.escape(told)) as caught:
            await client.get_prompt(name, filled)
    assert caught.value.code == INVALID_PARAMS
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_local_server_takes_paths(table: ModelTable, upstream: str, mode: str) -> None:
    """As its tool does."""
    session = Session(table, upstream, defaults=ToolDefaults(local=LocalFiles()))
    tool, arguments = await rendered(session, mode, "edit_photo", prompt="green", image="~/photo.jpg")
    assert (tool, arguments["image"]) == ("edit_image", ["~/photo.jpg"])


def test_without_a_model_for_sets(table: ModelTable) -> None:
    """There is no prompt for them."""
    few = Prompts(only(table, T2I, SEEDEDIT))
    assert [prompt.name for prompt in few.definitions()] == ["create_image", "edit_photo"]


async def offered(
    session: Session, mode: str, ref: str, argument: str, typed: str = "", model: str | None = None
) -> list[str]:
    context = None if model is None else {"model": model}
    async with session.open(mode) as client:
        result = await client.complete(reference(ref), {"name": argument, "value": typed}, context_arguments=context)
    assert result.completion.total in (len(result.completion.values), None)
    return result.completion.values


def reference(to: str) -> PromptReference | ResourceTemplateReference:
    return ResourceTemplateReference(uri=to) if "://" in to else PromptReference(name=to)


@pytest.mark.parametrize(
    ("ref", "able"),
    [
        ("create_image", [V5, LITE, PRO, V45, V4, T2I]),
        ("edit_photo", [V5, LITE, PRO, V45, V4, SEEDEDIT]),
        ("image_set", [V5, LITE, V45, V4]),
        (MODEL, [V5, LITE, PRO, V45, V4, T2I, SEEDEDIT]),
    ],
)
async def test_models_that_can_do_it(session: Session, table: ModelTable, mode: str, ref: str, able: list[str]) -> None:
    """Name and id of each, in order of preference."""
    argument = "id" if ref == MODEL else "model"
    expected = [word for id_ in able for word in (table.by_id[id_].name, id_)]
    assert await offered(session, mode, ref, argument) == expected
    assert await offered(session, mode, ref, argument, "LITE") == ["Seedream 5.0 Lite", LITE]
    assert await offered(session, mode, ref, argument, "nothing like it") == []


async def test_what_begins_as_typed_comes_first(session: Session, mode: str) -> None:
    """Then what has it inside."""
    found = await offered(session, mode, "create_image", "model", " Seedream ")
    assert found[:6] == [word for word in found if word.startswith("Seedream")]
    assert len(found) == 12


@pytest.mark.parametrize(
    ("ref", "model", "typed", "sizes"),
    [
        ("create_image", "pro", "", ["1K", "1.5K", "2K"]),
        ("create_image", PRO, "1", ["1K", "1.5K"]),
        ("create_image", None, "", ["1K", "1.5K", "2K", "3K", "4K"]),
        ("create_image", "", "k", ["1K", "1.5K", "2K", "3K", "4K"]),
        ("image_set", None, "", ["1K", "2K", "3K", "4K"]),
        ("edit_photo", "SeedEdit 3.0", "", []),
        ("image_set", "Pro", "", ["1K", "2K", "3K", "4K"]),
        ("image_set", "unknown", "4", ["4K"]),
    ],
)
async def test_sizes_depend_on_the_model(
    session: Session, mode: str, ref: str, model: str | None, typed: str, sizes: list[str]
) -> None:
    """Without one that can do the prompt's task: the sizes of all that can."""
    assert await offered(session, mode, ref, "size", typed, model) == sizes


async def test_nothing_to_complete(session: Session, mode: str, caplog: pytest.LogCaptureFixture) -> None:
    """An argument that is anything has no completions; what does not exist is an error, without a traceback."""
    assert await offered(session, mode, "create_image", "prompt", "a") == []
    assert await offered(session, mode, MODEL, "size") == []
    async with session.open(mode) as client:
        for ref in ("draw", "seedream://tasks/{id}"):
            with pytest.raises(MCPError, match=f"There is no .*{ref[:4]}") as caught:
                await client.complete(reference(ref), {"name": "model", "value": ""})
            assert caught.value.code == INVALID_PARAMS
    assert not [record for record in caplog.records if record.exc_info]
