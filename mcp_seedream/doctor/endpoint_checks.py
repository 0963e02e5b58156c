"""Checks of a hosted endpoint from outside, as a client: its authentication, and whether it works."""

from __future__ import annotations

import re
import time
from functools import partial
from urllib.parse import urlsplit

from mcp_seedream import __version__
from mcp_seedream.core.credentials import masked_token, placeholder_reason
from mcp_seedream.core.errors import TOKEN_PAGE, ConfigurationError
from mcp_seedream.doctor.findings import Check, Finding
from mcp_seedream.doctor.http_probe import PRIVATE_STATUSES, Answer, HttpProbe, clock_finding, foreign_answer, timing
from mcp_seedream.hosting.pages import CARD
from mcp_seedream.server.descriptions import NAME

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
"""The first message of a client. The HTTP status of the response shows whether a token is required."""
_RENEWAL = 14 * 24 * 3600  # renew a certificate this many seconds before it expires
_NO_SIGN_IN = (
    "Clients without a setting for a token (claude.ai, ChatGPT) can't connect. SEEDREAM_PUBLIC_URL enables sign-in."
)
_CHECK_ADDRESS = "Is this the address of the endpoint? It usually ends with /mcp."


class EndpointChecks:
    """The checks of one endpoint.

    Args:
        url: Its address.
        token: The token of a caller; None to skip the checks that need one.
        connect: Time-out for a connection, in seconds.
        read: Time-out for a response, in seconds.

    Raises:
        ConfigurationError: The URL is not an http(s) address.
    """

    def __init__(self, url: str, token: str | None, *, connect: float, read: float) -> None:
        if not _is_http_url(url):
            raise ConfigurationError(f"{url} is not an address like https://seedream.example.com/mcp.")
        self._probe_of = partial(HttpProbe, connect=connect, read=read)
        self._probe = self._probe_of(url.rstrip("/"))  # the endpoint also accepts a slash at the end
        self._token = token
        self._health: Answer | None = None
        self._requires_token = False
        self._hides_probes = False

    def checks(self) -> list[Check]:
        """The checks, in order."""
        return [
            Check("proxy", self._probe.find_proxy),
            Check("network", self._network, needs=("proxy",)),
            Check("clock", self._clock, needs=("network",)),
            Check("certificate", self._certificate, needs=("network",)),
            Check("server", self._server, needs=("network",)),
            Check("upstream", self._upstream, needs=("network", "server")),
            Check("sign-in", self._call_without_token, needs=("network",)),
            Check("token", self._call_with_token, needs=("network", "sign-in")),
        ]

    async def _network(self) -> Finding:
        answer = await self._probe.exchange("GET", self._sibling_url("health"))
        if isinstance(answer, Finding):
            return answer
        if answer.status in (502, 504) or (answer.status == 503 and answer.page is not None):
            text = f"A proxy in front answers HTTP {answer.status}: the server behind it is not running."
            return Finding("problem", text, "Start the server, or read its log.")
        self._health = answer
        host = self._probe.url.host
        if self._probe.url.scheme == "http" and not self._probe.is_local:
            return Finding(
                "warning", f"{host} answers in {timing(answer)}", "Without https, tokens can be read in transit."
            )
        return Finding("ok", f"{host} answers in {timing(answer)}")

    async def _clock(self) -> Finding:
        assert self._health
        return clock_finding(self._health, self._probe.url.host)

    async def _certificate(self) -> Finding:
        expires = self._health.expires if self._health else None
        if expires is None:
            return Finding("not checked", "none, without https" if self._probe.url.scheme == "http" else "unknown")
        until = time.strftime("%Y-%m-%d", time.gmtime(expires))
        if expires - time.time() < _RENEWAL:
            return Finding(
                "warning", f"It is only valid until {until}.", "Renew it. After that day no client can connect."
            )
        return Finding("ok", f"valid until {until}")

    async def _server(self) -> Finding:
        health = self._health.json_object if self._health else {}
        if "version" in health and health.get("status") == "ok":
            return Finding("ok", f"mcp-seedream {health['version']}")
        status = self._health.status if self._health else 0
        if status in PRIVATE_STATUSES and (version := await self._version_on_card()):
            self._hides_probes = True
            return Finding("ok", f"mcp-seedream {version}; a proxy in front keeps /health private, as it should")
        return Finding("warning", f"/health does not answer as mcp-seedream does (HTTP {status}).", _CHECK_ADDRESS)

    async def _version_on_card(self) -> str:
        """The version on the public server card; empty if the card is not that of mcp-seedream."""
        answer = await self._probe.exchange("GET", self._sibling_url(CARD.lstrip("/")))
        card = {} if isinstance(answer, Finding) else answer.json_object
        version = card.get("version")
        return version if card.get("name") == NAME and isinstance(version, str) else ""

    async def _upstream(self) -> Finding:
        answer = await self._probe.exchange("GET", self._sibling_url("ready"))
        if isinstance(answer, Finding):
            return answer
        if self._hides_probes and answer.status in PRIVATE_STATUSES:
            text = "a proxy in front keeps /ready private, as it should"
            return Finding("not checked", text, "/ready is available on the host itself, and for monitoring.")
        status = answer.json_object.get("status")
        if answer.status == 200 and status == "ready":
            if answer.json_object.get("upstream") == "unreachable":
                problem = "The server is ready, but the upstream can't be reached."
                return Finding("problem", problem, "Its log, or `doctor` on its host, says more.")
            return Finding("ok", "the server reaches it")
        if answer.status == 503 and status:
            return Finding(
                "problem", f"The server is not ready: {status}.", "Its log, or `doctor` on its host, has details."
            )
        return Finding(
            "warning", f"/ready returns no status (HTTP {answer.status}).", "A proxy in front may keep it private."
        )

    async def _call_without_token(self) -> Finding:
        answer = await self._initialize()
        if isinstance(answer, Finding):
            return answer
        description = str(answer.json_object.get("error_description", ""))
        match answer.status:
            case 401:
                self._requires_token = True
                return await self._sign_in(answer)
            case 421:
                return Finding("problem", f"The server does not accept this host name. {description}".strip())
            case 404 | 405:
                return Finding("problem", f"No endpoint has this address (HTTP {answer.status}).", _CHECK_ADDRESS)
        if finding := foreign_answer(answer):
            return finding
        if answer.status == 200 and isinstance(await self._probe.list_tools(), list):
            return Finding("warning", "It requires no token, so anyone can call it.", "Is this the right server?")
        return Finding(
            "problem", f"A call is answered with HTTP {answer.status}. {description}".strip(), _CHECK_ADDRESS
        )

    async def _sign_in(self, answer: Answer) -> Finding:
        """Whether the sign-in that the answer announces is for this endpoint."""
        match = re.search(r'resource_metadata="([^"]+)"', answer.headers.get("www-authenticate", ""))
        if not match:
            return Finding("ok", "callers send a token; sign-in is off", _NO_SIGN_IN)
        if not _is_http_url(match[1]):
            return Finding("problem", f"Sign-in is announced at {match[1]}, which is not an address.", _CHECK_ADDRESS)
        metadata = await self._probe_of(match[1]).exchange("GET")
        if isinstance(metadata, Finding):
            return Finding("problem", f"Sign-in: {metadata.found}", f"SEEDREAM_PUBLIC_URL leads to {match[1]}.")
        resource = metadata.json_object.get("resource")
        if metadata.status != 200 or resource is None:
            text = f"Sign-in is announced, but {match[1]} answers HTTP {metadata.status}."
            return Finding("problem", text, "A proxy in front must forward /.well-known/.")
        if resource != str(self._probe.url):
            text = f"Sign-in is for {resource}, which is not this address. Clients reject that."
            return Finding("problem", text, "Set SEEDREAM_PUBLIC_URL to the origin of the address that clients use.")
        return Finding("ok", "callers sign in, or send a token")

    async def _call_with_token(self) -> Finding:
        if self._token is None:
            return Finding("not checked", "ACEDATACLOUD_API_TOKEN is not set")
        if not self._requires_token:
            return Finding("not checked", "the token is only sent to servers that require one")
        if self._probe.url.scheme == "http" and not self._probe.is_local:
            return Finding("not checked", "the token is not sent without https")
        if why := placeholder_reason(self._token):
            return Finding(
                "problem", f"{why}. It was not sent.", f"Set ACEDATACLOUD_API_TOKEN to your token ({TOKEN_PAGE})."
            )
        answer = await self._initialize(self._token)
        if isinstance(answer, Finding):
            return answer
        if answer.status == 401:
            description = str(answer.json_object.get("error_description", ""))
            return Finding("problem", f"{masked_token(self._token)} is refused.", description)
        if answer.status != 200:
            return Finding("problem", f"A call with the token is answered with HTTP {answer.status}.", _CHECK_ADDRESS)
        began = time.perf_counter()
        tools = await self._probe.list_tools(self._token)
        if isinstance(tools, Finding):
            return tools
        return Finding("ok", f"accepted; {', '.join(tools)} listed in {time.perf_counter() - began:.2f} s")

    async def _initialize(self, token: str | None = None) -> Answer | Finding:
        headers = {"Accept": "application/json, text/event-stream"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return await self._probe.exchange("POST", json=_INITIALIZE, headers=headers)

    def _sibling_url(self, name: str) -> str:
        """The address of a path next to the endpoint."""
        return str(self._probe.url.copy_with(query=None).join(name))


def _is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not re.search(r"\s", url)
        )
    except ValueError:
        return False
