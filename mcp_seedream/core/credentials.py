"""API tokens as people write them: cleaning, placeholders, and masking for display."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

KeyCheck = Callable[[str], Awaitable[bool]]
"""Returns whether the upstream accepts an API key."""

_PLACEHOLDER = re.compile(
    r"(sk-)?(x+(-x+)*|[*]+|[.]{2,})|bearer|todo|fixme|null|undefined|none|(place)?holder|(change|replace)-?(me|this)|"
    r"(sk-)?((insert|paste|put|enter|add|use|replace-with)-)?((your|my|the)-?)?"
    r"((own|real|actual|personal|example|sample)-)?"
    r"((ace-?data-?cloud|ace-?data|seedream|api|access|auth)-?)*(token|key)(-(goes-)?here)?"
)
"""Placeholders of examples, in lower case, with one hyphen between words."""
_BRACKETS = re.compile(r"<.*>|[$]?\{.*\}|\[.*\]", re.DOTALL)
_VARIABLE = re.compile(
    r"`.*`|\$\(.*\)|__\w+__|%\w+%|\$(env:)?[a-z_]\w*|.*(\$\{[a-z_][^{}]*\}|\{\{.*\}\}).*|\$\{.*|(env|input|secrets?):\S+|\w+://.*",
    re.IGNORECASE | re.DOTALL,
)
"""A variable that a client, a shell or a template should have replaced."""
_SHOWN = 60  # characters of a placeholder in messages
_SHORT = 12  # characters; AceDataCloud's tokens have more than twice as many


def clean_token(raw: str) -> str:
    """Strip whitespace, quotes and the word `Bearer`. The result may be empty or a placeholder.

    Raises:
        ValueError: It contains whitespace or other characters that tokens can't have.
    """
    text = raw.strip().strip("\"'").removeprefix("Bearer ").strip()
    if not placeholder_reason(text) and any(ord(character) < 33 or ord(character) > 126 for character in text):
        raise ValueError("it contains blanks or other characters that tokens can't have")
    return text


def placeholder_reason(token: str) -> str | None:
    """Why this is a placeholder from an example instead of a token, as a sentence; None if it is not."""
    if _BRACKETS.fullmatch(token):
        return "It is in brackets, as in an example"
    if _VARIABLE.fullmatch(token):
        return "It is a variable that was not replaced"
    words = re.sub(r"[-_ ]+", "-", token.lower())
    return f"`{token[:_SHOWN]}` is not a token" if _PLACEHOLDER.fullmatch(words) else None


def is_short(token: str) -> bool:
    """Whether it is too short to be a token of AceDataCloud; no characters of it are shown then."""
    return len(token) < _SHORT


def masked_token(token: str) -> str:
    """The last four characters of a token, so that its owner can recognize it."""
    return "the token (short)" if is_short(token) else f"...{token[-4:]}"
