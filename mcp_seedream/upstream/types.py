"""What goes over the wire, as objects: the request as the upstream takes it, and what its replies are read into.

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
    """A checked request of `POST /seedream/images`: the JSON body, and how its answer comes."""

    model: str
    body: Mapping[str, Any]

    @classmethod
    def of(cls, table: ModelTable, model: Model, spec: ImageSpec) -> ImageRequest:
        """The request for a spec that `model` has been found to serve."""
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
        return bool(self.body.get("stream"))


def wrapped(table: ModelTable, name: str, value: Value) -> Any:
    """A bare value as the upstream, and our tools, take it."""
    parameter = table.parameters[name]
    inner: Any = {parameter.inside: value} if parameter.inside else value
    return [inner] if parameter.listed else inner


@dataclass(frozen=True, slots=True)
class Failure:
    """The upstream's words for what went wrong."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Image:
    """One finished picture: a link, or base64 where that was asked for; where it was saved; a layer's own fields."""

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
        """A layer's box in pixels of the base: left, top, right, bottom."""
        box = (self.bounding_box or {}).get("absolute")
        return box if isinstance(box, list) and len(box) == 4 else None


@dataclass(frozen=True, slots=True)
class Task:
    """A generation as it stands: `elapsed` is in seconds, `*_at` and `links_until` are Unix times.

    `request` is what the upstream says that it was asked for, where it says so; `typical_seconds` is how long pictures
    of its model usually take.
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
    """One line of a streamed answer: pictures, failed pictures, the end (`completed`), or just the task's ids."""

    images: tuple[Image, ...] = ()
    failures: tuple[Failure, ...] = ()
    completed: bool = False
    task_id: str | None = None
    trace_id: str | None = None
    usage: JSONObject | None = None
