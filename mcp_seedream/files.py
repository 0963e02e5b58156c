"""Pictures as they come in: what an `image` argument may be."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import urlsplit

from mcp_seedream.errors import InvalidArguments

_DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)
_SIGNATURES = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"RIFF",  # WebP
    b"BM",  # BMP
    b"II*\x00",  # TIFF, little-endian
    b"MM\x00*",  # TIFF, big-endian
    b"GIF8",
)


def checked_reference(text: str, *, position: int, max_bytes: int) -> str:
    """One input picture in a form the upstream takes: an http(s) URL, a data URI or base64.

    Args:
        text: What the caller gave.
        position: Its place in the list, from 1, for the error.
        max_bytes: Limit of a decoded picture, in bytes (the upstream's, from the table).

    Raises:
        InvalidArguments: It is none of the three, is too large, or is not a picture
            (jpeg, png, webp, bmp, tiff, gif, told by its first bytes).
    """
    text = text.strip()
    where = f"`image` number {position}"
    if re.match(r"https?://", text, re.IGNORECASE):
        if not _has_host(text):
            raise InvalidArguments(f"{where} is not a complete URL: {_shortened(text)}.")
        return text
    prefix = _DATA_URI.match(text)
    payload = text[prefix.end() :] if prefix else text
    if len(payload) * 3 // 4 > max_bytes + 3:
        raise InvalidArguments(f"{where} is larger than {max_bytes // 2**20} MB: give a smaller picture, or a URL.")
    try:
        start = base64.b64decode(re.sub(r"\s+", "", payload), validate=True)[:12]
    except (binascii.Error, ValueError):
        start = b""
    if not start.startswith(_SIGNATURES):
        raise InvalidArguments(
            f"{where} is not a picture the upstream can read: {_shortened(text)}. Give an http(s) URL, "
            "a data URI (data:image/png;base64,...) or base64 of a jpeg, png, webp, bmp, tiff or gif."
        )
    return text


def _has_host(url: str) -> bool:
    try:
        return bool(urlsplit(url).hostname)
    except ValueError:
        return False


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:40]}... ({len(text):,} characters)")
