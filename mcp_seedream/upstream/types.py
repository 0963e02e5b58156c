"""Dataclasses for requests to the upstream, and for the tasks, images and events in its responses.

Facts: the vendor's API documents of `POST /seedream/images` and `POST /seedream/tasks`, 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mcp_seedream.catalog.selection import ImageSpec, sent_options, sent_size
from mcp_seedream.catalog.table import Model, ModelTable, Value

State = Literal["pending", "succeeded", "failed"]
JSONObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """A validated request of `POST /seedream/images`, with its JSON body."""

    model: str
    body: Mapping[str, Any]

    @classmethod
    def of(cls, table: ModelTable, model: Model, spec: ImageSpec) -> ImageRequest:
        """The request for an image spec that `model` supports."""
        body: JSONObject = {"model": model.id}
        if spec.prompt.strip():
            body["prompt"] = spec.prompt
        if spec.images:
            body["image"] = list(spec.images)
        if size := sent_size(table, model, spec):
            body["size"] = size
        body |= {name: wrapped(table, name, v) for name, v in sent_options(table, model, spec).items()}
        if not body.get("stream") and not body.get("callback_url"):
            body["async"] = True
        return cls(model.id, body)

    @property
    def streams(self) -> bool:
        """Whether the response is a stream."""
        return bool(self.body.get("stream"))


def wrapped(table: ModelTable, name: str, value: Value) -> Any:
    """A parameter's value in the form of the upstream and the tools: in an object or a list if the table says so."""
    parameter = table.parameters[name]
    inner: Any = {parameter.object_key: value} if parameter.object_key else value
    return [inner] if parameter.in_list else inner


@dataclass(frozen=True, slots=True)
class Failure:
    """The upstream's error code and message."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Image:
    """A finished picture: its link or base64 data, the path it was saved to, and fields of a layer."""

    url: str | None
    b64_json: str | None = None
    size: str | None = None
    z_index: int | None = None
    name: str | None = None
    description: str | None = None
    bounding_box: JSONObject | None = None
    path: str | None = None

    @property
    def box(self) -> list[float] | None:
        """A layer's box in pixels of the base picture: left, top, right, bottom."""
        box = (self.bounding_box or {}).get("absolute")
        return box if isinstance(box, list) and len(box) == 4 else None


@dataclass(frozen=True, slots=True)
class Task:
    """The state of a generation. `elapsed` is in seconds; `*_at` and `links_until` are Unix times.

    `request` is the original request, if the upstream returns it. `typical_seconds` is how long pictures of the model
    usually take.
    """

    id: str
    state: State = "pending"
    images: tuple[Image, ...] = ()
    failures: tuple[Failure, ...] = ()
    error: Failure | None = None
    trace_id: str | None = None
    model: str | None = None
    prompt: str | None = None
    elapsed: float | None = None
    created_at: float | None = None
    finished_at: float | None = None
    links_until: float | None = None
    usage: JSONObject | None = None
    notes: tuple[str, ...] = ()
    request: JSONObject | None = None
    typical_seconds: float | None = None

    @property
    def ended(self) -> bool:
        return self.state != "pending"


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One line of a streamed response: pictures, failed pictures, the end (`completed`), or only the task's ids."""

    images: tuple[Image, ...] = ()
    failures: tuple[Failure, ...] = ()
    completed: bool = False
    task_id: str | None = None
    trace_id: str | None = None
    usage: JSONObject | None = None


def unix_time(value: Any) -> float | None:
    """A Unix time in seconds, from seconds or milliseconds; None unless it is between 2001 and 2100."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 1e9 < value < 4.1e12:
        return None
    seconds = value / 1000 if value > 1e11 else float(value)
    return seconds if 1e9 < seconds < 4.1e9 else None
