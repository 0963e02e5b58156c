"""Helpers for tests of sign-in: a hosted endpoint with sign-in, a person with a browser, and clients."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import httpx2
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import (
    AuthorizationCodeResult,
    OAuthClientInformationFull,
    OAuthClientMetadata,
    OAuthToken,
)

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.settings import read_settings
from mcp_seedream.hosting.app import bearer_token, build_app
from mcp_seedream.hosting.key_verifier import KeyVerifier, uncached_check
from mcp_seedream.hosting.middleware import ENDPOINT
from mcp_seedream.oauth.client_documents import Fetch
from mcp_seedream.oauth.provider import Lifetimes
from mcp_seedream.oauth.routes import SignIn
from mcp_seedream.oauth.store import Store
from mcp_seedream.oauth.vendor import Vendor
from mcp_seedream.server.server import build_server
from mcp_seedream.server.tools import ToolDefaults
from mcp_seedream.upstream.client import SeedreamClient
from tests.conftest import PATIENT, QUICK, serving

SECRET = "a-secret-for-tests-of-forty-characters--"
OTHER_SECRET = "another-secret-for-tests-that-is-as-long"
KEY = "the-callers-own-key-0123456789"
CLAUDE = "https://claude.ai/api/mcp/auth_callback"
CLAUDE_REGISTRATION: dict[str, Any] = {
    "client_name": "Claude",
    "redirect_uris": [CLAUDE],
    "grant_types": ["authorization_code", "refresh_token"],
    "response_types": ["code"],
    "token_endpoint_auth_method": "none",
    "scope": "claudeai",
}


@dataclass
class Hosted:
    """A running endpoint with sign-in."""

    address: str
    sign_in: SignIn

    @property
    def endpoint(self) -> str:
        return f"{self.address}{ENDPOINT}"


@contextmanager
def hosted(
    table: ModelTable,
    upstream: str,
    *,
    public_url: str | None = None,
    seal_keys: Sequence[str] = (SECRET,),
    vendor: Callable[[str], Vendor] | None = None,
    lifetimes: Lifetimes | None = None,
    store: Store | None = None,
    port: int = 0,
    fetch_document: Fetch | None = None,
    clock: Callable[[], float] = time.time,
) -> Iterator[Hosted]:
    """An endpoint that works against `upstream`; its public address is its own unless another is given."""

    def connect() -> SeedreamClient:
        return SeedreamClient(upstream, timeouts=PATIENT, retries=QUICK)

    with socket.create_server(("127.0.0.1", port)) as listener:
        own = f"http://127.0.0.1:{listener.getsockname()[1]}"
        public = public_url or own
        settings = read_settings(public_url=public)
        asked = connect()
        sign_in = SignIn(
            public,
            ENDPOINT,
            seal_keys=seal_keys,
            check_key=uncached_check(asked.look_up),
            store=store,
            vendor=vendor(public) if vendor else None,
            lifetimes=lifetimes,
            fetch_document=fetch_document,
            clock=clock,
        )
        server = build_server(table, connect, token_of=bearer_token, defaults=ToolDefaults(20), look_interval=0.1)
        with serving(
            build_app(server, settings, upstream=asked, key_verifier=KeyVerifier(), sign_in=sign_in), listener=listener
        ):
            yield Hosted(own, sign_in)


def form_of(page: str) -> str:
    """The hidden field of a consent page."""
    found = re.search(r'name="form" value="([^"]+)"', page)
    assert found, page
    return found[1]


def vendor_link(page: str) -> str:
    found = re.search(r'class="button" href="([^"]+)"', page)
    assert found, page
    return html.unescape(found[1])


def link_back(page: str) -> str:
    """The address at the client that an error page leads to."""
    found = re.search(r'class="button plain" href="([^"]+)"', page)
    assert found, page
    return html.unescape(found[1])


def answer_in(url: str) -> dict[str, str]:
    """The query of an address."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


@dataclass
class Person:
    """Somebody with a browser that keeps cookies, and goes where it is sent, except away from this machine."""

    key: str = KEY
    at_vendor: bool = False
    cookies: httpx.Cookies = field(default_factory=httpx.Cookies)
    seen: list[str] = field(default_factory=list)
    """Every address it was at, and every page it was shown."""

    async def ask(self, method: str, url: str, **more: Any) -> httpx.Response:
        async with httpx.AsyncClient(timeout=30, cookies=self.cookies) as web:
            response = await web.request(method, url, **more)
            self.cookies = web.cookies
            return response

    async def look(self, url: str) -> httpx.Response:
        """Open an address, and follow where it leads on this machine."""
        while True:
            response = await self.ask("GET", url)
            self.seen += [url, response.text]
            if not response.is_redirect:
                return response
            url = str(response.url.join(response.headers["location"]))
            if urlsplit(url).hostname != "127.0.0.1" or ("code=" in url and "/oauth/callback" not in url):
                self.seen.append(url)
                return response

    async def decide(self, page: httpx.Response, action: str = "allow", **headers: str) -> httpx.Response:
        """Fill in the consent page and submit it."""
        form = {"form": form_of(page.text), "key": self.key, "action": action}
        address = str(page.url.copy_with(path="/consent", query=None))
        response = await self.ask("POST", address, data=form, headers=headers)
        self.seen += [response.text, response.headers.get("location", "")]
        return response

    async def sign_in(self, url: str) -> str:
        """From the address a client sends to, to the address at the client that the answer comes in."""
        page = await self.look(url)
        assert page.status_code == 200, page.text
        if self.at_vendor:
            response = await self.look(str(page.url.join(vendor_link(page.text))))
        else:
            response = await self.decide(page)
        assert response.is_redirect, response.text
        return str(response.headers["location"])


