"""The gallery in a host that somebody else wrote: the web app of the MCP Inspector, driven in a browser.

The Inspector starts the server itself, over stdio, and shows the page in two nested frames, the inner one without an
origin, under the content security policy that it makes of the page's own wishes.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from playwright.async_api import BrowserContext, ConsoleMessage, Dialog, FrameLocator, Locator, Page, Route, expect

from mcp_seedream.sandbox.app import Sandbox
from tests.conftest import TOKEN, submits
from tests.support.browser import PATIENCE, RERUN_ONCE, browsing, chromium_path
from tests.support.inspector import inspector_command, inspector_environment

pytestmark = [pytest.mark.anyio, RERUN_ONCE]

PROMPT = "a red fox <img src=x onerror=alert(1)>"
LONG = 3600
"""Seconds that a picture takes until a test lets it be finished."""


@dataclass
class Inspector:
    """A page of the Inspector, and what was complained about in any of its frames."""

    context: BrowserContext
    page: Page
    complaints: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    @property
    def stage(self) -> Locator:
        return self.page.get_by_test_id("apps-form")

    @property
    def gallery(self) -> FrameLocator:
        """Our page, inside of the Inspector's own frame."""
        return self.stage.frame_locator("iframe").frame_locator("iframe")

    def card(self, number: int) -> Locator:
        return self.gallery.locator("article").nth(number)

    def note(self, message: ConsoleMessage) -> None:
        # The Inspector allows no `data:` pictures, although the specification's own example does. The preview is one.
        # It is the picture behind the link that has to be seen all the same.
        if message.type in ("error", "warning") and not message.text.startswith("Loading the image 'data:image/"):
            self.complaints.append(message.text)

    async def agree(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        await dialog.accept()


@pytest.fixture
def address(request: pytest.FixtureRequest, tmp_path: Path, upstream: str) -> Iterator[str]:
    """Where an Inspector is that can start the server; the parameter is the protocol revision that it speaks."""
    chromium_path()  # before anything is started for it
    env = {"ACEDATACLOUD_API_BASE_URL": upstream, "SEEDREAM_IMAGE_HOSTS": upstream}
    env |= {"ACEDATACLOUD_API_TOKEN": TOKEN, "SEEDREAM_JOURNAL": "off"}
    server = {"type": "stdio", "command": sys.executable, "args": ["-m", "mcp_seedream"], "cwd": str(tmp_path)}
    servers = {"seedream": {**server, "env": env, "protocolEra": getattr(request, "param", "legacy")}}
    (tmp_path / "servers.json").write_text(json.dumps({"mcpServers": servers}), "utf-8")
    with inspecting(tmp_path) as address:
        yield address


@contextmanager
def inspecting(folder: Path) -> Iterator[str]:
    """Run the Inspector until it is done with; what it keeps, it keeps in the folder."""
    command = [*inspector_command(), "--web", "--config", str(folder / "servers.json")]
    port = _free_port()
    ports = {
        "HOST": "127.0.0.1",
        "CLIENT_PORT": str(port),
        "MCP_SANDBOX_PORT": "0",
        "MCP_APP_ORIGIN_PORT": "0",
        "MCP_AUTO_OPEN_ENABLED": "false",
    }
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        cwd=folder,
        env=inspector_environment(folder) | ports,
    )
    with process:
        try:
            yield _announced(process, port)
        finally:
            process.terminate()


def _free_port() -> int:
    """One that nobody has at this moment: the Inspector refuses to choose."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _announced(process: subprocess.Popen[str], port: int) -> str:
    """The address, with the token that the Inspector made for it, as soon as it says so."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if found := re.search(rf"http://127\.0\.0\.1:{port}\S*", line):
            return found[0]
    raise AssertionError(f"the Inspector ended: {''.join(said)}")


@asynccontextmanager
async def opened(address: str) -> AsyncIterator[Inspector]:
    """The Inspector's Apps tab, after it has connected to the server."""

    async def nothing(route: Route) -> None:
        await route.fulfill(body="", content_type="text/css")

    async with browsing(viewport={"width": 1280, "height": 1000}) as context:
        await context.route(re.compile("^https:"), nothing)  # fonts, from elsewhere
        page = await context.new_page()
        inspector = Inspector(context, page)
        page.on("console", inspector.note)
        page.on("pageerror", lambda error: inspector.complaints.append(str(error)))
        page.on("dialog", inspector.agree)
        await page.goto(address)
        await page.get_by_role("switch", name="seedream").press("Space")
        await expect(page.get_by_test_id("connection-status")).to_have_attribute("data-status", "connected")
        await page.locator("header").get_by_text("Apps", exact=True).click()
        yield inspector


