"""The gallery in a real browser, in a host on the official bridge; and what the server says of it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.sandbox.app import Sandbox
from mcp_seedream.server import gallery
from tests.conftest import Session, submits
from tests.integration.test_tools import picture
from tests.support.browser import RERUN_ONCE
from tests.support.gallery_host import Host, bundle, hosting

pytestmark = [pytest.mark.anyio, RERUN_ONCE]
EVIL = "<img src=x onerror=alert(1)>"
TROUBLE = {
    "content": [],
    "isError": True,
    "structuredContent": {
        "status": "failed",
        "error": {"code": "busy", "message": "Busy just now.", "retryable": True},
    },
}
MARKS = "a red fox <b>bold</b> " + EVIL + " </script><script>alert(2)</script>"


@pytest.fixture(scope="session")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("host"))


Opening = Callable[..., AbstractAsyncContextManager[Host]]


@pytest.fixture
def opened(table: ModelTable, upstream: str, script: Path) -> Opening:
    """A host with the page in it; whatever went wrong in its console fails the test."""

    @asynccontextmanager
    async def open_host(*, noise: str = "$^", **options: Any) -> AsyncIterator[Host]:
        async with hosting(table, upstream, script, **options) as host:
            yield host
            # The official client asks for a stream first; the browser reports every status above 399.
            lines = [line for line in host.noise if "405 (Method Not Allowed)" not in line]
            assert [line for line in lines if not re.search(noise, line)] == []
            assert await host.page.evaluate("window.state.errors") == []

    return open_host


async def test_a_placeholder_and_then_the_picture(opened: Opening, sandbox: Sandbox) -> None:
    """Of the right shape, with the prompt, the model and the time gone; then the picture itself."""
    async with opened() as host:
        prompt = "a red fox [sandbox:slow=1.5]"
        await host.begin(prompt=prompt, size="2560x1440", model="doubao-seedream-4-5-251128")
        await host.reaches("running")
        card = host.frame.locator("article")
        box = await card.locator(".frame").bounding_box()
        assert box is not None
        assert box["width"] / box["height"] == pytest.approx(16 / 9, rel=0.02)
        assert await card.locator("h2").inner_text() == prompt
        assert re.search(r"Seedream 4.5 · 2560x1440 · Being made · \d s", await card.inner_text())
        assert await card.get_attribute("aria-busy") == "true"
        await host.reaches("succeeded")
        await host.frame.locator("[data-shows=picture]").wait_for()
        assert await host.frame.evaluate("document.querySelector('img').naturalWidth") == 2560
        assert "Seedream 4.5 · 2560x1440" in await card.locator(".about").inner_text()
        assert await card.locator("img").get_attribute("alt") == f"Picture: {prompt}"
        assert await card.get_attribute("aria-busy") == "false"


async def test_what_a_prompt_says_stays_text(opened: Opening) -> None:
    """No markup of it comes to life, in the title or in a label."""
    async with opened() as host:
        await host.call(prompt=MARKS, model="doubao-seedream-5-0-260128")
        await host.reaches("succeeded")
        await host.loaded()
        assert await host.frame.locator("h2").inner_text() == MARKS
        assert await host.frame.locator("img[src=x], h2 *").count() == 0


async def test_what_a_result_says_stays_text(opened: Opening, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor of what the upstream says, or of links that are none."""
    evil = {
        "status": "succeeded",
        "task_id": EVIL,
        "model": EVIL,
        "notes": [EVIL],
        "images": [
            {"url": "javascript:alert(1)", "size": EVIL, "name": EVIL, "path": EVIL},
            {"url": f"https://{EVIL}"},
        ],
    }
    result = {
        "content": [{"type": "image", "mimeType": "image/svg+xml", "data": "PHN2Zy8+"}],
        "structuredContent": evil,
    }
    async with opened(noise="violates|ERR_") as host:
        await host.say("sendToolResult", result)
        await host.reaches("succeeded")
        assert EVIL in await host.frame.locator("article").inner_text()
        assert (
            await host.frame.locator("img[src=x], img[src^=data], a, script:not([src]) ~ script ~ script").count() == 0
        )


