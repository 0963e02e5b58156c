"""The sandbox's errors: the refusals of production, and errors that words in a prompt cause.

The words cause the upstream's documented errors, and errors of a proxy. The refusals of production and their messages
are from public reports and Ark's references up to 2026-11.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Container
from typing import Any

from starlette.responses import HTMLResponse, JSONResponse, Response

from mcp_seedream.catalog import dimensions
from mcp_seedream.catalog.table import Model, ModelTable

REFUSALS: dict[str, tuple[int, str, str]] = {
    "content_refused": (400, "bad_request", "The request failed because the prompt may contain sensitive information."),
    "disabled": (400, "disabled", "Your application has been disabled due to abnormal usage behavior."),
    "token_mismatched": (400, "token_mismatched", "The specified token is not matched with API."),
    "model_invalid": (400, "bad_request", "model is invalid."),
    "invalid_token": (401, "invalid_token", "The specified token is invalid or wrong."),
    "token_expired": (401, "token_expired", "token expired."),
    "used_up": (403, "used_up", "Your balance is not sufficient for current request."),
    "no_api": (404, "no_api", "API does not exist, please make sure url is correct."),
    "too_large": (413, "request_too_large", "Request body is too large."),
    "rate_limited": (429, "too_many_requests", "You have exceeded the rate limit."),
    "server_error": (500, "api_error", "Internal server error."),
    "unavailable": (503, "api_error", "Service temporarily unavailable."),
    "fetch_failed": (200, "api_error", "fetch failed"),
}
"""Prompt words that refuse a request: status, code, message. 200 is a failure with a status of success."""

WORDS = {
    **{word: f"{status} `{code}`: {message}" for word, (status, code, message) in REFUSALS.items()},
    "html": "502 with an HTML page, as from a proxy",
    "not_json": "200 with incomplete JSON",
    "slow=90": "each picture takes 90 s",
    "hang=5": "the response to the request itself is 5 s late",
    "failed": "the task is accepted, and ends without a picture",
    "refuse_in_task": "a model or size is refused inside the accepted task, not in the response",
    "partial": "the last image of a set fails",
    "empty": "the task ends with an empty list",
    "cut": "a streamed response breaks off after its first image",
    "shape=2": "look-ups have the second documented shape (or 1, the usual one, or 3)",
}
"""Every word that can be used, as `[sandbox:word]`, and its effect."""

TOKENS = {"invalid": "invalid_token", "used_up": "used_up"}
"""Tokens that the sandbox refuses, and the refusal of each."""

_WORD = re.compile(r"\[sandbox:([a-z_0-9]+)(?:=([0-9]+(?:[.][0-9]+)?))?\]")


def words_in(prompt: str) -> dict[str, float]:
    """The words of a prompt with their numbers, 1 by default."""
    return {word: float(value or 1) for word, value in _WORD.findall(prompt)}


def unauthorised(token: str, revoked: Container[str] = ()) -> Response | None:
    """The response to a request without a token, or with a refused one; None for other requests."""
    if not token:
        return error(400, "no_token", "No token specified for the request.")
    if refusal := REFUSALS.get("invalid_token" if token in revoked else TOKENS.get(token, "")):
        return error(*refusal)
    return None


def requested_failure(words: dict[str, float]) -> Response | None:
    """The failed response to the request itself that a prompt word causes, if any."""
    if "html" in words:
        return HTMLResponse("<html><h1>502 Bad Gateway</h1></html>", status_code=502)
    if "not_json" in words:
        return Response('{"success": true, "task_i', media_type="application/json")
    for word, (status, code, message) in REFUSALS.items():
        if word in words:
            wait = {"Retry-After": f"{words[word] + 2:.0f}"} if status in (429, 503) else None
            return error(status, code, message, wait)
    return None


def production_refusal(table: ModelTable, model_id: str, size: str | None) -> str | None:
    """The message with which production refuses a model or size of the vendor's page; None if it accepts both."""
    model = table.by_id.get(model_id)
    if model is None or model.withdrawn:
        return REFUSALS["model_invalid"][2]
    if size in model.refused_sizes:
        return _size_refusal(model)
    sides = dimensions.pixels(size or "")
    if sides is None or model.pixels is None:
        return None
    low, high = model.pixels
    area = sides[0] * sides[1]
    if area < low:
        return f"image size must be at least {low} pixels"
    if area > high:
        return f"image size must be at most {high} pixels"
    if any(side % model.side_multiple for side in sides):
        return f"image size is invalid: width and height must be multiples of {model.side_multiple}"
    return None


def _size_refusal(model: Model) -> str:
    """The refusal of a named size. For models with few sizes, such as 4.5, it does not list them."""
    if len(model.sizes) < 3:
        return "the specified size is not supported for model"
    *names, last = [f"'{name}'" for name in ("WIDTHxHEIGHT", *map(str.lower, model.sizes))]
    return f"size must be one of {', '.join(names)}, or {last}"


def error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """A response with a documented error body, and `success: false` if the status is one of success."""
    body: dict[str, Any] = {"error": {"code": code, "message": message}, "trace_id": str(uuid.uuid4())}
    return JSONResponse({"success": False, **body} if status < 300 else body, status, headers)
