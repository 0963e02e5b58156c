"""What leaves this server and must come back unread and unchanged: JSON under authenticated encryption.

A sealed text is bound to what it is (its kind) and to the endpoint it was made for: both are part of what is
authenticated, so an access token opens as nothing but an access token, here and nowhere else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any, Literal, get_args

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Kind = Literal["access", "refresh", "code", "client", "consent", "form", "away", "record"]
"""Tokens, codes, client ids; a transaction before consent, bound to a browser, and while its person is at the vendor's;
what goes into a store."""
PREFIX = "sdm_"
"""What every sealed text starts with; the kind that follows is for people who read it."""
_NONCE = 12
_FORM = 1  # counts on when what is sealed changes its form: what is older is then not understood, and opens as nothing


class Sealer:
    """Seals with the first secret, opens with each: a new secret is put first, and an old one left in for a while.

    Args:
        secrets: Texts of at least 32 characters; AES-256 keys are derived from them (HKDF with SHA-256).
        audience: The endpoint that what is sealed is for.
    """

    def __init__(self, secrets: Sequence[str], audience: str) -> None:
        self._ciphers = [AESGCM(_derived(secret)) for secret in secrets]
        self._audience = audience

    def seal(self, kind: Kind, value: Any) -> str:
        """Any JSON as a text of letters, digits, `-` and `_`."""
        nonce = os.urandom(_NONCE)
        plain = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        sealed = nonce + self._ciphers[0].encrypt(nonce, plain, self._bound_to(kind))
        return f"{PREFIX}{kind}_{base64.urlsafe_b64encode(sealed).decode().rstrip('=')}"

    def open(self, kind: Kind, text: str) -> Any:
        """What was sealed; None for anything else: tampered, of another kind or endpoint, under a removed secret."""
        start = f"{PREFIX}{kind}_"
        if not text.startswith(start) or not text.isascii():
            return None
        coded = text[len(start) :]
        try:
            sealed = base64.b64decode(coded + "=" * (-len(coded) % 4), altchars=b"-_", validate=True)
        except binascii.Error:
            return None
        for cipher in self._ciphers:
            try:
                plain = cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], self._bound_to(kind))
            except (InvalidTag, ValueError):  # too short for a nonce
                continue
            return json.loads(plain)
        return None

    def _bound_to(self, kind: Kind) -> bytes:
        return f"{_FORM} {kind} {self._audience}".encode()


def is_sealed(text: str) -> bool:
    """It was made by a server like this one, or says so: never somebody's API key."""
    return text.startswith(PREFIX)


def has_sealed(text: str) -> bool:
    """Something sealed is in it, in whatever quotes or case."""
    return any(f"{PREFIX}{kind}_" in text.lower() for kind in get_args(Kind)) or is_sealed(text)


def fingerprint(text: str) -> str:
    """Stands for a text that is long, or should not be kept: 22 characters, the same for the same text."""
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()[:16]).decode().rstrip("=")


def _derived(secret: str) -> bytes:
    return HKDF(SHA256(), length=32, salt=None, info=b"mcp-seedream sealing").derive(secret.encode())
