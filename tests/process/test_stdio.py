"""The server as a subprocess over stdio, as Claude Desktop starts it."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread, Timer
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp_types import INVALID_REQUEST, PARSE_ERROR, Implementation

from tests.conftest import answer
from tests.support.services import heard

OLD, LATEST = "2025-03-26", "2026-07-28"
COMMAND = [sys.executable, "-m", "mcp_seedream"]


class Process:
    """A server that is spoken to in raw lines of JSON."""

    def __init__(self, *arguments: str, cwd: Path, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            cwd=cwd,
            env={"PATH": "", **(env or {})},
        )

    def ask(self, method: str, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Send one request; the notifications that came meanwhile, and its answer."""
        self.tell({"id": 1, "method": method, "params": params or {}})
        assert self.process.stdout is not None
        messages = []
        for line in self.process.stdout:
            messages.append(json.loads(line))
            if "id" in messages[-1]:
                return messages
        raise AssertionError(f"the server ended: {self.process.communicate()[1]}")

    def write(self, lines: bytes) -> None:
        assert isinstance(self.process.stdin, io.TextIOWrapper)
        self.process.stdin.buffer.write(lines)
        self.process.stdin.buffer.flush()

    def read(self) -> dict[str, Any]:
        """The next message; a server that says nothing is ended."""
        assert self.process.stdout is not None
        patience = Timer(20, self.process.kill)
        patience.start()
        message: dict[str, Any] = json.loads(self.process.stdout.readline() or '{"error": "no answer"}')
        patience.cancel()
        return message

    def tell(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        self.process.stdin.flush()


@contextmanager
def started(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> Iterator[Process]:
    server = Process(*arguments, cwd=cwd, env=env)
    try:
        yield server
    finally:
        errors = server.process.communicate(timeout=20)[1]
        assert "Traceback" not in errors
        assert server.process.returncode == 0


def hello(server: Process, revision: str) -> dict[str, Any]:
    params = {"protocolVersion": revision, "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
    result: dict[str, Any] = server.ask("initialize", params)[-1]["result"]
    server.tell({"method": "notifications/initialized"})
    return result


def line(method: str, id_: int | None, params: dict[str, Any] | None = None) -> bytes:
    message = {"jsonrpc": "2.0", "method": method, **({} if id_ is None else {"id": id_}), "params": params or {}}
    return json.dumps(message).encode() + b"\n"


ENVELOPE = {
    f"io.modelcontextprotocol/{key}": value
    for key, value in {
        "protocolVersion": LATEST, "clientInfo": {"name": "raw", "version": "1"}, "clientCapabilities": {}
    }.items()
}  # fmt: skip
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}


def call(server: Process, **arguments: Any) -> list[dict[str, Any]]:
    params = {"name": "generate_image", "arguments": arguments, "_meta": {"progressToken": 1}}
    return server.ask("tools/call", params)


@pytest.mark.parametrize("revision", [OLD, "2024-11-05", "2025-11-25"])
def test_raw_json_rpc_with_a_handshake(tmp_path: Path, revision: str) -> None:
    """Initialize, list, and a picture with its progress; stdout carries nothing else."""
    with started("--sandbox", "--sandbox-seconds", "0.2", cwd=tmp_path) as server:
        assert hello(server, revision)["serverInfo"]["name"] == "seedream"
        tools = server.ask("tools/list")[-1]["result"]["tools"]
        assert [tool["name"] for tool in tools] == ["generate_image", "edit_image", "get_task"]
        *progress, result = call(server, prompt="a fox")
        assert progress[0]["params"]["message"].endswith("is accepted")
        assert result["result"]["structuredContent"]["status"] == "succeeded"


def test_raw_json_rpc_of_the_newest_revision(tmp_path: Path) -> None:
    """No handshake: each request says what it is."""
    with started("--sandbox", "--sandbox-seconds", "0.2", cwd=tmp_path) as server:
        for _ in range(2):
            found = server.ask("server/discover", {"_meta": ENVELOPE})[-1]["result"]
            assert LATEST in found["supportedVersions"]
        params = {"name": "generate_image", "arguments": {"prompt": "a fox"}, "_meta": ENVELOPE}
        result = server.ask("tools/call", params)[-1]["result"]
        assert result["structuredContent"]["status"] == "succeeded"
        found = server.ask("server/discover", {"_meta": ENVELOPE})[-1]["result"]
        assert LATEST in found["supportedVersions"]


@pytest.mark.parametrize("order", ["answered", "pipelined", "cancelled", "twice"])
def test_a_probe_and_then_a_handshake(tmp_path: Path, order: str) -> None:
    """A client that gave up on `server/discover`, or did not like the answer, has a session all the same."""
    probe = line("server/discover", 0, {"_meta": ENVELOPE})
    handshake = line("initialize", 1, HELLO) + line("notifications/initialized", None) + line("tools/list", 2)
    with started("--sandbox", cwd=tmp_path) as server:
        match order:
            case "answered":
                server.write(probe)
                answers = {0: server.read()}
                server.write(handshake)
            case "pipelined":
                server.write(probe + handshake)
                answers = {}
            case "cancelled":
                server.write(probe + line("notifications/cancelled", None, {"requestId": 0}) + handshake)
                answers = {}
            case _:
                server.write(probe + line("server/discover", 3, {"_meta": ENVELOPE}) + handshake)
                answers = {}
        wanted = {0, 1, 2, 3} if order == "twice" else {0, 1, 2}
        while answers.keys() != wanted:
            message = server.read()
            answers[message["id"]] = message
        assert LATEST in answers[0]["result"]["supportedVersions"]
        assert answers[1]["result"]["protocolVersion"] == "2025-11-25"
        assert len(answers[2]["result"]["tools"]) == 3
        late = server.ask("server/discover", {"_meta": ENVELOPE})[-1]
        assert late["error"]["code"] == INVALID_REQUEST  # the client speaks the older protocol by now


CALL = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"get_task","arguments":{"task_id":%s}}}'
BROKEN = [
    (CALL % b'"\\ud83d"', PARSE_ERROR, 7),
    (CALL % b'"secret\tsecret"', PARSE_ERROR, 7),
    (CALL % (b"[" * 300 + b"]" * 300), PARSE_ERROR, 7),
    (CALL % b'"caf\xe9"', PARSE_ERROR, 7),
    (CALL % (b"9" * 5000), PARSE_ERROR, 7),
    (CALL[:-40], PARSE_ERROR, 7),
    (b"hello", PARSE_ERROR, None),
    (b"[]", INVALID_REQUEST, None),
    (b"[" + CALL % b'"x"' + b"]", INVALID_REQUEST, 7),
    (b"5", INVALID_REQUEST, None),
    (b"NaN", INVALID_REQUEST, None),
    (b'{"jsonrpc":"2.0","id":7}', INVALID_REQUEST, 7),
    (b'{"jsonrpc":"2.0","id":7,"method":5}', INVALID_REQUEST, 7),
    (b'{"jsonrpc":"2.0","id":7,"method":"tools/list","params":[]}', INVALID_REQUEST, 7),
    (b'{"jsonrpc":"2.0","id":7.0,"method":"tools/list"}', INVALID_REQUEST, 7),
    (b'{"jsonrpc":"2.0","id":null,"method":"tools/list"}', INVALID_REQUEST, None),
    (b'{"id":7,"method":"tools/list"}', INVALID_REQUEST, 7),
    ('{"id":7}'.encode("utf-16"), PARSE_ERROR, None),
]


