"""The consent page: its content, its protection, and the sign-in at the vendor."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.oauth.store import MemoryStore, Store
from mcp_seedream.oauth.vendor import CREDENTIAL, Vendor
from mcp_seedream.sandbox.app import Sandbox
from mcp_seedream.sandbox.vendor_sign_in import CLIENT_ID
from tests.conftest import answer, serving
from tests.support.browser import browsing
from tests.support.dance import (
    CLAUDE,
    KEY,
    Hosted,
    Kept,
    Person,
    Raw,
    answer_in,
    form_of,
    hosted,
    link_back,
    official,
    vendor_link,
)

pytestmark = pytest.mark.anyio


def with_vendor(
    table: ModelTable, upstream: str, seconds: float = 30, store: Store | None = None
) -> AbstractContextManager[Hosted]:
    """An endpoint where people can sign in at the sandbox."""
    return hosted(
        table,
        upstream,
        vendor=lambda public: Vendor(CLIENT_ID, upstream, upstream, f"{public}/oauth/callback", seconds),
        store=store,
    )


@pytest.fixture
def server(table: ModelTable, upstream: str) -> Iterator[Hosted]:
    with with_vendor(table, upstream) as server:
        yield server


@pytest.fixture
async def raw(server: Hosted) -> AsyncIterator[Raw]:
    """A registered client."""
    async with httpx.AsyncClient(timeout=30) as web:
        raw = Raw(server.address, web)
        await raw.register()
        yield raw


async def test_what_the_page_says(raw: Raw) -> None:
    """It shows the client and its redirect URI, and forbids caching, framing and scripts."""
    page = await Person().look(raw.url())
    assert "<strong>Claude</strong>" in page.text
    assert "<strong>claude.ai</strong>" in page.text
    assert 'type="password" autocomplete="off"' in page.text
    assert "<script" not in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'; style-src 'unsafe-inline'; form-action 'self' https://claude.ai;" in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["x-frame-options"] == "DENY"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cache-control"] == "no-store"
    cookie = page.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie


async def test_the_cookie_of_a_public_address(table: ModelTable, upstream: str) -> None:
    """It is sent over https only, and other hosts can't set it."""
    with hosted(table, upstream, public_url="https://seedream.example.com") as server:
        async with httpx.AsyncClient() as web:
            raw = Raw(server.address, web)
            await raw.register()
            to = (await web.get(raw.url(resource="https://seedream.example.com/mcp"))).headers["location"]
            assert to.startswith("https://seedream.example.com/consent?")
            page = await web.get(to.replace("https://seedream.example.com", server.address))
    cookie = page.headers["set-cookie"]
    assert cookie.startswith("__Host-")
    assert "Secure" in cookie
    assert "Path=/;" in cookie


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "</strong><img src=x onerror=alert(1)>", "$form \"'&"])
async def test_markup_in_names_stays_text(raw: Raw, name: str) -> None:
    """A client may register any name."""
    await raw.register(client_name=name)
    page = (await Person().look(raw.url())).text
    assert "<script" not in page
    assert "<img" not in page
    assert ("&lt;" in page) == ("<" in name)


async def test_names_are_one_short_line(raw: Raw) -> None:
    """Characters that hide others or change the text direction are removed."""
    await raw.register(client_name="Cl\u202eau\x00de\n\n" + "x" * 500)
    page = (await Person().look(raw.url())).text
    assert "<strong>Claudexxx" in page or "<strong>Claude xxx" in page
    assert "x" * 61 not in page
    await raw.register(client_name=None)
    assert "(no name)" in (await Person().look(raw.url())).text


async def test_a_problem_in_the_address_is_one_of_ours(raw: Raw) -> None:
    """The page shows only our own messages."""
    page = await Person().look(raw.url())
    text = (await Person().look(f"{page.url}&problem=<b>You+have+won</b>")).text
    assert "won" not in text


async def test_a_wrong_key(raw: Raw, sandbox: Sandbox) -> None:
    """The same page says so; then a valid key is accepted, with whitespace and quotes around it."""
    person = Person(key="invalid")
    page = await person.look(raw.url())
    for person.key in ("invalid", "", "two words", "x" * 600):
        page = await person.decide(page)
        assert page.status_code == 400
        assert "does not know this API key" in page.text
    person.key = f'  "Bearer {KEY}" '
    response = await person.decide(page)
    assert response.status_code == 303
    assert response.headers["location"].startswith(f"{CLAUDE}?code=")
    assert {path for path, _, _ in sandbox.requests} == {"/seedream/tasks"}


@pytest.mark.parametrize("key", ["your-api-key", "${ACEDATACLOUD_API_TOKEN}", "<your token>"])
async def test_a_placeholder_is_no_key(raw: Raw, sandbox: Sandbox, key: str) -> None:
    """The page says so, and the placeholder is not sent."""
    person = Person(key=key)
    page = await person.decide(await person.look(raw.url()))
    assert (page.status_code, "is a placeholder" in page.text) == (400, True)
    assert sandbox.requests == []