class Raw:
    """A client with nothing but HTTP, registered as claude.ai registers."""

    def __init__(self, address: str, web: httpx.AsyncClient) -> None:
        self.address, self.web = address, web
        self.id = self.secret = ""
        self.redirect_uri = CLAUDE
        self.verifier = secrets.token_urlsafe(48)
        self.state = secrets.token_urlsafe(12)

    async def register(self, **changes: Any) -> httpx.Response:
        response = await self.web.post(f"{self.address}/register", json={**CLAUDE_REGISTRATION, **changes})
        if response.is_success:
            found = response.json()
            self.id, self.secret = found["client_id"], found.get("client_secret", "")
            self.redirect_uri = found["redirect_uris"][0]
        return response

    def url(self, **changes: str | None) -> str:
        """The address a person is sent to; None leaves a parameter out."""
        challenge = base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).decode().rstrip("=")
        asked = {
            "response_type": "code",
            "client_id": self.id,
            "redirect_uri": self.redirect_uri,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            "state": self.state,
            "scope": "claudeai",
            "resource": f"{self.address}{ENDPOINT}",
            **changes,
        }
        return f"{self.address}/authorize?{urlencode({n: v for n, v in asked.items() if v is not None})}"

    async def code(self, person: Person | None = None) -> str:
        """A code that somebody agreed to."""
        answer = answer_in(await (person or Person()).sign_in(self.url()))
        assert answer["state"] == self.state
        assert answer["iss"] == self.address
        return answer["code"]

    async def exchange(self, code: str, **changes: str) -> httpx.Response:
        form = {
            "grant_type": "authorization_code",
            "client_id": self.id,
            "code": code,
            "redirect_uri": self.redirect_uri,
            "code_verifier": self.verifier,
            "resource": f"{self.address}{ENDPOINT}",
            **changes,
        }
        return await self.web.post(f"{self.address}/token", data=form)

    async def refresh(self, token: str, **changes: str) -> httpx.Response:
        form = {"grant_type": "refresh_token", "client_id": self.id, "refresh_token": token, **changes}
        return await self.web.post(f"{self.address}/token", data=form)

    async def revoke(self, token: str) -> httpx.Response:
        return await self.web.post(f"{self.address}/revoke", data={"client_id": self.id, "token": token})

    async def tokens(self, person: Person | None = None) -> dict[str, Any]:
        """Registered, agreed to, exchanged."""
        await self.register()
        found: dict[str, Any] = (await self.exchange(await self.code(person))).json()
        return found

    async def call(self, token: str) -> httpx.Response:
        """Something to ask of the endpoint with a token."""
        headers = {
            "authorization": f"Bearer {token}",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": "2025-11-25",
        }
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
        return await self.web.post(f"{self.address}{ENDPOINT}", json=body, headers=headers)


class Kept:
    """Where the official client keeps what it got."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


@asynccontextmanager
async def official(
    endpoint: str,
    person: Person,
    kept: Kept,
    mode: str = "auto",
    *,
    document: str | None = None,
    expired: bool = False,
    **changes: Any,
) -> AsyncIterator[Client]:
    """The SDK's client, which signs in by itself when it is refused; `person` does what a person has to.

    It registers as claude.ai does, with changes, or has a metadata document. If its token has expired, it refreshes it.
    """
    came: list[str] = []

    async def redirect(url: str) -> None:
        came.append(await person.sign_in(url))

    async def callback() -> AuthorizationCodeResult:
        answer = answer_in(came[-1])
        return AuthorizationCodeResult(code=answer["code"], state=answer["state"], iss=answer["iss"])

    metadata = OAuthClientMetadata.model_validate({**CLAUDE_REGISTRATION, "scope": None, **changes})
    auth = OAuthClientProvider(endpoint, metadata, kept, redirect, callback, client_metadata_url=document)
    auth.context.token_expiry_time = 1.0 if expired else None
    async with (
        httpx2.AsyncClient(auth=auth, timeout=60) as web,
        Client(streamable_http_client(endpoint, http_client=web), mode=mode) as client,
    ):
        yield client