def test_a_line_that_is_no_message_is_answered(tmp_path: Path) -> None:
    """Before the handshake and after it, with the id where there is one; it is logged, but not what it held."""
    server = Process("--sandbox", cwd=tmp_path)
    for greeted in (False, True):
        if greeted:
            hello(server, OLD)
        for sent, code, id_ in BROKEN:
            server.write(sent + b"\n")
            found = server.read()
            assert (found["jsonrpc"], found["id"], found["error"]["code"]) == ("2.0", id_, code), sent[:80]
    assert len(server.ask("tools/list")[-1]["result"]["tools"]) == 3
    errors = server.process.communicate(timeout=20)[1]
    assert errors.count("the client sent an invalid message") == 2 * len(BROKEN)
    assert "secret" not in errors
    assert "Traceback" not in errors


def test_a_client_that_reads_no_responses(tmp_path: Path) -> None:
    """Its requests are not read either, so that the responses do not fill the memory; later all are answered."""
    count, size = 3000, 0
    requests = b"".join(line("tools/list", number) for number in range(count))
    with started(cwd=tmp_path) as server:
        hello(server, "2025-11-25")
        assert server.process.stdin is not None
        stdin = server.process.stdin.fileno()
        os.set_blocking(stdin, False)
        while size < len(requests) and select.select([], [stdin], [], 1)[1]:
            size += os.write(stdin, requests[size : size + 4096])
        os.set_blocking(stdin, True)
        rest = Thread(target=server.write, args=(requests[size:],))
        rest.start()
        answers = {server.read()["id"] for _ in range(count)}
        rest.join()
    assert size < len(requests) / 2
    assert answers == set(range(count))