async def test_vary_makes_the_same_call_again(opened: Opening, sandbox: Sandbox) -> None:
    """In a card of its own; what would repeat the picture is left out."""
    async with opened() as host:
        sandbox._as_documented = True  # production withdrew the models that take a seed
        asked = {"prompt": "a fox", "model": "doubao-seedream-3-0-t2i-250415", "seed": 7, "watermark": False}
        await host.call(**asked)
        await host.reaches("succeeded")
        assert "seed 7" in await host.frame.locator(".about").inner_text()
        await host.frame.get_by_role("button", name="Vary: the same call again").click()
        await host.reaches("succeeded", 1)
        await host.loaded()
        first, second = submits(sandbox)
        assert {**second, "seed": 7} == first
        told = (await host.heard("update-model-context"))[-1]
        assert "generate_image" in told["content"][0]["text"]
        assert len(await host.frame.locator("article").all()) == 2


async def test_edit_asks_what_to_change(opened: Opening, sandbox: Sandbox) -> None:
    """And edits that very picture."""
    async with opened() as host:
        await host.call(prompt="a fox", watermark=False)
        await host.reaches("succeeded")
        await host.frame.get_by_role("button", name="Edit the picture").click()
        words = host.frame.get_by_label("What should change?")
        await words.fill("make it blue")
        await words.press("Enter")
        await host.reaches("succeeded", 1)
        await host.loaded()
        made, edited = submits(sandbox)
        assert edited["prompt"] == "make it blue"
        assert re.search(r"/pictures/.+/0\.jpg$", edited["image"][0])
        assert (made["watermark"], edited["watermark"]) == (False, False)


async def test_an_edit_can_be_thought_better_of(opened: Opening, sandbox: Sandbox) -> None:
    """Nothing is sent for nothing."""
    async with opened() as host:
        await host.call(prompt="a fox")
        await host.reaches("succeeded")
        await host.frame.get_by_role("button", name="Edit the picture").click()
        words = host.frame.get_by_label("What should change?")
        await words.fill("  ")
        await words.press("Enter")
        await words.press("Escape")
        assert await host.frame.locator("textarea").count() == 0
        assert await host.frame.evaluate("document.activeElement.textContent") == "Edit"
        assert len(submits(sandbox)) == 1


async def test_larger_is_the_next_size(opened: Opening, sandbox: Sandbox) -> None:
    """Of the model's own entry: the picture itself where it edits; the largest has no larger one."""
    async with opened() as host:
        await host.call(prompt="a fox", model="doubao-seedream-5-0-260128", size="3K")
        await host.reaches("succeeded")
        await host.frame.get_by_role("button", name="Larger: 4K").click()
        await host.reaches("succeeded", 1)
        made, larger = submits(sandbox)
        width, height = map(int, larger["size"].split("x"))
        assert 0.97 * 4096**2 < width * height <= 4096**2
        assert larger["model"] == made["model"]
        assert re.search(r"/pictures/.+/0\.jpg$", larger["image"][0])
        await host.loaded()
        assert await host.frame.locator("article").nth(1).get_by_role("button", name="Larger").count() == 0


async def test_larger_where_the_model_does_not_edit(opened: Opening, sandbox: Sandbox) -> None:
    """The same call with the next size, and with what makes it repeatable; here of a model that a table of ours has."""
    sandbox._as_documented = True
    model = sandbox.table.by_id["doubao-seedream-3-0-t2i-250415"]
    model.sizes.extend(["1K", "2K"])
    try:
        async with opened() as host:
            await host.call(prompt="a fox", model=model.id, size="1024x1024", seed=3)
            await host.reaches("succeeded")
            await host.frame.get_by_role("button", name="Larger: 2K").click()
            await host.reaches("succeeded", 1)
            made, larger = submits(sandbox)
            assert larger == {**made, "size": "2048x2048"}
    finally:
        model.sizes.clear()


async def test_a_double_click_pays_once(opened: Opening, sandbox: Sandbox) -> None:
    """However quickly the first click was answered; a second spec a moment later is a second picture."""
    async with opened() as host:
        await host.call(prompt="a fox")
        await host.reaches("succeeded")
        vary = host.frame.get_by_role("button", name="Vary: the same call again").first
        await vary.dblclick(delay=60)
        await host.reaches("succeeded", 1)
        assert len(submits(sandbox)) == 2
        await host.frame.wait_for_function("!document.querySelector('[data-billed][aria-disabled=true]')")
        await vary.click()
        await host.reaches("succeeded", 2)
        assert len(submits(sandbox)) == 3


