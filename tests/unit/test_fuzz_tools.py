"""Bad callers: whatever arguments come, a call is refused by name before anything is sent, or sent once and right."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client
from mcp_types import CallToolResult

from mcp_seedream.catalog.arguments import CallOrigin, image_call, task_call
from mcp_seedream.catalog.table import Operation
from mcp_seedream.core.errors import InvalidArguments
from mcp_seedream.media.local_files import LocalFiles
from mcp_seedream.server.server import build_server
from mcp_seedream.server.tools import ToolDefaults, make_tools
from mcp_seedream.upstream.client import SeedreamClient
from tests.conftest import TOKEN, Switch, answer, text
from tests.support.at_once import TABLE, AtOnce, examples
from tests.support.contract import faults
from tests.unit.test_requests import SIZES, values

Connect = Callable[[], SeedreamClient]
Call = tuple[str, dict[str, Any]]
"""A tool's name and its arguments."""

pytestmark = pytest.mark.anyio
IMAGE_TOOLS = ("generate_image", "edit_image")
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(22)).decode()
LONGEST_REFUSAL = 2000
"""Characters: a refusal names what is wrong, and does not send a caller's megabytes back."""


def schemas(defaults: ToolDefaults) -> dict[str, dict[str, Any]]:
    """The input schemas as a client sees them."""
    return {tool.name: tool.parameters for tool in make_tools(TABLE, defaults)}


SCHEMAS = schemas(ToolDefaults(0))
LOCAL = schemas(ToolDefaults(0, local=LocalFiles()))

# Strings: what each argument is for, what looks like it, and what nobody would send on purpose.
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=12) | st.sampled_from(
    ["", " ", "\0", "\ud800", "a\udfffb", "\u202eflip", "🦊👩‍👩‍👧", "\ufeff", "%s{0}", "__class__", "[", "x" * 9000]
)  # fmt: skip
LINKS = ["https://example.com/a.png", "HTTP://EXAMPLE.COM", "https://", "http://[", "https://a b\0", "//a", "ftp://a/b"]
PICTURES = [
    *LINKS, PNG, f"data:image/png;base64,{PNG}", f"data:image/png;a={'b' * 300};base64,{PNG}", "data:", "task:t1",
    "task:t1/2", "task:/1", "task:", f"task:{'t' * 9000}", "task:\0", "/etc/hostname", "~nobody/a.png", "file://%00",
]  # fmt: skip
IDS = ["t1", " t1 ", "t" * 201, "t\n1", "", "-", "../..", "a" * 200]
PATHS = [
    "out", "out/a.png", "~nobody/a", "file://other/a", "file:///%00", "C:\\a", "/mnt/data/" + "a" * 300 + "/b", "\0",
]  # fmt: skip
TEXTS = {
    "prompt": st.sampled_from(["a fox", "狐狸", "<b>&\"'\n"]) | ANY_TEXT,
    "image": st.lists(st.just(LINKS[0]) | st.sampled_from(PICTURES) | ANY_TEXT, min_size=1, max_size=14),
    "size": st.sampled_from([*SIZES, "2048 X 2048", "\N{ARABIC-INDIC DIGIT TWO}x1", "0x0", "1" * 5000 + "x1"])
    | ANY_TEXT,
    "callback_url": st.sampled_from(LINKS) | ANY_TEXT,
    "task_id": st.sampled_from(IDS) | ANY_TEXT,
    "task_ids": st.lists(st.sampled_from(IDS) | ANY_TEXT, max_size=50),
    "save_to": st.sampled_from(PATHS) | ANY_TEXT,
}

NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -(10**4000), 1e308, 2**63, -0.0])
LEAVES = st.none() | st.booleans() | NUMBERS | ANY_TEXT
KEYS = st.text(max_size=12) | st.sampled_from(
    ["type", "mode", "max_images", "__class__", "__proto__", "self", "ctx", "arguments"]
)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)


def nested(depth: int, *, keys: bool = False) -> Any:
    """A list in a list in a list, or objects."""
    found: Any = "x"
    for _ in range(depth):
        found = {"type": found} if keys else [found]
    return found


DEEP = st.builds(nested, st.sampled_from([3, 60, 190]), keys=st.booleans())
# Values spelled as text, as some models write them: JSON that holds anything, and what only looks like JSON.
SPELLED = st.sampled_from(
    ["[" * 50_000, '{"a":' * 50_000, "[NaN]", '["\\ud800"]', '{"\\ud800": 1}', "[1e999]", "1" * 6000, f"[{'1' * 6000}]"]
)
WILD = JSON | DEEP | SPELLED


