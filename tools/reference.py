"""The generated parts of docs/tools.md, from the tools' schemas and from calls to a server with the sandbox.

Ids, times, ports and folders differ in every run. They are replaced by constants, so that a test can compare the text.
"""

from __future__ import annotations

import json
import re
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from mcp import Client
from mcp_types import CallToolResult

from mcp_seedream.catalog.schemas import as_json
from mcp_seedream.catalog.table import ModelTable, Operation, Rule, number, or_list
from mcp_seedream.core.errors import SeedreamError
from mcp_seedream.generation.journal import IN_MEMORY, Journal
from mcp_seedream.media.local_files import LocalFiles
from mcp_seedream.sandbox.app import Sandbox, running
from mcp_seedream.server.server import build_server
from mcp_seedream.server.tools import ToolDefaults, make_tools
from mcp_seedream.upstream.client import SeedreamClient

Schema = dict[str, Any]
_SECONDS = 0.6
_HOME = "/home/you/Pictures"
_PORT = "http://127.0.0.1:8080"
_NOW, _UNTIL = "2026-11-23T09:00Z", "2026-11-24T09:00Z"
_FOX = "A red fox in fresh snow, low winter sun, loose watercolour"
_MEANINGS = {
    "status": "The state of the task. `pending` is not a failure: the task continues.",
    "task_id": "The id for `get_task`, and for `task:ID` in `image`.",
    "model": "The model that was used, whether named in the call or chosen.",
    "images": "The pictures, in order.",
    "images[].url": "The link. Missing if the picture came as data.",
    "images[].path": "The saved file. Over stdio only.",
    "images[].size": "WIDTHxHEIGHT, in pixels.",
    "images[].z_index": "Layers only: the position; 0 is the base.",
    "images[].name": "Layers only: the name.",
    "images[].description": "Layers only: the content.",
    "links_until": "When the links expire, in UTC. Missing with `--sandbox`, whose links end with the server.",
    "elapsed_seconds": "How long the task took, or has run so far.",
    "notes": "Remarks, for example about changes, ignored arguments, or failures.",
    "error": "Why there is no picture.",
    "error.code": "One of [the codes](#errors), or a code of the upstream.",
    "error.message": "The reason, and advice.",
    "error.retryable": "Whether the same call can succeed later without any change.",
    "tasks": "`get_task` for several tasks only: one object like this one for each task.",
}
"""The fields of a result. The output schema has only their types."""
_CODES = {
    "invalid_arguments": "An argument breaks a rule. The message names the rule and valid values. Nothing was sent.",
    "no_token": "The server has no API token, so nothing was sent; or AceDataCloud received none.",
    "invalid_token": "AceDataCloud rejects the token. The code may also be `token_expired` or `token_mismatched`.",
    "used_up": "The account's balance is used up. The same call works once it is topped up.",
    "too_many_requests": "A limit of this server or of AceDataCloud. The message says how long to wait.",
    "in_progress": "An identical call is being sent and has no task yet. This one was not sent.",
    "bad_request": "AceDataCloud rejects the request or refuses to make this picture.",
    "model_refused": "AceDataCloud does not offer the model, or no longer. The message names models that can be used.",
    "size_refused": "AceDataCloud does not accept the size for this model. The message names sizes that it accepts.",
    "not_found": "AceDataCloud has no such task for this token.",
    "unavailable": "AceDataCloud could not be reached, or a request failed that is safe to repeat.",
    "submission_uncertain": "The response was lost: the picture may have been made and billed.",
    "api_error": "AceDataCloud failed. The message says whether the picture may have been billed.",
    "unreadable_reply": "The response is not in the documented form, for example a proxy's error page.",
    "empty_result": "The task ended with neither a picture nor a reason.",
    "result_too_large": "The picture was requested as data over HTTP, and does not fit into a result.",
    "stopping": "The server is shutting down. Nothing was sent.",
    "internal_error": "A bug in this server. Its log has the details.",
}
"""The codes of failed calls, for readers who meet one."""
_UNSEEN = {
    "error", "configuration", "temporarily_unavailable", "vendor_failed", "invalid_client", "upstream_error",
    "key_not_checked",
}  # fmt: skip
"""Codes of errors that never end a call, or that are replaced by a code of the upstream."""


