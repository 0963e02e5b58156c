"""What a token looks like: which words only stand for one, and how much of one may be seen."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

KeyCheck = Callable[[str], Awaitable[bool]]
"""Whether the upstream takes a key."""

_PLACEHOLDER = re.compile(
    r"(sk-)?(x+(-x+)*|[*]+|[.]{2,})|bearer|todo|fixme|null|undefined|none|(place)?holder|(change|replace)-?(me|this)|"
    r"(sk-)?((insert|paste|put|enter|add|use|replace-with)-)?((your|my|the)-?)?"
    r"((own|real|actual|personal|example|sample)-)?"
    r"((ace-?data-?cloud|ace-?data|seedream|api|access|auth)-?)*(token|key)(-(goes-)?here)?"
)
"""Words that stand for a token in examples: in lower case, with one hyphen between them."""
_BRACKETS = re.compile(r"<.*>|[$]?\{.*\}|\[.*\]", re.DOTALL)
_REFERENCE = re.compile(
    r"`.*`|\$\(.*\)|__\w+__|%\w+%|\$(env:)?[a-z_]\w*|.*(\$\{[a-z_][^{}]*\}|\{\{.*\}\}).*|\$\{.*|(env|input|secrets?):\S+|\w+://.*",
    re.IGNORECASE | re.DOTALL,
)
"""A reference that a client, a shell or a template was to replace."""
_SHOWN = 60  # characters of a placeholder
_SHORT = 12  # characters; the vendor's have more than twice as many


def bare(written: str) -> str:
    """A token as people paste it, without quotes, blanks, or the word Bearer; it may be empty, or stand for one.

    Raises:
        ValueError: It can't be one.
    """
    text = written.strip().strip("\"'").removeprefix("Bearer ").strip()
    if not stands_for_one(text) and any(ord(character) < 33 or ord(character) > 126 for character in text):
        raise ValueError("it has blanks or characters that no token has")
    return text


def stands_for_one(token: str) -> str | None:
    """How this is a placeholder as examples have them, and no token; None if it is not."""
    if _BRACKETS.fullmatch(token):
        return "It stands in brackets, as in an example"
    if _REFERENCE.fullmatch(token):
        return "It is a reference that nobody filled in"
    words = re.sub(r"[-_ ]+", "-", token.lower())
    return f"`{token[:_SHOWN]}` stands where it should be" if _PLACEHOLDER.fullmatch(words) else None


def is_short(token: str) -> bool:
    """Whether it is too short to be one of the vendor's, and to show any of it."""
    return len(token) < _SHORT


def end_of(token: str) -> str:
    """What of a token may be seen: enough to tell one's own from another."""
    return "the token (short)" if is_short(token) else f"...{token[-4:]}"
