"""docs/icon.png, from the server's icon: `.venv/bin/python -m tools.icon` draws it (needs Chromium)."""

from __future__ import annotations

import io
import re
from pathlib import Path
from urllib.parse import unquote

import anyio
from PIL import Image

from mcp_seedream.server.descriptions import SERVER_ICON
from tests.support.browser import browsing

FILE = Path(__file__).parents[1] / "docs" / "icon.png"
SIZE = 512
"""Pixels per side, as Claude Desktop requires."""
_PAGE = """\
<body style="margin: 0"><svg xmlns="http://www.w3.org/2000/svg" width="{size}" height="{size}" viewBox="0 0 16 16">
  <defs><linearGradient id="sky" x2="0" y2="1"><stop stop-color="#0f9d92"/><stop offset="1" stop-color="#04605f"/>
  </linearGradient></defs>
  <rect width="16" height="16" rx="3.5" fill="url(#sky)"/>
  <path d="{shape}" fill="#fff" transform="translate(8 8.2) scale(.68) translate(-8 -8.5)"/>
</svg></body>"""


def page() -> str:
    """A page with the shape of the server's icon, large and white on a colour."""
    shape = re.search(r" d='([^']+)'", unquote(SERVER_ICON.src))
    assert shape is not None
    return _PAGE.format(size=SIZE, shape=shape[1])


async def draw(file: Path) -> None:
    """Write the icon, with transparent corners."""
    async with browsing(viewport={"width": SIZE, "height": SIZE}) as context:
        sheet = await context.new_page()
        await sheet.set_content(page())
        drawn = await sheet.screenshot(omit_background=True)
    with Image.open(io.BytesIO(drawn)) as image:
        image.save(file, optimize=True)


if __name__ == "__main__":
    anyio.run(draw, FILE)