async def test_a_token_of_ours_is_no_key(raw: Raw, sandbox: Sandbox) -> None:
    """It is not sent upstream, in any quotes."""
    person = Person()
    tokens = (await raw.exchange(await raw.code(person))).json()
    page = await person.look(raw.url())
    sandbox.requests.clear()
    access = tokens["access_token"]
    for person.key in (access, tokens["refresh_token"], raw.id, f'Bearer "{access}"', f"'{access}", f"key={access}"):
        page = await person.decide(page)
        assert page.status_code == 400
        assert "a token of this server" in page.text
    assert sandbox.requests == []


async def test_the_upstream_is_not_there(table: ModelTable) -> None:
    """Then a key can't be checked, and none is accepted."""
    with hosted(table, "http://127.0.0.1:9") as server:
        async with httpx.AsyncClient() as web:
            raw, person = Raw(server.address, web), Person()
            await raw.register()
            page = await person.decide(await person.look(raw.url()))
    assert page.status_code == 503
    assert "The key could not be checked" in page.text


async def test_cancel(raw: Raw) -> None:
    """The client gets `access_denied`, and no code."""
    person = Person(key="")
    response = await person.decide(await person.look(raw.url()), "cancel")
    told = answer_in(response.headers["location"])
    assert response.headers["location"].startswith(CLAUDE)
    assert (told["error"], told["state"], told["iss"]) == ("access_denied", raw.state, raw.address)


async def test_a_form_is_for_the_browser_it_was_shown_in(raw: Raw) -> None:
    """Without this browser's cookie, or with another one, no code is issued, nor after sign-in at the vendor."""
    person, other = Person(), Person()
    page = await person.look(raw.url())
    await other.look(raw.url())
    for somebody in (other, Person()):
        response = await somebody.decide(page)
        assert (response.status_code, response.headers.get("location")) == (403, None)
        response = await somebody.look(str(page.url.join(vendor_link(page.text))))
        assert response.status_code == 403
    assert (await person.decide(page)).status_code == 303


@pytest.mark.parametrize(
    "headers", [{"origin": "https://evil.example.com"}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "none"}]
)
async def test_a_form_comes_from_our_page(raw: Raw, headers: dict[str, str]) -> None:
    """A form from another site is refused."""
    person = Person()
    page = await person.look(raw.url())
    assert (await person.decide(page, **headers)).status_code == 403
    good = {"origin": raw.address, "sec-fetch-site": "same-origin"}
    assert (await person.decide(page, **good)).status_code == 303


async def test_what_is_no_form_of_ours(raw: Raw) -> None:
    """A form that was changed, has another kind or is missing leads to an error page."""
    person = Person()
    page = await person.look(raw.url())
    form = form_of(page.text)
    transaction = answer_in(str(page.url))["transaction"]
    for wrong in ("", "sdm_form_", form[:-5] + "AAAAA", transaction, raw.id):
        response = await person.ask("POST", f"{raw.address}/consent", data={"form": wrong, "key": KEY})
        assert (response.status_code, response.headers.get("location")) == (400, None)
        assert "connect again" in response.text
    assert (await person.look(f"{raw.address}/consent?transaction={form}")).status_code == 400
    assert (await person.ask("POST", f"{raw.address}/consent", content=b"x" * 100_000)).status_code == 413


async def test_the_official_client_with_the_vendors_sign_in(server: Hosted, sandbox: Sandbox) -> None:
    """The key is created in the person's account with our name, and is sent upstream."""
    async with official(server.endpoint, Person(at_vendor=True), Kept()) as client:
        result = await client.call_tool("generate_image", {"prompt": "a fox"})
    assert answer(result)["status"] == "succeeded"
    [credential] = sandbox.accounts.credentials
    assert credential["name"] == CREDENTIAL
    assert {token for _, token, _ in sandbox.requests} == {credential["token"]}


async def test_what_is_there_at_the_vendor_is_used_again(raw: Raw, sandbox: Sandbox) -> None:
    """Any number of sign-ins uses one application and one credential."""
    for _ in range(2):
        await raw.code(Person(at_vendor=True))
    assert (len(sandbox.accounts.applications), len(sandbox.accounts.credentials)) == (1, 1)


