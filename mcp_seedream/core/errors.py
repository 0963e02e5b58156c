"""Everything that can go wrong, as one tree.

    SeedreamError
    ├── ConfigurationError       a setting or the model table is wrong: stops the start
    ├── InvalidArguments         the call breaks a rule of the table; nothing was sent
    ├── MissingToken             there is no token to send; nothing was sent
    ├── ServerShuttingDown           the process is about to end; nothing was sent
    ├── StoreUnavailable         what sign-in remembers cannot be read or written (Redis is down)
    ├── SignInFailed             the vendor's sign-in gave no key; knows why, in a word
    ├── LimitExceeded                  a limit of this server; nothing was sent
    └── UpstreamError            the upstream refused, failed or could not be reached
        ├── RequestRefused       400, 404 no_api, 413: the same request will be refused again
        │   ├── ModelRefused     the model is unknown or withdrawn; costs nothing
        │   └── SizeRefused      the model does not take the size; costs nothing
        ├── TokenRefused         401, or a 400 about the token
        ├── BalanceUsedUp        403 used_up
        ├── RateLimited          429; knows how long to wait
        ├── TaskNotFound         404: no such task for this token
        ├── UpstreamUnavailable  not reached, or 5xx on a request that may be repeated
        ├── SubmissionUncertain  a submit whose answer was lost: it may have been accepted and billed
        └── UnreadableReply      HTML, broken JSON or a shape nobody documents

Each carries a stable `code`, a `message` written for an agent (what happened, then what to do), and
`retryable`: whether the same call can succeed later. Statuses and codes are the upstream's documented
error table. No other module defines an exception.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

TOKEN_PAGE = "https://platform.acedata.cloud"  # noqa: S105  (a page about tokens, not a token)
"""Where a person gets a token and tops up the balance (the vendor's platform)."""


_WRONG = {
    "missing": "it is missing",
    "extra_forbidden": "there is nothing of that name",
    "literal_error": "it has to be {expected}",
    "greater_than": "it has to be above {gt:.15g}",
    "greater_than_equal": "it has to be {ge:.15g} or more",
    "less_than_equal": "it has to be {le:.15g} or less",
    "too_short": "it has to have {min_length} or more",
    "too_long": "it has to have {max_length} or fewer",
    "string_too_short": "it has to have {min_length} or more characters",
    "int_parsing_size": "it has too many digits",
    "finite_number": "it has to be a finite number",
}
"""What is wrong, by pydantic's name for the error."""
_KINDS = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "string": "a text",
    "path": "a path",
    "list": "a list",
    "dict": "a table",
    "model": "a table",
}
"""What something has to be, by the beginning of such a name."""


def why_invalid(details: Mapping[str, Any]) -> str:
    """What is wrong with a setting, or with a value of the model table, in words of this project.

    Args:
        details: One of `ValidationError.errors()`, whose own sentences are for programmers.
    """
    kind, context = details["type"], details.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind in _WRONG:
        return _WRONG[kind].format(**context)
    if kind == "string_pattern_mismatch" and (words := re.search(r"\(([\w|]+)\)\$", context["pattern"])):
        *most, last = words[1].split("|")
        return f"it has to be {', '.join(most)} or {last}"
    meant = _KINDS.get(kind.partition("_")[0])
    return f"it has to be {meant}" if meant else "it is not of the right form"


class SeedreamError(Exception):
    """The root: a failure this project expects and can put into words.

    Args:
        message: One or two sentences for an agent: what happened, and what would work.
        code: A stable identifier; the upstream's own where it gave one.
    """

    code = "error"
    retryable = False

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code:
            self.code = code


class ConfigurationError(SeedreamError):
    """A setting or the model table is unusable; the process does not start with it."""

    code = "configuration"


class InvalidArguments(SeedreamError):
    """The arguments break a rule of the capability table. Nothing was sent, nothing is billed."""

    code = "invalid_arguments"


