"""MCP calls that cost next to nothing: what is measured is the server, not its clients."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.servers import TOKEN, Contender, environment

_PATIENCE = 300  # seconds for an answer


class Connection:
    """A connection to a server that is used again and again, and made anew where the server has closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, tool: str, arguments: dict[str, Any], token: str = TOKEN) -> dict[str, Any]:
        """One tool call; its result."""
        message = await self.post("/mcp", request("tools/call", {"name": tool, "arguments": arguments}), token)
        result: dict[str, Any] = message["result"]
        if result.get("isError"):
            raise RuntimeError(f"{tool} failed: {text(result)}")
        return result

    async def post(self, path: str, body: dict[str, Any], token: str = TOKEN) -> dict[str, Any]:
        """Post JSON; the JSON that comes back, as it is or as the last event of a stream."""
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await self._open()
            writer.write(self._head(path, content := json.dumps(body).encode(), token) + content)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            answer = await _body(reader, head)
        if " 200 " not in head.split("\r\n", 1)[0]:
            raise RuntimeError(f"{head.splitlines()[0]}: {answer[:500]!r}")
        if "content-type: text/event-stream" in head:
            answer = [line for line in answer.splitlines() if line.startswith(b"data:")][-1][5:]
        found: dict[str, Any] = json.loads(answer)
        return found

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams and (self._streams[0].at_eof() or self._streams[1].is_closing()):
            self.close()
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        return self._streams

    def _head(self, path: str, content: bytes, token: str) -> bytes:
        lines = [
            f"POST {path} HTTP/1.1",
            f"Host: 127.0.0.1:{self._port}",
            "Content-Type: application/json",
            "Accept: application/json, text/event-stream",
            "MCP-Protocol-Version: 2025-06-18",
            f"Authorization: Bearer {token}",
            f"Content-Length: {len(content)}",
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _body(reader: asyncio.StreamReader, head: str) -> bytes:
    """The body of an answer, by what its head says of it."""
    if "transfer-encoding: chunked" not in head:
        length = head.partition("content-length:")[2].partition("\r\n")[0]
        return await reader.readexactly(int(length))
    parts = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append((await reader.readexactly(size + 2))[:-2])
    await reader.readexactly(2)
    return b"".join(parts)


def request(method: str, params: dict[str, Any], number: int = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def text(result: dict[str, Any]) -> str:
    """What a model is shown of a result: its text."""
    return "\n".join(block["text"] for block in result["content"] if block["type"] == "text")


@contextmanager
def over_stdio(contender: Contender, messages: Sequence[dict[str, Any]], folder: Path) -> Iterator[tuple[int, bytes]]:
    """Start a server and send it messages; its process's id and the answer to the last one, as soon as it is there."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        contender.stdio, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment(), cwd=folder
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"".join(json.dumps(message).encode() + b"\n" for message in messages))
        process.stdin.flush()
        for line in process.stdout:
            if json.loads(line).get("id") == messages[-1]["id"]:
                yield process.pid, line.rstrip(b"\n")
                break
        else:
            raise SystemExit(f"{contender.name} ended before it answered {messages[-1]['method']}")
        process.stdin.close()
