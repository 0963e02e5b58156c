"""Why a server gave no answer, in words: what was found, and what a person can do about it."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.request import getproxies, proxy_bypass

import httpx

from mcp_seedream.core.setting_rules import LOOPBACK

NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
"""Errors of a request of which nothing left this machine, or the proxy."""
_ONLINE = "Is this machine online? A VPN, a firewall or the DNS server may be in the way."
_BLOCKED = "Is the address right? A firewall may be in the way; where the network has a proxy, HTTPS_PROXY names it."
_SILENT = "Is the address right? If so, try again later."
_DOCTOR = "`mcp-seedream doctor` says more."
_UNTRUSTED = (
    "A proxy or virus scanner that reads along shows certificates of its own: put the file with its authority's "
    "certificate into SSL_CERT_FILE."
)


def unreached(error: httpx.HTTPError, url: str) -> str:
    """Why the upstream could not be asked, and what to do, for an error's message."""
    if isinstance(error, httpx.ProxyError):
        return f"AceDataCloud could not be reached: the proxy answers {error}. {_DOCTOR}"
    if not isinstance(error, NEVER_SENT):
        found, advice = why(error, httpx.URL(url).host, connected=True)
        return f"AceDataCloud did not answer. {found} {advice}"
    proxy = _proxy(httpx.URL(url))
    found, advice = why(error, proxy or httpx.URL(url).host)
    return f"AceDataCloud could not be reached{' through the proxy' if proxy else ''}. {found} {advice} {_DOCTOR}"


def lost(error: httpx.HTTPError, url: str) -> str:
    """Why there is no answer to what was sent; without advice, since to ask again may cost."""
    return why(error, httpx.URL(url).host, connected=True)[0]


def _proxy(url: httpx.URL) -> str | None:
    """The host of the proxy that the environment names for an address."""
    named = getproxies().get(url.scheme) or getproxies().get("all")
    if not named or url.host in LOOPBACK or proxy_bypass(url.host):
        return None
    return httpx.URL(named if "://" in named else f"http://{named}").host


def why(error: Exception, host: str, *, connected: bool = False) -> tuple[str, str]:
    """Why there is no answer, by what lies at the bottom of an error, and what to do about it.

    Args:
        error: The whole of it.
        host: Who was asked.
        connected: There was a connection.
    """
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        if connected:
            return f"{host} takes the connection, but does not answer in time.", _SILENT
        return f"There is no connection to {host} in time.", _BLOCKED
    for cause in _causes(error):
        match cause:
            case ssl.SSLCertVerificationError():
                found = f"The certificate of {host} is not trusted: {cause.verify_message.rstrip('.')}."
                clock = f" The clock of this machine says {datetime.now(UTC):%Y-%m-%d %H:%M} UTC."
                dated = re.search("expired|not yet valid", cause.verify_message)
                return found, _UNTRUSTED + (clock if dated else "")
            case ssl.SSLError():
                found = f"{host} does not speak TLS here ({cause.reason or 'it hangs up'})."
                return found, "Is the address right? Should it be http://?"
            case socket.gaierror():
                return f"The name {host} is not known ({cause.strerror}).", _ONLINE
            case ConnectionRefusedError():
                return f"{host} refuses the connection: nobody listens there.", _BLOCKED
            case ConnectionError() | httpx.RemoteProtocolError() if connected:
                found = f"{host} closes the connection, or answers with something that is not HTTP."
                return found, _SILENT
            case OSError() if cause.strerror:
                return f"There is no way to {host}: {cause.strerror}.", _BLOCKED
    return f"{host} could not be asked ({str(error) or type(error).__name__}).", _SILENT


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it; of several at once, each."""
    pending, seen = [error], set[int]()
    while pending:
        each = pending.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, BaseExceptionGroup):
            pending += each.exceptions
        pending += [cause for cause in (each.__cause__, each.__context__) if cause]