async def test_the_vendors_key_is_nowhere_to_be_read(
    raw: Raw, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is the vendor's access token."""
    caplog.set_level(logging.DEBUG)
    person = Person(at_vendor=True)
    tokens = await raw.exchange(await raw.code(person))
    [credential] = sandbox.accounts.credentials
    for secret in (credential["token"], *sandbox.accounts.tokens):
        for text in [*person.seen, tokens.text, caplog.text]:
            assert secret not in text


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("denied", "sign-in at AceDataCloud was cancelled"),
        ("refused", "did not accept the sign-in"),
        ("html", "sign-in at AceDataCloud failed"),
        ("empty", "sign-in at AceDataCloud failed"),
        ("odd", "sign-in at AceDataCloud failed"),
    ],
)
async def test_what_goes_wrong_at_the_vendor(raw: Raw, sandbox: Sandbox, trouble: str, words: str) -> None:
    """The person is shown the consent page again, which works as before."""
    sandbox.accounts.fault = trouble
    person = Person()
    page = await person.look(raw.url())
    page = await person.look(str(page.url.join(vendor_link(page.text))))
    assert page.status_code == 200
    assert words in page.text
    assert (await person.decide(page)).status_code == 303


async def test_a_vendor_that_takes_too_long(table: ModelTable, upstream: str, sandbox: Sandbox) -> None:
    """The callback stops waiting, and the consent page says so."""
    sandbox.accounts.fault = "slow"
    with with_vendor(table, upstream, seconds=0.5) as server:
        async with httpx.AsyncClient() as web:
            raw, person = Raw(server.address, web), Person()
            await raw.register()
            page = await person.look(raw.url())
            page = await person.look(str(page.url.join(vendor_link(page.text))))
    assert page.status_code == 200
    assert "took too long" in page.text


async def test_a_vendor_that_is_not_there(table: ModelTable, upstream: str) -> None:
    """The consent page says that the sign-in failed."""
    nowhere = Vendor(CLIENT_ID, upstream, "http://127.0.0.1:9", "")
    with hosted(table, upstream, vendor=lambda public: replace(nowhere, callback=f"{public}/oauth/callback")) as server:
        async with httpx.AsyncClient() as web:
            raw, person = Raw(server.address, web), Person()
            await raw.register()
            page = await person.look(raw.url())
            page = await person.look(str(page.url.join(vendor_link(page.text))))
    assert "sign-in at AceDataCloud failed" in page.text


async def test_the_vendors_answer_is_for_who_left(raw: Raw, upstream: str) -> None:
    """It is valid once and in the same browser; an unknown state leads to an error page."""
    person, other = Person(), Person()
    page = await person.look(raw.url())
    away = await person.ask("GET", str(page.url.join(vendor_link(page.text))))
    assert away.headers["location"].startswith(f"{upstream}/oauth2/authorize?")
    back = (await person.ask("GET", away.headers["location"])).headers["location"]
    await other.look(raw.url())
    for strange in (other, Person()):
        response = await strange.ask("GET", back)
        assert (response.status_code, response.headers.get("location")) == (403, None)
    for state in ("y", "", "\u00e4", "sdm_away_"):
        response = await person.ask("GET", f"{raw.address}/oauth/callback", params={"code": "x", "state": state})
        assert (response.status_code, response.headers.get("location")) == (400, None)
    assert (await person.ask("GET", back)).headers["location"].startswith(f"{CLAUDE}?code=")
    response = await person.ask("GET", back)
    assert (response.status_code, response.headers.get("location")) == (403, None)


async def test_the_cookie_of_who_left_is_of_no_use_to_another(raw: Raw) -> None:
    """Nor for the same person a second time, since the vendor's code is used up."""
    person, other = Person(), Person()
    page = await person.look(raw.url())
    away = await person.ask("GET", str(page.url.join(vendor_link(page.text))))
    back = (await person.ask("GET", away.headers["location"])).headers["location"]
    kept = person.cookies["sdm_away"]
    await other.look(raw.url())
    other.cookies.set("sdm_away", kept, domain="127.0.0.1")
    assert (await other.ask("GET", back)).status_code == 403
    assert "code=" in (await person.ask("GET", back)).headers["location"]
    assert "sdm_away" not in person.cookies
    person.cookies.set("sdm_away", kept, domain="127.0.0.1")
    again = await person.ask("GET", back)
    assert again.headers["location"].startswith(f"{raw.address}/consent?")
    assert "problem=vendor_refused" in again.headers["location"]


async def test_of_two_that_left_the_second_counts(raw: Raw) -> None:
    """A browser has one cookie for this, so the second redirect replaces the first."""
    person = Person()
    page = await person.look(raw.url())
    backs = []
    for _ in range(2):
        away = await person.ask("GET", str(page.url.join(vendor_link(page.text))))
        cookie = away.headers["set-cookie"]
        assert cookie.startswith("sdm_away=")
        assert "HttpOnly" in cookie
        assert "Max-Age=1800" in cookie
        assert "SameSite=lax" in cookie
        backs.append((await person.ask("GET", away.headers["location"])).headers["location"])
    assert (await person.ask("GET", backs[0])).status_code == 400
    assert (await person.ask("GET", backs[1])).headers["location"].startswith(f"{CLAUDE}?code=")


