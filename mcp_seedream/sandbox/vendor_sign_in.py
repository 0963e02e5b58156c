"""The vendor's sign-in in the sandbox: its only user is always signed in and always consents.

It consists of the authorization server (`/oauth2/…`: the code flow with PKCE) and the API for the user's applications
and credentials (`/api/v1/…`). The sandbox accepts the token of a credential as an API key.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

CLIENT_ID = "sandbox"
"""The only registered client."""
_USER = "a-person"
_SECONDS = 120


@dataclass
class Accounts:
    """The vendor's state.

    Args:
        fault: An error, for tests: `denied` on the sign-in page; `refused`, `html`, `slow`, `empty` or `odd` instead
            of a token.
        applications: The ids of the applications.
        credentials: The credentials, each with id, application_id, name and token.
    """

    fault: str = ""
    applications: list[str] = field(default_factory=list)
    credentials: list[dict[str, str]] = field(default_factory=list)
    codes: dict[str, tuple[str, str, float]] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)

    def routes(self) -> list[Route]:
        return [
            Route("/oauth2/authorize", self._authorize),
            Route("/oauth2/token", self._token, methods=["POST"]),
            Route("/api/v1/applications/", self._applications, methods=["GET", "POST"]),
            Route("/api/v1/credentials/", self._credentials, methods=["GET", "POST"]),
        ]

    async def _authorize(self, request: Request) -> Response:
        query = request.query_params
        redirect_uri, challenge = query.get("redirect_uri", ""), query.get("code_challenge", "")
        if query.get("client_id") != CLIENT_ID or not redirect_uri.startswith(("http://", "https://")):
            return HTMLResponse("<p>No such client.</p>", 400)
        if query.get("response_type") != "code" or query.get("code_challenge_method") != "S256" or not challenge:
            answer = {"error": "invalid_request"}
        elif self.fault == "denied":
            answer = {"error": "access_denied"}
        else:
            answer = {"code": secrets.token_urlsafe(24)}
            self.codes[answer["code"]] = (redirect_uri, challenge, time.time() + _SECONDS)
        answer["state"] = query.get("state", "")
        return RedirectResponse(f"{redirect_uri}{'&' if '?' in redirect_uri else '?'}{urlencode(answer)}", 302)

    async def _token(self, request: Request) -> Response:
        if answer := await self._forced_error():
            return answer
        form = await request.form()
        redirect_uri, challenge, until = self.codes.pop(str(form.get("code")), ("", "", 0.0))
        proof = hashlib.sha256(str(form.get("code_verifier")).encode()).digest()
        if (
            form.get("grant_type") != "authorization_code"
            or form.get("client_id") != CLIENT_ID
            or form.get("redirect_uri") != redirect_uri
            or _base64url(proof) != challenge
            or until < time.time()
        ):
            return JSONResponse({"error": "invalid_grant"}, 400)
        header, claims = _base64url(b'{"alg":"none"}'), _base64url(json.dumps({"user_id": _USER}).encode())
        token = f"{header}.{claims}.{secrets.token_urlsafe(24)}"
        self.tokens.add(token)
        return JSONResponse({"access_token": token, "token_type": "Bearer", "refresh_token": secrets.token_urlsafe(24)})

    async def _applications(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        if request.method == "GET":
            user = request.query_params.get("user_id", _USER)
            return JSONResponse({"items": [{"id": id_} for id_ in self.applications if user == _USER]})
        body = await _body(request)
        if (body.get("type"), body.get("scope")) != ("Usage", "Global"):
            return JSONResponse({"error": {"code": "bad_request"}}, 400)
        self.applications.append(secrets.token_hex(8))
        return JSONResponse({"id": self.applications[-1]}, 201)

    async def _credentials(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        values = request.query_params if request.method == "GET" else await _body(request)
        fields = {name: str(values.get(name)) for name in ("application_id", "name")}
        if fields["application_id"] not in self.applications:
            return JSONResponse({"error": {"code": "not_found"}}, 404)
        if request.method == "GET":
            return JSONResponse({"items": [each for each in self.credentials if fields.items() <= each.items()]})
        self.credentials.append({"id": secrets.token_hex(8), "token": f"sandbox-{secrets.token_hex(16)}", **fields})
        return JSONResponse(self.credentials[-1], 201)

    def _refusal(self, request: Request) -> Response | None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        return None if token in self.tokens else JSONResponse({"error": {"code": "invalid_token"}}, 401)

    async def _forced_error(self) -> Response | None:
        if self.fault == "slow":
            await asyncio.sleep(5)
        answers: dict[str, Response] = {
            "refused": JSONResponse({"error": "invalid_grant"}, 400),
            "html": HTMLResponse("<p>Bad gateway</p>", 502),
            "empty": Response(),
            "odd": JSONResponse({"access_token": {"a": ["\u0000"]}}),
        }
        return answers.get(self.fault)


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
