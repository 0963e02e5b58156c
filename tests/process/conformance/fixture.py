"""The hosted server with the tools, prompts and resources that the conformance suite calls by their names.

Everything else is the server as it is hosted: its doors, limits, turns, and what it offers itself. To run it by hand:

    .venv/bin/python -m tests.process.conformance.fixture 8000
"""

from __future__ import annotations

import io
import sys
import wave
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Audio, Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts import Prompt
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.shared.exceptions import MCPError
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolResult,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    EmbeddedResource,
    GetPromptRequestParams,
    GetPromptResult,
    InputRequest,
    InputRequiredResult,
    ListPromptsResult,
    ListRootsRequest,
    PaginatedRequestParams,
    SamplingMessage,
    TextContent,
    TextResourceContents,
)
from PIL import Image as Pixels
from pydantic import Field

from mcp_seedream.assembly import hosted, set_up_process
from mcp_seedream.catalog.table_file import read_table
from mcp_seedream.core.settings import read_settings
from mcp_seedream.hosting.workers import serve_in_process
from mcp_seedream.sandbox.app import Sandbox, running
from tests.process.conformance.tasks import add_tasks

Caller = Context[Any, Any]
Call = ServerRequestContext[Any, Any]
Asked = InputRequiredResult | CallToolResult
STRING: dict[str, Any] = {"type": "string"}
TITLED = [{"const": f"value{number}", "title": f"Choice {number}"} for number in (1, 2, 3)]
OPTIONS = ["option1", "option2", "option3"]
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {"$anchor": "addressDef", "type": "object", "properties": {"street": STRING, "city": STRING}},
    },
    "properties": {
        "name": STRING,
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": STRING,
        "email": STRING,
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}
"""One that uses what JSON Schema 2020-12 brought; it has to come through to the caller."""


def form(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields)}


FORMS = {
    "test_elicitation_sep1034_defaults": form(
        name=STRING | {"default": "John Doe"},
        age={"type": "integer", "default": 30},
        score={"type": "number", "default": 95.5},
        status={"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        verified={"type": "boolean", "default": True},
    ),
    "test_elicitation_sep1330_enums": form(
        untitledSingle=STRING | {"enum": OPTIONS},
        titledSingle=STRING | {"oneOf": TITLED},
        legacyEnum=STRING | {"enum": OPTIONS, "enumNames": ["One", "Two", "Three"]},
        untitledMulti={"type": "array", "items": STRING | {"enum": OPTIONS}},
        titledMulti={"type": "array", "items": {"anyOf": TITLED}},
    ),
}


def elicit(message: str, **fields: Any) -> ElicitRequest:
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=form(**fields)))


def sample(prompt: str) -> CreateMessageRequest:
    content = TextContent(type="text", text=prompt)
    return CreateMessageRequest(
        params=CreateMessageRequestParams(messages=[SamplingMessage(role="user", content=content)], max_tokens=100)
    )


NAME, GREETING, ROOTS = elicit("What is your name?", name=STRING), sample("Generate a greeting"), ListRootsRequest()
CONFIRMATION = elicit("Please confirm", ok={"type": "boolean"})
ROUNDS: dict[str, list[dict[str, InputRequest]]] = {
    "test_input_required_result_elicitation": [{"user_name": NAME}],
    "test_input_required_result_sampling": [{"capital_question": sample("What is the capital of France?")}],
    "test_input_required_result_list_roots": [{"client_roots": ROOTS}],
    "test_input_required_result_request_state": [{"confirm": CONFIRMATION}],
    "test_input_required_result_tampered_state": [{"confirm": CONFIRMATION}],
    "test_input_required_result_multiple_inputs": [{"user_name": NAME, "greeting": GREETING, "client_roots": ROOTS}],
    "test_input_required_result_multi_round": [
        {"step1": NAME},
        {"step2": elicit("What is your favorite color?", color=STRING)},
    ],
    "test_streaming_elicitation": [{"user_name": NAME}],
}
"""What tools ask of the caller before they answer, round after round."""


