"""An upstream that responds at once, for tests that make hundreds of calls."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from mcp_seedream.catalog.table_file import read_table
from tests.conftest import LONG

TABLE = read_table()
_ITEM = {"url": "http://192.0.2.1/a.jpg"}  # neither public https nor the upstream's own: nobody fetches it
_DONE = {"type": "image_generation.completed", "task_id": "t1", "usage": {}, "data": [_ITEM]}


class AtOnce:
    """An ASGI app that takes every request and knows every task, finished; `requests` has path and body of all."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, Any]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).json()
        self.requests.append((scope["path"], body))
        await self._answer(scope["path"], body)(scope, receive, send)

    def _answer(self, path: str, body: Any) -> Response:
        if path == "/seedream/images":
            return JSONResponse(_DONE if body.get("stream") else {"task_id": "t1", "trace_id": "r1"})
        ids = body.get("ids", [body.get("id")])
        items = [{"id": id_, "response": {"success": True, "task_id": id_, "data": [_ITEM]}} for id_ in ids]
        return JSONResponse({"items": items} if "ids" in body else items[0])

    def submits(self) -> list[Any]:
        return [body for path, body in self.requests if path == "/seedream/images"]

    def look_ups(self) -> list[Any]:
        return [body for path, body in self.requests if path == "/seedream/tasks"]


def examples(ordinary: int) -> settings:
    """So many examples in an ordinary run, as many as the profile says with `--hypothesis-profile=long`."""
    most = settings().max_examples if settings.get_current_profile_name() == LONG else ordinary
    # One server serves all examples of a test, on purpose: what one leaves behind must not harm the next.
    shared = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=most, suppress_health_check=shared)