def admitted(schema: Mapping[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments that a published schema admits: all that it requires, and a few of the others."""
    fields = {name: TEXTS.get(name, values(one)) for name, one in schema["properties"].items()}
    required = {name: fields.pop(name) for name in schema.get("required", [])}
    few = st.lists(st.sampled_from(sorted(fields)), unique=True, max_size=4)
    return few.flatmap(lambda names: st.fixed_dictionaries({**required, **{n: fields[n] for n in names}}))


def spoilt(schema: Mapping[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """The same, with some of them replaced by anything at all, or with names that no tool has."""
    names = st.sampled_from(sorted(schema["properties"]))
    anything = st.dictionaries(names | KEYS, WILD, min_size=1, max_size=4)
    return st.builds(lambda one, other: {**one, **other}, admitted(schema), anything)


CALLS = {
    (origin, tool, kind.__name__): kind(schema)
    for origin, tools in (("hosted", SCHEMAS), ("local", LOCAL))
    for tool, schema in tools.items()
    for kind in (admitted, spoilt)
}


def calls(kind: str, origin: str = "hosted") -> st.SearchStrategy[Call]:
    """Calls whose arguments the schemas of that origin admit, or spoilt ones."""
    return st.sampled_from(sorted(SCHEMAS)).flatmap(
        lambda tool: CALLS[origin, tool, kind].map(lambda arguments: (tool, arguments))
    )


@pytest.fixture
def upstream() -> AtOnce:
    return AtOnce()


@pytest.fixture
def connect(upstream: AtOnce, switch: Switch) -> Connect:
    switch.app = upstream
    return partial(SeedreamClient, switch.address)


@pytest.fixture
async def client(connect: Connect) -> AsyncIterator[Client]:
    """A client of a hosted server."""
    server = build_server(TABLE, connect, token_of=lambda _: TOKEN, defaults=ToolDefaults(0), look_interval=0.01)
    async with Client(server) as client:
        yield client


@pytest.fixture
async def local_client(connect: Connect, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """A client of a server that may read and save files, but only in a folder with nothing in it."""
    defaults = ToolDefaults(0, local=LocalFiles((tmp_path_factory.mktemp("pictures"),)))
    server = build_server(TABLE, connect, token_of=lambda _: TOKEN, defaults=defaults, look_interval=0.01)
    async with Client(server) as client:
        yield client


def check(tool: str, arguments: Mapping[str, Any], result: CallToolResult, upstream: AtOnce) -> None:
    """Refused by name with nothing sent, or sent once in a form that the contract accepts."""
    submits, look_ups = upstream.submits(), upstream.look_ups()
    upstream.requests.clear()
    for body in look_ups:
        assert all(0 < len(id_) <= 200 and id_.isprintable() for id_ in body.get("ids", [body.get("id")])), body
    if result.is_error:
        found = answer(result)["error"]
        assert found["code"] == "invalid_arguments", found
        known = {name for schema in LOCAL.values() for name in schema["properties"]}
        named = "|".join([*known, *map(re.escape, short(arguments))])
        assert re.search(f"`({named})", found["message"]), found
        assert len(text(result)) <= LONGEST_REFUSAL
        assert " object at 0x" not in text(result)
        assert submits == []
        assert look_ups == [] or tool == "edit_image", "only an input that is a task is looked up"
    elif tool in IMAGE_TOOLS:
        assert len(submits) == 1
        assert faults(submits[0]) == []
    else:
        assert (len(look_ups), submits) == (1, [])


def short(arguments: Mapping[str, Any]) -> list[str]:
    """Arguments' names as a refusal shows them."""
    return [name[:60].encode("utf-8", "replace").decode() for name in arguments]


@examples(300)
@given(call=calls("admitted"))
async def test_whatever_the_schemas_admit(client: Client, upstream: AtOnce, call: Call) -> None:
    """Through a client, to the wire: the schema is a promise, and the contract is the judge."""
    check(*call, await client.call_tool(*call), upstream)


@examples(200)
@given(call=calls("admitted", "local"))
async def test_whatever_the_schemas_admit_where_files_are_read(
    local_client: Client, upstream: AtOnce, call: Call
) -> None:
    """Paths to read and to save to, and the same promise."""
    check(*call, await local_client.call_tool(*call), upstream)


@examples(300)
@given(call=calls("spoilt"))
async def test_any_json(client: Client, upstream: AtOnce, call: Call) -> None:
    """Types, names and depths that no schema admits."""
    check(*call, await client.call_tool(*call), upstream)


@examples(200)
@given(call=calls("spoilt", "local"))
async def test_any_json_where_files_are_read(local_client: Client, upstream: AtOnce, call: Call) -> None:
    """The same, where a string may be a path."""
    check(*call, await local_client.call_tool(*call), upstream)


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("get_task", {"task_ids": ["t1", "t2"], "save_to": "file://other/a"}),
        ("get_task", {"task_ids": ["t\n1"]}),
        ("generate_image", {"prompt": "a", "save_to": "file:///%00"}),
        ("generate_image", {"prompt": "a", "save_to": "/mnt/data/" + "a" * 300 + "/b"}),
        ("generate_image", {"prompt": "a", "callback_url": "HTTP://EXAMPLE.COM"}),
        ("generate_image", {"prompt": "a", "size": "x" * 9000}),
        ("generate_image", {"prompt": "a", "model": "x" * 9000}),
        ("generate_image", {"prompt": "a", "tools": [{"x" * 9000: 1}]}),
        ("generate_image", {"prompt": "a", "seed": 10**4400}),
        ("edit_image", {"prompt": "a", "image": "task:/1"}),
        ("edit_image", {"prompt": "a", "image": f"task:{'t' * 9000}"}),
        ("edit_image", {"prompt": "a", "image": PNG}),
    ],
)
async def test_what_once_went_wrong(
    local_client: Client, upstream: AtOnce, tool: str, arguments: dict[str, Any]
) -> None:
    """Found by the tests above, kept for good."""
    check(tool, arguments, await local_client.call_tool(tool, arguments), upstream)


@examples(300)
@given(call=calls("spoilt", "local") | calls("spoilt"), origin=st.sampled_from(["local", "hosted", "upstream"]))
def test_any_arguments(call: Call, origin: CallOrigin) -> None:
    """Unserialised, so with what JSON can't hold; nothing but InvalidArguments leaves."""
    tool, raw = call
    with suppress(InvalidArguments):
        if tool == "get_task":
            task_call(raw, wait_seconds=0, origin=origin, listing=True)
        else:
            operation: Operation = "edit" if tool == "edit_image" else "generate"
            image_call(TABLE, operation, raw, wait_seconds=0, origin=origin)
