"""Rules for the values of settings: addresses, origins and seal keys."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from mcp_seedream.core.credentials import placeholder_reason

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""This machine: a sandbox there is reached without the proxy of the environment, which is for the world outside."""
_LEFT_EMPTY = re.compile(r"""\s*(["']?)(\$\{user_config\.\w+\}|null|undefined)?\1\s*""")
_SHORTEST = 32  # characters of a seal key
_FEWEST = 8  # different characters in it; 32 random hexadecimal digits have 14 of 16 on average
_LEAST_NEW = 0.6  # of the groups of three characters in it occur only once; random digits have nearly all
_MOST_STEPS = 0.6  # of its characters are the neighbour of the one before, as in 0123 and fedc; random digits: 0.2
_MOST_SKIPS = 0.8  # of its characters are that of the second before, as in a1b2c3 and 000102
_PLACEHOLDERS = (
    *("nobodyguesses", "changeme", "changethis", "changeit", "replaceme", "replacethis", "replacewith", "placeholder"),
    *("yoursecret", "yourkey", "yourseal", "yourown", "keyhere", "secrethere", "keygoeshere", "secretgoeshere"),
    *(
        "atleast32",
        "32characters",
        "32chars",
        "32ormore",
        "openssl",
        "example",
        "insecure",
        "supersecret",
        "notasecret",
    ),
    *("developmentonly", "donotuse", "verysecret", "mysecret", "realsecret", "secretkey", "secretsecret", "sealkey"),
    *("longrandom", "randomstring", "randomsecret", "somerandom", "correcthorse", "quickbrown", "qazwsx"),
    *("qwertyuiop", "asdfghjkl", "passwordpassword", "loremipsum"),
)
"""Parts of keys that documents and templates show, in lower case without signs between the words."""
_MAKE_ONE = "`openssl rand -hex 32` makes one"


def is_left_empty(value: str) -> bool:
    """Whether a client with a form left this empty: blank, `null`, or the place of a field that was not filled in."""
    return _LEFT_EMPTY.fullmatch(value) is not None


def address_of_tokens(value: str) -> str:
    """An address that tokens are sent to, without a slash at its end.

    Raises:
        ValueError: It is no http(s) address, or it is plain http to another machine.
    """
    if not value.startswith(("http://", "https://")):
        raise ValueError("it must start with https:// or http://")
    if re.search(r"[\s\\]", value) or not (host := urlsplit(value).hostname):
        raise ValueError("it is not an address like https://api.example.com")
    if value.startswith("http://") and host not in LOOPBACK:
        raise ValueError("it must start with https://, since a token is sent there (http:// is for this machine only)")
    return value.rstrip("/")


def image_host(origin: str) -> str:
    """An origin that pictures may be loaded from. It becomes part of a security policy, so nothing else is taken.

    Raises:
        ValueError: It is something else.
    """
    if not re.fullmatch(r"https?://(\*\.\w[\w-]*\.|)(\w[\w-]*\.)*(\w[\w-]*|\[[\da-f:]+\])(:\d+)?", origin, re.ASCII):
        raise ValueError(f"{origin} is not like https://images.example.com")
    return origin


def public_origin(value: str) -> str | None:
    """The origin that this server is reached at, as browsers write it; None if it is empty.

    Raises:
        ValueError: It is no origin, or plain http for another machine: sign-in sends secrets there.
    """
    origin = value.strip().rstrip("/").lower()
    local = re.fullmatch(r"http://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", origin)
    if origin and not local and not re.fullmatch(r"https://[a-z0-9.-]+(:\d{1,5})?", origin):
        raise ValueError("it is not like https://seedream.example.com (http:// is for this machine only)")
    return origin.removesuffix(":80" if local else ":443") or None


def check_seal_key(key: str) -> None:
    """Refuse a seal key that others know or can guess.

    Raises:
        ValueError: It is too short, a placeholder, or has too little randomness. The key is not in the message.
    """
    if len(key) < _SHORTEST:
        raise ValueError(f"each has at least {_SHORTEST} characters ({_MAKE_ONE})")
    words = re.sub(r"[^a-z0-9]", "", key.lower())
    if placeholder_reason(key) or any(each in words for each in _PLACEHOLDERS):
        raise ValueError(f"one is a placeholder from documents, which anybody can read ({_MAKE_ONE})")
    groups = [key[i : i + 3] for i in range(len(key) - 2)]
    is_sequence = _steps(key, 1) > _MOST_STEPS or _steps(key, 2) > _MOST_SKIPS
    if is_sequence or len(set(key)) < _FEWEST or len(set(groups)) < _LEAST_NEW * len(groups):
        raise ValueError(f"one is easy to guess: its characters repeat or follow a sequence ({_MAKE_ONE})")


def _steps(key: str, gap: int) -> float:
    """The share of characters that are equal or next to the one `gap` places before."""
    return sum(abs(ord(a) - ord(b)) <= 1 for a, b in zip(key, key[gap:], strict=False)) / (len(key) - gap)
