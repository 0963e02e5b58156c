"""Sign-in over HTTP, through a real uvicorn: the complete flow of the official client, and refused requests."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import AsyncIterator, Iterator

import anyio
import httpx
import pytest

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.oauth.provider import Lifetimes
from mcp_seedream.oauth.registrations import AUTH_METHODS
from mcp_seedream.oauth.sealing import Sealer
from mcp_seedream.oauth.store import MemoryStore
from mcp_seedream.sandbox.app import Sandbox
from tests.conftest import answer
from tests.support.dance import (
    CLAUDE,
    KEY,
    OTHER_SECRET,
    SECRET,
    Hosted,
    Kept,
    Person,
    Raw,
    answer_in,
    hosted,
    link_back,
    official,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(table: ModelTable, upstream: str) -> Iterator[Hosted]:
    with hosted(table, upstream) as server:
        yield server


@pytest.fixture
async def web() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30) as web:
        yield web


@pytest.fixture
def raw(server: Hosted, web: httpx.AsyncClient) -> Raw:
    return Raw(server.address, web)


def keys_seen(sandbox: Sandbox) -> set[str]:
    return {token for _, token, _ in sandbox.requests}


async def test_the_official_client_signs_in(server: Hosted, sandbox: Sandbox, mode: str) -> None:
    """It discovers the server, registers, opens the consent page, gets a token, and calls a tool with it."""
    kept = Kept()
    async with official(server.endpoint, Person(), kept, mode) as client:
        result = await client.call_tool("generate_image", {"prompt": "a fox"})
    assert answer(result)["status"] == "succeeded"
    assert keys_seen(sandbox) == {KEY}
    assert kept.tokens is not None
    assert kept.tokens.access_token.startswith("sdm_access_")
    assert KEY not in kept.tokens.model_dump_json()


async def test_the_official_client_refreshes(table: ModelTable, upstream: str, sandbox: Sandbox) -> None:
    """It refreshes an expired token itself, without asking its user again."""
    kept, person, now = Kept(), Person(), [time.time()]
    with hosted(table, upstream, lifetimes=Lifetimes(access=1), clock=lambda: now[0]) as server:
        async with official(server.endpoint, person, kept) as client:
            await client.list_tools()
            first = kept.tokens
            person.key = "nobody asks for it again"
            await anyio.sleep(1.1)  # the client measures the expiry with its own clock
            now[0] += 10
            result = await client.call_tool("generate_image", {"prompt": "a fox"})
    assert answer(result)["status"] == "succeeded"
    assert first is not None
    assert kept.tokens is not None
    assert first.refresh_token != kept.tokens.refresh_token
    assert keys_seen(sandbox) == {KEY}


async def test_a_key_of_ones_own_is_still_a_token(server: Hosted, raw: Raw) -> None:
    """Clients with a setting for a key send it directly."""
    assert (await raw.call("a-key-of-my-own")).status_code == 200


async def test_metadata(server: Hosted, web: httpx.AsyncClient) -> None:
    """A 401 names the metadata's address, and the metadata has the fields that clients read."""
    refusal = await web.post(server.endpoint, json={})
    assert refusal.status_code == 401
    where = f"{server.address}/.well-known/oauth-protected-resource/mcp"
    assert f'resource_metadata="{where}"' in refusal.headers["www-authenticate"]
    resource = (await web.get(where)).json()
    assert (resource["resource"], resource["authorization_servers"]) == (server.endpoint, [server.address])
    found = (await web.get(f"{server.address}/.well-known/oauth-authorization-server")).json()
    assert found["issuer"] == server.address
    assert found["token_endpoint_auth_methods_supported"] == AUTH_METHODS
    assert found["code_challenge_methods_supported"] == ["S256"]
    ends = ("authorization", "token", "registration", "revocation")
    assert all(found[f"{end}_endpoint"].startswith(server.address) for end in ends)


