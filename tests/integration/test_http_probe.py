"""The upstream that can't be reached, in each of the ways there are, and what `doctor` says of it."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import pytest

from mcp_seedream.core.settings_report import read_report
from mcp_seedream.doctor.findings import Finding, Result, run_checks
from mcp_seedream.doctor.upstream_checks import UpstreamChecks
from mcp_seedream.sandbox.app import Sandbox
from tests.support.obstacles import Says, certificate, full, nobody, saying, silent, tunnelling

pytestmark = pytest.mark.anyio
IMPATIENT = {"SEEDREAM_CONNECT_TIMEOUT": "1", "SEEDREAM_READ_TIMEOUT": "1"}
TOKEN = "a-token-of-some-length-9876"
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without proxies, with a token."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACEDATACLOUD_API_TOKEN", TOKEN)
    monkeypatch.setenv("SEEDREAM_IMAGE_HOSTS", "")


async def looked(monkeypatch: pytest.MonkeyPatch, address: str, **settings: str) -> dict[str, Finding]:
    """What the checks of an upstream find."""
    monkeypatch.setenv("ACEDATACLOUD_API_BASE_URL", address)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    told: list[Result] = []
    await run_checks(UpstreamChecks(read_report()).checks(), told.append)
    assert [result.name for result in told] == ["proxy", "network", "clock", "pictures", "token", "account"]
    assert TOKEN not in repr(told)
    return {result.name: result.finding for result in told}


def problem(found: dict[str, Finding], name: str = "network") -> str:
    """The one problem there is: what depends on it is not looked at."""
    levels = {each: finding.level for each, finding in found.items() if finding.level not in ("ok", "warning")}
    assert levels.pop(name) == "problem"
    assert set(levels.values()) <= {"not checked"}
    assert "account" in levels
    return f"{found[name].found} {found[name].advice}"


async def test_all_is_well(monkeypatch: pytest.MonkeyPatch, upstream: str, sandbox: Sandbox) -> None:
    """The way, the clock, the host of pictures, the token; nothing is generated, nothing is sent before it is well."""
    found = await looked(monkeypatch, upstream, SEEDREAM_IMAGE_HOSTS=upstream)
    assert {finding.level for finding in found.values()} == {"ok"}, found
    assert "answer" in found["network"].found
    assert found["account"].found.startswith("...9876 is accepted")
    asked = [(path, token) for path, token, _ in sandbox.requests if not path.startswith("/pictures")]
    assert asked == [("/seedream/tasks", ""), ("/seedream/tasks", TOKEN)]


async def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port at which nobody listens."""
    assert "refuses the connection" in problem(await looked(monkeypatch, f"http://127.0.0.1:{nobody()}"))


