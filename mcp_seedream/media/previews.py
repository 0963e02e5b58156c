"""Previews small enough for a chat: thumbnails, contact sheets and composed layers, made with Pillow.

The functions are synchronous and take paths or open files: run them in a thread.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from mcp_seedream.core.errors import InvalidArguments
from mcp_seedream.media.pixels import UNREADABLE, Source, as_rgb, decode_within, open_image

PREVIEW_SIDE = 768
"""Longest side of a thumbnail, in pixels."""
PREVIEW_BYTES = 74_000
"""Largest file size of a preview in bytes: below 100 kB as base64."""
_MAX_PIXELS = 20_000_000
"""Largest picture to decode in the server's process; results have up to 16.8 million pixels."""


def thumbnail(source: Source) -> bytes:
    """Return a preview of a picture: WebP if it is transparent, otherwise JPEG.

    Raises:
        InvalidArguments: The file is not a picture, or has too many pixels.
    """
    return _encoded(_decoded(source, PREVIEW_SIDE))


def contact_sheet(sources: Sequence[Source]) -> bytes:
    """Return one preview of several pictures, in a grid with numbers from 1.

    Raises:
        InvalidArguments: A file is not a picture, or has too many pixels.
    """
    columns = math.ceil(math.sqrt(len(sources)))
    rows = math.ceil(len(sources) / columns)
    pictures = [as_rgb(_decoded(source, PREVIEW_SIDE // columns - 4)) for source in sources]
    width, height = (max(picture.size[side] for picture in pictures) + 4 for side in (0, 1))
    sheet = Image.new("RGB", (width * columns, height * rows), "white")
    draw = ImageDraw.Draw(sheet)
    for index, picture in enumerate(pictures):
        left, top = index % columns * width + 2, index // columns * height + 2
        sheet.paste(picture, (left, top))
        number = {"fill": "white", "stroke_width": 2, "stroke_fill": "black", "font": ImageFont.load_default(20)}
        draw.text((left + 6, top + 4), str(index + 1), **number)  # type: ignore[arg-type]
    return _encoded(sheet)


def composed(base: Source, layers: Sequence[tuple[Source, Sequence[float]]]) -> bytes:
    """Return one preview of a base picture with its layers.

    Args:
        base: The base picture.
        layers: Each layer's file, and its box in pixels of the base: left, top, right, bottom.

    Raises:
        InvalidArguments: A file is not a picture, or has too many pixels.
    """
    with open_image(base) as whole:
        scale = min(1, PREVIEW_SIDE / max(whole.size))
    canvas = _decoded(base, PREVIEW_SIDE).convert("RGBA")
    for source, box in layers:
        left, top, right, bottom = (round(value * scale) for value in box)
        width, height = max(1, right - left), max(1, bottom - top)
        visible = max(0, left), max(0, top), min(left + width, canvas.width), min(top + height, canvas.height)
        if visible[0] >= visible[2] or visible[1] >= visible[3]:
            continue
        # Scale only the part on the canvas: a box may extend beyond it by any distance.
        layer = _decoded(source, PREVIEW_SIDE).convert("RGBA")
        x, y = layer.width / width, layer.height / height
        end = min(layer.width, (visible[2] - left) * x), min(layer.height, (visible[3] - top) * y)
        part = ((visible[0] - left) * x, (visible[1] - top) * y, *end)
        scaled = layer.resize((visible[2] - visible[0], visible[3] - visible[1]), box=part)
        canvas.alpha_composite(scaled, visible[:2])
    return _encoded(canvas)


def _decoded(source: Source, side: int) -> Image.Image:
    """Decode a picture, scaled down to a square of `side` pixels."""
    with open_image(source) as image:
        if image.width * image.height > _MAX_PIXELS:
            raise InvalidArguments(f"has {image.width}x{image.height} pixels, too many for a preview.")
        try:
            return decode_within(image, (side, side), keep_alpha=True)
        except UNREADABLE as error:
            raise InvalidArguments(f"can't be decoded ({str(error)[:200]}).") from error


def _encoded(picture: Image.Image) -> bytes:
    """Encode as WebP (with transparency) or JPEG, and scale down until the file has at most `PREVIEW_BYTES`."""
    transparent = picture.mode == "RGBA" and picture.getchannel("A").getextrema() != (255, 255)
    picture = picture if transparent else as_rgb(picture)
    while True:
        for quality in (82, 65, 45):
            file = io.BytesIO()
            picture.save(file, "WEBP" if transparent else "JPEG", quality=quality)
            if file.tell() <= PREVIEW_BYTES:
                return file.getvalue()
        picture = picture.resize((max(1, picture.width * 3 // 4), max(1, picture.height * 3 // 4)))
