"""The command `mcp-seedream try`: the server as its own subprocess, called as any MCP client calls it."""

from __future__ import annotations

import argparse
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

from mcp_seedream.assembly import as_subprocess
from mcp_seedream.catalog.table_file import read_table
from mcp_seedream.core.errors import TOKEN_PAGE, InvalidArguments
from mcp_seedream.core.settings import Settings
from mcp_seedream.generation.journal import open_journal


def try_out(options: argparse.Namespace, settings: Settings) -> int:
    """Make one picture, show progress on the terminal, save it and say where; 0 if there is one.

    Args:
        options: `prompt`, `edit`, `settings` (name=value pairs), `output`, and those of the sandbox.
        settings: Whether there is a token: without one it is the sandbox.
    """
    switches = []
    if options.sandbox or settings.token is None:
        why = "" if options.sandbox else "No ACEDATACLOUD_API_TOKEN is set. "
        _say(f"{why}Using the sandbox: a drawn picture instead of a generated one, at no cost.")
        switches.append("--sandbox-as-documented" if options.sandbox_as_documented else "--sandbox")
        if options.sandbox_seconds is not None:
            switches += ["--sandbox-seconds", str(options.sandbox_seconds)]
    attempt = _Attempt(options.prompt)
    try:
        return _tried(options, settings, switches, attempt)
    except KeyboardInterrupt:
        _say(_interrupted(attempt, settings, sandbox="--sandbox" in switches))
        return 130


def _tried(options: argparse.Namespace, settings: Settings, switches: list[str], attempt: _Attempt) -> int:
    """The exit status of one call; what went wrong is said."""
    try:
        tool, arguments = _call(options)
        read_table(settings.models_file)  # here its error is one line; in the server it would be a closed connection
        _make_room(options.output.parent if options.output.suffix else options.output)
        return anyio.run(_make, switches, tool, {"save_to": str(options.output.resolve()), **arguments}, attempt)
    except* (InvalidArguments, OSError, MCPError) as errors:
        for error in _leaves(errors):
            _say(f"mcp-seedream: {error}")
    return 1


def _make_room(folder: Path) -> None:
    """Have the folder, before a picture is paid for that could not be saved."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "there is a file of that name" if isinstance(error, FileExistsError) else error.strerror
        raise InvalidArguments(f"--output: the folder {folder} can't be made ({reason}). Name another.") from error
    if not os.access(folder, os.W_OK):
        raise InvalidArguments(f"--output: the folder {folder} can't be written to. Name another.")


def _leaves(errors: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _call(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    arguments: dict[str, Any] = {"prompt": options.prompt}
    for pair in options.settings:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InvalidArguments(f"--set takes NAME=VALUE, not {pair!r}.")
        arguments[name] = value
    if not options.edit:
        return "generate_image", arguments
    return "edit_image", {**arguments, "image": options.edit}


@dataclass
class _Attempt:
    """What is known of the call, for somebody who interrupts it.

    `began` is when it was sent to the server (Unix seconds; 0: not yet); `task_id` is known once it was accepted.
    """

    prompt: str
    began: float = 0
    task_id: str = ""

    async def progress(self, progress: float, total: float | None, message: str | None) -> None:  # noqa: ARG002
        """Show the server's progress, which tells the task's id first."""
        if found := re.fullmatch(r"Task (\S+) is accepted", message or ""):
            self.task_id = found[1]
        _say(f"  {message or progress}")


def _interrupted(attempt: _Attempt, settings: Settings, *, sandbox: bool) -> str:
    """What became of a call that was interrupted. Its server has ended, and has written down what it left."""
    if sandbox:
        return "Stopped. The sandbox's picture is gone; nothing was billed."
    if not attempt.began:
        return "Stopped before anything was sent: nothing is billed."
    journal = open_journal(settings.journal)
    left, doubtful = anyio.run(journal.unanswered, attempt.prompt, attempt.began) if journal else ("", True)
    if journal:
        doubtful |= not journal.works
        journal.close()
    if task_id := left or attempt.task_id:
        again = "Run the same command again within 10 minutes to get its picture without paying again. " if left else ""
        look = f'In an MCP client, get_task with task_id "{task_id}" gets it.'
        return f"Stopped. The task {task_id} goes on at AceDataCloud, and is billed. {again}{look}"
    if doubtful:
        return f"Stopped. It may have been accepted and billed: the usage at {TOKEN_PAGE} says so."
    return "Stopped before anything was accepted: nothing is billed."


async def _make(switches: list[str], tool: str, arguments: dict[str, Any], attempt: _Attempt) -> int:
    async with Client(as_subprocess(switches)) as client:
        attempt.began = time()
        result = await client.call_tool(tool, arguments, progress_callback=attempt.progress)
        while not result.is_error and _answer(result).get("status") == "pending":
            _say(_text(result))
            attempt.task_id = _answer(result)["task_id"]
            result = await client.call_tool(
                "get_task",
                {"task_id": attempt.task_id, "save_to": arguments["save_to"]},
                progress_callback=attempt.progress,
            )
    _say(_lasting(result) if switches else _text(result))
    paths = [image["path"] for image in _answer(result).get("images", []) if "path" in image]
    for path in paths:
        print(path)  # noqa: T201  (the paths are what this command is for)
    if paths and (note := _other_kind(Path(arguments["save_to"]), Path(paths[0]))):
        _say(note)
    return 0 if paths and len(paths) == len(_answer(result)["images"]) else 1


def _other_kind(wanted: Path, saved: Path) -> str | None:
    """What to say where a file's name had to end otherwise than was asked for."""
    kinds = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}
    if wanted.suffix.lower() not in kinds or kinds[wanted.suffix.lower()] == kinds.get(saved.suffix):
        return None
    return f"The picture is no {kinds[wanted.suffix.lower()].upper()}, so its name ends in {saved.suffix}."


def _answer(result: CallToolResult) -> dict[str, Any]:
    return result.structured_content or {}


def _text(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def _lasting(result: CallToolResult) -> str:
    """What is told of a sandbox's picture, without links: it is about to end, and they with it."""
    text = _text(result)
    for image in _answer(result).get("images", []):
        if "url" in image:
            text = text.replace(f"{image['url']} ", "")
    lines = [line for line in text.splitlines() if not line.startswith("Links live")]
    return "\n".join(line.removesuffix(" The link still works.") for line in lines)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
