"""Draws the sandbox's pictures with Pillow. Each shows its prompt, and depends on it."""

from __future__ import annotations

import colorsys
import hashlib
import io
import math
import random
import textwrap
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

Color = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Sketch:
    """A picture to draw: `words` is the text in the middle, `caption` the line below it; sides are in pixels."""

    words: str
    caption: str
    width: int
    height: int
    variant: int = 0
    watermark: bool = True


def picture(sketch: Sketch) -> Image.Image:
    """A picture from text: a landscape whose colours depend on the prompt, with the prompt in it."""
    rng = _random(sketch)
    canvas = _sky(sketch, rng)
    draw = ImageDraw.Draw(canvas, "RGB")
    radius = min(canvas.size) // rng.randint(6, 12)
    sun = (rng.uniform(0.15, 0.85) * canvas.width, rng.uniform(0.12, 0.4) * canvas.height)
    draw.circle(sun, radius, fill=_color(rng, 0.4, 1))
    for depth in range(3):
        draw.polygon(_hills(canvas.size, rng, depth), fill=_color(rng, 0.55, 0.75 - 0.2 * depth))
    _draw_text(canvas, sketch, height=0.5)
    return canvas


def edited(sketch: Sketch, sources: list[Image.Image]) -> Image.Image:
    """The given pictures side by side, visibly changed, at the requested size, with the prompt on top."""
    rng = _random(sketch)
    canvas = Image.new("RGB", (sketch.width, sketch.height))
    part = math.ceil(sketch.width / len(sources))
    for index, source in enumerate(sources):
        fitted = ImageOps.fit(source.convert("RGB"), (part, sketch.height))
        canvas.paste(fitted, (index * part, 0))
    tint = Image.new("RGB", canvas.size, _color(rng, 0.8, 0.9))
    canvas = ImageEnhance.Contrast(Image.blend(canvas, tint, 0.35)).enhance(1.2)
    _draw_text(canvas, sketch, height=0.25)  # above the words that the source may have in its middle
    return canvas


def boxes(width: int, height: int, count: int) -> list[list[int]]:
    """The boxes of a picture's layers, [left, top, right, bottom] in pixels: the base, then `count` more."""
    step = width // (count + 1)
    across = [(index * step + step // 4, (index + 1) * step + step // 4) for index in range(count)]
    return [[0, 0, width, height], *([left, height // 5, right, height * 4 // 5] for left, right in across)]


def layer(source: Image.Image, width: int, height: int, box: list[int]) -> Image.Image:
    """The part of the source inside the box, after scaling the source to the size, as a transparent cut-out."""
    base = ImageOps.fit(source.convert("RGBA"), (width, height))
    return base if box == [0, 0, width, height] else cut_out(base.crop((box[0], box[1], box[2], box[3])))


def cut_out(image: Image.Image) -> Image.Image:
    """The picture with its surroundings made transparent."""
    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).ellipse((0, 0, image.width - 1, image.height - 1), fill=255)
    image = image.convert("RGBA")
    image.putalpha(mask)
    return image


def encoded(image: Image.Image, file_format: str) -> bytes:
    """The bytes of a JPEG or PNG file."""
    file = io.BytesIO()
    if file_format == "png":
        image.save(file, "PNG", compress_level=1)
    else:
        image.convert("RGB").save(file, "JPEG", quality=85)
    return file.getvalue()


def _random(sketch: Sketch) -> random.Random:
    digest = hashlib.sha256(f"{sketch.words}\n{sketch.variant}".encode("utf-8", "replace")).digest()
    return random.Random(digest)  # noqa: S311  (the same prompt gives the same picture; nothing secret)


def _sky(sketch: Sketch, rng: random.Random) -> Image.Image:
    ramp = Image.linear_gradient("L").resize((sketch.width, sketch.height))
    return ImageOps.colorize(ramp, _color(rng, 0.7, 0.95), _color(rng, 0.3, 1))


def _hills(size: tuple[int, int], rng: random.Random, depth: int) -> list[tuple[float, float]]:
    width, height = size
    level, swing = height * (0.55 + 0.14 * depth), height * 0.07
    phase, waves = rng.uniform(0, 6), rng.uniform(1, 3)
    line = [(x, level + swing * math.sin(phase + waves * 6.28 * x / width)) for x in range(0, width + 16, 16)]
    return [(0, height), *line, (width, height)]


def _color(rng: random.Random, saturation: float, value: float) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), saturation, value)
    return int(red * 255), int(green * 255), int(blue * 255)


def _draw_text(canvas: Image.Image, sketch: Sketch, *, height: float) -> None:
    """Draw the prompt at a height from 0 (top) to 1, the caption, and the mark in the corner."""
    draw = ImageDraw.Draw(canvas)
    size = max(12, min(canvas.size) // 18)
    words = "\n".join(textwrap.wrap(sketch.words[:280], max(8, int(canvas.width / size * 1.7))) or [""])
    middle = (canvas.width / 2, canvas.height * height)
    edge = max(1, size // 14)
    font = ImageFont.load_default(size)
    style = {"anchor": "mm", "fill": "white", "stroke_fill": "black"}
    draw.multiline_text(middle, words, font=font, align="center", stroke_width=edge, **style)  # type: ignore[arg-type]
    small = ImageFont.load_default(max(10, size // 2))
    below = (canvas.width / 2, canvas.height - size)
    draw.text(below, sketch.caption, font=small, stroke_width=max(1, edge // 2), **style)  # type: ignore[arg-type]
    if sketch.watermark:
        corner = (canvas.width - size / 2, size / 2)
        draw.text(corner, "AI generated", font=small, anchor="rt", fill="white", stroke_width=1, stroke_fill="black")
