"""Downloads from untrusted URLs, tested against a hostile server on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from mcp_seedream.core.errors import UnreadableReply, UpstreamError, UpstreamUnavailable
from mcp_seedream.media.downloads import Downloads
from mcp_seedream.upstream.retries import Retries
from tests.conftest import QUICK, Switch, download, serving

pytestmark = pytest.mark.anyio
ONCE = Retries(attempts=1)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


class Hostile:
    """A server whose behavior depends on the path; it records requests."""

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
                await asyncio.sleep(600)
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


class Network:
    """Fake DNS names and addresses; every connection ends at this machine's loopback."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}
        self.changes: dict[str, list[str]] = {}  # what a name means when it is asked for again
        self.otherwise: list[str] | None = None
        self.listeners: dict[str, int] = {}
        self.silent: set[str] = set()
        self.resolved: list[str] = []
        self.connected: list[str] = []
        self._resolve, self._connect = anyio.getaddrinfo, anyio.connect_tcp

    async def getaddrinfo(self, host: str, port: int, **options: Any) -> list[Any]:
        found = self.names.get(host, self.otherwise)
        if found is None or host == "127.0.0.1":
            return list(await self._resolve(host, port, **options))
        self.resolved.append(host)
        self.names[host] = self.changes.get(host, found)
        return [(socket.AF_INET6 if ":" in ip else socket.AF_INET, 1, 6, "", (ip, port)) for ip in found]

    async def connect_tcp(self, remote_host: str, remote_port: int, **options: Any) -> Any:
        if remote_host == "127.0.0.1":
            return await self._connect(remote_host, remote_port, **options)
        self.connected.append(remote_host)
        if remote_host in self.silent:
            await anyio.sleep_forever()
        if remote_host not in self.listeners:
            raise ConnectionRefusedError
        return await self._connect("127.0.0.1", self.listeners[remote_host], **options)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    network = Network()
    monkeypatch.setattr(anyio, "getaddrinfo", network.getaddrinfo)
    monkeypatch.setattr(anyio, "connect_tcp", network.connect_tcp)
    return network


class TlsCdn:
    """Serves pictures with a certificate for a.example, whatever the requested name."""

    def __init__(self) -> None:
        self.port = 0
        self.names: list[str | None] = []
        self.hosts: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.hosts += [line[6:] for line in head.splitlines() if line.lower().startswith("host: ")]
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(PNG), PNG))
        writer.close()

    def noted(self, _: Any, name: str | None, __: Any) -> None:
        self.names.append(name)


