"""A hosted endpoint as `doctor URL` sees it from outside: a real one, and each thing that can be wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp.server import MCPServer
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from mcp_seedream import assembly
from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.errors import ConfigurationError
from mcp_seedream.core.settings import read_settings
from mcp_seedream.doctor.endpoint_checks import EndpointChecks
from mcp_seedream.doctor.findings import Finding, Result, run_checks
from tests.conftest import serving
from tests.support.dance import hosted as with_sign_in
from tests.support.obstacles import Says, certificate, nobody, saying

pytestmark = pytest.mark.anyio
TOKEN = "a-token-of-some-length-9876"
HEALTHY = json.dumps({"status": "ok", "version": "9.9.9"}).encode()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextmanager
def hosted(table: ModelTable, upstream: str, **given: Any) -> Iterator[str]:
    with serving(assembly.hosted(read_settings(base_url=upstream, **given), table=table)) as address:
        yield f"{address}/mcp"


async def looked(url: str, token: str | None = TOKEN) -> dict[str, Finding]:
    """What the checks find, in their order; the token is never among it."""
    told: list[Result] = []
    await run_checks(EndpointChecks(url, token, connect=2, read=5).checks(), told.append)
    assert TOKEN not in repr(told)
    names = ["proxy", "network", "clock", "certificate", "server", "upstream", "sign-in", "token"]
    assert [result.name for result in told] == names
    return {result.name: result.finding for result in told}


async def test_all_is_well(table: ModelTable, upstream: str) -> None:
    """With sign-in, whose metadata lead back to this address, and a token that is taken."""
    with with_sign_in(table, upstream) as server:
        found = await looked(server.endpoint)
    assert {finding.level for finding in found.values()} == {"ok", "not checked"}, found
    assert found["certificate"] == Finding("not checked", "none, without https")
    assert found["sign-in"].found == "callers sign in, or send a token"
    assert found["token"].found.startswith("accepted; generate_image, edit_image, get_task listed in")


async def test_without_sign_in(table: ModelTable, upstream: str) -> None:
    """It works; who can't connect is said."""
    with hosted(table, upstream) as url:
        found = await looked(url)
    assert (found["sign-in"].level, found["token"].level) == ("ok", "ok")
    assert "claude.ai" in found["sign-in"].advice


async def test_below_a_path(table: ModelTable, upstream: str) -> None:
    """Probes lie beside the endpoint."""
    inner = assembly.hosted(read_settings(base_url=upstream), table=table)
    app = Starlette(routes=[Mount("/seedream", inner)], lifespan=inner.router.lifespan_context)
    with serving(app) as address:
        found = await looked(f"{address}/seedream/mcp")
    assert [found[name].level for name in ("server", "upstream", "token")] == ["ok"] * 3, found


async def test_without_a_token(table: ModelTable, upstream: str) -> None:
    """Everything but that is looked at."""
    with hosted(table, upstream) as url:
        found = await looked(url, None)
    assert found["token"].level == "not checked"
    assert "problem" not in {finding.level for finding in found.values()}


async def test_a_token_that_is_refused(table: ModelTable, upstream: str) -> None:
    """In the endpoint's own words; of a short one nothing is shown."""
    with hosted(table, upstream) as url:
        found = await looked(url, "invalid")
    assert found["token"].level == "problem"
    assert found["token"].found == "the token (short) is refused."
    assert "does not know this token" in found["token"].advice


async def test_another_name(table: ModelTable, upstream: str) -> None:
    """421 names the setting that would allow it."""
    with hosted(table, upstream, allowed_hosts=["mcp.example.com"]) as url:
        found = await looked(url)
    assert found["server"].level == "ok"
    assert found["sign-in"].level == "problem"
    assert "does not accept this host name" in found["sign-in"].found
    assert "SEEDREAM_ALLOWED_HOSTS" in found["sign-in"].found
    assert found["token"].level == "not checked"


async def test_an_upstream_that_is_gone(table: ModelTable) -> None:
    """The endpoint itself says so."""
    with hosted(table, f"http://127.0.0.1:{nobody()}") as url:
        found = await looked(url)
    assert found["upstream"].level == "problem"
    assert "the upstream can't be reached" in found["upstream"].found


async def test_a_slash_at_the_end(table: ModelTable, upstream: str) -> None:
    """Is the same endpoint, whose probes lie where they always do."""
    with hosted(table, upstream) as url:
        found = await looked(f"{url}/")
    assert [found[name].level for name in ("server", "upstream", "sign-in", "token")] == ["ok"] * 4


async def test_a_wrong_path(table: ModelTable, upstream: str) -> None:
    """The endpoint is one level up."""
    with hosted(table, upstream) as url:
        found = await looked(f"{url}/v1")
    assert found["server"].level == "warning"
    assert found["sign-in"].level == "problem"
    assert "No endpoint has this address (HTTP 404)" in found["sign-in"].found
    assert "/mcp" in found["sign-in"].advice


@pytest.mark.parametrize(
    "card", [b"{}", b"[]", b'{"name": "other", "version": "1"}', b'{"name": "seedream", "version": 1}']
)
async def test_a_card_of_somebody_else(card: bytes) -> None:
    """Where probes are kept back, only our own card tells that it is this server."""
    with saying(Says(404, card)) as port:
        found = await looked(f"http://127.0.0.1:{port}/mcp")
    assert found["server"].level == "warning"
    assert found["upstream"].level == "warning"