def test_lines_that_are_passed_over(tmp_path: Path) -> None:
    """A byte order mark, blank lines, carriage returns, numbers that JSON has not; answers nobody waits for."""
    odd = CALL % b"NaN"
    with started("--sandbox", cwd=tmp_path) as server:
        server.write(b"\xef\xbb\xbf" + line("initialize", 1, HELLO))
        assert server.read()["result"]["serverInfo"]["name"] == "seedream"
        server.write(b"\n  \r\n" + line("notifications/initialized", None).replace(b"\n", b"\r\n"))
        server.write(b'{"jsonrpc":"2.0","id":5,"result":"x"}\n{"jsonrpc":"2.0","id":5,"error":{}}\n')
        server.write(b'{"jsonrpc":"2.0","id":5,"result":{}}\n' + odd + b"\n")
        found = server.read()
        assert (found["id"], found["result"]["isError"]) == (7, True)
        assert "NaN" in found["result"]["content"][0]["text"]
        assert len(server.ask("tools/list")[-1]["result"]["tools"]) == 3


@pytest.mark.parametrize("revision", [OLD, LATEST])
def test_arguments_that_are_no_object(tmp_path: Path, revision: str) -> None:
    """JSON in text is taken, nothing at all is nothing, and what is neither is told so."""
    meta = {"_meta": ENVELOPE} if revision == LATEST else {}
    with started("--sandbox", "--sandbox-seconds", "0.2", cwd=tmp_path) as server:
        if revision == OLD:
            hello(server, OLD)

        def ask(given: Any) -> dict[str, Any]:
            return server.ask("tools/call", {"name": "generate_image", "arguments": given, **meta})[-1]

        assert ask('{"prompt": "a fox"}')["result"]["structuredContent"]["status"] == "succeeded"
        for nothing in ("", "null", None):
            assert "`prompt` is empty" in ask(nothing)["result"]["content"][0]["text"]
        others: tuple[Any, ...] = ("a fox", "[]", [], 5, '{"\\ud83d": 1}')
        for other in others:
            assert "`arguments` must be a JSON object" in ask(other)["error"]["message"]


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["legacy", LATEST])
@pytest.mark.parametrize(
    ("name", "setting", "shown"),
    [
        ("claude-ai", None, True),
        ("mcp", None, True),  # the Python SDK's own name: frameworks that keep it can't be told apart
        ("google-adk", None, False),
        ("Google-ADK", None, False),
        ("autogen-ext", None, False),
        ("semantic_kernel", None, False),
        ("llama-index-tools-mcp", None, False),
        ("roadkill", None, True),
        ("google-adk", "on", True),
        ("claude-ai", "off", False),
    ],
)
async def test_previews_by_client(tmp_path: Path, name: str, setting: str | None, shown: bool, mode: Any) -> None:
    """Off for frameworks that give a model the picture as base64 text, unless the setting says otherwise."""
    env = {"PATH": "", **({"SEEDREAM_PREVIEW": setting} if setting else {})}
    arguments = [*COMMAND[1:], "--sandbox", "--sandbox-seconds", "0.1"]
    server = StdioServerParameters(command=sys.executable, args=arguments, env=env, cwd=tmp_path)
    async with Client(server, client_info=Implementation(name=name, version="1"), mode=mode) as client:
        result = await client.call_tool("generate_image", {"prompt": "a fox", "size": "1K"})
    assert [block.type for block in result.content] == ["text", *(["image"] if shown else [])]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_in_a_terminal_it_says_what_it_waits_for(tmp_path: Path) -> None:
    """Somebody who starts it by hand sees that it works, and how to end it; and Ctrl-C does."""
    import pty  # noqa: PLC0415  (not on Windows)

    ours, its = pty.openpty()
    out = subprocess.PIPE
    with heard(signal.SIGINT):
        process = subprocess.Popen(COMMAND, stdin=its, stdout=out, stderr=out, cwd=tmp_path, start_new_session=True)
    try:
        assert process.stderr is not None
        assert b"Waiting for an MCP client" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        os.close(ours)
        os.close(its)
    assert said == b""
    assert b"Traceback" not in errors


def test_a_misspelt_setting_is_told_in_the_log(tmp_path: Path) -> None:
    """Of the environment and of `.env`; it does nothing, and the server starts."""
    (tmp_path / ".env").write_text("SEEDREAM_COLOUR=secret\nSEEDREAM_PREVIEW=off\nOTHER=1\n", "utf-8")
    done = subprocess.run(
        COMMAND,
        input="",
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=tmp_path,
        env={"PATH": "", "SEEDREAM_WAITSECONDS": "5"},
        timeout=30,
        check=True,
    )
    assert "SEEDREAM_WAITSECONDS is not a setting and is ignored. Did you mean SEEDREAM_WAIT_SECONDS?" in done.stderr
    assert "SEEDREAM_COLOUR is not a setting and is ignored." in done.stderr
    assert done.stderr.count("WARNING") == 2
    assert "secret" not in done.stderr
    assert done.stdout == ""


