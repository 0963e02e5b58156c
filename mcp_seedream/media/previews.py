"""Previews small enough for a chat: thumbnails, contact sheets and composed layers, made with Pillow.

The functions run in the decoder's subprocess. The parts of one preview are decoded one by one, to tiles, so that only
one of the original files is held at a time.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import BinaryIO

from PIL import Image, ImageDraw, ImageFont

from mcp_seedream.core.errors import InvalidArguments
from mcp_seedream.media.pixels import as_rgb, decode_within, open_image

PREVIEW_SIDE = 768
"""Longest side of a thumbnail, in pixels."""
PREVIEW_BYTES = 74_000
"""Largest file size of a preview in bytes: below 100 kB as base64."""
_GAP = 4  # pixels between the tiles of a contact sheet
_MAX_PIXELS = 20_000_000
"""Largest picture that is previewed; results have up to 16.8 million pixels."""


def thumbnail(source: BinaryIO) -> bytes:
    """Return a preview of a picture: WebP if it is transparent, otherwise JPEG.

    Raises:
        InvalidArguments: The file is not a picture, or has too many pixels.
    """
    return _encoded(_decoded(source, PREVIEW_SIDE))


def tile(source: BinaryIO, columns: int) -> bytes:
    """Return a picture scaled down for a preview with so many columns: a PNG if it is transparent, otherwise JPEG.

    Raises:
        InvalidArguments: The file is not a picture, or has too many pixels.
    """
    picture, file = _decoded(source, _tile_side(columns)), io.BytesIO()
    if picture.mode == "RGBA":
        picture.save(file, "PNG", compress_level=1)
    else:
        picture.save(file, "JPEG", quality=95)
    return file.getvalue()


def _tile_side(columns: int) -> int:
    return PREVIEW_SIDE // columns - (_GAP if columns > 1 else 0)


def contact_sheet(tiles: Sequence[BinaryIO]) -> bytes:
    """Return one preview of several pictures, in a grid with numbers from 1."""
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    pictures = [as_rgb(_decoded(tile, _tile_side(columns))) for tile in tiles]
    width, height = (max(picture.size[side] for picture in pictures) + _GAP for side in (0, 1))
    sheet = Image.new("RGB", (width * columns, height * rows), "white")
    draw = ImageDraw.Draw(sheet)
    for index, picture in enumerate(pictures):
        left, top = index % columns * width + _GAP // 2, index // columns * height + _GAP // 2
        sheet.paste(picture, (left, top))
        number = {"fill": "white", "stroke_width": 2, "stroke_fill": "black", "font": ImageFont.load_default(20)}
        draw.text((left + 6, top + 4), str(index + 1), **number)  # type: ignore[arg-type]
    return _encoded(sheet)


def composed(base: BinaryIO, size: tuple[int, int], layers: Sequence[tuple[BinaryIO, Sequence[float]]]) -> bytes:
    """Return one preview of a base picture with its layers.

    Args:
        base: The base picture's tile.
        size: The base picture's width and height.
        layers: Each layer's tile, and its box in pixels of the base: left, top, right, bottom.
    """
    scale = min(1, PREVIEW_SIDE / max(size))
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


def _decoded(source: BinaryIO, side: int) -> Image.Image:
    """Decode a picture, scaled down to a square of `side` pixels."""
    with open_image(source) as image:
        if image.width * image.height > _MAX_PIXELS:
            raise InvalidArguments(f"has {image.width}x{image.height} pixels, too many for a preview.")
        return decode_within(image, (side, side), keep_alpha=True)


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
