"""Pictures as files and as text: what an `image` argument may be, and names for what is saved."""

from __future__ import annotations

import base64
import binascii
import re
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

from mcp_seedream.errors import InvalidArguments

_DATA_URI = re.compile(r"data:image/[\w.+-]+(;[\w.+-]+=[\w.+-]+)*;base64,", re.IGNORECASE)
_WEB = re.compile(r"https?://", re.IGNORECASE)
_ENDINGS = {"jpeg": ".jpg"}
_SIGNATURES = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"GIF8": "gif",
}


def kind(data: bytes) -> str | None:
    """The kind of a picture by its first 16 bytes: jpeg, png, webp, bmp, tiff, gif; None: it is none of these."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith(b"BM") and data[6:10] == bytes(4):  # two reserved words, zero
        return "bmp"
    return next((kind for signature, kind in _SIGNATURES.items() if data.startswith(signature)), None)


def kind_of(reference: str) -> str | None:
    """The kind of an input picture that is given as data; None for a link."""
    payload = _DATA_URI.sub("", reference[:200])
    return None if _WEB.match(reference) else kind(_decoded(payload[:64]) or b"")


def checked_reference(text: str, *, position: int, max_bytes: int) -> str:
    """One input picture in a form the upstream takes: an http(s) URL, a data URI or base64.

    Args:
        text: What the caller gave; blanks, line breaks and missing padding of base64 are mended.
        position: Its place in the list, from 1, for the error.
        max_bytes: Limit of a decoded picture, in bytes (the upstream's, from the table).

    Raises:
        InvalidArguments: It is none of the three, is too large, or is not a picture
            (jpeg, png, webp, bmp, tiff, gif, told by its first bytes).
    """
    text = text.strip()
    where = f"`image` number {position}"
    if _WEB.match(text):
        if not _has_host(text):
            raise InvalidArguments(f"{where} is not a complete URL: {_shortened(text)}.")
        return text
    prefix = match[0] if (match := _DATA_URI.match(text)) else ""
    payload = "".join(text[len(prefix) :].split())
    payload += "=" * (-len(payload) % 4)
    data = _decoded(payload)
    if data is None or kind(data) is None:
        raise InvalidArguments(
            f"{where} is not a picture the upstream can read: {_shortened(text)}. Give an http(s) URL, "
            "a data URI (data:image/png;base64,...) or base64 of a jpeg, png, webp, bmp, tiff or gif."
        )
    if len(data) > max_bytes:
        raise InvalidArguments(f"{where} is larger than {max_bytes // 2**20} MB: give a smaller picture, or a URL.")
    return prefix + payload


def _decoded(payload: str) -> bytes | None:
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        return None


def _has_host(url: str) -> bool:
    try:
        return bool(urlsplit(url).hostname)
    except ValueError:
        return False


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:40]}... ({len(text):,} characters)")


def data_uri(path: Path) -> str:
    """A picture file as a data URI.

    Raises:
        InvalidArguments: It can't be read, or is not a picture.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidArguments(f"{path} can't be read: {error.strerror}.") from error
    found = kind(data)
    if found is None:
        raise InvalidArguments(f"{path} is not a jpeg, png, webp, bmp, tiff or gif.")
    return f"data:image/{found};base64,{base64.b64encode(data).decode()}"


def save(data: bytes, folder: Path, name: str) -> Path:
    """Write a picture into a folder, under a readable name that no file has yet; the absolute path.

    Args:
        data: The file's bytes; they decide its ending.
        folder: Made if it is missing.
        name: Any text; what a file name can't hold is left out.

    Raises:
        OSError: The folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = kind(data) or "bin"
    ending = _ENDINGS.get(found, f".{found}")
    stem = "-".join(re.findall(r"\w+", name.lower()))[:60].strip("-") or "picture"
    for number in count(1):
        path = folder / f"{stem}{'' if number == 1 else f'-{number}'}{ending}"
        try:
            with path.open("xb") as file:
                file.write(data)
        except FileExistsError:
            continue
        return path.resolve()
    raise AssertionError("unreachable")
