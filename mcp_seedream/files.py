"""Pictures as files and as text: what an `image` argument may be, and names for what is saved."""

from __future__ import annotations

import base64
import binascii
import re
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

from mcp_seedream.errors import InvalidArguments

_DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)
_SIGNATURES = {
    b"\xff\xd8\xff": ("image/jpeg", ".jpg"),
    b"\x89PNG\r\n\x1a\n": ("image/png", ".png"),
    b"RIFF": ("image/webp", ".webp"),
    b"BM": ("image/bmp", ".bmp"),
    b"II*\x00": ("image/tiff", ".tiff"),
    b"MM\x00*": ("image/tiff", ".tiff"),
    b"GIF8": ("image/gif", ".gif"),
}


def kind(data: bytes) -> tuple[str, str] | None:
    """MIME type and file ending of a picture, by its first bytes; None: it is not a picture of a known kind."""
    return next((kind for signature, kind in _SIGNATURES.items() if data.startswith(signature)), None)


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
        data = base64.b64decode(re.sub(r"\s+", "", payload), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if kind(data) is None:
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
    return f"data:{found[0]};base64,{base64.b64encode(data).decode()}"


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
    ending = (kind(data) or ("", ".bin"))[1]
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
