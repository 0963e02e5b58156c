"""A hosted endpoint, looked at from outside as its clients see it: who may call it, and whether it can do its work."""

from __future__ import annotations

import re
import time
from functools import partial
from urllib.parse import urlsplit

from mcp_seedream import __version__
from mcp_seedream.core.credentials import end_of, stands_for_one
from mcp_seedream.core.errors import TOKEN_PAGE, ConfigurationError
from mcp_seedream.doctor.findings import Check, Finding
from mcp_seedream.doctor.http_probe import KEPT_BACK, Answer, Way, clock, timing, unexpected
from mcp_seedream.hosting.pages import CARD
from mcp_seedream.server.server import NAME

_INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "mcp-seedream doctor", "version": __version__},
    },
}
"""The first message of a client, whose HTTP status says who may call. What MCP says is left to the SDK's client."""
_SOON = 14 * 24 * 3600  # seconds in which a certificate should be renewed
_NO_SIGN_IN = (
    "Clients that have no place for a token (claude.ai, ChatGPT) can't connect: set SEEDREAM_PUBLIC_URL there."
)
_ELSEWHERE = "Is this the address of the endpoint? It usually ends with /mcp."


class Endpoint:
    """The checks of one endpoint.

    Args:
        url: Its address.
        token: What a caller sends; None: only what can be seen without one is looked at.
        connect: Seconds for a connection.
        read: Seconds for an answer.

    Raises:
        ConfigurationError: The address is none.
    """

    def __init__(self, url: str, token: str | None, *, connect: float, read: float) -> None:
        if not _is_address(url):
            raise ConfigurationError(f"{url} is not an address like https://seedream.example.com/mcp.")
        self._to = partial(Way, connect=connect, read=read)
        self._way = self._to(url.rstrip("/"))  # the same endpoint
        self._token = token
        self._health: Answer | None = None
        self._asks_for_token = False
        self._keeps_probes_back = False

    def checks(self) -> list[Check]:
        """In the order in which they are told."""
        way = self._way
        return [
            Check("proxy", way.find_proxy),
            Check("network", self._network, needs=("proxy",)),
            Check("clock", self._clock, needs=("network",)),
            Check("certificate", self._certificate, needs=("network",)),
            Check("server", self._server, needs=("network",)),
            Check("upstream", self._upstream, needs=("network", "server")),
            Check("sign-in", self._without_token, needs=("network",)),
            Check("token", self._with_token, needs=("network", "sign-in")),
        ]

    async def _network(self) -> Finding:
        answer = await self._way.exchange("GET", self._beside("health"))
        if isinstance(answer, Finding):
            return answer
        if answer.status in (502, 504) or (answer.status == 503 and answer.page is not None):
            found = f"A proxy in front answers HTTP {answer.status}: the server behind it is not there."
            return Finding("problem", found, "Start it, or look into its log.")
        self._health = answer
        host = self._way.url.host
        if self._way.url.scheme == "http" and not self._way.is_local:
            return Finding(
                "warning", f"{host} answers in {timing(answer)}", "Without https, tokens can be read on the way."
            )
        return Finding("ok", f"{host} answers in {timing(answer)}")

    async def _clock(self) -> Finding:
        assert self._health
        return clock(self._health, self._way.url.host)

    async def _certificate(self) -> Finding:
        expires = self._health.expires if self._health else None
        if expires is None:
            return Finding(
                "not checked", "there is none without https" if self._way.url.scheme == "http" else "unknown"
            )
        until = time.strftime("%Y-%m-%d", time.gmtime(expires))
        if expires - time.time() < _SOON:
            return Finding("warning", f"It is good only until {until}.", "Renew it: no client connects after that day.")
        return Finding("ok", f"good until {until}")

    async def _server(self) -> Finding:
        found = self._health.json_object if self._health else {}
        if "version" in found and found.get("status") == "ok":
            return Finding("ok", f"mcp-seedream {found['version']}")
        status = self._health.status if self._health else 0
        if status in KEPT_BACK and (version := await self._on_its_card()):
            self._keeps_probes_back = True
            return Finding("ok", f"mcp-seedream {version}; a proxy in front keeps /health to itself, as it should")
        return Finding("warning", f"/health is not mcp-seedream's (HTTP {status}).", _ELSEWHERE)

    async def _on_its_card(self) -> str:
        """The version on the server card, which is for everybody; empty where there is none of ours."""
        answer = await self._way.exchange("GET", self._beside(CARD.lstrip("/")))
        card = {} if isinstance(answer, Finding) else answer.json_object
        version = card.get("version")
        return version if card.get("name") == NAME and isinstance(version, str) else ""

    async def _upstream(self) -> Finding:
        answer = await self._way.exchange("GET", self._beside("ready"))
        if isinstance(answer, Finding):
            return answer
        if self._keeps_probes_back and answer.status in KEPT_BACK:
            found = "the proxy in front keeps /ready to itself, as it should"
            return Finding("not checked", found, "On the host itself, or by monitoring, it can be asked.")
        status = answer.json_object.get("status")
        if answer.status == 200 and status == "ready":
            return Finding("ok", "reached from there")
        if answer.status == 503 and status:
            return Finding(
                "problem", f"The server is not ready: {status}.", "Its log, or `doctor` over there, says more."
            )
        return Finding("warning", f"/ready says nothing (HTTP {answer.status}).", "A proxy in front may keep it back.")

    async def _without_token(self) -> Finding:
        answer = await self._initialize()
        if isinstance(answer, Finding):
            return answer
        said = str(answer.json_object.get("error_description", ""))
        match answer.status:
            case 401:
                self._asks_for_token = True
                return await self._sign_in(answer)
            case 421:
                return Finding("problem", f"The server does not answer to this name. {said}".strip())
            case 404 | 405:
                return Finding("problem", f"There is no endpoint at this address (HTTP {answer.status}).", _ELSEWHERE)
        if wrong := unexpected(answer):
            return wrong
        if answer.status == 200 and isinstance(await self._way.list_tools(), list):
            return Finding("warning", "Anyone may call it: it requires no token.", "Is this the server you mean?")
        return Finding("problem", f"A call is answered with HTTP {answer.status}. {said}".strip(), _ELSEWHERE)

    async def _sign_in(self, answer: Answer) -> Finding:
        """Where a client without a token is sent, and whether it leads back here."""
        asked = re.search(r'resource_metadata="([^"]+)"', answer.headers.get("www-authenticate", ""))
        if not asked:
            return Finding("ok", "callers bring a token; there is no sign-in", _NO_SIGN_IN)
        if not _is_address(asked[1]):
            return Finding("problem", f"Sign-in is announced at {asked[1]}, which is no address.", _ELSEWHERE)
        metadata = await self._to(asked[1]).exchange("GET")
        if isinstance(metadata, Finding):
            return Finding("problem", f"Sign-in: {metadata.found}", f"SEEDREAM_PUBLIC_URL leads to {asked[1]}.")
        resource = metadata.json_object.get("resource")
        if metadata.status != 200 or resource is None:
            found = f"Sign-in is announced, but {asked[1]} answers HTTP {metadata.status}."
            return Finding("problem", found, "A proxy in front has to pass /.well-known/ on.")
        if resource != str(self._way.url):
            found = f"Sign-in is for {resource}, which is not this address: clients refuse that."
            return Finding("problem", found, "Set SEEDREAM_PUBLIC_URL to the origin that people use.")
        return Finding("ok", "people can sign in, or bring a token")

    async def _with_token(self) -> Finding:
        if self._token is None:
            return Finding("not checked", "no ACEDATACLOUD_API_TOKEN is set to call with")
        if not self._asks_for_token:
            return Finding("not checked", "it is not sent to who does not ask for it")
        if self._way.url.scheme == "http" and not self._way.is_local:
            return Finding("not checked", "it is not sent without https")
        if why := stands_for_one(self._token):
            return Finding(
                "problem", f"{why}. It was not sent.", f"Put your token into ACEDATACLOUD_API_TOKEN ({TOKEN_PAGE})."
            )
        answer = await self._initialize(self._token)
        if isinstance(answer, Finding):
            return answer
        if answer.status == 401:
            said = str(answer.json_object.get("error_description", ""))
            return Finding("problem", f"{end_of(self._token)} is refused.", said)
        if answer.status != 200:
            return Finding("problem", f"A call with the token is answered with HTTP {answer.status}.", _ELSEWHERE)
        began = time.perf_counter()
        tools = await self._way.list_tools(self._token)
        if isinstance(tools, Finding):
            return tools
        return Finding("ok", f"accepted; {', '.join(tools)} listed in {time.perf_counter() - began:.2f} s")

    async def _initialize(self, token: str | None = None) -> Answer | Finding:
        headers = {"Accept": "application/json, text/event-stream"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return await self._way.exchange("POST", json=_INITIALIZE, headers=headers)

    def _beside(self, name: str) -> str:
        """The address of a probe, which lies where the endpoint lies."""
        return str(self._way.url.copy_with(query=None).join(name))


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not re.search(r"\s", url)
        )
    except ValueError:
        return False