def asking(rounds: list[dict[str, InputRequest]]) -> Callable[[Caller], Awaitable[Asked]]:
    """A tool that asks; how many rounds are over stands in the state that the caller brings back."""

    async def tool(ctx: Context[Any, Any]) -> Asked:
        over = int(ctx.request_state or 0)
        if rounds[over].keys() <= (ctx.input_responses or {}).keys():
            over += 1
        if over == len(rounds):
            return CallToolResult(content=[TextContent(type="text", text="state-ok: everything is answered")])
        return InputRequiredResult(input_requests=rounds[over], request_state=str(over))

    return tool


async def declared(ctx: Context[Any, Any]) -> Asked:
    """Asks for nothing that the caller can't do."""
    able = ctx.client_capabilities
    asked: dict[str, InputRequest] = {}
    if able and able.sampling:
        asked["greeting"] = GREETING
    if able and able.elicitation:
        asked["user_name"] = NAME
    return InputRequiredResult(input_requests=asked)


def needing(ctx: Context[Any, Any]) -> str:
    if not (ctx.client_capabilities and ctx.client_capabilities.sampling):
        needed: dict[str, Any] = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "This needs sampling", needed)
    return "done"


async def sampling(prompt: str, ctx: Context[Any, Any]) -> str:
    """Asks a caller of an older revision, who is waiting for the answer meanwhile."""
    params = sample(prompt).params
    return str(await ctx.session.create_message(params.messages, max_tokens=params.max_tokens))


def eliciting(fields: dict[str, Any]) -> Callable[..., Awaitable[str]]:
    async def tool(ctx: Context[Any, Any], message: str = "Please") -> str:
        return str(await ctx.session.elicit_form(message, fields, ctx.request_id))

    return tool


async def progressing(ctx: Context[Any, Any]) -> str:
    for progress in (0, 50, 100):
        await ctx.report_progress(progress, 100)
        await anyio.sleep(0.05)
    return "done"


async def logging(ctx: Context[Any, Any]) -> str:
    for step in ("started", "processing data", "completed"):
        await ctx.log("info", f"Tool execution {step}")
    return "done"


def failing() -> str:
    raise ToolError("This tool intentionally returns an error for testing")


