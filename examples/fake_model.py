"""A free replacement for a model, to try the examples: it calls the tools as a real model would.

    python fake_model.py python openai_agents.py "a red fox in the snow"

runs that command with a small server on this machine instead of OpenAI, Anthropic and Google, and without your
AceDataCloud token, so that the sandbox draws the pictures. The model calls `generate_image` with the user's text, then
`get_task` while the task is pending, and answers with the link.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

PICTURES = {"input_image", "image_url", "image"}
USAGE = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}


class Asked(NamedTuple):
    """A request, in any of the APIs.

    `words` is the user's text, `tools` the names of the tools, `result` the last tool's result as JSON, `shown` whether
    there is a picture.
    """

    words: str
    tools: list[str]
    result: str
    shown: bool


@dataclass(frozen=True)
class Answer:
    """A text, or a tool to call."""

    text: str = ""
    tool: str = ""
    arguments: dict[str, str] = field(default_factory=dict)

    @property
    def json(self) -> str:
        return json.dumps(self.arguments)


def think(asked: Asked) -> Answer:
    """Call for a picture, wait for it, answer with its link."""
    offered = {name.removeprefix("mcp__seedream__"): name for name in asked.tools}
    if not {"generate_image", "get_task"} <= offered.keys():
        return Answer("I have no tools to make a picture with.")
    if not asked.result:
        return Answer(tool=offered["generate_image"], arguments={"prompt": asked.words})
    # The link of a picture, in text or structured content. Errors may contain links, too, such as where to get a token.
    if link := re.search(r"(?:\d images?\b[^:]*:(?:\n|\\+n)|\burl\W+)(https?://[^\s\"'\\]+)", asked.result):
        saved = re.search(r"(?:saved as |path[\\\": ]+)([^\"\\]+\.\w+)", asked.result)
        where = f"{link[1]} saved as {saved[1]}" if saved else link[1]
        return Answer(f"{where}\nI was {'' if asked.shown else 'not '}shown it.")
    if task := re.search(r"get_task with task_id \W*([\w-]+)", asked.result):
        return Answer(tool=offered["get_task"], arguments={"task_id": task[1]})
    return Answer(f"There is no picture. {asked.result}")


def unique(kind: str) -> str:
    """A unique id: frameworks identify messages by it."""
    return f"{kind}_{os.urandom(12).hex()}"


def blocks(content: Any) -> list[Any]:
    """The blocks of a message, whose content is a list of blocks or a string."""
    return content if isinstance(content, list) else [{"text": content}]


def asked_by(said: list[Any], tools: list[str], results: list[Any]) -> Asked:
    """The request, from the contents of the user's messages and of the tools' results."""
    texts = [block["text"] for content in said for block in blocks(content) if "text" in block]
    words = [text for text in texts if not text.startswith("<system-reminder>")]
    seen = [block for content in [*said, *results] for block in blocks(content)]
    shown = any(block.get("type") in PICTURES or "inlineData" in block for block in seen)
    return Asked(words[0] if words else "", tools, json.dumps(results[-1]) if results else "", shown)


def responses(body: Any) -> Asked:
    items = [{"role": "user", "content": body["input"]}] if isinstance(body["input"], str) else body["input"]
    return asked_by(
        [item["content"] for item in items if item.get("role") == "user"],
        [tool["name"] for tool in body.get("tools", []) if "name" in tool],
        [item["output"] for item in items if item.get("type") == "function_call_output"],
    )


def responses_reply(body: Any, answer: Answer) -> Any:
    text = {"type": "output_text", "text": answer.text, "annotations": []}
    item: dict[str, Any] = {"type": "message", "id": unique("msg"), "role": "assistant", "content": [text]}
    if answer.tool:
        item = {
            "type": "function_call",
            "id": unique("fc"),
            "call_id": unique("call"),
            "name": answer.tool,
            "arguments": answer.json,
        }
    said = {"id": unique("resp"), "object": "response", "created_at": 0, "model": body["model"], "status": "completed"}
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    asked = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}
    return {**said, **asked, "output": [{**item, "status": "completed"}], "usage": {**USAGE, **details}}


def completions(body: Any) -> Asked:
    messages = body["messages"]
    results = [message["content"] for message in messages if message["role"] == "tool"]
    if any(block.get("type") == "image_url" for content in results for block in blocks(content)):
        raise ValueError("Image URLs are only allowed for messages with role 'user'.")  # as OpenAI does
    return asked_by(
        [message["content"] for message in messages if message["role"] == "user"],
        [tool["function"]["name"] for tool in body.get("tools", [])],
        results,
    )


def completions_reply(body: Any, answer: Answer) -> Any:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None}
    if answer.tool:
        function = {"name": answer.tool, "arguments": answer.json}
        message["tool_calls"] = [{"id": unique("call"), "type": "function", "function": function}]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if answer.tool else "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    said = {"id": unique("chatcmpl"), "object": "chat.completion", "created": 0, "model": body["model"]}
    return {**said, "choices": [choice], "usage": usage}


def messages(body: Any) -> Asked:
    results = [block for message in body["messages"] for block in blocks(message["content"])]
    return asked_by(
        [message["content"] for message in body["messages"] if message["role"] == "user"],
        [tool["name"] for tool in body.get("tools", [])],
        [block["content"] for block in results if block.get("type") == "tool_result"],
    )


def messages_reply(body: Any, answer: Answer) -> Any:
    block: dict[str, Any] = {"type": "text", "text": answer.text}
    if answer.tool:
        block = {"type": "tool_use", "id": unique("toolu"), "name": answer.tool, "input": answer.arguments}
    said = {"id": unique("msg"), "type": "message", "role": "assistant", "model": body["model"]}
    stop = {"stop_reason": "tool_use" if answer.tool else "end_turn", "stop_sequence": None}
    return {**said, "content": [block], **stop, "usage": USAGE}


def messages_events(reply: Any) -> Iterator[Any]:
    """The reply as events of a stream."""
    block = reply["content"][0]
    start, delta = {"text": ""}, {"type": "text_delta", "text": block.get("text")}
    if block["type"] == "tool_use":
        start, delta = {"input": {}}, {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
    yield {"type": "message_start", "message": {**reply, "content": [], "stop_reason": None}}
    yield {"type": "content_block_start", "index": 0, "content_block": {**block, **start}}
    yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    yield {"type": "message_delta", "delta": {"stop_reason": reply["stop_reason"]}, "usage": USAGE}
    yield {"type": "message_stop"}


def gemini(body: Any) -> Asked:
    parts = [part for content in body["contents"] for part in content["parts"]]
    declared = [tool.get("functionDeclarations", []) for tool in body.get("tools", [])]
    return asked_by(
        [content["parts"] for content in body["contents"] if content["role"] == "user"],
        [function["name"] for functions in declared for function in functions],
        [part["functionResponse"] for part in parts if "functionResponse" in part],
    )


def gemini_reply(_: Any, answer: Answer) -> Any:
    part: dict[str, Any] = {"text": answer.text}
    if answer.tool:
        part = {"functionCall": {"name": answer.tool, "args": answer.arguments}}
    return {"candidates": [{"index": 0, "content": {"role": "model", "parts": [part]}, "finishReason": "STOP"}]}


APIS: dict[str, tuple[Callable[[Any], Asked], Callable[[Any, Answer], Any]]] = {
    "/responses": (responses, responses_reply),
    "/chat/completions": (completions, completions_reply),
    "/v1/messages": (messages, messages_reply),
    ":generateContent": (gemini, gemini_reply),
}


@dataclass
class Model:
    """All requests and answers, for tests."""

    requests: list[Any] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    """One request; its path says which API it uses."""

    protocol_version = "HTTP/1.1"
    model: Model

    def handle(self) -> None:
        """Ignore clients that disconnect."""
        with suppress(ConnectionError):
            super().handle()

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        path = self.path.partition("?")[0]
        read, reply = next((api for end, api in APIS.items() if path.endswith(end)), (None, None))
        if not (read and reply):
            return self.send(404, json.dumps({"error": {"message": f"{path} is not emulated"}}))
        try:
            body = json.loads(sent)
            answer = think(read(body))
        except (KeyError, TypeError, ValueError) as error:
            return self.send(400, json.dumps({"error": {"message": f"{type(error).__name__}: {error}"}}))
        self.model.requests.append(body)
        self.model.answers.append(answer)
        replied = reply(body, answer)
        if not body.get("stream"):
            return self.send(200, json.dumps(replied))
        if read is not messages:
            return self.send(400, json.dumps({"error": {"message": "streaming is not emulated"}}))
        events = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in messages_events(replied)]
        return self.send(200, "".join(events), "text/event-stream")

    def send(self, status: int, text: str, kind: str = "application/json") -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Write nothing: the terminal belongs to the example."""


