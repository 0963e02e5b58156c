"""Checks of the upstream from this machine: the network, the token, and the hosts of its pictures."""

from __future__ import annotations

import json
from dataclasses import replace

import anyio

from mcp_seedream.assembly import upstream_client
from mcp_seedream.core.credentials import masked_token, placeholder_reason
from mcp_seedream.core.errors import TOKEN_PAGE, BalanceUsedUp, TokenRefused, UpstreamError
from mcp_seedream.core.settings import name_of
from mcp_seedream.core.settings_report import SettingsReport
from mcp_seedream.doctor.findings import Check, Finding
from mcp_seedream.doctor.http_probe import Answer, HttpProbe, addresses, clock_finding, foreign_answer, timing
from mcp_seedream.doctor.machine import invalid_setting
from mcp_seedream.hosting.key_verifier import UNKNOWN_TASK
from mcp_seedream.media.downloads import is_public
from mcp_seedream.upstream.parsing import read_failure

_TOKEN, _BASE_URL = name_of("token"), name_of("base_url")
_GET_TOKEN = (
    f"Get one at {TOKEN_PAGE}. `mcp-seedream install CLIENT` asks for it, and writes it into the client's settings."
)


class UpstreamChecks:
    """The checks of the upstream: the network, the token, and the hosts of its pictures.

    Args:
        report: The settings and their sources.
    """

    def __init__(self, report: SettingsReport) -> None:
        self._report = report
        self._settings = report.settings
        self._probe = self._probe_of(report.settings.base_url)
        self._answer: Answer | None = None

    def checks(self) -> list[Check]:
        """The checks, in order."""
        return [
            Check("proxy", self._proxy),
            Check("network", self._network, needs=("proxy",)),
            Check("clock", self._clock, needs=("network",)),
            Check("pictures", self._pictures, needs=("network",)),
            Check("token", self._token),
            Check("account", self._account, needs=("network", "token")),
        ]

    def _probe_of(self, url: str) -> HttpProbe:
        return HttpProbe(url, connect=self._settings.connect_timeout, read=self._settings.read_timeout)

    async def _proxy(self) -> Finding:
        return invalid_setting(self._report, "base_url") or await self._probe.find_proxy()

    async def _network(self) -> Finding:
        body = {"action": "retrieve", "id": UNKNOWN_TASK}  # without a token: it is sent only after this check succeeds
        answer = await self._probe.exchange("POST", f"{self._settings.base_url}/seedream/tasks", json=body)
        if isinstance(answer, Finding):
            return answer
        host = self._probe.url.host
        if finding := foreign_answer(answer) or _not_the_api(answer):
            return replace(finding, found=f"{host}: {finding.found}")
        self._answer = answer
        return Finding("ok", f"{host} answers in {timing(answer)}")

    async def _clock(self) -> Finding:
        assert self._answer
        return clock_finding(self._answer, self._probe.url.host)

    async def _pictures(self) -> Finding:
        if finding := invalid_setting(self._report, "image_hosts"):
            return finding
        findings: dict[str, Finding] = {}

        async def check(origin: str) -> None:
            findings[origin] = await self._picture_host(origin)

        async with anyio.create_task_group() as group:
            for origin in self._settings.image_hosts:
                group.start_soon(check, origin)
        bad = [finding for finding in findings.values() if finding.level != "ok"]
        text = "; ".join(findings[origin].found for origin in self._settings.image_hosts)
        return bad[0] if bad else Finding("ok", text or f"{name_of('image_hosts')} names no host")

    async def _picture_host(self, origin: str) -> Finding:
        if "*" in origin:
            return Finding("ok", f"{origin} is a pattern, which is not checked")
        probe = self._probe_of(origin)
        answer = await probe.exchange("HEAD", "/")
        host = probe.url.host
        if isinstance(answer, Finding):
            advice = f"{answer.advice} Results have links, but no previews and no saved pictures."
            return Finding("warning", answer.found, advice)
        if probe.proxy() is None and not probe.is_local:
            private = [each for each in await addresses(host, probe.url.port or 443) if not is_public(each)]
            if private:
                text = f"{host} has a private address ({private[0]}), from which pictures are not downloaded."
                return Finding("warning", text, "The network's DNS returns this address. Ask its administrator.")
        return Finding("ok", f"{host} answers in {timing(answer)}")

    async def _token(self) -> Finding:
        variable, in_file = self._report.environment.get(_TOKEN), self._report.env_file.get(_TOKEN)
        if why := self._report.invalid.get(_TOKEN):
            return Finding("problem", f"It is not a token: {why}.", f"Copy it again from {TOKEN_PAGE}.")
        if self._settings.token is None:
            return self._no_token()
        token = self._settings.token.get_secret_value()
        if why := placeholder_reason(token):
            return Finding("problem", f"{why}.", _GET_TOKEN)
        source = f"from {'.env' if variable is None and in_file is not None else 'the environment'}"
        if variable and variable != token:
            extra = "the word Bearer before it" if "bearer" in variable.lower() else "quotes or spaces around it"
            advice = "This server removes them. Other programs may not."
            return Finding("warning", f"{masked_token(token)}, {source}, has {extra}.", advice)
        if not variable and not in_file:
            source = f"from {self._report.token_source}" if self._report.token_source else "of the sandbox"
        return Finding("ok", f"{masked_token(token)}, {source}")

    def _no_token(self) -> Finding:
        if provider := self._report.token_provider:
            advice = f"To check it, set {_TOKEN} for this command."
            return Finding("warning", f"No token can be read here: {provider} provides it to the server.", advice)
        if self._report.serves_others:
            return Finding("ok", "not set; a hosted server does not need one, since every caller sends one")
        return Finding("problem", "No token is set.", _GET_TOKEN)

    async def _account(self) -> Finding:
        if self._settings.token is None:
            return Finding("not checked", "no token is set")
        token = self._settings.token.get_secret_value()
        async with upstream_client(self._settings) as client:
            try:
                await client.look_up([UNKNOWN_TASK], token, kind="check")
            except TokenRefused as error:
                return Finding("problem", f"{masked_token(token)} is refused ({error.code}). {error.message}")
            except BalanceUsedUp as error:
                return Finding("problem", f"The account has no balance left. {error.message}")
            except UpstreamError as error:
                return Finding("warning", f"The token could not be checked: {error.message}", "Try again in a minute.")
        return Finding("ok", f"{masked_token(token)} is accepted (this does not check the balance)")


def _not_the_api(answer: Answer) -> Finding | None:
    """A finding if the answer to a request without a token is not the API's refusal; None if it is."""
    try:
        failure = read_failure(json.loads(answer.body))
    except (ValueError, RecursionError):
        failure = None
    if answer.status >= 500:
        return Finding(
            "problem",
            f"The API fails (HTTP {answer.status}).",
            "This machine is not the cause: try again later.",
        )
    if failure is None:
        return Finding("problem", f"This is not the answer of the API (HTTP {answer.status}).", f"Check {_BASE_URL}.")
    if failure.code == "no_api":
        return Finding("problem", f"This address has no Seedream API: {failure.message}", f"Check {_BASE_URL}.")
    return None
