"""All exceptions of this project.

    SeedreamError
    ├── ConfigurationError       a setting or the model table is invalid; the process does not start
    ├── InvalidArguments         the call breaks a rule of the model table; nothing was sent
    ├── MissingToken             there is no API token; nothing was sent
    ├── ServerShuttingDown       the process is about to exit; nothing was sent
    ├── StoreUnavailable         the store of sign-in can't be used, because Redis is down
    ├── SignInFailed             the vendor's sign-in returned no key
    ├── ClientDocumentError      the metadata document of a client can't be used
    ├── LimitExceeded            a limit of this server is reached; nothing was sent
    └── UpstreamError            the upstream refused, failed or could not be reached
        ├── RequestRefused       400, 404 no_api, 413: the same request would be refused again
        │   ├── ModelRefused     the model is unknown or withdrawn; not billed
        │   └── SizeRefused      the model does not support the size; not billed
        ├── TokenRefused         401, or a 400 about the token
        ├── BalanceUsedUp        403 used_up
        ├── RateLimited          429
        ├── TaskNotFound         404: no such task for this token
        ├── UpstreamUnavailable  not reached, or 5xx for a request that may be repeated
        ├── SubmissionUncertain  the response to a submit was lost: it may have been accepted and billed
        └── UnreadableReply      HTML, broken JSON or an undocumented form

Each has a stable `code`, a `message` for an agent (the failure, then the remedy), and `retryable`: whether the same
call can succeed later. Statuses and codes are from the upstream's documented error table. No other module defines an
exception.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

TOKEN_PAGE = "https://platform.acedata.cloud"  # noqa: S105  (a page about tokens, not a token)
"""The page of the vendor's platform for tokens and the balance."""

_MESSAGES = {
    "missing": "it is missing",
    "extra_forbidden": "the name is unknown",
    "literal_error": "it must be {expected}",
    "greater_than": "it must be above {gt:.15g}",
    "greater_than_equal": "it must be {ge:.15g} or more",
    "less_than_equal": "it must be {le:.15g} or less",
    "too_short": "it must have {min_length} or more entries",
    "too_long": "it must have {max_length} or fewer entries",
    "string_too_short": "it must have {min_length} or more characters",
    "int_parsing_size": "it has too many digits",
    "finite_number": "it must be a finite number",
}
"""Messages by pydantic's error type."""
_TYPES = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "string": "a text",
    "path": "a path",
    "list": "a list",
    "dict": "a table",
    "model": "a table",
}
"""Expected types by the first word of pydantic's error type."""


def why_invalid(details: Mapping[str, Any]) -> str:
    """A message for users about an invalid setting, or an invalid value of the model table.

    Args:
        details: One of `ValidationError.errors()`; pydantic's own messages are for programmers.
    """
    kind, context = details["type"], details.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind in _MESSAGES:
        return _MESSAGES[kind].format(**context)
    if kind == "string_pattern_mismatch" and (words := re.search(r"\(([\w|]+)\)\$", context["pattern"])):
        *most, last = words[1].split("|")
        return f"it must be {', '.join(most)} or {last}"
    expected = _TYPES.get(kind.partition("_")[0])
    return f"it must be {expected}" if expected else "it has the wrong form"


class SeedreamError(Exception):
    """The base class of all expected failures.

    Args:
        message: One or two sentences for an agent: the failure, then the remedy.
        code: A stable identifier; the upstream's own code if it sent one.
    """

    code = "error"
    retryable = False

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code:
            self.code = code


class ConfigurationError(SeedreamError):
    """A setting or the model table is invalid; the process does not start."""

    code = "configuration"


class InvalidArguments(SeedreamError):
    """The arguments break a rule of the model table. Nothing was sent or billed."""

    code = "invalid_arguments"


class MissingToken(SeedreamError):
    """The caller has no API token, or only a placeholder, which `why` describes."""

    code = "no_token"

    def __init__(self, why: str = "") -> None:
        missing = (
            f"The AceDataCloud API token is only a placeholder ({why})" if why else "No AceDataCloud API token is set"
        )
        super().__init__(
            f"{missing}, so nothing was sent. Get one at "
            f"{TOKEN_PAGE}, and set it as ACEDATACLOUD_API_TOKEN under `env` in the client's settings for this server "
            "(`mcp-seedream install CLIENT` does that), or in the extension's settings. Then restart the client."
        )


class ServerShuttingDown(SeedreamError):
    """The process is about to exit, and accepts no new calls."""

    code = "stopping"
    retryable = True

    def __init__(self) -> None:
        super().__init__("The server is shutting down, so nothing was sent. Repeat the call when it is back.")


class CallInProgress(SeedreamError):
    """An identical call is in progress and has no task yet; sending this one would be billed as well."""

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
    """The vendor's sign-in returned no key; the consent page has a message for each `code`."""

    code = "vendor_failed"
    retryable = True


class ClientDocumentError(SeedreamError):
    """The metadata document of a sign-in's client can't be fetched, or is not accepted."""

    code = "invalid_client"

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class LimitExceeded(SeedreamError):
    """A caller reached a limit of this server; `retry_after` is the number of seconds to wait."""

    code = "too_many_requests"
    retryable = True

    def __init__(self, why: str, retry_after: float) -> None:
        self.retry_after = max(1, round(retry_after))
        super().__init__(f"Too many calls: {why}. Nothing was sent; try again in {self.retry_after} s.")


class UpstreamError(SeedreamError):
    """A request to the upstream failed.

    Args:
        message: As for `SeedreamError`.
        code: The upstream's `error.code`, if it sent one.
        status: HTTP status, if there was a response.
        trace_id: The upstream's id of the request, for its support.
        task_id: The task, if it is known.
        retry_after: Seconds to wait before a retry, if the upstream sent them.
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
    """The upstream rejected the request; the same request would be rejected again."""

    code = "bad_request"


class ModelRefused(RequestRefused):
    """The upstream does not offer the model, or no longer does."""

    code = "model_refused"


class SizeRefused(RequestRefused):
    """The upstream does not support this size for this model."""

    code = "size_refused"


class TokenRefused(UpstreamError):
    """The token is invalid, expired, or belongs to another service."""

    code = "invalid_token"


class BalanceUsedUp(UpstreamError):
    """The account has no balance left."""

    code = "used_up"


class RateLimited(UpstreamError):
    """Too many requests; `retry_after` is the time to wait, if the upstream sent one."""

    code = "too_many_requests"
    retryable = True


class TaskNotFound(UpstreamError):
    """The upstream has no such task for this token."""

    code = "not_found"


class UpstreamUnavailable(UpstreamError):
    """The upstream could not be reached, or failed for a request that is safe to repeat."""

    code = "unavailable"
    retryable = True


class SubmissionUncertain(UpstreamError):
    """A generation was sent and its response was lost. It is not retried, because it could be billed twice."""

    code = "submission_uncertain"


class UnreadableReply(UpstreamError):
    """The response has no documented form, such as a proxy's HTML page or broken JSON."""

    code = "unreadable_reply"
