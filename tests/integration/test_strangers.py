"""Callers with keys that nobody knows: what they get, and what they cost callers with good keys."""

from __future__ import annotations

import asyncio
import io
import logging
import threading
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from anyio.lowlevel import checkpoint
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_seedream import assembly
from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.errors import BalanceUsedUp, ConfigurationError, RateLimited, TokenRefused, UpstreamUnavailable
from mcp_seedream.core.settings import read_settings
from mcp_seedream.hosting.access import BearerKeyMiddleware
from mcp_seedream.hosting.key_verifier import KeyNotChecked, KeyVerifier
from mcp_seedream.hosting.limits import AddressRateLimiter, SignInLimitMiddleware, network_address
from mcp_seedream.telemetry.logs import RepeatLimit, log_to_stderr
from mcp_seedream.upstream.connections import CHECK_CONNECTIONS
from tests.conftest import Switch, serving, until
from tests.integration.test_access import LIST, asked, connected, hosted

pytestmark = pytest.mark.anyio


class Upstream:
    """Checks of keys: each waits until it is released; keys that begin with `good` are valid."""

    def __init__(self) -> None:
        self.checked: list[str] = []
        self.waiting: list[tuple[str, anyio.Event]] = []
        self.holds = True

    async def look_up(self, _: list[str], key: str) -> None:
        self.checked.append(key)
        if self.holds:
            event = anyio.Event()
            self.waiting.append((key, event))
            await event.wait()
        if not key.startswith("good"):
            raise TokenRefused("no")

    async def release(self, count: int) -> None:
        """End the checks that wait longest."""
        for _ in range(count):
            self.waiting.pop(0)[1].set()
        await anyio.wait_all_tasks_blocked()


async def test_a_new_key_comes_before_a_backlog_of_bad_ones() -> None:
    """From another address or the same one; bad ones of one address do not fill all places once they are known."""
    upstream, verifier, results = Upstream(), KeyVerifier(check_seconds=60), dict[str, bool]()

    async def check(key: str, address: str) -> None:
        results[key] = await verifier.is_valid(key, upstream.look_up, address)

    async with anyio.create_task_group() as group:
        for n in range(3 * CHECK_CONNECTIONS):
            group.start_soon(check, f"bad-{n}", "stranger")
        await anyio.wait_all_tasks_blocked()
        assert len(upstream.waiting) == CHECK_CONNECTIONS
        for key, address in (("good-1", "other"), ("good-2", "stranger")):
            group.start_soon(check, key, address)
            await anyio.wait_all_tasks_blocked()
            await upstream.release(1)
            assert upstream.checked[-1] == key
        while upstream.waiting:
            await upstream.release(1)
        # The address is known now.
        for n in range(CHECK_CONNECTIONS):
            group.start_soon(check, f"more-{n}", "stranger")
        await anyio.wait_all_tasks_blocked()
        assert len(upstream.waiting) == CHECK_CONNECTIONS // 2
        group.start_soon(check, "good-3", "third")
        await anyio.wait_all_tasks_blocked()
        assert upstream.checked[-1] == "good-3"
        upstream.holds = False
        while upstream.waiting:
            await upstream.release(1)
    assert {key for key, is_valid in results.items() if is_valid} == {"good-1", "good-2", "good-3"}
    assert len(results) == 4 * CHECK_CONNECTIONS + 3


async def test_a_full_queue_refuses_the_address_that_fills_it() -> None:
    """At once, and no other address; a key that was valid before is let in."""
    upstream, now = Upstream(), 0.0
    verifier = KeyVerifier(seconds=10, check_seconds=60, waiting=20, clock=lambda: now)
    upstream.holds = False
    assert await verifier.is_valid("good-old", upstream.look_up, "stranger")
    upstream.holds, now = True, 11.0
    refused: list[KeyNotChecked] = []

    async def check(key: str, address: str) -> None:
        try:
            await verifier.is_valid(key, upstream.look_up, address)
        except KeyNotChecked as error:
            refused.append(error)

    async with anyio.create_task_group() as group:
        for n in range(CHECK_CONNECTIONS + 30):
            group.start_soon(check, f"bad-{n}", "stranger")
        await anyio.wait_all_tasks_blocked()
        assert [error.has_waited for error in refused] == [False] * 10
        for key, address in (("good-1", "other"), ("good-old", "stranger")):
            group.start_soon(check, key, address)
            await anyio.wait_all_tasks_blocked()
            await upstream.release(1)
            assert upstream.checked[-1] == key
        upstream.holds = False
        while upstream.waiting:
            await upstream.release(1)
    assert len(refused) == 10