async def test_claude_as_it_registers(raw: Raw) -> None:
    """A public client has no secret, gets our scope, and its id is short enough for a URL."""
    response = await raw.register()
    found = response.json()
    assert response.status_code == 201
    assert "client_secret" not in found
    assert (found["scope"], found["redirect_uris"]) == ("images", [CLAUDE])
    assert len(found["client_id"]) < 300
    tokens = (await raw.exchange(await raw.code())).json()
    assert (tokens["token_type"], tokens["expires_in"], tokens["scope"]) == ("Bearer", 3600, "images")
    assert (await raw.call(tokens["access_token"])).status_code == 200


@pytest.mark.parametrize("method", ["client_secret_post", "client_secret_basic"])
async def test_a_client_with_a_secret(raw: Raw, method: str) -> None:
    """It must send the secret, which the server does not store."""
    await raw.register(token_endpoint_auth_method=method)
    code = await raw.code()
    assert (await raw.exchange(code)).status_code == 401
    form = {"grant_type": "authorization_code", "client_id": raw.id, "code": code, "redirect_uri": raw.redirect_uri}
    form["code_verifier"] = raw.verifier
    headers = {}
    if method == "client_secret_post":
        form["client_secret"] = raw.secret
    else:
        headers["authorization"] = "Basic " + base64.b64encode(f"{raw.id}:{raw.secret}".encode()).decode()
    response = await raw.web.post(f"{raw.address}/token", data=form, headers=headers)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("id_", ["", "sdm_client_nonsense", "%"])
async def test_a_client_that_is_named_in_its_header_alone(raw: Raw, id_: str) -> None:
    """It gets, refreshes and revokes a token. Id and secret may be percent-encoded; wrong ones are refused."""
    await raw.register(token_endpoint_auth_method="client_secret_basic")
    code = await raw.code()
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": raw.redirect_uri}
    form["code_verifier"] = raw.verifier
    for wrong in (basic(raw.id, "x"), basic(raw.id, ""), basic(id_, raw.secret), {"authorization": "Basic x"}, {}):
        for path in ("token", "revoke"):
            refusal = await raw.web.post(f"{raw.address}/{path}", data=form, headers=wrong)
            assert (refusal.status_code, refusal.json()["error"]) == (401, "invalid_client")
    encoded = basic(raw.id.replace("_", "%5F"), raw.secret.replace("-", "%2D"))
    tokens = (await raw.web.post(f"{raw.address}/token", data=form, headers=encoded)).json()
    assert (await raw.call(tokens["access_token"])).status_code == 200
    form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    parts = {name: (None, value) for name, value in form.items()}
    good = basic(raw.id, raw.secret)
    tokens = (await raw.web.post(f"{raw.address}/token", files=parts, headers=good)).json()
    assert (await raw.call(tokens["access_token"])).status_code == 200
    form = {"token": tokens["access_token"]}
    assert (await raw.web.post(f"{raw.address}/revoke", data=form, headers=good)).status_code == 200
    assert (await raw.call(tokens["access_token"])).status_code == 401


@pytest.mark.parametrize(
    "uri",
    [
        "http://evil.example.com/callback",
        "javascript:alert(1)",
        "data:text/html,x",
        "myapp://callback",
        "https://claude.ai/callback#fragment",
        "https://claude.ai@evil.example.com/",
        "https://example.com/" + "x" * 300,
        "http://localhost.evil.example.com/",
        "//evil.example.com/",
        "https://evil.example.com;script-src/",
        "https://a.example,b.example/",
        "https://*.example.com/",
        "https://*/",
        "https://a$b.example/",
        "https://a_b.example/",
        "https://a'b.example/",
        "https://a.example:x/",
        "https://[::1;]/",
        "https://[v1.a;b]/",
        "cursor://a;b/callback",
        "cursor://*/callback",
        "cursor://a,b/callback",
    ],
)
async def test_redirect_uris_that_will_not_do(raw: Raw, uri: str) -> None:
    """Registration refuses them."""
    response = await raw.register(redirect_uris=[CLAUDE, uri])
    assert response.status_code == 400
    assert response.json()["error"] in ("invalid_redirect_uri", "invalid_client_metadata")


async def test_apps_come_back_by_their_own_scheme(raw: Raw) -> None:
    """Schemes of known apps are accepted, and the consent page shows the app."""
    uri = "cursor://anysphere.cursor-mcp/oauth/callback"
    assert (await raw.register(redirect_uris=[uri])).status_code == 201
    page = await Person().look(raw.url())
    assert "the app cursor" in page.text
    assert "form-action 'self' cursor:;" in page.headers["content-security-policy"]