async def test_sign_in_for_another_address(table: ModelTable, upstream: str) -> None:
    """Its metadata are not there, or name another endpoint: clients refuse that."""
    elsewhere = f"http://127.0.0.1:{nobody()}"
    with with_sign_in(table, upstream, public_url=elsewhere) as server:
        found = await looked(server.endpoint)
    assert found["sign-in"].level == "problem"
    assert "SEEDREAM_PUBLIC_URL" in found["sign-in"].advice
    with with_sign_in(table, upstream) as server:
        found = await looked(server.endpoint.replace("127.0.0.1", "localhost"))
    assert found["sign-in"].level == "problem"
    assert f"Sign-in is for {server.endpoint}" in found["sign-in"].found


async def test_sign_in_that_a_proxy_keeps_back() -> None:
    """The metadata's address answers, but not with metadata."""
    says = Says(401, b"{}")
    with saying(says) as port:
        says.headers = {"WWW-Authenticate": f'Bearer resource_metadata="http://127.0.0.1:{port}/.well-known/x"'}
        found = await looked(f"http://127.0.0.1:{port}/mcp")
    assert "answers HTTP 401" in found["sign-in"].found
    assert "/.well-known/" in found["sign-in"].advice


async def test_nobody_there() -> None:
    """Nothing else is looked at."""
    found = await looked(f"http://127.0.0.1:{nobody()}/mcp")
    assert found.pop("proxy").level == "ok"
    assert found.pop("network").level == "problem"
    assert {finding.level for finding in found.values()} == {"not checked"}


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_proxy_with_nothing_behind_it(status: int) -> None:
    """Its page is not the server's."""
    with saying(Says(status, b"<html><title>Bad Gateway</title></html>", "text/html")) as port:
        found = await looked(f"http://127.0.0.1:{port}/mcp")
    assert f"A proxy in front answers HTTP {status}" in found["network"].found


async def test_another_server() -> None:
    """One that takes everything and asks for nothing gets no token."""
    says = Says(200, b'{"hello": "world"}')
    with saying(says) as port:
        found = await looked(f"http://127.0.0.1:{port}/mcp")
    assert found["server"].level == "warning"
    assert "answered with HTTP 200" in found["sign-in"].found
    assert TOKEN not in "".join(says.seen)


async def test_one_for_everybody() -> None:
    """An MCP server that requires no token gets none."""
    seen: list[Headers] = []
    server = MCPServer("public")
    server.add_tool(lambda: "hello", "greet")
    app = server.streamable_http_app()

    async def recorded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            seen.append(Headers(scope=scope))
        await app(scope, receive, send)

    with serving(recorded) as address:
        found = await looked(f"{address}/mcp")
    assert (found["sign-in"].level, "anyone can call it" in found["sign-in"].found) == ("warning", True)
    assert found["token"].level == "not checked"
    assert seen
    assert not any("authorization" in headers for headers in seen)


async def test_a_server_that_says_yes_to_everything() -> None:
    """It asks for a token and then answers without MCP: the SDK's client says what is wrong."""
    answers = iter([(401, b"{}"), *[(200, b'{"hello": "world"}')] * 5])

    async def answer(request: Request) -> Response:
        if request.method != "POST":
            return Response("{}", 404)
        status, body = next(answers)
        return Response(body, status, media_type="application/json")

    with serving(Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])) as address:
        found = await looked(f"{address}/mcp")
    assert found["token"].level == "problem"
    assert "not the answer of an MCP server: Failed to parse JSON response" in found["token"].found
    assert "\n" not in found["token"].found


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (Says(200, b"<html><title>WiFi</title></html>", "text/html"), 'A web page answers ("WiFi")'),
        (Says(302, b"", headers={"Location": "https://portal.example/"}), "redirect to portal.example"),
        (Says(500, b"{}"), "answered with HTTP 500"),
        (
            Says(401, b"{}", headers={"WWW-Authenticate": 'Bearer resource_metadata="http://[x"'}),
            "announced at http://[x, which is not an address",
        ),
    ],
)
async def test_something_in_between(says: Says, words: str) -> None:
    """No endpoint answers like that; it gets no token."""
    with saying(says) as port:
        found = await looked(f"http://127.0.0.1:{port}/mcp")
    assert words in found["sign-in"].found
    assert found["sign-in"].level == "problem"
    assert found["token"].level == "not checked"
    assert TOKEN not in "".join(says.seen)


async def test_a_placeholder_is_not_sent(table: ModelTable, upstream: str) -> None:
    """It is a problem of this machine's settings: the endpoint, which would refuse it, is not asked."""
    with hosted(table, upstream) as url:
        found = await looked(url, "your-token")
    assert (found["token"].level, "It was not sent" in found["token"].found) == ("problem", True)


async def test_tokens_go_out_over_https_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or to this machine."""
    says = Says(401, HEALTHY)
    with saying(says) as port:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        found = await looked("http://mcp.example.invalid/mcp")
    assert found["network"].level == "warning"
    assert found["token"] == Finding("not checked", "the token is not sent without https")
    assert len(says.seen) == 3
    assert TOKEN not in "".join(says.seen)


@pytest.mark.parametrize(("days", "level"), [(90, "ok"), (5, "warning")])
async def test_certificates_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, level: str) -> None:
    """The day is told before it comes."""
    tls, file = certificate(tmp_path, "localhost", days=days)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with saying(Says(401, HEALTHY, fast=-300), tls=tls) as port:
        found = await looked(f"https://localhost:{port}/mcp")
    assert found["certificate"].level == level, found
    assert "valid" in found["certificate"].found
    assert "5 min" in found["clock"].found
    assert found["server"].found == "mcp-seedream 9.9.9"


@pytest.mark.parametrize("url", ["mcp.example.com", "ftp://x/mcp", "https://", "https://a b/mcp", "https://[x/mcp", ""])
def test_an_address_that_is_none(url: str) -> None:
    """Is refused before anything is looked at."""
    with pytest.raises(ConfigurationError, match="is not an address"):
        EndpointChecks(url, None, connect=1, read=1)
