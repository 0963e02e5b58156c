"""Authenticated encryption for JSON that clients hold: tokens, codes, client ids, transactions.

A sealed text is bound to its kind and to the endpoint: both are authenticated data, so that an access token opens as
an access token only, and at its own endpoint only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
from collections.abc import Sequence
from typing import Any, Literal, get_args

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Kind = Literal["access", "refresh", "code", "client", "consent", "form", "away", "record"]
"""Tokens, codes, client ids; transactions: before consent, in a form bound to a browser, and during sign-in at the
vendor ("away"); records in a store."""
PREFIX = "sdm_"
"""Every sealed text starts with this and its kind, for people who read it."""
_NONCE = 12
_VERSION = 1  # of the format; texts of another version do not open


class Sealer:
    """Encrypts with the first secret and decrypts with any, so that secrets can be rotated.

    While replicas are updated one by one, each must be able to decrypt with a new secret before one encrypts with it:
    first `OLD,NEW` at all of them, then `NEW,OLD`, then `NEW`.

    Args:
        secrets: Strings of at least 32 characters; AES-256 keys are derived from them (HKDF with SHA-256).
        audience: The endpoint that sealed texts are for.
    """

    def __init__(self, secrets: Sequence[str], audience: str) -> None:
        self._ciphers = [AESGCM(_derived(secret, b"mcp-seedream sealing")) for secret in secrets]
        self._nonce_key = _derived(secrets[0], b"mcp-seedream nonces")
        self._audience = audience

    def seal(self, kind: Kind, value: Any, *, repeatable: bool = False) -> str:
        """Encrypt a JSON value to a string of letters, digits, `-` and `_`.

        Args:
            kind: What the text is.
            value: The value.
            repeatable: Whether the same value gives the same text. The nonce is then a keyed hash of the value, so that
                no two values share one (as in RFC 5297).
        """
        plain = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        data = self._authenticated_data(kind)
        nonce = (
            hmac.digest(self._nonce_key, data + b"\0" + plain, "sha256")[:_NONCE] if repeatable else os.urandom(_NONCE)
        )
        sealed = nonce + self._ciphers[0].encrypt(nonce, plain, data)
        return f"{PREFIX}{kind}_{base64.urlsafe_b64encode(sealed).decode().rstrip('=')}"

    def open(self, kind: Kind, text: str) -> Any:
        """Decrypt a sealed text; None if it was changed, or is of another kind, endpoint, or a removed secret."""
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
                plain = cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], self._authenticated_data(kind))
            except (InvalidTag, ValueError):  # ValueError: too short for a nonce
                continue
            return json.loads(plain)
        return None

    def _authenticated_data(self, kind: Kind) -> bytes:
        return f"{_VERSION} {kind} {self._audience}".encode()


def is_sealed(text: str) -> bool:
    """Whether a text begins like a sealed text, so that it is not an API key."""
    return text.startswith(PREFIX)


def has_sealed(text: str) -> bool:
    """Whether a text contains a sealed one, in any quotes or case."""
    return any(f"{PREFIX}{kind}_" in text.lower() for kind in get_args(Kind)) or is_sealed(text)


def key_id(secret: str) -> str:
    """A short hash of a secret, to compare settings with: 8 hexadecimal digits.

    It reveals no more than a sealed text does, with which anybody could check guesses.
    """
    return _derived(secret, b"mcp-seedream key id")[:4].hex()


def rotation_state(secrets: Sequence[str]) -> str:
    """Which of the secrets seals, and which only open, for people."""
    sealing, *others = map(key_id, secrets)
    rest = f"{', '.join(others)} only decrypt{'s' if len(others) == 1 else ''}" if others else "there is no other"
    return f"seal key {sealing} encrypts; {rest}"


def fingerprint(text: str) -> str:
    """A hash of a text that is long or should not be stored: 22 characters."""
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()[:16]).decode().rstrip("=")


def _derived(secret: str, purpose: bytes) -> bytes:
    return HKDF(SHA256(), length=32, salt=None, info=purpose).derive(secret.encode())