async def run(inspector: Inspector, prompt: str) -> None:
    """Fill in the Inspector's form, and let it make the call."""
    await inspector.page.get_by_role("button", name="Generate an image").click()
    await inspector.stage.get_by_role("textbox", name="prompt").first.fill(prompt)
    await inspector.page.get_by_test_id("open-app").click()


async def finish(sandbox: Sandbox, number: int) -> None:
    """Make the picture of the call that has this number, as soon as the call has come."""
    with anyio.fail_after(PATIENCE / 1000):
        while len(sandbox.jobs) <= number:  # noqa: ASYNC110  (the sandbox is a thread)
            await anyio.sleep(0.05)
    list(sandbox.jobs.values())[number].seconds = 0


async def shows(card: Locator, sandbox: Sandbox, number: int) -> str:
    """Not the preview, but the picture behind the link, and it is loaded; tells the link."""
    await expect(card).to_have_attribute("data-state", "succeeded")
    await expect(card.locator(".frame")).to_have_attribute("data-shows", "picture")
    await expect(card.locator("img")).to_have_js_property("complete", value=True)
    job = list(sandbox.jobs.values())[number]
    link = f"{job.base_url}/pictures/{job.id}/0.jpg"
    assert await card.locator("img").evaluate("(img) => [img.src, img.naturalWidth > 0]") == [link, True]
    return link


@pytest.mark.parametrize("address", ["legacy", "modern"], indirect=True)
async def test_a_call_is_seen_from_its_beginning_and_can_be_repeated(address: str, sandbox: Sandbox) -> None:
    """Placeholder, then picture; the prompt stays text; the page's own call goes through the host to the server."""
    sandbox.seconds = LONG
    async with opened(address) as inspector:
        await run(inspector, PROMPT)
        card, again = inspector.card(0), inspector.card(1)
        await expect(card).to_have_attribute("data-state", "running")
        await expect(card.locator(".waiting")).to_be_visible()
        await finish(sandbox, 0)
        await shows(card, sandbox, 0)
        assert await card.get_by_role("heading").inner_text() == PROMPT
        assert await inspector.gallery.locator("img").count() == 1
        html = inspector.gallery.locator("html")
        height = await html.evaluate("(html) => Math.ceil(html.getBoundingClientRect().height)")
        await expect(inspector.stage.locator("iframe")).to_have_css("height", f"{height}px")
        await card.get_by_role("button", name="Vary: the same call again").click()
        await expect(again).to_have_attribute("data-state", "pending")
        await finish(sandbox, 1)
        await shows(again, sandbox, 1)
        assert [body["prompt"] for body in submits(sandbox)] == [PROMPT, PROMPT]
        assert (inspector.dialogs, inspector.complaints) == ([], [])


async def test_what_the_page_asks_for_the_host_does(address: str, sandbox: Sandbox) -> None:
    """A link opens, a download after a question, an edit is made; the page's colours follow the host's."""
    async with opened(address) as inspector:
        await run(inspector, PROMPT)
        card = inspector.card(0)
        link = await shows(card, sandbox, 0)
        for button in ("Open the picture", "Download the picture"):
            async with inspector.context.expect_page() as there:
                await card.get_by_role("button", name=button).click()
            assert (await there.value).url == link
            await inspector.page.bring_to_front()
        assert [link in question for question in inspector.dialogs] == [True]
        await card.get_by_role("button", name="Edit the picture").click()
        await card.get_by_role("textbox").fill("now in blue")
        await card.get_by_role("textbox").press("Enter")
        await shows(inspector.card(1), sandbox, 1)
        assert [body.get("image") for body in submits(sandbox)] == [None, [link]]
        await inspector.page.get_by_label("Toggle color scheme").click()
        await expect(inspector.gallery.locator("html")).to_have_css("color-scheme", "dark")
        assert await inspector.gallery.locator(".offer").count() == 0
        assert inspector.complaints == []
