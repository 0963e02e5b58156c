"""An upstream with the behaviour of production, independent of the capability table.

Its facts are written by hand, from public reports and the vendor's and Ark's documents up to 2026-11. The package's
sandbox reads the capability table, so an error in the table would be in both; this upstream finds it.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

V5, LITE, PRO = "doubao-seedream-5-0-260128", "doubao-seedream-5-0-lite-260128", "doubao-seedream-5-0-pro-260628"
V45, V4 = "doubao-seedream-4-5-251128", "doubao-seedream-4-0-250828"
T2I, SEEDEDIT = "doubao-seedream-3-0-t2i-250415", "doubao-seededit-3-0-i2i-250628"
WITHDRAWN = (T2I, SEEDEDIT)

_ALL = {"model", "prompt", "image", "size", "watermark", "response_format", "callback_url", "async"}
_SETS = {"sequential_image_generation", "sequential_image_generation_options", "stream", "optimize_prompt_options"}


@dataclass(frozen=True)
class Facts:
    """Of one model: named sizes, the area of `WIDTHxHEIGHT` and the step of its sides, input images, own fields."""

    sizes: frozenset[str]
    area: tuple[int, int]
    images: int
    fields: frozenset[str]
    step: int = 1

    def takes(self, size: str | None) -> bool:
        """Whether production takes a size."""
        if size is None or size in self.sizes:
            return True
        found = re.fullmatch(r"(\d+)x(\d+)", size)
        if not found:
            return False
        width, height = map(int, found.groups())
        within = self.area[0] <= width * height <= self.area[1]
        return (
            within and max(width, height) <= 16 * min(width, height) and not (width % self.step or height % self.step)
        )


def _facts(sizes: str, least: int, most: int, images: int, fields: set[str], step: int = 1) -> Facts:
    return Facts(frozenset(sizes.split()), (least, most), images, frozenset(_ALL | fields), step)


_FIVE = _facts("2K 3K 4K", 3_686_400, 16_777_216, 14, _SETS | {"output_format", "tools"})
_PRO_FIELDS = {"output_format", "optimize_prompt_options", "background", "layer_decomposition"}
PRODUCTION: dict[str, Facts] = {
    V5: _FIVE,
    LITE: _FIVE,
    PRO: _facts("1K 1.5K 2K", 921_600, 4_624_220, 10, _PRO_FIELDS, step=16),
    V45: _facts("2K 4K", 3_686_400, 16_777_216, 14, _SETS),
    V4: _facts("1K 2K 4K", 921_600, 16_777_216, 14, _SETS),
}
"""What production takes since 2026-08-05."""

Words = tuple[str, str]
"""Code and message of an error; `{model}` and `{size}` in a message are those of the request."""

MODEL_WORDS: list[Words] = [
    ("bad_request", "model is invalid."),
    ("bad_request", "The model or endpoint {model} does not exist or you do not have access to it. Request id: 02176"),
    ("InvalidEndpointOrModel.NotFound", "The request failed."),
    ("bad_request", "The requested model {model} is not available."),
    ("api_error", "Model '{model}' has been retired"),
    ("ModelNotOpen", "Your account has not activated {model}. Please activate it in the Ark Console."),
]
"""How production, Ark and gateways say that a model is gone."""

SIZE_WORDS: list[Words] = [
    ("bad_request", "size must be one of 'WIDTHxHEIGHT', '2k', '3k', or '4k'"),
    ("bad_request", "the specified size is not supported for model"),
    ("bad_request", "image size must be at least 3686400 pixels"),
    ("InvalidParameter", "The parameter `size` specified in the request is not valid: {size}. Request id: 02176"),
    ("InvalidParameter", "{model} does not support the size {size}."),
    ("bad_request", "Invalid image size: {size}"),
]
"""How they say that a model does not take a size."""

Place = Literal["answer", "success", "task"]
"""Where a refusal comes: an HTTP status, HTTP 200 with `success: false`, or inside the accepted task."""


@dataclass
class Accepted:
    """A task: the request, and why it ends without a picture, if it does; each look-up brings it nearer to its end."""

    id: str
    body: dict[str, Any]
    error: Words | None
    looks: int


@dataclass
class Production:
    """The upstream as an ASGI app.

    `gone` are models that it refuses beside those it does not know, `refused` says which sizes it refuses beside those
    that a model does not take. `failure` is what every accepted task ends with, and `answer` what every submit is
    answered with. A task ends at the look-up of the number `looks`; look-ups are answered in the documented `shape`.
    While `held` is a number, the submit of that number (from 1) is not answered.
    """

    place: Place = "answer"
    status: int = 400
    model_words: Words = MODEL_WORDS[0]
    size_words: Words = SIZE_WORDS[0]
    gone: Collection[str] = ()
    refused: Callable[[str, str], bool] = lambda _model, _size: False
    failure: Words | None = None
    answer: tuple[int, Any] | None = None
    looks: int = 1
    shape: int = 1
    held: int = 0
    submits: list[dict[str, Any]] = field(default_factory=list)
    tasks: dict[str, Accepted] = field(default_factory=dict)
    looked: int = 0
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def billed(self) -> list[Accepted]:
        """The tasks that come to a picture."""
        return [task for task in self.tasks.values() if task.error is None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = json.loads(await request.body())
        respond = self._submit if request.url.path.endswith("/seedream/images") else self._look_up
        await (await respond(body))(scope, receive, send)

    async def _submit(self, body: dict[str, Any]) -> Response:
        self.submits.append(body)
        number = len(self.submits)
        if self.held == number:
            await anyio.to_thread.run_sync(self.released.wait, 20)
        if self.answer:
            return JSONResponse(self.answer[1], self.answer[0])
        error = self._refusal(body)
        if error and self.place == "answer":
            return JSONResponse(_failure(error), self.status)
        if error and self.place == "success":
            return JSONResponse({"success": False, **_failure(error)})
        task = Accepted(f"task-{number}", body, error or self.failure, self.looks)
        self.tasks[task.id] = task
        if body.get("stream"):
            return Response(_lines(task), media_type="application/x-ndjson")
        return JSONResponse({"task_id": task.id, "trace_id": "r"})

    def _refusal(self, body: dict[str, Any]) -> Words | None:
        """Why production refuses a request: its model, its size, or a field that the model does not have."""
        facts, size = PRODUCTION.get(body["model"]), body.get("size")
        names = {"model": body["model"], "size": str(size)}
        if facts is None or body["model"] in self.gone:
            return self.model_words[0], self.model_words[1].format(**names)
        layers = bool(body.get("layer_decomposition"))
        if not (facts.takes(size) or (layers and size == "auto")) or (size and self.refused(body["model"], size)):
            return self.size_words[0], self.size_words[1].format(**names)
        if unknown := set(body) - facts.fields:
            return "InvalidParameter", f"The parameter `{unknown.pop()}` specified in the request is not valid."
        if len(body.get("image", [])) > facts.images:
            return "InvalidParameter", "The parameter `image` specified in the request is not valid: too many."
        return None

    async def _look_up(self, body: dict[str, Any]) -> Response:
        ids = body.get("ids", [body.get("id")])
        found = [self._told(self.tasks[id_]) for id_ in ids if id_ in self.tasks]
        self.looked += 1
        if "ids" in body:
            return JSONResponse({"items": found, "count": len(found)})
        return JSONResponse(found[0] if found else {})

    def _told(self, task: Accepted) -> dict[str, Any]:
        task.looks -= 1
        if task.looks > 0:
            return {"id": task.id, "request": task.body, "response": {}}
        response = {"task_id": task.id, "trace_id": "r", **_outcome(task)}
        if self.shape == 2:
            return response
        return {"id": task.id, "request": task.body, "response": response, "finished_at": 1_800_000_000.0}


class Several:
    """Some of them on one port, each at a path of its own: `/NAME/seedream/…`."""

    def __init__(self, upstreams: Mapping[str, ASGIApp]) -> None:
        self._upstreams = upstreams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._upstreams[scope["path"].split("/")[1]](scope, receive, send)


def _failure(error: Words) -> dict[str, Any]:
    return {"error": {"code": error[0], "message": error[1]}, "trace_id": "r"}


def _outcome(task: Accepted) -> dict[str, Any]:
    if task.error:
        return {"success": False, **_failure(task.error)}
    options = task.body.get("sequential_image_generation_options") or {"max_images": 1}
    address = f"https://platform.cdn.acedata.cloud/seedream/{task.id}"
    pictures = [
        {"prompt": task.body.get("prompt", ""), "size": "2496x1664", "image_url": f"{address}-{number}.jpg"}
        for number in range(options["max_images"])
    ]
    return {"success": True, "data": pictures, "usage": {"generated_images": len(pictures)}}


def _lines(task: Accepted) -> str:
    """A streamed answer."""
    outcome = _outcome(task)
    if task.error:
        events = [{"type": "image_generation.partial_failed", "task_id": task.id, "error": outcome["error"]}]
    else:
        kind = "image_generation.partial_succeeded"
        events = [{"type": kind, "task_id": task.id, **picture} for picture in outcome["data"]]
    end = {"type": "image_generation.completed", "task_id": task.id}
    return "".join(json.dumps(event) + "\n" for event in (*events, end))
