"""Maps the upstream's error responses to `UpstreamError`s, with advice for the agent.

Statuses and codes are those of the vendor's documents (400, 401, 403, 404, 413, 429, 5xx). A code that is more specific
than its status takes precedence: `token_mismatched` comes with 400 and with 401. The wording of refused models and
sizes is from public reports and from Ark's documents up to 2026-11.
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
    "The generation may have been accepted and billed, so it was not sent again. The usage at "
    f"{TOKEN_PAGE} shows whether it was; ask the user before repeating it."
)
"""The end of the message for a submit that may have been accepted."""

_GONE = (
    r"(?:not|doesn't) exist|not found|(?:not|no longer) (?:available|supported|served|offered|open)|"
    r"(?:is|was|has been) (?:invalid|unavailable|retired|withdrawn|deprecated|decommissioned|removed|discontinued|"
    r"shut ?down|taken offline)"
)
_OTHER_SUBJECTS = (
    r"parameter|argument|field|image|prompt|text|stream|watermark|format|size|resolution|search|tool|"
    r"layer|output|result|response|answer|file|url|task|inference|upload|download|\w+_\w+"
)
"""Words between "model" and `_GONE` that show that the error concerns another parameter, or the output."""
_MODEL_CODES = re.compile(
    r"InvalidEndpointOrModel|Model(?:NotFound|NotOpen|Retired|Deprecated)|model_not_found", re.IGNORECASE
)
_MODEL_WORDS = re.compile(
    rf"\bmodel\b(?:(?!\. |\b(?:{_OTHER_SUBJECTS})s?\b).){{0,160}}?\b(?:{_GONE})"
    r"|\b(?:invalid|unknown|unsupported|no such|not a (?:valid|known|supported)) model\b(?! (?:output|res))",
    re.IGNORECASE,
)
_MODEL_IN_PASSING = re.compile(r"\b(?:of|by|to|from) (?:the )?model\b", re.IGNORECASE)
"""Mentions of a model in an error that concerns something else: "the image you gave to the model is invalid"."""
_SIZE_WORDS = re.compile(
    r"\b(?:size|resolution)\b(?:(?!\. ).){0,120}?\b"
    r"(?:must be|should be|not supported|unsupported|invalid|not valid|not allowed|not available|out of range)"
    r"|\b(?:invalid|unsupported|not a (?:valid|supported)) (?:image )?(?:size|resolution)\b"
    r"|\b(?:not|n't|no longer) support(?:(?!\. ).){0,40}?\b(?:size|resolution)\b"
    r"|\binvalid (?:value|parameter)(?:(?!\. ).){0,20}?\b(?:size|resolution)\b",
    re.IGNORECASE,
)
_SIZE_OF_OTHER_THINGS = re.compile(
    r"\b(?:input|reference|source|generated|file|body|payload|request size|upload\w*|batch|text|characters|"
    r"megapixels?|bytes)\b|(?:\b|\d)[KM]i?B\b",
    re.IGNORECASE,
)
_CONTENT_WORDS = re.compile(r"sensitiv|\bprompt\b|\bpolic(?:y|ies)\b|copyright|violat|unsafe|moderat", re.IGNORECASE)
"""Words of errors about the content of a prompt or picture."""
_QUOTED = re.compile(
    r"https?://\S+|\"[^\"]*\"|\N{LEFT DOUBLE QUOTATION MARK}[^\N{RIGHT DOUBLE QUOTATION MARK}]*"
    r"\N{RIGHT DOUBLE QUOTATION MARK}|(?<!\w)'[^']*'(?!\w)|`[^`]*`"
)
"""Links and quoted text."""
_TRANSIENT = re.compile(r"temporar|try again|retry|overload|busy|at the moment|currently|timed? ?out", re.IGNORECASE)


def refused_part(failure: Failure) -> Literal["model", "size"] | None:
    """Whether a failure refuses the model or the size, by its code and message; None if it has another reason.

    Nothing is billed for such a request. Ambiguous messages count as another reason: otherwise the call would be sent
    again, and refused again or billed.
    """
    words = _QUOTED.sub(_keep_quoted_name, failure.message)
    if failure.code in _OTHER_CODES or _TRANSIENT.search(words) or _CONTENT_WORDS.search(f"{failure.code} {words}"):
        return None
    if _SIZE_WORDS.search(words) and not _SIZE_OF_OTHER_THINGS.search(words):
        return "size"
    words = _MODEL_IN_PASSING.sub("", words)
    return "model" if _MODEL_CODES.search(failure.code) or _MODEL_WORDS.search(words) else None


def refused_in(task: Task) -> Literal["model", "size"] | None:
    """Whether an accepted task failed because of its model or size and was not billed; None for other tasks."""
    is_billed = (task.usage or {}).get("generated_images")
    return refused_part(task.error) if task.error and not is_billed else None


def _keep_quoted_name(match: re.Match[str]) -> str:
    """A quoted word, which may be a model's name; "" for links and longer quotations, which may repeat the prompt."""
    quoted = match[0]
    return "" if "://" in quoted or re.search(r"\s", quoted) else quoted


