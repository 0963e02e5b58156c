"""What replicas share: the store, in memory and in a real Redis; two servers behind a real nginx."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import anyio
import httpx
import pytest

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.errors import ConfigurationError, StoreUnavailable
from mcp_seedream.core.settings import read_settings
from mcp_seedream.hosting.middleware import ENDPOINT
from mcp_seedream.oauth.routes import open_sign_in
from mcp_seedream.oauth.store import MemoryStore, RedisStore, Store
from mcp_seedream.sandbox.app import Sandbox
from mcp_seedream.sandbox.vendor_sign_in import CLIENT_ID
from tests.conftest import answer
from tests.support.dance import KEY, SECRET, Kept, Person, Raw, hosted, official
from tests.support.services import free_port, nginx_running, redis_running, replica_running

pytestmark = pytest.mark.anyio
PUBLIC = "http://localhost:1"


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    store: Store = MemoryStore() if request.param == "memory" else RedisStore(request.getfixturevalue("redis"))
    yield store
    await store.aclose()


async def test_a_store_puts_gets_and_takes(store: Store) -> None:
    """A value that was taken, or has expired, is gone."""
    await store.put("a", "värde", 60)
    assert await store.get("a") == "värde"
    assert await store.pop("a") == "värde"
    assert (await store.pop("a"), await store.get("a")) == (None, None)
    await store.put("b", "1", 0.05)
    await store.put("c", "1", 0.05)
    await anyio.sleep(0.2)
    assert (await store.get("b"), await store.pop("c")) == (None, None)


async def test_a_store_swaps(store: Store) -> None:
    """A value is replaced if it is the expected one or there is none; the same swap may be repeated."""
    assert await store.swap("a", "1", "2", 60)
    assert not await store.swap("a", "1", "3", 60)
    assert await store.swap("a", "1", "2", 60)
    assert await store.swap("a", "2", "3", 60)
    assert not await store.swap("a", "2", "4", 60)
    assert await store.swap("a", "3", "5", 0.05)
    await anyio.sleep(0.2)
    assert await store.swap("a", "2", "5", 60)
    assert await store.get("a") == "5"
    await store.put("a", "ended", 60, must_store=True)
    assert not await store.swap("a", "5", "6", 60)
    assert await store.pop("a") == "ended"
    assert await store.get("a") is None


async def test_of_many_that_take_one_gets_it(store: Store) -> None:
    """Of many that take a value at once, one gets it; of many that swap it, one succeeds."""
    await store.put("a", "1", 60)
    await store.put("b", "0", 60)
    got: list[str | None] = []
    swapped: list[bool] = []

    async def ask(number: int) -> None:
        got.append(await store.pop("a"))
        swapped.append(await store.swap("b", "0", str(number), 60))

    async with anyio.create_task_group() as group:
        for number in range(1, 31):
            group.start_soon(ask, number)
    assert [value for value in got if value] == ["1"]
    assert swapped.count(True) == 1


async def test_a_full_memory_forgets_nothing_that_is_vital() -> None:
    """A full store takes no entry until one expires; vital entries have room of their own, then replace the oldest."""
    now = [0.0]
    store = MemoryStore(max_entries=4, clock=lambda: now[0])
    for name in ("oldest", "older"):
        await store.put(name, "1", 60)
    await store.put("code", "1", 1.5)
    for refused in (store.put("another", "1", 60), store.swap("another", "1", "2", 60)):
        with pytest.raises(StoreUnavailable):
            await refused
    assert await store.swap("oldest", "1", "2", 60)
    await store.put("revoked", "1", 60, must_store=True)
    assert [await store.get(name) for name in ("oldest", "older", "code")] == ["2", "1", "1"]
    await store.put("revoked too", "1", 60, must_store=True)
    assert [await store.get(name) for name in ("oldest", "older", "code")] == ["2", None, "1"]
    now[0] += 2
    await store.put("another", "1", 60)
    for name in ("oldest", "another"):
        await store.put(name, "ended", 60, must_store=True)
    assert [await store.get(name) for name in ("revoked", "revoked too", "oldest")] == ["1", "1", "ended"]
    with pytest.raises(StoreUnavailable):
        await store.put("one more", "1", 60, must_store=True)


async def test_a_redis_that_is_not_there() -> None:
    """Is one kind of error, without its address or password."""
    store = RedisStore(f"redis://:the-password@127.0.0.1:{free_port()}/0")
    for call in (store.get("a"), store.pop("a"), store.put("a", "1", 1), store.swap("a", "1", "2", 1)):
        with pytest.raises(StoreUnavailable) as caught:
            await call
        assert "the-password" not in caught.value.message
    await store.aclose()


async def nobody(_: str) -> bool:
    return False


def test_replicas_need_secrets_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    """One process makes one up, and says what that means."""
    with pytest.raises(ConfigurationError, match="SEEDREAM_SEAL_KEYS"):
        open_sign_in(read_settings(public_url=PUBLIC, redis_url="redis://127.0.0.1"), ENDPOINT, nobody)
    assert open_sign_in(read_settings(), ENDPOINT, nobody) is None
    assert open_sign_in(read_settings(public_url=PUBLIC), ENDPOINT, nobody)
    assert "when this process ends" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("public_url", "seedream.example.com"),
        ("public_url", "http://seedream.example.com"),
        ("public_url", "https://seedream.example.com/mcp"),
        ("seal_keys", "short"),
        ("seal_keys", f"{SECRET},short"),
    ],
)
def test_settings_that_will_not_do(name: str, value: str) -> None:
    """Are named, and not repeated."""
    with pytest.raises(ConfigurationError, match=f"SEEDREAM_{name.upper()}") as caught:
        read_settings(**{name: value})
    assert value not in caught.value.message or name == "public_url"


def test_settings_as_people_write_them() -> None:
    """A slash at the end, blanks, a port that goes without saying."""
    settings = read_settings(public_url=" https://Seedream.example.com:443/ ", seal_keys=f"{SECRET}, {SECRET}x")
    assert settings.public_url == "https://seedream.example.com"
    assert [key.get_secret_value() for key in settings.seal_keys] == [SECRET, f"{SECRET}x"]


async def test_two_instances_share_codes_and_revocations(table: ModelTable, upstream: str, redis: str) -> None:
    """What one gave, the other takes, once; what one ended is over at both; and no key is in Redis to be read."""
    with (
        hosted(table, upstream, public_url=PUBLIC, store=RedisStore(redis)) as first,
        hosted(table, upstream, public_url=PUBLIC, store=RedisStore(redis)) as second,
    ):
        async with httpx.AsyncClient(timeout=30) as web:
            here, there = Raw(first.address, web), Raw(second.address, web)
            await here.register()
            there.id, there.verifier = here.id, here.verifier
            person = Person()
            to = (await person.ask("GET", here.url(resource=None))).headers["location"]
            page = await person.look(to.replace(PUBLIC, second.address))
            page.request.url = httpx.URL(f"{first.address}/consent")
            response = await person.decide(page)
            code = httpx.URL(response.headers["location"]).params["code"]
            assert KEY not in await everything_in(redis)
            tokens = (await there.exchange(code, resource=f"{PUBLIC}/mcp")).json()
            assert {(await raw.call(tokens["access_token"])).status_code for raw in (here, there)} == {200}
            used = tokens["refresh_token"]
            refreshed = (await here.refresh((await here.refresh(used)).json()["refresh_token"])).json()
            assert (await there.refresh(used)).json()["error"] == "invalid_grant"
            for raw in (here, there):
                assert (await raw.call(refreshed["access_token"])).status_code == 401


async def everything_in(redis: str) -> str:
    """Every value."""
    from redis.asyncio import Redis  # noqa: PLC0415

    async with Redis.from_url(redis, decode_responses=True) as client:
        values = [str(await client.get(key)) for key in await client.keys("*")]
    assert values
    return " ".join(values)


async def test_redis_goes_and_comes_back(
    table: ModelTable, upstream: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Sign-in does not work then, and is told so; who is signed in goes on working."""
    port = free_port()
    with hosted(table, upstream, store=RedisStore(f"redis://127.0.0.1:{port}/0")) as server:
        async with httpx.AsyncClient(timeout=30) as web:
            raw, person = Raw(server.address, web), Person()
            with redis_running(tmp_path, port):
                tokens = await raw.tokens(person)
                assert (await raw.call(tokens["access_token"])).status_code == 200
            assert (await raw.call(tokens["access_token"])).status_code == 200
            assert "Revoked access tokens are accepted until it is back" in caplog.text
            for response in (await raw.refresh(tokens["refresh_token"]), await raw.revoke(tokens["access_token"])):
                assert (response.status_code, response.json()["error"]) == (503, "temporarily_unavailable")
            page = await person.look(raw.url())
            refusal = await person.decide(page)
            assert refusal.status_code == 503
            assert "try again in a moment" in refusal.text
            with redis_running(tmp_path, port):
                assert (await person.decide(page)).status_code == 303
                assert (await raw.refresh(tokens["refresh_token"])).status_code == 200


