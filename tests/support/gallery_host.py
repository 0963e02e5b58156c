"""A host of MCP Apps in a real browser: the official bridge, our page in its frame, and our server."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.async_api import ConsoleMessage, Frame, Page
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.settings import Settings
from mcp_seedream.hosting.app import bearer_token, build_app, wants_preview
from mcp_seedream.server.server import build_server
from mcp_seedream.server.tools import ToolDefaults
from mcp_seedream.upstream.client import SeedreamClient
from tests.conftest import INTERVAL, QUICK, TOKEN, serving
from tests.support.browser import browsing
from tests.support.node import GALLERY_HOST, node, npm_install

SOURCES = Path(__file__).parent / "host"
ABLE: dict[str, Any] = {
    "openLinks": {},
    "downloadFile": {},
    "serverTools": {},
    "updateModelContext": {"text": {}},
}
"""What a host says that it can do, unless a test says otherwise."""


_BUILD = (
    "require('esbuild').buildSync({{entryPoints: [{0}], bundle: true, format: 'esm', outfile: {1}, nodePaths: [{2}]}})"
)


def bundle(folder: Path) -> Path:
    """The host's script with the official packages in it, and `axe.js` beside it; skips where they can't be had."""
    modules = npm_install(GALLERY_HOST) / "node_modules"
    script = folder / "host.js"
    build = _BUILD.format(*(json.dumps(str(path)) for path in (SOURCES / "host.js", script, modules)))
    subprocess.run([str(node()[0]), "-e", build], check=True, cwd=modules.parent)
    shutil.copy(modules / "axe-core" / "axe.min.js", folder / "axe.js")
    return script


@dataclass
class Host:
    """A page of the host; `frame` is our own page in it."""

    page: Page
    noise: list[str] = field(default_factory=list)

    @property
    def frame(self) -> Frame:
        return self.page.frames[1]

    async def call(self, **arguments: Any) -> None:
        """Call the tool; the page hears what was asked, and what came."""
        await self.page.evaluate("(args) => window.call(args)", arguments)

    def begin(self, **arguments: Any) -> Any:
        """Call it, and do not wait for the answer."""
        return self.page.evaluate("(args) => { window.call(args) }", arguments)

    async def say(self, what: str, params: dict[str, Any]) -> None:
        """Have the bridge send a notification of its own."""
        await self.page.evaluate("([what, params]) => window.state.bridge[what](params)", [what, params])

    async def beside(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The result of a call that our page hears nothing of."""
        call = "([name, args]) => window.state.client.callTool({name, arguments: args})"
        result: dict[str, Any] = await self.page.evaluate(call, [tool, arguments])
        return result

    async def heard(self, name: str) -> list[Any]:
        """What our page asked the host for."""
        heard: list[list[Any]] = await self.page.evaluate("window.state.heard")
        return [params for asked, params in heard if asked == name]

    async def reaches(self, state: str, number: int = 0) -> None:
        """Wait until a card of the page is in a state."""
        await (
            self.frame.locator("article")
            .nth(number)
            .and_(self.frame.locator(f"article[data-state={state}]"))
            .wait_for(state="attached", timeout=20_000)
        )

    async def loaded(self, selector: str = "article img") -> None:
        """Wait until all such pictures are there."""
        await self.frame.wait_for_function(
            "(selector) => { const found = [...document.querySelectorAll(selector)];"
            "return found.length && found.every((one) => one.complete && one.naturalWidth) }",
            arg=selector,
            timeout=20_000,
        )


@asynccontextmanager
async def hosting(
    table: ModelTable,
    upstream: str,
    script: Path,
    *,
    tool: str = "generate_image",
    preview: bool = True,
    image_hosts: tuple[str, ...] | None = None,
    capabilities: dict[str, Any] | None = None,
    theme: str = "light",
    width: int = 720,
    before: str = "",
    answers: Sequence[dict[str, Any] | None] = (),
    previews: bool = True,
) -> AsyncIterator[Host]:
    """A host with our page open in it, for `tool`, connected to a server of ours over HTTP.

    `before` is a script that runs in each frame before its own; `answers` are what the first look-ups of our page get,
    instead of the server's (None: the server's); without `previews`, the host's policy allows no pictures as data.
    """
    server = build_server(
        table,
        lambda: SeedreamClient(upstream, retries=QUICK),
        token_of=bearer_token,
        defaults=ToolDefaults(20, wants_preview(preview)),
        look_interval=INTERVAL,
        image_hosts=(upstream,) if image_hosts is None else image_hosts,
    )
    app = _beside(build_app(server, Settings(_env_file=None)), script)  # type: ignore[call-arg]
    with serving(app) as address:
        async with browsing(viewport={"width": width, "height": 800}) as context:
            if before:
                await context.add_init_script(before)
            page = await context.new_page()
            host = Host(page)

            def note(message: ConsoleMessage) -> None:
                if message.type == "error":
                    host.noise.append(message.text)

            page.on("console", note)
            page.on("pageerror", lambda error: host.noise.append(str(error)))
            page.on("dialog", lambda dialog: host.noise.append(f"dialog: {dialog.message}"))
            await page.goto(f"{address}/host")
            given = {"theme": theme, "displayMode": "inline", "platform": "web"}
            start = {"token": TOKEN, "tool": tool, "capabilities": capabilities or ABLE, "context": given}
            await page.evaluate("(how) => window.start(how)", {**start, "answers": list(answers), "previews": previews})
            yield host


def _beside(app: ASGIApp, script: Path) -> ASGIApp:
    """The server's app with the host's page and script at the same origin, so that the page may call it."""
    files = {"/host": SOURCES / "host.html", "/host.js": script}

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (path := files.get(Request(scope).url.path)):
            await FileResponse(path)(scope, receive, send)
        else:
            await app(scope, receive, send)

    return serve
