"""Rules for the values of settings: addresses, origins and seal keys."""

from __future__ import annotations

import re
from ipaddress import ip_network
from urllib.parse import urlsplit

from mcp_seedream.core.credentials import placeholder_reason

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Host names of this machine. Requests to them, such as to a sandbox, never use a proxy."""
_LEFT_EMPTY = re.compile(r"""\s*(["']?)(\$\{user_config\.\w+\}|null|undefined)?\1\s*""")
_MIN_LENGTH = 32  # characters of a seal key
_MIN_DISTINCT = 8  # different characters of a seal key; 32 random hexadecimal digits have 14 on average
_MIN_UNIQUE = 0.6  # share of distinct groups of three characters; nearly 1 for random digits
_MAX_STEPS = 0.6  # share of characters that follow their predecessor, as in 0123 and fedc; 0.2 for random digits
_MAX_SKIPS = 0.8  # share of characters that follow the second one before them, as in a1b2c3 and 000102
_PLACEHOLDERS = (
    *("nobodyguesses", "changeme", "changethis", "changeit", "replaceme", "replacethis", "replacewith", "placeholder"),
    *("yoursecret", "yourkey", "yourseal", "yourown", "keyhere", "secrethere", "keygoeshere", "secretgoeshere"),
    *("atleast32", "32characters", "32chars", "32ormore", "openssl", "example", "insecure", "supersecret"),
    "notasecret",
    *("developmentonly", "donotuse", "verysecret", "mysecret", "realsecret", "secretkey", "secretsecret", "sealkey"),
    *("longrandom", "randomstring", "randomsecret", "somerandom", "correcthorse", "quickbrown", "qazwsx"),
    *("qwertyuiop", "asdfghjkl", "passwordpassword", "loremipsum"),
)
"""Parts of placeholder keys in documents and templates, with lower-case letters and digits only."""
_MAKE_ONE = "`openssl rand -hex 32` makes one"


def is_left_empty(value: str) -> bool:
    """Whether a client's form left the value empty: blank, `null`, or a placeholder that was not replaced."""
    return _LEFT_EMPTY.fullmatch(value) is not None


def api_address(value: str) -> str:
    """Validate an address that tokens are sent to; returns it without a trailing slash.

    Raises:
        ValueError: It is not an HTTP address, or it is http:// for another machine.
    """
    if not value.startswith(("http://", "https://")):
        raise ValueError("it must start with https:// or http://")
    if re.search(r"[\s\\]", value) or not (host := urlsplit(value).hostname):
        raise ValueError("it is not an address like https://api.example.com")
    if value.startswith("http://") and host not in LOOPBACK:
        raise ValueError("it must start with https://, since a token is sent there (http:// is for this machine only)")
    return value.rstrip("/")


def proxies(values: list[str]) -> list[str]:
    """Validate addresses and networks of trusted proxies.

    Raises:
        ValueError: One is neither, nor `*`.
    """
    for value in values:
        try:
            ip_network("0.0.0.0" if value == "*" else value)
        except ValueError as error:
            raise ValueError(f"{value} is no address and no network like 10.0.0.0/8") from error
    return values


def image_host(origin: str) -> str:
    """Validate an origin that pictures may be loaded from. It becomes part of a content security policy.

    Raises:
        ValueError: It is not an origin.
    """
    if not re.fullmatch(r"https?://(\*\.\w[\w-]*\.|)(\w[\w-]*\.)*(\w[\w-]*|\[[\da-f:]+\])(:\d+)?", origin, re.ASCII):
        raise ValueError(f"{origin} is not like https://images.example.com")
    return origin


def public_origin(value: str) -> str | None:
    """Validate and normalize the public origin of this server; None if it is empty.

    Raises:
        ValueError: It is not an origin, or it is http:// for another machine: sign-in sends secrets there.
    """
    origin = value.strip().rstrip("/").lower()
    local = re.fullmatch(r"http://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", origin)
    if origin and not local and not re.fullmatch(r"https://[a-z0-9.-]+(:\d{1,5})?", origin):
        raise ValueError("it is not like https://seedream.example.com (http:// is for this machine only)")
    return origin.removesuffix(":80" if local else ":443") or None


def check_seal_key(key: str) -> None:
    """Validate that a seal key is hard to guess.

    Raises:
        ValueError: It is too short, a placeholder, or not random enough. The message does not contain the key.
    """
    if len(key) < _MIN_LENGTH:
        raise ValueError(f"each has at least {_MIN_LENGTH} characters ({_MAKE_ONE})")
    words = re.sub(r"[^a-z0-9]", "", key.lower())
    if placeholder_reason(key) or any(each in words for each in _PLACEHOLDERS):
        raise ValueError(f"one is a placeholder from public documents ({_MAKE_ONE})")
    groups = [key[i : i + 3] for i in range(len(key) - 2)]
    is_sequence = _steps(key, 1) > _MAX_STEPS or _steps(key, 2) > _MAX_SKIPS
    if is_sequence or len(set(key)) < _MIN_DISTINCT or len(set(groups)) < _MIN_UNIQUE * len(groups):
        raise ValueError(f"one is easy to guess: its characters repeat or follow a sequence ({_MAKE_ONE})")


def _steps(key: str, gap: int) -> float:
    """The share of characters whose code differs by at most 1 from the character `gap` places before."""
    return sum(abs(ord(a) - ord(b)) <= 1 for a, b in zip(key, key[gap:], strict=False)) / (len(key) - gap)