async def test_the_sandbox_shows_all_of_it() -> None:
    """With nothing set but a public address: a person signs in at the sandbox, and a picture is made."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    arguments = ("--sandbox", "--sandbox-seconds", "0.2")
    with replica_running(port, *arguments, SEEDREAM_PUBLIC_URL=address):
        async with official(f"{address}/mcp", Person(at_vendor=True), Kept()) as client:
            result = await client.call_tool("generate_image", {"prompt": "a fox"})
        async with httpx.AsyncClient(timeout=60) as web:
            raw = Raw(address, web)
            raw.id = f"https://127.0.0.1:{port}/client"  # the guarded download is put together with the rest
            assert "leads to a private address" in (await web.get(raw.url())).text
    assert answer(result)["status"] == "succeeded"


async def test_two_replicas_behind_nginx(upstream: str, sandbox: Sandbox, tmp_path: Path, redis: str) -> None:
    """The steps go to one and the other in turn; one is killed in the middle, and the dance goes on."""
    front, ports = free_port(), [free_port(), free_port()]
    settings = {
        "ACEDATACLOUD_API_BASE_URL": upstream,
        "SEEDREAM_PUBLIC_URL": f"http://127.0.0.1:{front}",
        "SEEDREAM_SEAL_KEYS": SECRET,
        "SEEDREAM_REDIS_URL": redis,
        "SEEDREAM_VENDOR_CLIENT_ID": CLIENT_ID,
        "SEEDREAM_VENDOR_AUTH_URL": upstream,
        "SEEDREAM_VENDOR_PLATFORM_URL": upstream,
    }
    with ExitStack() as stack:
        address = stack.enter_context(nginx_running(tmp_path, front, ports))
        replicas = [stack.enter_context(replica_running(port, **settings)) for port in ports]
        async with httpx.AsyncClient(timeout=60) as web:
            raw, person = Raw(address, web), Person()
            served = {(await raw.register()).headers["x-replica"]}
            served |= {(await web.get(f"{address}/health")).headers["x-replica"]}
            assert len(served) == 2
            tokens = (await raw.exchange(await raw.code(Person(at_vendor=True)))).json()
            assert (await raw.call(tokens["access_token"])).status_code == 200
            page = await person.look(raw.url())
            replicas[0].send_signal(signal.SIGKILL)
            replicas[0].wait()
            response = await person.decide(page)
            code = httpx.URL(response.headers["location"]).params["code"]
            second = (await raw.exchange(code)).json()
            assert (await raw.call(second["access_token"])).status_code == 200
            refreshed = await raw.refresh(tokens["refresh_token"])
            again = await raw.refresh(tokens["refresh_token"])
            assert refreshed.json()["refresh_token"] == again.json()["refresh_token"]
            assert (await raw.refresh(refreshed.json()["refresh_token"])).status_code == 200
            assert (await raw.refresh(tokens["refresh_token"])).status_code == 400
        async with official(f"{address}/mcp", Person(), Kept()) as client:
            result = await client.call_tool("generate_image", {"prompt": "a fox"})
        assert answer(result)["status"] == "succeeded"
        assert [token for path, token, _ in sandbox.requests if path == "/seedream/images"] == [KEY]
