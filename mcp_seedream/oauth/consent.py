"""Where a person says yes or no: the consent page, the vendor's sign-in that it leads to, and the way back.

A transaction (who asks, where the answer goes) travels sealed in the page's address. A form of it is bound to the
browser by a cookie, so that nobody can have a page submitted, or the vendor's sign-in gone through, that the person
in front of it has not seen. Who is at the vendor's is in a cookie too, sealed, one in a browser: nothing is stored for
anybody who has not shown a key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any
from urllib.parse import urlencode, urlsplit

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from mcp_seedream.core.credentials import KeyCheck, placeholder_reason
from mcp_seedream.core.errors import TOKEN_PAGE, SeedreamError, SignInFailed, StoreUnavailable
from mcp_seedream.oauth.registrations import APPS
from mcp_seedream.oauth.sealing import Sealer, fingerprint, has_sealed
from mcp_seedream.oauth.vendor import Vendor

PATH, CALLBACK = "/consent", "/oauth/callback"
_VENDOR_PATH = f"{PATH}/vendor"
_SECONDS = 1800  # somebody may have to make an account first
_COOKIE, _AWAY = "sdm_browser", "sdm_away"
_BROWSER = re.compile(r"[\w-]{22}", re.ASCII)
_LONGEST = 512
_KEY = re.compile(rf"[\x21-\x7e]{{1,{_LONGEST}}}")
_PROBLEMS = {
    "key_refused": "AceDataCloud does not know this API key. Check that all of it was copied.",
    "key_sealed": "This is not an API key, but a token of this server. An AceDataCloud API key is needed.",
    "key_placeholder": "This is only a placeholder for an API key. Paste the key itself.",
    "key_unchecked": "The key could not be checked just now. Try again in a moment.",
    "vendor_failed": "Signing in at AceDataCloud did not work. Try again, or use an API key.",
    "vendor_slow": "AceDataCloud took too long to answer. Try again, or use an API key.",
    "vendor_refused": "AceDataCloud did not accept the sign-in. Try again, or use an API key.",
    "vendor_denied": "You did not sign in at AceDataCloud. Try again, or use an API key.",
}
_EXPIRED = "This page has expired, or its address is not complete. Go back to the application and connect again."
_STRANGE = "This page was opened in another browser, or cookies are off. Go back to the application and connect again."
_DOWN = "Signing in does not work just now. Go back to the application and try again in a moment."
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Transaction:
    """What a client asked for.

    Args:
        client: The client's mark.
        name: What it calls itself.
        redirect_uri: Where the answer goes; one of its registered ones.
        explicit: Whether it named that itself.
        challenge: For PKCE, S256.
        state: The client's own, given back to it.
        until: Unix seconds.
    """

    client: str
    name: str | None
    redirect_uri: str
    explicit: bool
    challenge: str
    state: str | None
    until: int

    def answer(self, issuer: str, **values: str) -> str:
        """Where the person's browser takes the answer to."""
        told = {**values, **({} if self.state is None else {"state": self.state}), "iss": issuer}
        return f"{self.redirect_uri}{'&' if '?' in self.redirect_uri else '?'}{urlencode(told)}"


