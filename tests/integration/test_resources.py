"""The resources and the instructions, through an MCP client."""

from __future__ import annotations

import json
import logging
import re
from typing import Any
from urllib.parse import quote

import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, TextResourceContents

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.generation.journal import IN_MEMORY, Journal
from mcp_seedream.server.resources import prompt_guide
from tests.conftest import Session, only
from tests.support.models import PRO, SEEDEDIT, T2I, V5
from tools import documents

pytestmark = pytest.mark.anyio


async def read(session: Session, mode: str, uri: str) -> TextResourceContents:
    async with session.open(mode) as client:
        page = (await client.read_resource(uri)).contents[0]
    assert isinstance(page, TextResourceContents)
    return page


async def test_what_is_listed(table: ModelTable, upstream: str, mode: str) -> None:
    """Each with title and description, and in the documents."""
    async with Session(table, upstream, journal=Journal(IN_MEMORY)).open(mode) as client:
        resources = (await client.list_resources()).resources
        templates = (await client.list_resource_templates()).resource_templates
    found = {resource.uri: resource.mime_type for resource in resources}
    assert found == {
        "seedream://models": "text/markdown",
        "seedream://models.json": "application/json",
        "seedream://guide": "text/markdown",
        "seedream://tasks": "text/plain",
        "ui://seedream/gallery": "text/html;profile=mcp-app",
    }
    assert [(each.uri_template, each.mime_type) for each in templates] == [("seedream://models/{id}", "text/markdown")]
    assert all(resource.title and resource.description for resource in resources)
    assert all(template.title and template.description for template in templates)
    page = documents.TOOLS.read_text("utf-8")
    assert all(f"`{uri}`" in page for uri in (*found, templates[0].uri_template))


async def test_the_models(session: Session, table: ModelTable, mode: str) -> None:
    """The table as a document."""
    page = await read(session, mode, "seedream://models")
    assert all(f"`{model.id}`" in page.text for model in table.models)


async def test_the_models_as_json(session: Session, table: ModelTable, mode: str) -> None:
    """Every model and parameter of the table, with its bounds and defaults; nothing is null."""
    page = await read(session, mode, "seedream://models.json")
    assert page.mime_type == "application/json"
    assert "null" not in page.text
    found: dict[str, Any] = json.loads(page.text)
    assert [model["id"] for model in found["models"]] == list(table.by_id)
    assert list(found["parameters"]) == list(table.parameters)
    models = {model["id"]: model for model in found["models"]}
    assert models[SEEDEDIT]["tasks"] == ["edit"]
    assert models[T2I]["tasks"] == ["generate"]
    assert (models[T2I]["sides"], models[T2I]["input_images"]) == ({"minimum": 512, "maximum": 2048}, 0)
    assert models[V5]["pixels"] == {"minimum": 3_686_400, "maximum": 16_777_216}
    assert models[V5]["sizes"] == ["2K", "3K", "4K"]
    assert models[V5]["refused_sizes"] == ["1K", "adaptive"]
    assert models[V5]["price"] == {"usd": [0.04], "date": "2026-04-01"}
    assert (models[T2I]["withdrawn"], models[PRO]["typical_seconds"]) == ("2026-08-05", 120)
    assert (models[PRO]["name"], models[PRO]["label"]) == ("Seedream 5.0 Pro", "Pro")
    assert models[PRO]["parameters"]["background"] == {
        "values": ["transparent", "opaque"],
        "tasks": ["edit"],
        "input_images": 1,
    }
    assert models[SEEDEDIT]["parameters"]["guidance_scale"] == {"minimum": 1, "maximum": 10, "default": 5.5}
    assert found["parameters"]["tools"]["list"] is True
    assert found["limits"] == {"aspect_ratio": 16, "images_in_and_out": 15}


@pytest.mark.parametrize("spelling", [PRO, "Seedream 5.0 Pro", "pro", PRO.upper()])
async def test_one_model(session: Session, mode: str, spelling: str) -> None:
    """By id, name or short name, whatever its letter case: what it takes, and nothing of the others."""
    text = (await read(session, mode, f"seedream://models/{quote(spelling)}")).text
    assert text.startswith(f"# Seedream 5.0 Pro\n\n`{PRO}`")
    assert "921,600 to 4,624,220 pixels" in text
    assert "| jpeg, png; default jpeg |" in text
    assert "`layer_decomposition`" in text
    assert "`guidance_scale`" not in text


async def test_every_model_has_a_page(session: Session, table: ModelTable, mode: str) -> None:
    """With the parameters it takes."""
    for model in table.models:
        text = (await read(session, mode, f"seedream://models/{model.id}")).text
        taken = {name for name in table.parameters if table.rule(model, name)}
        assert set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) == taken


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("seedream://models/doubao-seedream-5-0-prow", f"The nearest is Seedream 5.0 Pro ({PRO})"),
        ("seedream://models/seededit%204", f"The nearest is SeedEdit 3.0 ({SEEDEDIT})"),
        ("seedream://models/" + "x" * 5000, "The nearest is"),
        ("seedream://models/%ff", "The nearest is"),
        ("seedream://models/", "There is no model ''"),
        ("seedream://models/..%2Fmodels", "Unknown resource"),
        ("seedream://nothing", "Unknown resource"),
    ],
)
async def test_an_unknown_one(
    session: Session, mode: str, uri: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An error that names the nearest, and no traceback."""
    async with session.open(mode) as client:
        with caplog.at_level(logging.INFO), pytest.raises(MCPError, match=re.escape(told)) as caught:
            await client.read_resource(uri)
    assert caught.value.code == INVALID_PARAMS
    assert not [record for record in caplog.records if record.exc_info]


async def test_the_guide(session: Session, table: ModelTable, mode: str) -> None:
    """At most 3 KB; whatever it says of models is the table's."""
    text = (await read(session, mode, "seedream://guide")).text
    assert len(text.encode()) <= 3000
    assert "`sequential_image_generation: auto`" in text
    assert f"at most {table.upstream_limits.images_in_and_out} together" in text
    for model in table.models_for("edit"):
        assert model.name in text


def test_the_guide_of_another_table(table: ModelTable) -> None:
    """Without models for sets or layers it says nothing of them."""
    few = only(table, V5, SEEDEDIT)
    assert "Seedream 5.0 Pro" not in prompt_guide(few)
    assert "may be left out" not in prompt_guide(few)
    assert "## Sets" in prompt_guide(few)
    assert "## Sets" not in prompt_guide(only(table, T2I, SEEDEDIT))


async def test_the_instructions(table: ModelTable, upstream: str, mode: str) -> None:
    """A few lines; only a server with a journal can list the newest tasks."""
    async with Session(table, upstream).open(mode) as client:
        hosted = client.instructions
    async with Session(table, upstream, journal=Journal(IN_MEMORY)).open(mode) as client:
        local = client.instructions
    assert hosted is not None
    assert local is not None
    for word in ("generate_image", "edit_image", "get_task", "pending has not failed", "seedream://guide"):
        assert word in hosted
    assert "without an id" not in hosted
    assert local.startswith(hosted)
    assert "get_task without an id lists the newest tasks" in local
    assert len(local) <= 900
