"""Explains why a request got no response: the cause, and advice for a person."""

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
"""Errors after which the upstream has received nothing of a request."""
_ONLINE = "Is this machine online? A VPN, a firewall or the DNS server may be in the way."
_BLOCKED = "Is the address right? A firewall may be in the way; if the network has a proxy, set HTTPS_PROXY to it."
_SILENT = "Is the address right? If so, try again later."
_DOCTOR = "`mcp-seedream doctor` finds more."
_UNTRUSTED = (
    "A proxy or virus scanner may inspect TLS with its own certificates: set SSL_CERT_FILE to the file with its "
    "authority's certificate."
)


def unreachable_message(error: httpx.HTTPError, url: str) -> str:
    """An error message for a request that got no response: the cause and the remedy."""
    if isinstance(error, httpx.ProxyError):
        return f"AceDataCloud could not be reached: the proxy answers {error}. {_DOCTOR}"
    if not isinstance(error, NEVER_SENT):
        cause, advice = diagnose(error, httpx.URL(url).host, connected=True)
        return f"AceDataCloud did not answer. {cause} {advice}"
    proxy = _proxy(httpx.URL(url))
    cause, advice = diagnose(error, proxy or httpx.URL(url).host)
    return f"AceDataCloud could not be reached{' through the proxy' if proxy else ''}. {cause} {advice} {_DOCTOR}"


def lost_message(error: httpx.HTTPError, url: str) -> str:
    """An error message for a submit whose response was lost; without advice, since a retry may be billed."""
    return diagnose(error, httpx.URL(url).host, connected=True)[0]


def _proxy(url: httpx.URL) -> str | None:
    """The host of the proxy that the environment sets for an address."""
    proxy = getproxies().get(url.scheme) or getproxies().get("all")
    if not proxy or url.host in LOOPBACK or proxy_bypass(url.host):
        return None
    return httpx.URL(proxy if "://" in proxy else f"http://{proxy}").host


def diagnose(error: Exception, host: str, *, connected: bool = False) -> tuple[str, str]:
    """The cause of a failed request, and advice, from its error and the errors that caused it.

    Args:
        error: The error of the request.
        host: The server or proxy.
        connected: Whether a connection was made.
    """
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        if connected:
            return f"{host} accepts the connection, but does not answer in time.", _SILENT
        return f"Connecting to {host} timed out.", _BLOCKED
    for cause in _causes(error):
        match cause:
            case ssl.SSLCertVerificationError():
                cause_text = f"The certificate of {host} is not trusted: {cause.verify_message.rstrip('.')}."
                clock = f" The clock of this machine says {datetime.now(UTC):%Y-%m-%d %H:%M} UTC."
                dated = re.search("expired|not yet valid", cause.verify_message)
                return cause_text, _UNTRUSTED + (clock if dated else "")
            case ssl.SSLError():
                reason = cause.reason or "it closes the connection"
                return (
                    f"{host} does not speak TLS on this port ({reason}).",
                    "Is the address right? Should it be http://?",
                )
            case socket.gaierror():
                return f"The host name {host} is unknown ({cause.strerror}).", _ONLINE
            case ConnectionRefusedError():
                return f"{host} refuses the connection: nothing listens on this port.", _BLOCKED
            case ConnectionError() | httpx.RemoteProtocolError() if connected:
                return f"{host} closes the connection, or does not speak HTTP.", _SILENT
            case OSError() if cause.strerror:
                return f"{host} can't be reached: {cause.strerror}.", _BLOCKED
    return f"The request to {host} failed ({str(error) or type(error).__name__}).", _SILENT


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, its causes, and the members of exception groups."""
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
