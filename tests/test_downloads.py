"""The guarded way to pictures, against a hostile server on this machine."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from mcp_seedream.downloads import Downloads
from mcp_seedream.errors import UpstreamError
from tests.conftest import BUSY, QUICK, Switch, serving

pytestmark = [pytest.mark.anyio, BUSY]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


class Hostile:
    """A "CDN" that does what the path says, and remembers who came."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.target = ""
        self.app = Starlette(routes=[Route("/{path:path}", self.answer)])

    async def answer(self, request: Request) -> Response:
        path = request.path_params["path"]
        self.seen.append(path)
        name, _, rest = path.partition("/")
        match name:
            case "redirect":
                return Response(status_code=307, headers={"location": self.target})
            case "hops":
                return RedirectResponse(f"/hops/{int(rest) - 1}" if int(rest) > 1 else "/picture.png")
            case "slow":
                await asyncio.sleep(3)
            case "trickle":
                return StreamingResponse(self.endless(0.05), media_type="image/png")
            case "endless":
                return StreamingResponse(self.endless(0), media_type="image/png")
            case "html":
                return HTMLResponse("<html>sorry</html>")
            case "gone":
                return Response(status_code=404)
            case "nowhere":
                return Response(status_code=302)
            case "gzip":
                return Response(gzip.compress(PNG), headers={"content-encoding": "gzip"}, media_type="image/png")
        return Response(PNG, media_type="image/png")

    async def endless(self, pause: float) -> AsyncIterator[bytes]:
        for _ in range(2**11):  # 2 GiB, if anybody takes it
            yield bytes(2**20 if not pause else 10)
            await asyncio.sleep(pause)


@pytest.fixture
def hostile() -> Hostile:
    return Hostile()


@pytest.fixture
def cdn(hostile: Hostile, switch: Switch) -> str:
    switch.app = hostile.app
    return switch.address


@pytest.fixture
async def fetcher(cdn: str) -> AsyncIterator[Downloads]:
    async with Downloads(sandbox=cdn, seconds=1, most_bytes=4 * 2**20, retries=QUICK) as fetcher:
        yield fetcher


async def refused(fetcher: Downloads, url: str, path: Path) -> str:
    with pytest.raises(UpstreamError) as caught:
        await fetcher.fetch(url, path)
    return caught.value.message


async def test_a_picture_of_the_sandbox_is_fetched(fetcher: Downloads, cdn: str, tmp_path: Path) -> None:
    """Http from this machine, since it is the sandbox's own address; redirects within it are followed."""
    for path in ("picture.png", "hops/3"):
        await fetcher.fetch(f"{cdn}/{path}", tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == PNG


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("hops/4", "redirected more than 3 times"),
        ("gone", "answered HTTP 404"),
        ("nowhere", "answered HTTP 302"),
        ("gzip", "came compressed, which was not asked for"),
        ("html", "did not answer with a picture"),
        ("slow", "fetch"),  # could not be, or took too long to: chance decides when the second attempt begins
        ("trickle", "took longer than 1 s"),
        ("endless", "larger than 4 MiB"),
    ],
)
async def test_what_a_bad_server_does_is_bounded(
    fetcher: Downloads, cdn: str, tmp_path: Path, path: str, says: str
) -> None:
    """In hops, seconds and bytes; nothing hangs."""
    with anyio.fail_after(3):
        assert says in await refused(fetcher, f"{cdn}/{path}", tmp_path / "a")
    assert not (tmp_path / "a").exists() or (tmp_path / "a").stat().st_size <= 4 * 2**20


PRIVATE = [
    "https://127.0.0.1/a.png",
    "https://localhost/a.png",
    "https://10.0.0.1/a.png",
    "https://192.168.1.1/a.png",
    "https://172.16.0.1/a.png",
    "https://169.254.169.254/latest/meta-data/",
    "https://100.64.0.1/a.png",
    "https://0.0.0.0/a.png",
    "https://[::1]/a.png",
    "https://[fe80::1]/a.png",
    "https://[fd00::1]/a.png",
    "https://[::ffff:10.0.0.1]/a.png",
    "https://[2002:0a00:0001::]/a.png",
    "https://[::10.0.0.1]/a.png",
    "https://[64:ff9b::a00:1]/a.png",
    "https://[fec0::1]/a.png",
    "https://192.0.0.8/a.png",
    "https://224.0.0.1/a.png",
    "https://2130706433/a.png",
    "https://0x7f.1/a.png",
]
ELSEWHERE = ["http://example.com/a.png", "ftp://example.com/a", "file:///etc/passwd", "https://", "//x", "nonsense", ""]