def test_without_a_token_it_starts_and_a_call_says_how_to_get_one(tmp_path: Path) -> None:
    """Its tools can be listed."""
    with started(cwd=tmp_path) as server:
        hello(server, OLD)
        assert len(server.ask("tools/list")[-1]["result"]["tools"]) == 3
        result = call(server, prompt="a fox")[-1]["result"]
        assert result["isError"]
        assert "ACEDATACLOUD_API_TOKEN" in result["content"][0]["text"]


@pytest.mark.parametrize("quoted", ["file-token", '"file-token"', "Bearer file-token"])
def test_the_token_comes_from_a_file_in_the_working_directory(
    tmp_path: Path, upstream: str, quoted: str, sandbox: Any
) -> None:
    """As the vendor's guide tells people to keep it."""
    (tmp_path / ".env").write_text(f"ACEDATACLOUD_API_TOKEN={quoted}\nOTHER=1\n", "utf-8")
    with started(cwd=tmp_path, env={"ACEDATACLOUD_API_BASE_URL": upstream}) as server:
        hello(server, OLD)
        call(server, prompt="a fox", wait_seconds=0)
    assert sandbox.requests[0][1] == "file-token"


def test_the_environment_stands_above_the_file(tmp_path: Path, upstream: str, sandbox: Any) -> None:
    """And its token is logged nowhere."""
    (tmp_path / ".env").write_text("ACEDATACLOUD_API_TOKEN=file-token\n", "utf-8")
    env = {"ACEDATACLOUD_API_BASE_URL": upstream, "ACEDATACLOUD_API_TOKEN": "env-token"}
    server = Process("--log-level", "debug", cwd=tmp_path, env=env)
    hello(server, OLD)
    call(server, prompt="a very private prompt", wait_seconds=0)
    errors = server.process.communicate(timeout=20)[1]
    assert sandbox.requests[0][1] == "env-token"
    assert "env-token" not in errors


def test_prompts_are_not_logged(tmp_path: Path) -> None:
    """Nor links to pictures, at the usual level."""
    server = Process("--sandbox", "--sandbox-seconds", "0.1", cwd=tmp_path)
    hello(server, OLD)
    call(server, prompt="a very private prompt")
    call(server, prompt="a very private prompt", sed=5)
    errors = server.process.communicate(timeout=20)[1]
    assert "private" not in errors
    assert "/pictures/" not in errors
    assert "accepted" in errors


def test_another_table_is_a_setting(tmp_path: Path) -> None:
    """A wrong one stops the start, with the line at fault and no traceback."""
    (tmp_path / "models.toml").write_text("[limits]\naspect_ratio = 0\n", "utf-8")
    result = subprocess.run(
        COMMAND, capture_output=True, text=True, cwd=tmp_path, env={"SEEDREAM_MODELS_FILE": "models.toml"}, check=False
    )
    assert result.returncode == 2
    assert result.stderr.startswith("mcp-seedream: The model table models.toml is wrong at line 2: limits.aspect_ratio")


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_the_official_client(tmp_path: Path, mode: str) -> None:
    """Old handshake and newest revision."""
    parameters = StdioServerParameters(
        command=COMMAND[0], args=[*COMMAND[1:], "--sandbox", "--sandbox-seconds", "0.2"], cwd=tmp_path
    )
    async with Client(parameters, mode=mode) as client:
        result = await client.call_tool("generate_image", {"prompt": "a fox"})
    assert answer(result)["status"] == "succeeded"


@pytest.mark.parametrize("end", ["close", signal.SIGINT, signal.SIGTERM])
def test_it_ends_at_once_in_the_middle_of_a_wait(tmp_path: Path, end: str | signal.Signals) -> None:
    """Its input closed, Ctrl-C, or asked to: no hanging process, no traceback."""
    server = Process("--sandbox", cwd=tmp_path)
    hello(server, OLD)
    params = {"name": "generate_image", "arguments": {"prompt": "x [sandbox:slow=60]"}, "_meta": {"progressToken": 1}}
    server.tell({"id": 1, "method": "tools/call", "params": params})
    assert server.process.stdout is not None
    assert "is accepted" in server.process.stdout.readline()
    if isinstance(end, signal.Signals):
        server.process.send_signal(end)
        server.process.wait(5)
    errors = server.process.communicate(timeout=5)[1]
    assert "Traceback" not in errors
