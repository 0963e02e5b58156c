"""Pictures as files and as text: what an `image` entry may be, what may be read, and how results are saved."""

from __future__ import annotations

import base64
import binascii
import os
import re
import shutil
import stat
import unicodedata
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import BinaryIO, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mcp_seedream.errors import InvalidArguments
from mcp_seedream.paths import from_home, of_another_system

_DATA_URI = re.compile(r"data:image/[\w.+-]+(;[\w.+-]+=[\w.+-]+)*;base64,", re.IGNORECASE)
_WEB = re.compile(r"https?://", re.IGNORECASE)
_ENDINGS = {"jpeg": ".jpg"}
_PICTURE_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
_CHAT_FOLDERS = ("/mnt/user-data/", "/mnt/data/")  # of Claude's and ChatGPT's code sandboxes
_OPEN_FLAGS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
_MOST_INPUT = 200 * 2**20  # bytes of a file that is made smaller before it is sent
# Names that Windows keeps for devices, with any ending.
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}
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
            raise InvalidArguments(f"{where} is not a complete URL: {shortened(text)}. A blank in it is written %20.")
        return text
    prefix = match[0] if (match := _DATA_URI.match(text)) else ""
    payload = "".join(text[len(prefix) :].split())
    payload += "=" * (-len(payload) % 4)
    data = _decoded(payload)
    if data is None or kind(data) is None:
        raise InvalidArguments(
            f"{where} is not a picture the upstream can read: {shortened(text)}. Give an http(s) URL, "
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
        return bool(urlsplit(url).hostname) and url.isprintable() and " " not in url
    except ValueError:
        return False


def shortened(text: str) -> str:
    """A caller's text as an error quotes it: whole where it is short."""
    return repr(text if len(text) <= 60 else f"{text[:40]}... ({len(text):,} characters)")


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """What a server on the caller's own machine may do with its disk.

    `allowed` are the folders pictures are read from, anywhere where there is none; `output` is the folder every
    picture is saved to, if any.
    """

    allowed: tuple[Path, ...] = ()
    output: Path | None = None


def reference_kind(text: str) -> Literal["url", "data", "task", "path"]:
    """What an `image` entry is: a link, a picture as data, a task of this server, or else a path."""
    if _WEB.match(text):
        return "url"
    if re.fullmatch(r"task:\S+", text):
        return "task"
    head = "".join(text[:100].split())[:64]
    return "data" if text[:5].lower() == "data:" or kind(_decoded(head[: len(head) // 4 * 4]) or b"") else "path"


def local_path(text: str, local: LocalFiles) -> Path:
    """The real path of a picture file that may be read: absolute, relative, `~`, `file://`, Windows style.

    Raises:
        InvalidArguments: There is no such file, or it lies outside the allowed folders.
    """
    path = _path(text)
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        looked = "" if path.is_absolute() else f" (looked in {Path.cwd()}; give an absolute path, a link or base64)"
        raise InvalidArguments(f"The file {shortened(text)} can't be read: {reason}{looked}.") from error
    folders = [folder.resolve() for folder in local.allowed]
    if folders and not any(real.is_relative_to(folder) for folder in folders):
        named = ", ".join(map(str, folders))
        raise InvalidArguments(f"The file {shortened(text)} lies outside SEEDREAM_ALLOWED_DIRS ({named}).")
    return real


def save_target(text: str, local: LocalFiles) -> Path:
    """Where `save_to` points: spelled as for `local_path`; a relative one lies in the output folder, if there is one.

    Raises:
        InvalidArguments: It can't be a path on this machine.
    """
    try:
        path = _path(from_home(text))
    except ValueError as error:
        raise InvalidArguments(f"`save_to`: {shortened(text)}: {error}.") from error
    except InvalidArguments as error:
        raise InvalidArguments(f"`save_to`: {error.message}") from error
    if "\0" in str(path):  # a file: URI can spell it %00
        raise InvalidArguments(f"`save_to`: {shortened(text)} is not a path.")
    return (local.output or Path()) / path


def _path(text: str) -> Path:
    if why := of_another_system(text):
        raise InvalidArguments(f"{shortened(text)} is {why}.")
    path = Path(_from_uri(text) if text.lower().startswith("file:") else text)
    if text.startswith("sandbox:") or (str(path).startswith(_CHAT_FOLDERS) and not _is_folder(path.parent)):
        raise InvalidArguments(
            f"{shortened(text)} exists only in the chat's own sandbox, which this server does not share. Use a path "
            "on this machine; a picture can also be given as a link or as base64."
        )
    if re.match(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]+://", text, re.IGNORECASE):
        raise InvalidArguments(f"{shortened(text)} is neither a path nor an http(s) link.")
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise InvalidArguments(f"{shortened(text)}: there is no such home folder.") from error


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name longer than the file system takes
        return False


def _from_uri(text: str) -> str:
    """The path of a file: URI; not split as other URLs are, since a file's name may hold # and ?."""
    rest = text[len("file:") :]
    if rest.startswith("//"):
        host, slash, rest = rest[2:].partition("/")
        if host not in ("", "localhost"):
            raise InvalidArguments(f"{shortened(text)} names another machine.")
        rest = slash + rest
    return url2pathname(rest)


def open_picture(path: Path) -> tuple[BinaryIO, int]:
    """Open a regular file that is a picture by its first bytes; the open file, and its size in bytes.

    Raises:
        InvalidArguments: It is a folder, a pipe or a device, too large, or not a picture.
    """
    try:
        # The path is resolved already: not to be led elsewhere now, nor held up by a pipe that nobody writes to.
        descriptor = os.open(path, os.O_RDONLY | _OPEN_FLAGS)
    except OSError as error:
        raise InvalidArguments(f"The file {path} can't be read: {error.strerror}.") from error
    with ExitStack() as stack:
        stack.callback(os.close, descriptor)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidArguments(f"{path} is not a regular file.")
        if status.st_size > _MOST_INPUT:
            raise InvalidArguments(f"{path} is larger than {_MOST_INPUT // 2**20} MiB.")
        if kind(os.read(descriptor, 16)) is None:
            raise InvalidArguments(f"{path} is not a jpeg, png, webp, bmp, tiff or gif.")
        stack.pop_all()
    file = os.fdopen(descriptor, "rb")
    file.seek(0)
    return file, status.st_size


def data_uri(data: bytes) -> str:
    """A picture as a data URI, of the kind its bytes have."""
    return f"data:image/{kind(data) or 'jpeg'};base64,{base64.b64encode(data).decode()}"


def picture_data(reference: str) -> bytes:
    """The bytes of a picture that is given as a data URI or base64.

    Raises:
        ValueError: It is not base64.
    """
    return base64.b64decode(_DATA_URI.sub("", reference[:200]) + reference[200:])


def save_as(source: Path, target: Path, name: str, part: str = "") -> Path:
    """Move a finished file to where it is wanted, under a name that no file has yet; the absolute path.

    Args:
        source: The file; its bytes decide the ending. It is gone afterwards.
        target: A file's name, where it ends as pictures do and is no folder; else a folder, made if it is missing.
        name: A readable name for a file in a folder: any text.
        part: Which part of a set it is, for the end of its name.

    Raises:
        OSError: It can't be written there.
    """
    into_folder = target.is_dir() or target.suffix.lower() not in _PICTURE_ENDINGS
    folder = target if into_folder else target.parent
    folder.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as file:
        found = kind(file.read(16)) or "bin"
    stem = "-".join(filter(None, [readable(name) if into_folder else target.stem, readable(part) if part else ""]))
    # Copied beside its place first: a rename is whole or not at all, and the source may be on another disk.
    beside = folder / f".seedream-{uuid.uuid4().hex}"
    try:
        with source.open("rb") as file, beside.open("xb") as copy:
            shutil.copyfileobj(file, copy)
        path = _put(beside, folder, stem, _ENDINGS.get(found, f".{found}"))
    finally:
        beside.unlink(missing_ok=True)
    source.unlink()
    return path.resolve()


def readable(name: str) -> str:
    """A file name's stem from any text: letters, digits and hyphens, safe on every file system."""
    stem = "-".join(re.findall(r"\w+", unicodedata.normalize("NFKC", name).lower()))
    stem = stem.encode()[:80].decode(errors="ignore").strip("-_")
    return f"{stem}-picture" if stem.split("-")[0].upper() in _RESERVED else stem or "picture"


def _put(beside: Path, folder: Path, stem: str, ending: str) -> Path:
    for number in count(1):
        path = folder / f"{stem}{'' if number == 1 else f'-{number}'}{ending}"
        try:
            path.touch(exist_ok=False)  # takes the name; two servers may save into one folder
        except FileExistsError:
            continue
        try:
            return beside.replace(path)
        except OSError:
            path.unlink(missing_ok=True)
            raise
    raise AssertionError("unreachable")