@pytest.fixture
async def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TlsCdn]:
    cdn = TlsCdn()
    certificate = self_signed("a.example", tmp_path / "a.example.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    context.sni_callback = cdn.noted
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with await asyncio.start_server(cdn.serve, "127.0.0.1", ssl=context) as server:
        cdn.port = server.sockets[0].getsockname()[1]
        yield cdn


def self_signed(name: str, path: Path) -> Path:
    """Return a file with a private key and a self-signed certificate for one name."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    path.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + certificate.public_bytes(pem))
    return path


@pytest.fixture
def hostile() -> Hostile:
    return Hostile()


@pytest.fixture
def cdn(hostile: Hostile, switch: Switch) -> str:
    switch.app = hostile.app
    return switch.address


@pytest.fixture
async def fetcher(cdn: str) -> AsyncIterator[Downloads]:
    async with Downloads(sandbox=cdn, seconds=1, max_bytes=4 * 2**20, retries=QUICK) as fetcher:
        yield fetcher


async def refused(fetcher: Downloads, url: str, path: Path) -> str:
    with pytest.raises(UpstreamError) as caught:
        await download(fetcher, url, path)
    return caught.value.message


async def test_a_picture_of_the_sandbox_is_fetched(fetcher: Downloads, cdn: str, tmp_path: Path) -> None:
    """Http and redirects are allowed within the sandbox's address."""
    for path in ("picture.png", "hops/3"):
        await download(fetcher, f"{cdn}/{path}", tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == PNG


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("hops/4", "redirected more than 3 times"),
        ("gone", "returned HTTP 404"),
        ("nowhere", "returned HTTP 302"),
        ("gzip", "was sent with an unsupported Content-Encoding"),
        ("html", "did not return a picture"),
        ("slow", "fetch"),  # could not be, or took too long to: chance decides when the second attempt begins
        ("trickle", "took longer than 1 s"),
        ("endless", "larger than 4 MiB"),
    ],
)
async def test_what_a_bad_server_does_is_bounded(
    fetcher: Downloads, cdn: str, tmp_path: Path, path: str, says: str
) -> None:
    """Redirects, time and bytes are limited."""
    with anyio.fail_after(30):
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
    """Private, link-local and loopback addresses in every form, and schemes other than https."""
    await refused(fetcher, url, tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("url", [*PRIVATE, "http://10.0.0.1/", "file:///etc/passwd", "gopher://x/", "http://["])
async def test_a_redirect_is_held_to_the_same_rules(
    fetcher: Downloads, hostile: Hostile, cdn: str, tmp_path: Path, url: str
) -> None:
    """Every redirect is checked."""
    hostile.target = url
    await refused(fetcher, f"{cdn}/redirect", tmp_path / "a")


async def test_no_request_reaches_a_private_address(
    fetcher: Downloads, hostile: Hostile, cdn: str, tmp_path: Path
) -> None:
    """Another port of this machine receives no request."""
    other = Hostile()
    with serving(other.app, lifespan="off") as private:
        hostile.target = f"{private}/secret"
        await refused(fetcher, f"{cdn}/redirect", tmp_path / "a")
        await refused(fetcher, f"{private}/secret", tmp_path / "a")
    assert other.seen == []


async def test_without_a_sandbox_this_machine_is_private(hostile: Hostile, cdn: str, tmp_path: Path) -> None:
    """A hosted server downloads nothing from itself."""
    async with Downloads() as fetcher:
        await refused(fetcher, f"{cdn}/picture.png", tmp_path / "a")
    assert hostile.seen == []


async def test_a_name_is_refused_when_one_of_its_addresses_is_private(
    fetcher: Downloads, tmp_path: Path, network: Network
) -> None:
    """Neither the public nor the private address is connected to."""
    network.names["cdn.example.com"] = ["93.184.216.34", "10.0.0.1"]
    assert "private address" in await refused(fetcher, "https://cdn.example.com/a.png", tmp_path / "a")
    assert network.connected == []


async def test_the_connection_goes_to_the_address_that_was_checked(
    fetcher: Downloads, tmp_path: Path, network: Network
) -> None:
    """Each connection resolves the name once, which prevents DNS rebinding."""
    network.names["cdn.example.com"] = ["93.184.216.34"]
    network.changes["cdn.example.com"] = ["10.0.0.1"]
    assert "ConnectError" in await refused(
        Downloads(seconds=1, retries=ONCE), "https://cdn.example.com/a.png", tmp_path / "a"
    )
    assert network.connected == ["93.184.216.34"]
    assert "private address" in await refused(fetcher, "https://cdn.example.com/a.png", tmp_path / "a")
    assert network.connected == ["93.184.216.34"]


async def test_each_name_shows_its_own_certificate(tls: TlsCdn, network: Network, tmp_path: Path) -> None:
    """A connection to one name is not reused for another name with the same address."""
    network.names |= {"a.example": ["93.184.216.34"], "b.example": ["93.184.216.34"]}
    network.listeners["93.184.216.34"] = tls.port
    async with Downloads(seconds=60, retries=ONCE) as fetcher:
        await download(fetcher, f"https://a.example:{tls.port}/a.png", tmp_path / "a")
        await download(fetcher, f"https://a.example:{tls.port}/b.png", tmp_path / "a")
        assert "ConnectError" in await refused(fetcher, f"https://b.example:{tls.port}/b.png", tmp_path / "b")
    assert tls.hosts == [f"a.example:{tls.port}"] * 2
    assert tls.names == ["a.example", "b.example"]
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("silent", [False, True])
async def test_every_address_is_tried(tls: TlsCdn, network: Network, tmp_path: Path, silent: bool) -> None:
    """The first two of three addresses refuse the connection or do not answer."""
    bad = ["2606:2800:220:1::1", "93.184.216.33"]
    network.names["a.example"] = [*bad, "93.184.216.34"]
    network.listeners["93.184.216.34"] = tls.port
    network.silent |= set(bad) if silent else set()
    async with Downloads(seconds=60, retries=ONCE) as fetcher:
        await download(fetcher, f"https://a.example:{tls.port}/a.png", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == PNG
    assert network.connected == [*bad, "93.184.216.34"]


async def test_when_no_address_answers(network: Network, tmp_path: Path) -> None:
    """All addresses are tried, and the error is retryable."""
    network.names["a.example"] = ["93.184.216.33", "93.184.216.34"]
    async with Downloads(seconds=60, retries=ONCE) as fetcher:
        with pytest.raises(UpstreamUnavailable):
            await download(fetcher, "https://a.example/a.png", tmp_path / "a")
    assert network.connected == ["93.184.216.33", "93.184.216.34"]


PORTS = ["99999", "65536", "0", "-1"]


@pytest.mark.parametrize("port", PORTS)
async def test_a_port_that_is_none(
    fetcher: Downloads, hostile: Hostile, cdn: str, network: Network, tmp_path: Path, port: str
) -> None:
    """URLs and redirects with an invalid port are rejected without name resolution."""
    network.names["cdn.example.com"] = ["93.184.216.34"]
    hostile.target = url = f"https://cdn.example.com:{port}/a.png"
    for link in (url, f"{cdn}/redirect"):
        with pytest.raises(UnreadableReply):
            await download(fetcher, link, tmp_path / "a")
    assert network.connected == []


class Proxy:
    """An HTTPS proxy that rejects all requests and records their targets."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append((await reader.readline()).decode().strip())
        writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
        writer.close()
        await writer.wait_closed()


@pytest.fixture(params=["HTTPS_PROXY", "ALL_PROXY"])
async def proxy(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, network: Network
) -> AsyncIterator[Proxy]:
    """A proxy in the environment, with one host and this machine in NO_PROXY; names resolve to a private address."""
    proxy = Proxy()
    network.otherwise = ["10.0.0.1"]
    async with await asyncio.start_server(proxy.serve, "127.0.0.1") as server:
        for kind in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(kind, raising=False)
            monkeypatch.delenv(kind.upper(), raising=False)
        monkeypatch.setenv(str(request.param), f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        monkeypatch.setenv("NO_PROXY", "direct.example.com,127.0.0.1")
        yield proxy


async def test_a_proxy_resolves_the_name_itself(
    fetcher: Downloads, proxy: Proxy, network: Network, tmp_path: Path
) -> None:
    """The proxy gets the host name, since local resolution may differ."""
    assert "ProxyError" in await refused(fetcher, "https://cdn.example.com/a.png", tmp_path / "a")
    assert set(proxy.asked) == {"CONNECT cdn.example.com:443 HTTP/1.1"}
    assert set(network.resolved) <= {"127.0.0.1"}


async def test_a_host_that_is_not_for_the_proxy_is_checked(
    fetcher: Downloads, proxy: Proxy, network: Network, tmp_path: Path
) -> None:
    """A host in NO_PROXY is checked as if there were no proxy."""
    assert "private address" in await refused(fetcher, "https://direct.example.com/a.png", tmp_path / "a")
    assert network.connected == []
    network.names["direct.example.com"] = ["93.184.216.34"]
    assert "ConnectError" in await refused(fetcher, "https://direct.example.com/a.png", tmp_path / "a")
    assert set(network.connected) == {"93.184.216.34"}
    assert proxy.asked == []


async def test_only_one_place_decides_what_is_for_the_proxy(
    fetcher: Downloads, proxy: Proxy, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_PROXY syntax that only httpx understands does not cause an unchecked connection."""
    monkeypatch.setenv("NO_PROXY", "https://cdn.example.com,127.0.0.1")
    await refused(fetcher, "https://cdn.example.com/a.png", tmp_path / "a")
    assert "10.0.0.1" not in network.connected
    assert set(proxy.asked) == {"CONNECT cdn.example.com:443 HTTP/1.1"}


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
    """Private top-level names and private addresses in every form."""
    assert "private address" in await refused(fetcher, url, tmp_path / "a")
    assert proxy.asked == []
