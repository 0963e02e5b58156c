"""The published schemas: equal to the snapshots, plain, and small. `pytest --snapshots` rewrites the snapshots."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import pytest
from jsonschema import Draft202012Validator

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.generation.journal import IN_MEMORY, Journal
from mcp_seedream.media.local_files import LocalFiles
from mcp_seedream.server.tools import ToolDefaults
from tests.conftest import Session

pytestmark = pytest.mark.anyio
SNAPSHOTS = Path(__file__).parent / "snapshots"


@pytest.fixture
async def listing(session: Session) -> dict[str, Any]:
    async with session.open("legacy") as client:
        return (await client.list_tools()).model_dump(mode="json", by_alias=True, exclude_none=True)


def compact(value: Any) -> int:
    """Return the size in bytes on the wire."""
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from nodes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from nodes(inner)


@pytest.mark.parametrize("name", ["generate_image", "edit_image", "get_task"])
async def test_a_tool_is_published_as_committed(
    listing: dict[str, Any], name: str, request: pytest.FixtureRequest
) -> None:
    """Changes of the published tools must be deliberate."""
    tool = next(tool for tool in listing["tools"] if tool["name"] == name)
    path = SNAPSHOTS / f"{name}.json"
    if request.config.getoption("--snapshots"):
        path.write_text(json.dumps(tool, indent=2, ensure_ascii=False) + "\n", "utf-8")
    assert tool == json.loads(path.read_text("utf-8"))


async def test_schemas_are_plain(listing: dict[str, Any]) -> None:
    """No combinators, references, null types, default keywords or generated titles; every array says of what.

    Nor `additionalProperties`, which google-genai takes for a schema: names are checked here, with better words.
    """
    for tool in listing["tools"]:
        for schema in (tool["inputSchema"], tool["outputSchema"]):
            Draft202012Validator.check_schema(schema)
            assert schema["type"] == "object"
            for node in nodes(schema):
                assert not {"anyOf", "oneOf", "allOf", "not", "$ref", "$defs", "default"} & set(node)
                assert "additionalProperties" not in node
                assert not isinstance(node.get("title"), str)
                assert node.get("type") != "null"
                assert node.get("type") != "array" or "items" in node


async def test_what_a_model_reads_is_small(listing: dict[str, Any]) -> None:
    """Names, descriptions and input schemas have at most 5,850 bytes, the whole answer 9,600."""
    read = sum(compact({key: tool[key] for key in ("name", "description", "inputSchema")}) for tool in listing["tools"])
    assert read <= 5850
    assert compact({"jsonrpc": "2.0", "id": 1, "result": listing}) <= 9600


async def test_a_local_server_reads_and_saves_files(table: ModelTable, upstream: str) -> None:
    """`save_to` and paths are published over stdio only, within the same size limits."""
    async with Session(table, upstream, defaults=ToolDefaults(local=LocalFiles())).open("legacy") as client:
        listing = (await client.list_tools()).model_dump(mode="json", by_alias=True, exclude_none=True)
    await test_what_a_model_reads_is_small(listing)
    await test_schemas_are_plain(listing)
    for tool in listing["tools"]:
        assert "save_to" in tool["inputSchema"]["properties"]
    assert listing["tools"][1]["inputSchema"]["properties"]["image"]["description"].startswith("Paths, ")


@pytest.mark.parametrize("local", [None, LocalFiles()])
async def test_the_whole_answer_is_small(table: ModelTable, upstream: str, mode: str, local: LocalFiles | None) -> None:
    """Including icons, and the server data that newer protocol revisions add to every answer."""
    session = Session(table, upstream, defaults=ToolDefaults(local=local), journal=Journal(IN_MEMORY))
    async with session.open(mode) as client:
        listing = (await client.list_tools()).model_dump(mode="json", by_alias=True, exclude_none=True)
    await test_what_a_model_reads_is_small(listing)


async def test_icons_and_titles(session: Session, mode: str) -> None:
    """The server and each tool have their own icon: well-formed SVG in a valid data URI."""
    async with session.open(mode) as client:
        server, tools = client.server_info, (await client.list_tools()).tools
    assert server is not None
    assert server.title == "Seedream"
    icons = [*(server.icons or ()), *(icon for tool in tools for icon in tool.icons or ())]
    assert len({icon.src for icon in icons}) == 4
    for icon in icons:
        head, _, path = icon.src.partition(",")
        assert head == "data:image/svg+xml"
        assert re.fullmatch(r"([\w.~!$&'()*+,;=:@/-]|%[0-9A-F]{2})+", path)
        assert ET.fromstring(unquote(path)).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314  (ours)


async def test_annotations(listing: dict[str, Any]) -> None:
    """Generating costs money and destroys nothing; get_task is read-only."""
    hints = {tool["name"]: tool["annotations"] for tool in listing["tools"]}
    for name in ("generate_image", "edit_image"):
        assert hints[name] == {
            "readOnlyHint": False,
            "destructiveHint": False,
            "idempotentHint": False,
            "openWorldHint": True,
        }
    assert hints["get_task"]["readOnlyHint"] is True
    assert all(tool["title"] for tool in listing["tools"])


async def test_parameters_are_the_apis_own(listing: dict[str, Any]) -> None:
    """All optional fields of the upstream that a model of the operation supports, and this server's own arguments."""
    both = {
        "prompt", "model", "size", "seed", "guidance_scale", "sequential_image_generation",
        "sequential_image_generation_options", "stream", "watermark", "output_format", "response_format", "tools",
        "optimize_prompt_options", "callback_url", "wait_seconds", "aspect_ratio",
    }  # fmt: skip
    generate, edit, _ = (set(tool["inputSchema"]["properties"]) for tool in listing["tools"])
    assert generate == both
    assert edit == both | {"image", "background", "layer_decomposition"}