class MissingToken(SeedreamError):
    """No API token is configured for this caller, or only a placeholder; `why` says which one."""

    code = "no_token"

    def __init__(self, why: str = "") -> None:
        missing = (
            f"The AceDataCloud API token is only a placeholder ({why})" if why else "No AceDataCloud API token is set"
        )
        super().__init__(
            f"{missing}, so nothing was sent. Get one at "
            f"{TOKEN_PAGE}, and put it as ACEDATACLOUD_API_TOKEN under `env` in the client's settings for this server "
            "(`mcp-seedream install CLIENT` does it), or into the extension's settings. Then start the client again."
        )


class ServerShuttingDown(SeedreamError):
    """The process is about to end, and takes no new calls."""

    code = "stopping"
    retryable = True

    def __init__(self) -> None:
        super().__init__("The server is being stopped, so nothing was sent. The call can be repeated once it is back.")


class CallInProgress(SeedreamError):
    """An identical call has no task yet; another one would be billed as well."""

    code = "in_progress"
    retryable = True

    def __init__(self) -> None:
        super().__init__(
            "The same call is being sent and has no task yet, so this one was not sent. Make it again in a few seconds "
            "to get that task; for another picture, change the prompt."
        )


class StoreUnavailable(SeedreamError):
    """A store that processes share (Redis, the journal) can't be used."""

    code = "temporarily_unavailable"
    retryable = True


class SignInFailed(SeedreamError):
    """The vendor's sign-in did not give a key; `code` is one of the words that the consent page explains."""

    code = "vendor_failed"
    retryable = True


class LimitExceeded(SeedreamError):
    """A caller asks for more than this server gives; `retry_after` says in how many seconds to come again."""

    code = "too_many_requests"
    retryable = True

    def __init__(self, why: str, retry_after: float) -> None:
        self.retry_after = max(1, round(retry_after))
        super().__init__(f"Too many calls: {why}. Nothing was sent; try again in {self.retry_after} s.")


class UpstreamError(SeedreamError):
    """The upstream's answer, or its absence, is a failure.

    Args:
        message: As for `SeedreamError`.
        code: The upstream's `error.code`, where it gave one.
        status: HTTP status, where there was an answer.
        trace_id: The upstream's identifier of the request, for its support.
        task_id: The task concerned, where it is known.
        retry_after: Seconds to wait before another try, where the upstream said so.
    """

    code = "upstream_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        trace_id: str | None = None,
        task_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.status = status
        self.trace_id = trace_id
        self.task_id = task_id
        self.retry_after = retry_after


class RequestRefused(UpstreamError):
    """The upstream found the request itself wrong."""

    code = "bad_request"


class ModelRefused(RequestRefused):
    """The upstream does not know the model (any more)."""

    code = "model_refused"


class SizeRefused(RequestRefused):
    """The upstream does not take this size for this model."""

    code = "size_refused"


class TokenRefused(UpstreamError):
    """The token is invalid, expired, or belongs to another service."""

    code = "invalid_token"


class BalanceUsedUp(UpstreamError):
    """The account has no balance left."""

    code = "used_up"


class RateLimited(UpstreamError):
    """Too many requests; `retry_after` says how long to wait, where the upstream did."""

    code = "too_many_requests"
    retryable = True


class TaskNotFound(UpstreamError):
    """The upstream knows no such task for this token."""

    code = "not_found"


class UpstreamUnavailable(UpstreamError):
    """The upstream was not reached, or failed on a request that is safe to repeat."""

    code = "unavailable"
    retryable = True


class SubmissionUncertain(UpstreamError):
    """A generation was sent and its answer was lost. Repeating it could pay twice, so nobody does."""

    code = "submission_uncertain"


class UnreadableReply(UpstreamError):
    """The answer is not what the upstream documents (a proxy's HTML page, broken JSON)."""

    code = "unreadable_reply"
