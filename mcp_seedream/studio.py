"""The sandbox's studio: which pictures a job has, at what size, and their files. Drawn when first asked for."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import math
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Protocol

from PIL import Image

from mcp_seedream import drawing
from mcp_seedream.capabilities import side
from mcp_seedream.choosing import Wish

_KEPT = 64
_LAYERS = ("subject", "headline", "ornament")


class Commission(Protocol):
    """What the studio needs to know of a job."""

    @property
    def id(self) -> str: ...
    @property
    def wish(self) -> Wish: ...
    @property
    def model(self) -> str: ...


class Studio:
    """Draws the pictures of jobs, and keeps the newest files."""

    def __init__(self) -> None:
        self._files: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def size(self, job: Commission, number: int) -> tuple[int, int]:
        """Width and height in pixels of picture `number`."""
        whole = _dimensions(job.wish)
        if number and job.wish.options.get("layer_decomposition"):
            box = drawing.boxes(*whole, len(_LAYERS))[number]
            return box[2] - box[0], box[3] - box[1]
        return whole

    def is_png(self, job: Commission, number: int) -> bool:
        asked = job.wish.options.get("output_format") == "png"
        return asked or bool(number and job.wish.options.get("layer_decomposition"))

    def layer(self, job: Commission, number: int) -> dict[str, Any]:
        """The fields that only a layer has."""
        if not job.wish.options.get("layer_decomposition"):
            return {}
        if not number:
            return {"z_index": 0, "name": "base"}
        width, height = _dimensions(job.wish)
        box = drawing.boxes(width, height, len(_LAYERS))[number]
        scale = (width, height, width, height)
        normalized = [round(value * 1000 / side) for value, side in zip(box, scale, strict=True)]
        name = _LAYERS[number - 1]
        boxes = {"absolute": box, "normalized": normalized}
        return {"z_index": number, "name": name, "description": f"the {name}", "bounding_box": boxes}

    def file(self, job: Commission, number: int, jobs: Mapping[str, Commission]) -> bytes:
        """The bytes of picture `number`; `jobs` are those whose pictures may be its input."""
        key = (job.id, number)
        with self._lock:
            if key not in self._files:
                image = self._draw(job, number, jobs)
                self._files[key] = drawing.encoded(image, "png" if self.is_png(job, number) else "jpeg")
                while len(self._files) > _KEPT:
                    self._files.popitem(last=False)
            return self._files[key]

    def _draw(self, job: Commission, number: int, jobs: Mapping[str, Commission]) -> Image.Image:
        wish = job.wish
        width, height = _dimensions(wish)
        sketch = drawing.Sketch(
            words=wish.prompt,
            caption=f"{job.model}  {width}x{height}"
            + (f"  seed {wish.options['seed']}" if "seed" in wish.options else ""),
            width=width,
            height=height,
            variant=number + 1000 * int(wish.options.get("seed", 0)),
            watermark=bool(wish.options.get("watermark", True)),
        )
        if not wish.images:
            return drawing.picture(sketch)
        sources = [self._source(text, jobs) for text in wish.images]
        if wish.options.get("layer_decomposition"):
            box = drawing.boxes(width, height, len(_LAYERS))[number]
            return drawing.layer(sources[0], width, height, box)
        image = drawing.edited(sketch, sources)
        return drawing.cut_out(image) if wish.options.get("background") == "transparent" else image

    def _source(self, text: str, jobs: Mapping[str, Commission]) -> Image.Image:
        """An input picture: given as data, made here, or a stand-in for one that is elsewhere."""
        if made := re.search(r"/pictures/([\w-]+)/(\d+)\.\w+$", text):
            job, number = jobs.get(made[1]), int(made[2])
            if job is not None:
                return self._draw(job, number, jobs)
        if not text.startswith(("http://", "https://")):
            try:
                image = Image.open(io.BytesIO(base64.b64decode(text.partition("base64,")[2] or text)))
                image.load()
            except (binascii.Error, OSError, ValueError):
                pass
            else:
                return image
        return drawing.picture(drawing.Sketch(f"(a picture from {text[:60]})", "not fetched", 1024, 1024))


def _dimensions(wish: Wish) -> tuple[int, int]:
    """The size in pixels: `WIDTHxHEIGHT`, or so many K squared, or else 2K with a shape that the prompt decides."""
    size = wish.size or "2K"
    if exact := re.fullmatch(r"(\d+)x(\d+)", size):
        return int(exact[1]), int(exact[2])
    if square := side(size):
        return square, square
    ratio = 1 + hashlib.sha256(wish.prompt.encode("utf-8", "replace")).digest()[0] / 255
    height = int(math.sqrt(2048 * 2048 / ratio))
    return int(height * ratio), height