def tools(table: ModelTable) -> dict[str, str]:
    """The arguments of each tool, and the fields of results: generated parts by name."""
    local, hosted = (_schemas(table, defaults) for defaults in (ToolDefaults(local=LocalFiles()), ToolDefaults()))
    made = {f"tool_{name}": _tool(table, schema, hosted[name]["inputSchema"]) for name, schema in local.items()}
    return {**made, "results": _results([schema["outputSchema"] for schema in local.values()])}


def answers(table: ModelTable) -> dict[str, str]:
    """Resources, prompts and example calls of a server with the sandbox: generated parts by name."""
    return anyio.run(_answers, table)


def _schemas(table: ModelTable, defaults: ToolDefaults) -> dict[str, Schema]:
    tools = make_tools(table, defaults, listing=defaults.local is not None)
    return {
        tool.name: {
            "title": tool.title,
            "description": tool.description,
            "inputSchema": tool.parameters,
            "outputSchema": tool.fn_metadata.output_schema,
            "annotations": tool.annotations.model_dump(by_alias=True, exclude_none=True) if tool.annotations else {},
        }
        for tool in tools
    }


def _tool(table: ModelTable, tool: Schema, hosted: Schema) -> str:
    """The description of a tool, and a table of its arguments without empty columns."""
    hints = ", ".join(f"`{name}: {as_json(value)}`" for name, value in tool["annotations"].items())
    operation: Operation = "edit" if "image" in tool["inputSchema"]["properties"] else "generate"
    required = tool["inputSchema"].get("required", [])
    rows = []
    for name, schema in tool["inputSchema"]["properties"].items():
        rules = table.parameters_for(operation).get(name, {}) if name in table.parameters else {}
        where = "" if name in hosted["properties"] else "Over stdio only. "
        row = {
            "argument": f"`{name}`{' (required)' if name in required else ''}",
            "type": _type_with_values(table, name, schema, rules),
            "default": _default(name, table, rules),
            "models": _models(table, operation, rules, name),
            "description in the schema": f"{where}{schema.get('description', '')}".strip(),
        }
        rows.append(row)
    columns = [column for column in rows[0] if any(row[column] for row in rows)]
    lines = [columns, ["---"] * len(columns), *([row[column] or "-" for column in columns] for row in rows)]
    listed = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"**{tool['title']}.** {tool['description']}\n\nAnnotations: {hints}.\n\n{listed}\n"


def _type_with_values(table: ModelTable, name: str, schema: Schema, rules: dict[str, Rule]) -> str:
    """The type of an argument with its values or bounds. Models have their short names: ids would fill the table."""
    if name == "model":
        return f"an id of [the table](models.md#what-each-can-do): {_labels(table, schema['enum'])}"
    values = _values(schema, table, rules)
    return f"{_type(schema)}, {values}" if values else _type(schema)


def _labels(table: ModelTable, ids: Iterable[str]) -> str:
    return ", ".join(table.by_id[id_].label for id_ in ids)


def _type(schema: Schema) -> str:
    match schema["type"]:
        case "array":
            kind, _, rest = _type(schema["items"]).partition(" ")
            return f"list of {kind}s {rest}".strip()
        case "object":
            inside = ", ".join(f"`{name}`: {_type(each)}" for name, each in schema.get("properties", {}).items())
            return f"object with {inside}" if inside else "object"
        case plain:
            return str(plain)


def _inner(schema: Schema) -> Schema:
    """The schema of the value itself, without the list or object that the upstream wraps it in."""
    if schema["type"] == "array" and schema["items"]["type"] == "object":
        schema = schema["items"]
    [*inside] = schema.get("properties", {}).values()
    return inside[0] if inside else schema


