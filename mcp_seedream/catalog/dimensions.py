"""Sizes in pixels: parses `WIDTHxHEIGHT` and aspect ratios, and computes a `WIDTHxHEIGHT` from an aspect ratio.

The limits of a model's pixels and sides come from the capability table. A named size such as `2K` is the area of a
square of 2048x2048 pixels.
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
"""A text such as "16x9" is an aspect ratio if both numbers are smaller than this, otherwise a size in pixels."""
_TOLERANCE = 0.02
"""Largest relative difference between a requested aspect ratio and that of the computed sides."""


def pixels(size: str) -> tuple[int, int] | None:
    """Parse a `WIDTHxHEIGHT` ("1920x1080", "1024*1024 px") into width and height; None for other texts."""
    match = _PIXELS.fullmatch(size.strip())
    sides = (int(match[1]), int(match[2])) if match else None
    return sides if sides and max(sides) >= _LARGEST_TERM else None


def aspect_ratio(table: ModelTable, text: str) -> str | None:
    """Parse an aspect ratio and return it as `WIDTH:HEIGHT`; None for other texts.

    Accepts "16:9", "16x9", "1.91:1", a name from the table, and a name with a ratio of the same orientation
    ("portrait 4:5").
    """
    names = [name for name in table.aspect_ratios if re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE)]
    named_ratio = table.aspect_ratios[names[0]] if len(names) == 1 else None
    numbers = re.sub(rf"\b{re.escape(names[0])}\b|[()]", "", text, flags=re.IGNORECASE) if named_ratio else text
    numbers = numbers if numbers.strip() else named_ratio or ""
    match = _RATIO.fullmatch(numbers) or _RATIO_BY_TIMES.fullmatch(numbers)
    if not match or not all(float(term) > 0 for term in match.groups()):
        return None
    ratio = ":".join(number(float(term)) for term in match.groups())
    return ratio if named_ratio is None or _orientation(ratio) == _orientation(named_ratio) else None


def _orientation(ratio: str) -> int:
    """Return 1 for a landscape ratio, -1 for portrait, 0 for square."""
    width, height = map(float, ratio.split(":"))
    return (width > height) - (width < height)


def quotient(ratio: str) -> float:
    """Return width divided by height of a `WIDTH:HEIGHT` ratio."""
    width, height = map(float, ratio.split(":"))
    return width / height


def violation(table: ModelTable, model: Model, width: int, height: int) -> str | None:
    """Return the model's limit that a `WIDTHxHEIGHT` exceeds ("must have ..."), or None if it exceeds none."""
    if model.sides and not (model.sides[0] <= min(width, height) and max(width, height) <= model.sides[1]):
        return f"must have sides from {model.sides[0]} to {model.sides[1]} pixels"
    if model.pixels and not model.pixels[0] <= width * height <= model.pixels[1]:
        return f"must have from {model.pixels[0]:,} to {model.pixels[1]:,} pixels, width x height"
    if max(width, height) > table.upstream_limits.aspect_ratio * min(width, height):
        ratio = number(table.upstream_limits.aspect_ratio)
        return f"must have an aspect ratio from 1:{ratio} to {ratio}:1"
    return None


def size_for_ratio(table: ModelTable, model: Model, ratio: str, size: str | None) -> str | None:
    """Compute the `WIDTHxHEIGHT` with an aspect ratio and the area of a named size.

    Args:
        table: The capability table.
        model: The result is within the model's limits. For a model with limits of sides, they override the area.
        ratio: `WIDTH:HEIGHT`.
        size: A named size with an area (`2K`). If None, the table's default, clamped to the model's limits.

    Returns:
        The size, or None if none within the model's limits fits.
    """
    area = _area(model, size or table.named_sizes.default, clamp=size is None)
    if area is None or not (model.pixels or model.sides):
        return None
    width_by_height = quotient(ratio)
    long_by_short = max(width_by_height, 1 / width_by_height)
    if model.sides:
        low, high = model.sides[0] ** 2 * long_by_short, model.sides[1] ** 2 / long_by_short
        if low > high * (1 + _TOLERANCE):
            return None
        area = min(max(area, low), high)
    # An error in the aspect ratio weighs ten times as much as one in the area.
    best = min(
        (
            (10 * abs(long / short / long_by_short - 1) + abs(long * short / area - 1), long, short)
            for long, short in _sides(area, long_by_short, table.named_sizes.side_multiple)
            if violation(table, model, long, short) is None and abs(long / short / long_by_short - 1) <= _TOLERANCE
        ),
        default=None,
    )
    if best is None:
        return None
    _, long, short = best
    return f"{long}x{short}" if width_by_height >= 1 else f"{short}x{long}"


def _area(model: Model, size: str, *, clamp: bool) -> float | None:
    """Return a named size's area in pixels; outside the model's limits, the nearest limit with `clamp`, else None."""
    square = side(size)
    if square is None:
        return None
    area = float(square * square)
    if not model.pixels:
        return area
    low, high = model.pixels
    if clamp:
        return min(max(area, low), high)
    return area if low <= area <= high else None


def _sides(area: float, long_by_short: float, step: int) -> Iterator[tuple[int, int]]:
    """Yield (long, short) sides that are multiples of `step`, near an area and a ratio."""
    nearest = round(math.sqrt(area / long_by_short) / step)
    for short in range(max(1, nearest - 4), nearest + 5):
        middle = round(short * long_by_short)
        for long in (middle - 1, middle, middle + 1):
            if long >= short:
                yield long * step, short * step
