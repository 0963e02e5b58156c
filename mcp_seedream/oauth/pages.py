"""The HTML page of sign-in, in its two forms: with the consent form, or with an error."""

from __future__ import annotations

import re
from html import escape
from importlib.resources import files
from string import Template
from urllib.parse import parse_qs, urlsplit

from starlette.responses import HTMLResponse, RedirectResponse, Response

from mcp_seedream.oauth.registrations import APP_SCHEMES


def consent_page(form_action: str, status: int, **values: str) -> Response:
    """The page with the form.

    Args:
        form_action: Origins to which the form may lead, for the page's content security policy.
        status: The HTTP status.
        values: The values of the template's variables. The parts of `problem`, `vendor`, `source` and `local` are
            hidden if they are empty.
    """
    return HTMLResponse(_render(title="Connect to Seedream", **values), status, _headers(f"'self' {form_action}"))


def error_page(message: str, status: int) -> Response:
    headers = _headers("'none'") | ({"Retry-After": "5"} if status == 503 else {})
    return HTMLResponse(_render(title="Sign-in failed", problem=message), status, headers)


def refusal_page(back: str) -> Response:
    """The page for a request that is refused before the person's consent, with a link to the client.

    A redirect would make this server an open redirector, since any client can register any URI (RFC 9700, 4.11.2).

    Args:
        back: The redirect URI with the error.
    """
    query = parse_qs(urlsplit(back).query)
    error, description = (query.get(name, [""])[-1] for name in ("error", "error_description"))
    problem = f"The request of the application is not valid: {description or 'no description'} ({error})."
    page = _render(title="Sign-in failed", problem=problem, back=back, host=display_host(back))
    return HTMLResponse(page, 400, _headers("'none'"))


def redirect(url: str) -> Response:
    return RedirectResponse(url, 303, {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})


def display_host(uri: str) -> str:
    """The host of a redirect URI, or the name of the desktop app to which it leads."""
    parts = urlsplit(uri)
    return f"the app {parts.scheme}" if parts.scheme in APP_SCHEMES else parts.netloc


def _render(**values: str) -> str:
    template = files("mcp_seedream.oauth").joinpath("consent.html").read_text("utf-8")
    for block in ("form", "back"):
        if block not in values:
            template = re.sub(rf"<!-- {block} -->.*<!-- end {block} -->", "", template, flags=re.DOTALL)
    hidden = {f"no_{name}": "" if values.get(name) else "hidden" for name in ("problem", "vendor", "source", "local")}
    return Template(template).substitute({name: escape(value) for name, value in values.items()} | hidden)


def _headers(form_action: str) -> dict[str, str]:
    policy = f"default-src 'none'; style-src 'unsafe-inline'; form-action {form_action}; "
    return {
        "Content-Security-Policy": f"{policy}base-uri 'none'; frame-ancestors 'none'",
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
