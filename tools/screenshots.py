"""The screenshots in docs/gallery: `.venv/bin/python -m tools.screenshots` takes them with the sandbox."""

from __future__ import annotations

import base64
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.catalog.table_file import read_table
from mcp_seedream.sandbox import drawing
from mcp_seedream.sandbox.app import Sandbox, running
from tests.support.gallery_host import Host, bundle, hosting

FOLDER = Path(__file__).parents[1] / "docs" / "gallery"
POSTER = drawing.Sketch("Autumn fair", "", 1600, 1200, variant=3, watermark=False)
FOX = "A red fox in fresh snow at dawn, low sun behind it, seen from the side"
PICTURE = base64.b64encode(drawing.encoded(drawing.picture(POSTER), "jpeg")).decode()
SET = {"sequential_image_generation": "auto", "sequential_image_generation_options": {"max_images": 4}}


@dataclass(frozen=True)
class Shot:
    """One screenshot: the arguments of the call, the buttons to press afterwards, and the options of the host."""

    arguments: dict[str, Any]
    state: str = "succeeded"
    press: tuple[str, ...] = ()
    type_in: str = ""
    loaded: str = "article img"
    host: dict[str, Any] = field(default_factory=dict)


SHOTS = {
    "placeholder": Shot({"prompt": f"{FOX} [sandbox:slow=30]", "size": "2560x1440"}, "running", loaded=""),
    "picture": Shot({"prompt": FOX, "size": "2560x1440"}),
    "dark": Shot({"prompt": FOX, "size": "2560x1440"}, host={"theme": "dark"}),
    "edit": Shot({"prompt": FOX, "size": "2560x1440"}, press=("Edit",), type_in="Make it a winter night with stars"),
    "set": Shot({"prompt": "A fox through the four seasons", **SET}, loaded=".cell img"),
    "layers": Shot(
        {"prompt": "", "image": [PICTURE], "layer_decomposition": True},
        loaded=".stack img",
        host={"tool": "edit_image"},
    ),
    "apart": Shot(
        {"prompt": "", "image": [PICTURE], "layer_decomposition": True},
        press=("Take apart",),
        loaded=".cell img",
        host={"tool": "edit_image"},
    ),
    "preview": Shot({"prompt": FOX, "size": "2560x1440"}, host={"image_hosts": ()}),
    "pending": Shot({"prompt": f"{FOX} [sandbox:slow=30]", "wait_seconds": 0}, "pending", loaded=""),
    "failed": Shot({"prompt": f"{FOX} [sandbox:failed]"}, "failed", loaded=""),
    "narrow": Shot({"prompt": FOX, "size": "2560x1440"}, host={"width": 320}),
}


async def take(shot: Shot, host: Host, path: Path) -> None:
    """Bring a host into the state of a screenshot, and take it."""
    if shot.state in ("running", "pending"):
        await host.begin(**shot.arguments)
    else:
        await host.call(**shot.arguments)
    await host.reaches(shot.state)
    for name in shot.press:
        await host.frame.get_by_role("button", name=name).first.click()
    if shot.type_in:
        await host.page.keyboard.type(shot.type_in)
    if shot.loaded:
        await host.loaded(shot.loaded)
    await host.page.wait_for_timeout(
        2500 if shot.state in ("running", "pending") else 300
    )  # until the host has set the height of the page
    await host.page.locator("iframe").screenshot(path=path, animations="disabled")


async def take_all(table: ModelTable, upstream: str) -> None:
    """Take all screenshots, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        script = bundle(Path(folder))
        for name, shot in SHOTS.items():
            async with hosting(table, upstream, script, **shot.host) as host:
                await take(shot, host, FOLDER / f"{name}.png")


def main() -> None:
    """Write the screenshots."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    table = read_table()
    with running(Sandbox(table, seconds=0.2)) as upstream:
        anyio.run(take_all, table, upstream)


if __name__ == "__main__":
    main()
