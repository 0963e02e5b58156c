"""What the vendor's page names is sent as it is written: every model, size and parameter that is asked for by name."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from PIL import Image

from mcp_seedream.catalog.table import ModelTable
from tests.conftest import Session, Switch, answer, text
from tests.support.contract import faults
from tests.support.production import LITE, PRO, SEEDEDIT, T2I, V4, V5, V45, Production, Words

pytestmark = pytest.mark.anyio


class Documented(Production):
    """An upstream that takes everything the page names."""

    def _refusal(self, body: dict[str, Any]) -> Words | None:
        del body
        return None


@pytest.fixture
def documented(switch: Switch) -> Documented:
    switch.app = documented = Documented()
    return documented


@pytest.fixture
def session(table: ModelTable, switch: Switch, documented: Documented) -> Session:
    del documented
    return Session(table, switch.address)


def _png() -> str:
    """A PNG file with an alpha channel, as a data URI."""
    file = io.BytesIO()
    Image.new("RGBA", (64, 64), (9, 99, 9, 128)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


LINK = "https://cdn.acedata.cloud/a.png"
PNG = _png()
SIZES = {
    V5: "1K 2K 3K 4K adaptive 2048x2048 2560x1440 4096x4096",
    LITE: "1K 2K 3K 4K adaptive 3072x1600",
    PRO: "1K 1.5K 2K adaptive 1024x1024 1920x1080 1280x720",
    V45: "1K 2K 4K adaptive 2560x1440",
    V4: "1K 2K 4K adaptive 1024x1024 1280x720",
    T2I: "1K 2K 4K adaptive 512x512 2048x2048 1024x768",
    SEEDEDIT: "1K 2K 4K adaptive 512x768",
}
"""The named sizes of the page, and `WIDTHxHEIGHT` within its limits."""
PROMPTED = {"prompt": "A cat sitting on a windowsill at sunset"}
SET = {"sequential_image_generation": "auto", "sequential_image_generation_options": {"max_images": 3}}
EDIT = {"image": [LINK]}
EXAMPLES: list[dict[str, Any]] = [
    *[
        {"model": model, **PROMPTED, "size": size, **(EDIT if model == SEEDEDIT else {})}
        for model, sizes in SIZES.items()
        for size in sizes.split()
    ],
    *[{"model": model, **PROMPTED} for model in SIZES if model != SEEDEDIT],
    *[{"model": model, **PROMPTED, **EDIT} for model in SIZES if model != T2I],
    *[{"model": model, **PROMPTED, "image": [LINK, PNG]} for model in (V5, LITE, PRO, V45, V4)],
    {"model": V5, **PROMPTED, "image": [f"{LINK}?{n}" for n in range(14)]},
    {"model": PRO, **PROMPTED, "image": [f"{LINK}?{n}" for n in range(10)]},
    *[{"model": T2I, **PROMPTED, "seed": seed, "size": "1K"} for seed in (-1, 0, 42, 2147483647)],
    {"model": SEEDEDIT, **PROMPTED, **EDIT, "seed": 42, "guidance_scale": 5.5},
    *[{"model": T2I, **PROMPTED, "guidance_scale": scale} for scale in (1, 2.5, 10)],
    *[{"model": model, **PROMPTED, **SET} for model in (V5, LITE, V45, V4)],
    *[{"model": model, **PROMPTED, **SET, "stream": True} for model in (V5, LITE, V45, V4)],
    *[{"model": V5, **PROMPTED, "sequential_image_generation": "disabled", "stream": on} for on in (True, False)],
    *[{"model": V4, **PROMPTED, "watermark": watermark} for watermark in (True, False)],
    *[{"model": model, **PROMPTED, "output_format": kind} for model in (V5, LITE, PRO) for kind in ("jpeg", "png")],
    *[{"model": V45, **PROMPTED, "response_format": answered} for answered in ("url", "b64_json")],
    *[{"model": model, **PROMPTED, "tools": [{"type": "web_search"}]} for model in (V5, LITE)],
    *[{"model": m, **PROMPTED, "optimize_prompt_options": {"mode": "standard"}} for m in (V5, LITE, PRO, V45, V4)],
    *[{"model": model, **PROMPTED, "optimize_prompt_options": {"mode": "fast"}} for model in (PRO, V4)],
    {"model": PRO, **PROMPTED, "image": [PNG], "background": "transparent", "output_format": "png"},
    {"model": PRO, **PROMPTED, "image": [PNG], "background": "opaque"},
    *[
        {"model": PRO, **PROMPTED, "image": [PNG], "layer_decomposition": True, "size": size}
        for size in ("auto", "1K", "1.5K", "2K")
    ],
    {"model": PRO, "image": [PNG], "layer_decomposition": True},
    {"model": V5, **PROMPTED, "callback_url": "https://api.acedata.cloud/health"},
    {"model": V5, **PROMPTED, **EDIT, "size": "2K", "callback_url": "https://example.com/hook"},
]
"""Bodies as the page has them, each with a model by name."""
NEUTRAL: dict[str, Any] = {
    "seed": -1,
    "guidance_scale": 2.5,
    "sequential_image_generation": "disabled",
    "stream": False,
    "watermark": True,
    "output_format": "jpeg",
    "response_format": "url",
    "optimize_prompt_options": {"mode": "standard"},
    "background": "opaque",
}
"""Values that ask for nothing: they may be left out where no model was named."""


@pytest.mark.parametrize("body", EXAMPLES, ids=lambda body: " ".join(str(value)[:24] for value in body.values()))
async def test_it_is_sent_as_it_is_written(session: Session, documented: Documented, body: dict[str, Any]) -> None:
    """Nothing is left out, added or changed but how the answer comes; and there is a picture, without a warning."""
    result = await session.call("edit_image" if "image" in body else "generate_image", **body)
    assert not result.is_error, text(result)
    [sent] = documented.submits
    at_once = body.get("stream") or "callback_url" in body
    assert sent == (body if at_once else {**body, "async": True})
    assert faults(sent) == []
    assert answer(result)["model"] == body["model"]


async def test_without_a_model_it_is_the_same_but_for_that(session: Session, documented: Documented) -> None:
    """Each example, where a model is chosen that takes it."""
    bodies = [{name: value for name, value in body.items() if name != "model"} for body in EXAMPLES]
    for number, body in enumerate(bodies):
        tool = "edit_image" if "image" in body else "generate_image"
        result = await session.call(tool, **{**body, "prompt": f"fox {number}"}, wait_seconds=0)
        assert not result.is_error, (body, text(result))
        sent = documented.submits[-1]
        assert faults(sent) == [], sent
        asked = {name: value for name, value in body.items() if name != "prompt"}
        assert asked == {name: sent.get(name, NEUTRAL.get(name)) for name in asked}
    assert len(documented.submits) == len(bodies)
