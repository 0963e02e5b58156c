"""The command `mcp-seedream try`: starts the server as a subprocess, and calls it as an MCP client."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

import anyio
from mcp import Client, MCPError
from mcp_types import CallToolResult, TextContent

from mcp_seedream.assembly import stdio_parameters
from mcp_seedream.catalog.table_file import read_table
from mcp_seedream.core.errors import TOKEN_PAGE, InvalidArguments
from mcp_seedream.core.settings import Settings, name_of
from mcp_seedream.generation.journal import open_journal
from mcp_seedream.sandbox.options import SandboxOptions


@dataclass(frozen=True, slots=True)
class TryOptions:
    """Options of `try`.

    Args:
        prompt: Description of the picture, or of the change.
        images: Files or URLs of pictures to edit; if empty, a picture is generated.
        arguments: Further arguments of the tool, as `name=value`.
        output: The folder or file to save to.
        sandbox: The sandbox, which is also used without a token.
    """

    prompt: str
    images: tuple[str, ...]
    arguments: tuple[str, ...]
    output: Path
    sandbox: SandboxOptions


def run_try(options: TryOptions, settings: Settings) -> int:
    """Make one picture, show progress on the terminal, save it and print its path; returns the exit status.

    Args:
        options: The options of the command line.
        settings: The settings. Without a token, the sandbox is used.
    """
    in_sandbox = options.sandbox.enabled or settings.token is None
    if in_sandbox:
        reason = "" if options.sandbox.enabled else "No ACEDATACLOUD_API_TOKEN is set. "
        _say(f"{reason}Using the sandbox: a drawn picture instead of a generated one, at no cost.")
    state = _CallState(options.prompt)
    try:
        return _try(options, settings, state, in_sandbox=in_sandbox)
    except KeyboardInterrupt:
        _say(_interrupted(state, settings, in_sandbox=in_sandbox))
        return 130


def _try(options: TryOptions, settings: Settings, state: _CallState, *, in_sandbox: bool) -> int:
    """Make the picture, and return the exit status; errors are printed."""
    try:
        tool, arguments = _tool_call(options)
        read_table(settings.models_file)  # an invalid table is one line here, but a closed connection in the server
        _make_folder(options.output.parent if options.output.suffix else options.output)
        sandbox_arguments = options.sandbox.arguments if in_sandbox else []
        return anyio.run(_call_server, sandbox_arguments, tool, arguments, state)
    except* (InvalidArguments, OSError, MCPError) as errors:
        for error in _leaves(errors):
            _say(f"mcp-seedream: {error}")
    return 1


def _make_folder(folder: Path) -> None:
    """Create the folder before the call is billed, so that the picture can be saved."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "a file has this name" if isinstance(error, FileExistsError) else error.strerror
        raise InvalidArguments(f"--output: the folder {folder} can't be created ({reason}). Use another.") from error
    if not os.access(folder, os.W_OK):
        raise InvalidArguments(f"--output: the folder {folder} can't be written to. Use another.")


def _leaves(errors: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _tool_call(options: TryOptions) -> tuple[str, dict[str, Any]]:
    """The tool and its arguments."""
    arguments: dict[str, Any] = {"prompt": options.prompt, "save_to": str(options.output.resolve())}
    for pair in options.arguments:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InvalidArguments(f"--set needs NAME=VALUE, not {pair!r}.")
        arguments[name] = value
    return (
        ("edit_image", {**arguments, "image": list(options.images)})
        if options.images
        else ("generate_image", arguments)
    )


@dataclass
class _CallState:
    """The progress of the call, for the message after an interruption.

    `began` is the Unix time when the call was sent to the server, or 0. `task_id` is empty until a task is accepted.
    """

    prompt: str
    began: float = 0
    task_id: str = ""

    async def progress(self, progress: float, total: float | None, message: str | None) -> None:  # noqa: ARG002
        """Print the server's progress, whose first message has the task's id."""
        if match := re.fullmatch(r"Task (\S+) is accepted", message or ""):
            self.task_id = match[1]
        _say(f"  {message or progress}")


def _interrupted(state: _CallState, settings: Settings, *, in_sandbox: bool) -> str:
    """A message about an interrupted call. Its server has ended, and has recorded the tasks that continue."""
    if in_sandbox:
        return "Stopped. The sandbox's picture is lost; nothing was billed."
    if not state.began:
        return "Stopped before anything was sent: nothing is billed."
    journal = open_journal(settings.journal)
    abandoned, is_uncertain = anyio.run(journal.unanswered, state.prompt, state.began) if journal else ("", True)
    if journal:
        is_uncertain |= not journal.works
        journal.close()
    if task_id := abandoned or state.task_id:
        again = "Run the same command within 10 minutes to get its picture without another bill. "
        other = f'In an MCP client, get_task with task_id "{task_id}" returns it.'
        return (
            f"Stopped. The task {task_id} continues at AceDataCloud, and is billed. {again if abandoned else ''}{other}"
        )
    if is_uncertain:
        return f"Stopped. The call may have been accepted and billed: the usage at {TOKEN_PAGE} shows it."
    return "Stopped before anything was accepted: nothing is billed."


async def _call_server(sandbox_arguments: list[str], tool: str, arguments: dict[str, Any], state: _CallState) -> int:
    """Start a server, call the tool, then get_task while the task is pending; returns the exit status."""
    server = stdio_parameters(sandbox_arguments)
    server.env = {**(server.env or {}), name_of("preview"): "off"}  # terminals do not show images
    async with Client(server) as client:
        state.began = time()
        result = await client.call_tool(tool, arguments, progress_callback=state.progress)
        while not result.is_error and _answer(result).get("status") == "pending":
            _say(_text(result))
            state.task_id = _answer(result)["task_id"]
            result = await client.call_tool(
                "get_task",
                {"task_id": state.task_id, "save_to": arguments["save_to"]},
                progress_callback=state.progress,
            )
    _say(_text_without_links(result) if sandbox_arguments else _text(result))
    images = _answer(result).get("images", [])
    paths = [image["path"] for image in images if "path" in image]
    for path in paths:
        print(path)  # noqa: T201  (the output of this command)
    if paths and (note := _note_on_suffix(Path(arguments["save_to"]), Path(paths[0]))):
        _say(note)
    return 0 if paths and len(paths) == len(images) else 1


def _note_on_suffix(requested: Path, saved: Path) -> str | None:
    """Why the file has another suffix than the requested one; None if it has the same."""
    kinds = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}
    if requested.suffix.lower() not in kinds or kinds[requested.suffix.lower()] == kinds.get(saved.suffix):
        return None
    return f"The picture is not a {kinds[requested.suffix.lower()].upper()}, so its name ends in {saved.suffix}."


def _answer(result: CallToolResult) -> dict[str, Any]:
    return result.structured_content or {}


def _text(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def _text_without_links(result: CallToolResult) -> str:
    """The text of a result without links, since links of the sandbox end with this command."""
    text = _text(result)
    for image in _answer(result).get("images", []):
        if "url" in image:
            text = text.replace(f"{image['url']} ", "")
    lines = [line for line in text.splitlines() if not line.startswith("Links work")]
    return "\n".join(line.removesuffix(" The link still works.") for line in lines)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
