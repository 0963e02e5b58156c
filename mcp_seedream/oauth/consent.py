"""The consent page, the redirect to the vendor's sign-in, and the callback from it.

A transaction (the client and its request) is encrypted in the page's address. Its form is bound to the browser by a
cookie, which prevents cross-site request forgery: a form, or the redirect to the vendor, only works in a browser that
was shown the page. While a person signs in at the vendor, the transaction is encrypted in a second cookie, one in each
browser. The server stores nothing before it has a key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlencode, urlsplit

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_seedream.core.credentials import KeyCheck, placeholder_reason
from mcp_seedream.core.errors import TOKEN_PAGE, SeedreamError, SignInFailed, StoreUnavailable
from mcp_seedream.oauth.pages import consent_page, display_host, error_page, redirect
from mcp_seedream.oauth.registrations import APP_SCHEMES, is_loopback
from mcp_seedream.oauth.sealing import Sealer, fingerprint, has_sealed
from mcp_seedream.oauth.transactions import PATH, SECONDS, Transaction, consent_address, valid_transaction
from mcp_seedream.oauth.vendor import Vendor

CALLBACK = "/oauth/callback"
_VENDOR_PATH = f"{PATH}/vendor"
_BROWSER_COOKIE, _AWAY_COOKIE = "sdm_browser", "sdm_away"
_BROWSER_ID = re.compile(r"[\w-]{22}", re.ASCII)
_MAX_KEY_LENGTH = 512
_KEY = re.compile(rf"[\x21-\x7e]{{1,{_MAX_KEY_LENGTH}}}")
_PROBLEMS = {
    "key_refused": "AceDataCloud does not know this API key. Check that all of it was copied.",
    "key_sealed": "This is a token of this server. Paste an AceDataCloud API key.",
    "key_placeholder": "This is a placeholder for an API key. Paste the key itself.",
    "key_unchecked": "The key could not be checked. Try again in a moment.",
    "vendor_failed": "The sign-in at AceDataCloud failed. Try again, or use an API key.",
    "vendor_slow": "AceDataCloud took too long to answer. Try again, or use an API key.",
    "vendor_refused": "AceDataCloud did not accept the sign-in. Try again, or use an API key.",
    "vendor_denied": "The sign-in at AceDataCloud was cancelled. Try again, or use an API key.",
}
_EXPIRED = "This page has expired, or its address is incomplete. Go back to the application and connect again."
_OTHER_BROWSER = (
    "This page was opened in another browser, or cookies are off. Go back to the application and connect again."
)
_DOWN = "Sign-in is not available. Go back to the application and try again in a moment."
_log = logging.getLogger(__name__)


class Consent:
    """The routes of the consent page and of the vendor's sign-in.

    Args:
        sealer: Encrypts transactions, forms and cookies.
        issuer: This server's origin.
        check_key: Checks a pasted key; raises `SeedreamError` if it cannot.
        issue_code: Returns a code for a transaction and the person's key.
        vendor: The vendor's sign-in; None if people can only paste a key.
    """

    def __init__(
        self,
        sealer: Sealer,
        issuer: str,
        *,
        check_key: KeyCheck,
        issue_code: Callable[[Transaction, str], Awaitable[str]],
        vendor: Vendor | None,
    ) -> None:
        self._sealer, self._issuer = sealer, issuer
        self._check_key, self._issue_code, self._vendor = check_key, issue_code, vendor
        self._secure = issuer.startswith("https://")
        self._browser_cookie, self._away_cookie = (
            f"__Host-{name}" if self._secure else name for name in (_BROWSER_COOKIE, _AWAY_COOKIE)
        )

    def routes(self) -> list[Route]:
        routes = [
            Route(PATH, self._guarded(self._show), methods=["GET"]),
            Route(PATH, self._guarded(self._submit), methods=["POST"]),
        ]
        if self._vendor:
            routes.append(Route(_VENDOR_PATH, self._guarded(self._redirect_to_vendor), methods=["GET"]))
            routes.append(Route(CALLBACK, self._guarded(self._callback), methods=["GET"]))
        return routes

    async def _show(self, request: Request) -> Response:
        transaction = valid_transaction(self._sealer.open("consent", request.query_params.get("transaction", "")))
        if transaction is None:
            return error_page(_EXPIRED, 400)
        return self._page(request, transaction, request.query_params.get("problem"))

    async def _submit(self, request: Request) -> Response:
        if not self._is_same_origin(request):
            return error_page(_OTHER_BROWSER, 403)
        form = await read_form(request)
        if form is None:
            return error_page(_EXPIRED, 400)
        transaction, failure_page = self._bound_transaction(request, form.get("form"))
        if transaction is None:
            return failure_page
        if form.get("action") == "cancel":
            message = "The person did not allow access."
            return self._redirect_to_client(transaction, error="access_denied", error_description=message)
        key = _clean_key(form.get("key"))
        if has_sealed(key):
            return self._page(request, transaction, "key_sealed", 400)
        if len(key) <= _MAX_KEY_LENGTH and placeholder_reason(key):
            return self._page(request, transaction, "key_placeholder", 400)
        if not _KEY.fullmatch(key):
            return self._page(request, transaction, "key_refused", 400)
        try:
            is_valid = await self._check_key(key)
        except SeedreamError as error:
            _log.warning("sign-in: a key could not be checked (%s)", error.code)
            return self._page(request, transaction, "key_unchecked", 503)
        if not is_valid:
            return self._page(request, transaction, "key_refused", 400)
        return self._redirect_to_client(transaction, code=await self._issue_code(transaction, key))

    async def _redirect_to_vendor(self, request: Request) -> Response:
        """Redirect to the vendor, from a page that this browser was shown."""
        transaction, failure_page = self._bound_transaction(request, request.query_params.get("form"))
        if transaction is None or self._vendor is None:
            return failure_page
        state, verifier = secrets.token_urlsafe(24), secrets.token_urlsafe(48)
        away = {"t": transaction.fields(), "b": fingerprint(self._browser(request)), "v": verifier, "s": state}
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        response = redirect(self._vendor.address(state, challenge))
        self._set_cookie(response, self._away_cookie, self._sealer.seal("away", away))
        return response

    async def _callback(self, request: Request) -> Response:
        """The redirect back from the vendor. If a browser was redirected there twice, only the second time counts."""
        away = self._sealer.open("away", request.cookies.get(self._away_cookie, ""))
        if not away or not hmac.compare_digest(away["b"], fingerprint(self._browser(request))):
            return error_page(_OTHER_BROWSER, 403)
        transaction = valid_transaction(away["t"])
        if transaction is None or not hmac.compare_digest(
            fingerprint(away["s"]), fingerprint(request.query_params.get("state", ""))
        ):
            return error_page(_EXPIRED, 400)
        response = await self._vendor_response(transaction, request, away["v"])
        self._set_cookie(response, self._away_cookie, "", 0)
        return response

    async def _vendor_response(self, transaction: Transaction, request: Request, verifier: str) -> Response:
        """Exchange the vendor's code for one for the client; after a failure, show the consent page again."""
        code = request.query_params.get("code")
        if not code or self._vendor is None:
            denied = request.query_params.get("error") == "access_denied"
            problem = "vendor_denied" if denied else "vendor_failed"
            return redirect(consent_address(self._sealer, self._issuer, transaction, problem))
        try:
            key = await self._vendor.key(code, verifier)
        except SignInFailed as failure:
            _log.warning("sign-in at the vendor failed: %s", failure.message)
            return redirect(consent_address(self._sealer, self._issuer, transaction, failure.code))
        return self._redirect_to_client(transaction, code=await self._issue_code(transaction, key))

    def _bound_transaction(self, request: Request, form: Any) -> tuple[Transaction | None, Response]:
        """The transaction of a form that this browser was shown, or None and an error page."""
        opened = self._sealer.open("form", form) if isinstance(form, str) else None
        if opened is None or (transaction := valid_transaction(opened["t"])) is None:
            return None, error_page(_EXPIRED, 400)
        if not hmac.compare_digest(opened["b"], fingerprint(self._browser(request))):
            return None, error_page(_OTHER_BROWSER, 403)
        return transaction, Response()

    def _is_same_origin(self, request: Request) -> bool:
        """Whether a form comes from this page. With our referrer policy, browsers may send the origin `null`."""
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
        return origin in (None, "null", self._issuer) and site in (None, "same-origin")

    def _browser(self, request: Request) -> str:
        value = request.cookies.get(self._browser_cookie, "")
        return value if _BROWSER_ID.fullmatch(value) else ""

    def _page(
        self, request: Request, transaction: Transaction, problem: str | None = None, status: int = 200
    ) -> Response:
        browser = self._browser(request) or secrets.token_urlsafe(16)
        form = self._sealer.seal("form", {"t": transaction.fields(), "b": fingerprint(browser)})
        parts = urlsplit(transaction.redirect_uri)
        # A policy cannot contain IPv6 addresses, nor the hosts of app schemes: these allow the whole scheme.
        scheme_only = parts.scheme in APP_SCHEMES or "[" in parts.netloc
        response = consent_page(
            f"{parts.scheme}:" if scheme_only else f"{parts.scheme}://{parts.netloc}",
            status,
            problem=_PROBLEMS.get(problem or "", ""),
            client=transaction.name or "(no name)",
            host=display_host(transaction.redirect_uri),
            source=transaction.client_host or "",
            local="yes" if is_loopback(transaction.redirect_uri) else "",
            form=form,
            vendor=f"{_VENDOR_PATH}?{urlencode({'form': form})}" if self._vendor else "",
            endpoint=urlsplit(self._issuer).netloc,
            keys=TOKEN_PAGE,
        )
        self._set_cookie(response, self._browser_cookie, browser)
        return response

    def _set_cookie(self, response: Response, cookie: str, value: str, seconds: int = SECONDS) -> None:
        response.set_cookie(
            cookie, value, max_age=seconds, path="/", secure=self._secure, httponly=True, samesite="lax"
        )

    def _redirect_to_client(self, transaction: Transaction, **values: str) -> Response:
        return redirect(transaction.response_uri(self._issuer, **values))

    def _guarded(self, handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            try:
                return await handler(request)
            except StoreUnavailable as error:
                _log.warning("sign-in: %s", error.message)
                return error_page(_DOWN, 503)

        return respond


async def read_form(request: Request) -> FormData | None:
    """The form, without files; None if it cannot be read or encoded again."""
    try:
        form = await request.form(max_files=0, max_fields=50)
        urlencode(form.multi_items())
    except (HTTPException, MultiPartException, ValueError):
        return None
    return form


def _clean_key(key: Any) -> str:
    """A pasted key without whitespace, quotes, or the word `Bearer`."""
    return key.strip().strip("\"'").removeprefix("Bearer ").strip() if isinstance(key, str) else ""