async def test_an_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """No such host, or no DNS."""
    said = problem(await looked(monkeypatch, "https://nowhere.invalid"))
    assert "The host name nowhere.invalid is unknown" in said
    assert "online" in said


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_one_that_hangs(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """It takes the connection, and says nothing; not for longer than the settings allow."""
    began = time.monotonic()
    with silent() as port:
        said = problem(await looked(monkeypatch, f"{scheme}://127.0.0.1:{port}", **IMPATIENT))
    assert "accepts the connection, but does not answer" in said
    assert time.monotonic() - began < 8


async def test_one_that_takes_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a firewall that drops what comes."""
    with full() as port:
        said = problem(await looked(monkeypatch, f"http://127.0.0.1:{port}", **IMPATIENT))
    assert "Connecting to 127.0.0.1 timed out" in said


async def test_a_web_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network that wants a sign-in: its title helps to know it. The token is not sent there."""
    page = Says(200, b"\n<!doctype html><title>Hotel &amp; Spa\x1b[31m\n WiFi</title>", "text/html")
    with saying(page) as port:
        said = problem(await looked(monkeypatch, f"http://127.0.0.1:{port}"))
    assert 'A web page answers ("Hotel & Spa' in said
    assert "sign-in page" in said
    assert TOKEN not in "".join(page.seen)


async def test_a_redirect(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not followed: what comes after it is not the API."""
    with saying(Says(302, b"", headers={"Location": "https://login.hotel.example/x?y"})) as port:
        said = problem(await looked(monkeypatch, f"http://127.0.0.1:{port}"))
    assert "redirect to login.hotel.example" in said


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (Says(200, b"pong", "text/plain"), "not the answer of the API"),
        (Says(404, b'{"detail": "Not Found"}'), "not the answer of the API"),
        (Says(404, b'{"error": {"code": "no_api", "message": "API does not exist."}}'), "API does not exist"),
        (Says(503, b'{"error": {"code": "api_error", "message": "down"}}'), "The API fails (HTTP 503)"),
    ],
)
async def test_something_else_answers(monkeypatch: pytest.MonkeyPatch, says: Says, words: str) -> None:
    """Another server, another path, or an upstream that is down. The token is not sent there."""
    with saying(says) as port:
        assert words in problem(await looked(monkeypatch, f"http://127.0.0.1:{port}"))
    assert TOKEN not in "".join(says.seen)


async def test_not_http(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """TLS that is asked without, and the other way round."""
    tls, _ = certificate(tmp_path, "localhost")
    with saying(Says(), tls=tls) as port:
        assert "does not speak HTTP" in problem(await looked(monkeypatch, f"http://127.0.0.1:{port}"))
    with saying(Says()) as port:
        assert "does not speak TLS" in problem(await looked(monkeypatch, f"https://127.0.0.1:{port}"))


async def test_a_certificate_that_nobody_signed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As of a proxy that reads along; with the advice followed, it is trusted."""
    tls, file = certificate(tmp_path, "localhost")
    with saying(Says(), tls=tls) as port:
        said = problem(await looked(monkeypatch, f"https://localhost:{port}"))
        assert "certificate of localhost is not trusted: self" in said
        assert "SSL_CERT_FILE" in said
        found = await looked(monkeypatch, f"https://localhost:{port}", SSL_CERT_FILE=str(file))
    assert found["network"].level == "ok"
    assert "TLS" in found["network"].found


@pytest.mark.parametrize(("content", "words"), [(None, "No such file"), ("nonsense", "it has no certificates")])
async def test_a_file_of_certificates_that_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None, words: str
) -> None:
    """The advice followed, but not well."""
    file = tmp_path / "authority.pem"
    if content:
        file.write_text(content, "utf-8")
    found = await looked(monkeypatch, "https://api.example.com", SSL_CERT_FILE=str(file))
    assert f"The file of SSL_CERT_FILE can't be used: {words}" in problem(found, "proxy")


async def test_other_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For another name, or of the past: that may be this machine's clock."""
    tls, file = certificate(tmp_path, "elsewhere.example")
    with saying(Says(), tls=tls) as port:
        said = problem(await looked(monkeypatch, f"https://localhost:{port}", SSL_CERT_FILE=str(file)))
    assert "not trusted: Hostname mismatch" in said
    tls, file = certificate(tmp_path, "localhost", days=-1)
    with saying(Says(), tls=tls) as port:
        said = problem(await looked(monkeypatch, f"https://localhost:{port}", SSL_CERT_FILE=str(file)))
    assert "expired" in said
    assert "clock of this machine says 20" in said


@pytest.mark.parametrize(
    ("fast", "level", "words"),
    [
        (0, "ok", "differs from that of 127.0.0.1 by"),
        (-45, "ok", "differs from that of 127.0.0.1 by"),
        (-312, "warning", "5 min 12 s ahead of"),
        (2 * 86400 + 3700, "warning", "2 days 1 h behind"),
        (None, "not checked", "sends no date"),
    ],
)
async def test_the_clock(monkeypatch: pytest.MonkeyPatch, fast: float | None, level: str, words: str) -> None:
    """Over a minute from the upstream's: by how much, and in which direction."""
    with saying(Says(fast=fast)) as port:
        found = await looked(monkeypatch, f"http://127.0.0.1:{port}")
    assert found["clock"].level == level
    assert words in found["clock"].found.replace("5 min 11", "5 min 12").replace("5 min 13", "5 min 12")


async def test_a_proxy_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else is looked at, and its password is shown nowhere."""
    proxy = f"http://me:hush@127.0.0.1:{nobody()}"
    found = await looked(monkeypatch, "https://api.example.com", HTTPS_PROXY=proxy)
    said = problem(found, "proxy")
    assert "http://***@127.0.0.1" in said
    assert "(HTTPS_PROXY)" in said
    assert "refuses the connection" in said
    assert "hush" not in repr(found)
    assert found["network"].level == "not checked"


async def test_a_proxy_that_wants_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """407; no name is resolved here."""
    with saying(Says(407, b"")) as port:
        proxy = f"http://127.0.0.1:{port}"
        said = problem(await looked(monkeypatch, "https://api.example.invalid", HTTPS_PROXY=proxy))
    assert "requires a user name and a password (407)" in said
    assert "HTTPS_PROXY" in said


async def test_a_proxy_that_forbids_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The upstream is not on its list."""
    with saying(Says(403, b"")) as port:
        found = await looked(monkeypatch, "https://api.example.invalid", ALL_PROXY=f"127.0.0.1:{port}")
    said = problem(found)
    assert "does not connect to api.example.invalid: 403" in said
    assert found["proxy"].found == f"http://127.0.0.1:{port} (ALL_PROXY)"


async def test_through_a_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No problems found, though the name is not known here; but for a name in NO_PROXY the proxy is not used."""
    tls, file = certificate(tmp_path, "api.example.invalid")
    says = Says()
    with saying(says, tls=tls) as port, tunnelling(port) as proxy:
        way = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy}", "SSL_CERT_FILE": str(file)}
        found = await looked(monkeypatch, "https://api.example.invalid", **way)
        assert {found["proxy"].level, found["network"].level} == {"ok"}, found
        assert "POST /seedream/tasks" in says.seen[0]
        found = await looked(monkeypatch, "https://api.example.invalid", **way, NO_PROXY="example.invalid")
    assert found["proxy"].found == "none for api.example.invalid, though HTTPS_PROXY is set"
    assert "is unknown" in problem(found)


@pytest.mark.skipif(importlib.util.find_spec("socksio") is not None, reason="SOCKS works here")
async def test_a_socks_proxy_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Says what to install."""
    found = await looked(monkeypatch, "https://api.example.com", ALL_PROXY="socks5://127.0.0.1:1080")
    assert "mcp-seedream-acedatacloud[socks]" in problem(found, "proxy")


@pytest.mark.parametrize("proxy", ["nonsense://127.0.0.1:1", "http://127.0.0.1:port"])
async def test_a_proxy_that_is_none(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """An address that can't be one."""
    said = problem(await looked(monkeypatch, "https://api.example.com", HTTPS_PROXY=proxy), "proxy")
    assert "proxy" in said.lower()


@pytest.mark.parametrize(
    ("token", "words"), [("invalid", "is refused (invalid_token)"), ("used_up", "no balance left")]
)
async def test_a_token_that_the_upstream_refuses(
    monkeypatch: pytest.MonkeyPatch, upstream: str, token: str, words: str
) -> None:
    """And one whose balance is used up, where the upstream says so to a question that costs nothing."""
    found = await looked(monkeypatch, upstream, ACEDATACLOUD_API_TOKEN=token)
    assert found["account"].level == "problem"
    assert words in found["account"].found
    assert "https://platform.acedata.cloud" in found["account"].found


async def test_an_account_that_can_not_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many questions are no fault of the token's."""
    with saying(Says(429, b'{"error": {"code": "too_many_requests", "message": "slow"}}')) as port:
        found = await looked(monkeypatch, f"http://127.0.0.1:{port}")
    assert found["account"].level == "warning"
    assert "could not be checked" in found["account"].found


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("", "No token is set"),
        ("${user_config.api_token}", "No token is set"),
        ("your-token", "`your-token` is not a token"),
        ("YOUR_API_TOKEN", "is not a token"),
        ("<token>", "is in brackets"),
        ("{a-real-one-of-9876}", "is in brackets"),
        ("${ACEDATACLOUD_API_TOKEN}", "is in brackets"),
        ("$TOKEN", "is a variable that was not replaced"),
        ("<your token>", "is in brackets"),
        ("xxxx", "is not a token"),
        ("two words of-9876", "It is not a token: it contains blanks"),
        ("t\u00f6ken-of-some-length", "It is not a token"),
    ],
)
async def test_no_token(monkeypatch: pytest.MonkeyPatch, upstream: str, written: str, words: str) -> None:
    """Missing, malformed, or what an example says: nobody is asked."""
    found = await looked(monkeypatch, upstream, ACEDATACLOUD_API_TOKEN=written)
    said = problem(found, "token")
    assert words in said
    assert "https://platform.acedata.cloud" in said
    assert "of-9876" not in said


