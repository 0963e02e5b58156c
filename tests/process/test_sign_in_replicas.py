"""Sign-in at two replicas that share a Redis: concurrent refreshes, and the rotation of seal keys with real clients.

claude.ai, ChatGPT and VS Code differ in what is tried here: whether the client has a metadata document, registers, or
has a secret, and where the answer goes.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.settings import read_settings
from mcp_seedream.hosting.middleware import ENDPOINT
from mcp_seedream.oauth.routes import open_sign_in
from mcp_seedream.oauth.sealing import key_id
from mcp_seedream.oauth.store import RedisStore
from tests.process.test_replicas import everything_in, nobody
from tests.support.dance import CLAUDE, OTHER_SECRET, SECRET, Kept, Person, Raw, hosted, official
from tests.support.services import free_port, nginx_running

pytestmark = pytest.mark.anyio
PUBLIC = "http://localhost:1"


async def test_concurrent_refreshes_give_the_same_tokens(table: ModelTable, upstream: str, redis: str) -> None:
    """Ten races at two replicas: every request gets the same access and refresh token, and the sign-in continues.

    A repetition within 30 seconds, after a lost answer, gets them too; a later one ends the sign-in.
    """
    now = [time.time()]
    with (
        hosted(table, upstream, store=RedisStore(redis), clock=lambda: now[0]) as first,
        hosted(table, upstream, public_url=first.address, store=RedisStore(redis), clock=lambda: now[0]) as second,
    ):
        async with httpx.AsyncClient(timeout=30) as web:
            here, there = Raw(first.address, web), Raw(second.address, web)
            tokens = await here.tokens()
            there.id = here.id
            for _ in range(10):
                answers: list[httpx.Response] = []

                async def refresh(raw: Raw, token: str, answers: list[httpx.Response] = answers) -> None:
                    answers.append(await raw.refresh(token))

                async with anyio.create_task_group() as group:
                    for raw in (here, there, here, there):
                        group.start_soon(refresh, raw, tokens["refresh_token"])
                now[0] += 29
                answers += [await raw.refresh(tokens["refresh_token"]) for raw in (here, there)]
                assert [answer.status_code for answer in answers] == [200] * 6
                for name in ("access_token", "refresh_token"):
                    assert len({answer.json()[name] for answer in answers}) == 1
                assert answers[-1].json()["expires_in"] == answers[0].json()["expires_in"] - 29
                tokens = answers[0].json()
                assert {(await raw.call(tokens["access_token"])).status_code for raw in (here, there)} == {200}
            used, tokens = tokens, (await here.refresh(tokens["refresh_token"])).json()
            now[0] += 31
            assert (await there.refresh(used["refresh_token"])).json()["error"] == "invalid_grant"
            assert {(await raw.call(tokens["access_token"])).status_code for raw in (here, there)} == {401}
            assert (await here.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"
            assert await everything_in(redis) == "ended"


OLD, NEW = SECRET, OTHER_SECRET
DOCUMENTS = {
    "https://claude.ai/oauth/mcp-oauth-client-metadata": [CLAUDE],
    "https://vscode.dev/oauth/client-metadata.json": ["http://127.0.0.1:33418/", "https://vscode.dev/redirect"],
}


async def fetch_document(url: str) -> tuple[bytes, float | None]:
    """The metadata documents of clients."""
    fields = {"client_id": url, "client_name": "A client", "redirect_uris": DOCUMENTS[url]}
    return json.dumps({**fields, "token_endpoint_auth_method": "none"}).encode(), None


@dataclass
class Counted(Person):
    """A person who counts how often they had to sign in."""

    sign_ins: int = 0

    async def sign_in(self, url: str) -> str:
        self.sign_ins += 1
        return await super().sign_in(url)


@dataclass
class SignedIn:
    """The official client, signing in as a certain application does."""

    redirect_uri: str
    document: str | None = None
    method: str = "none"
    person: Counted = field(default_factory=Counted)
    kept: Kept = field(default_factory=Kept)

    async def call(self, endpoint: str, *, expired: bool) -> None:
        """Connect and list the tools; the person signs in if there is no other way."""
        changes: dict[str, Any] = {
            "redirect_uris": [self.redirect_uri],
            "token_endpoint_auth_method": self.method,
        }
        async with official(
            endpoint, self.person, self.kept, document=self.document, expired=expired, **changes
        ) as client:
            assert (await client.list_tools()).tools

    async def call_twice_at_once(self, endpoint: str) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(partial(self.call, endpoint, expired=True))


def applications() -> list[SignedIn]:
    """As claude.ai, ChatGPT and VS Code sign in, with a document or a registration; and one with a secret."""
    claude, vs_code = DOCUMENTS
    return [
        SignedIn(CLAUDE, document=claude),
        SignedIn(CLAUDE),
        SignedIn("https://chatgpt.com/connector_platform_oauth_redirect"),
        SignedIn(f"http://127.0.0.1:{free_port()}/", document=vs_code),
        SignedIn(f"http://127.0.0.1:{free_port()}/"),
        SignedIn("https://chatgpt.com/connector/oauth/abc", method="client_secret_post"),
    ]


async def test_nobody_signs_in_twice_while_seal_keys_are_rotated(
    table: ModelTable, upstream: str, redis: str, tmp_path: Path
) -> None:
    """Two replicas behind nginx are restarted one after the other, at each step of a rotation.

    In between, each application refreshes its token and uses it at both replicas, and somebody signs in whose requests
    go to both.
    """
    front, ports = free_port(), [free_port(), free_port()]
    clients, replicas = applications(), [ExitStack(), ExitStack()]
    steps: list[Sequence[str]] = [[OLD], [OLD, NEW], [NEW, OLD], [NEW]]
    with nginx_running(tmp_path, front, ports) as address, replicas[0], replicas[1]:
        for step, replica in [(step, replica) for step in range(len(steps)) for replica in (0, 1)]:
            replicas[replica].close()
            running = hosted(
                table,
                upstream,
                public_url=address,
                port=ports[replica],
                seal_keys=steps[step],
                store=RedisStore(redis),
                fetch_document=fetch_document,
            )
            replicas[replica].enter_context(running)
            if step == replica == 0:
                continue  # the other one does not run yet
            for client in clients:
                for _ in range(2):
                    await client.call(f"{address}/mcp", expired=True)
                await client.call(f"{address}/mcp", expired=False)
            await clients[0].call_twice_at_once(f"{address}/mcp")
            async with httpx.AsyncClient(timeout=30) as web:
                raw = Raw(address, web)
                tokens = await raw.tokens()
                assert {(await raw.call(tokens["access_token"])).status_code for _ in ports} == {200}
    assert [client.person.sign_ins for client in clients] == [1] * len(clients)


def test_the_log_tells_the_state_of_a_rotation(caplog: pytest.LogCaptureFixture) -> None:
    """By short hashes, which do not reveal the keys."""
    caplog.set_level("INFO")
    said: list[str] = []
    for keys in ([OLD], [OLD, NEW], [NEW, OLD], [NEW]):
        assert open_sign_in(read_settings(public_url=PUBLIC, seal_keys=",".join(keys)), ENDPOINT, nobody)
        said.append(caplog.messages[-1])
    old, new = key_id(OLD), key_id(NEW)
    assert said == [
        f"sign-in: seal key {old} encrypts; there is no other",
        f"sign-in: seal key {old} encrypts; {new} only decrypts",
        f"sign-in: seal key {new} encrypts; {old} only decrypts",
        f"sign-in: seal key {new} encrypts; there is no other",
    ]
    assert old != new
    assert re.fullmatch(r"[0-9a-f]{8}", old)
    assert (OLD in caplog.text, NEW in caplog.text) == (False, False)
