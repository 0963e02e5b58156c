"""Previews: thumbnails, contact sheets and composed layers that fit a chat (Pillow).

Functions are plain and take paths or open files, so that they can run in a thread.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from mcp_seedream.core.errors import InvalidArguments
from mcp_seedream.media.pixels import UNREADABLE, Source, flat, header, loaded

PREVIEW_SIDE = 768
"""Longest side of a thumbnail, in pixels."""
PREVIEW_BYTES = 74_000
"""Bytes of a thumbnail's file: as base64 in an image block it stays below 100 kB."""
_PREVIEWABLE = (
    20_000_000  # pixels of a picture that is decoded in the server's own process: results have up to 16.8 million
)


def thumbnail(source: Source) -> bytes:
    """A preview: longest side 768 pixels, at most 74 kB, WebP where it is transparent and JPEG elsewhere.

    Raises:
        InvalidArguments: One is not a picture, or too large.
    """
    return _preview(_opened(source, PREVIEW_SIDE))


def contact_sheet(sources: Sequence[Source]) -> bytes:
    """Several pictures in a grid, numbered from 1, as one preview.

    Raises:
        InvalidArguments: One is not a picture, or too large.
    """
    columns = math.ceil(math.sqrt(len(sources)))
    rows = math.ceil(len(sources) / columns)
    pictures = [flat(_opened(source, PREVIEW_SIDE // columns - 4)) for source in sources]
    width, height = (max(picture.size[side] for picture in pictures) + 4 for side in (0, 1))
    sheet = Image.new("RGB", (width * columns, height * rows), "white")
    draw = ImageDraw.Draw(sheet)
    for index, picture in enumerate(pictures):
        left, top = index % columns * width + 2, index // columns * height + 2
        sheet.paste(picture, (left, top))
        number = {"fill": "white", "stroke_width": 2, "stroke_fill": "black", "font": ImageFont.load_default(20)}
        draw.text((left + 6, top + 4), str(index + 1), **number)  # type: ignore[arg-type]
    return _preview(sheet)


def composed(base: Source, layers: Sequence[tuple[Source, Sequence[float]]]) -> bytes:
    """Layers put back onto their base, as one preview; a layer's box is left, top, right, bottom in its pixels.

    Raises:
        InvalidArguments: One is not a picture, or too large.
    """
    with header(base) as whole:
        scale = min(1, PREVIEW_SIDE / max(whole.size))
    canvas = _opened(base, PREVIEW_SIDE).convert("RGBA")
    for source, box in layers:
        left, top, right, bottom = (round(value * scale) for value in box)
        width, height = max(1, right - left), max(1, bottom - top)
        seen = max(0, left), max(0, top), min(left + width, canvas.width), min(top + height, canvas.height)
        if seen[0] >= seen[2] or seen[1] >= seen[3]:
            continue
        # Only what lies on the base is scaled: a box may reach any distance beyond it.
        layer = _opened(source, PREVIEW_SIDE).convert("RGBA")
        x, y = layer.width / width, layer.height / height
        end = min(layer.width, (seen[2] - left) * x), min(layer.height, (seen[3] - top) * y)
        part = ((seen[0] - left) * x, (seen[1] - top) * y, *end)
        canvas.alpha_composite(layer.resize((seen[2] - seen[0], seen[3] - seen[1]), box=part), seen[:2])
    return _preview(canvas)


def _opened(source: Source, side: int) -> Image.Image:
    """The picture at no more than `side` pixels, decoded as small as its format allows."""
    with header(source) as image:
        if image.width * image.height > _PREVIEWABLE:
            raise InvalidArguments(f"has {image.width}x{image.height} pixels, too many for a preview.")
        try:
            return loaded(image, (side, side), keep_alpha=True)
        except UNREADABLE as error:
            raise InvalidArguments(f"can't be decoded ({str(error)[:200]}).") from error


def _preview(picture: Image.Image) -> bytes:
    transparent = picture.mode == "RGBA" and picture.getchannel("A").getextrema() != (255, 255)
    picture = picture if transparent else flat(picture)
    while True:
        for quality in (82, 65, 45):
            file = io.BytesIO()
            picture.save(file, "WEBP" if transparent else "JPEG", quality=quality)
            if file.tell() <= PREVIEW_BYTES:
                return file.getvalue()
        picture = picture.resize((max(1, picture.width * 3 // 4), max(1, picture.height * 3 // 4)))