async def test_a_registration_from_before_is_looked_at_again(raw: Raw) -> None:
    """A redirect URI that was accepted earlier and is not accepted any more is not used."""
    for uri, status in (("https://a.example;script-src/", 400), (CLAUDE, 302)):
        raw.id = Sealer([SECRET], f"{raw.address}/mcp").seal("client", {"u": [uri], "t": 1})
        for asked in (uri, None):
            assert (await raw.web.get(raw.url(redirect_uri=asked))).status_code == status


@pytest.mark.parametrize(
    ("uri", "policy"),
    [
        ("https://a-b.example:8443/callback", "https://a-b.example:8443"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example"),
        ("https://b\u00fccher.example/", "https://xn--bcher-kva.example"),
        ("http://127.0.0.1:1234/callback", "http://127.0.0.1:1234"),
        ("http://[::1]:1234/callback", "http:"),
        ("https://[2001:db8::1]/callback", "https:"),
        ("vscode://some_body.some-thing/callback", "vscode:"),
    ],
)
async def test_hosts_that_will_do(raw: Raw, uri: str, policy: str) -> None:
    """The page's policy contains them unchanged, or their whole scheme if a policy can't contain them."""
    assert (await raw.register(redirect_uris=[uri])).status_code == 201
    page = await Person().look(raw.url())
    assert f"form-action 'self' {policy};" in page.headers["content-security-policy"]


async def test_redirect_uris_are_not_too_many(raw: Raw) -> None:
    """Registration refuses more than ten."""
    assert (await raw.register(redirect_uris=[f"https://a.example/{n}" for n in range(10)])).status_code == 201
    assert (await raw.register(redirect_uris=[f"https://a.example/{n}" for n in range(11)])).status_code == 400


@pytest.mark.parametrize(
    "uri",
    [
        "https://evil.example.com/",
        "https://claude.ai.evil.example.com/api/mcp/auth_callback",
        "https://claude.ai/api/mcp/auth_callback/../../elsewhere",
        "https://claude.ai:444/api/mcp/auth_callback",
        "http://claude.ai/api/mcp/auth_callback",
        "https://claude.ai/api/mcp/auth_callback?more=1",
        "https://claude.ai/api/mcp/auth_callback#more",
        "https://somebody@claude.ai/api/mcp/auth_callback",
        "http://localhost:1234/",
    ],
)
async def test_nobody_is_sent_where_the_client_did_not_register(raw: Raw, uri: str) -> None:
    """The response is an error page, not a redirect."""
    await raw.register()
    response = await raw.web.get(raw.url(redirect_uri=uri))
    assert (response.status_code, response.headers.get("location")) == (400, None)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"null", b'{"redirect_uris": [""]}', b'{"redirect_uris": ["https://["]}', b"a=%00&b=%ff"],
)
@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_nonsense_is_the_senders_fault(raw: Raw, content: bytes, kind: str) -> None:
    """All endpoints answer with a client error."""
    for path in ("register", "token", "revoke", "authorize", "consent", "token?resource=x"):
        response = await raw.web.post(f"{raw.address}/{path}", content=content, headers={"content-type": kind})
        assert 400 <= response.status_code < 500
    for path in ("authorize?redirect_uri=http://[", "consent?transaction=%ff", "consent"):
        assert (await raw.web.get(f"{raw.address}/{path}")).status_code == 400