@pytest.mark.parametrize("failure", [UpstreamUnavailable("gone"), RateLimited("busy"), None])
async def test_a_check_that_can_not_be_made(failure: Exception | None) -> None:
    """A new key is refused, and one that was valid before stays so, until the upstream refuses it."""
    answer: Any = "valid"
    now = 0.0

    async def look_up(_: list[str], key: str) -> None:
        if answer is None:
            await anyio.sleep_forever()
        elif isinstance(answer, Exception):
            raise answer

    verifier = KeyVerifier(seconds=300, check_seconds=0.05, clock=lambda: now)
    assert await verifier.is_valid("old", look_up)
    now, answer = 301.0, failure
    assert await verifier.is_valid("old", look_up)
    with pytest.raises(KeyNotChecked) as caught:
        await verifier.is_valid("new", look_up)
    assert caught.value.has_waited
    now, answer = 332.0, TokenRefused("no")
    assert not await verifier.is_valid("old", look_up)
    now, answer = 400.0, failure
    with pytest.raises(KeyNotChecked):
        await verifier.is_valid("old", look_up)


async def test_a_key_without_balance_is_valid() -> None:
    """The upstream knows it; the call itself has the reason."""

    async def look_up(_: list[str], key: str) -> None:
        raise BalanceUsedUp("nothing left")

    assert await KeyVerifier().is_valid("poor", look_up)


async def test_a_check_whose_caller_leaves_lets_nobody_in() -> None:
    """The same bad key, sent a second time meanwhile, is not checked."""
    upstream, verifier, outcomes = Upstream(), KeyVerifier(), list[object]()

    async def check() -> None:
        try:
            outcomes.append(await verifier.is_valid("bad", upstream.look_up, ""))
        except KeyNotChecked as error:
            outcomes.append(error.code)

    async with anyio.create_task_group() as group:
        leaving = asyncio.ensure_future(verifier.is_valid("bad", upstream.look_up, ""))
        await anyio.wait_all_tasks_blocked()
        group.start_soon(check)
        await anyio.wait_all_tasks_blocked()
        leaving.cancel()
    assert outcomes == ["key_not_checked"]
    assert not verifier._checks


async def test_an_upstream_that_goes_away(table: ModelTable, upstream: str, switch: Switch) -> None:
    """503 with `Retry-After` for a new caller; callers from before go on, after their keys' time too."""
    app = assembly.hosted(read_settings(base_url=upstream, check_seconds=0.01, connect_timeout=0.5), table=table)
    with serving(app) as address:
        assert (await asked(address)).status_code == 200
        await anyio.sleep(0.02)
        switch.app = PlainTextResponse("bad gateway", 502)
        assert (await asked(address)).status_code == 200
        refused = await asked(address, authorization="Bearer bob")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert refused.json()["error"] == "key_not_checked"