def refusal(status: int, reply: Any, headers: Mapping[str, str], *, submitting: bool) -> UpstreamError:
    """The error for an unsuccessful response.

    Args:
        status: HTTP status; 200 for a failed task that came with a success status.
        reply: The decoded JSON, or None if the body is something else, such as a proxy's HTML page.
        headers: For `Retry-After`.
        submitting: A generation was sent, so after a 5xx it may have been accepted.
    """
    failure = read_failure(reply) or Failure("", f"HTTP {status}")
    fields = reply if isinstance(reply, dict) else {}
    ids = {key: value for key in ("trace_id", "task_id") if isinstance(value := fields.get(key), str)}
    kind, advice = _classify(status, failure, submitting=submitting, readable=bool(fields))
    retry_after = retry_after_seconds(headers)
    if kind is RateLimited:
        pause = "a minute" if retry_after is None else f"{retry_after:.0f} s"
        advice = f"Wait {pause}, then repeat the call."
    if kind is SubmissionUncertain and status == 503 and retry_after is not None:
        # The only 5xx response that means that nothing was accepted.
        kind, advice = UpstreamUnavailable, f"Nothing was accepted. Wait {retry_after:.0f} s, then repeat the call."
    return kind(
        f"{failure.message.rstrip('.')}. {advice}".strip(),
        code=failure.code or None,
        status=status,
        **ids,
        retry_after=retry_after,
    )


def _classify(status: int, failure: Failure, *, submitting: bool, readable: bool) -> tuple[type[UpstreamError], str]:
    """The error class, and advice for the agent."""
    code = failure.code
    if code in _TOKEN_CODES or status == 401:
        return TokenRefused, f"The API token was refused: the user can check it, or get a new one, at {TOKEN_PAGE}."
    if code == "used_up" or status == 402:
        return BalanceUsedUp, f"The user can top up at {TOKEN_PAGE}; then the same call works."
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
        return RequestRefused, "The address does not exist: check ACEDATACLOUD_API_BASE_URL."
    if status >= 500:
        if submitting:
            return SubmissionUncertain, f"The upstream failed. {UNCERTAIN}"
        return UpstreamUnavailable, "The upstream failed; the same call can succeed later."
    if status >= 400:
        return RequestRefused, "Nothing was generated; the same request will be refused again."
    if status >= 300:
        return RequestRefused, "The upstream answered with a redirect: check ACEDATACLOUD_API_BASE_URL."
    return UpstreamError, ""


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """`Retry-After` in seconds. It is a number, or a date that is compared with the response's `Date` (RFC 9110)."""
    value = headers.get("retry-after", "")
    with suppress(ValueError):
        seconds = float(value)
        return max(0.0, seconds) if isfinite(seconds) else None
    until = _timestamp(value)
    now = _timestamp(headers.get("date")) or time()  # the server's clock may differ from this machine's
    return max(0.0, until - now) if until else None


def _timestamp(date: str | None) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp() if date else None
    except (TypeError, ValueError, OverflowError):
        return None
