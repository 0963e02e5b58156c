"""Conversion of aspect ratios to sizes in pixels, checked against an independent copy of the models' limits."""

from __future__ import annotations

import re

import pytest

from mcp_seedream.catalog.dimensions import aspect_ratio, pixels, size_for_ratio
from mcp_seedream.catalog.selection import ImageSpec, choose, sent_size
from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.errors import InvalidArguments
from tests.support.production import LITE, PRO, PRODUCTION, SEEDEDIT, T2I, V4, V5, V45

RATIOS = [
    *("1:1", "5:4", "4:5", "4:3", "3:4", "3:2", "2:3", "16:10", "10:16", "16:9", "9:16", "1.91:1", "1:1.91"),
    *("2:1", "1:2", "21:9", "9:21", "32:9", "4:1", "1:4", "8:1", "1:8", "16:1", "1:16"),
]
AREAS = {"1K": 1024**2, "1.5K": 1536**2, "2K": 2048**2, "3K": 3072**2, "4K": 4096**2}
SIZES = {V5: "2K 3K 4K", LITE: "2K 3K 4K", PRO: "1K 1.5K 2K", V45: "2K 4K", V4: "1K 2K 4K"}
SIDES = {T2I: (512, 2048), SEEDEDIT: (512, 2048)}
"""Models that production serves no longer have limits of sides, on the vendor's page."""


def width_by_height(ratio: str) -> float:
    width, height = map(float, ratio.split(":"))
    return width / height


def check(size: str | None, model: str, ratio: str) -> tuple[int, int]:
    """Check a size against a model's limits, and its ratio against the requested one."""
    assert size is not None
    found = re.fullmatch(r"(\d+)x(\d+)", size)
    assert found, size
    width, height = int(found[1]), int(found[2])
    assert width % 16 == height % 16 == 0
    assert width / height == pytest.approx(width_by_height(ratio), rel=0.02)
    assert max(width, height) <= 16 * min(width, height)
    if model in SIDES:
        assert SIDES[model][0] <= min(width, height)
        assert max(width, height) <= SIDES[model][1]
    else:
        assert PRODUCTION[model].takes(size)
    return width, height


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize(("model", "tier"), [(m, t) for m, tiers in SIZES.items() for t in [*tiers.split(), ""]])
def test_every_ratio_fits_at_every_size(table: ModelTable, model: str, tier: str, ratio: str) -> None:
    """The area is that of the named size, and about that of 2K without one."""
    width, height = check(size_for_ratio(table, table.by_id[model], ratio, tier or None), model, ratio)
    assert width * height == pytest.approx(AREAS[tier or "2K"], rel=0.06)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("model", SIDES)
@pytest.mark.parametrize("tier", ["1K", "2K", "4K", ""])
def test_a_ratio_fits_within_limits_of_sides(table: ModelTable, model: str, tier: str, ratio: str) -> None:
    """Ratios up to 4:1 fit; longer ones have no size."""
    size = size_for_ratio(table, table.by_id[model], ratio, tier or None)
    if max(width_by_height(ratio), 1 / width_by_height(ratio)) > 4:
        assert size is None
    else:
        check(size, model, ratio)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("tier", [*AREAS, None])
def test_a_call_without_a_model_gets_one_that_takes_the_shape(table: ModelTable, tier: str | None, ratio: str) -> None:
    """The chosen model accepts the size that is sent."""
    spec = ImageSpec("generate", "a fox", size=tier, aspect_ratio=ratio)
    model = choose(table, spec)
    check(sent_size(table, model, spec), model.id, ratio)


@pytest.mark.parametrize("ratio", ["17:1", "1:17", "100:1"])
def test_no_model_takes_a_longer_shape(table: ModelTable, ratio: str) -> None:
    """The call is rejected before a request is sent."""
    with pytest.raises(InvalidArguments, match="aspect_ratio"):
        choose(table, ImageSpec("generate", "a fox", aspect_ratio=ratio))


@pytest.mark.parametrize(
    ("text", "ratio"),
    [
        ("16:9", "16:9"),
        (" 16 : 9 ", "16:9"),
        ("16x9", "16:9"),
        ("16/9", "16:9"),
        ("1.91:1", "1.91:1"),
        ("Portrait", "2:3"),
        ("landscape", "3:2"),
        ("square", "1:1"),
        ("0:1", None),
        ("1:0", None),
        ("16:9:4", None),
        ("wide", None),
        ("-3:2", None),
    ],
)
def test_ratios_are_read(table: ModelTable, text: str, ratio: str | None) -> None:
    """Ratios in the forms that people write."""
    assert aspect_ratio(table, text) == ratio


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("1920x1080", (1920, 1080)),
        ("1920X1080px", (1920, 1080)),
        ("1024*1024", (1024, 1024)),
        ("1024 \N{MULTIPLICATION SIGN} 768 px", (1024, 768)),
        ("16x9", None),
        ("2K", None),
        ("0x1024", None),
        ("1024x", None),
    ],
)
def test_pixels_are_read(text: str, sides: tuple[int, int] | None) -> None:
    """Two small numbers are a ratio, not a size."""
    assert pixels(text) == sides