@pytest.mark.parametrize("url", [*PRIVATE, *ELSEWHERE])
async def test_links_that_are_not_followed(fetcher: Downloads, tmp_path: Path, url: str) -> None:
    """Private, link-local, loopback in every spelling; and whatever is not https."""
    await refused(fetcher, url, tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("url", [*PRIVATE, "http://10.0.0.1/", "file:///etc/passwd", "gopher://x/", "http://["])
async def test_a_redirect_is_held_to_the_same_rules(
    fetcher: Downloads, hostile: Hostile, cdn: str, tmp_path: Path, url: str
) -> None:
    """At every hop."""
    hostile.target = url
    await refused(fetcher, f"{cdn}/redirect", tmp_path / "a")


async def test_no_request_reaches_a_private_address(
    fetcher: Downloads, hostile: Hostile, cdn: str, tmp_path: Path
) -> None:
    """Another port of this machine is one: it hears nothing."""
    other = Hostile()
    with serving(other.app, lifespan="off") as private:
        hostile.target = f"{private}/secret"
        await refused(fetcher, f"{cdn}/redirect", tmp_path / "a")
        await refused(fetcher, f"{private}/secret", tmp_path / "a")
    assert other.seen == []


async def test_without_a_sandbox_this_machine_is_private(hostile: Hostile, cdn: str, tmp_path: Path) -> None:
    """A hosted server fetches nothing from itself."""
    async with Downloads() as fetcher:
        await refused(fetcher, f"{cdn}/picture.png", tmp_path / "a")
    assert hostile.seen == []


async def test_a_name_is_refused_when_one_of_its_addresses_is_private(
    fetcher: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forged record beside a good one."""

    async def resolve(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, 1, 6, "", (ip, 443)) for ip in ("93.184.216.34", "10.0.0.1")]

    monkeypatch.setattr(anyio, "getaddrinfo", resolve)
    assert "private address" in await refused(fetcher, "https://cdn.example.com/a.png", tmp_path / "a")


async def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolved once: a second answer of a hostile name server is never asked for."""

    async def resolve(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, 1, 6, "", ("93.184.216.34", 443))]

    monkeypatch.setattr(anyio, "getaddrinfo", resolve)
    async with Downloads() as fetcher:
        request = await fetcher._checked(httpx.URL("https://cdn.example.com/a.png?x=1"), proxied=False)
    assert str(request.url) == "https://93.184.216.34/a.png?x=1"
    assert request.headers["host"] == "cdn.example.com"
    assert request.extensions["sni_hostname"] == "cdn.example.com"
    assert "authorization" not in request.headers


class Proxy:
    """An HTTPS proxy that lets nobody through, and remembers where they wanted to go."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append((await reader.readline()).decode().strip())
        writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
        writer.close()
        await writer.wait_closed()


@pytest.fixture(params=["HTTPS_PROXY", "ALL_PROXY"])
async def proxy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Proxy]:
    """In the environment, for everything but one host and this machine; names resolve to a private address here."""
    proxy = Proxy()

    async def resolve(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, 1, 6, "", ("10.0.0.1", 443))]

    async with await asyncio.start_server(proxy.serve, "127.0.0.1") as server:
        for kind in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(kind, raising=False)
            monkeypatch.delenv(kind.upper(), raising=False)
        monkeypatch.setenv(str(request.param), f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        monkeypatch.setenv("NO_PROXY", "direct.example.com,127.0.0.1")
        monkeypatch.setattr(anyio, "getaddrinfo", resolve)
        yield proxy


async def test_a_proxy_resolves_the_name_itself(fetcher: Downloads, proxy: Proxy, tmp_path: Path) -> None:
    """It is asked for the host by name: what the name means here may not be what it means there."""
    assert "ProxyError" in await refused(fetcher, "https://cdn.example.com/a.png", tmp_path / "a")
    assert set(proxy.asked) == {"CONNECT cdn.example.com:443 HTTP/1.1"}
    request = await fetcher._checked(httpx.URL("https://cdn.example.com/a.png"), proxied=True)
    assert str(request.url) == "https://cdn.example.com/a.png"
    assert "sni_hostname" not in request.extensions


async def test_a_host_that_is_not_for_the_proxy_is_pinned(
    fetcher: Downloads, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_PROXY: checked and addressed as if there were none."""
    assert "private address" in await refused(fetcher, "https://direct.example.com/a.png", tmp_path / "a")
    seen: list[str] = []

    async def resolve(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, 1, 6, "", ("93.184.216.34", 443))]

    async def send(_: httpx.AsyncClient, request: httpx.Request, **__: Any) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(404)

    monkeypatch.setattr(anyio, "getaddrinfo", resolve)
    monkeypatch.setattr(httpx.AsyncClient, "send", send)
    assert "HTTP 404" in await refused(fetcher, "https://direct.example.com/a.png", tmp_path / "a")
    assert seen == ["https://93.184.216.34/a.png"]
    assert proxy.asked == []


INSIDE = [
    "https://intranet/a.png",
    "https://localhost./a.png",
    "https://printer.local/a.png",
    "https://printer.local./a.png",
    "https://metadata.google.internal/a.png",
    "https://METADATA.GOOGLE.INTERNAL./a.png",
    "https://router.lan/a.png",
    "https://me.localhost/a.png",
    "https://127.1/a.png",
    "https://10.1/a.png",
    "https://10.0.0.1./a.png",
    "https://[::ffff:127.0.0.1]/a.png",
]


@pytest.mark.parametrize("url", [*(url for url in PRIVATE if "//127.0.0.1/" not in url), *INSIDE])
async def test_no_proxy_is_asked_for_what_is_plainly_inside(
    fetcher: Downloads, proxy: Proxy, tmp_path: Path, url: str
) -> None:
    """Names that only a private network has, and private addresses in every spelling."""
    assert "private address" in await refused(fetcher, url, tmp_path / "a")
    assert proxy.asked == []
