"""The upstream's refusals → errors: status and code, and what an agent should do about each.

The table is the vendor's documented one (400, 401, 403, 404, 413, 429, 5xx). A code that says more than its
status (`token_mismatched` comes with 400 and with 401) decides first. What production says of a model or a size that
it does not take (any more) is from public reports and Ark's documents up to 2026-11.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from math import isfinite
from time import time
from typing import Any, Literal

from mcp_seedream.core.errors import (
    TOKEN_PAGE,
    BalanceUsedUp,
    ModelRefused,
    RateLimited,
    RequestRefused,
    SizeRefused,
    SubmissionUncertain,
    TaskNotFound,
    TokenRefused,
    UpstreamError,
    UpstreamUnavailable,
)
from mcp_seedream.upstream.parsing import read_failure
from mcp_seedream.upstream.types import Failure, Task

_TOKEN_CODES = {"invalid_token", "token_expired", "token_mismatched", "no_token"}
_OTHER_CODES = _TOKEN_CODES | {"used_up", "too_many_requests", "disabled", "request_too_large", "no_api"}
UNCERTAIN = (
    "The generation may have been accepted and billed, so it was not sent again. The user can see in the usage at "
    f"{TOKEN_PAGE} whether it was; ask before repeating it."
)
"""What to say of a submit whose fate is unknown."""

_GONE = (
    r"(?:not|doesn't) exist|not found|(?:not|no longer) (?:available|supported|served|offered|open)|"
    r"(?:is|was|has been) (?:invalid|unavailable|retired|withdrawn|deprecated|decommissioned|removed|discontinued|"
    r"shut ?down|taken offline)"
)
_NOT_OF_THE_MODEL = (
    r"parameter|argument|field|image|prompt|text|stream|watermark|format|size|resolution|search|tool|"
    r"layer|output|result|response|answer|file|url|task|inference|upload|download|\w+_\w+"
)
"""What an error that has the word "model" may be about instead: another parameter, or what the model has made."""
_MODEL_CODES = re.compile(
    r"InvalidEndpointOrModel|Model(?:NotFound|NotOpen|Retired|Deprecated)|model_not_found", re.IGNORECASE
)
_MODEL_WORDS = re.compile(
    rf"\bmodel\b(?:(?!\. |\b(?:{_NOT_OF_THE_MODEL})s?\b).){{0,160}}?\b(?:{_GONE})"
    r"|\b(?:invalid|unknown|unsupported|no such|not a (?:valid|known|supported)) model\b(?! (?:output|res))",
    re.IGNORECASE,
)
_BESIDE_THE_MODEL = re.compile(r"\b(?:of|by|to|from) (?:the )?model\b", re.IGNORECASE)
"""The model is named, but what is said is not about it: "the image you gave to the model is invalid"."""
_SIZE_WORDS = re.compile(
    r"\b(?:size|resolution)\b(?:(?!\. ).){0,120}?\b"
    r"(?:must be|should be|not supported|unsupported|invalid|not valid|not allowed|not available|out of range)"
    r"|\b(?:invalid|unsupported|not a (?:valid|supported)) (?:image )?(?:size|resolution)\b"
    r"|\b(?:not|n't|no longer) support(?:(?!\. ).){0,40}?\b(?:size|resolution)\b"
    r"|\binvalid (?:value|parameter)(?:(?!\. ).){0,20}?\b(?:size|resolution)\b",
    re.IGNORECASE,
)
_OTHER_SIZES = re.compile(
    r"\b(?:input|reference|source|generated|file|body|payload|request size|upload\w*|batch|text|characters|"
    r"megapixels?|bytes)\b|(?:\b|\d)[KM]i?B\b",
    re.IGNORECASE,
)
_CONTENT = re.compile(r"sensitiv|\bprompt\b|\bpolic(?:y|ies)\b|copyright|violat|unsafe|moderat", re.IGNORECASE)
"""What an error about the content of a request or picture has in its code or words."""
_CITED = re.compile(
    r"https?://\S+|\"[^\"]*\"|\N{LEFT DOUBLE QUOTATION MARK}[^\N{RIGHT DOUBLE QUOTATION MARK}]*"
    r"\N{RIGHT DOUBLE QUOTATION MARK}|(?<!\w)'[^']*'(?!\w)|`[^`]*`"
)
"""Links, and texts in quotation marks."""
_PASSING = re.compile(r"temporar|try again|retry|overload|busy|at the moment|currently|timed? ?out", re.IGNORECASE)


def refused_part(failure: Failure) -> Literal["model", "size"] | None:
    """Which choice a failure refuses, told by its code and words; None: it says something else.

    Such a request was not begun, so that nothing is billed for it. Words in doubt count as something else: a call that
    is sent again for nothing would be refused again, or paid for.
    """
    words = _CITED.sub(_unless_cited, failure.message)
    if failure.code in _OTHER_CODES or _PASSING.search(words) or _CONTENT.search(f"{failure.code} {words}"):
        return None
    if _SIZE_WORDS.search(words) and not _OTHER_SIZES.search(words):
        return "size"
    words = _BESIDE_THE_MODEL.sub("", words)
    return "model" if _MODEL_CODES.search(failure.code) or _MODEL_WORDS.search(words) else None


def refused_in(task: Task) -> Literal["model", "size"] | None:
    """Which choice was refused inside an accepted task, by its code and words; never by its mere failure."""
    is_billed = (task.usage or {}).get("generated_images")
    return refused_part(task.error) if task.error and not is_billed else None


def _unless_cited(found: re.Match[str]) -> str:
    """A single word in quotation marks, such as a name; nothing for a link or a text, which are the caller's words."""
    cited = found[0]
    return "" if "://" in cited or re.search(r"\s", cited) else cited