async def test_links_go_through_the_host(opened: Opening) -> None:
    """Opening and downloading are asked of it; the link can be copied."""
    async with opened() as host:
        await host.call(prompt="a fox")
        await host.reaches("succeeded")
        url = await host.page.evaluate("window.state.result.structuredContent.images[0].url")
        await host.frame.get_by_role("button", name="Open").click()
        await host.frame.get_by_role("button", name="Download").click()
        await host.frame.get_by_role("button", name="Copy").click()
        await host.frame.get_by_text("Copied", exact=True).wait_for()
        assert await host.heard("open-link") == [{"url": url}]
        assert await host.heard("download-file") == [
            {"contents": [{"type": "resource_link", "uri": url, "name": "0.jpg"}]}
        ]
        await host.page.evaluate("window.state.refuses = true")
        await host.frame.get_by_role("button", name="Open").click()
        assert await host.frame.get_by_label("The link").input_value() == url


async def test_larger_keeps_the_shape(opened: Opening, sandbox: Sandbox) -> None:
    """By its sides, whatever the named size would be."""
    async with opened() as host:
        await host.call(prompt="a fox", model="doubao-seedream-4-5-251128", size="2560x1440")
        await host.reaches("succeeded")
        await host.frame.get_by_role("button", name="Larger: 4K").click()
        await host.reaches("succeeded", 1)
        width, height = map(int, submits(sandbox)[1]["size"].split("x"))
        assert width / height == pytest.approx(16 / 9, rel=0.01)
        assert 0.98 * 4096**2 < width * height <= 4096**2


async def test_a_host_that_can_do_nothing(opened: Opening) -> None:
    """There are no buttons for what it does not offer."""
    async with opened(capabilities={"logging": {}}) as host:
        await host.call(prompt="a fox")
        await host.reaches("succeeded")
        assert await host.frame.get_by_role("button").all_inner_texts() == ["Copy link"]


async def test_a_blocked_picture_leaves_its_preview(opened: Opening) -> None:
    """Some hosts let nothing be loaded from outside."""
    async with opened(image_hosts=(), noise="violates|blocked") as host:
        await host.call(prompt="a fox")
        await host.reaches("succeeded")
        await host.frame.locator("[data-shows=preview]").wait_for()
        await host.loaded()
        assert (await host.frame.locator("article img").get_attribute("src") or "").startswith("data:image/jpeg")


async def test_a_blocked_picture_without_preview(opened: Opening) -> None:
    """It says so, and the link can be opened."""
    async with opened(image_hosts=(), preview=False, noise="violates|blocked") as host:
        await host.call(prompt="a fox")
        await host.reaches("succeeded")
        await host.frame.get_by_text("can't be loaded here").wait_for()
        assert await host.frame.get_by_role("button", name="Open").count() == 1


async def test_a_host_that_allows_not_even_previews(opened: Opening) -> None:
    """It is said that nothing can be loaded, and the picture comes if that is what is allowed."""
    async with opened(image_hosts=(), noise="violates|blocked", previews=False) as host:
        await host.call(prompt="a fox")
        await host.frame.locator("[data-shows=nothing]").get_by_text("can't be loaded here").wait_for()
        assert not await host.frame.locator("article img").is_visible()
    async with opened(noise="violates|blocked", previews=False) as host:
        await host.call(prompt="a fox")
        await host.frame.locator("[data-shows=picture] img").wait_for()
        await host.loaded()


