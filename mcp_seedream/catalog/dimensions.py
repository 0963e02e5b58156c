"""Sizes in pixels: WIDTHxHEIGHT, aspect ratios, and the WIDTHxHEIGHT that a model makes of an aspect ratio.

Facts come from the capability table: a model's limits of pixels and sides, the areas of named sizes (`2K` is the
area of 2048x2048), and the step of computed sides.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from mcp_seedream.catalog.table import Model, ModelTable, number, side

_TIMES = r" *[xX*\N{MULTIPLICATION SIGN}\N{ASTERISK OPERATOR}] *"
_PIXELS = re.compile(rf"([1-9][0-9]{{0,5}})(?: *px)?{_TIMES}([1-9][0-9]{{0,5}})(?: *(?:px|pixels))?", re.IGNORECASE)
_NUMBER = r"([0-9]{1,5}(?:\.[0-9]{1,4})?)"
_RATIO = re.compile(rf" *{_NUMBER} *[:/\N{{RATIO}}] *{_NUMBER} *")
_RATIO_BY_TIMES = re.compile(rf" *{_NUMBER}{_TIMES}{_NUMBER} *")
_LARGEST_TERM = 100
"""Of a ratio: what is larger on both sides is a number of pixels."""
_TOLERANCE = 0.02
"""How far the ratio of computed sides may be from the one that was asked for."""


def pixels(size: str) -> tuple[int, int] | None:
    """Width and height of a `WIDTHxHEIGHT` ("1920x1080", "1024*1024 px"); None: it is something else."""
    found = _PIXELS.fullmatch(size.strip())
    sides = (int(found[1]), int(found[2])) if found else None
    return sides if sides and max(sides) >= _LARGEST_TERM else None


def aspect_ratio(table: ModelTable, text: str) -> str | None:
    """An aspect ratio as `WIDTH:HEIGHT`; None: it is none.

    It may be written as "16:9", "16x9", "1.91:1", by a name of the table, or as both: "portrait 4:5".
    """
    names = [name for name in table.aspect_ratios if re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE)]
    named = table.aspect_ratios[names[0]] if len(names) == 1 else None
    written = re.sub(rf"\b{re.escape(names[0])}\b|[()]", "", text, flags=re.IGNORECASE) if named else text
    written = written if written.strip() else named or ""
    found = _RATIO.fullmatch(written) or _RATIO_BY_TIMES.fullmatch(written)
    if not found or not all(float(term) > 0 for term in found.groups()):
        return None
    ratio = ":".join(number(float(term)) for term in found.groups())
    return ratio if named is None or _orientation(ratio) == _orientation(named) else None


def _orientation(ratio: str) -> int:
    """1 for a landscape, -1 for a portrait, 0 for a square."""
    width, height = map(float, ratio.split(":"))
    return (width > height) - (width < height)


def quotient(ratio: str) -> float:
    """Width divided by height of a ratio that `aspect_ratio` has read."""
    width, height = map(float, ratio.split(":"))
    return width / height


def complaint(table: ModelTable, model: Model, width: int, height: int) -> str | None:
    """Why a model does not take a `WIDTHxHEIGHT` ("must have …"), or None."""
    if model.sides and not (model.sides[0] <= min(width, height) and max(width, height) <= model.sides[1]):
        return f"must have sides from {model.sides[0]} to {model.sides[1]} pixels"
    if model.pixels and not model.pixels[0] <= width * height <= model.pixels[1]:
        return f"must have from {model.pixels[0]:,} to {model.pixels[1]:,} pixels, width x height"
    if max(width, height) > table.upstream_limits.aspect_ratio * min(width, height):
        return f"must not be more than {number(table.upstream_limits.aspect_ratio)} times as long as it is wide"
    return None


def shaped(table: ModelTable, model: Model, ratio: str, size: str | None) -> str | None:
    """The `WIDTHxHEIGHT` of an aspect ratio at a model, with the area of a named size; None: the model has none.

    Args:
        table: The capability table.
        model: Its limits are kept; where it has limits of sides, they come before the area.
        ratio: `WIDTH:HEIGHT`.
        size: A named size that is an area (`2K`); None: the table's default, as near as the model allows.
    """
    area = _area(model, size or table.named_sizes.default, wanted=size is not None)
    if area is None or not (model.pixels or model.sides):
        return None
    asked = quotient(ratio)
    long_by_short = max(asked, 1 / asked)
    if model.sides:
        low, high = model.sides[0] ** 2 * long_by_short, model.sides[1] ** 2 / long_by_short
        if low > high * (1 + _TOLERANCE):
            return None
        area = min(max(area, low), high)
    found = min(
        (
            (10 * abs(long / short / long_by_short - 1) + abs(long * short / area - 1), long, short)
            for long, short in _sides(area, long_by_short, table.named_sizes.side_multiple)
            if complaint(table, model, long, short) is None and abs(long / short / long_by_short - 1) <= _TOLERANCE
        ),
        default=None,
    )
    if found is None:
        return None
    _, long, short = found
    return f"{long}x{short}" if asked >= 1 else f"{short}x{long}"


def _area(model: Model, size: str, *, wanted: bool) -> float | None:
    """The pixels of a named size, held within a model's limits where nobody asked for that size."""
    square = side(size)
    if square is None:
        return None
    area = float(square * square)
    if not model.pixels:
        return area
    low, high = model.pixels
    if not wanted:
        return min(max(area, low), high)
    return area if low <= area <= high else None


def _sides(area: float, long_by_short: float, step: int) -> Iterator[tuple[int, int]]:
    """Sides that are multiples of `step`, near an area and a ratio: the long one, the short one."""
    nearest = round(math.sqrt(area / long_by_short) / step)
    for short in range(max(1, nearest - 4), nearest + 5):
        along = round(short * long_by_short)
        for long in (along - 1, along, along + 1):
            if long >= short:
                yield long * step, short * step
