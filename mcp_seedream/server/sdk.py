"""Every use of the MCP SDK beyond its public interface.

Each docstring explains why this project needs it, and which public hook would replace it. No other module uses a
private attribute of the SDK, overrides its methods, or imitates its streams.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import anyio
import anyio.to_thread
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp_types import (
    INVALID_PARAMS,
    Completion,
    CompletionArgument,
    CompletionContext,
    GetPromptResult,
    JSONRPCError,
    JSONRPCResponse,
    Prompt,
    PromptReference,
    ResourceTemplateReference,
)

from mcp_seedream.core.errors import InvalidArguments

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server


def lowlevel_server(server: MCPServer[Any]) -> Server[Any]:
    """The protocol server inside an `MCPServer`.

    `StreamableHTTPSessionManager` and `serve_dual_era_loop` require it. `MCPServer` only runs transports that it has
    created itself. A public property of `MCPServer` would replace this.
    """
    return server._lowlevel_server  # noqa: SLF001


class PromptSource(Protocol):
    """Lists, renders and completes prompts."""

    def definitions(self) -> list[Prompt]:
        """The prompts that clients see."""

    def render(self, name: str, arguments: dict[str, str], /) -> GetPromptResult:
        """The messages of a prompt.

        Raises:
            InvalidArguments: The prompt or an argument is unknown or wrong.
        """

    async def complete(
        self,
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
        /,
    ) -> Completion:
        """Completions of an argument."""


class PromptServer(MCPServer[Any]):
    """An `MCPServer` whose prompts and completions come from a `PromptSource`.

    The SDK's prompts have no titles for arguments, and their errors have the code 0. A `title` in the SDK's
    `PromptArgument`, and an exception for invalid arguments of prompts, would replace this.

    Args:
        prompts: The prompts.
        options: Options of `MCPServer`.
    """

    def __init__(self, prompts: PromptSource, **options: Any) -> None:
        super().__init__(**options)
        self._prompt_source = prompts
        self.completion()(prompts.complete)  # type: ignore[no-untyped-call]

    async def list_prompts(self) -> list[Prompt]:
        return self._prompt_source.definitions()

    async def get_prompt(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        context: Context[Any, Any] | None = None,  # noqa: ARG002  (the SDK passes it)
    ) -> GetPromptResult:
        try:
            # In a thread: a picture may be given as megabytes of base64.
            return await anyio.to_thread.run_sync(self._prompt_source.render, name, arguments or {})
        except InvalidArguments as error:
            raise MCPError(INVALID_PARAMS, error.message) from error


class _UncheckedArguments(FuncMetadata):
    """Passes a tool its arguments as one dictionary."""

    def validate_arguments(self, arguments_to_validate: dict[str, Any]) -> dict[str, Any]:
        return {"arguments": arguments_to_validate}


def unchecked_tool(
    function: Callable[..., Awaitable[Any]], schema: dict[str, Any], output_schema: dict[str, Any], **description: Any
) -> Tool:
    """A tool with given JSON schemas. Its function receives the unchecked arguments as `arguments`, and `ctx`.

    `MCPServer.add_tool` computes the schema from the function's signature, and refuses other arguments before the
    function runs. Here, the schema and the checks come from the capability table. A public `Tool` that accepts schemas
    would replace this.

    Args:
        function: The tool's function, which has the tool's name.
        schema: Schema of the arguments.
        output_schema: Schema of the structured result.
        description: Other fields of `Tool`.
    """
    return Tool(
        fn=function,
        name=function.__name__,
        parameters=schema,
        fn_metadata=_UncheckedArguments(arg_model=ArgModelBase, output_schema=output_schema),
        is_async=True,
        context_kwarg="ctx",
        **description,
    )


class _Stream:
    """The methods that `serve_dual_era_loop` calls on both its read and its write stream.

    It expects the memory streams of `stdio_server`, whose types are private. A public `MCPServer` method that serves a
    pair of streams, and public types for them, would replace this class and its two subclasses.
    """

    async def aclose(self) -> None:
        """Do nothing: the streams are closed when the process ends."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class ReadStream(_Stream, ABC):
    """A stream of messages from a client."""

    @abstractmethod
    async def receive(self) -> SessionMessage | Exception:
        """The next message.

        Raises:
            anyio.EndOfStream: There are no more messages.
        """

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None


class OneResponseStream(_Stream):
    """A write stream that ends its loop after the first response.

    Args:
        write: The stream to write to.
        end: Called after the first response.
    """

    def __init__(self, write: Any, end: Callable[[], Awaitable[None]]) -> None:
        self._write = write
        self._end = end

    async def send(self, message: SessionMessage) -> None:
        await self._write.send(message)
        if isinstance(message.message, JSONRPCResponse | JSONRPCError):
            await self._end()


async def wait_while_unread(write: Any, limit: int) -> None:
    """Wait while more messages than the limit wait to be written, because the client does not read them.

    A write stream with a buffer that can be read would replace this.
    """
    while write._inner.statistics().tasks_waiting_send > limit:  # noqa: ASYNC110, SLF001
        await anyio.sleep(0.02)


async def wait_until_written(write: Any) -> None:
    """Wait until `stdio_server` has written all messages that were sent to its write stream.

    Its writer then waits for the next message. A public `flush` of the stream would replace this.
    """
    await anyio.sleep(0.02)  # responses of calls that have just ended are sent now
    while not write._inner.statistics().tasks_waiting_receive:  # noqa: ASYNC110, SLF001
        await anyio.sleep(0.02)