async def test_refusals_that_wait_are_no_calls(
    table: ModelTable, upstream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not delay a shutdown, and are in no figure of calls."""
    waiting, release = threading.Event(), threading.Event()

    async def wait(self: AddressRateLimiter, address: str) -> bool:
        waiting.set()
        await anyio.to_thread.run_sync(release.wait)
        return True

    monkeypatch.setattr(AddressRateLimiter, "wait", wait)
    app = assembly.hosted(read_settings(base_url=upstream), table=table)
    with serving(app) as address:
        async with anyio.create_task_group() as group:
            group.start_soon(partial(asked, address, authorization="Bearer invalid"))
            await until(waiting.is_set)
            calls = app.state.shutdown.calls_in_progress
            release.set()
    assert calls == 0


def test_addresses() -> None:
    """IPv6 by the network that a customer gets; IPv4 in IPv6 is IPv4."""
    cases = {
        "192.0.2.7": "192.0.2.7",
        "::ffff:192.0.2.7": "192.0.2.7",
        "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64",
        "2001:db8:1:2::1": "2001:db8:1:2::/64",
        "2001:db8:1:3::1": "2001:db8:1:3::/64",
        "unix": "unix",
    }
    assert {given: network_address({"type": "http", "client": (given, 1)}) for given in cases} == cases
    assert network_address({"type": "http", "client": None}) == network_address({"type": "http"}) == ""


async def test_turns_of_addresses() -> None:
    """Some at once, then so many in a period, addresses in turn; none after the patience, or where too many wait."""
    limiter, served = AddressRateLimiter(2, period=0.05, patience=60, waiting=4), list[str]()

    async def come(address: str) -> None:
        assert await limiter.wait(address)
        served.append(address)

    async with anyio.create_task_group() as group:
        for address in ("a", "a", "a", "a", "a", "b"):
            group.start_soon(come, address)
        await checkpoint()
        await checkpoint()
        assert served == ["a", "a"]
        assert not await limiter.wait("a")
        group.start_soon(come, "c")
    assert served.index("b") < 4
    assert served.index("c") < 5
    impatient = AddressRateLimiter(1, period=60, patience=0.01, waiting=4)
    assert [await impatient.wait("a"), await impatient.wait("a")] == [True, False]


class Counting(AddressRateLimiter):
    """Notes whom it makes wait."""

    def __init__(self, *, has_turns: bool = True) -> None:
        super().__init__(1, patience=0, waiting=0)
        self.has_turns = has_turns
        self.waited: list[str] = []

    async def wait(self, address: str) -> bool:
        self.waited.append(address)
        return self.has_turns


@pytest.mark.parametrize("has_turns", [True, False])
async def test_refusals_wait_and_callers_do_not(has_turns: bool) -> None:
    """Those of small requests: the start of a large body would be held in memory. All get their answer."""
    refusals = Counting(has_turns=has_turns)

    async def check(key: str, address: str) -> bool:
        if key == "unchecked":
            raise KeyNotChecked(has_waited=True)
        if key == "unqueued":
            raise KeyNotChecked(has_waited=False)
        return key == "good"

    app: ASGIApp = PlainTextResponse("in")
    app = BearerKeyMiddleware(app, check_key=check, refusals=refusals)
    transport = httpx.ASGITransport(app, client=("2001:db8::1", 1))
    statuses = []
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as web:
        for key in ("good", "bad", "", "unchecked", "unqueued"):
            headers = {"authorization": f"Bearer {key}"} if key else {}
            statuses.append((await web.post("/mcp", json=LIST, headers=headers)).status_code)
        assert statuses == [200, 401, 401, 503, 503]
        assert refusals.waited == ["2001:db8::/64"] * 3
        response = await web.post("/mcp", content=bytes(70_000), headers={"authorization": "Bearer bad"})
        assert response.status_code == 401
        assert len(refusals.waited) == 3


@pytest.mark.parametrize("has_turns", [True, False])
async def test_sign_in_has_a_limit(has_turns: bool) -> None:
    """429 and when to come again, readable for a page of another origin."""
    limiter = Counting(has_turns=has_turns)
    transport = httpx.ASGITransport(SignInLimitMiddleware(JSONResponse({}), limiter), client=("192.0.2.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as web:
        response = await web.post("/token")
    assert limiter.waited == ["192.0.2.1"]
    assert response.status_code == (200 if has_turns else 429)
    if not has_turns:
        assert int(response.headers["retry-after"]) > 0
        assert response.headers["access-control-allow-origin"] == "*"


async def test_sign_in_is_limited_and_its_metadata_is_not(
    table: ModelTable, upstream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its routes: registration, authorization, tokens, consent."""
    limited: list[str] = []

    async def note(self: SignInLimitMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        limited.append(scope["path"])
        await JSONResponse({}, 429)(scope, receive, send)

    monkeypatch.setattr(SignInLimitMiddleware, "__call__", note)
    with hosted(table, upstream, public_url="http://127.0.0.1") as address:
        async with httpx.AsyncClient(base_url=address) as web:
            for method, path in (("POST", "/register"), ("GET", "/authorize"), ("POST", "/token"), ("GET", "/consent")):
                assert (await web.request(method, path)).status_code == 429, path
            for path in ("oauth-authorization-server", "oauth-protected-resource/mcp"):
                assert (await web.get(f"/.well-known/{path}")).status_code == 200
    assert limited == ["/register", "/authorize", "/token", "/consent"]


async def test_streams_that_only_listen_are_not_offered(table: ModelTable, upstream: str) -> None:
    """405, as the specification has it: thousands of them cost nothing, not even a check of their keys."""
    with hosted(table, upstream, calls_at_once=1, all_calls_at_once=1) as address:
        headers: dict[str, Any] = {"accept": "text/event-stream", "authorization": "Bearer alice"}
        async with httpx.AsyncClient(base_url=address) as web:
            for version in ("2025-06-18", "2026-07-28"):
                for _ in range(3):
                    response = await web.get("/mcp", headers={**headers, "mcp-protocol-version": version})
                    assert (response.status_code, response.headers["allow"]) == (405, "POST")
            assert (await web.get("/mcp", headers={**headers, "authorization": "Bearer invalid"})).status_code == 405
            assert (await web.get("/mcp", headers={"accept": "text/event-stream"})).status_code == 401
        async with connected(address) as client:
            assert (await client.list_tools()).tools


async def test_the_address_behind_a_proxy(table: ModelTable, upstream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trusted one says whom it speaks for; this machine is trusted by default."""
    addresses: list[str] = []

    async def note(self: AddressRateLimiter, address: str) -> bool:
        addresses.append(address)
        return True

    monkeypatch.setattr(AddressRateLimiter, "wait", note)
    with hosted(table, upstream) as address:
        forwarded = {"x-forwarded-for": "198.51.100.1, 2001:db8:5::1", "authorization": "Bearer invalid"}
        assert (await asked(address, **forwarded)).status_code == 401
        assert (await asked(address, authorization="Bearer invalid")).status_code == 401
    assert addresses == ["2001:db8:5::/64", "127.0.0.1"]


@pytest.mark.parametrize("value", ["localhost", "10.0.0.0/33", "10.0.0.1/8", "*, proxy"])
def test_proxies_that_are_no_addresses(value: str) -> None:
    """The HTTP server would never trust them, without a word."""
    with pytest.raises(ConfigurationError, match="is no address and no network"):
        read_settings(trusted_proxies=value)
    assert read_settings(trusted_proxies="10.0.0.0/8, ::1").trusted_proxies == ["10.0.0.0/8", "::1"]
    assert read_settings(trusted_proxies="*").trusted_proxies == ["*"]


def test_lines_that_clients_cause_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many of one statement in a minute, and how many were dropped; lines of calls have none."""
    now, stream = [0.0], io.StringIO()
    logger, calls = logging.getLogger("mcp_seedream.hosting.access"), logging.getLogger("mcp_seedream.core.events")
    handler = logging.StreamHandler(stream)
    handler.addFilter(RepeatLimit(3, clock=lambda: now[0]))
    for each in (logger, calls):
        monkeypatch.setattr(each, "propagate", False)
        each.addHandler(handler)
    try:
        for now[0] in (0.0, 1.0, 61.0):
            for number in range(4):
                logger.warning("refused %d", number)
                calls.warning("call %d", number)
            logger.warning("something else")
    finally:
        for each in (logger, calls):
            each.removeHandler(handler)
    lines = stream.getvalue().splitlines()
    assert [line for line in lines if "refused" in line] == [
        *("refused 0", "refused 1", "refused 2"),
        "refused 0 (5 lines like this one were dropped)",
        *("refused 1", "refused 2"),
    ]
    assert sum("call" in line for line in lines) == 12
    assert lines.count("something else") == 3


async def test_a_flood_of_bad_hosts_is_a_few_lines(
    table: ModelTable, upstream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the log as processes have it."""
    stream, root = io.StringIO(), logging.getLogger()
    before = root.handlers[:], root.level
    monkeypatch.setattr("sys.stderr", stream)
    try:
        log_to_stderr("info")
        with hosted(table, upstream) as address:
            async with httpx.AsyncClient(base_url=address) as web:
                for number in range(100):
                    response = await web.post("/mcp", json=LIST, headers={"host": f"{number}.example.com"})
                    assert response.status_code == 421
    finally:
        root.handlers[:], root.level = before
    assert stream.getvalue().count("refused with 421") == 60
