"""The upstream, looked at from this machine: the way there, the token, and where its pictures are."""

from __future__ import annotations

import json
from dataclasses import replace

import anyio

from mcp_seedream.assembly import connecting
from mcp_seedream.core.credentials import masked_token, placeholder_reason
from mcp_seedream.core.errors import TOKEN_PAGE, BalanceUsedUp, TokenRefused, UpstreamError
from mcp_seedream.core.settings import name_of
from mcp_seedream.core.settings_report import Survey
from mcp_seedream.doctor.findings import Check, Finding
from mcp_seedream.doctor.http_probe import Answer, Way, addresses, clock, timing, unexpected
from mcp_seedream.doctor.machine import unusable
from mcp_seedream.hosting.key_verifier import NO_TASK
from mcp_seedream.media.downloads import is_public
from mcp_seedream.upstream.parsing import read_failure

_TOKEN, _BASE_URL = name_of("token"), name_of("base_url")
_WHERE_TO = (
    f"Get one at {TOKEN_PAGE}. `mcp-seedream install CLIENT` asks for it, and puts it where the client reads it."
)


class Upstream:
    """The checks of the upstream: the way there, the token, and where its pictures are.

    Args:
        found: The settings.
    """

    def __init__(self, found: Survey) -> None:
        self._found = found
        self._settings = found.settings
        self._way = self._to(found.settings.base_url)
        self._answer: Answer | None = None

    def checks(self) -> list[Check]:
        """In the order in which they are told."""
        return [
            Check("proxy", self._proxy),
            Check("network", self._network, needs=("proxy",)),
            Check("clock", self._clock, needs=("network",)),
            Check("pictures", self._pictures, needs=("network",)),
            Check("token", self._token),
            Check("account", self._account, needs=("network", "token")),
        ]

    def _to(self, url: str) -> Way:
        return Way(url, connect=self._settings.connect_timeout, read=self._settings.read_timeout)

    async def _proxy(self) -> Finding:
        return unusable(self._found, "base_url") or await self._way.find_proxy()

    async def _network(self) -> Finding:
        question = {"action": "retrieve", "id": NO_TASK}  # without a token: it goes nowhere before this is well
        answer = await self._way.exchange("POST", f"{self._settings.base_url}/seedream/tasks", json=question)
        if isinstance(answer, Finding):
            return answer
        host = self._way.url.host
        if wrong := unexpected(answer) or _not_the_api(answer):
            return replace(wrong, found=f"{host}: {wrong.found}")
        self._answer = answer
        told = f"{host} answers in {timing(answer)}"
        return Finding("ok", told)

    async def _clock(self) -> Finding:
        assert self._answer
        return clock(self._answer, self._way.url.host)

    async def _pictures(self) -> Finding:
        if wrong := unusable(self._found, "image_hosts"):
            return wrong
        found: dict[str, Finding] = {}

        async def look(origin: str) -> None:
            found[origin] = await self._picture_host(origin)

        async with anyio.create_task_group() as group:
            for origin in self._settings.image_hosts:
                group.start_soon(look, origin)
        bad = [each for each in found.values() if each.level != "ok"]
        told = "; ".join(found[origin].found for origin in self._settings.image_hosts)
        return bad[0] if bad else Finding("ok", told or f"{name_of('image_hosts')} names no host")

    async def _picture_host(self, origin: str) -> Finding:
        if "*" in origin:
            return Finding("ok", f"{origin} stands for many hosts")
        way = self._to(origin)
        answer = await way.exchange("HEAD", "/")
        host = way.url.host
        if isinstance(answer, Finding):
            advice = f"{answer.advice} Links come all the same; previews and saved pictures don't."
            return Finding("warning", answer.found, advice)
        if way.proxy() is None and not way.is_local:
            inside = [each for each in await addresses(host, way.url.port or 443) if not is_public(each)]
            if inside:
                found = f"{host} is a private address here ({inside[0]}), which no picture is fetched from."
                return Finding("warning", found, "The network's DNS sends it elsewhere: ask whoever runs it.")
        return Finding("ok", f"{host} answers in {timing(answer)}")

    async def _token(self) -> Finding:
        written, filed = self._found.written.get(_TOKEN), self._found.filed.get(_TOKEN)
        if why := self._found.wrong.get(_TOKEN):
            return Finding("problem", f"It can't be one: {why}.", f"Copy it anew from {TOKEN_PAGE}, in one piece.")
        if self._settings.token is None:
            return self._none()
        token = self._settings.token.get_secret_value()
        if why := placeholder_reason(token):
            return Finding("problem", f"{why}.", _WHERE_TO)
        source = f"from {'.env' if written is None and filed is not None else 'the environment'}"
        if written and written != token:
            extra = "the word Bearer before it" if "bearer" in written.lower() else "quotes or blanks around it"
            advice = "They are left out here; other programs may send them along."
            return Finding("warning", f"{masked_token(token)}, {source}, written with {extra}.", advice)
        if not written and not filed:
            source = f"from {self._found.lender}" if self._found.lender else "of the sandbox"
        return Finding("ok", f"{masked_token(token)}, {source}")

    def _none(self) -> Finding:
        if self._found.elsewhere:
            advice = f"To have yours looked at, put it into {_TOKEN} for this command."
            return Finding("warning", f"None can be seen here: {self._found.elsewhere}.", advice)
        if self._found.serves_others:
            return Finding("ok", "none is set, and a server for others needs none: every caller brings one")
        return Finding("problem", "None is set.", _WHERE_TO)

    async def _account(self) -> Finding:
        if self._settings.token is None:
            return Finding("not checked", "waits for a token")
        token = self._settings.token.get_secret_value()
        async with connecting(self._settings)() as client:
            try:
                await client.look_up([NO_TASK], token, kind="check")
            except TokenRefused as error:
                return Finding("problem", f"{masked_token(token)} is refused ({error.code}). {error.message}")
            except BalanceUsedUp as error:
                return Finding("problem", f"There is no balance left. {error.message}")
            except UpstreamError as error:
                return Finding("warning", f"It could not be asked: {error.message}", "Try again in a minute.")
        return Finding("ok", f"{masked_token(token)} is accepted; what balance there is, shows when a picture is made")


def _not_the_api(answer: Answer) -> Finding | None:
    """What is wrong with the answer to a question without a token, which the upstream refuses in its own words."""
    try:
        failure = read_failure(json.loads(answer.body))
    except (ValueError, RecursionError):
        failure = None
    if answer.status >= 500:
        return Finding(
            "problem", f"The upstream is in trouble (HTTP {answer.status}).", "Nothing to do here: try later."
        )
    if failure is None:
        return Finding("problem", f"What answers is not the API (HTTP {answer.status}).", f"See {_BASE_URL}.")
    if failure.code == "no_api":
        return Finding("problem", f"There is no Seedream at this address: {failure.message}", f"See {_BASE_URL}.")
    return None