@pytest.mark.parametrize(
    ("written", "words"),
    [(f'"{TOKEN}"', "quotes or spaces"), (f"Bearer {TOKEN}", "the word Bearer"), (f" {TOKEN}", "spaces")],
)
async def test_a_token_with_something_around_it(
    monkeypatch: pytest.MonkeyPatch, upstream: str, written: str, words: str
) -> None:
    """It works here, and may not elsewhere."""
    found = await looked(monkeypatch, upstream, ACEDATACLOUD_API_TOKEN=written)
    assert (found["token"].level, found["account"].level) == ("warning", "ok")
    assert words in found["token"].found


async def test_a_token_from_a_file(monkeypatch: pytest.MonkeyPatch, upstream: str) -> None:
    """Says that it is from there."""
    monkeypatch.delenv("ACEDATACLOUD_API_TOKEN")
    Path(".env").write_text(f'ACEDATACLOUD_API_TOKEN="{TOKEN}"\n', "utf-8")
    found = await looked(monkeypatch, upstream)
    assert found["token"] == Finding("ok", "...9876, from .env")


async def test_a_short_token_is_not_shown(monkeypatch: pytest.MonkeyPatch, upstream: str) -> None:
    """Its end would be much of it."""
    found = await looked(monkeypatch, upstream, ACEDATACLOUD_API_TOKEN="abcdefg")
    assert "defg" not in repr(found)
    assert found["account"].found.startswith("the token (short) is accepted")