def _values(schema: Schema, table: ModelTable, rules: dict[str, Rule]) -> str:
    """The values or bounds. A value that only some models accept has their names."""
    inner = _inner(schema)
    if "enum" in inner:
        return or_list(f"`{value}`{_models_with(value, table, rules)}" for value in inner["enum"])
    if "minItems" in inner or "maxItems" in inner:
        return f"{inner.get('minItems', 0)} to {inner['maxItems']} entries"
    if "minimum" in inner or "maximum" in inner:
        return f"{number(inner.get('minimum'))} to {number(inner.get('maximum'))}"
    return ""


def _models_with(value: str, table: ModelTable, rules: dict[str, Rule]) -> str:
    having = [id_ for id_, rule in rules.items() if value in (rule.values or ())]
    return f" ({_labels(table, having)})" if 0 < len(having) < len(rules) else ""


def _default(name: str, table: ModelTable, rules: dict[str, Rule]) -> str:
    ours = {"model": "the first that fits", "wait_seconds": f"`{number(ToolDefaults().wait_seconds)}`"}
    defaults: dict[str, list[str]] = {}
    for id_, rule in rules.items():
        if rule.default is not None:
            defaults.setdefault(as_json(rule.default), []).append(table.by_id[id_].label)
    if len(defaults) == 1:
        return f"`{next(iter(defaults))}`"
    return ours.get(name) or "<br>".join(f"`{value}` ({', '.join(labels)})" for value, labels in defaults.items())


def _models(table: ModelTable, operation: Operation, rules: dict[str, Rule], name: str) -> str:
    """The models that accept a field of the upstream's request; empty for arguments that this server adds."""
    if name in ("prompt", "image", "model", "size"):
        return "all"
    able = table.models_for(operation)
    return "all" if len(rules) == len(able) else _labels(table, rules)


def errors() -> str:
    """The codes of failed calls."""
    kinds = {kind.code: kind.retryable for kind in _kinds(SeedreamError) if kind.code not in _UNSEEN}
    assert kinds.keys() <= _CODES.keys(), f"no description: {kinds.keys() - _CODES.keys()}"
    rows = [
        "| code | reason | can the same call succeed later? |",
        "| --- | --- | --- |",
    ]
    for code, words in _CODES.items():
        again = "see `retryable`" if code == "api_error" else "yes" if kinds.get(code) else "no"
        rows.append(f"| `{code}` | {words} | {again} |")
    return "\n".join(rows) + "\n"


