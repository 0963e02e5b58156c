"""A new model needs one new entry in the table and no other change."""

from __future__ import annotations

import io
import math
from importlib.resources import files
from pathlib import Path

import httpx
import pytest
from mcp_types import PromptReference
from PIL import Image

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.catalog.table_file import read_table
from mcp_seedream.sandbox.app import Sandbox, running
from tests.conftest import Session, answer, submits, text
from tools import documents

pytestmark = pytest.mark.anyio

ENTRY = """
[[models]]
id = "doubao-seedream-9-0-mural-270101"
label = "Mural"
name = "Seedream 9.0 Mural"
best_for = "walls"
generate = true
max_images = 3
sizes = ["2.5K", "panorama"]
pixels = [100_000, 9_000_000]
[models.parameters]
seed = { minimum = 0, maximum = 99 }
stream = { default = false }
background = { values = ["brick"], max_images = 2, sizes = ["fresco"] }
"""
MURAL = "doubao-seedream-9-0-mural-270101"


@pytest.fixture
def table(tmp_path: Path) -> ModelTable:
    path = tmp_path / "models.toml"
    path.write_text(files("mcp_seedream.catalog").joinpath("models.toml").read_text("utf-8") + ENTRY, "utf-8")
    return read_table(path)


@pytest.fixture
def sandbox(table: ModelTable) -> Sandbox:
    return Sandbox(table, record=True, seconds=0.1)


async def test_it_is_in_the_schemas(session: Session) -> None:
    """The schemas have its id, size and values, and name it in their notes."""
    async with session.open() as client:
        generate, edit, _ = (tool.input_schema["properties"] for tool in (await client.list_tools()).tools)
    assert MURAL in generate["model"]["enum"]
    assert MURAL in edit["model"]["enum"]
    assert "2.5K (Mural)" in generate["size"]["description"]
    assert "panorama (Mural)" in generate["size"]["description"]
    assert "fresco (with background)" in edit["size"]["description"]
    assert edit["background"]["enum"] == ["transparent", "opaque", "brick"]
    assert "Only Mural" in generate["seed"]["description"]
    assert "Mural: 3" in edit["image"]["description"]


async def test_it_is_checked_chosen_and_drawn(session: Session, sandbox: Sandbox) -> None:
    """Only this model supports a seed with a stream, and the sandbox draws its size."""
    result = await session.call("generate_image", prompt="a", seed=5, stream=True, size="2.5K")
    assert answer(result)["model"] == MURAL
    async with httpx.AsyncClient() as web:
        file = (await web.get(answer(result)["images"][0]["url"])).content
    assert math.prod(Image.open(io.BytesIO(file)).size) == pytest.approx(2560 * 2560, rel=0.05)
    result = await session.call(
        "edit_image", prompt="a", image="https://example.com/a.png", background="brick", size="Fresco"
    )
    assert answer(result)["model"] == MURAL
    result = await session.call("generate_image", prompt="a", seed=100, model=MURAL)
    assert "`seed` must be from 0 to 99" in text(result)
    assert [body["model"] for body in submits(sandbox)] == [MURAL, MURAL]


async def test_it_is_in_the_documents(session: Session, table: ModelTable) -> None:
    """The resources, completions and generated documents list it."""
    async with session.open() as client:
        page = getattr((await client.read_resource("seedream://models")).contents[0], "text", "")
        one = getattr((await client.read_resource("seedream://models/mural")).contents[0], "text", "")
        offered = await client.complete(PromptReference(name="create_image"), {"name": "model", "value": "mural"})
    assert f"`{MURAL}`" in page
    assert one.startswith("# Seedream 9.0 Mural\n")
    assert "2.5K, panorama, fresco (with `background`)" in one
    assert offered.completion.values == ["Seedream 9.0 Mural", MURAL]
    made = documents.model_parts(table)
    assert f"`{MURAL}`" in made["models"]
    assert "Mural: 0 to 99" in made["parameters"]
    assert "3.0, Mural" in made["tool_generate_image"]
    page = documents.with_parts(documents.MODELS.read_text("utf-8"), {"sandbox": "", **made})
    assert f"`{MURAL}`" in page


FIVE_AND_A_HALF = """
[[models]]
id = "doubao-seedream-5-5-270301"
label = "5.5"
name = "Seedream 5.5"
best_for = "transparent pictures from text"
generate = true
max_images = 10
sizes = ["2K"]
pixels = [921_600, 4_624_220]
input_megapixels = 12
input_aspect_ratio = 3
typical_seconds = 40
price = { usd = [0.05, 0.09], date = 2027-03-01 }
[models.parameters]
output_format = { values = ["jpeg", "png"], default = "jpeg" }
background = { values = ["transparent", "opaque"], operations = ["generate"] }
layer_decomposition = { default = false, operations = ["generate", "edit"], max_images = 1, sizes = ["2K"] }
"""


async def test_a_rule_of_one_model_is_expressed_by_its_entry(tmp_path: Path) -> None:
    """Transparent backgrounds and layers from text, which no other model supports."""
    path = tmp_path / "models.toml"
    path.write_text(files("mcp_seedream.catalog").joinpath("models.toml").read_text("utf-8") + FIVE_AND_A_HALF, "utf-8")
    table = read_table(path)
    sandbox = Sandbox(table, record=True, seconds=0)
    with running(sandbox) as upstream:
        session = Session(table, upstream)
        async with session.open() as client:
            generate, edit, _ = (tool.input_schema["properties"] for tool in (await client.list_tools()).tools)
        assert "Only 5.5" in generate["background"]["description"]
        assert "Only Pro" in edit["background"]["description"]
        asked = {"prompt": "a fox", "background": "transparent", "output_format": "png"}
        assert answer(await session.call("generate_image", **asked))["model"] == table.models[-1].id
        refused = await session.call("generate_image", **{**asked, "model": "Pro"})
        assert "`background` is not one of its parameters" in text(refused)
    assert [body["background"] for body in submits(sandbox)] == ["transparent"]