class Consent:
    """The pages, as routes.

    Args:
        sealer: Seals transactions, forms and cookies.
        issuer: This server's origin.
        check_key: Asked before a pasted key is accepted; a `SeedreamError` where that can't be told just now.
        grant: Makes a code for a transaction out of the person's key.
        vendor: Where people can sign in, if anywhere.
    """

    def __init__(
        self,
        sealer: Sealer,
        issuer: str,
        *,
        check_key: KeyCheck,
        grant: Callable[[Transaction, str], Awaitable[str]],
        vendor: Vendor | None,
    ) -> None:
        self._sealer, self._issuer = sealer, issuer
        self._check_key, self._grant, self._vendor = check_key, grant, vendor
        self._secure = issuer.startswith("https://")
        self._cookie, self._away = (f"__Host-{name}" if self._secure else name for name in (_COOKIE, _AWAY))

    def routes(self) -> list[Route]:
        routes = [
            Route(PATH, self._guarded(self._ask), methods=["GET"]),
            Route(PATH, self._guarded(self._decide), methods=["POST"]),
        ]
        if self._vendor:
            routes.append(Route(_VENDOR_PATH, self._guarded(self._leave), methods=["GET"]))
            routes.append(Route(CALLBACK, self._guarded(self._return), methods=["GET"]))
        return routes

    async def _ask(self, request: Request) -> Response:
        transaction = _unpacked(self._sealer.open("consent", request.query_params.get("transaction", "")))
        if transaction is None:
            return _sorry(_EXPIRED, 400)
        return self._page(request, transaction, request.query_params.get("problem"))

    async def _decide(self, request: Request) -> Response:
        if not self._from_here(request):
            return _sorry(_STRANGE, 403)
        form = await posted(request)
        if form is None:
            return _sorry(_EXPIRED, 400)
        transaction, refusal = self._bound(request, form.get("form"))
        if transaction is None:
            return refusal
        if form.get("action") == "cancel":
            words = "The person did not allow it."
            return self._back(transaction, error="access_denied", error_description=words)
        key = _bare(form.get("key"))
        if has_sealed(key):
            return self._page(request, transaction, "key_sealed", 400)
        if len(key) <= _LONGEST and placeholder_reason(key):
            return self._page(request, transaction, "key_placeholder", 400)
        if not _KEY.fullmatch(key):
            return self._page(request, transaction, "key_refused", 400)
        try:
            good = await self._check_key(key)
        except SeedreamError as error:
            _log.warning("sign-in: a key could not be checked (%s)", error.code)
            return self._page(request, transaction, "key_unchecked", 503)
        if not good:
            return self._page(request, transaction, "key_refused", 400)
        return self._back(transaction, code=await self._grant(transaction, key))

    async def _leave(self, request: Request) -> Response:
        """Off to the vendor: only from a page that this browser was shown."""
        transaction, refusal = self._bound(request, request.query_params.get("form"))
        if transaction is None or self._vendor is None:
            return refusal
        state, verifier = secrets.token_urlsafe(24), secrets.token_urlsafe(48)
        away = {"t": asdict(transaction), "b": fingerprint(self._browser(request)), "v": verifier, "s": state}
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        response = _redirect(self._vendor.address(state, challenge))
        self._give(response, self._away, self._sealer.seal("away", away))
        return response

    async def _return(self, request: Request) -> Response:
        """Back from the vendor, whose code is good once. In a browser that left twice, the second time counts."""
        away = self._sealer.open("away", request.cookies.get(self._away, ""))
        if not away or not hmac.compare_digest(away["b"], fingerprint(self._browser(request))):
            return _sorry(_STRANGE, 403)
        transaction = _unpacked(away["t"])
        if transaction is None or not hmac.compare_digest(
            fingerprint(away["s"]), fingerprint(request.query_params.get("state", ""))
        ):
            return _sorry(_EXPIRED, 400)
        response = await self._settled(transaction, request, away["v"])
        self._give(response, self._away, "", 0)
        return response

    async def _settled(self, transaction: Transaction, request: Request, verifier: str) -> Response:
        """A code for the client out of the vendor's; whatever went wrong there, the person is asked again."""
        code = request.query_params.get("code")
        if not code or self._vendor is None:
            denied = request.query_params.get("error") == "access_denied"
            problem = "vendor_denied" if denied else "vendor_failed"
            return _redirect(consent_address(self._sealer, self._issuer, transaction, problem))
        try:
            key = await self._vendor.key(code, verifier)
        except SignInFailed as failure:
            _log.warning("sign-in at the vendor failed: %s", failure.message)
            return _redirect(consent_address(self._sealer, self._issuer, transaction, failure.code))
        return self._back(transaction, code=await self._grant(transaction, key))

    def _bound(self, request: Request, form: Any) -> tuple[Transaction | None, Response]:
        """The transaction of a form that this browser was given, or what to answer."""
        opened = self._sealer.open("form", form) if isinstance(form, str) else None
        if opened is None or (transaction := _unpacked(opened["t"])) is None:
            return None, _sorry(_EXPIRED, 400)
        if not hmac.compare_digest(opened["b"], fingerprint(self._browser(request))):
            return None, _sorry(_STRANGE, 403)
        return transaction, Response()

    def _from_here(self, request: Request) -> bool:
        """A form of ours. Browsers that are told to send no referrer say `null` for an origin: the cookie decides."""
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
        return origin in (None, "null", self._issuer) and site in (None, "same-origin")

    def _browser(self, request: Request) -> str:
        value = request.cookies.get(self._cookie, "")
        return value if _BROWSER.fullmatch(value) else ""

    def _page(
        self, request: Request, transaction: Transaction, problem: str | None = None, status: int = 200
    ) -> Response:
        browser = self._browser(request) or secrets.token_urlsafe(16)
        form = self._sealer.seal("form", {"t": asdict(transaction), "b": fingerprint(browser)})
        parts = urlsplit(transaction.redirect_uri)
        page = _filled(
            title="Connect to Seedream",
            problem=_PROBLEMS.get(problem or "", ""),
            client=transaction.name or "(no name)",
            host=f"the app {parts.scheme}" if parts.scheme in APPS else parts.netloc,
            form=form,
            vendor=f"{_VENDOR_PATH}?{urlencode({'form': form})}" if self._vendor else "",
            endpoint=urlsplit(self._issuer).netloc,
            keys=TOKEN_PAGE,
        )
        # A policy has no way to write an IPv6 address, nor what apps have for a host.
        bare = parts.scheme in APPS or "[" in parts.netloc
        origin = f"{parts.scheme}:" if bare else f"{parts.scheme}://{parts.netloc}"
        response = HTMLResponse(page, status, _headers(f"'self' {origin}"))
        self._give(response, self._cookie, browser)
        return response

    def _give(self, response: Response, cookie: str, value: str, seconds: int = _SECONDS) -> None:
        response.set_cookie(
            cookie, value, max_age=seconds, path="/", secure=self._secure, httponly=True, samesite="lax"
        )

    def _back(self, transaction: Transaction, **values: str) -> Response:
        return _redirect(transaction.answer(self._issuer, **values))

    def _guarded(self, handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except StoreUnavailable as error:
                _log.warning("sign-in: %s", error.message)
                return _sorry(_DOWN, 503)

        return answer


async def posted(request: Request) -> FormData | None:
    """The form, without files; None if it can't be read, or what is in it can't be written again."""
    try:
        form = await request.form(max_files=0, max_fields=50)
        urlencode(form.multi_items())
    except (HTTPException, MultiPartException, ValueError):
        return None
    return form


def consent_address(sealer: Sealer, issuer: str, transaction: Transaction, problem: str | None = None) -> str:
    """The page that asks the person; `problem` is a word for why they are asked again."""
    query = {"transaction": sealer.seal("consent", asdict(transaction))}
    return f"{issuer}{PATH}?{urlencode(query | ({'problem': problem} if problem else {}))}"


def transaction_end() -> int:
    """When a transaction that begins now is over, in Unix seconds."""
    return int(time.time()) + _SECONDS


def _unpacked(found: Any) -> Transaction | None:
    """A transaction that is not over."""
    return Transaction(**found) if found and found["until"] > time.time() else None


def _bare(key: Any) -> str:
    """A key as people paste it: with quotes, blanks, or the word Bearer."""
    return key.strip().strip("\"'").removeprefix("Bearer ").strip() if isinstance(key, str) else ""


def _filled(**values: str) -> str:
    template = files("mcp_seedream.oauth").joinpath("consent.html").read_text("utf-8")
    if "form" not in values:
        template = re.sub(r"<!-- ask -->.*<!-- end -->", "", template, flags=re.DOTALL)
    hidden = {f"no_{name}": "" if values.get(name) else "hidden" for name in ("problem", "vendor")}
    return Template(template).substitute({name: escape(value) for name, value in values.items()} | hidden)


def _sorry(words: str, status: int) -> Response:
    headers = _headers("'none'") | ({"Retry-After": "5"} if status == 503 else {})
    return HTMLResponse(_filled(title="That did not work", problem=words), status, headers)


def _redirect(url: str) -> Response:
    return RedirectResponse(url, 303, {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})


def _headers(form_action: str) -> dict[str, str]:
    policy = f"default-src 'none'; style-src 'unsafe-inline'; form-action {form_action}; "
    return {
        "Content-Security-Policy": f"{policy}base-uri 'none'; frame-ancestors 'none'",
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