@pytest.mark.parametrize("blocked", [False, True])
async def test_a_set_is_a_grid(opened: Opening, sandbox: Sandbox, blocked: bool) -> None:
    """Each picture its own; arrows move, Enter makes large, and buttons are for the one that is chosen."""
    asked = {"prompt": "foxes", "sequential_image_generation": "auto"}
    options = {"image_hosts": (), "noise": "violates|blocked"} if blocked else {}
    async with opened(**options) as host:
        await host.call(**asked, sequential_image_generation_options={"max_images": 4})
        await host.reaches("succeeded")
        if blocked:
            await host.loaded(".sheet")
            return
        await host.loaded(".cell img")
        cells = host.frame.get_by_role("option")
        assert await cells.count() == 4
        await cells.first.focus()
        for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
            await host.page.keyboard.press(key)
        assert [await cell.get_attribute("aria-selected") for cell in await cells.all()] == ["false", "true"] + [
            "false"
        ] * 2
        await host.page.keyboard.press("Enter")
        assert await host.frame.locator(".cell.open").count() == 1
        await host.page.keyboard.press("Escape")
        assert await host.frame.locator(".cell.open").count() == 0
        await host.frame.get_by_role("button", name="Open picture 2").click()
        [opened_link] = await host.heard("open-link")
        assert opened_link["url"].endswith("/1.jpg")
        await host.frame.get_by_role("button", name="Edit picture 2").click()
        await host.frame.get_by_label("What should change?").fill("blue")
        await host.page.keyboard.press("Enter")
        await host.reaches("succeeded", 1)
        assert submits(sandbox)[1]["image"][0].endswith("/1.jpg")


@pytest.mark.parametrize("blocked", [False, True])
async def test_layers_are_a_stack(opened: Opening, blocked: bool) -> None:
    """Each can be switched off, and all be taken apart."""
    options = {"image_hosts": (), "noise": "violates|blocked"} if blocked else {}
    async with opened(tool="edit_image", **options) as host:
        await host.call(prompt="", image=[picture(900)], layer_decomposition=True)
        await host.reaches("succeeded")
        if blocked:
            await host.loaded(".sheet")
            return
        await host.loaded(".stack img")
        layers = host.frame.locator(".stack img")
        assert await layers.count() == 4
        left = [await layer.evaluate("(one) => one.style.left") for layer in await layers.all()]
        assert len(set(left)) == 4
        await host.frame.get_by_role("checkbox").nth(1).uncheck()
        assert [await layer.is_visible() for layer in await layers.all()] == [True, False, True, True]
        await host.frame.get_by_role("button", name="Take apart").click()
        await host.loaded(".cell img")
        assert await host.frame.get_by_role("option").count() == 4
        assert not await host.frame.locator(".stack").is_visible()


async def test_a_failed_task_says_why(opened: Opening, sandbox: Sandbox) -> None:
    """And can be looked at again."""
    async with opened() as host:
        await host.call(prompt="a fox [sandbox:failed]")
        await host.reaches("failed")
        assert "sensitive information" in await host.frame.locator("article").inner_text()
        await host.frame.get_by_role("button", name="Look again").click()
        await host.reaches("failed")
        assert len(submits(sandbox)) == 1


async def test_a_refused_call_says_why(opened: Opening) -> None:
    """With the server's words."""
    async with opened() as host:
        await host.call(prompt="a fox", size="9K")
        await host.reaches("failed")
        assert "`size`" in await host.frame.locator("article").inner_text()


async def test_a_pending_task_is_looked_for(opened: Opening, sandbox: Sandbox) -> None:
    """Until its picture is there, and nothing is sent twice."""
    async with opened() as host:
        await host.call(prompt="a fox [sandbox:slow=1.5]", wait_seconds=0)
        await host.reaches("pending")
        assert "Still being made" in await host.frame.locator("article").inner_text()
        await host.reaches("succeeded")
        assert len(submits(sandbox)) == 1


async def test_a_task_that_is_looked_up_can_be_made_again(opened: Opening, sandbox: Sandbox) -> None:
    """Its prompt comes with the result."""
    async with opened(tool="get_task") as host:
        made = await host.beside("generate_image", prompt="an owl")
        await host.call(task_id=made["structuredContent"]["task_id"])
        await host.reaches("succeeded")
        assert await host.frame.locator("h2").inner_text() == "an owl"
        await host.frame.get_by_role("button", name="Vary: the same call again").click()
        await host.reaches("succeeded", 1)
        first, second = submits(sandbox)
        assert first == second