@contextmanager
def serving(model: Model) -> Iterator[dict[str, str]]:
    """Serve the model on a loopback port; yields the environment variables with which a framework uses it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("ModelHandler", (Handler,), {"model": model}))
    address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield {
            "OPENAI_BASE_URL": f"{address}/v1",
            "OPENAI_API_KEY": "fake",
            "OPENAI_AGENTS_DISABLE_TRACING": "1",  # traces would go to OpenAI
            "ANTHROPIC_BASE_URL": address,
            "ANTHROPIC_API_KEY": "fake",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "GOOGLE_GEMINI_BASE_URL": address,
            "GOOGLE_API_KEY": "fake",
            "AGNO_TELEMETRY": "false",
        }
    finally:
        server.shutdown()
        server.server_close()


def main(command: list[str]) -> int:
    """Run a command with the model. Pictures are saved in the current folder: the sandbox ends with it."""
    if not command:
        sys.exit((__doc__ or "").partition("\n\nruns")[0])
    hosted = os.environ.get("MCP_SEEDREAM", "").startswith("http")
    with serving(Model()) as model:
        token = {"ACEDATACLOUD_API_TOKEN": "sandbox" if hosted else ""}  # a token that only a sandbox accepts
        environment = {"SEEDREAM_OUTPUT_DIR": ".", **os.environ, **model, **token}
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
