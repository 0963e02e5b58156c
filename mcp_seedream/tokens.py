"""What a token looks like: which words only stand for one, and how much of one may be seen."""

from __future__ import annotations

import re

_PLACEHOLDER = re.compile(
    r"x+|bearer|[.]{3}|((your|my|the)[-_ ]?)?((api|acedatacloud)[-_ ]?)*(token|key)([-_ ]here)?", re.IGNORECASE
)
_BRACKETS = re.compile(r"<.*>|[$]?\{.*\}|\[.*\]")
_SHORT = 12  # characters; the vendor's have more than twice as many


def bare(written: str) -> str:
    """A token as people paste it, without quotes, blanks, or the word Bearer; it may be empty.

    Raises:
        ValueError: It can't be one.
    """
    text = written.strip().strip("\"'").removeprefix("Bearer ").strip()
    if any(ord(character) < 33 or ord(character) > 126 for character in text):
        raise ValueError("it has blanks or characters that no token has")
    return text


def stands_for_one(token: str) -> str | None:
    """How this is a placeholder as examples have them, and no token; None if it is not."""
    if _BRACKETS.fullmatch(token):
        return "It stands in brackets, as in an example"
    return f"`{token}` stands where it should be" if _PLACEHOLDER.fullmatch(token) else None


def is_short(token: str) -> bool:
    """Whether it is too short to be one of the vendor's, and to show any of it."""
    return len(token) < _SHORT


def end_of(token: str) -> str:
    """What of a token may be seen: enough to tell one's own from another."""
    return "the token (short)" if is_short(token) else f"...{token[-4:]}"