async def test_several_tasks_are_several_cards(opened: Opening) -> None:
    """One each, whatever became of them."""
    async with opened(tool="get_task") as host:
        ids = []
        for prompt in ("an owl", "a cat [sandbox:failed]", "a fox [sandbox:slow=2]"):
            made = await host.beside("generate_image", prompt=prompt, wait_seconds=0)
            ids.append(made["structuredContent"]["task_id"])
        await host.page.wait_for_timeout(500)
        await host.call(task_ids=ids, wait_seconds=0)
        await host.reaches("succeeded", 1)
        await host.reaches("failed", 2)
        await host.reaches("succeeded", 3)


async def test_a_call_that_is_stopped(opened: Opening, sandbox: Sandbox) -> None:
    """Its picture may be made all the same. What is called again is what was asked, not the half that came before."""
    async with opened() as host:
        await host.say("sendToolInputPartial", {"arguments": {"prompt": "a f"}})
        await host.frame.get_by_text("a f", exact=True).wait_for()
        await host.say("sendToolCancelled", {"reason": "no patience"})
        await host.reaches("stopped")
        assert await host.frame.get_by_role("button", name="Call again").count() == 0
        await host.say("sendToolInput", {"arguments": {"prompt": "a fox"}})
        await host.frame.get_by_role("button", name="Call again").click()
        await host.reaches("succeeded", 1)
        assert [body["prompt"] for body in submits(sandbox)] == ["a fox"]


async def test_a_result_without_structured_content(opened: Opening) -> None:
    """Some hosts rewrite results: the words are better than nothing."""
    async with opened() as host:
        words = {"content": [{"type": "text", "text": f"hello {EVIL}"}]}
        await host.say("sendToolResult", words)
        await host.frame.locator("article").get_by_text(f"hello {EVIL}").wait_for()


ODD: list[dict[str, Any]] = [
    {"model": "unknown-9", "images": [{"url": "https://x.example/100%.jpg", "size": "2048x2048"}]},
    {"images": [{"url": "https://x.example/1.jpg", "size": "2048x2048"}]},
    {"images": [None, {"url": 5}, {"url": "https://x.example/1.jpg"}, "x"], "notes": "x"},
    {"images": [{"url": "https://x.example/1.jpg", "size": 5}], "notes": [None, 5], "links_until": 5, "model": {}},
    {"images": [{"url": "https://x.example/1.jpg", "size": "0x0"}], "elapsed_seconds": "x", "error": "x"},
    {"images": [{"z_index": n, "bounding_box": {"absolute": 5}} for n in range(2)]},
    {"images": [{"z_index": n, "bounding_box": {"normalized": [0, 0, 1]}} for n in range(2)]},
]


@pytest.mark.parametrize("number", range(len(ODD)))
async def test_odd_fields_cost_no_picture(opened: Opening, number: int) -> None:
    """Whatever else stands in a result, its pictures are there, with their buttons."""
    async with opened(noise="violates|ERR_|blocked") as host:
        found = {"status": "succeeded", "task_id": "t", **ODD[number]}
        await host.say("sendToolResult", {"content": [], "structuredContent": found})
        await host.reaches("succeeded")
        assert await host.frame.locator("article img").count() >= 1
        assert await host.frame.get_by_role("button", name="Edit").count() == 1


@pytest.mark.parametrize("found", [{}, {"status": "toString"}, {"status": "succeeded", "images": 5}, {"tasks": [None]}])
async def test_results_that_are_none(opened: Opening, found: dict[str, Any]) -> None:
    """They end the waiting, without a claim."""
    async with opened() as host:
        await host.say("sendToolResult", {"content": [], "structuredContent": found})
        await host.reaches("message")
        assert "undefined" not in await host.frame.locator("body").inner_text()


async def test_a_look_that_fails_says_nothing_of_the_task(opened: Opening, sandbox: Sandbox) -> None:
    """It is still being made: nobody is asked to pay for another, and the next look finds it."""
    async with opened(answers=[TROUBLE, None]) as host:
        await host.call(prompt="a fox [sandbox:slow=1.5]", wait_seconds=0)
        await host.reaches("pending")
        await host.page.wait_for_function("window.state.looks > 1")
        assert await host.frame.get_by_role("button", name="Call again").count() == 0
        await host.reaches("succeeded")
        assert len(submits(sandbox)) == 1