async def test_an_address_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the upstream: a setting's check says so, and nothing else is asked instead."""
    found = await looked(monkeypatch, "api.acedata.cloud")
    assert {name: finding.level for name, finding in found.items() if name != "token"} == dict.fromkeys(
        ("proxy", "network", "clock", "pictures", "account"), "not checked"
    )
    assert found["proxy"].found == "ACEDATACLOUD_API_BASE_URL is invalid"


async def test_hosts_of_pictures(monkeypatch: pytest.MonkeyPatch, upstream: str) -> None:
    """One that is not there, one inside the network, and a pattern: links come all the same."""
    found = await looked(monkeypatch, upstream, SEEDREAM_IMAGE_HOSTS=f"http://127.0.0.1:{nobody()},{upstream}")
    assert found["pictures"].level == "warning"
    assert "refuses" in found["pictures"].found
    assert "Results have links" in found["pictures"].advice
    with saying(Says(404, b"<html>no</html>", "text/html"), host="127.0.0.2") as port:
        found = await looked(monkeypatch, upstream, SEEDREAM_IMAGE_HOSTS=f"http://127.0.0.2:{port}")
    assert "127.0.0.2 has a private address" in found["pictures"].found
    found = await looked(monkeypatch, upstream, SEEDREAM_IMAGE_HOSTS="https://*.example.com")
    assert found["pictures"] == Finding("ok", "https://*.example.com is a pattern, which is not checked")
    found = await looked(monkeypatch, upstream, SEEDREAM_IMAGE_HOSTS="nonsense")
    assert found["pictures"].level == "not checked"