def by_header(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    """Takes an argument that callers give in a header as well."""
    return region


def text_of(uri: str) -> EmbeddedResource:
    contents = TextResourceContents(uri=uri, mime_type="text/plain", text="An embedded resource.")
    return EmbeddedResource(type="resource", resource=contents)


def pixel() -> bytes:
    """A PNG file."""
    with io.BytesIO() as file:
        Pixels.new("RGB", (1, 1), "red").save(file, "png")
        return file.getvalue()


def silence() -> Audio:
    with io.BytesIO() as file:
        with wave.open(file, "wb") as sound:
            sound.setparams((1, 2, 8000, 0, "NONE", ""))
            sound.writeframes(bytes(2))
        return Audio(data=file.getvalue(), format="wav")


def add_tools(server: MCPServer[Any]) -> None:
    """What the suite calls, each under the name it has there."""
    picture = Image(data=pixel())
    tools: Mapping[str, Callable[..., Any]] = {
        "test_simple_text": lambda: "This is a simple text response for testing.",
        "test_image_content": lambda: picture,
        "test_audio_content": silence,
        "test_embedded_resource": lambda: text_of("test://embedded-resource"),
        "test_multiple_content_types": lambda: ["Several types:", picture, text_of("test://mixed-content-resource")],
        "test_tool_with_progress": progressing,
        "test_tool_with_logging": logging,
        "test_logging_tool": logging,
        "test_error_handling": failing,
        "test_missing_capability": needing,
        "test_input_required_result_capabilities": declared,
        "test_sampling": sampling,
        "test_elicitation": eliciting(form(username=STRING, email=STRING)),
        "test_headers": by_header,
        "json_schema_2020_12_tool": lambda: "done",
        **{name: eliciting(fields) for name, fields in FORMS.items()},
        **{name: asking(rounds) for name, rounds in ROUNDS.items()},
    }
    for name, tool in tools.items():
        server.add_tool(tool, name, description="For the conformance suite.", structured_output=False)
    verbatim = server._tool_manager.get_tool("json_schema_2020_12_tool")
    assert verbatim is not None
    verbatim.parameters = SCHEMA


def add_resources(server: MCPServer[Any]) -> None:
    @server.resource("test://static-text", mime_type="text/plain")
    def static_text() -> str:
        """For the conformance suite."""
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png")
    def static_binary() -> bytes:
        """For the conformance suite."""
        return pixel()

    @server.resource("test://template/{id}/data", mime_type="application/json")
    def template(id: str) -> dict[str, Any]:  # noqa: A002  (the suite's own name)
        """For the conformance suite."""
        return {"id": id, "templateTest": True, "data": f"Data for ID: {id}"}


def add_prompts(server: MCPServer[Any]) -> None:
    """Beside the server's own, which are of another kind: these are the SDK's."""

    def with_arguments(arg1: str, arg2: str) -> str:
        return f"Prompt with arguments: arg1={arg1!r}, arg2={arg2!r}"

    def with_resource(resourceUri: str) -> list[Any]:  # noqa: N803  (the suite's own name)
        return [UserMessage(text_of(resourceUri)), "Please process the embedded resource above."]

    async def with_input(ctx: Context[Any, Any]) -> Any:
        asked = await asking([{"user_context": elicit("What context should the prompt use?", context=STRING)}])(ctx)
        return asked if isinstance(asked, InputRequiredResult) else "Prompt with that context."

    prompts: Mapping[str, Callable[..., Any]] = {
        "test_simple_prompt": lambda: "This is a simple prompt for testing.",
        "test_prompt_with_arguments": with_arguments,
        "test_prompt_with_embedded_resource": with_resource,
        "test_prompt_with_image": lambda: [UserMessage(Image(data=pixel())), "Please analyze the image above."],
        "test_input_required_result_prompt": with_input,
    }
    for name, prompt in prompts.items():
        server.add_prompt(Prompt.from_function(prompt, name, description="For the conformance suite."))
    inner = server._lowlevel_server
    own = inner.get_request_handler("completion/complete")
    assert own is not None

    async def listed(_: Call, __: PaginatedRequestParams | None) -> ListPromptsResult:
        return ListPromptsResult(prompts=[*await server.list_prompts(), *await MCPServer.list_prompts(server)])

    async def got(ctx: Call, params: GetPromptRequestParams) -> GetPromptResult | InputRequiredResult:
        context: Caller = Context(request_context=ctx, mcp_server=server, input_params=params)
        if params.name in prompts:
            return await MCPServer.get_prompt(server, params.name, params.arguments, context)
        return await server.get_prompt(params.name, params.arguments, context)

    async def completed(ctx: Call, params: CompleteRequestParams) -> Any:
        if getattr(params.ref, "name", "") in prompts:
            return CompleteResult(completion=Completion(values=["paris", "park", "party"]))
        return await own.handler(ctx, params)

    inner.add_request_handler("prompts/list", PaginatedRequestParams, listed)
    inner.add_request_handler("prompts/get", GetPromptRequestParams, got)
    inner.add_request_handler("completion/complete", CompleteRequestParams, completed)


def main(port: int) -> None:
    """Serve it until a signal."""
    table = read_table()
    with running(Sandbox(table, seconds=0.1)) as upstream:
        settings = read_settings(base_url=upstream)
        set_up_process(settings)
        app = hosted(settings, table=table)
        for add in (add_tools, add_resources, add_prompts, add_tasks):
            add(app.state.server)
        serve_in_process(app, "127.0.0.1", port)


if __name__ == "__main__":
    main(int(sys.argv[1]))