def refusal(status: int, reply: Any, headers: Mapping[str, str], *, submitting: bool) -> UpstreamError:
    """The error for an answer that is not a success.

    Args:
        status: HTTP status; 200 for a failure that came as a success.
        reply: The decoded JSON, or None where there is none (a proxy's page).
        headers: For `Retry-After`.
        submitting: A generation was sent, so that a 5xx leaves its fate unknown.
    """
    failure = read_failure(reply) or Failure("", f"HTTP {status}")
    known = reply if isinstance(reply, dict) else {}
    ids = {key: value for key in ("trace_id", "task_id") if isinstance(value := known.get(key), str)}
    kind, advice = _kind(status, failure, submitting=submitting, readable=bool(known))
    retry_after = asked_pause(headers)
    if kind is RateLimited:
        pause = "a minute" if retry_after is None else f"{retry_after:.0f} s"
        advice = f"Wait {pause}, then repeat the call."
    if kind is SubmissionUncertain and status == 503 and retry_after is not None:
        # "Not now, later" is the one 5xx that says that nothing was taken.
        kind, advice = UpstreamUnavailable, f"Nothing was accepted. Wait {retry_after:.0f} s, then repeat the call."
    return kind(
        f"{failure.message.rstrip('.')}. {advice}".strip(),
        code=failure.code or None,
        status=status,
        **ids,
        retry_after=retry_after,
    )


def _kind(status: int, failure: Failure, *, submitting: bool, readable: bool) -> tuple[type[UpstreamError], str]:
    code = failure.code
    if code in _TOKEN_CODES or status == 401:
        return TokenRefused, f"The API token was refused: the user can check it, or get one, at {TOKEN_PAGE}."
    if code == "used_up" or status == 402:
        return BalanceUsedUp, f"The user can top up at {TOKEN_PAGE}; the same call works then."
    if code == "too_many_requests" or status == 429:
        return RateLimited, ""
    if status < 500 and (part := refused_part(failure)):
        return (ModelRefused if part == "model" else SizeRefused), "Nothing was billed."
    if code == "disabled":
        return RequestRefused, f"The account is disabled: the user can ask the support at {TOKEN_PAGE}."
    if code == "request_too_large" or status == 413:
        return RequestRefused, "The request is too large: give smaller pictures, or links to them."
    if code == "not_found" or (status == 404 and not code and readable and not submitting):
        return TaskNotFound, ""
    if status == 404 and not readable:
        return RequestRefused, "Nothing of the kind is at that address: check ACEDATACLOUD_API_BASE_URL."
    if status >= 500:
        if submitting:
            return SubmissionUncertain, f"The upstream failed. {UNCERTAIN}"
        return UpstreamUnavailable, "The upstream failed; the same call can succeed later."
    if status >= 400:
        return RequestRefused, "Nothing was generated; the same request will be refused again."
    if status >= 300:
        return RequestRefused, "The upstream answered with a redirect: check ACEDATACLOUD_API_BASE_URL."
    return UpstreamError, ""


def asked_pause(headers: Mapping[str, str]) -> float | None:
    """`Retry-After` in seconds: it may be a number or a date (RFC 9110), to be held against the answer's own."""
    asked = headers.get("retry-after", "")
    with suppress(ValueError):
        found = float(asked)
        return max(0.0, found) if isfinite(found) else None
    until = _timestamp(asked)
    now = _timestamp(headers.get("date")) or time()  # their clock may not be ours
    return max(0.0, until - now) if until else None


def _timestamp(date: str | None) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp() if date else None
    except (TypeError, ValueError, OverflowError):
        return None