async def test_looks_that_all_fail(opened: Opening) -> None:
    """After three, it is left to the person."""
    async with opened(answers=[TROUBLE] * 3) as host:
        await host.call(prompt="a fox [sandbox:slow=4]", wait_seconds=0)
        await host.frame.get_by_text("Busy just now").wait_for(timeout=20_000)
        assert await host.page.evaluate("window.state.looks") == 3
        await host.frame.get_by_role("button", name="Look again").click()
        assert await host.frame.evaluate("document.activeElement.tagName") == "ARTICLE"
        await host.reaches("succeeded")


async def test_looks_have_a_pause_between_them(opened: Opening) -> None:
    """However soon they are answered; and they end with the view."""
    pending = {"content": [], "structuredContent": {"status": "pending", "task_id": "t"}}
    async with opened(answers=[pending] * 99) as host:
        await host.say("sendToolResult", pending)
        await host.say("sendToolResult", pending)
        await host.page.wait_for_timeout(3000)
        assert await host.page.evaluate("window.state.looks") == 2
        await host.page.evaluate("window.state.bridge.teardownResource({})")
        await host.page.wait_for_timeout(3000)
        assert await host.page.evaluate("window.state.looks") == 2


async def test_a_listing_does_not_ask_for_all_at_once(opened: Opening) -> None:
    """Of twenty that are still being made, three are looked for; a listing that comes twice is there once."""
    pending = {"content": [], "structuredContent": {"status": "pending", "task_id": "t"}}
    tasks = [{"status": "pending", "task_id": f"t{n}", "prompt": f"fox {n}"} for n in range(20)]
    listing = {"content": [], "structuredContent": {"status": "succeeded", "tasks": tasks}}
    async with opened(tool="get_task", answers=[pending] * 99) as host:
        for _ in range(2):
            await host.say("sendToolResult", listing)
        await host.reaches("pending", 20)
        assert await host.page.evaluate("window.state.looks") == 3
        assert await host.frame.locator("article").count() == 21
        assert await host.frame.get_by_role("button", name="Look again").count() == 17


async def test_a_listing_has_links_and_files(opened: Opening) -> None:
    """As the journal tells them."""
    task = {"status": "succeeded", "task_id": "t", "prompt": "fox", "files": ["/pictures/fox.jpg"]}
    async with opened(tool="get_task") as host:
        listing = {"status": "succeeded", "tasks": [task]}
        await host.say("sendToolResult", {"content": [], "structuredContent": listing})
        await host.reaches("succeeded", 1)
        assert "/pictures/fox.jpg" in await host.frame.locator("article").nth(1).inner_text()


async def test_a_host_that_repeats_our_own_calls(opened: Opening) -> None:
    """What the view called itself is not taken for what it was opened for."""
    async with opened() as host:
        await host.call(prompt="a fox")
        await host.reaches("succeeded")
        before = await host.frame.locator("article").inner_text()
        await host.say("sendToolInput", {"arguments": {"prompt": "another"}})
        again = {"status": "succeeded", "task_id": "other", "images": [{"url": "https://x.example/2.jpg"}]}
        await host.say("sendToolResult", {"content": [], "structuredContent": again})
        await host.page.wait_for_timeout(300)
        assert await host.frame.locator("article").inner_text() == before


async def test_a_result_before_what_was_asked(opened: Opening) -> None:
    """The prompt is there, whenever it comes."""
    found = {"status": "succeeded", "task_id": "t", "images": [{"path": "/pictures/fox.jpg"}]}
    async with opened() as host:
        await host.say("sendToolResult", {"content": [], "structuredContent": found})
        await host.say("sendToolInput", {"arguments": {"prompt": "a fox", "seed": 5}})
        await host.frame.get_by_role("heading", name="a fox").wait_for()
        assert "seed 5" in await host.frame.locator(".about").inner_text()


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_light_and_dark(opened: Opening, theme: str) -> None:
    """As the host is, from the beginning and when it changes; its colours stand above ours, where they are whole."""
    brightness = "Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])"
    async with opened(theme=theme) as host:
        await host.call(prompt="a fox")
        await host.reaches("succeeded")
        assert (await host.frame.evaluate(brightness) > 128) == (theme == "light")
        other = "dark" if theme == "light" else "light"
        await host.say("sendHostContextChange", {"theme": other})
        await host.frame.wait_for_function(f"({brightness} > 128) === {str(other == 'light').lower()}")
        half = {"--color-background-primary": "rgb(1, 2, 3)"}
        await host.say("sendHostContextChange", {"styles": {"variables": {**half, "--ground": "red"}}})
        whole = {**half, "--color-text-primary": "rgb(9, 9, 9)", "--color-text-secondary": "rgb(8, 8, 8)"}
        assert await host.frame.evaluate("getComputedStyle(document.body).backgroundColor") not in (
            "red",
            "rgb(1, 2, 3)",
        )
        await host.say("sendHostContextChange", {"styles": {"variables": whole}})
        await host.frame.wait_for_function("getComputedStyle(document.body).backgroundColor === 'rgb(1, 2, 3)'")