async def test_nothing_is_stored_before_there_is_a_key(table: ModelTable, upstream: str) -> None:
    """With a full store, a person can be redirected to the vendor; only issuing the code fails."""
    with with_vendor(table, upstream, store=MemoryStore(max_entries=0)) as server:
        async with httpx.AsyncClient() as web:
            raw, person = Raw(server.address, web), Person()
            await raw.register()
            page = await person.look(raw.url())
            for _ in range(5):
                away = await person.ask("GET", str(page.url.join(vendor_link(page.text))))
                assert away.headers["location"].startswith(f"{upstream}/oauth2/authorize?")
            back = (await person.ask("GET", away.headers["location"])).headers["location"]
            assert (await person.ask("GET", back)).status_code == 503


@pytest.mark.parametrize("state", ["x" * 1000, "\u00e4" * 500, "\U0001f98a" * 250, '"' * 500])
async def test_the_longest_that_a_client_asks_fits_a_cookie(raw: Raw, state: str) -> None:
    """Browsers accept cookies of up to 4096 bytes."""
    await raw.register(client_name="\U0001f98a" * 60, redirect_uris=["https://a.example/" + "x" * 282])
    raw.state, person = state, Person(at_vendor=True)
    assert answer_in(await person.sign_in(raw.url()))["state"] == state
    page = await person.look(raw.url())
    away = await person.ask("GET", str(page.url.join(vendor_link(page.text))))
    assert 1800 < len(away.headers["set-cookie"].partition(";")[0]) < 3500


@pytest.mark.parametrize("state", ["x" * 1001, "\u00e4" * 501, '"' * 501, "\x00" * 200])
async def test_a_state_that_is_too_long(raw: Raw, state: str) -> None:
    """The limit counts bytes, as in the cookie."""
    told = answer_in(link_back((await raw.web.get(raw.url(state=state))).text))
    assert told["error"] == "invalid_request"


async def test_without_the_vendor_there_is_only_the_key(table: ModelTable, upstream: str) -> None:
    """The page has no button for the vendor, and the vendor's routes do not exist."""
    with hosted(table, upstream) as server:
        async with httpx.AsyncClient() as web:
            raw, person = Raw(server.address, web), Person()
            await raw.register()
            page = await person.look(raw.url())
            assert "<div hidden>" in page.text
            form = form_of(page.text)
            assert (await person.ask("GET", f"{server.address}/consent/vendor?form={form}")).status_code == 404
            assert (await person.ask("GET", f"{server.address}/oauth/callback?state=x")).status_code == 404


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_in_a_browser(server: Hosted, raw: Raw, scheme: str) -> None:
    """In a narrow window and by keyboard: a wrong key, a valid key, the redirect; the page obeys its own policy."""
    arrived: list[str] = []

    async def arrive(scope: Scope, receive: Receive, send: Send) -> None:
        arrived.append(scope["query_string"].decode())
        await PlainTextResponse("back at the application")(scope, receive, send)

    with serving(arrive, lifespan="off") as client:
        await raw.register(redirect_uris=[client.replace("127.0.0.1", "localhost") + "/callback"])
        async with browsing(viewport={"width": 320, "height": 640}, color_scheme=scheme) as context:
            page = await context.new_page()
            noise: list[str] = []
            page.on("console", lambda said: noise.append(said.text))
            await page.goto(raw.url())
            assert await page.evaluate("document.documentElement.scrollWidth") == 320
            back, ink = await page.evaluate(COLOURS)
            assert (luminance(back) < luminance(ink)) == (scheme == "dark")
            await page.get_by_label("Your AceDataCloud API key").fill("invalid")
            await page.keyboard.press("Enter")
            await page.get_by_role("alert").filter(has_text="does not know this API key").wait_for()
            assert await page.get_by_label("Your AceDataCloud API key").input_value() == ""
            assert [line for line in noise if "400" not in line] == []
            await page.get_by_label("Your AceDataCloud API key").fill(KEY)
            await page.get_by_role("button", name="Allow with this key").click()
            await page.get_by_text("back at the application").wait_for()
            await page.goto(raw.url())
            await page.get_by_role("link", name="Sign in with AceDataCloud and allow").click()
            await page.get_by_text("back at the application").wait_for()
            await page.goto(raw.url())
            await page.get_by_role("button", name="Cancel").click()
            await page.get_by_text("back at the application").wait_for()
    pasted, signed_in, cancelled = [line for line in arrived if "state=" in line]
    assert "code=" in pasted
    assert "code=" in signed_in
    assert "error=access_denied" in cancelled


COLOURS = "[getComputedStyle(document.querySelector('main')).backgroundColor, getComputedStyle(document.body).color]"


def luminance(colour: str) -> float:
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3]))