MULTIPART = "multipart/form-data; boundary=b"
FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"not multipart", MULTIPART),
        (b"--b\r\nbad", "multipart/form-data"),
        (b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", MULTIPART),
        (b'--b\r\nContent-Disposition: form-data; name="state"; filename="x"\r\n\r\nx\r\n--b--\r\n', MULTIPART),
        (b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * 1001 + b"--b--\r\n", MULTIPART),
        (
            b'--b\r\nContent-Disposition: form-data; name="state"\r\n\r\n\\ud800\r\n--b--\r\n',
            f"{MULTIPART}; charset=raw_unicode_escape",
        ),
        (b"&".join(b"a%d=1" % number for number in range(1001)), FORM),
    ],
)
async def test_forms_that_can_not_be_read(
    raw: Raw, caplog: pytest.LogCaptureFixture, content: bytes, kind: str
) -> None:
    """The response is a client error, and the log has no traceback."""
    for path in ("authorize", "token", "revoke"):
        response = await raw.web.post(f"{raw.address}/{path}", content=content, headers={"content-type": kind})
        assert (response.status_code, response.json()["error"]) == (400, "invalid_request")
    consent = await raw.web.post(f"{raw.address}/consent", content=content, headers={"content-type": kind})
    assert consent.status_code == 400
    assert [record.message for record in caplog.records if record.exc_info or record.levelno > logging.WARNING] == []


async def test_a_client_asks_by_form(raw: Raw) -> None:
    """The authorization request may be a form instead of a query."""
    await raw.register()
    address, _, query = raw.url().partition("?")
    response = await raw.web.post(address, content=query, headers={"content-type": FORM})
    assert "/consent?" in response.headers["location"]


async def test_a_client_on_this_machine_may_take_any_port(raw: Raw) -> None:
    """Its port is known only when it starts (RFC 8252), so any port matches; another path does not."""
    await raw.register(redirect_uris=["http://localhost/callback"])
    assert (await raw.web.get(raw.url(redirect_uri="http://localhost:54321/callback"))).status_code == 302
    assert (await raw.web.get(raw.url(redirect_uri="http://localhost:54321/other"))).status_code == 400


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"resource": "https://elsewhere.example.com/mcp"}, "invalid_target"),
        ({"resource": "http://127.0.0.1:1/mcp"}, "invalid_target"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"state": "x" * 2000}, "invalid_request"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_that_is_not_valid_leads_nowhere_by_itself(
    raw: Raw, changes: dict[str, str | None], error: str, method: str
) -> None:
    """PKCE is S256, the resource is ours. A stranger's redirect URI gets nobody who has not clicked (RFC 9700, 4.11.2).

    The page names the application's host; its link has the error, the state and the issuer.
    """
    await raw.register()
    address, _, query = raw.url(**changes).partition("?")
    response = (
        await raw.web.get(f"{address}?{query}")
        if method == "GET"
        else await raw.web.post(address, content=query, headers={"content-type": FORM})
    )
    assert (response.status_code, response.headers.get("location")) == (400, None)
    assert response.headers["content-type"].startswith("text/html")
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    assert response.headers["cache-control"] == "no-store"
    assert "<strong>claude.ai</strong>" in response.text
    assert "<form" not in response.text
    back = link_back(response.text)
    assert back.startswith(f"{CLAUDE}?")
    told = answer_in(back)
    assert (told["error"], told["iss"]) == (error, raw.address)
    assert told["state"] == changes.get("state", raw.state)


async def test_markup_in_a_request_that_is_not_valid_stays_text(raw: Raw) -> None:
    """On the error page as well."""
    await raw.register(redirect_uris=["https://a.example/?a=1&error=mine"])
    raw.state = '"><script>alert(1)</script>'
    for wrong in ({"response_type": "<script>"}, {"code_challenge_method": '"><img>'}, {"code_challenge": "<img>"}):
        page = (await raw.web.get(raw.url(**wrong))).text
        assert "<script" not in page
        assert "<img" not in page
        assert "(mine)" not in page
        assert answer_in(link_back(page))["state"] == raw.state


async def test_the_resource_is_ours_however_it_is_written(raw: Raw) -> None:
    """The resource may have a slash at the end or a query, or be missing."""
    await raw.register()
    for resource in (f"{raw.address}/mcp/", f"{raw.address}/mcp?preview=on", None):
        response = await raw.web.get(raw.url(resource=resource))
        assert "/consent?" in response.headers["location"]


async def test_a_token_for_another_resource_is_refused(raw: Raw) -> None:
    """The request for a token is refused; the code remains valid."""
    await raw.register()
    code = await raw.code()
    response = await raw.exchange(code, resource="https://elsewhere.example.com/mcp")
    assert (response.status_code, response.json()["error"]) == (400, "invalid_target")
    tokens = (await raw.exchange(code)).json()
    response = await raw.refresh(tokens["refresh_token"], resource="https://elsewhere.example.com/mcp")
    assert response.json()["error"] == "invalid_target"