@pytest.mark.parametrize("state", ["waiting", "picture", "set", "layers", "failed"])
async def test_it_is_accessible_and_narrow(opened: Opening, script: Path, state: str) -> None:
    """At 320 pixels nothing sticks out, and an accessibility checker finds nothing, in either theme."""
    asked: dict[str, dict[str, Any]] = {
        "waiting": {"prompt": "a fox [sandbox:slow=9]"},
        "picture": {"prompt": "a fox " + "x" * 200},
        "set": {"prompt": "foxes", "sequential_image_generation": "auto"},
        "layers": {"image": [picture(900)], "layer_decomposition": True},
        "failed": {"prompt": "a fox [sandbox:failed]"},
    }
    async with opened(tool="edit_image" if state == "layers" else "generate_image", width=320) as host:
        await (host.begin if state == "waiting" else host.call)(**asked[state])
        await host.reaches({"waiting": "running", "failed": "failed"}.get(state, "succeeded"))
        await host.frame.wait_for_function("document.documentElement.scrollWidth <= innerWidth")
        axe = (script.parent / "axe.js").read_text("utf-8")
        for theme in ("light", "dark"):
            await host.say("sendHostContextChange", {"theme": theme})
            await host.frame.evaluate(axe)
            found = await host.frame.evaluate("axe.run({resultTypes: ['violations']})")
            assert [(each["id"], node["html"]) for each in found["violations"] for node in each["nodes"]] == []


async def test_the_page_is_small_and_alone(table: ModelTable, upstream: str) -> None:
    """One file below 40 kB that loads nothing; its policy names the pictures' hosts and nothing else."""
    async with Session(table, upstream, image_hosts=["https://pictures.example.com"]).open() as client:
        [page] = (await client.read_resource(gallery.URI)).contents
        listed = {resource.uri: resource for resource in (await client.list_resources()).resources}
        tools = (await client.list_tools()).tools
    assert page.mime_type == "text/html;profile=mcp-app"
    html = getattr(page, "text", "")
    assert html == gallery.page(table)
    assert len(html.encode()) < 40_000
    tags = re.findall(r"<script[^>]*>", html)
    assert tags == ['<script type="application/json" id="table">', "<script>"]
    assert not re.search(
        r"\b(src|href|action)=|@import|url\(|\bimport\b|fetch\(|XMLHttpRequest|WebSocket|innerHTML|eval\(", html
    )
    meta = {
        "csp": {"resourceDomains": ["https://pictures.example.com"]},
        "permissions": {"clipboardWrite": {}},
        "prefersBorder": True,
    }
    assert page.meta == listed[gallery.URI].meta == {"ui": meta}
    for tool in tools:
        assert tool.meta == {"ui": {"resourceUri": gallery.URI}, "ui/resourceUri": gallery.URI}


async def test_what_the_page_knows_comes_from_the_table(table: ModelTable) -> None:
    """A new model is there without an edit, and can't break out of its script."""
    last = table.models[-1]
    new = last.model_copy(update={"id": "new-1", "name": "</script><b>", "sizes": ["1K", "9.5K", "adaptive"]})
    html = gallery.page(table.model_copy(update={"models": [*table.models, new]}))
    [known] = re.findall(r'id="table">(.*?)</script>', html)
    assert json.loads(known)["models"][-1] == {
        "id": "new-1",
        "name": "</script><b>",
        "edits": True,
        "sizes": [["1K", 1024**2], ["9.5K", 9728**2]],
    }