def _kinds(kind: type[SeedreamError]) -> Iterator[type[SeedreamError]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _kinds(subclass)


def _results(schemas: list[Schema]) -> str:
    """The fields of a result, from the output schemas."""
    rows = ["| field | type | description |", "| --- | --- | --- |"]
    fields = dict(field for schema in schemas for field in _fields(schema))
    for name, kind in fields.items():
        rows.append(f"| `{name}` | {kind} | {_MEANINGS[name]} |")
    always = ", ".join(f"`{name}`" for name in schemas[0]["required"])
    return "\n".join(rows) + f"\n\nAlways present: {always}.\n"


def _fields(schema: Schema, before: str = "") -> Iterator[tuple[str, str]]:
    for name, each in schema["properties"].items():
        words = " or ".join(f"`{value}`" for value in each["enum"]) if "enum" in each else _kind(each)
        yield f"{before}{name}", words
        inner = each.get("items", each)
        if inner.get("properties"):
            yield from _fields(inner, f"{before}{name}{'[]' if each['type'] == 'array' else ''}.")


def _kind(schema: Schema) -> str:
    return f"list of {schema['items']['type']}s" if schema["type"] == "array" else str(schema["type"])


@dataclass
class _Constants:
    """Replaces ids, times, addresses and folders by constants, the same one by the same constant."""

    upstream: str
    folder: str

    def __post_init__(self) -> None:
        self._ids: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        text = text.replace(self.upstream, _PORT).replace(self.folder, _HOME)
        text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", self._id, text)
        text = re.sub(r"(?<=-)[0-9a-f]{8}(?=\.(jpg|png))", self._start, text)
        text = re.sub(r"(live until )?20\d\d-\d\d-\d\dT\d\d:\d\dZ", self._time, text)
        return re.sub(r"(links_until\": \")[\dT:Z-]{17}", rf"\g<1>{_UNTIL}", text)

    def _id(self, found: re.Match[str]) -> str:
        return self._ids.setdefault(found[0], str(uuid.uuid5(uuid.NAMESPACE_URL, f"seedream:{len(self._ids)}")))

    def _start(self, found: re.Match[str]) -> str:
        """Replace the start of an id in the name of a file."""
        return next((new[:8] for old, new in self._ids.items() if old.startswith(found[0])), found[0])

    @staticmethod
    def _time(found: re.Match[str]) -> str:
        return f"{found[1]}{_UNTIL}" if found[1] else _NOW


async def _answers(table: ModelTable) -> dict[str, str]:
    with running(Sandbox(table, seconds=_SECONDS)) as upstream, tempfile.TemporaryDirectory() as name:
        folder = str(Path(name).resolve())
        server = build_server(
            table,
            lambda: SeedreamClient(upstream),
            token_of=lambda _: "sandbox",
            defaults=ToolDefaults(preview=lambda _: True, local=LocalFiles(output=Path(folder))),
            journal=Journal(IN_MEMORY),
            look_interval=0.1,
        )
        async with Client(server) as client:
            with_constants = _Constants(upstream, folder)
            return {
                "resources": await _resources(client),
                "prompts": await _prompts(client),
                **await _examples(client, with_constants),
            }


async def _resources(client: Client) -> str:
    listed = (await client.list_resources()).resources
    templates = (await client.list_resource_templates()).resource_templates
    found = [(each.uri, each.description, each.mime_type) for each in listed]
    found += [(each.uri_template, each.description, each.mime_type) for each in templates]
    rows = [f"| `{uri}` | {words}. | `{kind}` |" for uri, words, kind in found]
    return "\n".join(["| resource | description | type |", "| --- | --- | --- |", *rows]) + "\n"


async def _prompts(client: Client) -> str:
    rows = ["| prompt | description | arguments |", "| --- | --- | --- |"]
    for prompt in (await client.list_prompts()).prompts:
        given = [f"`{a.name}`{' (required)' if a.required else ''}: {a.description}." for a in prompt.arguments or ()]
        rows.append(f"| `{prompt.name}` | {prompt.description}. | {'<br>'.join(given)} |")
    return "\n".join(rows) + "\n"


async def _examples(client: Client, with_constants: Callable[[str], str]) -> dict[str, str]:
    """Example calls with their results, in order: later calls use tasks of earlier ones."""

    async def call(tool: str, **arguments: Any) -> tuple[CallToolResult, str]:
        result = await client.call_tool(tool, arguments)
        return result, _call_and_result(tool, arguments, result, with_constants)

    made, generate = await call("generate_image", prompt=_FOX, size="2560x1440", output_format="png")
    id_ = str((made.structured_content or {})["task_id"])
    _, listing = await call("get_task")
    _, edit = await call("edit_image", prompt="Make it night, with stars", image=[f"task:{id_}"], save_to="night.jpg")
    left, pending = await call("generate_image", prompt=_FOX, wait_seconds=0)
    _, get = await call("get_task", task_id=str((left.structured_content or {})["task_id"]))
    _, refused = await call("generate_image", prompt=_FOX, size="1K", sed=7)
    return {
        "call_generate_image": generate,
        "call_edit_image": edit,
        "call_pending": pending,
        "call_get_task": get,
        "call_listing": listing,
        "call_refused": refused,
    }


def _call_and_result(
    tool: str, arguments: dict[str, Any], result: CallToolResult, with_constants: Callable[[str], str]
) -> str:
    """A call and its result as JSON, without the data of pictures."""
    whole = result.model_dump(mode="json", by_alias=True, exclude_none=True)
    for block in whole["content"]:
        if block["type"] == "image":
            block["data"] = "…"
    if whole["structuredContent"]["status"] == "pending":
        whole["structuredContent"]["elapsed_seconds"] = 0.0
    answer = {name: whole[name] for name in ("content", "structuredContent", "isError")}
    asked, answered = (
        json.dumps(each, ensure_ascii=False, indent=2) for each in ({"name": tool, "arguments": arguments}, answer)
    )
    return with_constants(f"```json\n{asked}\n```\n\n```json\n{answered}\n```\n")