async def test_a_wrong_verifier(raw: Raw) -> None:
    """The request is refused, and the code becomes invalid."""
    await raw.register()
    code = await raw.code()
    for verifier in ("x" * 43, raw.verifier):
        response = await raw.exchange(code, code_verifier=verifier)
        assert (response.status_code, response.json()["error"]) == (400, "invalid_grant")


async def test_a_code_is_bound_to_client_and_redirect_uri(raw: Raw) -> None:
    """A request by another client, or for another redirect URI, is refused."""
    await raw.register()
    other = Raw(raw.address, raw.web)
    await other.register()
    other.verifier = raw.verifier
    assert (await other.exchange(await raw.code())).json()["error"] == "invalid_grant"
    response = await raw.exchange(await raw.code(), redirect_uri="https://claude.ai/elsewhere")
    assert response.status_code == 400


async def test_a_replayed_code_ends_its_grant(raw: Raw) -> None:
    """A second use means that the code was stolen, so the tokens issued for it are revoked."""
    await raw.register()
    code = await raw.code()
    tokens = (await raw.exchange(code)).json()
    assert (await raw.call(tokens["access_token"])).status_code == 200
    assert (await raw.exchange(code)).json()["error"] == "invalid_grant"
    assert (await raw.call(tokens["access_token"])).status_code == 401
    assert (await raw.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"


async def test_of_many_that_bring_a_code_one_gets_a_token(raw: Raw) -> None:
    """Of concurrent requests with one code, one gets a token; then the grant is revoked."""
    await raw.register()
    code = await raw.code()
    answers: list[httpx.Response] = []

    async def bring() -> None:
        answers.append(await raw.exchange(code))

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(bring)
    good = [response for response in answers if response.status_code == 200]
    assert len(good) == 1
    assert (await raw.call(good[0].json()["access_token"])).status_code == 401


async def test_a_code_that_has_expired(table: ModelTable, upstream: str, web: httpx.AsyncClient) -> None:
    """A code that has expired is refused."""
    now = [0.0]
    with hosted(table, upstream, store=MemoryStore(clock=lambda: now[0])) as server:
        raw = Raw(server.address, web)
        await raw.register()
        code = await raw.code()
        now[0] += Lifetimes.code
        assert (await raw.exchange(code)).json()["error"] == "invalid_grant"


async def test_refresh_tokens_are_good_once(raw: Raw) -> None:
    """Once its successor was used, a second time ends the grant: one of the two who have it stole it."""
    first = await raw.tokens()
    second = (await raw.refresh(first["refresh_token"])).json()
    assert second["access_token"] != first["access_token"]
    assert (await raw.call(second["access_token"])).status_code == 200
    third = (await raw.refresh(second["refresh_token"])).json()
    assert (await raw.refresh(first["refresh_token"])).json()["error"] == "invalid_grant"
    for tokens in (first, second, third):
        assert (await raw.call(tokens["access_token"])).status_code == 401
    assert (await raw.refresh(third["refresh_token"])).json()["error"] == "invalid_grant"


async def test_a_refresh_may_be_repeated_for_thirty_seconds(
    table: ModelTable, upstream: str, web: httpx.AsyncClient
) -> None:
    """After a lost answer, with the store in memory: the same tokens. Later, the repetition ends the sign-in."""
    now = [time.time()]
    store = MemoryStore(clock=lambda: now[0])
    with hosted(table, upstream, store=store, clock=lambda: now[0]) as server:
        raw = Raw(server.address, web)
        first = await raw.tokens()
        second = (await raw.refresh(first["refresh_token"])).json()
        now[0] += 30
        again = (await raw.refresh(first["refresh_token"])).json()
        assert (again["access_token"], again["refresh_token"]) == (second["access_token"], second["refresh_token"])
        assert KEY not in str(store.__dict__)
        assert second["refresh_token"] not in str(store.__dict__)
        now[0] += 1
        assert (await raw.refresh(first["refresh_token"])).json()["error"] == "invalid_grant"
        assert (await raw.call(second["access_token"])).status_code == 401
        assert (await raw.refresh(second["refresh_token"])).json()["error"] == "invalid_grant"


async def test_refreshing_takes_no_more_room(table: ModelTable, upstream: str, web: httpx.AsyncClient) -> None:
    """A grant has one entry for any number of refreshes. With a full store, it can still be revoked."""
    store = MemoryStore(max_entries=1)
    with hosted(table, upstream, store=store) as server:
        raw, other = Raw(server.address, web), Raw(server.address, web)
        first, second = await raw.tokens(), await other.tokens()
        for _ in range(5):
            first = (await raw.refresh(first["refresh_token"])).json()
        assert (await other.refresh(second["refresh_token"])).status_code == 503
        assert (await other.revoke(second["refresh_token"])).status_code == 200
        assert (await other.call(second["access_token"])).status_code == 401
        assert (await raw.call(first["access_token"])).status_code == 200


async def test_a_store_that_lost_its_memory(table: ModelTable, upstream: str, web: httpx.AsyncClient) -> None:
    """A used token is accepted once; the use of its successor revokes the grant."""
    store = MemoryStore()
    with hosted(table, upstream, store=store) as server:
        raw = Raw(server.address, web)
        used = await raw.tokens()
        current = (await raw.refresh(used["refresh_token"])).json()
        await store.aclose()
        stolen = (await raw.refresh(used["refresh_token"])).json()
        assert (await raw.refresh(current["refresh_token"])).json()["error"] == "invalid_grant"
        for tokens in (used, current, stolen):
            assert (await raw.call(tokens["access_token"])).status_code == 401


async def test_a_refresh_token_is_bound_to_its_client(raw: Raw) -> None:
    """Another client can't use it, and its attempt does not revoke the grant."""
    tokens = await raw.tokens()
    other = Raw(raw.address, raw.web)
    await other.register()
    assert (await other.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"
    assert (await raw.refresh(tokens["refresh_token"])).status_code == 200


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
async def test_revocation(raw: Raw, kind: str) -> None:
    """Revoking either token revokes the grant. For invalid tokens and other clients, it has no effect."""
    tokens = await raw.tokens()
    other = Raw(raw.address, raw.web)
    await other.register()
    assert (await other.revoke(tokens[kind])).status_code == 200
    assert (await raw.revoke("nonsense")).status_code == 200
    assert (await raw.call(tokens["access_token"])).status_code == 200
    assert (await raw.revoke(tokens[kind])).status_code == 200
    refusal = await raw.call(tokens["access_token"])
    assert refusal.status_code == 401
    assert 'error="invalid_token"' in refusal.headers["www-authenticate"]
    assert "resource_metadata=" in refusal.headers["www-authenticate"]
    assert (await raw.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"


async def test_an_expired_token(table: ModelTable, upstream: str, web: httpx.AsyncClient) -> None:
    """Access and refresh tokens are refused once they have expired."""
    ago = 60.0
    lifetimes = Lifetimes(access=30, refresh=30)
    with hosted(table, upstream, lifetimes=lifetimes, clock=lambda: time.time() - ago) as server:
        raw = Raw(server.address, web)
        tokens = await raw.tokens()
        assert (await raw.call(tokens["access_token"])).status_code == 200
        ago = 0
        assert (await raw.call(tokens["access_token"])).status_code == 401
        assert (await raw.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"


async def test_kinds_are_not_exchangeable(raw: Raw, sandbox: Sandbox) -> None:
    """A refresh token is not accepted as an access token or vice versa, even with another prefix."""
    tokens = await raw.tokens()
    access, refresh = tokens["access_token"], tokens["refresh_token"]
    sandbox.requests.clear()
    swapped = refresh.replace("sdm_refresh_", "sdm_access_")
    for wrong in (refresh, swapped, raw.id, raw.id.replace("sdm_client_", "sdm_access_"), "sdm_", "sdm_access_"):
        assert (await raw.call(wrong)).status_code == 401
    for wrong in (access, access.replace("sdm_access_", "sdm_refresh_")):
        assert (await raw.refresh(wrong)).json()["error"] == "invalid_grant"
    assert sandbox.requests == []


async def test_a_tampered_token_or_client_id(raw: Raw) -> None:
    """Changing one character makes it invalid."""
    tokens = await raw.tokens()
    for place in (12, 40, -1):
        access = changed(tokens["access_token"], place)
        assert (await raw.call(access)).status_code == 401
        good, raw.id = raw.id, changed(raw.id, place)
        response = await raw.web.get(raw.url())
        assert (response.status_code, response.headers.get("location")) == (400, None)
        assert (await raw.refresh(tokens["refresh_token"])).status_code == 401
        raw.id = good


async def test_a_token_for_another_endpoint(table: ModelTable, upstream: str, raw: Raw) -> None:
    """It is refused, although the same secrets encrypted it."""
    tokens = await raw.tokens()
    with hosted(table, upstream) as other:
        elsewhere = Raw(other.address, raw.web)
        assert (await elsewhere.call(tokens["access_token"])).status_code == 401
        elsewhere.id = raw.id
        assert (await elsewhere.refresh(tokens["refresh_token"])).status_code == 401


async def test_secrets_are_changed(table: ModelTable, upstream: str, web: httpx.AsyncClient) -> None:
    """The first secret encrypts, all decrypt. Tokens of an old secret are valid until it is removed."""
    public = "http://localhost:1"
    with hosted(table, upstream, public_url=public) as before:
        raw = Raw(before.address, web)
        await raw.register()
        key_of = Sealer([SECRET], f"{public}/mcp")
    token = key_of.seal("access", {"g": "g", "c": "c", "k": KEY, "e": int(time.time()) + 60})
    with hosted(table, upstream, public_url=public, seal_keys=[OTHER_SECRET, SECRET]) as during:
        assert await during.sign_in.key_of_token(token) == KEY
        assert (await Raw(during.address, web).call(token)).status_code == 200
        assert (await web.post(f"{during.address}/token", data={"client_id": raw.id})).status_code == 400
    with hosted(table, upstream, public_url=public, seal_keys=[OTHER_SECRET]) as after:
        assert await after.sign_in.key_of_token(token) is None
        assert (await web.post(f"{after.address}/token", data={"client_id": raw.id})).status_code == 401


async def test_a_restart_forgets_nobody(table: ModelTable, upstream: str, web: httpx.AsyncClient) -> None:
    """Registrations and tokens are contained in the values that clients hold, so they stay valid."""
    public = "http://localhost:1"
    with hosted(table, upstream, public_url=public) as before:
        first = Raw(before.address, web)
        await first.register()
    with hosted(table, upstream, public_url=public) as after:
        again = Raw(after.address, web)
        again.id = first.id
        assert "/consent?" in (await web.get(again.url(resource=None))).headers["location"]


async def test_the_key_is_nowhere_to_be_read(
    server: Hosted, raw: Raw, caplog: pytest.LogCaptureFixture, sandbox: Sandbox
) -> None:
    """No URL, page, response or log line contains it, nor a wrong key."""
    caplog.set_level(logging.DEBUG)
    person = Person(key="invalid")
    await raw.register()
    page = await person.look(raw.url())
    wrong = "a-key-with-a-typing-error-in-it \u00e9"
    person.key = wrong
    assert "does not know this API key" in (await person.decide(page)).text
    person.key = KEY
    tokens = await raw.exchange(await raw.code(person))
    refreshed = await raw.refresh(tokens.json()["refresh_token"])
    assert (await raw.call(refreshed.json()["access_token"])).status_code == 200
    assert KEY in keys_seen(sandbox)
    said = [*person.seen, tokens.text, refreshed.text, caplog.text, *map(str, tokens.headers.items())]
    for text in said:
        assert KEY not in text
        assert wrong[:20] not in text
    for secret in (tokens.json()["access_token"], tokens.json()["refresh_token"]):
        assert secret not in caplog.text


def basic(id_: str, secret: str) -> dict[str, str]:
    """The header of HTTP Basic authentication."""
    return {"authorization": f"Basic {base64.b64encode(f'{id_}:{secret}'.encode()).decode()}"}


def changed(text: str, place: int) -> str:
    """The text with another character at this position."""
    place %= len(text)
    return text[:place] + ("A" if text[place] != "A" else "Q") + text[place + 1 :]
