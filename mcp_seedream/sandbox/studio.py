"""The sandbox's pictures: their number, sizes and files, which are drawn on first request."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from mcp_seedream.catalog import dimensions
from mcp_seedream.catalog.selection import ImageSpec
from mcp_seedream.catalog.table import Model, ModelTable, side
from mcp_seedream.sandbox import drawing
from mcp_seedream.sandbox.faults import words_in

_MAX_FILES = 64
_LAYERS = ("subject", "headline", "ornament")
_SHAPES = ("3:2", "2:3", "4:3", "3:4", "16:9", "9:16", "21:9")
"""Aspect ratios for requests without one; the prompt determines which of them is used."""
_TOKEN_PIXELS = 256
"""Pixels per output token."""


@dataclass(slots=True)
class Job:
    """One accepted request. It knows when its pictures are ready.

    `seconds` is the time for one picture, and `created_at` a Unix time. `size` is the width and height of the `count`
    pictures. `refusal` is why the job ends without pictures.
    """

    id: str
    token: str
    spec: ImageSpec
    model: str
    body: dict[str, Any]
    seconds: float
    base_url: str
    size: tuple[int, int] = (0, 0)
    count: int = 1
    refusal: str | None = None
    created_at: float = field(default_factory=time.time)
    trace_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def words(self) -> dict[str, float]:
        return words_in(self.spec.prompt)

    @property
    def finished_at(self) -> float:
        pictures = 1 if self.refusal or self.spec.options.get("layer_decomposition") else self.count
        return self.created_at + self.words.get("slow", self.seconds) * pictures

    @property
    def finished(self) -> bool:
        return time.time() >= self.finished_at


class Studio:
    """Draws the pictures of jobs, and caches the newest files."""

    def __init__(self) -> None:
        self._files: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def size(self, job: Job, number: int) -> tuple[int, int]:
        """Width and height in pixels of picture `number`."""
        size = job.size
        if number and job.spec.options.get("layer_decomposition"):
            box = drawing.boxes(*size, len(_LAYERS))[number]
            return box[2] - box[0], box[3] - box[1]
        return size

    def is_png(self, job: Job, number: int) -> bool:
        is_requested = job.spec.options.get("output_format") == "png"
        return is_requested or bool(number and job.spec.options.get("layer_decomposition"))

    def layer(self, job: Job, number: int) -> dict[str, Any]:
        """The fields that only a layer has."""
        if not job.spec.options.get("layer_decomposition"):
            return {}
        if not number:
            return {"z_index": 0, "name": "base"}
        width, height = job.size
        box = drawing.boxes(width, height, len(_LAYERS))[number]
        scale = (width, height, width, height)
        normalized = [round(value * 1000 / side) for value, side in zip(box, scale, strict=True)]
        name = _LAYERS[number - 1]
        boxes = {"absolute": box, "normalized": normalized}
        return {"z_index": number, "name": name, "description": f"the {name}", "bounding_box": boxes}

    def usage(self, job: Job, failed: int = 0) -> dict[str, Any]:
        """The usage of a job with a number of failed pictures."""
        count = max(0, job.count - failed)
        sizes = [self.size(job, number) for number in range(count)]
        usage = {
            "generated_images": count,
            "input_images": len(job.spec.images),
            "output_tokens": sum(width * height for width, height in sizes) // _TOKEN_PIXELS,
        }
        return {**usage, "tool_usage": {"web_search": 1}} if job.spec.options.get("tools") else usage

    def file(self, job: Job, number: int, jobs: Mapping[str, Job]) -> bytes:
        """The bytes of picture `number`; its input pictures may be pictures of other `jobs`."""
        key = (job.id, number)
        with self._lock:
            if key not in self._files:
                image = self._draw(job, number, jobs)
                self._files[key] = drawing.encoded(image, "png" if self.is_png(job, number) else "jpeg")
                while len(self._files) > _MAX_FILES:
                    self._files.popitem(last=False)
            return self._files[key]

    def _draw(self, job: Job, number: int, jobs: Mapping[str, Job]) -> Image.Image:
        spec = job.spec
        width, height = job.size
        sketch = drawing.Sketch(
            words=spec.prompt,
            caption=f"{job.model}  {width}x{height}"
            + (f"  seed {spec.options['seed']}" if "seed" in spec.options else ""),
            width=width,
            height=height,
            variant=number + 1000 * int(spec.options.get("seed", 0)),
            watermark=bool(spec.options.get("watermark", True)),
        )
        if not spec.images:
            return drawing.picture(sketch)
        sources = [self._source(text, jobs) for text in spec.images]
        if spec.options.get("layer_decomposition"):
            box = drawing.boxes(width, height, len(_LAYERS))[number]
            return drawing.layer(sources[0], width, height, box)
        image = drawing.edited(sketch, sources)
        return drawing.cut_out(image) if spec.options.get("background") == "transparent" else image

    def _source(self, text: str, jobs: Mapping[str, Job]) -> Image.Image:
        """An input picture: from data, from a job, or a placeholder for other links."""
        if source := _picture_of_job(text, jobs):
            return self._draw(*source, jobs)
        with suppress(OSError, ValueError):
            if image := _decoded(text):
                image.load()
                return image
        return drawing.picture(drawing.Sketch(f"(a picture from {text[:60]})", "not fetched", 1024, 1024))


def picture_size(
    table: ModelTable, model: Model, spec: ImageSpec, jobs: Mapping[str, Job], *, squares: bool
) -> tuple[int, int]:
    """Width and height of a call's pictures, in pixels.

    Args:
        table: The capability table.
        model: The model that makes them.
        spec: The call; its size is `WIDTHxHEIGHT`, a named size, or None.
        jobs: The jobs whose pictures may be input pictures.
        squares: Whether a named size is a square, as on the vendor's page. Otherwise it is an area: its shape is that
            of the first input picture, or depends on the prompt.
    """
    if exact := dimensions.pixels(spec.size or ""):
        return exact
    area = side(spec.size or "")
    if squares and area:
        return area, area
    named = spec.size if area else None
    for shape in (_first_shape(spec, jobs), _shape_of_prompt(spec.prompt), "1:1"):
        if shape and (sides := dimensions.pixels(dimensions.size_for_ratio(table, model, shape, named) or "")):
            return sides
    square = area or side(table.named_sizes.default) or 2048
    return square, square


def _shape_of_prompt(prompt: str) -> str:
    return _SHAPES[hashlib.sha256(prompt.encode("utf-8", "replace")).digest()[0] % len(_SHAPES)]


def _first_shape(spec: ImageSpec, jobs: Mapping[str, Job]) -> str | None:
    """The aspect ratio of the first input picture; None if there is none, or it is unknown."""
    if not spec.images:
        return None
    if source := _picture_of_job(spec.images[0], jobs):
        return "{}:{}".format(*source[0].size)
    image = _decoded(spec.images[0])
    return f"{image.width}:{image.height}" if image else None


def _picture_of_job(text: str, jobs: Mapping[str, Job]) -> tuple[Job, int] | None:
    """The job and number of a linked picture; None for other links."""
    match = re.search(r"/pictures/([\w-]+)/(\d+)\.\w+$", text)
    job = jobs.get(match[1]) if match else None
    return (job, int(match[2])) if match and job else None


def _decoded(text: str) -> Image.Image | None:
    """A picture from base64 data, with its pixels not decoded yet; None for links and unreadable data."""
    if text.startswith(("http://", "https://")):
        return None
    try:
        return Image.open(io.BytesIO(base64.b64decode(text.partition("base64,")[2] or text)))
    except (binascii.Error, OSError, ValueError, Image.DecompressionBombError):
        return None
